"""The table of a task: which way the answers moved, quant by quant."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from quantprobe.gguf.model import ModelIdentity
from quantprobe.metrics.quantities import task_quantity
from quantprobe.names import safe_name
from quantprobe.report.marks import MARKS, mark_of
from quantprobe.report.names import WHOLE, ShortNames
from quantprobe.report.numbers import MISSING, format_net
from quantprobe.report.tables.cells import (
    Cell,
    Column,
    Field,
    Table,
    count_cell,
    estimate_cell,
    interval_cell,
    make_table,
    plain_cell,
    quantity_column,
    share_cell,
    signed_cell,
    size_cell,
    text_cell,
    verdict_cell,
)
from quantprobe.run.cohort import Cohort
from quantprobe.run.results import Quant
from quantprobe.stats.estimates import Estimate
from quantprobe.stats.summary_tasks import TaskSummary

POOLED = "all tasks pooled"
"""Name of all tasks taken together, where a run has several."""


@dataclass(frozen=True)
class TaskRow:
    """One line: a model and its answers."""

    name: str
    model: ModelIdentity
    summary: TaskSummary


def net_cell(summary: TaskSummary) -> Cell:
    """The net change in points, with its interval."""
    return Cell(format_net(summary.net, summary.margin), None if summary.net is None else summary.net.value)


def _field(name: str, priority: int, cell: Callable[[Any], Cell], unit: str | None = None) -> Field[TaskRow]:
    column = quantity_column(task_quantity(name), priority, unit)
    return Field(column, lambda row: cell(getattr(row.summary, name)))


NAME: Field[TaskRow] = Field(Column("Quant"), lambda row: text_cell(row.name))
SIZE: Field[TaskRow] = Field(Column("Size", "GB", priority=4), lambda row: size_cell(row.model))
ACC = _field("acc", 2, share_cell)
ACC_NORM = _field("acc_norm", 10, share_cell)
NET: Field[TaskRow] = Field(quantity_column(task_quantity("net"), 1, "pp"), lambda row: net_cell(row.summary))
DROPS = _field("drops", 3, count_cell)
LEAPFROGS = _field("leapfrogs", 3, count_cell)
DECODED = _field("n_decoded", 3, count_cell)
"""Of how many questions drops and leapfrogs were counted, where a quant decoded a sample."""
OTHER_WRONG = _field("wrong_to_other_wrong", 9, count_cell)
VOLUME = _field("volume", 8, share_cell)
INDEX = _field("direction_index", 7, signed_cell)
SMOOTHED = _field("net_smoothed", 16, lambda estimate: interval_cell(estimate, 100), "pp")
MARGIN_SHIFT = _field("margin_shift", 5, interval_cell)
KLD = _field("kld_mean", 11, estimate_cell)
MCNEMAR_P = _field("mcnemar_p", 12, lambda p: plain_cell(p, digits=2))
ADJUSTED_P = _field("adjusted_p", 6, lambda p: plain_cell(p, digits=2))
DETECTABLE = _field("mde", 13, lambda value: plain_cell(value, 100, digits=2), "pp")
N_ITEMS = _field("n_items", 14, count_cell)
N_INVALID = _field("n_invalid", 15, count_cell)
VERDICT: Field[TaskRow] = Field(Column("Verdict"), lambda row: verdict_cell(row.summary.verdict))
FIELDS = (
    NAME, SIZE, ACC, ACC_NORM, NET, DROPS, LEAPFROGS, DECODED, OTHER_WRONG, VOLUME, INDEX, SMOOTHED, MARGIN_SHIFT,
    KLD, MCNEMAR_P, ADJUSTED_P, DETECTABLE, N_ITEMS, N_INVALID, VERDICT,
)  # fmt: skip


def task_table(cohort: Cohort, task: str, names: ShortNames = WHOLE) -> Table:
    """The base's line and one line per quant that was measured; `task` may be `POOLED`."""
    base = TaskRow(f"{names(cohort.base.name)} (base)", cohort.base, _base_summary(cohort, task))
    rows = [TaskRow(names(quant.name), quant, summary) for quant, summary in answered(cohort, task)]
    caption = f"{task}: answers against {cohort.base.name}{names.note}"
    return make_table(f"task-{safe_name(task)}", caption, FIELDS, rows, base)


def overview_table(cohort: Cohort, names: ShortNames = WHOLE) -> Table:
    """Single tasks side by side: the net change (pp) on each, behind the sign of its verdict."""

    def field(task: str, priority: int) -> Field[Quant]:
        return Field(Column(task, "pp", priority), lambda quant: _overview_cell(quant.tasks.get(task)))

    name: Field[Quant] = Field(Column("Quant"), lambda quant: text_cell(names(quant.name)))
    fields = [name, *(field(task, number) for number, task in enumerate(cohort.tasks, 2))]
    signs = ", ".join(f"{mark.sign} {verdict}" for verdict, mark in MARKS.items())
    return make_table("tasks", f"Net change on each task ({signs})", fields, cohort.quants)


def _overview_cell(summary: TaskSummary | None) -> Cell:
    if summary is None:
        return Cell(MISSING, None)
    cell = net_cell(summary)
    return replace(cell, text=f"{mark_of(summary.verdict).sign} {cell.text}")


def task_names(cohort: Cohort) -> tuple[str, ...]:
    """The tasks of a cohort, and first all of them together where the run pooled them."""
    pooled = any(quant.pooled is not None for quant in cohort.quants)
    return (POOLED, *cohort.tasks) if pooled else cohort.tasks


def answered(cohort: Cohort, task: str) -> list[tuple[Quant, TaskSummary]]:
    """The quants that have this task (or the pool of all), in the order of the run."""
    found = [(quant, quant.pooled if task == POOLED else quant.tasks.get(task)) for quant in cohort.quants]
    return [(quant, summary) for quant, summary in found if summary is not None]


def _base_summary(cohort: Cohort, task: str) -> TaskSummary:
    """The base's accuracy over the most items: from the quant that lost the fewest."""
    most = min((summary for _, summary in answered(cohort, task)), key=lambda summary: summary.n_invalid or 0)
    return TaskSummary(rule=most.rule, acc=most.acc_base or Estimate(None), acc_norm=most.acc_norm_base)
