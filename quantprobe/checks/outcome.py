"""What a check says, and what that means for a file and for the exit code."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

PASS, WARN, FAIL, SKIPPED, UNCHECKED = "pass", "warn", "fail", "skipped", "unchecked"
"""`skipped`: nothing to check it against, or pointless after a failure. `unchecked`: asked for and not possible."""
ALL_PASS, FAILED, COULD_NOT_CHECK = 0, 1, 2


@dataclass(frozen=True)
class Check:
    """One named check of one file: its status, and the reason in one sentence."""

    name: str
    status: str
    reason: str
    details: tuple[str, ...] = ()
    """What was found one by one, where that is a list."""
    seconds: float = 0.0


@dataclass(frozen=True)
class FileReport:
    """All checks of one file, in the order in which they were made."""

    path: Path
    name: str
    checks: tuple[Check, ...]

    @property
    def status(self) -> str:
        """The worst status of its checks; skipped ones say nothing."""
        found = {check.status for check in self.checks}
        return next((status for status in (FAIL, UNCHECKED, WARN) if status in found), PASS)

    def of_status(self, *statuses: str) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if check.status in statuses)


def exit_code(reports: Sequence[FileReport]) -> int:
    """0: every check passed, warnings allowed; 1: one failed; 2: none failed and one could not be made."""
    found = {report.status for report in reports}
    if FAIL in found:
        return FAILED
    return COULD_NOT_CHECK if UNCHECKED in found else ALL_PASS


def passed(name: str, reason: str) -> Check:
    return Check(name, PASS, reason)


def skipped(name: str, reason: str) -> Check:
    return Check(name, SKIPPED, reason)


def listed(names: Sequence[str], n: int = 3) -> str:
    """The first names of a list, and how many more there are."""
    more = f" and {len(names) - n:,} more" if len(names) > n else ""
    return ", ".join(names[:n]) + more
