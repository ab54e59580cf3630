"""Text in CSV cells that no spreadsheet takes for a formula."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence

_FORMULA = re.compile(r"'*[=+\-@\t\r\uff1d\uff0b\uff0d\uff20]")
"""What spreadsheets read as the start of a formula (the last four are the wide forms), behind our own apostrophes."""


def format_csv(lines: Iterable[Sequence[object]]) -> str:
    """Lines of CSV that end in `\\n`; text becomes what `csv_text` makes of it."""
    cells = [[csv_text(cell) if isinstance(cell, str) else cell for cell in line] for line in lines]
    # Before Python 3.13 the module leaves a carriage return unquoted when lines end with a line feed.
    bare = any(isinstance(cell, str) and "\r" in cell for line in cells for cell in line)
    out = io.StringIO(newline="")
    csv.writer(out, lineterminator="\n", quoting=csv.QUOTE_ALL if bare else csv.QUOTE_MINIMAL).writerows(cells)
    return out.getvalue()


def csv_text(text: str) -> str:
    """`text` as a cell: with an apostrophe before it where a spreadsheet would run it. A number is left as it is.

    The apostrophe is what spreadsheets themselves write for text; `read_csv_text` takes it away again.
    """
    return f"'{text}" if _FORMULA.match(text) and not _is_number(text) else text


def read_csv_text(cell: str) -> str:
    """The text that `csv_text` made a cell of."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
