"""Tasks pooled item by item: the counts of `results.json`, and the answers themselves side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from quantprobe.arrays import BoolArray, FloatArray, Int64Array
from quantprobe.stats.design import ItemDesign, pool_designs
from quantprobe.stats.item_contrast import ItemNoise, item_noise
from quantprobe.study.panel import Panel, TaskAnswers, TaskScores


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


@dataclass(frozen=True, eq=False)
class Answers:
    """The answers to one or more tasks side by side, over the quants that answered all of them."""

    quants: Int64Array
    """Their numbers in the panel, `[n_rows]`."""
    signed: FloatArray
    """`[n_rows, n_items]`: -1 for a drop, +1 for a leapfrog, else 0; against the quant's own base."""
    design: ItemDesign
    tasks: Int64Array
    """`[n_items]`, number of each item's task among those that were joined."""

    def take(self, rows: Int64Array, items: BoolArray | None = None) -> Answers:
        """These rows, and these items alone."""
        if items is None:
            return Answers(self.quants[rows], self.signed[rows], self.design, self.tasks)
        design = ItemDesign(self.design.strata[items], self.design.clusters[items])
        return Answers(self.quants[rows], self.signed[np.ix_(rows, np.flatnonzero(items))], design, self.tasks[items])


def join_answers(tasks: Sequence[TaskAnswers]) -> Answers | None:
    """The tasks end to end; None where no quant answered all of them."""
    shared = set.intersection(*(set(task.quants.tolist()) for task in tasks)) if tasks else set()
    if not shared:
        return None
    quants = np.array(sorted(shared), np.int64)
    parts = []
    for task in tasks:
        rows = np.searchsorted(task.quants, quants)
        parts.append(task.correct[rows].astype(np.float64) - task.base_correct[rows])
    return Answers(
        quants=quants,
        signed=np.concatenate(parts, axis=1),
        design=pool_designs([task.design for task in tasks]),
        tasks=np.repeat(np.arange(len(tasks)), [task.correct.shape[1] for task in tasks]),
    )


def answers_of(panel: Panel, names: Sequence[str]) -> Answers | None:
    """The answers to the tasks of these names; None where one of them has no items, or no quant answered all."""
    by_name = {task.name: task for task in panel.tasks}
    if not names or not set(names) <= by_name.keys():
        return None
    return join_answers([by_name[name] for name in names])


def noise_over_quants(answers: Answers | None, values: FloatArray | None, n_quants: int) -> ItemNoise | None:
    """`item_noise` of `[n_rows, n_items]` values with a row for every quant of the panel, NaN for those without."""
    noise = None if answers is None or values is None else item_noise(values, answers.design)
    if noise is None or answers is None:
        return None
    residuals = np.full((n_quants, noise.residuals.shape[1]), np.nan)
    residuals[answers.quants] = noise.residuals
    return ItemNoise(residuals, noise.strata, noise.dof)
