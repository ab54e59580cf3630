"""A finished capture, read: the base's probes and rows, nothing believed before its checksum fits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantprobe.arrays import Float32Array
from quantprobe.capture.meta import ROW_DTYPES, CaptureMeta, FileEntry, HeadReference, ProbeEntry
from quantprobe.capture.meta_file import load_meta
from quantprobe.capture.probe_files import decode_task, decode_text
from quantprobe.errors import FileFormatError, InputError, MismatchError
from quantprobe.files import hash_file, hash_range, reading
from quantprobe.probes.items import TaskProbe
from quantprobe.probes.text import TextProbe
from quantprobe.run.compare import PROBES


class Capture:
    """The rows of a base on disk.

    `open` checks `meta.json` and the size of every file. The checksum of a file is verified once, before
    its first use, or by `verify` for all at once.
    """

    def __init__(self, path: Path, meta: CaptureMeta, sha256: str) -> None:
        self.path = path
        self.meta = meta
        self.sha256 = sha256
        """Digest over all of `meta.json`, so over the checksum of every array: names this state of the capture."""
        self._verified: set[str] = set()

    @classmethod
    def open(cls, path: Path) -> Capture:
        """Open the finished capture at `path`.

        Raises `InputError` if there is none, `FileFormatError` if it is damaged or truncated.
        """
        if path.is_file():
            raise InputError(f"{path} is a file, and a capture is a folder; a base file of llama.cpp is imported first")
        if not path.is_dir():
            raise InputError(f"there is no capture {path}; make one of the base first")
        meta, sha256 = load_meta(path)
        try:
            _check_sizes(path, meta)
        except FileFormatError:
            # somebody may have replaced meta.json, and then deleted what only the old one names
            meta, again = load_meta(path)
            if again == sha256:
                raise
            _check_sizes(path, meta)
            sha256 = again
        return cls(path, meta, sha256)

    @property
    def n_bytes(self) -> int:
        """Bytes that `verify` reads."""
        return sum(file.n_bytes for _, file in self.meta.files())

    def verify(self, on_bytes: Callable[[int], None] | None = None) -> None:
        """Check every file against its checksum; `on_bytes` gets the length of each piece read.

        Raises `FileFormatError` naming the first damaged part.
        """
        for part, file in self.meta.files():
            self._verify_file(part, file, on_bytes)

    def entry(self, name: str) -> ProbeEntry:
        """What is known about one probe. Raises `InputError` if the capture has none of that name."""
        for entry in self.meta.probes:
            if entry.name == name:
                return entry
        known = ", ".join(entry.name for entry in self.meta.probes)
        raise InputError(f"the capture {self.path} has no probe {name!r}; it has {known}")

    def only(self, names: Sequence[str]) -> Capture:
        """The same capture with these probes alone, in this order. Raises `InputError` for a name it does not have."""
        entries = tuple(self.entry(name) for name in names)
        sources = {
            member: {entry.name: entry.source for entry in entries if f"{entry.kind}s" == member}
            for member in PROBES
            if member in self.meta.settings
        }
        chosen = replace(self.meta, probes=entries, settings={**self.meta.settings, **sources})
        return Capture(self.path, chosen, self.sha256)

    def text_probe(self, name: str) -> TextProbe:
        """The text probe of that name, as it was captured."""
        entry = self._entry_of_kind(name, "text")
        return decode_text(self._read(f"tokens of {name!r}", entry.probe), entry, str(self.path / entry.probe.name))

    def task_probe(self, name: str) -> TaskProbe:
        """The task probe of that name, as it was captured."""
        entry = self._entry_of_kind(name, "task")
        return decode_task(self._read(f"tokens of {name!r}", entry.probe), entry, str(self.path / entry.probe.name))

    def rows(self, name: str) -> NDArray[Any]:
        """The rows of one probe, `[n_rows, row_width]`, read-only and not loaded (bfloat16 comes as its uint16 bits).

        The first call reads the whole array once, for its checksum. Raises `FileFormatError` if it does not fit.
        """
        entry = self.entry(name)
        self._verify_file(f"rows of {name!r}", entry.rows)
        where = self.path / entry.rows.name
        with reading(where):
            return np.memmap(where, ROW_DTYPES[entry.row_dtype], mode="r", shape=(entry.n_rows, entry.row_width))

    def head_bytes(self, gguf: Path | None = None) -> NDArray[np.uint8]:
        """The bytes of the output matrix, `[n_bytes]` uint8, read-only and not loaded; verified at the first call.

        A head that is not embedded is read from the GGUF it was captured from, or from `gguf` where that
        was moved. Raises `InputError` if that file is not there, `MismatchError` if it holds another matrix.
        """
        head = self._head()
        if head.embedded:
            where, offset = self.path / "head.bin", 0
            self._verify_file("output matrix", FileEntry("head.bin", head.n_bytes, head.sha256))
        else:
            where, offset = gguf or Path(head.path), head.offset
            self._verify_reference(head, where)
        with reading(where):
            return np.memmap(where, np.uint8, mode="r", offset=offset, shape=(head.n_bytes,))

    def head_bias(self) -> Float32Array | None:
        """The bias after the output matrix, `[n_vocab]` float32; None where the model has none."""
        bias = self._head().bias
        if bias is None:
            return None
        return np.frombuffer(self._read("output bias", bias), dtype="<f4").astype(np.float32)

    def _head(self) -> HeadReference:
        if self.meta.head is None:
            raise InputError(f"the capture {self.path} holds {self.meta.kind} rows, which need no output matrix")
        return self.meta.head

    def _entry_of_kind(self, name: str, kind: str) -> ProbeEntry:
        entry = self.entry(name)
        if entry.kind != kind:
            raise InputError(f"{name!r} in the capture {self.path} is a {entry.kind} probe, not a {kind} probe")
        return entry

    def _read(self, part: str, file: FileEntry) -> bytes:
        self._verify_file(part, file)
        where = self.path / file.name
        with reading(where):
            return where.read_bytes()

    def _verify_file(self, part: str, file: FileEntry, on_bytes: Callable[[int], None] | None = None) -> None:
        if file.name in self._verified:
            return
        where = self.path / file.name
        found = hash_file(where, on_bytes)
        if found != file.sha256:
            raise FileFormatError(
                f"{where} ({part}) is damaged: SHA-256 {found[:12]}, expected {file.sha256[:12]}; "
                "copy it again from where it was made, or make the capture anew"
            )
        self._verified.add(file.name)

    def _verify_reference(self, head: HeadReference, gguf: Path) -> None:
        if str(gguf) in self._verified:
            return
        if not gguf.is_file():
            raise InputError(
                f"the capture {self.path} needs the base's output matrix, and {gguf} is not there; "
                "say where the base lies now (--base-model FILE), or capture with the matrix in it (--embed-head)"
            )
        found = hash_range(gguf, head.offset, head.n_bytes)
        if found != head.sha256:
            raise MismatchError(
                f"{gguf} does not hold the output matrix {head.tensor} that the capture {self.path} was made with "
                f"(SHA-256 {found[:12]}, expected {head.sha256[:12]}); give the very base of the capture"
            )
        self._verified.add(str(gguf))


def _check_sizes(path: Path, meta: CaptureMeta) -> None:
    for part, file in meta.files():
        where = path / file.name
        with reading(where):
            found = where.stat().st_size
        if found != file.n_bytes:
            raise FileFormatError(
                f"{where} ({part}) has {found} bytes, expected {file.n_bytes}; "
                "copy it again from where it was made, or make the capture anew"
            )
