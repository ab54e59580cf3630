"""Progress on standard error, where someone can see it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text


class Reporter(Protocol):
    """What the long jobs tell about themselves (the `Progress` of quantprobe.sweep)."""

    def start(self, label: str, total: int | None, unit: str) -> None: ...
    def advance(self, n: int = 1) -> None: ...
    def finish(self) -> None: ...
    def note(self, message: str) -> None: ...


class SilentProgress:
    """Says nothing: standard error is a file or a pipe."""

    def start(self, label: str, total: int | None, unit: str) -> None:
        pass

    def advance(self, n: int = 1) -> None:
        pass

    def finish(self) -> None:
        pass

    def note(self, message: str) -> None:
        pass


class TerminalProgress:
    """One bar for the stage that runs; notes stay above it."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._task: TaskID | None = None

    def start(self, label: str, total: int | None, unit: str) -> None:
        self.finish()
        self._task = self._bars.add_task(label, total=total, unit=unit)

    def advance(self, n: int = 1) -> None:
        if self._task is not None:
            self._bars.advance(self._task, n)

    def finish(self) -> None:
        if self._task is not None:
            self._bars.remove_task(self._task)
            self._task = None

    def note(self, message: str) -> None:
        self._bars.console.print(message, markup=False, highlight=False)


class AmountColumn(ProgressColumn):
    """How much of how much is done, in the unit of the stage; bytes in GB."""

    def render(self, task: Task) -> Text:
        unit, scale, digits = task.fields["unit"], 1.0, 0
        if unit == "B":
            unit, scale, digits = "GB", 1e9, 2
        total = "" if task.total is None else f"/{task.total / scale:,.{digits}f}"
        return Text(f"{task.completed / scale:,.{digits}f}{total} {unit}")


@contextmanager
def open_progress(console: Console | None = None) -> Iterator[Reporter]:
    """Progress for the length of a `with`; the terminal is left as it was, whatever ends it."""
    console = console or Console(stderr=True)
    if not console.is_terminal:
        yield SilentProgress()
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        AmountColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bars:
        yield TerminalProgress(bars)
