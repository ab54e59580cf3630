"""Item by item: does an item's KLD tell that it fails, and which of two quants to believe."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from quantprobe.arrays import BoolArray, FloatArray
from quantprobe.stats.auroc import auroc, auroc_influence
from quantprobe.stats.design import ItemDesign, pool_designs
from quantprobe.stats.estimates import Estimate
from quantprobe.stats.item_contrast import item_noise
from quantprobe.study.fidelity import ALL_TASKS
from quantprobe.study.panel import Panel, TaskAnswers

OUTCOMES = {
    "fails": "the quant is wrong, against right",
    "drops": "base right and quant wrong, against both right",
    "leapfrogs": "base wrong and quant right, against both wrong",
}


@dataclass(frozen=True)
class ItemLevel:
    """How an item's KLD goes with one outcome, over items of `task` and quants of `subset`."""

    task: str
    subset: str
    outcome: str
    n_with: int
    """Answers (item and quant) with the outcome; `n_without` without."""
    n_without: int
    ratio: Estimate
    """Geometric mean of the item KLD with the outcome, over that without."""
    auroc: Estimate
    """Probability that an answer with the outcome has the higher KLD."""


@dataclass(frozen=True)
class Router:
    """Where two quants disagree about an item, how often the one with the lower KLD on it is right."""

    task: str
    subset: str
    n_pairs: int
    n_disagreements: int
    by_item: Estimate
    """The quant with the lower KLD on this item; a tie counts half."""
    by_quant: Estimate
    """For comparison: the quant with the lower mean KLD over the task."""


@dataclass(frozen=True)
class _Stratum:
    """One quant on one task: numbers and influences, `[n_items]`, 0 for items that are not in the comparison."""

    quant: int
    n_with: int
    n_without: int
    area: float
    area_influence: FloatArray
    log_ratio: float | None
    ratio_influence: FloatArray


def item_level(panel: Panel, zone: BoolArray, level: float) -> tuple[ItemLevel, ...]:
    """Each outcome, by task and over all tasks, for all quants, the zone's, and each quant alone (all tasks).

    Quants and tasks are strata: answers are compared within one quant on one task only, so that neither a lossy quant
    nor a hard task can pass for an item's KLD. Strata are weighted by their pairs (AUROC) and by n1 n0 / (n1 + n0)
    (ratio). Errors are those of the items' design, over all quants together. Items of unknown KLD are left out; those
    of KLD 0 or less from the ratio.
    """
    rows: list[ItemLevel] = []
    with_kld = [task for task in panel.tasks if np.isfinite(task.kld).any()]
    if not with_kld:
        return ()
    parts = [(task.name, [task]) for task in with_kld] + ([(ALL_TASKS, with_kld)] if len(with_kld) > 1 else [])
    alone = {quant: np.arange(len(zone)) == i for i, quant in enumerate(panel.names)}
    for outcome in OUTCOMES:
        strata = {task.name: _strata(task, outcome) for task in with_kld}
        for name, tasks in parts:
            # single quants over all tasks only: by task they have too few answers, and too many rows
            alone_here = alone if tasks is parts[-1][1] else {}
            for subset, mask in {"full": np.ones_like(zone), "zone": zone, **alone_here}.items():
                chosen = [(task.name, s) for task in tasks for s in strata[task.name] if mask[s.quant]]
                if chosen:
                    rows.append(_combine(name, subset, outcome, tasks, chosen, level))
    return tuple(rows)


def _strata(task: TaskAnswers, outcome: str) -> list[_Stratum]:
    found: list[_Stratum] = []
    for row, quant in enumerate(task.quants):
        base, right, kld = task.base_correct[row], task.correct[row], task.kld[row]
        inside = np.isfinite(kld) & {"fails": np.ones_like(base), "drops": base, "leapfrogs": ~base}[outcome]
        happened = right if outcome == "leapfrogs" else ~right
        stratum = _stratum(int(quant), kld, happened, inside)
        if stratum is not None:
            found.append(stratum)
    return found


def _stratum(quant: int, kld: FloatArray, happened: BoolArray, inside: BoolArray) -> _Stratum | None:
    flags, scores = happened[inside], kld[inside]
    area = auroc(scores, flags)
    if area is None:
        return None
    area_influence, ratio_influence = np.zeros(len(kld)), np.zeros(len(kld))
    area_influence[inside] = auroc_influence(scores, flags)
    positive = inside & (kld > 0)
    sides = [np.log(kld[positive & side]) for side in (happened, ~happened)]
    log_ratio = None
    if len(sides[0]) and len(sides[1]):
        log_ratio = float(sides[0].mean() - sides[1].mean())
        for side, logs, sign in zip((happened, ~happened), sides, (1, -1), strict=True):
            ratio_influence[positive & side] = sign * (logs - logs.mean()) / len(logs)
    n_with = int(flags.sum())
    return _Stratum(quant, n_with, len(flags) - n_with, area, area_influence, log_ratio, ratio_influence)


