"""The study and the comparison of two runs as tables."""

from __future__ import annotations

from quantprobe.metrics.quantities import QUANTITIES
from quantprobe.report.names import ShortNames, shared_start
from quantprobe.report.numbers import MISSING, format_interval, format_net
from quantprobe.report.tables.cells import (
    Cell,
    Column,
    Field,
    Table,
    make_table,
    plain_cell,
    text_cell,
    verdict_cell,
)
from quantprobe.study.correlations import IDEAS, PREDICTS, CorrelationRow
from quantprobe.study.diff import RunDiff, Shift
from quantprobe.study.findings import Findings
from quantprobe.study.ranking import RankedQuant

_SCALES = {"kld_mean": (1.0, "nats"), "acc": (100.0, "pp"), "margin": (1.0, "nats")}


def ranking_table(findings: Findings) -> Table | None:
    """Quants from the most accurate on, with the letters of those that cannot be told apart; None without answers."""
    ranking = findings.ranking
    if not ranking.quants:
        return None
    names = ShortNames(shared_start([quant.name for quant in ranking.quants]))
    fields: tuple[Field[RankedQuant], ...] = (
        Field(Column("Quant"), lambda quant: text_cell(names(quant.name))),
        Field(Column("Size", "GB", priority=2), lambda quant: plain_cell(quant.size_bytes, 1e-9)),
        Field(Column("Accuracy", "%", priority=3), lambda quant: plain_cell(quant.acc, 100)),
        Field(Column("Net change", "pp"), lambda quant: Cell(format_net(quant.net, ranking.margin), quant.net.value)),
        Field(Column("Verdict"), lambda quant: verdict_cell(quant.verdict)),
        Field(Column("Group", priority=4), lambda quant: text_cell(quant.letters)),
        Field(Column("Adjusted p", priority=6), lambda quant: plain_cell(quant.adjusted_p, digits=2)),
        Field(Column("Frontier", "%", priority=5), lambda quant: plain_cell(quant.on_frontier, 100, digits=2)),
    )
    caption = f"All tasks together, {ranking.n_items:,} questions; quants that share a letter cannot be told apart"
    return make_table("ranking", caption + names.note, fields, ranking.quants)


def correlation_table(findings: Findings, details: bool = False) -> Table | None:
    """Spearman's rho of fidelity with pooled accuracy, one column per part of the cohort; None without any.

    One row per idea of distance on the headline's source, or every measure of every text with `details`. Measures taken
    on single tasks are in the JSON only.
    """
    tasks = {row.target_source for row in findings.correlations}
    rows = [
        row
        for row in findings.correlations
        if row.correlation.method == "spearman" and row.target == "pooled" and row.source not in tasks
    ]
    if not details:
        sources = list(dict.fromkeys(row.source for row in rows))
        # all texts together where the measure exists for them, else the first text
        best = {
            row.measure: min((r.source for r in rows if r.measure == row.measure), key=sources.index) for row in rows
        }
        rows = [row for row in rows if row.measure in IDEAS and row.source == best[row.measure]]
    if not rows:
        return None
    subsets = list(dict.fromkeys(row.subset for row in rows))
    cells = {(row.measure, row.source, row.subset): row for row in rows}
    lines = tuple(
        (
            text_cell(f"{_title(measure)} on {source}"),
            *(_rho(cells[measure, source, part]) for part in subsets),
        )
        for measure, source in dict.fromkeys((row.measure, row.source) for row in rows)
    )
    counts = {part: max(row.correlation.n for row in rows if row.subset == part) for part in subsets}
    columns = (Column("Fidelity"), *(Column(part, f"{n} quants") for part, n in counts.items()))
    caption = f"Spearman's rho with accuracy pooled over the tasks (* clear of zero, {findings.adjustment})"
    return Table("correlations", caption, columns, lines)


def _title(measure: str) -> str:
    return QUANTITIES[measure].title if measure in QUANTITIES else measure


def _rho(row: CorrelationRow) -> Cell:
    r = row.correlation
    if r.value is None:
        return Cell(MISSING, None)
    star = {"": "", PREDICTS: "*"}.get(row.reading, " (wrong way)")
    bounds = "" if r.low is None or r.high is None else f" [{r.low:+.2f}, {r.high:+.2f}]"
    return Cell(f"{r.value:+.2f}{bounds}{star}", r.value)


def diff_table(diff: RunDiff) -> Table:
    """Every comparison of two runs; those that moved are marked."""
    fields: tuple[Field[Shift], ...] = (
        Field(Column("Quant"), lambda shift: text_cell(shift.quant)),
        Field(Column("On", priority=2), lambda shift: text_cell(shift.probe)),
        Field(Column("Measure", priority=2), lambda shift: text_cell(shift.measure)),
        Field(Column("B - A"), _change),
        Field(Column("Moved"), lambda shift: text_cell("moved" if shift.moved else "no")),
        Field(Column("Holm p", priority=3), lambda shift: plain_cell(shift.holm_p, digits=2)),
        Field(Column("How", priority=4), lambda shift: text_cell(shift.how)),
    )
    return make_table("diff", f"{diff.b.name} against {diff.a.name}", fields, diff.shifts)


def _change(shift: Shift) -> Cell:
    scale, unit = _SCALES[shift.measure]
    value = shift.change.value
    return Cell(MISSING if value is None else f"{format_interval(shift.change, scale)} {unit}", value)
