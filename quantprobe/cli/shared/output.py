"""Where a command's output goes: words and tables, or JSON alone."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.table import Table as RichTable

if TYPE_CHECKING:
    from quantprobe.report.tables.cells import Table
    from quantprobe.run.json_text import Json

UNLIMITED = 10_000
"""Width, in cells, of a table that goes to a file or a pipe: nothing is dropped there."""

details_option = click.option(
    "--details", is_flag=True, help="Print every column, note and sentence, not only the summary."
)


def echo(text: str) -> None:
    """Print words to standard output; no name in them can steer the terminal."""
    from quantprobe.report.printable import printable

    click.echo(printable(text))


class Output:
    """Standard output of one command. With `--json -` only the JSON document reaches it."""

    def __init__(self, json_path: str | None, stdout_fd: int | None) -> None:
        self._json_path = json_path
        self._stdout_fd = stdout_fd
        self._console = Console(highlight=False)
        if not self._console.is_terminal:
            self._console = Console(highlight=False, width=UNLIMITED)

    @property
    def width(self) -> int | None:
        """Cells that a table may take; None where it goes to no terminal."""
        return self._console.width if self._console.is_terminal else None

    @property
    def only_json(self) -> bool:
        return self._json_path == "-"

    def say(self, text: str = "") -> None:
        """Print words, unless only JSON is asked for; no name or question can steer the terminal."""
        if not self.only_json:
            echo(text)

    def show(self, parts: Iterable[RichTable | str]) -> None:
        """Print words and tables in their order, unless only JSON is asked for."""
        for part in parts:
            if isinstance(part, str):
                self.say(part)
            elif not self.only_json:
                self._console.print(part)

    def table(self, table: Table, width: int | None = None) -> None:
        """Print a table and its caption within `width` cells (None: those of the terminal)."""
        from quantprobe.report.tables.terminal import terminal_tables

        self.show([table.caption, *terminal_tables(table, width or self.width)])

    def write_json(self, document: Json) -> None:
        """Write the document to where --json points; nothing without --json."""
        from quantprobe.run.json_text import format_json, write_json

        if self._json_path is None:
            return
        if not self.only_json:
            write_json(document, Path(self._json_path))
        elif self._stdout_fd is None:
            click.echo(format_json(document), nl=False)
        else:
            with os.fdopen(os.dup(self._stdout_fd), "wb") as stdout:
                stdout.write(format_json(document).encode("ascii"))


@contextmanager
def open_output(json_path: str | None) -> Iterator[Output]:
    """Output of one command. With `--json -`, what C libraries print on file 1 goes to standard error meanwhile."""
    stdout_fd = _stdout_fd() if json_path == "-" else None
    if stdout_fd is None:
        yield Output(json_path, None)
        return
    sys.stdout.flush()
    saved = os.dup(stdout_fd)
    os.dup2(sys.__stderr__.fileno() if sys.__stderr__ is not None else 2, stdout_fd)
    try:
        yield Output(json_path, saved)
    finally:
        sys.stdout.flush()
        os.dup2(saved, stdout_fd)
        os.close(saved)


def _stdout_fd() -> int | None:
    """The file number of standard output; None where Python's stdout is not a file (in tests, notebooks)."""
    try:
        return sys.stdout.fileno()
    except (io.UnsupportedOperation, AttributeError, ValueError):
        return None
