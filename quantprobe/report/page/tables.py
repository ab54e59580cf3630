"""The folded tables of the page: a task in full, a task by subject, and the files of the cohort."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from quantprobe.names import safe_name
from quantprobe.report.marks import mark_of
from quantprobe.report.numbers import MISSING, format_estimate, format_interval, format_plain
from quantprobe.report.page.answer import quant_labels
from quantprobe.report.page.data import file_name, imatrix_text
from quantprobe.report.printable import printable
from quantprobe.run.cohort import Cohort
from quantprobe.stats.estimates import Estimate
from quantprobe.stats.paired import holm, mcnemar_p
from quantprobe.stats.summary_groups import GroupSummary
from quantprobe.stats.summary_tasks import TaskSummary

MAX_SUBJECTS = 120
MIN_SUBJECT_ITEMS = 5


@dataclass(frozen=True)
class Cell:
    """One cell: what is read, and what it is sorted by (None sorts last in both directions)."""

    text: str
    sort: float | str | None
    css: str = ""


@dataclass(frozen=True)
class DataTable:
    """A sortable table; columns are (title, unit), the first cell of each row is its header."""

    id: str
    caption: str
    columns: tuple[tuple[str, str], ...]
    rows: tuple[tuple[Cell, ...], ...]


def task_table(cohort: Cohort, task: str) -> DataTable:
    """One task in full, one line per quant that was measured on it."""
    columns = (
        ("Quant", ""), ("Accuracy", "%"), ("Drops", ""), ("Leapfrogs", ""), ("Other wrong", ""), ("Volume", "%"),
        ("Index", "-1 to +1"), ("Margin shift", "nats"), ("Corrected p", ""), ("Finds", "points"), ("Questions", ""),
        ("Invalid", ""),
    )  # fmt: skip
    measured = [
        (label, q.tasks[task]) for label, q in zip(quant_labels(cohort), cohort.quants, strict=True) if task in q.tasks
    ]
    base = next((summary.acc_base for _, summary in measured if summary.acc_base is not None), None)
    rules = sorted({printable(summary.rule) for _, summary in measured if summary.rule})
    caption = f"{printable(task)}: the base is right on {format_estimate(base, 100)} %"
    caption += f"; scored by the rule {' or '.join(rules)}" if rules else ""
    rows = tuple(_task_row(label, summary) for label, summary in measured)
    return DataTable(f"task-{safe_name(task)}", caption, columns, rows)


def _task_row(label: str, task: TaskSummary) -> tuple[Cell, ...]:
    return (
        Cell(label, label),
        _estimate(task.acc),
        _count(task.drops),
        _count(task.leapfrogs),
        _count(task.wrong_to_other_wrong),
        _estimate(task.volume),
        _plain(task.direction_index),
        Cell(format_interval(task.margin_shift), task.margin_shift.value if task.margin_shift else None),
        _plain(task.holm_p),
        _plain(task.mde, 100),
        _count(task.n_items),
        _count(task.n_invalid),
    )


def subject_table(cohort: Cohort, task: str) -> DataTable | None:
    """Net change (points, ± one standard error) of each quant in each subject; None where a task has none.

    A star marks cells whose exact McNemar p survives Holm's correction over the whole table. A task has subjects where
    its groups are 2 to 120, of five items or more on average.
    """
    measured = [
        (label, q.tasks[task].by_group)
        for label, q in zip(quant_labels(cohort), cohort.quants, strict=True)
        if task in q.tasks
    ]
    subjects = sorted({subject for _, groups in measured for subject in groups})
    n_of = {s: max((groups[s].n_items or 0 for _, groups in measured if s in groups), default=0) for s in subjects}
    if not 2 <= len(subjects) <= MAX_SUBJECTS or sum(n_of.values()) < MIN_SUBJECT_ITEMS * len(subjects):
        return None
    clear = _clear_cells([groups for _, groups in measured])
    rows = tuple(
        (
            Cell(printable(subject), subject),
            _count(n_of[subject]),
            *(_subject(groups.get(subject), (i, subject) in clear) for i, (_, groups) in enumerate(measured)),
        )
        for subject in subjects
    )
    columns = (("Subject", ""), ("Questions", ""), *((label, "points") for label, _ in measured))
    caption = (
        f"{printable(task)} by subject: net change ± one standard error. * clear of zero, corrected over the table"
    )
    return DataTable(f"subjects-{safe_name(task)}", caption, columns, rows)


def _clear_cells(quants: Sequence[object]) -> set[tuple[int, str]]:
    cells = [
        (i, subject, group.drops, group.leapfrogs)
        for i, groups in enumerate(quants)
        for subject, group in groups.items()  # type: ignore[attr-defined]
        if group.drops is not None and group.leapfrogs is not None
    ]
    if not cells:
        return set()
    p = holm(mcnemar_p([drops for *_, drops, _ in cells], [leapfrogs for *_, leapfrogs in cells]))
    return {(i, subject) for (i, subject, *_), corrected in zip(cells, p, strict=True) if corrected <= 0.05}


def _subject(group: GroupSummary | None, clear: bool) -> Cell:
    if group is None or group.net is None or group.net.value is None:
        return Cell(MISSING, None)
    net, drops, leapfrogs, n = group.net.value, group.drops or 0, group.leapfrogs or 0, group.n_items or 0
    if n < 2:
        return Cell(f"{100 * net:+.0f}", net)
    stderr = math.sqrt(max((drops + leapfrogs) / n - net**2, 0.0) / (n - 1))
    return Cell(f"{100 * net:+.1f} ± {100 * stderr:.1f}{' *' if clear else ''}", net, "clear" if clear else "")


def files_table(cohort: Cohort) -> DataTable:
    """Every file with what identifies it."""
    columns = (
        ("Quant", ""), ("Size", "bytes"), ("bpw", ""), ("File type", ""), ("Importance matrix", ""), ("File", ""),
        ("SHA-256", ""),
    )  # fmt: skip
    rows = []
    for quant in cohort.quants:
        words = (quant.file_type, imatrix_text(quant.imatrix), file_name(quant.path), quant.sha256)
        name = printable(quant.name)
        rows.append((
            Cell(name, name), _count(quant.size_bytes), _plain(quant.bpw),
            *(Cell(printable(word), word) for word in words),
        ))  # fmt: skip
    return DataTable("files", "Every file of the cohort", columns, tuple(rows))


def verdict_cell(verdict: str | None) -> Cell:
    """A verdict with its shape."""
    mark = mark_of(verdict)
    return Cell(MISSING, None) if verdict is None else Cell(f"{mark.sign} {verdict}", verdict, mark.css)


def _estimate(estimate: Estimate | None) -> Cell:
    return Cell(format_estimate(estimate, 100), None if estimate is None else estimate.value)


def _plain(value: float | None, scale: float = 1.0) -> Cell:
    return Cell(format_plain(value, scale), value)


def _count(value: int | None) -> Cell:
    return Cell(MISSING if value is None else f"{value:,}", value)
