"""Tables in a terminal: as many columns as fit, the most important first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.cells import cell_len
from rich.table import Table as RichTable
from rich.text import Text

from quantprobe.report.printable import printable
from quantprobe.report.tables.cells import Column, Table

GAP = 2
"""Cells between two columns."""


def terminal_tables(table: Table, width: int | None, details: bool = False) -> Iterator[RichTable]:
    """The table within `width` cells (None: as wide as it needs), without its caption; numbers are never cut.

    Columns that do not fit are left out by priority, or follow in further tables with `details`.
    """
    widths = [_width(table, place) for place in range(len(table.columns))]
    order = range(len(widths)) if details else sorted(range(len(widths)), key=lambda i: table.columns[i].priority)
    left = [place for place in order if place]
    while True:
        chosen, left = _take(left, widths, width)
        yield _draw(table.only([0, *sorted(chosen)]))
        if not details or not left:
            return


def _width(table: Table, place: int) -> int:
    texts = [*heading(table.columns[place]).split("\n"), *(row[place].text for row in table.rows)]
    return max(map(cell_len, texts))


def heading(column: Column) -> str:
    """Title and unit on a line each: numbers are narrower than their titles."""
    return f"{column.title}\n{column.unit}" if column.unit else column.title


def _take(places: Sequence[int], widths: Sequence[int], width: int | None) -> tuple[list[int], list[int]]:
    """The places that fit beside the first column, one at least, and those that do not."""
    used = widths[0]
    chosen: list[int] = []
    left: list[int] = []
    for place in places:
        if width is None or not chosen or used + GAP + widths[place] <= width:
            used += GAP + widths[place]
            chosen.append(place)
        else:
            left.append(place)
    return chosen, left


def _draw(table: Table) -> RichTable:
    drawn = RichTable(box=None, pad_edge=False)
    for place, column in enumerate(table.columns):
        left = place == 0 or any(isinstance(row[place].sort, str) for row in table.rows)
        drawn.add_column(
            Text(heading(column)), justify="left" if left else "right", overflow="fold", no_wrap=place != 0
        )
    for row in table.rows:
        drawn.add_row(*(Text(printable(cell.text)) for cell in row))  # a name such as [red] is no markup
    return drawn
