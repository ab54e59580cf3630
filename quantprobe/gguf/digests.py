"""Content digests of models, remembered between starts: reading 300 GB again takes minutes.

A digest is taken from memory only for files of the same path, size, times and inode. Such a file could have
changed only by a write that left all of these alone. A file younger than `SETTLED_SECONDS` is not remembered:
a second write within the clock's step would leave its times as they are. `QUANTPROBE_NO_CACHE=1` reads every byte.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import platformdirs

from quantprobe.gguf.header import SETTLED_SECONDS
from quantprobe.gguf.parts import hash_files

OFF = "QUANTPROBE_NO_CACHE"

Stamp = list[list[str | int]]


def content_digest(paths: Sequence[Path], on_bytes: Callable[[int], None] | None = None) -> str:
    """`hash_files`, or what an earlier call found for the very same files.

    One small file per model holds a digest, written under a name of its own and renamed, so processes do not meet.
    A damaged entry is made anew, and a folder that cannot be written only costs the time. Raises what `hash_files`
    raises.
    """
    folder = None if os.environ.get(OFF, "0") not in ("", "0") else cache_folder()
    before = _stamp(paths)
    if folder is None or before is None:
        return hash_files(paths, on_bytes)
    entry = folder / f"{hashlib.sha256(json.dumps([path for path, *_ in before]).encode()).hexdigest()[:32]}.json"
    known = _read(entry, before)
    if known is not None:
        if on_bytes is not None:
            on_bytes(sum(path.stat().st_size for path in paths))
        return known
    now = time.time()
    digest = hash_files(paths, on_bytes)
    if _is_settled(paths, now) and _stamp(paths) == before:
        _write(entry, before, digest)
    return digest


def cache_folder() -> Path | None:
    """Where digests are kept; None where the user has no home. Nothing is made."""
    folder = platformdirs.user_cache_path("quantprobe", appauthor=False) / "digests"
    return folder if folder.is_absolute() else None


def _stamp(paths: Sequence[Path]) -> Stamp | None:
    """Everything that a write would change; None if a file cannot be looked at."""
    found: Stamp = []
    try:
        for path in paths:
            real = path.resolve(strict=True)
            at = real.stat()
            found.append([str(real), at.st_size, at.st_mtime_ns, at.st_ctime_ns, at.st_ino, at.st_dev])
    except (OSError, RuntimeError):  # RuntimeError: a loop of links, before Python 3.13
        return None
    return found


def _is_settled(paths: Sequence[Path], now: float) -> bool:
    """Whether every file was last changed well before `now`; a time in the future tells nothing."""
    times = [path.stat() for path in paths]
    return all(max(at.st_mtime, at.st_ctime if os.name != "nt" else 0) + SETTLED_SECONDS < now for at in times)


def _read(entry: Path, stamp: Stamp) -> str | None:
    try:
        found = json.loads(entry.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    digest = found.get("sha256") if isinstance(found, dict) and found.get("files") == stamp else None
    is_digest = isinstance(digest, str) and len(digest) == 64 and set(digest) <= set("0123456789abcdef")
    return digest if is_digest else None


def _write(entry: Path, stamp: Stamp, digest: str) -> None:
    """Keep a digest, whole or not at all. Not synced: after a crash a damaged entry is made anew."""
    with contextlib.suppress(OSError):
        entry.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=entry.parent, prefix=entry.stem, suffix=".partial")
        try:
            with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
                json.dump({"files": stamp, "sha256": digest}, file)
            Path(name).replace(entry)
        finally:
            Path(name).unlink(missing_ok=True)
