"""`NAME.npz.checkpoint/N.npz`: the rows of a probe that is still going on.

Each file holds the rows that came since the one before it, so that all of them together cost one write of every row.
A file that is damaged or belongs to another measurement is as if it were not there: its rows are decoded again.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np

from quantprobe.arrays import Int64Array
from quantprobe.run.rows import read_arrays, write_arrays
from quantprobe.sweep.checkpoint import Clock
from quantprobe.sweep.measured import MeasuredTask, MeasuredText


class Unfinished:
    """The checkpoint of one probe: what `measured` has beyond its file of rows, kept under the same `key`."""

    def __init__(self, rows: Path, key: str, measured: MeasuredText | MeasuredTask) -> None:
        self._folder = rows.with_name(f"{rows.name}.checkpoint")
        self._key = key
        self._measured = measured
        self._part = np.empty(0, np.int64)
        self._new: list[Int64Array] = []
        self._clock = Clock()

    def load(self) -> Int64Array:
        """Take the rows that are there; the windows or items (by number) that were being decoded, none if none were."""
        names = ("part", "rows", *self._measured.stored)
        found = [read_arrays(path, self._key, names, self._measured.optional) for path in self._files()]
        stretches = [arrays for arrays in found if arrays is not None]
        if not stretches:
            return self._part
        self._part = stretches[-1]["part"]
        if self._measured.decoded[self._part].all():  # the file of rows was written, and then the process was killed
            self.remove()
            return self._part[:0]
        for arrays in stretches:
            self._measured.restore(arrays["rows"], arrays)
        return self._part

    def begin(self, part: Int64Array) -> None:
        """From now on rows belong to these windows or items."""
        self._part = part
        self._clock = Clock()

    def add(self, row_ids: Int64Array) -> None:
        """Note new rows; all that are not on disk yet are saved if a checkpoint is due."""
        self._new.append(row_ids)
        if self._clock.is_due():
            self.save()

    def save(self) -> None:
        """Write the rows that are not on disk yet, whole or not at all."""
        if not self._new:
            return
        row_ids = np.concatenate(self._new)
        number = max((int(path.stem) for path in self._files()), default=-1) + 1
        arrays = {"part": self._part, "rows": row_ids, **self._measured.values(row_ids)}
        write_arrays(self._folder / f"{number}.npz", self._key, arrays)
        self._new = []

    def remove(self) -> None:
        """Forget it: all of it is in the file of rows. What cannot be deleted does no harm."""
        with contextlib.suppress(OSError):
            for path in self._files():
                path.unlink()
            self._folder.rmdir()

    def _files(self) -> list[Path]:
        return sorted((path for path in self._folder.glob("*.npz") if path.stem.isdigit()), key=lambda p: int(p.stem))
