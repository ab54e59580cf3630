"""Does accuracy fall as KLD grows: the slope over all quants, inside the zone and beyond, and what may be said of it.

The family of claims is two: a slope over all quants, and one inside the zone. Holm's correction over both keeps the
probability of any false one at 1 - level. That a slope is smaller than the smallest that matters is
another kind of claim, two one-sided tests at 1 - level, not corrected. The quants beyond the zone are described only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from quantprobe.arrays import BoolArray, FloatArray
from quantprobe.stats.correlation import Resampling
from quantprobe.stats.slope import Fold, Slope, SlopeFit, fit_slope, no_slope
from quantprobe.study.panel import Panel
from quantprobe.study.pooled import Answers
from quantprobe.study.zone import MARGIN, ZoneSpec, fold_of, zone_folds

FULL, ZONE, LOSSY = "full", "zone", "lossy"
FOUND = "law found"
WRONG_WAY = "points the wrong way"
EXCLUDED = "no law of that size"
UNDECIDED = "cannot be decided"
UNTESTED = "not tested"
CONCLUSIONS = (FOUND, WRONG_WAY, EXCLUDED, UNDECIDED, UNTESTED)

MIN_CHANGED = 10
"""With fewer items that any quant changed, the error of a slope rests on next to nothing."""
SMALLEST_SLOPE = 0.5
"""Points of accuracy per e-fold of KLD: about 2 points from 0.001 to 0.05 nats."""


@dataclass(frozen=True)
class FamilySlope:
    """The slope of one family alone, for comparison; not tested."""

    name: str
    n: int
    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Law:
    """One part of the cohort: `full`, `zone` or `lossy`."""

    part: str
    slope: Slope
    """Points of accuracy per e-fold of KLD, families with levels of their own; below 0 accuracy falls as KLD grows.

    Its level is the one at which this part is tested, so that its interval and its conclusion agree.
    """
    p_adjusted: float | None
    """Holm's, over the parts that are tested."""
    smallest_slope: float
    conclusion: str
    because: str
    """What keeps it from being decided, or why there is no slope; empty where it is decided."""
    e_folds: float | None
    """ln of the largest KLD over the smallest."""
    n_changed: int
    """Items that any of its quants answered differently from the base."""
    families: tuple[FamilySlope, ...]

    @property
    def is_law(self) -> bool:
        return self.conclusion in (FOUND, WRONG_WAY)


def study_laws(
    panel: Panel,
    kld: FloatArray,
    answers: Answers | None,
    members: BoolArray,
    spec: ZoneSpec,
    how: Resampling,
    smallest_slope: float = SMALLEST_SLOPE,
) -> Mapping[str, Law]:
    """The law of each part, by its name.

    `kld` is the headline, `[n_quants]` nats; quants of unknown KLD, of a KLD of 0 (which has no logarithm) and without
    answers are left out. `members` of the zone as from `zone_members`. A zone by margin leaves the rest untested:
    it was chosen by accuracy on the same items. Where the zone holds every quant there is one question only.
    """
    if answers is None:
        nothing = no_slope("there are no item files of every task", 0, how.level, 2 * how.level - 1)
        return {part: _empty(part, nothing, smallest_slope) for part in (FULL, ZONE, LOSSY)}
    usable = np.isfinite(kld) & (kld > 0)
    rest = usable & ~members
    folds = {
        FULL: [fold_of(answers, usable[answers.quants])],
        ZONE: zone_folds(spec, members, answers, usable, how.seed),
        LOSSY: [fold_of(answers, rest[answers.quants])],
    }
    fits = {part: _fit(panel, kld, usable, parts, how) for part, parts in folds.items()}
    is_whole = spec.kind != MARGIN and len(folds[ZONE][0].quants) == len(folds[FULL][0].quants)
    tested = {part: fits[part] for part in ((FULL,) if is_whole else (FULL, ZONE))}
    # too few quants for any p to be small enough: no test, and nothing to correct the other for
    p = {part: fit.p for part, fit in tested.items() if isinstance(fit, SlopeFit) and fit.smallest_p <= 1 - how.level}
    levels = _levels(p, how.level)
    laws = {}
    for part, fit in fits.items():
        at = FULL if is_whole and part == ZONE else part
        level = levels.get(at, how.level)
        laws[part] = _law(panel, part, fit, folds[part], kld, answers, (level, how.level), smallest_slope, _holm(p, at))
    if spec.kind == MARGIN:
        nothing = no_slope("the zone was chosen by accuracy", len(folds[LOSSY][0].quants), how.level, how.level)
        laws[LOSSY] = _empty(LOSSY, nothing, smallest_slope)
    return laws


