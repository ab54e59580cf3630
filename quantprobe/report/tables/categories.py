"""The tables of a text whose windows have categories: every measure, and the mean KLD as a heat map."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from quantprobe.metrics.quantities import text_quantity
from quantprobe.names import safe_name
from quantprobe.report.names import WHOLE, ShortNames
from quantprobe.report.numbers import MISSING, format_plain
from quantprobe.report.tables.cells import (
    Cell,
    Column,
    Field,
    Table,
    count_cell,
    estimate_cell,
    interval_cell,
    make_table,
    plain_cell,
    quantity_column,
    share_cell,
    text_cell,
)
from quantprobe.report.tables.texts import measured
from quantprobe.run.cohort import Cohort
from quantprobe.stats.summary import CategorySummary

N_SHADES = 8
"""Shades of the heat map, `heat-0` to `heat-7` in the style sheet."""


@dataclass(frozen=True)
class _Row:
    quant: str
    category: str
    numbers: CategorySummary


_FIELDS: Sequence[Field[_Row]] = (
    Field(Column("Quant"), lambda row: text_cell(row.quant)),
    Field(Column("Category"), lambda row: text_cell(row.category)),
    Field(Column("Rows", priority=4), lambda row: count_cell(row.numbers.n_rows)),
    Field(quantity_column(text_quantity("kld_mean"), 1), lambda row: estimate_cell(row.numbers.kld_mean)),
    Field(quantity_column(text_quantity("kld_p99"), 3), lambda row: plain_cell(row.numbers.kld_p99)),
    Field(quantity_column(text_quantity("kld_p999"), 5), lambda row: plain_cell(row.numbers.kld_p999)),
    Field(quantity_column(text_quantity("same_top"), 2), lambda row: share_cell(row.numbers.same_top)),
    Field(quantity_column(text_quantity("ln_ppl_ratio"), 6), lambda row: interval_cell(row.numbers.ln_ppl_ratio)),
)


def category_table(cohort: Cohort, text: str, names: ShortNames = WHOLE) -> Table | None:
    """One line per quant and category; None where the text has no categories."""
    rows = [
        _Row(names(quant.name), category, numbers)
        for quant, summary in measured(cohort, text)
        for category, numbers in summary.by_category.items()
    ]
    if not rows:
        return None
    return make_table(f"categories-{safe_name(text)}", f"{text} by category", _FIELDS, rows)


def heat_table(cohort: Cohort, text: str, names: ShortNames = WHOLE) -> Table | None:
    """Mean KLD of every quant in every category, shaded by its logarithm; None where the text has no categories."""
    found = measured(cohort, text)
    categories = sorted({category for _, summary in found for category in summary.by_category})
    if not categories:
        return None
    klds = [
        [one.kld_mean.value if (one := summary.by_category.get(category)) else None for category in categories]
        for _, summary in found
    ]
    known = [math.log(kld) for row in klds for kld in row if kld is not None and kld > 0]
    low, high = min(known, default=0.0), max(known, default=0.0)
    rows = tuple(
        (text_cell(names(quant.name)), *(_heat_cell(kld, low, high) for kld in row))
        for (quant, _), row in zip(found, klds, strict=True)
    )
    caption = f"{text}: mean KLD in nats by category, the darker the farther from the base (by its logarithm)"
    return Table(f"heat-{safe_name(text)}", caption, (Column("Quant"), *map(Column, categories)), rows)


def _heat_cell(kld: float | None, low: float, high: float) -> Cell:
    if kld is None:
        return Cell(MISSING, None)
    place = 0.0 if kld <= 0 or high <= low else (math.log(kld) - low) / (high - low)
    return Cell(format_plain(kld, digits=2), kld, f"heat-{min(int(place * N_SHADES), N_SHADES - 1)}")
