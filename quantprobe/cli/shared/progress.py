"""Progress on standard error: the whole run and the stage that runs, where someone can see them; notes everywhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

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
)
from rich.table import Column
from rich.text import Text

from quantprobe.report.printable import printable

if TYPE_CHECKING:
    from quantprobe.sweep.inputs import Progress as Reporter

WIDE = 110
"""Cells of a terminal that has room for the time elapsed and a long bar."""
TOKENS = "tok"
"""Unit of the stages that decode: those are the jobs of the whole run."""


class NotesOnly:
    """Standard error is a file or a pipe: no bars, but every note on a line of its own."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def plan(self, n_jobs: int, n_tokens: int) -> None:
        pass

    def start(self, label: str, total: int | None, unit: str) -> None:
        pass

    def advance(self, n: int = 1) -> None:
        pass

    def finish(self) -> None:
        pass

    def note(self, message: str) -> None:
        self._console.print(printable(message), markup=False, highlight=False, soft_wrap=True)


class TerminalProgress:
    """A bar for the whole run, once its size is known, and one for the stage that runs; notes stay above them."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._run: TaskID | None = None
        self._stage: TaskID | None = None
        self._decodes = False
        self._n_done = self._n_jobs = self._n_tokens = 0

    def plan(self, n_jobs: int, n_tokens: int) -> None:
        """Tell what is left from now on."""
        self._n_jobs = self._n_done + n_jobs
        size: dict[str, Any] = {"total": self._n_tokens + n_tokens, "jobs": (self._n_done, self._n_jobs)}
        if self._run is None:
            self._run = self._bars.add_task("whole run", **size)
        else:
            self._bars.update(self._run, **size)

    def start(self, label: str, total: int | None, unit: str) -> None:
        self.finish()
        self._stage = self._bars.add_task(printable(label), total=total, unit=unit)
        self._decodes = unit == TOKENS

    def advance(self, n: int = 1) -> None:
        if self._stage is None:
            return
        self._bars.advance(self._stage, n)
        if self._decodes and self._run is not None:
            self._n_tokens += n
            self._bars.advance(self._run, n)

    def finish(self) -> None:
        if self._stage is None:
            return
        self._bars.remove_task(self._stage)
        self._stage = None
        if self._decodes and self._run is not None:
            self._n_done += 1
            self._bars.update(self._run, jobs=(self._n_done, self._n_jobs))

    def note(self, message: str) -> None:
        self._bars.console.print(printable(message), markup=False, highlight=False)


class AmountColumn(ProgressColumn):
    """How much of how much is done, in the unit of the stage (bytes in GB); of the whole run, the jobs."""

    def render(self, task: Task) -> Text:
        if "jobs" in task.fields:
            done, total = task.fields["jobs"]
            return Text(f"{done}/{total} jobs", no_wrap=True)
        unit, scale, digits = task.fields["unit"], 1.0, 0
        if unit == "B":
            unit, scale, digits = "GB", 1e9, 2
        total = "" if task.total is None else f"/{task.total / scale:,.{digits}f}"
        return Text(f"{task.completed / scale:,.{digits}f}{total} {unit}")


class LeftColumn(ProgressColumn):
    """The time left at the mean pace so far, in which loading counts too."""

    def render(self, task: Task) -> Text:
        if not task.completed or task.total is None or task.elapsed is None:
            return Text("left -:--:--")
        seconds = task.elapsed * max(task.total - task.completed, 0) / task.completed
        return Text(f"left {timedelta(seconds=round(seconds))}")


@contextmanager
def open_progress(console: Console | None = None) -> Iterator[Reporter]:
    """Progress for the length of a `with`; the terminal is left as it was, whatever ends it."""
    console = console or Console(stderr=True)
    if not console.is_terminal:
        yield NotesOnly(console)
        return
    # of the amounts, the times and the bar nothing is cut; the label gives way
    wide = console.width >= WIDE
    label = Column(no_wrap=True, overflow="ellipsis", max_width=max(console.width - (80 if wide else 52), 12))
    columns: list[ProgressColumn] = [
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False, table_column=label),
        BarColumn(bar_width=30 if wide else 10),
        AmountColumn(),
        *([TimeElapsedColumn()] if wide else []),
        LeftColumn(),
    ]
    with Progress(*columns, console=console, transient=True) as bars:
        yield TerminalProgress(bars)
