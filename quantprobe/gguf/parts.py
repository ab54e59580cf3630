"""The files of one model: parts of a split GGUF found, checked to belong together, and hashed."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from quantprobe.errors import FileFormatError, InputError
from quantprobe.gguf.header import Header, Tensor, read_header

PIECE = 8 << 20  # bytes hashed between two progress calls
MAX_LISTED = 3  # missing parts that an error names
_SPLIT_NAME = re.compile(r"(?P<prefix>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")


@dataclass(frozen=True)
class SplitName:
    """What the name of a part says: NAME-00001-of-0000N.gguf, by which llama.cpp finds the others."""

    path: Path
    prefix: str
    number: int
    count: int

    def part(self, number: int) -> Path:
        """The path of a part beside this one, numbered from 1."""
        return self.path.with_name(f"{self.prefix}-{number:05d}-of-{self.count:05d}.gguf")

    def parts(self) -> list[Path]:
        """The paths of all parts in order, whether they exist or not."""
        return [self.part(number) for number in range(1, self.count + 1)]


def split_name(path: Path) -> SplitName | None:
    """What a part's name says; None for any other name."""
    match = _SPLIT_NAME.fullmatch(path.name)
    return None if match is None else SplitName(path, match["prefix"], int(match["number"]), int(match["count"]))


def split_paths(path: Path) -> list[Path]:
    """All parts of a model in order, `[path]` if it is not split; every one of them exists.

    Raises `FileFormatError` naming what is wrong if a part is missing, if `path` is not the first part,
    or if its name is not that of a part (`SplitName`).
    """
    return part_paths(read_header(path))


def part_paths(first: Header) -> list[Path]:
    """The paths of all parts, from the header of the first; see `split_paths`."""
    path, count = first.path, first.integer("split.count") or 1
    if count == 1:
        return [path]
    name = split_name(path)
    if name is None or name.count != count:
        raise FileFormatError(
            f"{path} is one of {count} parts and its name is not NAME-00001-of-{count:05d}.gguf, "
            "so the others cannot be found; give it its original name"
        )
    paths = name.parts()
    if name.number != 1:
        raise FileFormatError(f"{path} is part {name.number} of {count}; give the first part, {paths[0].name}")
    missing = [part.name for part in paths if not part.is_file()]
    if missing:
        listed = ", ".join(missing[:MAX_LISTED]) + f" and {len(missing) - MAX_LISTED} more" * (
            len(missing) > MAX_LISTED
        )
        raise FileFormatError(
            f"{path} has {count} parts and {listed} {'is' if len(missing) == 1 else 'are'} missing "
            f"from {path.parent}; download all parts into one folder"
        )
    return paths


def read_parts(path: Path) -> list[Header]:
    """The headers of all parts of a model, checked to belong together."""
    first = read_header(path)
    paths = part_paths(first)
    parts = [first, *(read_header(part) for part in paths[1:])]
    for number, part in enumerate(parts):
        if len(parts) > 1 and part.integer("split.no") != number:
            raise FileFormatError(f"{part.path} says it is part {part.metadata.get('split.no')!r}, expected {number}")
    names = [name for part in parts for name in part.tensors]
    expected = first.integer("split.tensors.count")
    if len(set(names)) != len(names) or (len(parts) > 1 and expected not in (None, len(names))):
        raise FileFormatError(
            f"the {len(parts)} parts of {path} hold {len(set(names)):,} distinct tensors of {len(names):,}, "
            f"expected {expected}; the parts are not of one model"
        )
    return parts


def model_name(path: Path) -> str:
    """The file's name without `.gguf` and without the split suffix."""
    split = split_name(path)
    return split.prefix if split else path.name.removesuffix(".gguf")


def find_tensor(parts: Sequence[Header], name: str) -> tuple[Header, Tensor] | None:
    return next(((part, part.tensors[name]) for part in parts if name in part.tensors), None)


def hash_files(paths: Sequence[Path], on_bytes: Callable[[int], None] | None = None) -> str:
    """SHA-256 of the files' bytes, one after the other; of one file it is the usual `sha256sum`.

    `on_bytes` is called with the length of every piece hashed (8 MiB, the last one shorter).
    Raises `InputError` if a file cannot be read.
    """
    digest = hashlib.sha256()
    for path in paths:
        try:
            with path.open("rb") as file:
                while piece := file.read(PIECE):
                    digest.update(piece)
                    if on_bytes:
                        on_bytes(len(piece))
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    return digest.hexdigest()


def read_span(path: Path, offset: int, n_bytes: int) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(offset)
            data = file.read(n_bytes)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    if len(data) != n_bytes:
        raise FileFormatError(f"{path} shrank while it was read; {n_bytes:,} bytes expected at byte {offset:,}")
    return data
