"""Calls to the disk that fail once: as a full disk, a bad sector, a lost permission, or the end of the process."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_CALLS: tuple[tuple[Any, str], ...] = (
    (Path, "open"), (os, "fsync"), (Path, "replace"), (Path, "unlink"), (Path, "mkdir"),
)  # fmt: skip
_SYNC = os.fsync


class Fault(BaseException):
    """A process that ends here: nothing catches it but a `finally`."""


ERRORS: dict[str, Callable[[], BaseException]] = {
    "killed": Fault,
    "no space": lambda: OSError(errno.ENOSPC, "No space left on device"),
    "input/output": lambda: OSError(errno.EIO, "Input/output error"),
    "forbidden": lambda: PermissionError(errno.EACCES, "Permission denied"),
}


class Faults:
    """Counts calls to the disk, opening, syncing, renaming, deleting and making folders, and lets one of them fail.

    `reads` counts the opening of files for reading instead of all that changes the disk.
    """

    def __init__(self, reads: bool = False) -> None:
        self.reads = reads
        self.n_calls = 0
        self._at: int | None = None
        self._error: Callable[[], BaseException] = Fault

    @contextmanager
    def failing(self, at: int, error: Callable[[], BaseException] = Fault) -> Iterator[None]:
        """In this block, call number `at` (from 1; 0: none) raises `error`."""
        originals = [(owner, name, getattr(owner, name)) for owner, name in _CALLS]
        self.n_calls, self._at, self._error = 0, at, error
        try:
            for owner, name, original in originals:
                setattr(owner, name, self._counted(original))
            yield
        finally:
            for owner, name, original in originals:
                setattr(owner, name, original)

    def _counted(self, original: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            if _reads(original, arguments, options) == self.reads:
                self.n_calls += 1
                if self.n_calls == self._at:
                    raise self._error()
            # what a sync does shows only when power fails, and it takes most of the time
            return None if original is _SYNC else original(*arguments, **options)

        return call


def _reads(original: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> bool:
    mode = options.get("mode", arguments[1] if len(arguments) > 1 else "r")
    return original.__name__ == "open" and str(mode).startswith("r") and "+" not in str(mode)
