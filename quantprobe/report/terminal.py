"""What the terminal shows: a run at its end, and a study."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.table import Table as RichTable

from quantprobe.report.answer import finding_folds
from quantprobe.report.highlights import highlights
from quantprobe.report.names import cohort_names
from quantprobe.report.notes import null_sentences, reading_notes, task_notes, text_notes, warnings
from quantprobe.report.tables.categories import category_table
from quantprobe.report.tables.cells import Table
from quantprobe.report.tables.markdown import bullets
from quantprobe.report.tables.pairs import pair_tables
from quantprobe.report.tables.tasks import POOLED, overview_table, task_names, task_table
from quantprobe.report.tables.terminal import terminal_tables
from quantprobe.report.tables.texts import text_table
from quantprobe.report.verdicts import verdict_lines
from quantprobe.run.cohort import Cohort
from quantprobe.study.variants import compare_variants

if TYPE_CHECKING:
    from quantprobe.study.findings import Findings

WIDTH = 100
"""Cells that the summary takes at most: what fits a laptop's terminal, a log and an issue on GitHub."""
MAX_FINDINGS = 8


def describe_run(cohort: Cohort, width: int | None = None, details: bool = False) -> Iterator[RichTable | str]:
    """What the terminal shows: tables, verdicts, findings. With `details`, every column, note and sentence.

    `width` is that of the terminal; None where there is none.
    """
    names = cohort_names(cohort)
    width = width if details else min(width or WIDTH, WIDTH)
    for text in cohort.texts:
        notes = text_notes(cohort, text) if details else []
        yield from _section(text_table(cohort, text, names), notes, width, details)
        categories = category_table(cohort, text, names) if details else None
        if categories is not None:
            yield from _section(categories, [], width, details)
    tasks = task_names(cohort)
    brief = not details and POOLED in tasks
    for task in (POOLED,) if brief else tasks:
        notes = task_notes(cohort, task) if details else []
        yield from _section(task_table(cohort, task, names), notes, width, details)
    if brief:
        yield from _section(overview_table(cohort, names), [], width, details)
    for table in pair_tables(compare_variants(cohort), names, brief=not details):
        yield from _section(table, [], width, details)
    yield _paragraph([*null_sentences(cohort), *warnings(cohort, names)])
    verdicts = verdict_lines(cohort)
    if verdicts:
        yield _paragraph(verdicts)
    found = highlights(cohort, names)
    if found:
        yield _paragraph(["What to look at:", *bullets(found if details else found[:MAX_FINDINGS])])
    if details:
        yield _paragraph(["How to read:", *bullets(reading_notes(cohort))])


def describe_study(findings: Findings, width: int | None = None, details: bool = False) -> Iterator[RichTable | str]:
    """What the terminal shows of a study: the ranking, correlations, and the most important sentences first."""
    from quantprobe.report.tables.study import correlation_table, ranking_table

    width = width if details else min(width or WIDTH, WIDTH)
    for table in (ranking_table(findings), correlation_table(findings, details)):
        if table is not None:
            yield from _section(table, [], width, details)
    folds = finding_folds(findings)
    shown = folds if details else folds[:MAX_FINDINGS]
    for fold in shown:
        yield "\n".join([f"- {fold.headline}", *(f"  {detail}" for detail in fold.details if details)])
    if len(shown) < len(folds):
        yield f"({len(folds) - len(shown)} more with --details)"
    yield ""


def _section(table: Table, notes: list[str], width: int | None, details: bool) -> Iterator[RichTable | str]:
    yield table.caption
    yield from terminal_tables(table, width, details)
    yield _paragraph(notes)


def _paragraph(lines: list[str]) -> str:
    return "".join(f"{line}\n" for line in lines)
