"""The table of a text: how far each quant moved from the base."""

from __future__ import annotations

from dataclasses import dataclass, replace

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
    share_cell,
    shown_unit,
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


def _quantile(name: str, title: str, priority: int) -> Field[TextRow]:
    unit, scale = shown_unit(text_quantity(name).unit)
    return Field(Column(title, unit, priority=priority), lambda row: plain_cell(getattr(row.summary, name), scale))


def _estimate(name: str, title: str, priority: int) -> Field[TextRow]:
    unit, scale = shown_unit(text_quantity(name).unit)
    return Field(Column(title, unit, priority=priority), lambda row: estimate_cell(getattr(row.summary, name), scale))


NAME: Field[TextRow] = Field(Column("Quant"), lambda row: text_cell(row.name))
SIZE: Field[TextRow] = Field(Column("Size", "GB", priority=3), lambda row: size_cell(row.model))
SIZE_GIB: Field[TextRow] = Field(Column("Size", "GiB", priority=9), lambda row: plain_cell(row.model.size_gib))
BPW: Field[TextRow] = Field(Column("bpw", "bits", priority=6), lambda row: plain_cell(row.model.bpw))
PPL = Field(Column("PPL", priority=5), _estimate("ppl", "PPL", 5).cell)
KLD_MEAN = Field(Column("Mean KLD", text_quantity("kld_mean").unit), _kld_cell)
KLD_MEDIAN = _quantile("kld_median", "Median KLD", 8)
KLD_P99 = _quantile("kld_p99", "99 % KLD", 4)
KLD_P999 = _quantile("kld_p999", "99.9 % KLD", 7)
KLD_MAX = _quantile("kld_max", "Max KLD", 10)
DELTA_P = _estimate("delta_p_rms", "RMS Δp", 11)
SAME_TOP = Field(Column("Same top", "%", priority=2), lambda row: share_cell(row.summary.same_top))
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
