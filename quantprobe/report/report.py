"""The report of a cohort: one folder with the page, the plots and the card."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from markupsafe import Markup

from quantprobe.errors import InputError
from quantprobe.files import write_text
from quantprobe.names import safe_name
from quantprobe.probes.items import Question
from quantprobe.report.card import format_card, main_picture
from quantprobe.report.page.html import PagePicture, TaskSection, build_page, render_page
from quantprobe.report.page.tables import biggest_flips, main_table, subject_table, task_table
from quantprobe.report.plots.gallery import answer_pictures, correlation_picture, fidelity_pictures, net_picture
from quantprobe.report.plots.style import Picture, inline_svg, render_svg, write_picture
from quantprobe.report.questions import read_questions
from quantprobe.report.sentences import advice_block, measured_block, study_block, verdict_block
from quantprobe.report.tables.community_csv import community_csv
from quantprobe.report.tables.numbers_csv import numbers_csv
from quantprobe.run.cohort import Cohort, ItemTable
from quantprobe.study.findings import Findings


def write_report(cohort: Cohort, folder: Path, findings: Findings | None = None) -> list[Path]:
    """Write `report.html`, `card.md`, `quants.csv`, `llama-TEXT.csv` and `plots/NAME.png`, `.svg`; gives the paths.

    Without `findings` the page has the runs' own verdicts, and no zone and no correlations.

    Raises
    ------
    InputError
        The cohort has no quant, or the folder cannot be written.
    FileFormatError
        A table of the run is damaged.
    """
    if not cohort.quants:
        raise InputError(f"{cohort.runs[0]} holds no quant, so there is nothing to report; run the sweep to its end")
    blocks = [measured_block(cohort), verdict_block(cohort)]
    if findings is not None:
        blocks[1:1] = advice_block(findings)
        blocks.append(study_block(findings))
    blocks = [block for block in blocks if block.sentences]
    answers = {task: read_answers(cohort, task) for task in cohort.tasks}
    written: list[Path] = []
    pictures: list[PagePicture] = []
    for picture in _pictures(cohort, answers, findings):
        svg = render_svg(picture)
        pictures.append(PagePicture(picture.title, picture.alt, Markup(inline_svg(picture, svg))))
        written += write_picture(picture, svg, folder / "plots")
    page = build_page(cohort, blocks, main_table(cohort), pictures, _task_sections(cohort, answers))
    card_picture = main_picture(cohort)
    if card_picture is not None and folder / card_picture not in written:
        card_picture = None
    texts = {"report.html": render_page(page), "card.md": format_card(cohort, blocks, card_picture)}
    texts |= {"quants.csv": numbers_csv(cohort)}
    texts |= {f"llama-{safe_name(text)}.csv": community_csv(cohort, text) for text in cohort.texts}
    for name, text in texts.items():
        write_text(folder / name, text)
    return [*(folder / name for name in texts), *written]


def _task_sections(cohort: Cohort, answers: Mapping[str, Mapping[str, ItemTable]]) -> list[TaskSection]:
    return [
        TaskSection(
            name=task,
            table=task_table(cohort, task),
            subjects=subject_table(task, tables),
            flips=biggest_flips(tables, _questions(cohort, task)),
        )
        for task, tables in answers.items()
    ]


def read_answers(cohort: Cohort, task: str) -> Mapping[str, ItemTable]:
    """The items of `task` by quant, for the quants whose run kept them."""
    answers = {}
    for quant in cohort.quants:
        if task in quant.tasks and quant.tasks[task].items_file.exists():
            answers[quant.name] = cohort.items(quant.name, task)
    return answers


def _pictures(
    cohort: Cohort, answers: Mapping[str, Mapping[str, ItemTable]], findings: Findings | None
) -> Iterator[Picture]:
    zone = None
    if findings is not None and findings.zones:
        zone = np.array([quant.name in findings.zones[0].members for quant in cohort.quants])
        heatmap = correlation_picture(cohort, findings)
        if heatmap is not None:
            yield heatmap
    yield from fidelity_pictures(cohort)
    if cohort.tasks:
        yield net_picture(cohort)
    for task in cohort.tasks:
        yield from answer_pictures(cohort, task, answers[task], zone)


def _questions(cohort: Cohort, task: str) -> Mapping[str, Question]:
    for run in cohort.runs:
        texts = read_questions(run, task)
        if texts:
            return texts
    return {}
