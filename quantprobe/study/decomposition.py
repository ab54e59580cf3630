"""What fidelity predicts (how much changes, or which way), and what predicts the other tasks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from quantprobe.arrays import BoolArray
from quantprobe.stats.correlation import Resampling
from quantprobe.study.correlations import CorrelationRow, adjust_p, correlation_table, direction_targets
from quantprobe.study.fidelity import ALL_TASKS, Variable
from quantprobe.study.panel import Panel
from quantprobe.study.zone import ZoneSpec, pool, zone_members


def decompose(panel: Panel, subsets: Mapping[str, BoolArray], how: Resampling) -> tuple[CorrelationRow, ...]:
    """Spearman of each fidelity measure with volume, net and direction index, pooled and by task."""
    return correlation_table(panel.fidelity, direction_targets(panel.scores), subsets, how, ("spearman",))


def cross_task(panel: Panel, spec: ZoneSpec, how: Resampling) -> tuple[CorrelationRow, ...]:
    """Which measure taken on one task, or on a text, predicts accuracy on the other tasks; Spearman.

    The target of a task's measures is accuracy pooled over all *other* tasks, of a text's measures over all tasks.
    The zone is drawn anew on the target's tasks alone: a zone drawn on all tasks would tie them together, because
    among quants whose total is near zero a gain on one task means a loss on another. p are adjusted over the
    table of each subset.
    """
    names = panel.scores.names
    rows: list[CorrelationRow] = []
    for source in dict.fromkeys(variable.source for variable in panel.direction):
        measures = [variable for variable in panel.direction if variable.source == source]
        others = np.array([i for i, name in enumerate(names) if name != source], np.int64)
        if not len(others):
            continue
        pooled = pool(panel.scores, others)
        target_source = ALL_TASKS if source not in names else f"all tasks but {source}"
        target = Variable("pooled", target_source, 1, False, pooled.acc)
        subsets = {"full": np.isfinite(pooled.acc), "zone": zone_members(pooled, spec)}
        rows += correlation_table(measures, [target], subsets, how, ("spearman",))
    adjusted: list[CorrelationRow] = []
    for subset in ("full", "zone"):
        adjusted += adjust_p([replace(row, p_adjusted=None) for row in rows if row.subset == subset])
    return tuple(adjusted)
