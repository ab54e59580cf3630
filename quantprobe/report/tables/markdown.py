"""Tables and text in GitHub's Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

from quantprobe.report.tables.cells import Column, Table


def markdown_table(table: Table) -> str:
    """The whole table, without its caption: names to the left, numbers to the right."""
    lines = [
        [escape_markdown(_heading(column)) for column in table.columns],
        [":---", *["---:"] * (len(table.columns) - 1)],
        *[[escape_markdown(cell.text) for cell in row] for row in table.rows],
    ]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _heading(column: Column) -> str:
    return f"{column.title} ({column.unit})" if column.unit else column.title


def escape_markdown(text: str) -> str:
    """`text` as it stands in GitHub's Markdown.

    No asterisk starts emphasis, no pipe ends a cell, nothing is HTML, a link or an image.
    """
    for character in "\\|*`<":
        text = text.replace(character, "\\" + character)
    for opening in "([:":
        text = text.replace(f"]{opening}", f"]\\{opening}")
    return " ".join(text.split())


def bullets(sentences: Iterable[str]) -> list[str]:
    """Each sentence as a point of a list."""
    return [f"- {sentence}" for sentence in sentences]


def join_blocks(parts: Sequence[str]) -> str:
    """Blank lines between blocks, none between the points of one list."""
    joined = parts[0]
    for previous, part in pairwise(parts):
        joined += ("\n" if previous.startswith("- ") and part.startswith("- ") else "\n\n") + part
    return joined + "\n"