def _fit(panel: Panel, kld: FloatArray, usable: BoolArray, folds: Sequence[Fold], how: Resampling) -> SlopeFit | str:
    if not all(np.isfinite(fold.noise.residuals).all() for fold in folds):
        return "all items are one cluster, so their error is unknown"
    positive = np.where(usable, kld, 1.0)
    return fit_slope(np.log(positive), folds, panel.family_codes, np.sqrt(positive), how.n_perm, how.seed)


def _levels(p: Mapping[str, float], level: float) -> dict[str, float]:
    """The level of each question under Holm: the full alpha for one whose only other was found, else its share."""
    alpha = 1 - level
    if len(p) < 2:
        return dict.fromkeys(p, level)
    return {part: level if min(other for name, other in p.items() if name != part) <= alpha / 2 else 1 - alpha / 2
            for part in p}  # fmt: skip


def _holm(p: Mapping[str, float], part: str) -> float | None:
    if part not in p:
        return None
    smallest = min(1.0, len(p) * min(p.values()))
    return smallest if p[part] == min(p.values()) else max(smallest, p[part])


def _law(
    panel: Panel,
    part: str,
    fit: SlopeFit | str,
    folds: Sequence[Fold],
    kld: FloatArray,
    answers: Answers,
    levels: tuple[float, float],
    smallest_slope: float,
    p_adjusted: float | None,
) -> Law:
    level, usual = levels
    quants = np.unique(np.concatenate([fold.quants for fold in folds]))
    if isinstance(fit, str):
        return _empty(part, no_slope(fit, len(quants), usual, 2 * usual - 1), smallest_slope)
    slope = fit.at(level, 2 * usual - 1)
    rows = np.searchsorted(answers.quants, quants)
    n_changed = int((answers.signed[rows] != 0).any(0).sum())
    e_folds = float(np.log(kld[quants].max() / kld[quants].min()))
    conclusion, because = conclude(slope, n_changed, e_folds, smallest_slope)
    return Law(
        part=part,
        slope=slope,
        p_adjusted=p_adjusted,
        smallest_slope=smallest_slope,
        conclusion=UNTESTED if part == LOSSY else conclusion,
        because="" if part == LOSSY else because,
        e_folds=e_folds,
        n_changed=n_changed,
        families=_by_family(panel, kld, folds, usual) if len(folds) == 1 else (),
    )


def conclude(slope: Slope, n_changed: int, e_folds: float, smallest_slope: float) -> tuple[str, str]:
    """What a slope (points per e-fold) supports, and what keeps it from being decided.

    In this order: `cannot be decided` without a slope, where so few quants can have no p small enough, and with fewer
    than 10 changed items; `law found` or `points the wrong way` where p <= 1 - level; `no law of that size` where the
    interval of the equivalence test lies inside +-smallest_slope; else `cannot be decided`.
    """
    if slope.value is None or slope.p is None:
        return UNDECIDED, slope.reason
    alpha = 1 - slope.level
    if slope.smallest_p > alpha:
        return UNDECIDED, f"{slope.n} quants are too few: their smallest possible p is {slope.smallest_p:.2g}"
    if n_changed < MIN_CHANGED:
        return UNDECIDED, f"only {n_changed} items were answered differently"
    if slope.p <= alpha + 1e-12:
        return (FOUND if slope.value < 0 else WRONG_WAY), ""
    low, high = slope.narrow_low, slope.narrow_high
    if low is not None and high is not None and -smallest_slope < low and high < smallest_slope:
        return EXCLUDED, ""
    if e_folds < 1:
        return UNDECIDED, f"the quants span only {e_folds:.1f} e-folds of KLD"
    more = "more items" if slope.item_share is not None and slope.item_share >= 0.5 else "more quants"
    return UNDECIDED, f"the error is too large; {more} would help most"


def _by_family(panel: Panel, kld: FloatArray, folds: Sequence[Fold], level: float) -> tuple[FamilySlope, ...]:
    """Slopes of the families of three quants and more; none where there is only one family."""
    fold, codes = folds[0], panel.family_codes
    found = []
    for code in np.unique(codes[fold.quants]):
        rows = np.flatnonzero(codes[fold.quants] == code)
        if len(rows) < 3 or len(rows) == len(fold.quants):
            continue
        quants = fold.quants[rows]
        part = Fold(np.arange(len(rows)), fold.change[rows], fold.noise.take(rows))
        fit = fit_slope(np.log(kld[quants]), [part], np.zeros(len(rows), np.int64), np.sqrt(kld[quants]))
        if isinstance(fit, SlopeFit):
            slope = fit.at(level)
            found.append(FamilySlope(panel.families[quants[0]], len(rows), fit.value, slope.low, slope.high))
    return tuple(found)


def _empty(part: str, slope: Slope, smallest_slope: float) -> Law:
    conclusion = UNTESTED if part == LOSSY else UNDECIDED
    return Law(part, slope, None, smallest_slope, conclusion, slope.reason, None, 0, ())
