"""A mix of types, and how it did, as tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from quantprobe.report.numbers import format_interval
from quantprobe.report.tables.blame import MEASURE_COLUMNS
from quantprobe.report.tables.cells import Cell, Column, Table, plain_cell, text_cell
from quantprobe.stats.estimates import Estimate


class TypeOption(Protocol):
    """A type for a group."""

    @property
    def type_name(self) -> str: ...
    @property
    def n_bytes(self) -> int: ...
    @property
    def error(self) -> float: ...


def mix_table(groups: Sequence[str], options: Sequence[TypeOption], size_bytes: int) -> Table:
    """The type of each group."""
    rows = tuple(
        (
            text_cell(group),
            text_cell(option.type_name),
            plain_cell(option.n_bytes / 1e6),
            plain_cell(option.error, 100),
        )
        for group, option in zip(groups, options, strict=True)
    )
    columns = (Column("Group"), Column("Type"), Column("Size", "MB"), Column("Weight error", "%"))
    return Table("recipe", f"A file of {size_bytes / 1e6:.2f} MB", columns, rows)


def versus_table(caption: str, measures: Sequence[tuple[str, Estimate, str]]) -> Table:
    """The recipe against a standard quant, measure by measure: name, difference and verdict."""
    rows = []
    for measure, difference, verdict in measures:
        title, unit, scale = MEASURE_COLUMNS[measure]
        name = f"{title.removesuffix(' given back')}, {unit}"
        rows.append((text_cell(name), Cell(format_interval(difference, scale), difference.value), text_cell(verdict)))
    return Table("verified", caption, (Column("Measure"), Column("Better by"), Column("Verdict")), tuple(rows))
