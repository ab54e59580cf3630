"""Tables of correlations over subsets of the cohort, corrected for being many."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from quantprobe.arrays import BoolArray, FloatArray
from quantprobe.stats.correlation import METHODS, Correlation, Resampling, correlate_all
from quantprobe.study.fidelity import ALL_TASKS, Variable
from quantprobe.study.panel import TaskScores
from quantprobe.study.zone import pool

ADJUSTMENT = "Benjamini-Hochberg within each method and subset"


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


def correlation_table(
    measures: Sequence[Variable],
    targets: Sequence[Variable],
    subsets: Mapping[str, BoolArray],
    how: Resampling,
    methods: Sequence[str] = METHODS,
) -> tuple[CorrelationRow, ...]:
    """Every measure against every target over every subset; p adjusted as `ADJUSTMENT` says."""
    rows: list[CorrelationRow] = []
    if not measures or not targets:
        return ()
    scaled = [measure.scaled() for measure in measures]
    for subset, mask in subsets.items():
        for method in methods:
            x = np.array([m.values if method != "pearson" else s[0] for m, s in zip(measures, scaled, strict=True)])
            cells = correlate_all(x[:, mask], np.array([t.values for t in targets])[:, mask], method, how)
            rows += adjust_p(
                [
                    CorrelationRow(m.name, m.source, t.name, t.source, subset, s[1], cells[i][j], None)
                    for i, (m, s) in enumerate(zip(measures, scaled, strict=True))
                    for j, t in enumerate(targets)
                ]
            )
    return tuple(rows)


def adjust_p(rows: Sequence[CorrelationRow]) -> list[CorrelationRow]:
    """The rows with their p adjusted together (Benjamini-Hochberg)."""
    at = [i for i, row in enumerate(rows) if row.correlation.p is not None]
    adjusted = (
        dict(zip(at, stats.false_discovery_control([rows[i].correlation.p for i in at]), strict=True)) if at else {}
    )
    return [replace(row, p_adjusted=float(adjusted[i]) if i in adjusted else None) for i, row in enumerate(rows)]


def accuracy_variables(scores: TaskScores) -> tuple[Variable, ...]:
    """acc and acc_norm of each task; `pooled` over all items; `normalised`, mean (acc - chance) / (1 - chance)."""
    found = [Variable("pooled", ALL_TASKS, 1, False, pool(scores).acc)] if scores.names else []
    if scores.names and np.isfinite(scores.chance).all():
        chance = scores.chance[:, None]
        found.append(Variable("normalised", ALL_TASKS, 1, False, ((scores.acc - chance) / (1 - chance)).mean(0)))
    for name, table in (("acc", scores.acc), ("acc_norm", scores.acc_norm)):
        found += [Variable(name, task, 1, False, values) for task, values in zip(scores.names, table, strict=True)]
    return tuple(v for v in found if np.isfinite(v.values).any())


def direction_targets(scores: TaskScores) -> tuple[Variable, ...]:
    """volume, net and direction_index, pooled and of each task."""
    found: list[Variable] = []
    parts = [(ALL_TASKS, None), *((task, np.array([i])) for i, task in enumerate(scores.names))]
    for source, at in parts:
        pooled = pool(scores, at)
        columns: dict[str, FloatArray] = {
            "volume": pooled.volume, "net": pooled.net, "direction_index": pooled.direction_index,
        }  # fmt: skip
        found += [Variable(name, source, 1, False, values) for name, values in columns.items()]
    return tuple(v for v in found if np.isfinite(v.values).any())
