"""Files that a worker keeps: copies of models and of parts of captures, under the digests of their content."""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path
from typing import Any

import platformdirs

from quantprobe.cluster.messages import Part
from quantprobe.errors import FileFormatError, InputError
from quantprobe.files import hash_file, read_pieces, sync_file, writing
from quantprobe.names import is_safe_path

MODELS, SCRATCH = "QUANTPROBE_MODELS", "QUANTPROBE_SCRATCH"
"""Environment variables of a worker: folders with models, separated as in PATH, and the folder of its store."""


class Store:
    """A folder of files by digest; several workers of one machine share it."""

    def __init__(self, folder: Path, owner: str) -> None:
        self.folder = folder
        self._owner = hashlib.sha256(owner.encode()).hexdigest()[:8]

    @classmethod
    def of_worker(cls, owner: str) -> Store:
        """The store of this machine. `owner` tells workers apart while they receive."""
        given = os.environ.get(SCRATCH, "")
        folder = Path(given) if given else platformdirs.user_cache_path("quantprobe", appauthor=False) / "cluster"
        return cls(folder, owner)

    def path(self, part: Part) -> Path:
        """Where a part lies or will lie. Raises `InputError` for a name that leaves the store."""
        relative = f"{part.folder}/{part.name}"
        if not is_safe_path(relative):
            raise InputError(f"{relative!r} is no name of a file in a store")
        return self.folder.joinpath(*relative.split("/"))

    def has(self, part: Part) -> bool:
        """Whether a part is there in its full size; its digest was checked when it came."""
        path = self.path(part)
        return path.is_file() and path.stat().st_size == part.n_bytes

    def received(self, part: Part) -> int:
        """Bytes of an unfinished part that are there."""
        partial = self._partial(part)
        return partial.stat().st_size if partial.is_file() else 0

    def append(self, part: Part, offset: int, data: bytes) -> None:
        """Add the piece that begins at `offset`. Raises `InputError` if it is not the next one, or the disk is full."""
        partial = self._partial(part)
        with writing(partial, part.n_bytes):
            partial.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("ab") as file:
                if file.tell() != offset:
                    raise InputError(
                        f"{partial} has {file.tell()} bytes, and a piece for byte {offset} came; start again"
                    )
                file.write(data)

    def finish(self, part: Part) -> None:
        """Check a part that is whole, and give it its name. Raises `FileFormatError`, and deletes it, if it differs."""
        partial, path = self._partial(part), self.path(part)
        with writing(path, part.n_bytes):
            path.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("ab") as file:  # also makes the file of an empty part
                sync_file(file)
        found = hash_file(partial) if part.sha256 else ""
        if partial.stat().st_size != part.n_bytes or found != part.sha256:
            partial.unlink()
            raise FileFormatError(
                f"{part.folder}/{part.name} came damaged (SHA-256 {found[:12]}, expected {part.sha256[:12]}, "
                f"{part.n_bytes} bytes); it is fetched again"
            )
        with writing(path):
            partial.replace(path)

    def pull(self, part: Part, share: str) -> bool:
        """Copy a part from a shared folder; False if it is not there. Raises `FileFormatError` if it came damaged."""
        import fsspec

        with contextlib.suppress(OSError):
            self._partial(part).unlink()
        try:
            with fsspec.open(share_address(share, part), "rb") as file:
                offset = 0
                for piece in read_pieces(file, part.n_bytes):
                    self.append(part, offset, piece)
                    offset += len(piece)
        except FileNotFoundError:
            return False
        self.finish(part)
        return True

    def drop(self, part: Part) -> None:
        """Forget a part that turned out wrong."""
        self.path(part).unlink(missing_ok=True)

    def _partial(self, part: Part) -> Path:
        path = self.path(part)
        return path.with_name(f"{path.name}.{self._owner}.partial")


def share_address(share: str, part: Part) -> str:
    """Where a part lies in a shared folder."""
    return f"{share.rstrip('/')}/{part.folder}/{part.name}"


def is_shared(share: str, part: Part) -> bool:
    """Whether a shared folder has a part in its full size."""
    files, path = _share(share, part)
    try:
        return bool(files.info(path)["size"] == part.n_bytes)
    except FileNotFoundError:
        return False


def publish(share: str, part: Part, source: Path, offset: int) -> None:
    """Put `part.n_bytes` of `source` from `offset` into a shared folder, whole or not at all under its name."""
    files, path = _share(share, part)
    files.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
    partial = f"{path}.{os.getpid()}.partial"
    with source.open("rb") as given, files.open(partial, "wb") as file:
        given.seek(offset)
        for piece in read_pieces(given, part.n_bytes):
            file.write(piece)
    files.mv(partial, path)


def _share(share: str, part: Part) -> tuple[Any, str]:
    import fsspec

    try:
        files, path = fsspec.core.url_to_fs(share_address(share, part))
    except (ValueError, ImportError) as error:
        raise InputError(f"--share {share}: {error}; give a folder, or an address that fsspec can read here") from error
    return files, str(path)
