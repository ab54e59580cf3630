"""What every table is made of, whatever shows it: cells that know how they are read and sorted, columns, tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from quantprobe.gguf.model import ModelIdentity
from quantprobe.metrics.quantities import Quantity
from quantprobe.report.marks import mark_of
from quantprobe.report.numbers import MISSING, format_estimate, format_interval, format_plain
from quantprobe.stats.estimates import Estimate


@dataclass(frozen=True)
class Cell:
    """One cell: what is read, and what it is sorted by (None: unknown, and last in both directions)."""

    text: str
    sort: float | str | None
    kind: str = ""
    """CSS class: a verdict's, or empty."""


BLANK = Cell("", None)


@dataclass(frozen=True)
class Column:
    """One column."""

    title: str
    unit: str = ""
    priority: int = 1
    """Narrow terminals drop the column of the largest number first."""


@dataclass(frozen=True)
class Table:
    """Columns and rows; the first cell of a row is its header."""

    id: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]

    def only(self, places: Sequence[int]) -> Table:
        """The same table with these columns, in this order."""
        return replace(
            self,
            columns=tuple(self.columns[i] for i in places),
            rows=tuple(tuple(row[i] for i in places) for row in self.rows),
        )


Row = TypeVar("Row")


@dataclass(frozen=True)
class Field(Generic[Row]):
    """A column and how its cell is made from what a row stands for; declared once, shown everywhere."""

    column: Column
    cell: Callable[[Row], Cell]


def make_table(
    id_: str, caption: str, fields: Sequence[Field[Row]], rows: Sequence[Row], base: Row | None = None
) -> Table:
    """A table without the columns that no row has a value for; first the base's line, blank where it has none."""
    lines = [tuple(field.cell(row) for field in fields) for row in rows]
    known = [i for i in range(len(fields)) if any(line[i].sort is not None for line in lines)]
    if base is not None:
        cells = [field.cell(base) for field in fields]
        lines.insert(0, tuple(BLANK if cell.sort is None else cell for cell in cells))
    return Table(id_, caption, tuple(field.column for field in fields), tuple(lines)).only(known)


def quantity_column(quantity: Quantity, priority: int, unit: str | None = None) -> Column:
    """The column of a declared number: shares are read in percent, counts and ratios have no unit."""
    known = {"fraction": "%", "probability": "%", "nats": "nats"}
    return Column(quantity.title, known.get(quantity.unit, "") if unit is None else unit, priority=priority)


def text_cell(text: str) -> Cell:
    return Cell(text, text) if text else BLANK


def estimate_cell(estimate: Estimate | None, scale: float = 1.0) -> Cell:
    """`value ± stderr`."""
    return Cell(format_estimate(estimate, scale), None if estimate is None else estimate.value)


def share_cell(estimate: Estimate | None) -> Cell:
    """A share in percent; with its interval where all items agree, because an error of 0 says nothing."""
    if estimate is not None and estimate.stderr == 0:
        estimate = replace(estimate, stderr=None)
    return estimate_cell(estimate, 100)


def interval_cell(estimate: Estimate | None, scale: float = 1.0) -> Cell:
    """`value [low, high]`, signed."""
    return Cell(format_interval(estimate, scale), None if estimate is None else estimate.value)


def plain_cell(value: float | None, scale: float = 1.0, digits: int = 3) -> Cell:
    """A number without an error, such as a quantile."""
    return Cell(format_plain(value, scale, digits), value)


def signed_cell(value: float | None) -> Cell:
    """A number from -1 to 1 whose sign is the point."""
    return Cell(MISSING if value is None else f"{value:+.2f}", value)


def count_cell(value: int | None) -> Cell:
    return Cell(MISSING if value is None else f"{value:,}", value)


def verdict_cell(verdict: str | None) -> Cell:
    """A verdict behind its shape: never colour alone."""
    mark = mark_of(verdict)
    return Cell(MISSING, None) if verdict is None else Cell(f"{mark.sign} {verdict}", verdict, mark.css)


def size_cell(model: ModelIdentity) -> Cell:
    """GB, 10^9 bytes."""
    return plain_cell(model.size_gb)
