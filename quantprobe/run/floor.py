"""The instrument's floor: what it shows where there is no difference."""

from __future__ import annotations

from quantprobe.run.results import NullControl, NullText
from quantprobe.stats.estimates import Estimate


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


def task_floor(null: NullControl | None, task: str) -> int | None:
    """Answers that changed between the base and its own capture; None where no null control was run."""
    entry = None if null is None else null.tasks.get(task)
    return None if entry is None else entry.drops + entry.leapfrogs
