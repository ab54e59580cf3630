"""The README's tables as the program defines them. Run as a script it brings the README in step."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import click

from quantprobe.cli.main import cli
from quantprobe.metrics.quantities import TEXT_QUANTITIES, Quantity
from quantprobe.metrics.rows import ROW_DTYPE

README = Path(__file__).parents[2] / "README.md"

FAMILIES = ("KL(base || quant) of a row", "change of a target's probability (quant - base)")
"""Percentiles of one quantity share a line: how their meanings end."""


def table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in (titles, ["---"] * len(titles), *rows))


def leaf_commands(group: click.Group, prefix: str = "quantprobe") -> Iterator[tuple[str, click.Command]]:
    """Every command that does something, with the words that call it."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from leaf_commands(command, f"{prefix} {name}")
        else:
            yield f"{prefix} {name}", command


def command_table() -> str:
    return table(
        ("command", "what it does"),
        [(f"`{name}`", command.get_short_help_str(200)) for name, command in leaf_commands(cli)],
    )


def metric_table() -> str:
    """Every number of `texts[NAME]`, percentiles of one quantity in one line."""
    rows: list[tuple[str, ...]] = []
    shown: set[str] = set()
    for quantity in TEXT_QUANTITIES:
        family = next((ending for ending in FAMILIES if quantity.meaning.endswith(ending)), None)
        if family is None:
            rows.append(metric_row(quantity))
        elif family not in shown:
            shown.add(family)
            rows.append(family_row(family))
    return table(("in `results.json`", "unit", "better", "meaning"), rows)


def metric_row(quantity: Quantity) -> tuple[str, ...]:
    return f"`{quantity.name}`", quantity.unit, quantity.better, escape(quantity.meaning)


def family_row(ending: str) -> tuple[str, ...]:
    members = [quantity for quantity in TEXT_QUANTITIES if quantity.meaning.endswith(ending)]
    names = ", ".join(f"`{quantity.name}`" for quantity in members)
    meaning = f"smallest, percentiles (`p999` is 99.9 %) and largest: {ending}"
    return names, members[0].unit, members[0].better, escape(meaning)


def escape(text: str) -> str:
    """A pipe would end the table's cell."""
    return text.replace("||", "‖")


def row_fields() -> str:
    return ", ".join(f"`{name}`" for name in (*(ROW_DTYPE.names or ()), "windows"))


TABLES: dict[str, Callable[[], str]] = {"commands": command_table, "metrics": metric_table, "row fields": row_fields}


def with_tables(text: str) -> str:
    """`text` with what stands between `<!-- NAME -->` and `<!-- end -->` made anew."""
    for name, make in TABLES.items():
        block = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        places = list(block.finditer(text))
        if len(places) != 1:
            raise ValueError(f"README.md has not exactly one place for the {name}")
        text = f"{text[: places[0].start()]}{places[0][1]}{make()}\n{places[0][2]}{text[places[0].end() :]}"
    return text


if __name__ == "__main__":
    README.write_text(with_tables(README.read_text(encoding="utf-8")), encoding="utf-8", newline="\n")
