"""Model arguments: files, folders, and patterns (Windows shells do not expand those)."""

from __future__ import annotations

import glob
import re
from collections.abc import Sequence
from pathlib import Path

from quantprobe.errors import InputError

_NOT_LANGUAGE_MODELS = re.compile(r"^mmproj|imatrix", re.IGNORECASE)
"""Vision projectors and importance matrices lie beside quants under these names; only when named are they tried."""


def find_base(path: Path) -> Path:
    """The base's file. Raises `InputError` if there is none."""
    if path.is_dir():
        raise InputError(f"{path} is a folder; give the base as one GGUF file (of a split model, its first part)")
    if not path.is_file():
        raise InputError(f"there is no model {path}")
    return first_part(path)


def find_quants(arguments: Sequence[str], base: Path | None = None, orphans: bool = False) -> list[Path]:
    """The quants that QUANT arguments name, in the order given; folders and patterns largest first.

    A folder gives every .gguf directly in it: of split models the first part, and neither the base
    nor importance matrices nor vision projectors. A pattern such as `quants/*.gguf` does the same. With `orphans` a
    part whose first part is missing is given as it is, for whoever says what is wrong with it.

    Raises
    ------
    InputError
        A missing file, a folder or pattern without models, a quant that is the base, or a file given twice.
    """
    named: list[Path] = []
    found: list[Path] = []
    for argument in arguments:
        path = Path(argument)
        if path.is_file():
            first = first_part(path, orphans)
            _refuse(first, base, named)
            named.append(first)
            found.append(first)
        else:
            found += _expand(argument, base, orphans)
    return list({path.resolve(): path for path in found}.values())


def _refuse(path: Path, base: Path | None, named: Sequence[Path]) -> None:
    if base is not None and path.samefile(base):
        raise InputError(f"{path} is the base itself; name only quants to compare it with")
    if any(path.samefile(other) for other in named):
        raise InputError(f"{path} is given twice")


def _expand(argument: str, base: Path | None, orphans: bool) -> list[Path]:
    if Path(argument).is_dir():
        candidates = [path for path in Path(argument).iterdir() if path.suffix.lower() == ".gguf"]
    else:
        # Path.glob takes no absolute pattern
        candidates = [Path(match) for match in glob.glob(argument, recursive=True)]  # noqa: PTH207
    files = [path for path in candidates if path.is_file() and not _NOT_LANGUAGE_MODELS.search(path.name)]
    models = {first_part(path, orphans) for path in files}
    quants = [path for path in models if base is None or not path.samefile(base)]
    if not quants:
        what = "folder" if Path(argument).is_dir() else "file, folder or pattern"
        raise InputError(f"the {what} {argument} gives no quant (a .gguf file other than the base)")
    return sorted(quants, key=lambda path: (-model_size(path), path.name))


def first_part(path: Path, orphans: bool = False) -> Path:
    """The first part of a split model; any other file as it is.

    Raises `InputError` if the first part is missing; with `orphans` the part itself is given then.
    """
    from quantprobe.gguf.parts import split_name

    split = split_name(path)
    if split is None or split.number == 1:
        return path
    first = split.part(1)
    if not first.is_file():
        if orphans:
            return path
        raise InputError(f"{path} is a part of a split model, and its first part {first.name} is not beside it")
    return first


def model_size(path: Path) -> int:
    """Bytes of a model's file, or of all parts that lie beside the first."""
    from quantprobe.gguf.parts import split_name

    split = split_name(path)
    return sum(part.stat().st_size for part in (split.parts() if split else [path]) if part.is_file())
