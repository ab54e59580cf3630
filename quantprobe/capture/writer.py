"""Make a capture: `NAME.qpc.partial/` while it grows, `NAME.qpc/` once every byte of it is on disk."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from quantprobe.arrays import Float32Array
from quantprobe.capture.meta import (
    FORMAT_VERSION,
    KINDS,
    ROW_DTYPES,
    CaptureMeta,
    FileEntry,
    HeadReference,
    JsonValue,
    ProbeEntry,
    find_row_fault,
)
from quantprobe.capture.meta_file import META_FILE, dump_meta, load_meta
from quantprobe.capture.probe_files import Probe, encode_probe, hash_bytes
from quantprobe.capture.row_writer import RowWriter
from quantprobe.capture.store import Capture
from quantprobe.errors import FileFormatError, InputError, MismatchError
from quantprobe.files import hash_file, hash_range, sync_file, sync_folder, write_whole, writing
from quantprobe.gguf.model import ModelIdentity


class CaptureWriter:
    """Writes one capture, probe by probe; use it in a `with` statement.

    A probe counts once its rows are whole and on disk. Whatever ends the work before `finish`
    (Ctrl-C, a full disk, a crash) leaves the finished probes in `NAME.partial`, and `create` with the same base,
    settings and kind finds them again. One process at a time writes a capture.
    """

    def __init__(self, path: Path, meta: CaptureMeta, kept: Mapping[str, ProbeEntry]) -> None:
        self.path = path
        self.folder = _partial_folder(path)
        self._meta = meta
        self._kept = dict(kept)
        self._entries: dict[str, ProbeEntry] = {}
        self._open: RowWriter | None = None

    @classmethod
    def create(cls, path: Path, base: ModelIdentity, settings: Mapping[str, JsonValue], kind: str) -> CaptureWriter:
        """Start the capture `path`, or continue it where an unfinished one fits; one that does not fit is deleted.

        Raises `InputError` if `path` exists already or its folder cannot be written.
        """
        if kind not in KINDS:
            raise InputError(f"a capture cannot be of kind {kind!r}; expected {', '.join(KINDS)}")
        if path.exists():
            raise InputError(f"{path} exists already; delete it or choose another name for the capture")
        settings = json.loads(json.dumps(settings, allow_nan=False))  # as they will be read back: tuples are lists
        meta = CaptureMeta(FORMAT_VERSION, kind, base, settings, head=None, probes=())
        folder = _partial_folder(path)
        kept = _find_kept(folder, meta)
        with writing(folder):
            if folder.exists() and not kept:
                shutil.rmtree(folder)
            folder.mkdir(parents=True, exist_ok=True)
        writer = cls(path, replace(meta, probes=tuple(kept.values())), kept)
        writer._delete_strays()  # first, for what was half written may be what fills the disk
        writer._save()
        return writer

    @property
    def kept(self) -> tuple[str, ...]:
        """Names of the finished probes found in an unfinished capture and not yet reused."""
        return tuple(self._kept)

    def reuse(self, probe: Probe) -> bool:
        """Take over the rows of this very probe from the unfinished capture; False if it has to be run.

        Reads the kept rows once, for their checksum: damaged ones are made again.
        """
        entry = self._kept.get(probe.name)
        if entry is None or entry.probe.sha256 != hash_bytes(encode_probe(probe)):
            return False
        try:
            intact = all(hash_file(self.folder / file.name) == file.sha256 for file in (entry.probe, entry.rows))
        except FileFormatError:
            intact = False
        if intact:
            self._entries[probe.name] = self._kept.pop(probe.name)
        return intact

    def begin(self, probe: Probe, row_dtype: str, row_width: int) -> RowWriter:
        """Open the array for the rows of a probe, `[probe.n_rows, row_width]` of `row_dtype`.

        An earlier probe that was begun and not finished is given up. Raises `InputError` if the rows
        do not fit on the disk, `MismatchError` if the name is taken or such rows do not belong to this kind.
        """
        fault = find_row_fault(self._meta.kind, row_dtype, row_width, self._meta.n_vocab)
        if fault is not None:
            raise MismatchError(f"probe {probe.name!r}: {fault}")
        if probe.name in self._entries:
            raise MismatchError(f"two probes are named {probe.name!r}; give each its own name")
        if probe.n_rows == 0:
            raise InputError(f"the probe {probe.name!r} has no scored position; leave it out")
        self._close_open()
        self._kept.pop(probe.name, None)
        self._save()
        self._delete_strays()
        n_bytes = probe.n_rows * row_width * ROW_DTYPES[row_dtype].itemsize
        with writing(self.folder):
            n_free = shutil.disk_usage(self.folder).free
        if n_bytes > n_free:
            raise InputError(
                f"the rows of {probe.name!r} need {n_bytes / 1e9:.2f} GB and {self.folder.parent} has "
                f"{n_free / 1e9:.2f} GB free; free some space or choose a folder on another disk"
            )
        self._open = RowWriter(self.folder, self._stem(probe.name), probe, row_dtype, row_width, self._add)
        return self._open

    def finish(self, head: HeadReference | None = None, bias: Float32Array | None = None) -> Capture:
        """Complete the capture and give it its final name.

        `head` says where the output matrix lies and whether to embed it; it is required for hidden rows and
        refused for others; its digest is taken here. `bias` is `[n_vocab]` float32 and always embedded.
        Probes of an unfinished capture that were not reused are deleted.
        """
        if not self._entries:
            raise InputError(f"nothing was captured for {self.path}; give at least one text or task")
        if (head is None) == (self._meta.kind == "hidden"):
            raise MismatchError(f"a capture of {self._meta.kind} rows {'needs' if head is None else 'has no'} head")
        if self._open is not None and self._open.entry is None:
            raise MismatchError(f"probe {self._open.name!r} was begun and not finished; finish it first")
        if head is not None:
            head = self._store_head(head, bias)
        self._kept.clear()
        self._meta = replace(self._meta, head=head)
        self._save(complete=True)
        self._delete_strays()
        with writing(self.path):
            sync_folder(self.folder)
            self.folder.replace(self.path)
            sync_folder(self.path.parent)
        return Capture.open(self.path)

    def __enter__(self) -> CaptureWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close_open()

    def _close_open(self) -> None:
        if self._open is not None:
            self._open.abandon()
            self._open = None

    def _add(self, entry: ProbeEntry) -> None:
        self._entries[entry.name] = entry
        self._save()

    def _save(self, complete: bool = False) -> None:
        entries = (*self._entries.values(), *self._kept.values())
        self._meta = replace(self._meta, probes=entries)
        write_whole(self.folder / META_FILE, dump_meta(self._meta, complete))

    def _stem(self, name: str) -> str:
        """A file name for a probe: numbered, so neither empty, hidden, reserved nor equal to another's in any case."""
        used = [int(entry.rows.name.partition("-")[0]) for entry in self._meta.probes]
        return f"{max(used, default=-1) + 1:02d}-{re.sub(r'[^A-Za-z0-9._-]', '_', name)[:60] or '_'}"

    def _store_head(self, head: HeadReference, bias: Float32Array | None) -> HeadReference:
        with ExitStack() as stack:
            copy: BinaryIO | None = None
            if head.embedded:
                where = self.folder / "head.bin"
                stack.enter_context(writing(where))
                copy = stack.enter_context(where.open("wb"))
            sha256 = hash_range(Path(head.path), head.offset, head.n_bytes, copy)
            if copy is not None:
                sync_file(copy)
        return replace(head, sha256=sha256, bias=None if bias is None else self._store_bias(bias))

    def _store_bias(self, bias: Float32Array) -> FileEntry:
        data = bias.astype("<f4").tobytes()
        write_whole(self.folder / "head_bias.bin", data)
        return FileEntry("head_bias.bin", len(data), hash_bytes(data))

    def _delete_strays(self) -> None:
        wanted = {META_FILE, *(file.name for _, file in self._meta.files())}
        with writing(self.folder):
            for path in self.folder.iterdir():
                if path.name not in wanted:
                    path.unlink()


def _partial_folder(path: Path) -> Path:
    return path.with_name(path.name + ".partial")


def _find_kept(folder: Path, meta: CaptureMeta) -> dict[str, ProbeEntry]:
    """The finished probes of an unfinished capture of the same base, settings and kind; empty if there is none."""
    if not folder.is_dir():
        return {}
    try:
        found, _ = load_meta(folder, allow_partial=True)
    except FileFormatError:
        return {}
    moved = replace(found, base=replace(found.base, path=meta.base.path, name=meta.base.name), probes=(), head=None)
    return {entry.name: entry for entry in found.probes} if moved == meta else {}
