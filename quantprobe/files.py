"""Durable writes, checksums, and what an operating system's error means to the user."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from quantprobe.errors import FileFormatError, InputError

PIECE_BYTES = 1 << 22

_FULL = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}


@contextmanager
def writing(path: Path, n_needed: int = 0) -> Iterator[None]:
    """Turn any `OSError` of the block into an `InputError` with the file, the cause and the next step.

    `n_needed` is how many bytes more the whole work takes there, to be told if the disk is full.
    """
    try:
        yield
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}; {_next_step(error, n_needed)}") from error


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn a missing file into a `FileFormatError`, any other `OSError` of the block into an `InputError`."""
    try:
        yield
    except FileNotFoundError as error:
        raise FileFormatError(f"{path} is missing; copy it again from where it was made, or make it anew") from error
    except OSError as error:
        raise InputError(
            f"cannot read {path}: {error.strerror or error}; check the disk and its permissions"
        ) from error


def _next_step(error: OSError, n_needed: int) -> str:
    if error.errno in _FULL:
        space = f"at least {n_needed / 1e9:.2f} GB" if n_needed >= 5e6 else "some space"
        return f"free {space} or choose a folder on another disk, then start again"
    if error.errno in _FORBIDDEN:
        return "choose a folder where you may write"
    return "check the disk, or choose another folder"


def read_pieces(file: BinaryIO, n_bytes: int | None) -> Iterator[bytes]:
    """The next `n_bytes` of a file (None: the rest) in pieces; ends early where the file does."""
    left = n_bytes
    while left is None or left > 0:
        piece = file.read(PIECE_BYTES if left is None else min(PIECE_BYTES, left))
        if not piece:
            return
        if left is not None:
            left -= len(piece)
        yield piece


def hash_file(path: Path, on_bytes: Callable[[int], None] | None = None) -> str:
    """SHA-256 of a whole file in constant memory; `on_bytes` gets the length of each piece."""
    digest = hashlib.sha256()
    with reading(path), path.open("rb") as file:
        for piece in read_pieces(file, None):
            digest.update(piece)
            if on_bytes is not None:
                on_bytes(len(piece))
    return digest.hexdigest()


def hash_range(path: Path, offset: int, n_bytes: int, copy_to: BinaryIO | None = None) -> str:
    """SHA-256 of `n_bytes` of a file from `offset`, written to `copy_to` on the way if that is given.

    Raises `FileFormatError` if the file ends before.
    """
    digest = hashlib.sha256()
    n_read = 0
    with reading(path), path.open("rb") as file:
        file.seek(offset)
        for piece in read_pieces(file, n_bytes):
            digest.update(piece)
            n_read += len(piece)
            if copy_to is not None:
                with writing(Path(copy_to.name)):
                    copy_to.write(piece)
    if n_read != n_bytes:
        raise FileFormatError(f"{path} ends {n_bytes - n_read} bytes before the {n_bytes} expected from byte {offset}")
    return digest.hexdigest()


def sync_file(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Make the folder's entries durable; Windows has no such call and needs none for `os.replace`."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that `path` holds either what it held before or all of `data`; its folder is made.

    The bytes go to `NAME.partial` in the same folder, are flushed to disk and renamed. Raises `InputError` with the
    cause and the next step; nothing partial is left behind then.
    """
    partial = path.with_name(f"{path.name}.partial")
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as file:
                file.write(data)
                sync_file(file)
            partial.replace(path)
            sync_folder(path.parent)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """`write_whole` of UTF-8 text; line ends stay as they are."""
    write_whole(path, text.encode("utf-8"))
