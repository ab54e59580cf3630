"""Make a capture, or add probes to one that is there.

A new one grows as `NAME.qpc.partial/` and becomes `NAME.qpc/` once every byte of it is on disk. One that is there gets
new files beside its old ones, which `pending.json` lists, until a new meta.json takes the place of the old.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from numpy.typing import NDArray

from quantprobe.arrays import Float32Array
from quantprobe.capture import checkpoint
from quantprobe.capture.meta import (
    FORMAT_VERSION,
    KINDS,
    CaptureMeta,
    FileEntry,
    HeadReference,
    JsonValue,
    ProbeEntry,
    find_row_fault,
)
from quantprobe.capture.meta_file import META_FILE, PENDING_FILE, dump_meta, load_meta
from quantprobe.capture.probe_files import Probe, encode_probe, hash_bytes
from quantprobe.capture.row_writer import RowWriter
from quantprobe.capture.store import Capture
from quantprobe.errors import FileFormatError, InputError, MismatchError
from quantprobe.files import hash_file, hash_range, sync_file, sync_folder, write_whole, writing
from quantprobe.gguf.model import ModelIdentity
from quantprobe.run.compare import PROBES

_OURS = re.compile(
    r"[0-9]{2,9}-[A-Za-z0-9._-]{1,60}\.(rows|probe|checkpoint)|head(_bias)?\.bin|pending\.json|.*\.partial"
)


def lock_file(path: Path) -> Path:
    """The lock that whoever writes the capture `path` holds: beside it, as the capture itself may be renamed."""
    return path.with_name(path.name + ".lock")


class CaptureWriter:
    """Writes one capture, probe by probe; use it in a `with` statement, and hold the lock of `lock_file(path)`.

    A probe counts once its rows are whole and on disk, and an unfinished one up to its last checkpoint. Whatever ends
    the work before `finish` (Ctrl-C, a full disk, a crash), `create` finds both again, and a capture that was there is
    what it was.
    """

    def __init__(
        self, path: Path, folder: Path, meta: CaptureMeta, sources: Mapping[str, str], kept: Mapping[str, ProbeEntry]
    ) -> None:
        self.path = path
        self.folder = folder
        self._growing = folder / (PENDING_FILE if folder == path else META_FILE)
        self._meta = meta
        self._published = {entry.name: entry for entry in meta.probes}
        self._sources = sources
        self._kept = dict(kept)
        self._entries: dict[str, ProbeEntry] = {}
        self._open: RowWriter | None = None

    @classmethod
    def create(cls, path: Path, base: ModelIdentity, settings: Mapping[str, JsonValue], kind: str) -> CaptureWriter:
        """Start the capture `path`, continue it where it is unfinished, or extend it where it is there.

        What is unfinished and does not fit is deleted. Raises `InputError` if the folder cannot be written,
        `MismatchError` if the capture at `path` is of another base, kind or setting that moves logits.
        """
        if kind not in KINDS:
            raise InputError(f"a capture cannot be of kind {kind!r}; expected {', '.join(KINDS)}")
        # as they will be read back: tuples are lists
        recorded: dict[str, Any] = json.loads(json.dumps(settings, allow_nan=False))
        meta = CaptureMeta(FORMAT_VERSION, kind, base, recorded, head=None, probes=())
        folder = _partial_folder(path)
        if path.exists():
            folder, published = path, Capture.open(path).meta
            require_fit(path, published, meta)
            # the new settings say how the texts of this call were cut, the base where it lies now
            meta = replace(
                meta, settings={**published.settings, **recorded}, head=published.head, probes=published.probes
            )
        pending = find_unfinished(path, meta)
        kept = {} if pending is None else {entry.name: entry for entry in pending.probes if entry not in meta.probes}
        if pending is not None:
            meta = replace(meta, head=pending.head)
        with writing(folder):
            if folder != path and folder.exists() and pending is None:
                shutil.rmtree(folder)
            folder.mkdir(parents=True, exist_ok=True)
        sources = {name: source for member in PROBES for name, source in recorded.get(member, {}).items()}
        writer = cls(path, folder, meta, sources, kept)
        writer._delete_strays()  # first, for what was half written may be what fills the disk
        writer._save()
        return writer

    @property
    def extends(self) -> bool:
        """Whether a finished capture is there already."""
        return self.folder == self.path

    @property
    def head(self) -> HeadReference | None:
        """The output matrix, where it was entered already."""
        return self._meta.head

    @property
    def kept(self) -> tuple[str, ...]:
        """Names of the finished probes found in an unfinished capture and not yet reused."""
        return tuple(self._kept)

    def reuse(self, probe: Probe) -> bool:
        """Take over the rows of this very probe that are there already; False if it has to be run.

        Reads rows of an unfinished capture once, for their checksum: damaged ones are made again.
        """
        sha256 = hash_bytes(encode_probe(probe))
        published, entry = self._published.get(probe.name), self._kept.get(probe.name)
        if published is not None and published.probe.sha256 == sha256:
            self._add(published)
            return True
        if entry is None or entry.probe.sha256 != sha256 or not self._is_intact(entry):
            return False
        self._add(self._kept.pop(probe.name))
        return True

    def begin(
        self, probe: Probe, row_dtype: str, row_width: int, state: Mapping[str, NDArray[Any]] | None = None
    ) -> RowWriter:
        """Open the array for the rows of a probe, `[probe.n_rows, row_width]` of `row_dtype`.

        Goes on from a checkpoint of this very probe, whose arrays have the names and shapes of `state`. A probe of the
        same name in the finished capture stays there until `finish`. An earlier probe that was begun and not finished
        is given up. Raises `InputError` if the rows do not fit on the disk, `MismatchError` if the name is taken or
        such rows do not belong to this kind.
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
        self._open = RowWriter(self.folder, self._stem(probe.name), probe, row_dtype, row_width, self._add, state)
        with writing(self.folder):
            n_free = shutil.disk_usage(self.folder).free
        if self._open.n_needed > n_free:
            raise InputError(
                f"the rows of {probe.name!r} need {self._open.n_needed / 1e9:.2f} GB and {self.folder.parent} has "
                f"{n_free / 1e9:.2f} GB free; free some space or choose a folder on another disk"
            )
        return self._open

    def store_head(self, head: HeadReference, bias: Float32Array | None = None) -> None:
        """Enter the output matrix, which hidden rows need; its digest is taken here, and it is copied if embedded.

        `bias` is `[n_vocab]` float32 and always embedded.
        """
        with ExitStack() as stack:
            copy: BinaryIO | None = None
            if head.embedded:
                where = self.folder / "head.bin"
                stack.enter_context(writing(where, head.n_bytes))
                copy = stack.enter_context(where.open("wb"))
            sha256 = hash_range(Path(head.path), head.offset, head.n_bytes, copy)
            if copy is not None:
                sync_file(copy)
        head = replace(head, sha256=sha256, bias=None if bias is None else self._store_bias(bias))
        self._meta = replace(self._meta, head=head)
        self._save()

    def move_head(self, gguf: Path) -> None:
        """Say where the output matrix lies now; the base is the same, so it is the same matrix."""
        if self.head is not None:
            self._meta = replace(self._meta, head=replace(self.head, path=str(gguf.resolve())))

    def finish(self, head: HeadReference | None = None, bias: Float32Array | None = None) -> Capture:
        """Complete the capture: a new one gets its name, one that was there a new meta.json.

        `head` and `bias` are for `store_head`, where that was not done before; rows that are not hidden have none.
        Finished probes of an unfinished capture that nobody asked for stay in it. Files that the new meta.json does
        not name are deleted once it is on disk.
        """
        for name in [name for name, entry in self._kept.items() if not self._is_intact(entry)]:
            del self._kept[name]
        if not (self._entries or self._kept or self._published):
            raise InputError(f"nothing was captured for {self.path}; give at least one text or task")
        has_head = head is not None or self.head is not None
        if has_head != (self._meta.kind == "hidden"):
            raise MismatchError(f"a capture of {self._meta.kind} rows {'has no' if has_head else 'needs a'} head")
        if self._open is not None and self._open.entry is None:
            raise MismatchError(f"probe {self._open.name!r} was begun and not finished; finish it first")
        if head is not None:
            self.store_head(head, bias)
        self._save()
        with writing(self.path):
            sync_folder(self.folder)
        write_whole(self.folder / META_FILE, dump_meta(self._meta, complete=True))
        self._growing, self._published = self.folder / META_FILE, {}
        self._delete_strays()
        if not self.extends:
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

    def _is_intact(self, entry: ProbeEntry) -> bool:
        try:
            return all(hash_file(self.folder / file.name) == file.sha256 for file in (entry.probe, entry.rows))
        except FileFormatError:
            return False

    def _add(self, entry: ProbeEntry) -> None:
        self._entries[entry.name] = replace(entry, source=self._sources.get(entry.name, ""))
        self._save()

    def _save(self) -> None:
        """Keep what there is for a run that goes on; nothing of it is published yet."""
        probes = tuple({**self._published, **self._kept, **self._entries}.values())
        sources = {
            member: {entry.name: entry.source for entry in probes if f"{entry.kind}s" == member}
            for member in PROBES
            if member in self._meta.settings
        }
        self._meta = replace(self._meta, probes=probes, settings={**self._meta.settings, **sources})
        write_whole(self._growing, dump_meta(self._meta, complete=False))

    def _stem(self, name: str) -> str:
        """A file name for a probe: numbered, so neither empty, hidden, reserved nor equal to another's in any case."""
        safe = re.sub(r"[^A-Za-z0-9._-]", "_", name)[:60] or "_"
        used = {int(entry.rows.name.partition("-")[0]): "" for entry in (*self._meta.probes, *self._published.values())}
        begun = sorted(self.folder.glob(f"*{checkpoint.SUFFIX}"))
        used |= {int(path.name.partition("-")[0]): path.stem.partition("-")[2] for path in begun}
        mine = [number for number, begun_name in used.items() if begun_name == safe]
        return f"{mine[0] if mine else max(used, default=-1) + 1:02d}-{safe}"

    def _store_bias(self, bias: Float32Array) -> FileEntry:
        data = bias.astype("<f4").tobytes()
        write_whole(self.folder / "head_bias.bin", data)
        return FileEntry("head_bias.bin", len(data), hash_bytes(data))

    def _delete_strays(self) -> None:
        """Delete our own files that belong to nothing: to no probe, old or new, and to no checkpoint."""
        entries = (*self._meta.probes, *self._published.values(), *self._kept.values())
        finished = {file.name for entry in entries for file in (entry.probe, entry.rows)}
        wanted = finished | {META_FILE, self._growing.name, *(file.name for _, file in self._meta.files())}
        for path in self.folder.glob(f"*{checkpoint.SUFFIX}"):
            rows = path.with_suffix(".rows")
            if rows.name not in finished and rows.is_file():
                wanted |= {path.name, rows.name}
        with writing(self.folder):
            for path in self.folder.iterdir():
                if path.name not in wanted and _OURS.fullmatch(path.name):
                    with contextlib.suppress(PermissionError):  # Windows: somebody still reads a replaced probe
                        path.unlink()


def require_fit(path: Path, found: CaptureMeta, wanted: CaptureMeta) -> None:
    """Raise `MismatchError` if `wanted` cannot be part of the capture `found` at `path`."""
    differences = found.differences(wanted)
    if found.base.sha256 != wanted.base.sha256:
        differences.insert(0, "base")
    if found.kind != wanted.kind:
        differences.insert(0, "kind")
    if differences:
        raise MismatchError(
            f"{path} is a capture with another {', '.join(differences)}; delete it or choose another name for the "
            "capture (nothing was changed)"
        )


def find_unfinished(path: Path, wanted: CaptureMeta) -> CaptureMeta | None:
    """What an earlier run left unfinished of the capture `path` for the same base, settings and kind, or None."""
    folder, name = (path, PENDING_FILE) if path.exists() else (_partial_folder(path), META_FILE)
    if not folder.is_dir():
        return None
    try:
        found, _ = load_meta(folder, name, allow_partial=True)
    except FileFormatError:
        return None
    return found if found.kind == wanted.kind and found.fits(wanted) else None


def _partial_folder(path: Path) -> Path:
    return path.with_name(path.name + ".partial")
