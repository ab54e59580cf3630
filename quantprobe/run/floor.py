"""The instrument's floor: what it shows where there is no difference, and whether anybody looked."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from quantprobe.run.results import NullControl, NullTask, NullText
from quantprobe.stats.estimates import Estimate


class ControlState(Enum):
    """What is known of the base against its own capture on one text or task."""

    EXACT = "ran over at least one row; its largest KLD is 0 and no answer or top token changed"
    MOVED = "ran, and something is not 0"
    NO_MAXIMUM = "ran without a difference, but its largest KLD or the number of rows is not recorded"
    NO_ROWS = "ran, and no row was finite"
    NOT_RUN = "could not be run: the base is an imported file"
    UNKNOWN = "the run does not say whether it ran"

    @property
    def shows_floor(self) -> bool:
        """Whether a control ran on at least one row."""
        return self in (ControlState.EXACT, ControlState.MOVED, ControlState.NO_MAXIMUM)


@dataclass(frozen=True)
class Control:
    """The null control of one text or task, judged."""

    state: ControlState
    n_rows: int | None = None
    """Finite rows that were compared."""
    kld_max: float | None = None
    """Nats."""
    n_changed: int = 0
    """Answers of a task that changed."""


def text_control(null: NullControl | None, text: str) -> Control:
    """What the null control of a text supports; "exactly 0" may be said in the state `EXACT` alone."""
    if null is None or text not in null.texts:
        return Control(ControlState.UNKNOWN)
    entry = null.texts[text]
    if entry is None:
        return Control(ControlState.NOT_RUN)
    n_rows = entry.kld_mean.n or None
    if entry.kld_mean.value is None:
        return Control(ControlState.NO_ROWS, 0)
    kept_tops = entry.same_top is None or entry.same_top.value in (None, 1)
    if text_floor(entry) or entry.kld_max or not kept_tops:
        return Control(ControlState.MOVED, n_rows, entry.kld_max)
    return _without_difference(n_rows, entry.kld_max)


def task_control(null: NullControl | None, task: str) -> Control:
    """What the null control of a task supports."""
    if null is None or task not in null.tasks:
        return Control(ControlState.UNKNOWN)
    entry = null.tasks[task]
    if entry is None:
        return Control(ControlState.NOT_RUN)
    changed = _changed(entry)
    if entry.kld_max or changed:
        return Control(ControlState.MOVED, entry.n_rows, entry.kld_max, changed)
    if entry.n_rows == 0:
        return Control(ControlState.NO_ROWS, 0)
    return _without_difference(entry.n_rows, entry.kld_max)


def _without_difference(n_rows: int | None, kld_max: float | None) -> Control:
    known = n_rows is not None and kld_max is not None
    return Control(ControlState.EXACT if known else ControlState.NO_MAXIMUM, n_rows, kld_max)


def _changed(entry: NullTask) -> int:
    return entry.drops + entry.leapfrogs


def text_floor(null: NullText | None) -> float | None:
    """Mean KLD (nats) of the base against its own capture; None where no null control was run.

    The end of the interval that is farther from 0, or the value where there is no interval.
    """
    if null is None:
        return None
    ends = (null.kld_mean.low, null.kld_mean.high, null.kld_mean.value)
    return max((abs(end) for end in ends if end is not None), default=None)


def is_at_floor(kld: Estimate | None, floor: float | None) -> bool:
    """Whether a mean KLD does not stand above the floor, so that nothing may be read into it.

    A floor of exactly 0 hides nothing.
    """
    return bool(floor) and kld is not None and kld.value is not None and kld.value <= (floor or 0.0)
