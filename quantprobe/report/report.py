"""The report of a cohort: one folder with the page, the card, the numbers and the pictures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from quantprobe.errors import InputError
from quantprobe.files import write_text
from quantprobe.names import safe_name
from quantprobe.report.card import format_card
from quantprobe.report.page.html import render_page
from quantprobe.report.plots.gallery import pictures
from quantprobe.report.plots.style import write_picture
from quantprobe.report.tables.community_csv import community_csv
from quantprobe.report.tables.csv_files import numbers_csv, pairs_csv
from quantprobe.run.cohort import Cohort
from quantprobe.study.variants import compare_variants

if TYPE_CHECKING:
    from quantprobe.study.findings import Findings


def write_report(cohort: Cohort, folder: Path, findings: Findings | None = None) -> list[Path]:
    """Write the page, `card.md`, `quants.csv`, `pairs.csv`, `llama-TEXT.csv`, and `plots/`; gives the paths.

    Without `findings` the page has the runs' own verdicts and no findings.

    Raises
    ------
    InputError
        The cohort has no quant, or the folder cannot be written.
    FileFormatError
        A table of the run is damaged.
    """
    if not cohort.quants:
        raise InputError(f"{cohort.runs[0].path} holds no quant, so there is nothing to report; finish the sweep first")
    drawn = [write_picture(picture, folder / "plots", svg=True) for picture in pictures(cohort, findings)]
    main_picture = f"plots/{drawn[0][0].name}" if drawn else None
    shifts = compare_variants(cohort)
    texts = {
        "report.html": render_page(cohort, findings, shifts=shifts),
        "card.md": format_card(cohort, findings, main_picture),
        "quants.csv": numbers_csv(cohort),
        **({"pairs.csv": pairs_csv(shifts)} if shifts else {}),
        **{f"llama-{safe_name(text)}.csv": community_csv(cohort, text) for text in cohort.texts},
    }
    for name, text in texts.items():
        write_text(folder / name, text)
    return [*(folder / name for name in texts), *(path for paths in drawn for path in paths)]
