"""quantprobe plan: what a number of questions can show, before they are run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from itertools import product

import click

from quantprobe.cli.shared.options import equivalence_margin_option, json_option
from quantprobe.cli.shared.output import open_output


@click.command()
@click.option(
    "-n",
    "--items",
    "n_items",
    type=click.IntRange(min=1),
    multiple=True,
    default=(200, 1000, 5000),
    show_default=True,
    metavar="N",
    help="Number of questions; repeat for several.",
)
@click.option(
    "--churn",
    "churns",
    type=click.FloatRange(0, 1),
    multiple=True,
    default=(0.02, 0.05, 0.1),
    show_default=True,
    metavar="FRACTION",
    help="Expected share of questions that change between right and wrong; repeat for several.",
)
@equivalence_margin_option
@click.option(
    "--alpha",
    type=click.FloatRange(0, 0.5, min_open=True, max_open=True),
    default=0.05,
    show_default=True,
    help="Significance level.",
)
@click.option(
    "--power",
    type=click.FloatRange(0.5, 1, max_open=True),
    default=0.8,
    show_default=True,
    help="Share of cases in which the change is to be detected.",
)
@click.option(
    "--quants",
    "n_quants",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    metavar="N",
    help="Quants in the table; with more of them, each needs stronger evidence (Holm).",
)
@json_option
def plan(
    n_items: Sequence[int],
    churns: Sequence[float],
    margin: float,
    alpha: float,
    power: float,
    n_quants: int,
    json_path: str | None,
) -> None:  # fmt: skip
    """Show which change of accuracy N questions can detect, and how many questions the margin needs.

    Churn is the share of answers that change between right and wrong; earlier tables call it volume. Without one,
    expect about 0.02 for 8-bit and 0.05 to 0.1 for 4-bit quants of small models.

    \b
    Examples:
      quantprobe plan -n 1000 --churn 0.05
      quantprobe plan -n 300 -n 14042 --churn 0.04 --equivalence-margin 0.5% --quants 12
    """
    from quantprobe.report.plan_words import describe_plan, plan_table
    from quantprobe.stats.power import plan as make_plan

    with open_output(json_path) as output:
        plans = [make_plan(n, churn, margin, alpha, power, n_quants) for n, churn in product(n_items, churns)]
        output.table(plan_table(plans))
        output.say("\n" + "\n".join(describe_plan(plans[0])))
        output.write_json({"plans": [asdict(one) for one in plans]})
