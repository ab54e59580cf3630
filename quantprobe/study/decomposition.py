"""What fidelity predicts (how much changes, or which way), and what predicts the other tasks."""

from __future__ import annotations

from collections.abc import Sequence

from quantprobe.stats.correlation import Resampling
from quantprobe.study.correlations import CorrelationRow, Part, correlation_table
from quantprobe.study.panel import Panel
from quantprobe.study.targets import direction_targets, rest_target


def decompose(panel: Panel, parts: Sequence[Part], how: Resampling) -> tuple[CorrelationRow, ...]:
    """Spearman of each fidelity measure with volume, net and direction index, pooled and by task."""
    targets = direction_targets(panel)
    return correlation_table(panel.fidelity, targets, parts, panel.family_codes, how, ("spearman",))


def cross_task(panel: Panel, parts: Sequence[Part], how: Resampling) -> tuple[CorrelationRow, ...]:
    """Which measure taken on one task, or on a text, predicts accuracy on the other tasks; Spearman.

    The target of a task's measures is accuracy pooled over all *other* tasks, of a text's measures over all tasks: a
    measure and its target have no item in common, so that the error of the one cannot pass for the other's.
    """
    rows: list[CorrelationRow] = []
    for source in dict.fromkeys(variable.source for variable in panel.direction):
        target = rest_target(panel, source)
        if target is not None:
            measures = [variable for variable in panel.direction if variable.source == source]
            rows += correlation_table(measures, [target], parts, panel.family_codes, how, ("spearman",))
    return tuple(rows)
