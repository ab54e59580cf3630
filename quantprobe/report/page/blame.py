"""The section of the page that says which tensors cost what, of runs that have blame results."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass

from quantprobe.errors import QuantprobeError
from quantprobe.report.printable import printable
from quantprobe.report.tables.blame import blame_sentences, effects_tables
from quantprobe.report.tables.cells import Table
from quantprobe.run.blame import has_blame, read_blame
from quantprobe.run.cohort import Cohort


@dataclass(frozen=True)
class BlameSection:
    """One blame: what it found in words, its tables, and its pictures as (address, text for those who cannot see)."""

    title: str
    sentences: Sequence[str]
    tables: Sequence[Table] = ()
    pictures: Sequence[tuple[str, str]] = ()


def blame_sections(cohort: Cohort) -> list[BlameSection]:
    """A section for each run that has a `blame.json` of the cohort's base; one that cannot be read says so."""
    found = []
    for run in cohort.runs:
        if not has_blame(run):
            continue
        try:
            blame = read_blame(run)
        except QuantprobeError as error:
            found.append(BlameSection("Which tensors cost what", [f"Not shown: {printable(str(error))}"]))
            continue
        if blame.base.sha256 == cohort.base.sha256:
            from quantprobe.report.plots.blame import blame_pictures  # matplotlib
            from quantprobe.report.plots.style import draw_png

            pictures = [(_address(draw_png(picture)), picture.alt) for picture in blame_pictures(blame)]
            title = f"Which tensors cost what: {printable(blame.quant.name)}"
            found.append(BlameSection(title, blame_sentences(blame), effects_tables(blame), pictures))
    return found


def _address(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"
