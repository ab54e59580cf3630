"""The files of a run: results.json, and what is made of it alone. A run is reported as a cohort of one."""

from __future__ import annotations

from collections.abc import Sequence

from quantprobe.files import write_text
from quantprobe.locks import locked
from quantprobe.report.notes import null_sentences, reading_notes, task_notes, text_notes, warnings
from quantprobe.report.page.html import render_page
from quantprobe.report.plots.fidelity import has_size_picture, size_picture
from quantprobe.report.plots.style import write_picture
from quantprobe.report.tables.categories import category_table
from quantprobe.report.tables.csv_files import categories_csv, groups_csv, pairs_csv, tasks_csv, texts_csv
from quantprobe.report.tables.markdown import bullets, escape_markdown, join_blocks, markdown_table
from quantprobe.report.tables.pairs import pair_tables
from quantprobe.report.tables.tasks import task_names, task_table
from quantprobe.report.tables.texts import text_table
from quantprobe.run.cohort import Cohort, read_cohort
from quantprobe.run.folder import RunFolder
from quantprobe.run.results import Results, write_results
from quantprobe.study.variants import PairShift, compare_variants


def write_run(results: Results | None, run: RunFolder) -> tuple[Cohort, tuple[str, ...]]:
    """Write results.json and what is made of it alone; the run as a cohort, and the names of the files.

    With None the results.json that is there is taken: a sweep has written it, and another process may have added to it
    since. Raises `InputError` if a file cannot be written.
    """
    with locked(run.results_lock, lambda: None):
        if results is not None:
            write_results(results, run)
        return _write_made(run)


def _write_made(run: RunFolder) -> tuple[Cohort, tuple[str, ...]]:
    cohort = read_cohort([run.path])
    shifts = compare_variants(cohort)
    files = {
        "results.csv": texts_csv(cohort),
        "results_categories.csv": categories_csv(cohort),
        "results_tasks.csv": tasks_csv(cohort),
        "results_groups.csv": groups_csv(cohort),
        "results_pairs.csv": pairs_csv(shifts),
        "results.md": results_markdown(cohort, shifts),
    }
    written = {name: text for name, text in files.items() if text}
    for name, text in written.items():
        write_text(run.path / name, text)
    names = [run.results.name, *written, *_draw_pictures(cohort, run)]
    if cohort.quants:
        write_text(run.page, render_page(cohort, shifts=shifts))
        names.append(run.page.relative_to(run.path).as_posix())
    return cohort, tuple(names)


def results_markdown(cohort: Cohort, shifts: Sequence[PairShift] = ()) -> str:
    """results.md: one table per text, task and factor with variants, what holds for each, and how to read them."""
    parts = [f"# Quants of {escape_markdown(cohort.base.name)}"]
    for text in cohort.texts:
        parts += [f"## Text: {escape_markdown(text)}", markdown_table(text_table(cohort, text))]
        parts += bullets(map(escape_markdown, text_notes(cohort, text)))
        categories = category_table(cohort, text)
        if categories is not None:
            parts += [escape_markdown(categories.caption), markdown_table(categories)]
    for task in task_names(cohort):
        parts += [f"## Task: {escape_markdown(task)}", markdown_table(task_table(cohort, task))]
        parts += bullets(map(escape_markdown, task_notes(cohort, task)))
    for table in pair_tables(shifts):
        parts += [f"## {table.caption}", markdown_table(table)]
    reading = [*null_sentences(cohort), *warnings(cohort), *reading_notes(cohort)]
    return join_blocks([*parts, "## How to read", *bullets(map(escape_markdown, reading))])


def _draw_pictures(cohort: Cohort, run: RunFolder) -> list[str]:
    """KLD against size, one picture per text; its file name carries the text's name where there are several."""
    drawn = [size_picture(cohort, text) for text in cohort.texts if has_size_picture(cohort, text)]
    return [path.name for picture in drawn for path in write_picture(picture, run.path)]
