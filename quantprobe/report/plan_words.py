"""A plan as a table and in words."""

from __future__ import annotations

from collections.abc import Sequence

from quantprobe.report.numbers import format_plain, format_points
from quantprobe.report.tables.cells import Cell, Column, Table, count_cell, plain_cell
from quantprobe.stats.power import Plan

NEVER = Cell("never", None)


def plan_table(plans: Sequence[Plan]) -> Table:
    """One line per plan: what so many questions detect, and how many the margin needs."""
    margin = format_points(plans[0].margin)
    columns = (
        Column("Questions"), Column("Churn", "%"), Column("Detects", "points"), Column("To detect", margin),
        Column("To show not worse", f"by {margin}"), Column("To show equivalent", f"within ±{margin}"),
    )  # fmt: skip
    rows = tuple(
        (
            count_cell(plan.n),
            Cell(f"{100 * plan.churn:g}", plan.churn),
            plain_cell(plan.mde, 100, digits=2) if plan.detectable else NEVER,
            NEVER if plan.n_to_detect is None else count_cell(plan.n_to_detect),
            count_cell(plan.n_to_show_noninferior),
            count_cell(plan.n_to_show_equivalent),
        )
        for plan in plans
    )
    return Table("plan", "What the questions can show", columns, rows)


def describe_plan(plan: Plan) -> list[str]:
    """The first line of the table in words."""
    churn, margin, power = f"{100 * plan.churn:g} %", format_points(plan.margin), f"{plan.power:.0%}"
    quants = "" if plan.n_quants == 1 else f" in a table of {plan.n_quants} quants"
    setting = f"With {plan.n:,} questions of which {churn} change{quants}"
    if plan.detectable:
        first = f"{setting}, a change of accuracy of {_points(plan.mde)} points is detected in {power} of cases."
    else:
        first = (
            f"{setting}, no change is detected in {power} of cases: even if every change were a drop, that is "
            f"{_points(plan.churn)} points, and {_points(plan.mde)} would be needed."
        )
    if plan.n_to_detect is None:
        second = f"A change of {margin} cannot happen where only {churn} of answers change."
    else:
        second = f"Detecting a change of {margin} takes {plan.n_to_detect:,} questions."
    return [
        first,
        second,
        f"If gains and losses balance, {plan.n_to_show_noninferior:,} questions show that a quant is not worse by "
        f"{margin}, and {plan.n_to_show_equivalent:,} that it is within ±{margin}.",
        f"Fewer than {plan.min_drops} drops without a leapfrog are never significant at "
        f"{100 * plan.alpha:g} %{quants}.",
    ]


def _points(fraction: float) -> str:
    return format_plain(fraction, 100, digits=2)
