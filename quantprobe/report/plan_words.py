"""A plan as a table and in words."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from quantprobe.report.numbers import format_plain
from quantprobe.report.tables.shapes import fit_table
from quantprobe.stats.power import Plan


def plan_table(plans: Sequence[Plan]) -> Table:
    """One line per plan: what so many questions find, and how many the margin needs."""
    margin = f"{100 * plans[0].margin:g}"
    titles = [
        "Questions", "Churn %", "Finds, points", f"To find {margin}", f"To show not worse by {margin}",
        f"To show within ±{margin}",
    ]  # fmt: skip
    rows = [
        [
            f"{plan.n:,}",
            f"{100 * plan.churn:g}",
            _points(plan.mde) if plan.detectable else "none possible",
            "none possible" if plan.n_to_detect is None else f"{plan.n_to_detect:,}",
            f"{plan.n_to_show_noninferior:,}",
            f"{plan.n_to_show_equivalent:,}",
        ]
        for plan in plans
    ]
    return fit_table("What questions can show", titles, [1] * len(titles), rows, None)


def describe_plan(plan: Plan) -> list[str]:
    """The first line of the table in words."""
    churn, margin, power = f"{100 * plan.churn:g} %", f"{100 * plan.margin:g}", f"{plan.power:.0%}"
    quants = "" if plan.n_quants == 1 else f" in a table of {plan.n_quants} quants"
    setting = f"With {plan.n:,} questions of which {churn} change{quants}"
    if plan.detectable:
        first = f"{setting}, a change of accuracy of {_points(plan.mde)} points is found in {power} of cases."
    else:
        first = (
            f"{setting}, no change is found in {power} of cases: even if every change were a drop, that is "
            f"{_points(plan.churn)} points, and {_points(plan.mde)} would be needed."
        )
    if plan.n_to_detect is None:
        second = f"A change of {margin} points cannot happen where only {churn} of answers change."
    else:
        second = f"To find a change of {margin} points takes {plan.n_to_detect:,} questions."
    return [
        first,
        second,
        f"If nothing changes on balance, {plan.n_to_show_noninferior:,} questions show that it is not worse by "
        f"{margin} points, {plan.n_to_show_equivalent:,} that it is within ±{margin}.",
        f"Fewer than {plan.min_drops} drops without a leapfrog are never significant at "
        f"{100 * plan.alpha:g} %{quants}.",
    ]


def _points(fraction: float) -> str:
    return format_plain(fraction, 100, digits=2)
