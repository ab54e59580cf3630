"""The study and the comparison of two runs as tables for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.cells import cell_len
from rich.table import Table

from quantprobe.report.numbers import format_plain
from quantprobe.report.page.cells import format_interval, verdict_cell
from quantprobe.study.correlations import CorrelationRow
from quantprobe.study.diff import RunDiff, Shift
from quantprobe.study.findings import Findings

_SCALES = {"kld_mean": (1.0, "nats"), "acc": (100.0, "pp"), "margin": (1.0, "nats")}


def ranking_table(findings: Findings, width: int | None) -> Table | None:
    """Quants from the most accurate on, with the letters of those that cannot be told apart; None without answers."""
    ranking = findings.ranking
    if not ranking.quants:
        return None
    titles = ("Quant", "Acc %", "Net change pp", "Verdict", "Group", "Size GB", "Holm p", "Frontier %")
    rows = [
        (
            quant.name,
            f"{quant.acc * 100:.1f}",
            format_interval(quant.net, 100),
            verdict_cell(quant.verdict).text,
            quant.letters,
            format_plain(None if quant.size_bytes is None else quant.size_bytes / 1e9),
            f"{quant.holm_p:.2g}",
            "n/a" if quant.on_frontier is None else f"{quant.on_frontier * 100:.0f}",
        )
        for quant in ranking.quants
    ]
    title = f"All tasks together, {ranking.n_items:,} items; quants that share a letter cannot be told apart"
    return _fit(title, titles, rows, width)


def correlation_table(findings: Findings, width: int | None) -> Table | None:
    """Spearman of every fidelity variant with pooled accuracy, one column per part of the cohort; None without any.

    Variants measured on single tasks are in the JSON only.
    """
    tasks = {row.target_source for row in findings.correlations}
    rows = [
        row
        for row in findings.correlations
        if row.correlation.method == "spearman" and row.target == "pooled" and row.source not in tasks
    ]
    if not rows:
        return None
    subsets = list(dict.fromkeys(row.subset for row in rows))
    cells = {(row.measure, row.source, row.subset): row for row in rows}
    variants = dict.fromkeys((row.measure, row.source) for row in rows)
    lines = [
        [f"{m} on {s}", *(_correlation(cells[m, s, part], findings.level) for part in subsets)] for m, s in variants
    ]
    counts = [max(row.correlation.n for row in rows if row.subset == subset) for subset in subsets]
    titles = ["Fidelity", *(f"{subset} (n={n})" for subset, n in zip(subsets, counts, strict=True))]
    title = f"Spearman's rho with accuracy pooled over the tasks; * clear of zero ({findings.adjustment})"
    return _fit(title, titles, lines, width)


def _correlation(row: CorrelationRow, level: float) -> str:
    r = row.correlation
    if r.value is None:
        return "n/a"
    star = "*" if row.p_adjusted is not None and row.p_adjusted <= 1 - level else ""
    bounds = "" if r.low is None or r.high is None else f" [{r.low:+.2f}, {r.high:+.2f}]"
    return f"{r.value:+.2f}{bounds}{star}"


def diff_table(diff: RunDiff, width: int | None) -> Table:
    """Every comparison of two runs; those that moved are marked."""
    rows = [
        (
            shift.quant,
            shift.probe,
            shift.measure,
            _change(shift),
            "moved" if shift.moved else "no",
            "n/a" if shift.holm_p is None else f"{shift.holm_p:.2g}",
            shift.how,
        )
        for shift in diff.shifts
    ]
    titles = ("Quant", "On", "Measure", "B - A", "Moved", "Holm p", "How")
    return _fit(f"{diff.b.name} against {diff.a.name}", titles, rows, width)


def _change(shift: Shift) -> str:
    scale, unit = _SCALES[shift.measure]
    return "n/a" if shift.change.value is None else f"{format_interval(shift.change, scale)} {unit}"


def _fit(title: str, titles: Sequence[str], rows: Sequence[Sequence[str]], width: int | None) -> Table:
    """A table from which columns go, from the right, until the rest fits `width` cells (None: as wide as needed)."""
    widths = [max(cell_len(cell) for cell in column) for column in zip(titles, *rows, strict=True)]
    kept = len(titles)
    while width is not None and kept > 2 and sum(widths[:kept]) + 2 * kept > width:
        kept -= 1
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for i in range(kept):
        table.add_column(titles[i], justify="left" if i == 0 else "right", overflow="fold", no_wrap=i != 0)
    for row in rows:
        table.add_row(*row[:kept])
    return table
