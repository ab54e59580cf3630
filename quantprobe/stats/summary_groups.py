"""One quant against its base within each group (subject) of a task."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from quantprobe.metrics.answers import Answers
from quantprobe.metrics.direction import Direction, measure_groups
from quantprobe.stats.clusters import mean_of_known
from quantprobe.stats.estimates import Estimate
from quantprobe.stats.paired import net_interval


@dataclass(frozen=True, kw_only=True)
class GroupSummary:
    """One group (subject) of a task; its intervals are not corrected for choosing among groups."""

    acc: float | None = None
    acc_base: float | None = None
    drops: int | None = None
    leapfrogs: int | None = None
    wrong_to_other_wrong: int | None = None
    direction_index: float | None = None
    net: Estimate | None = None
    margin_shift: Estimate | None = None
    gold_prob_shift: Estimate | None = None
    n_items: int | None = None
    n_invalid: int | None = None


def summarise_groups(base: Answers, quant: Answers, level: float = 0.95) -> dict[str, GroupSummary]:
    """One summary by name of each group, in order of first appearance; within a group items count as independent."""
    directions = measure_groups(base, quant)
    if not directions:
        return {}
    counts = np.array([(d.drops, d.leapfrogs, max(d.n, 1)) for d in directions], dtype=np.float64)
    low, high = net_interval(counts[:, 0], counts[:, 1], counts[:, 2], level)
    groups = np.array(base.groups, dtype=object)
    valid = base.valid & quant.valid
    summaries: dict[str, GroupSummary] = {}
    for i, direction in enumerate(directions):
        inside = valid & (groups == direction.group)
        items = np.arange(int(inside.sum()))
        margins, golds = (quant.margin - base.margin)[inside], (quant.gold_prob - base.gold_prob)[inside]
        bounds = (float(low[i]), float(high[i])) if direction.n else (None, None)
        summaries[direction.group] = GroupSummary(
            acc=direction.acc,
            acc_base=direction.acc_base,
            drops=direction.drops,
            leapfrogs=direction.leapfrogs,
            wrong_to_other_wrong=direction.wrong_to_other_wrong,
            direction_index=direction.index,
            net=_net_of_group(direction, bounds, level),
            margin_shift=mean_of_known(margins, items, "nats", level),
            gold_prob_shift=mean_of_known(golds, items, "probability", level),
            n_items=direction.n,
            n_invalid=direction.n_invalid,
        )
    return summaries


def _net_of_group(direction: Direction, bounds: tuple[float | None, float | None], level: float) -> Estimate:
    stderr = None
    if direction.n > 1 and direction.net is not None:
        changes = direction.drops + direction.leapfrogs
        stderr = (max(0.0, changes / direction.n - direction.net**2) / (direction.n - 1)) ** 0.5
    return Estimate(direction.net, stderr, *bounds, level, direction.n, direction.n, "fraction")
