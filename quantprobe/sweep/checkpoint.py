"""When work in progress is saved."""

from __future__ import annotations

import time

CHECKPOINT_SECONDS = 120.0
"""What a kill or a loss of power can cost; Ctrl-C and errors save first. A save takes well under a second."""


class Clock:
    """Tells when the next checkpoint is due."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def is_due(self) -> bool:
        """Whether `CHECKPOINT_SECONDS` have passed since the clock was made or last said so."""
        now = time.monotonic()
        if now - self._last < CHECKPOINT_SECONDS:
            return False
        self._last = now
        return True
