"""The rows of one probe on their way to disk, in any order, each exactly once."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantprobe.arrays import BoolArray, Int64Array
from quantprobe.capture.checkpoint import (
    SUFFIX,
    Checkpoint,
    Stretch,
    intact_stretches,
    load_checkpoint,
    save_checkpoint,
)
from quantprobe.capture.meta import ROW_DTYPES, FileEntry, JsonValue, ProbeEntry
from quantprobe.capture.probe_files import Probe, encode_probe, hash_bytes, probe_kind
from quantprobe.errors import MismatchError
from quantprobe.files import hash_file, sync_file, write_whole, writing


@dataclass(frozen=True)
class _Since:
    """What was written since the last checkpoint, up to a whole block."""

    runs: tuple[tuple[int, int], ...] = ()
    n_blocks: int = 0
    digest: Any = None
    """SHA-256 of the bytes of the runs; never updated, only copied."""

    def after(self, runs: list[tuple[int, int]], data: NDArray[Any]) -> _Since:
        """With one more block, whose bytes `data` are those of `runs` in this order."""
        digest = hashlib.sha256() if self.digest is None else self.digest.copy()
        digest.update(data.view(np.uint8).data)
        joined = list(self.runs)
        for first, n in runs:
            if joined and sum(joined[-1]) == first:
                joined[-1] = (joined[-1][0], joined[-1][1] + n)
            else:
                joined.append((first, n))
        return _Since(tuple(joined), self.n_blocks + 1, digest)


class RowWriter:
    """Takes the rows of one probe, block by block; made by `CaptureWriter.begin`.

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
        state: Mapping[str, NDArray[Any]] | None = None,
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
        self._checkpoint_path = folder / f"{stem}{SUFFIX}"
        self._data = encode_probe(probe)
        self._key = hash_bytes(self._data + f"{row_dtype} {row_width}".encode())
        self._since = _Since()
        self._checkpoint = self._continue(state or {})
        with writing(self._path):
            self._file = self._path.open("r+b" if self._checkpoint.stretches else "wb")

    @property
    def done(self) -> BoolArray:
        """`[n_rows]`: the rows that are there; right after `begin` those of an earlier run."""
        return self._written.copy()

    @property
    def n_blocks(self) -> int:
        """How many blocks they came in."""
        return sum(stretch.n_blocks for stretch in self._checkpoint.stretches) + self._since.n_blocks

    @property
    def state(self) -> Mapping[str, NDArray[Any]]:
        """The caller's arrays of the last checkpoint."""
        return self._checkpoint.state

    @property
    def n_needed(self) -> int:
        """Bytes of rows that are still to come."""
        return int(self._row_bytes * np.count_nonzero(~self._written))

    def _continue(self, state: Mapping[str, NDArray[Any]]) -> Checkpoint:
        """What an earlier run left of this very probe, as far as its rows are in the file."""
        found = load_checkpoint(self._checkpoint_path, self._key, self._shape[0], state)
        if found is None:
            return Checkpoint((), state)
        stretches = intact_stretches(self._path, self._row_bytes, found.stretches)
        for first, n in (run for stretch in stretches for run in stretch.runs):
            self._written[first : first + n] = True
        return replace(found, stretches=stretches)

    def checkpoint(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Make all whole blocks durable, so that another run goes on from here with the arrays `state`.

        Raises `InputError` if the disk refuses; the checkpoint before then stays.
        """
        since = self._since
        stretches = self._checkpoint.stretches
        if since.digest is not None:
            stretches = (*stretches, Stretch(since.runs, since.n_blocks, since.digest.digest()))
        with writing(self._path, self.n_needed):
            sync_file(self._file)
        checkpoint = Checkpoint(stretches, state)
        save_checkpoint(self._checkpoint_path, self._key, checkpoint)
        self._checkpoint, self._since = checkpoint, _Since()

    def write(self, row_ids: Int64Array, rows: NDArray[Any]) -> None:
        """Write one block: `rows`, `[n, row_width]` of the array's type, as the rows numbered `row_ids`, `[n]`.

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
        cuts = (np.flatnonzero(np.diff(row_ids) != 1) + 1).tolist()
        data = np.ascontiguousarray(rows, dtype=self._dtype)
        ends = list(zip([0, *cuts], [*cuts, len(row_ids)], strict=True))
        with writing(self._path, self.n_needed + data.nbytes):
            for low, high in ends:
                self._write_run(int(row_ids[low]), data[low:high])
        # last and at once: an interrupted block counts as never written
        self._since = self._since.after([(int(row_ids[low]), high - low) for low, high in ends], data)

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
        data = self._data
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
        with writing(self._checkpoint_path):
            self._checkpoint_path.unlink(missing_ok=True)
        return self.entry

    def abandon(self) -> None:
        """Close the file; of an unfinished probe, what the last checkpoint names is worth something."""
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
