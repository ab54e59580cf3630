"""Tables of any content: as wide as a terminal allows, and as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from rich.cells import cell_len
from rich.table import Table


def fit_table(
    title: str, titles: Sequence[str], priorities: Sequence[int], rows: Sequence[Sequence[str]], width: int | None
) -> Table:
    """A table for a terminal of `width` cells (None: as wide as it needs).

    Columns go in order of their priority, the largest first, until the rest fits; numbers are never cut.
    """
    widths = [max(cell_len(cell) for cell in column) for column in zip(titles, *rows, strict=True)]
    kept = list(range(len(titles)))
    while width is not None and len(kept) > 2 and sum(widths[i] + 2 for i in kept) > width:
        kept.remove(max(kept, key=lambda i: priorities[i]))
    table = Table(title=title, box=None, pad_edge=False, title_justify="left")
    for i in kept:
        table.add_column(titles[i], justify="left" if i == 0 else "right", overflow="fold", no_wrap=i != 0)
    for row in rows:
        table.add_row(*(row[i] for i in kept))
    return table


def markdown_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in GitHub's Markdown: names to the left, numbers to the right."""
    lines = [
        titles,
        [":---", *["---:"] * (len(titles) - 1)],
        *[[escape_markdown(cell) for cell in row] for row in rows],
    ]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def escape_markdown(text: str) -> str:
    """`text` as it stands in GitHub's Markdown: no asterisk starts emphasis, no pipe ends a cell, nothing is HTML."""
    for character in "\\|*`<":
        text = text.replace(character, "\\" + character)
    return " ".join(text.split())


def join_blocks(parts: Sequence[str]) -> str:
    """Blank lines between blocks, none between the points of one list."""
    joined = parts[0]
    for previous, part in pairwise(parts):
        joined += ("\n" if previous.startswith("- ") and part.startswith("- ") else "\n\n") + part
    return joined + "\n"
