"""Tables of correlations over parts of the cohort, corrected for being many."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from quantprobe.arrays import BoolArray, Int64Array
from quantprobe.stats.correlation import METHODS, Correlation, Resampling, Target, correlate_all
from quantprobe.study.fidelity import Variable
from quantprobe.study.targets import NamedTarget

ADJUSTMENT = "Benjamini-Hochberg within each part of the cohort, times the number of parts"
IDEAS: Mapping[str, str] = {
    "kld_mean": "KLD", "kld_p99": "KLD tail (99 %)", "same_top": "top-1 agreement", "ln_ppl_ratio": "PPL",
}  # fmt: skip
"""One measure for each idea, which tables show; the others say the same again and are in the JSON alone."""
TOO_FEW_ROWS = frozenset(["kld_p999", "kld_max"])
"""Measures that rest on a row or two have no p: the ln of the 99.9 % point of 2,040 rows has a standard deviation of
0.37. (An error of a measure that has nothing to do with the items hides a law; it makes none.)"""

CHOSEN = "these quants were chosen by accuracy"
PREDICTS = "predicts"
WRONG_WAY = "points the wrong way"


@dataclass(frozen=True)
class Part:
    """A part of the cohort; `tested` is False where it was chosen by accuracy, so that no p would hold."""

    name: str
    members: BoolArray
    tested: bool = True


@dataclass(frozen=True)
class CorrelationRow:
    """One cell: `measure` on `source` against `target` on `target_source`, over the quants of `subset`."""

    measure: str
    source: str
    target: str
    target_source: str
    subset: str
    scale: str
    """Scale of the measure for Pearson: `ln` or `linear`; ranks do not care."""
    correlation: Correlation
    p_adjusted: float | None
    """Spearman's, as `ADJUSTMENT` says; Pearson's is the same question on another scale and has none."""
    idea: str
    """What a table calls the row; empty for a measure that only says again what another row says."""
    reading: str
    """`predicts`, `points the wrong way`, or empty where nothing is shown."""
    is_law: bool
    """Whether the target says which way quants moved; else only how much changed."""
    better: int
    """+1 where a higher measure should go with a higher target, -1 where with a lower one, 0 where unknown."""


def correlation_table(
    measures: Sequence[Variable],
    targets: Sequence[NamedTarget],
    parts: Sequence[Part],
    families: Int64Array,
    how: Resampling,
    methods: Sequence[str] = METHODS,
) -> tuple[CorrelationRow, ...]:
    """Every measure against every target over every part, not yet adjusted (`adjust_p`)."""
    if not measures or not targets:
        return ()
    rows: list[CorrelationRow] = []
    scaled = [measure.scaled() for measure in measures]
    for part in parts:
        at = np.flatnonzero(part.members)
        cut = [_take(target.target, at, part.tested) for target in targets]
        for method in methods:
            x = np.array([m.values if method != "pearson" else s[0] for m, s in zip(measures, scaled, strict=True)])
            cells = correlate_all(x[:, at], cut, method, families[at], how)
            rows += [
                CorrelationRow(
                    measure=measure.name,
                    source=measure.source,
                    target=target.name,
                    target_source=target.source,
                    subset=part.name,
                    scale=scale[1],
                    correlation=_tested(cells[i][j], measure.name, part.tested),
                    p_adjusted=None,
                    idea=IDEAS.get(measure.name, ""),
                    reading="",
                    is_law=target.is_law,
                    better=measure.better if target.is_law else -measure.better,
                )
                for i, (measure, scale) in enumerate(zip(measures, scaled, strict=True))
                for j, target in enumerate(targets)
            ]
    return tuple(rows)


def adjust_p(rows: Sequence[CorrelationRow], level: float) -> tuple[CorrelationRow, ...]:
    """The rows of all tables with p adjusted and read.

    Two families: cells whose target says which way (accuracy, net, direction index), and cells of volume, which grows
    with KLD in every cohort and would lend its certainty to the others. In each, Benjamini-Hochberg over the
    Spearman cells of one part of the cohort, times the number of parts: a cohort without any law shows a
    star anywhere with a probability of 1 - level at most, and stars over all quants give none inside the zone.
    """
    adjusted = list(rows)
    for is_law in (True, False):
        by_part: dict[str, list[int]] = {}
        for i, row in enumerate(rows):
            if row.is_law == is_law and row.correlation.method == "spearman" and row.correlation.p is not None:
                by_part.setdefault(row.subset, []).append(i)
        for at in by_part.values():
            from scipy import stats  # takes a third of a second, which tables without a study need not wait for

            p = stats.false_discovery_control([rows[i].correlation.p for i in at])
            for i, value in zip(at, p, strict=True):
                adjusted[i] = _read(rows[i], min(1.0, float(value) * len(by_part)), 1 - level)
    return tuple(adjusted)


def _read(row: CorrelationRow, p: float, alpha: float) -> CorrelationRow:
    reading = ""
    if p <= alpha and row.correlation.value:
        right = row.better == 0 or row.correlation.value * row.better > 0
        reading = PREDICTS if right else WRONG_WAY
    return replace(row, p_adjusted=p, reading=reading)


def _take(target: Target, at: Int64Array, tested: bool) -> Target:
    return Target(target.values[at], target.noise.take(at) if tested and target.noise is not None else None)


def _tested(cell: Correlation, measure: str, tested: bool) -> Correlation:
    """The cell, without p and interval where none would hold."""
    if cell.value is None or (tested and measure not in TOO_FEW_ROWS):
        return cell
    reason = "it rests on a row or two" if tested else CHOSEN
    return replace(cell, low=None, high=None, p=None, reason=reason)
