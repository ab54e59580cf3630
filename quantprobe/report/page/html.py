"""One self-contained HTML page: findings first, settings and hashes last."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import groupby
from typing import Any

from jinja2 import Environment
from markupsafe import Markup

import quantprobe
from quantprobe.report.page.cells import Cell, Column, DataTable, size_cell
from quantprobe.report.page.tables import Flip
from quantprobe.report.sentences import Block
from quantprobe.run.cohort import Cohort
from quantprobe.run.results_file import plain

MAX_QUESTION = 900
"""Characters of a question or choice that the page shows."""


@dataclass(frozen=True)
class PagePicture:
    """One plot of the page: its text, and an `<svg>` element made by matplotlib, trusted as markup."""

    title: str
    alt: str
    svg: Markup


@dataclass(frozen=True)
class TaskSection:
    name: str
    table: DataTable
    subjects: DataTable | None
    flips: Sequence[Flip]


@dataclass(frozen=True)
class Page:
    """Everything the template shows, in the order in which it shows it."""

    title: str
    version: str
    level: str
    blocks: Sequence[Block]
    main_table: DataTable
    verdicts: Sequence[str]
    pictures: Sequence[PagePicture]
    tasks: Sequence[TaskSection]
    base_facts: Sequence[tuple[str, str]]
    settings: Sequence[tuple[str, str]]
    files: DataTable

    @property
    def has_flips(self) -> bool:
        return any(task.flips for task in self.tasks)

    @property
    def sections(self) -> list[tuple[str, str]]:
        wanted = [
            ("findings", "Findings", True),
            ("quants", "All quants", True),
            ("plots", "Plots", bool(self.pictures)),
        ]
        wanted += [("tasks", "Tasks and subjects", bool(self.tasks)), ("flips", "Biggest flips", self.has_flips)]
        return [(i, title) for i, title, present in [*wanted, ("settings", "Settings and hashes", True)] if present]


def build_page(
    cohort: Cohort,
    blocks: Sequence[Block],
    main_table: DataTable,
    pictures: Sequence[PagePicture],
    tasks: Sequence[TaskSection],
) -> Page:
    """Gather the parts; titles, verdicts, settings and hashes come from the cohort."""
    verdicts = [task.verdict for quant in cohort.quants for task in quant.tasks.values() if task.verdict]
    levels = {e.level for quant in cohort.quants for text in quant.texts.values() for e in text.values.values()}
    return Page(
        title=f"Quants of {cohort.base.name}",
        version=quantprobe.__version__,
        level=" or ".join(f"{level:.0%}" for level in sorted(levels)) or "95%",
        blocks=blocks,
        main_table=main_table,
        verdicts=sorted(set(verdicts)),
        pictures=pictures,
        tasks=tasks,
        base_facts=_base_facts(cohort),
        settings=flatten_settings(cohort.settings),
        files=_files_table(cohort),
    )


def render_page(page: Page) -> str:
    """The page as one HTML document: style, script and plots inside, no address of anything outside.

    Every text is escaped; only the plots, the style and the script are taken as markup.
    """
    environment = Environment(autoescape=True, trim_blocks=False, keep_trailing_newline=True)
    environment.filters |= {"groups": _column_groups, "shorten": _shorten}
    template = environment.from_string(_resource("page.html"))
    return template.render(page=page, css=Markup(_resource("page.css")), js=Markup(_resource("page.js")))


def flatten_settings(settings: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as (`texts.wiki.n_ctx`, value) pairs, in their order; None reads `not set`."""
    pairs: list[tuple[str, str]] = []
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            pairs += flatten_settings(value, f"{prefix}{key}.")
        else:
            pairs.append((f"{prefix}{key}", _setting(plain(value))))
    return pairs


def _setting(value: object) -> str:
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, list):
        return ", ".join(_setting(entry) for entry in value) or "none"
    return str(value)


def _base_facts(cohort: Cohort) -> list[tuple[str, str]]:
    base = cohort.base
    facts = [
        ("Name", base.name),
        ("File", _file_name(base.path)),
        ("Architecture", base.architecture),
        ("Size", "" if base.size_bytes is None else _size(base.size_bytes)),
        ("Vocabulary", "" if base.n_vocab is None else f"{base.n_vocab:,} tokens"),
        ("SHA-256", base.sha256),
        ("SHA-256 of the tokenizer", base.tokenizer_sha256),
    ]
    return [(key, value) for key, value in facts if value]


def _file_name(path: str) -> str:
    """The page is published: the folders of its author are nobody's business."""
    return path.replace("\\", "/").rsplit("/", 1)[-1]


def _size(n_bytes: int) -> str:
    return f"{n_bytes:,} bytes ({n_bytes / 1e9:.3g} GB, {n_bytes / 2**30:.3g} GiB)"


def _files_table(cohort: Cohort) -> DataTable:
    columns = (
        Column("Quant", ""), Column("Size", "GB"), Column("File type", ""), Column("Importance matrix", ""),
        Column("File", ""), Column("SHA-256", ""),
    )  # fmt: skip
    rows = []
    for quant in cohort.quants:
        imatrix = "none recorded" if quant.imatrix is None else _imatrix_text(quant.imatrix)
        texts = (quant.file_type, imatrix, _file_name(quant.path), quant.sha256)
        rows.append((Cell(quant.name, quant.name), size_cell(quant), *(Cell(text, text) for text in texts)))
    return DataTable("files", "Every file of the cohort", columns, tuple(rows))


def _imatrix_text(imatrix: Mapping[str, Any]) -> str:
    known = [f"{key.removesuffix('_count')} {value}" for key, value in imatrix.items() if value is not None]
    return ", ".join(known) or "yes, no details in the file"


def _column_groups(columns: Sequence[Column]) -> list[tuple[str, list[Column]]]:
    return [(group, list(members)) for group, members in groupby(columns, key=lambda column: column.group)]


def _shorten(text: str) -> str:
    return (
        text if len(text) <= MAX_QUESTION else f"{text[:MAX_QUESTION]} … ({len(text) - MAX_QUESTION:,} more characters)"
    )


def _resource(name: str) -> str:
    return resources.files("quantprobe.report.page").joinpath(name).read_text(encoding="utf-8")