def _combine(
    name: str,
    subset: str,
    outcome: str,
    tasks: Sequence[TaskAnswers],
    chosen: Sequence[tuple[str, _Stratum]],
    level: float,
) -> ItemLevel:
    """Weighted means over the chosen strata (each with its task), with one error over all of them."""
    design = pool_designs([task.design for task in tasks])
    strata = [stratum for _, stratum in chosen]
    pairs = np.array([s.n_with * s.n_without for s in strata], np.float64)
    sizes = np.array([s.n_with * s.n_without / (s.n_with + s.n_without) * (s.log_ratio is not None) for s in strata])
    estimates: list[Estimate] = []
    for unit, weights, values, influences in (
        ("ratio", sizes, [s.log_ratio or 0.0 for s in strata], [s.ratio_influence for s in strata]),
        ("probability", pairs, [s.area for s in strata], [s.area_influence for s in strata]),
    ):
        if not weights.sum():
            estimates.append(Estimate(None, None, None, None, level, design.n_items, design.n_clusters, unit))
            continue
        shares = weights / weights.sum()
        total = {task.name: np.zeros(task.correct.shape[1]) for task in tasks}
        for (task_name, _), share, influence in zip(chosen, shares, influences, strict=True):
            total[task_name] += share * influence
        influence = np.concatenate([total[task.name] for task in tasks])
        estimates.append(_estimate(float(shares @ values), influence, design, level, unit))
    return ItemLevel(
        task=name,
        subset=subset,
        outcome=outcome,
        n_with=sum(s.n_with for s in strata),
        n_without=sum(s.n_without for s in strata),
        ratio=estimates[0],
        auroc=estimates[1],
    )


def _estimate(value: float, influence: FloatArray, design: ItemDesign, level: float, unit: str) -> Estimate:
    """A ratio from its ln with an interval on that scale, or a probability with one on the logit scale.

    The error is that of the sum of the items' influences, within strata and between clusters.
    """
    n, n_clusters = design.n_items, design.n_clusters
    shown, slope = (math.exp(value), math.exp(value)) if unit == "ratio" else (value, 1.0)
    error, dof = _error_of_sum(influence, design)
    if not error or (unit == "probability" and not 0 < value < 1):
        return Estimate(shown, None, None, None, level, n, n_clusters, unit)
    half = float(special.stdtrit(dof, (1 + level) / 2)) * error
    if unit == "ratio":
        low, high = math.exp(value - half), math.exp(value + half)
    else:
        centre, half = math.log(value / (1 - value)), half / (value * (1 - value))
        low, high = 1 / (1 + math.exp(half - centre)), 1 / (1 + math.exp(-half - centre))
    return Estimate(shown, slope * error, low, high, level, n, n_clusters, unit)


def _error_of_sum(values: FloatArray, design: ItemDesign) -> tuple[float, float]:
    """Standard error of the sum of `[n_items]` values and its degrees of freedom; 0 where it is unknown."""
    noise = item_noise(values[None] * len(values), design)
    if noise is None:
        return 0.0, 1.0
    variance, dof = noise.contrast(np.ones((1, 1)))
    return math.sqrt(float(variance[0])), float(dof[0])


def route(panel: Panel, zone: BoolArray, level: float) -> tuple[Router, ...]:
    """The router experiment, by task and over all, among all quants and among the zone's."""
    rows: list[Router] = []
    with_kld = [task for task in panel.tasks if np.isfinite(task.kld).any()]
    for subset, mask in (("full", np.ones_like(zone)), ("zone", zone)):
        tallies = [(task, *_tally(task, mask)) for task in with_kld]
        parts = [[tally] for tally in tallies] + ([tallies] if len(tallies) > 1 else [])
        for part in parts:
            design = pool_designs([task.design for task, *_ in part])
            total, by_item, by_quant = (np.concatenate([tally[i] for tally in part]) for i in (1, 2, 3))
            if not total.sum():
                continue
            rows.append(
                Router(
                    task=part[0][0].name if len(part) == 1 else ALL_TASKS,
                    subset=subset,
                    n_pairs=max(int(tally[4]) for tally in part),
                    n_disagreements=int(total.sum()),
                    by_item=_share(by_item, total, design, level),
                    by_quant=_share(by_quant, total, design, level),
                )
            )
    return tuple(rows)


def _tally(task: TaskAnswers, mask: BoolArray) -> tuple[FloatArray, FloatArray, FloatArray, int]:
    """Per item, over all pairs of quants: disagreements, and how many of them each rule gets right; number of pairs."""
    rows = np.flatnonzero(mask[task.quants])
    correct, kld = task.correct[rows], task.kld[rows]
    finite = np.isfinite(kld)
    means = np.divide(
        np.where(finite, kld, 0).sum(1), finite.sum(1), out=np.full(len(rows), np.nan), where=finite.any(1)
    )
    total, by_item, by_quant = (np.zeros(correct.shape[1]) for _ in range(3))
    for i in range(len(rows) - 1):
        other = slice(i + 1, None)
        apart = (correct[i] != correct[other]) & finite[i] & finite[other]
        total += apart.sum(0)
        for wins, mine, theirs in ((by_item, kld[i], kld[other]), (by_quant, means[i], means[other][:, None])):
            first_lower = np.where(mine == theirs, 0.5, (mine < theirs).astype(np.float64))
            wins += (apart * np.where(correct[i], first_lower, 1 - first_lower)).sum(0)
    return total, by_item, by_quant, len(rows) * (len(rows) - 1) // 2


def _share(part: FloatArray, whole: FloatArray, design: ItemDesign, level: float) -> Estimate:
    """sum(part) / sum(whole) with the error of the items' design (ratio estimator), over items that count at all."""
    share = float(part.sum() / whole.sum())
    used = whole > 0
    cut = ItemDesign(design.strata[used], design.clusters[used])
    n, n_clusters = int(whole.sum()), len(np.unique(cut.clusters))
    error, dof = _error_of_sum((part - share * whole)[used] / n, cut)
    if n_clusters < 3 or not error:
        return Estimate(share, None, None, None, level, n, n_clusters, "fraction")
    half = float(special.stdtrit(dof, (1 + level) / 2)) * error
    return Estimate(share, error, max(0.0, share - half), min(1.0, share + half), level, n, n_clusters, "fraction")
