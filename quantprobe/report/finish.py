"""The files of a run: results.json, and what is made of it alone. A run is reported as a cohort of one."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import quantprobe
from quantprobe.files import write_text
from quantprobe.locks import locked
from quantprobe.report.notes import null_sentences, reading_notes, task_notes, text_notes, warnings
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
    drawn = _draw(cohort, run, shifts) if cohort.quants else ()
    return cohort, (run.results.name, *written, *drawn)


def _draw(cohort: Cohort, run: RunFolder, shifts: Sequence[PairShift]) -> tuple[str, ...]:
    """The names of the pictures and of the page, which are made if anything of the run has changed since.

    The last line of the page is a comment with the digest of what it was made from, and the names of the pictures.
    """
    page = run.page.relative_to(run.path).as_posix()
    made_from = f"<!-- made from {_digest(cohort, run, shifts)}: "
    pictures = _pictures_made(run, made_from)
    if pictures is None:
        from quantprobe.report.page.html import render_page

        pictures = _draw_pictures(cohort, run)
        write_text(run.page, f"{render_page(cohort, shifts=shifts).rstrip()}\n{made_from}{' '.join(pictures)} -->\n")
    return *pictures, page


def _pictures_made(run: RunFolder, made_from: str) -> list[str] | None:
    """The pictures beside the page, if it was made from the same and they are there; None if not."""
    try:
        with run.page.open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - 4096))
            last = file.read().decode("utf-8", "replace").rstrip().rpartition("\n")[2]
    except OSError:
        return None
    if not (last.startswith(made_from) and last.endswith("-->")):
        return None
    names = last[len(made_from) : -len("-->")].split()
    return names if all((run.path / name).is_file() for name in names) else None


def _digest(cohort: Cohort, run: RunFolder, shifts: Sequence[PairShift]) -> str:
    """SHA-256 of the program's version and of everything that pictures and page are made from."""
    digest = hashlib.sha256(f"{quantprobe.__version__} {shifts}".encode())
    of_tasks = [run.questions(task) for task in cohort.tasks]
    for path in (run.results, *sorted(cohort.items_files.values()), *of_tasks):
        digest.update(f"{path.name}\n".encode())
        digest.update(_content(path))
    return digest.hexdigest()


def _content(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b""


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
    """KLD against size, one picture per text; its file name carries the text's name where there are several.

    A single quant has none: one point says nothing that the table does not, and matplotlib takes half a second.
    """
    if len(cohort.quants) < 2:
        return []
    from quantprobe.report.plots.fidelity import has_size_picture, size_picture
    from quantprobe.report.plots.style import write_picture

    drawn = [size_picture(cohort, text) for text in cohort.texts if has_size_picture(cohort, text)]
    return [path.name for picture in drawn for path in write_picture(picture, run.path)]
