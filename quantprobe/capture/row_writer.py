"""The rows of one probe on their way to disk, in any order, each exactly once."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantprobe.arrays import Int64Array
from quantprobe.capture.meta import ROW_DTYPES, FileEntry, JsonValue, ProbeEntry
from quantprobe.capture.probe_files import Probe, encode_probe, hash_bytes, probe_kind
from quantprobe.errors import MismatchError
from quantprobe.files import hash_file, sync_file, write_whole, writing


class RowWriter:
    """Takes the rows of one probe; made by `CaptureWriter.begin`.

    Rows go to the file by seek and write, not through a memory map: a full disk is then an error
    and not a signal that ends the process.
    """

    def __init__(
        self,
        folder: Path,
        stem: str,
        probe: Probe,
        row_dtype: str,
        row_width: int,
        on_finish: Callable[[ProbeEntry], None],
    ) -> None:
        self.name = probe.name
        self.entry: ProbeEntry | None = None
        """What the capture knows of the probe, once `finish` was called."""
        self._probe = probe
        self._row_dtype = row_dtype
        self._shape = (probe.n_rows, row_width)
        self._dtype = ROW_DTYPES[row_dtype]
        self._row_bytes = row_width * self._dtype.itemsize
        self._written = np.zeros(probe.n_rows, dtype=np.bool_)
        self._digest = hashlib.sha256()
        self._n_hashed = 0  # rows hashed as they came; rows out of order are hashed from the file at the end
        self._on_finish = on_finish
        self._path = folder / f"{stem}.rows"
        self._probe_path = folder / f"{stem}.probe"
        with writing(self._path):
            self._file = self._path.open("wb")

    def write(self, row_ids: Int64Array, rows: NDArray[Any]) -> None:
        """Write `rows`, `[n, row_width]` of the array's type, as the rows numbered `row_ids`, `[n]`.

        Raises `MismatchError` for a wrong shape or type, an id out of range or a row written twice,
        `InputError` if the disk refuses.
        """
        self._check(row_ids, rows)
        if len(row_ids) == 0:
            return
        if np.any(np.diff(row_ids) < 0):
            order = np.argsort(row_ids, kind="stable")
            row_ids, rows = row_ids[order], rows[order]
        self._mark(row_ids)
        runs = np.flatnonzero(np.diff(row_ids) != 1) + 1
        data = np.ascontiguousarray(rows, dtype=self._dtype)
        with writing(self._path):
            for low, high in zip([0, *runs.tolist()], [*runs.tolist(), len(row_ids)], strict=True):
                self._write_run(int(row_ids[low]), data[low:high])

    def finish(self, null_control: JsonValue = None, n_tokens: int = 0) -> ProbeEntry:
        """Check that every row came, make the array durable and enter the probe into the capture.

        `null_control` is kept as it is: what the base measured against its own rows; `n_tokens` is how many were
        decoded. Raises `MismatchError` naming the first missing row.
        """
        missing = np.flatnonzero(~self._written)
        if len(missing):
            raise MismatchError(
                f"probe {self.name!r}: {len(missing)} of {self._shape[0]} rows never came, the first is {missing[0]}"
            )
        with writing(self._path):
            sync_file(self._file)
            self._file.close()
        in_order = self._n_hashed == self._shape[0]
        sha256 = self._digest.hexdigest() if in_order else hash_file(self._path)
        data = encode_probe(self._probe)
        write_whole(self._probe_path, data)
        self.entry = ProbeEntry(
            name=self.name,
            kind=probe_kind(self._probe),
            sha256=self._probe.sha256(),
            n_rows=self._shape[0],
            row_dtype=self._row_dtype,
            row_width=self._shape[1],
            probe=FileEntry(self._probe_path.name, len(data), hash_bytes(data)),
            rows=FileEntry(self._path.name, self._shape[0] * self._row_bytes, sha256),
            null_control=null_control,
            n_tokens=n_tokens,
        )
        self._on_finish(self.entry)
        return self.entry

    def abandon(self) -> None:
        """Close the file; what it holds of an unfinished probe is worth nothing."""
        with contextlib.suppress(OSError):  # the disk may still be full, and that was said already
            self._file.close()

    def _check(self, row_ids: Int64Array, rows: NDArray[Any]) -> None:
        expected = (len(row_ids), self._shape[1])
        if rows.shape != expected or rows.dtype != self._dtype:
            raise MismatchError(
                f"probe {self.name!r}: rows are {rows.shape} {rows.dtype}, expected {expected} {self._dtype}"
            )
        if len(row_ids) and not 0 <= int(row_ids.min()) <= int(row_ids.max()) < self._shape[0]:
            raise MismatchError(
                f"probe {self.name!r}: row ids {row_ids.min()} to {row_ids.max()} are outside 0 to {self._shape[0] - 1}"
            )

    def _mark(self, row_ids: Int64Array) -> None:
        """Note sorted rows as written. Raises `MismatchError` for one that was."""
        repeated = np.concatenate([row_ids[self._written[row_ids]], row_ids[1:][np.diff(row_ids) == 0]])
        if len(repeated):
            raise MismatchError(f"probe {self.name!r}: row {repeated[0]} came twice")
        self._written[row_ids] = True

    def _write_run(self, first: int, rows: NDArray[Any]) -> None:
        data = rows.view(np.uint8).data
        self._file.seek(first * self._row_bytes)
        self._file.write(data)
        if first == self._n_hashed:
            self._digest.update(data)
            self._n_hashed += len(rows)
