"""Options that say which quants are made, and the table of what will come out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from quantprobe.cli.shared.options import Command
from quantprobe.cli.shared.output import Output
from quantprobe.errors import InputError

if TYPE_CHECKING:
    from quantprobe.engine.quantize_plan import QuantPlan
    from quantprobe.report.tables.cells import Table
    from quantprobe.sweep.ladder import Order

NO_MATRIX = "none"


def _read_types(ctx: click.Context, param: click.Parameter, given: Sequence[str]) -> list[str]:
    names = [name.strip() for one in given for name in one.split(",") if name.strip()]
    if given and not names:
        raise InputError("--types names no type; give llama.cpp's names, such as Q8_0,Q4_K_M")
    return names


def types_option(required: bool) -> Callable[[Command], Command]:
    """`--types`, which the command gets as a list of names."""
    option: Any = click.option(
        "--types",
        required=required,
        multiple=True,
        callback=_read_types,
        metavar="TYPE,...",
        help="File types to make, by llama.cpp's names, such as Q8_0,Q4_K_M,IQ4_XS; repeat for more.",
    )
    return option  # type: ignore[no-any-return]


def _read_matrices(ctx: click.Context, param: click.Parameter, given: Sequence[str]) -> list[Path | None]:
    return [None if one == NO_MATRIX else Path(one) for one in given]


imatrix_option = click.option(
    "--imatrix",
    "imatrices",
    multiple=True,
    callback=_read_matrices,
    metavar="FILE|none",
    help="Importance matrix; with several, every type is made with each of them, with `none` also without one.",
)


def show_plans(output: Output, orders: Sequence[Order], plans: Sequence[QuantPlan]) -> None:
    """Print what will be made: sizes, fallbacks, and weights of which a matrix knows nothing."""
    output.table(_plan_table(orders, plans))
    for note in _plan_notes(plans):
        output.say(note)


def _plan_table(orders: Sequence[Order], plans: Sequence[QuantPlan]) -> Table:
    from quantprobe.report.tables.cells import Column, Table, count_cell, plain_cell, text_cell

    rows = tuple(
        (
            text_cell(order.name),
            text_cell(plan.recipe.kind.name),
            plain_cell(plan.size_bytes / 1e9),
            plain_cell(plan.size_bytes / 2**30),
            plain_cell(plan.bpw),
            count_cell(sum(plan.fallbacks().values())),
            text_cell(plan.recipe.imatrix.name if plan.recipe.imatrix else "none"),
        )
        for order, plan in zip(orders, plans, strict=True)
    )
    columns = (
        Column("File"), Column("Type"), Column("Size", "GB"), Column("Size", "GiB", priority=3), Column("Bits/weight"),
        Column("Fallbacks", "tensors"), Column("Imatrix", priority=2),
    )  # fmt: skip
    return Table("quantize", "Predicted by llama.cpp's dry run", columns, rows)


def _plan_notes(plans: Sequence[QuantPlan]) -> list[str]:
    """Fallbacks, and weights that an importance matrix says nothing of; what several files share is said once."""
    notes: dict[str, list[str]] = {}
    for plan in plans:
        for (wanted, taken), n in plan.fallbacks().items():
            notes.setdefault(
                f"{n} tensors take {taken} instead of {wanted}: their rows do not fit its blocks", []
            ).append(plan.recipe.kind.name)
        if plan.unweighted:
            path = plan.recipe.imatrix
            note = f"{path} has nothing for {len(plan.unweighted)} of the tensors, such as {plan.unweighted[0]}"
            notes.setdefault(note, []).append(plan.recipe.kind.name)
    return [f"{', '.join(dict.fromkeys(names))}: {note}" for note, names in notes.items()]
