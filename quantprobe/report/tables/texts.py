"""The table of a text: how far each quant moved from the base."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from quantprobe.gguf.model import ModelIdentity
from quantprobe.metrics.quantities import text_quantity
from quantprobe.names import safe_name
from quantprobe.report.names import WHOLE, ShortNames
from quantprobe.report.tables.cells import (
    Cell,
    Column,
    Field,
    Table,
    estimate_cell,
    make_table,
    plain_cell,
    quantity_column,
    share_cell,
    size_cell,
    text_cell,
)
from quantprobe.run.cohort import Cohort
from quantprobe.run.floor import is_at_floor
from quantprobe.run.results import Quant
from quantprobe.stats.estimates import Estimate
from quantprobe.stats.summary import TextSummary

AT_FLOOR = "*"
"""Behind a mean KLD that does not stand above the instrument's floor."""


@dataclass(frozen=True)
class TextRow:
    """One line: a model, its numbers, and the floor of the instrument (nats; None where unknown)."""

    name: str
    model: ModelIdentity
    summary: TextSummary
    floor: float | None = None


def _kld_cell(row: TextRow) -> Cell:
    cell = estimate_cell(row.summary.kld_mean)
    return replace(cell, text=cell.text + AT_FLOOR) if is_at_floor(row.summary.kld_mean, row.floor) else cell


def _field(name: str, priority: int, cell: Callable[[Any], Cell]) -> Field[TextRow]:
    column = quantity_column(text_quantity(name), priority)
    return Field(column, lambda row: cell(getattr(row.summary, name)))


NAME: Field[TextRow] = Field(Column("Quant"), lambda row: text_cell(row.name))
SIZE: Field[TextRow] = Field(Column("Size", "GB", priority=3), lambda row: size_cell(row.model))
SIZE_GIB: Field[TextRow] = Field(Column("Size", "GiB", priority=9), lambda row: plain_cell(row.model.size_gib))
BPW: Field[TextRow] = Field(Column("bpw", "bits", priority=6), lambda row: plain_cell(row.model.bpw))
PPL = _field("ppl", 5, estimate_cell)
KLD_MEAN = Field(quantity_column(text_quantity("kld_mean"), 1), _kld_cell)
KLD_MEDIAN = _field("kld_median", 8, plain_cell)
KLD_P99 = _field("kld_p99", 4, plain_cell)
KLD_P999 = _field("kld_p999", 7, plain_cell)
KLD_MAX = _field("kld_max", 10, plain_cell)
DELTA_P = _field("delta_p_rms", 11, lambda estimate: estimate_cell(estimate, 100))
SAME_TOP = _field("same_top", 2, share_cell)
FIELDS = (NAME, SIZE, SIZE_GIB, BPW, PPL, KLD_MEAN, KLD_MEDIAN, KLD_P99, KLD_P999, KLD_MAX, DELTA_P, SAME_TOP)


def text_rows(cohort: Cohort, text: str, names: ShortNames = WHOLE) -> list[TextRow]:
    """One row per quant that was measured on the text."""
    floor = cohort.floor(text)
    return [TextRow(names(quant.name), quant, summary, floor) for quant, summary in measured(cohort, text)]


def text_table(cohort: Cohort, text: str, names: ShortNames = WHOLE) -> Table:
    """The base's line, which shows the null control, and one line per quant."""
    base = TextRow(f"{names(cohort.base.name)} (base)", cohort.base, _base_summary(cohort, text))
    rows = text_rows(cohort, text, names)
    caption = f"{text}: distance from {cohort.base.name}{names.note}"
    return make_table(f"text-{safe_name(text)}", caption, FIELDS, rows, base)


def measured(cohort: Cohort, text: str) -> list[tuple[Quant, TextSummary]]:
    """The quants that have this text, in the order of the run."""
    return [(quant, quant.texts[text]) for quant in cohort.quants if text in quant.texts]


def _base_summary(cohort: Cohort, text: str) -> TextSummary:
    """The base's perplexity over the most rows, from the quant that lost the fewest, and the null control."""
    most = min((summary for _, summary in measured(cohort, text)), key=lambda summary: summary.n_nonfinite or 0)
    null = None if cohort.null_control is None else cohort.null_control.texts.get(text)
    if null is None:
        return TextSummary(ppl=most.ppl_base, kld_mean=Estimate(None))
    return TextSummary(ppl=most.ppl_base, kld_mean=null.kld_mean, kld_max=null.kld_max, same_top=null.same_top)
