"""One self-contained HTML page: the answer, the pictures, the table, and everything else folded."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING

from jinja2 import Environment
from markupsafe import Markup, escape

import quantprobe
from quantprobe.report.answer import Answer, Fold, answer_of, finding_folds, margin_of, n_questions
from quantprobe.report.marks import MARKS, NO_MARK
from quantprobe.report.names import ShortNames, cohort_names
from quantprobe.report.notes import format_setting, overlap_warnings
from quantprobe.report.page.blame import BlameSection, blame_sections
from quantprobe.report.page.cards import CardBlock, card_blocks
from quantprobe.report.page.data import PageData, file_name, json_block, page_data
from quantprobe.report.page.flips import SharedFlip, shared_flips
from quantprobe.report.page.notes import reading_notes
from quantprobe.report.page.tables import files_table, subject_table
from quantprobe.report.printable import printable
from quantprobe.report.tables.categories import category_table, heat_table
from quantprobe.report.tables.cells import Table
from quantprobe.report.tables.pairs import pair_tables
from quantprobe.report.tables.study import correlation_table
from quantprobe.report.tables.tasks import POOLED, task_names, task_table
from quantprobe.report.tables.texts import text_table
from quantprobe.run.cohort import Cohort
from quantprobe.run.compare import flatten_settings
from quantprobe.study.variants import PairShift

if TYPE_CHECKING:
    from quantprobe.study.findings import Findings

MAX_QUESTION = 900
"""Characters of a question or choice that the page shows."""


@dataclass(frozen=True)
class TaskSection:
    name: str
    table: Table
    subjects: Table | None
    flips: Sequence[SharedFlip]


@dataclass(frozen=True)
class Page:
    """Everything that the template shows and the script does not draw."""

    title: str
    subtitle: str
    version: str
    answer: Answer
    card: Sequence[CardBlock]
    columns: Sequence[tuple[str, str, str]]
    """Title, unit and key of each column of the main table; the script fills the cells by key."""
    verdicts: Sequence[str]
    blames: Sequence[BlameSection]
    findings: Sequence[Fold]
    ideas: Table | None
    texts: Sequence[Table]
    warnings: Sequence[str]
    """What stands beside the answer, because it can make the answer wrong."""
    pairs: Sequence[Table]
    """Variants of one file type against each other."""
    heats: Sequence[Table]
    """Quants by categories, of texts whose windows have them."""
    categories: Sequence[Table]
    tasks: Sequence[TaskSection]
    notes: Sequence[str]
    base_facts: Sequence[tuple[str, str]]
    settings: Sequence[tuple[str, str]]
    files: Table


def render_page(
    cohort: Cohort, findings: Findings | None = None, flips: bool = True, shifts: Sequence[PairShift] = ()
) -> str:
    """The page as one HTML document: style, script and data inside, no address of anything outside.

    Every text is escaped, and the page's own policy lets the browser run this script and load nothing. Without `flips`
    no file of answers is read. `shifts` are what `compare_variants` found.
    """
    answer = answer_of(cohort, findings)
    data = page_data(cohort, findings, answer.take.name if answer.take is not None else None)
    css, js = Markup(palette_css() + resource("page.css")), Markup(resource("pictures.js") + resource("page.js"))
    environment = Environment(autoescape=True, keep_trailing_newline=True, finalize=_shown)
    environment.filters["shorten"] = _shorten
    return environment.from_string(resource("page.html")).render(
        page=_page(cohort, findings, answer, data, flips, shifts),
        data=data,
        json=Markup(json_block(data)),
        css=css,
        js=js,
        csp=f"default-src 'none'; img-src data:; style-src {_digest(css)}; script-src {_digest(js)}",
    )


def render_cohort(cohort: Cohort) -> str:
    """The page for a notebook's output: in a frame of its own, so that neither can reach into the other."""
    page = escape(render_page(cohort, flips=False))
    style = "width: 100%; height: 46rem; border: 0"
    return f'<iframe sandbox="allow-scripts" title="quantprobe" style="{style}" srcdoc="{page}"></iframe>'


def palette_css() -> str:
    """The colours of the verdicts as variables of the style sheet, for both grounds."""
    marks = [*MARKS.values(), NO_MARK]
    light, dark = ("".join(f"--{m.css}:{c};" for m, c in pairs) for pairs in (
        [(m, m.light) for m in marks], [(m, m.dark) for m in marks]
    ))  # fmt: skip
    return f":root{{{light}}}\n@media (prefers-color-scheme:dark){{:root{{{dark}}}}}\n"


