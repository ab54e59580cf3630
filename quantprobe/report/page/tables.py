"""Tables that only the page has: a task by subject, and the files of the cohort."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from quantprobe.names import safe_name
from quantprobe.report.answer import quant_labels
from quantprobe.report.numbers import MISSING
from quantprobe.report.page.data import file_name, imatrix_text
from quantprobe.report.tables.cells import Cell, Column, Table, count_cell, plain_cell, text_cell
from quantprobe.run.cohort import Cohort
from quantprobe.stats.paired import holm, mcnemar_p
from quantprobe.stats.summary_groups import GroupSummary

MAX_SUBJECTS = 120
MIN_SUBJECT_ITEMS = 5


def subject_table(cohort: Cohort, task: str) -> Table | None:
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
            text_cell(subject),
            count_cell(n_of[subject]),
            *(_subject(groups.get(subject), (i, subject) in clear) for i, (_, groups) in enumerate(measured)),
        )
        for subject in subjects
    )
    columns = (Column("Subject"), Column("Questions"), *(Column(label, "points") for label, _ in measured))
    caption = f"{task} by subject: net change ± one standard error (* clear of zero, corrected over the table)"
    return Table(f"subjects-{safe_name(task)}", caption, columns, rows)


def _clear_cells(quants: Sequence[Mapping[str, GroupSummary]]) -> set[tuple[int, str]]:
    cells = [
        (i, subject, group.drops, group.leapfrogs)
        for i, groups in enumerate(quants)
        for subject, group in groups.items()
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


def files_table(cohort: Cohort) -> Table:
    """Every file with what identifies it."""
    columns = (
        Column("Quant"), Column("Size", "bytes"), Column("bpw"), Column("File type"), Column("Importance matrix"),
        Column("File"), Column("SHA-256"),
    )  # fmt: skip
    rows = tuple(
        (
            text_cell(quant.name), count_cell(quant.size_bytes), plain_cell(quant.bpw), text_cell(quant.file_type),
            text_cell(imatrix_text(quant.imatrix)), text_cell(file_name(quant.path)), text_cell(quant.sha256),
        )
        for quant in cohort.quants
    )  # fmt: skip
    return Table("files", "Every file of the cohort", columns, rows)
