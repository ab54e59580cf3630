"""The silent zone: quants whose accuracy is near the base's, and what a correlation inside it could show at all."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

from quantprobe.arrays import BoolArray, FloatArray, Int64Array
from quantprobe.errors import InputError
from quantprobe.stats.correlation import MIN_FOR_INTERVAL, Correlation, Resampling, correlate, correlation_values
from quantprobe.stats.paired import mcnemar_p
from quantprobe.stats.reliability import Reliability, attenuation_ceiling, change_range, split_half_reliability
from quantprobe.study.fidelity import Variable
from quantprobe.study.panel import Panel, TaskScores

KINDS = ("margin", "noise", "top", "band")
PREDICTS = "predicts"
INVERSE = "predicts the wrong way"
NOISE = "noise alone may hide it"
RANGE = "the narrower range alone may hide it"
WEAKER = "weaker than range and noise leave"
UNDECIDED = "cannot be decided"


@dataclass(frozen=True)
class ZoneSpec:
    """Which quants are the silent zone; all by accuracy pooled over the tasks.

    "margin": |net change| <= margin. "noise": exact McNemar p of the change > alpha (uncorrected, so that the zone
    holds only quants with no sign of a change). "top": the `top` most accurate quants, ties included.
    "band": low <= accuracy <= high.
    """

    kind: str = "margin"
    margin: float = 0.01
    alpha: float = 0.05
    top: int | None = None
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(f"a zone {self.kind!r} is not known; take one of {', '.join(KINDS)}")
        if not 0 < self.margin <= 1 or not 0 < self.alpha < 1:
            raise InputError(f"margin {self.margin} and alpha {self.alpha} must lie between 0 and 1 (0.01, 0.05)")
        if self.kind == "top" and (self.top is None or self.top < 1):
            raise InputError(f"the zone of the top quants needs how many; {self.top} was given")
        if self.kind == "band" and (self.low is None or self.high is None or self.low > self.high):
            raise InputError(f"a band needs low <= high as fractions; {self.low} and {self.high} were given")

    def describe(self) -> str:
        if self.kind == "margin":
            return f"net change within ±{100 * self.margin:g} points"
        if self.kind == "noise":
            return f"paired difference from the base not significant (exact McNemar p > {self.alpha:g})"
        if self.kind == "top":
            return f"the {self.top} most accurate quants"
        return f"accuracy from {self.low:g} to {self.high:g}"


@dataclass(frozen=True)
class Pooled:
    """Tasks pooled item by item, `[n_quants]` float64; NaN for a quant that lacks one of the tasks."""

    acc: FloatArray
    drops: FloatArray
    leapfrogs: FloatArray
    n_items: FloatArray

    @property
    def net(self) -> FloatArray:
        return (self.leapfrogs - self.drops) / self.n_items

    @property
    def volume(self) -> FloatArray:
        return (self.leapfrogs + self.drops) / self.n_items

    @property
    def direction_index(self) -> FloatArray:
        flips = self.leapfrogs + self.drops
        return np.divide(self.leapfrogs - self.drops, flips, out=np.full_like(flips, np.nan), where=flips > 0)


def pool(scores: TaskScores, tasks: Int64Array | None = None) -> Pooled:
    """Pool all tasks, or those of these numbers."""
    at = np.arange(len(scores.names)) if tasks is None else tasks
    if not len(at):
        nothing = np.full(scores.acc.shape[1], np.nan)
        return Pooled(nothing, nothing, nothing, nothing)
    n_items = scores.n_items[at]
    n = np.where((n_items > 0).all(0), n_items.sum(0), np.nan)
    return Pooled(
        acc=(scores.acc[at] * n_items).sum(0) / n,
        drops=scores.drops[at].sum(0),
        leapfrogs=scores.leapfrogs[at].sum(0),
        n_items=n,
    )


def zone_members(pooled: Pooled, spec: ZoneSpec) -> BoolArray:
    """Which quants are in the zone, `[n_quants]`; a quant whose accuracy is unknown is not."""
    known = np.isfinite(pooled.acc) & np.isfinite(pooled.net)
    if spec.kind == "margin":
        return known & (np.abs(np.nan_to_num(pooled.net)) <= spec.margin + 1e-12)
    if spec.kind == "noise":
        return known & (mcnemar_p(np.nan_to_num(pooled.drops), np.nan_to_num(pooled.leapfrogs)) > spec.alpha)
    acc = np.where(known, pooled.acc, -np.inf)
    if spec.kind == "top":
        cut = np.sort(acc)[::-1][min(spec.top or 1, len(acc)) - 1] if len(acc) else 0.0
        return known & (acc >= cut)
    low, high = spec.low or 0.0, 1.0 if spec.high is None else spec.high
    return known & (acc >= low) & (acc <= high)


@dataclass(frozen=True)
class Zone:
    """One definition of the zone, who is in it, and what correlation was seen and could have been seen there."""

    kind: str
    definition: str
    members: tuple[str, ...]
    outside: tuple[str, ...]
    full: Correlation
    """Spearman of the headline fidelity with pooled accuracy over all quants; `inside`, `lossy` over the parts."""
    inside: Correlation
    lossy: Correlation
    spread_ratio: float | None
    """Standard deviation of accuracy in the zone over that of all quants."""
    pearson: float | None
    """Pearson of the headline fidelity (ln) with accuracy in the zone, to hold against `expected`."""
    expected: float | None
    """Pearson that the law of all quants would leave at that spread (range restriction alone)."""
    expected_low: float | None
    expected_high: float | None
    """Where it would be seen with this many quants."""
    acc_reliability: Reliability
    kld_reliability: Reliability
    ceiling: float | None
    """Largest correlation that scores of these reliabilities can show."""
    conclusion: str


def study_zone(panel: Panel, headline: Variable, spec: ZoneSpec, how: Resampling) -> Zone:
    """Correlate inside one definition of the zone, and say whether a missing correlation means anything.

    The conclusion, in this order: `cannot be decided` with fewer than 5 quants or without spread; `predicts`
    (or the wrong way) where the permutation p of Spearman is at most 1 - level; `noise alone may hide it` where
    even a perfect law, seen through scores of this reliability, would show a Pearson so small with this many
    quants; `cannot be decided` where the reliability is unknown; `the narrower range alone may hide it` where
    the law of all quants with its scatter would, after range restriction; else `weaker than range and noise leave`.
    Range restriction takes the law as linear in ln KLD with equal scatter everywhere; where scatter is smaller near
    the base, it expects too little there, and the conclusion errs towards the narrower range.
    """
    pooled = pool(panel.scores)
    known = np.isfinite(pooled.acc) & np.isfinite(headline.values)
    members = zone_members(pooled, spec)
    inside, lossy = known & members, known & ~members
    x, y = headline.scaled()[0], pooled.acc
    full_r, inside_r, lossy_r = (correlate(x[m], y[m], "spearman", how) for m in (known, inside, lossy))
    ratio = float(y[inside].std() / y[known].std()) if inside.any() and y[known].std() > 0 else None
    pearson, expected, bounds = _expected(x, y, known, inside, ratio, how.level)
    acc_reliability = accuracy_reliability(panel, np.flatnonzero(inside), how)
    kld_reliability = fidelity_reliability(panel, np.flatnonzero(inside), how)
    ceiling = None
    if acc_reliability.value is not None:
        kld_value = kld_reliability.value
        ceiling = attenuation_ceiling(acc_reliability.value, 1.0 if kld_value is None else kld_value)
    return Zone(
        kind=spec.kind,
        definition=spec.describe(),
        members=tuple(panel.names[i] for i in np.flatnonzero(members)),
        outside=tuple(panel.names[i] for i in np.flatnonzero(np.isfinite(pooled.acc) & ~members)),
        full=full_r,
        inside=inside_r,
        lossy=lossy_r,
        spread_ratio=ratio,
        pearson=pearson,
        expected=expected,
        expected_low=bounds[0],
        expected_high=bounds[1],
        acc_reliability=acc_reliability,
        kld_reliability=kld_reliability,
        ceiling=ceiling,
        conclusion=_conclude(inside_r, pearson, bounds, ceiling, headline.better, how.level),
    )


def accuracy_reliability(panel: Panel, quants: Int64Array, how: Resampling) -> Reliability:
    """Split-half reliability of pooled accuracy over `quants`, from the items."""
    blocks = [(task.quants, task.correct.astype(np.float64), task.clusters) for task in panel.tasks]
    whole = len(blocks) == len(panel.scores.names)
    if not blocks or not whole:
        reason = "not every task has item files" if blocks else "there are no item files"
        return Reliability(None, None, None, how.level, len(quants), 0, reason)
    parts = []
    for owners, correct, clusters in blocks:
        quants = quants[np.isin(quants, owners)]
        parts.append((owners, *cluster_sums(correct, clusters)))
    sums = np.concatenate([s[np.searchsorted(owners, quants)] for owners, s, _ in parts], axis=1)
    return split_half_reliability(sums, np.concatenate([c for *_, c in parts]), 500, how.seed, how.level)


def fidelity_reliability(panel: Panel, quants: Int64Array, how: Resampling) -> Reliability:
    """Split-half reliability of mean KLD over `quants`, pooled over the texts, from their windows."""
    if not panel.texts:
        return Reliability(None, None, None, how.level, len(quants), 0, "there are no row files")
    for text in panel.texts:
        quants = quants[np.isin(quants, text.quants)]
    sums = np.concatenate([text.kld_sums[np.searchsorted(text.quants, quants)] for text in panel.texts], axis=1)
    counts = np.concatenate([text.counts for text in panel.texts])
    return split_half_reliability(sums, counts, 500, how.seed, how.level)


def cluster_sums(values: FloatArray, clusters: Int64Array) -> tuple[FloatArray, FloatArray]:
    """Sums of `[n_rows, n_items]` over clusters, `[n_rows, n_clusters]`, and the items in each."""
    codes = np.unique(clusters, return_inverse=True)[1]
    counts = np.bincount(codes).astype(np.float64)
    if len(counts) == len(codes):
        return values[:, np.argsort(codes)], counts
    return np.array([np.bincount(codes, weights=row) for row in values]), counts


def _expected(
    x: FloatArray, y: FloatArray, known: BoolArray, inside: BoolArray, ratio: float | None, level: float
) -> tuple[float | None, float | None, tuple[float | None, float | None]]:
    """Pearson seen in the zone, and what the full law leaves there with the interval of a sample of that size."""
    if ratio is None or inside.sum() < 3:
        return None, None, (None, None)
    full, seen = (float(correlation_values(x[None, m], y[None, m], "pearson")[0, 0]) for m in (known, inside))
    if not math.isfinite(full) or not math.isfinite(seen):
        return None, None, (None, None)
    expected = change_range(full, ratio)
    return seen, expected, _fisher_interval(expected, int(inside.sum()), level)


def _fisher_interval(r: float, n: int, level: float) -> tuple[float | None, float | None]:
    """Where the correlation of n pairs falls when the true one is r (Fisher's z)."""
    if n < MIN_FOR_INTERVAL:
        return None, None
    centre = math.atanh(min(max(r, -0.999999), 0.999999))
    half = float(stats.norm.ppf((1 + level) / 2)) / math.sqrt(n - 3)
    return math.tanh(centre - half), math.tanh(centre + half)


def _conclude(
    inside: Correlation,
    pearson: float | None,
    bounds: tuple[float | None, float | None],
    ceiling: float | None,
    better: int,
    level: float,
) -> str:
    if inside.value is None or inside.p is None or inside.n < MIN_FOR_INTERVAL:
        return UNDECIDED
    if inside.p <= 1 - level:
        return PREDICTS if inside.value * better > 0 else INVERSE
    noise_bounds = (None, None) if ceiling is None else _fisher_interval(better * ceiling, inside.n, level)
    if pearson is None or noise_bounds[0] is None:
        return UNDECIDED
    if _may_show(pearson, noise_bounds, better):
        return NOISE
    return RANGE if _may_show(pearson, bounds, better) else WEAKER


def _may_show(seen: float, bounds: tuple[float | None, float | None], better: int) -> bool:
    """Whether a law that shows within `bounds` may show as little as `seen`."""
    low, high = bounds
    return low is not None and high is not None and (seen >= low if better > 0 else seen <= high)