def resource(name: str) -> str:
    """A file of the page."""
    return resources.files("quantprobe.report.page").joinpath(name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    """A source expression that allows exactly this inline element."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _page(
    cohort: Cohort,
    findings: Findings | None,
    answer: Answer,
    data: PageData,
    flips: bool,
    shifts: Sequence[PairShift],
) -> Page:
    names = cohort_names(cohort)
    used = {view.verdict for quant in data.quants for view in quant.tasks if view is not None}
    return Page(
        title=f"{len(cohort.quants)} quant{'s' * (len(cohort.quants) != 1)} of {cohort.base.name}",
        subtitle=_subtitle(cohort, findings),
        version=quantprobe.__version__,
        answer=answer,
        card=card_blocks(cohort, answer),
        columns=_columns(cohort),
        verdicts=[verdict for verdict in (*MARKS, "no verdict") if verdict in used],
        blames=blame_sections(cohort),
        findings=finding_folds(findings),
        ideas=None if findings is None else correlation_table(findings),
        texts=[text_table(cohort, text, names) for text in cohort.texts],
        warnings=overlap_warnings(cohort, names),
        pairs=pair_tables(shifts, names, brief=True),
        heats=[table for text in cohort.texts if (table := heat_table(cohort, text, names)) is not None],
        categories=[table for text in cohort.texts if (table := category_table(cohort, text, names)) is not None],
        tasks=[_task_section(cohort, task, names, flips) for task in task_names(cohort)],
        notes=reading_notes(cohort),
        base_facts=_base_facts(cohort),
        settings=[(".".join(name), format_setting(value)) for name, value in flatten_settings(cohort.settings).items()],
        files=files_table(cohort),
    )


def _task_section(cohort: Cohort, task: str, names: ShortNames, flips: bool) -> TaskSection:
    table = task_table(cohort, task, names)
    if task == POOLED:
        return TaskSection(task, table, None, ())
    return TaskSection(task, table, subject_table(cohort, task), shared_flips(cohort, task) if flips else ())


def _columns(cohort: Cohort) -> list[tuple[str, str, str]]:
    largest = max((quant.size_bytes or 0 for quant in cohort.quants), default=0)
    columns = [("Quant", "", "name"), ("Size", "GB" if largest >= 1e9 else "MB", "size")]
    if cohort.tasks:
        columns += [("Change", "points", "change"), ("Verdict", "", "verdict")]
    if cohort.texts:
        columns += [("Mean KLD", "nats", "kld"), ("99.9 % KLD", "nats", "tail"), ("Same top", "%", "top")]
    return [*columns, ("bpw", "", "bpw")]


def _subtitle(cohort: Cohort, findings: Findings | None) -> str:
    parts = []
    if cohort.tasks:
        n = len(cohort.tasks)
        parts.append(f"{n_questions(cohort):,} questions in {n} task{'s' * (n != 1)}")
    if cohort.texts:
        n = len(cohort.texts)
        rows = sum(
            max((q.texts[t].n_rows or 0 for q in cohort.quants if t in q.texts), default=0) for t in cohort.texts
        )
        parts.append(f"{rows:,} tokens in {n} text{'s' * (n != 1)}" if rows else f"{n} text{'s' * (n != 1)}")
    if cohort.tasks:
        margin = 100 * margin_of(cohort, findings)
        parts.append(f"margin {margin:g} point{'s' * (margin != 1)}")
    return " · ".join(parts)


def _base_facts(cohort: Cohort) -> list[tuple[str, str]]:
    base = cohort.base
    facts = [
        ("Base", base.name),
        ("File", file_name(base.path)),
        ("Architecture", base.architecture),
        ("Size", "" if base.size_bytes is None else f"{base.size_bytes:,} bytes"),
        ("Vocabulary", "" if base.n_vocab is None else f"{base.n_vocab:,} tokens"),
        ("SHA-256", base.sha256),
        ("SHA-256 of the tokenizer", base.tokenizer_sha256),
    ]
    return [(key, value) for key, value in facts if value]


def _shown(value: object) -> object:
    """What the template writes: other people's text without control characters; our own markup as it is."""
    return printable(value) if type(value) is str else value


def _shorten(text: str) -> str:
    if len(text) <= MAX_QUESTION:
        return text
    return f"{text[:MAX_QUESTION]} … ({len(text) - MAX_QUESTION:,} more characters)"
