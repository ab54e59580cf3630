"""`RUN/rows/QUANT/NAME.npz`: what was measured row by row, so that later questions need no new inference."""

from __future__ import annotations

import io
import lzma
import zipfile
import zlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantprobe.errors import FileFormatError, InputError
from quantprobe.files import reading, write_whole

_DAMAGE = (
    *(OSError, LookupError, ValueError, TypeError, AttributeError, EOFError, MemoryError, SyntaxError, OverflowError),
    *(RuntimeError, NotImplementedError, zipfile.BadZipFile, zlib.error, lzma.LZMAError),
)
"""What zipfile and NumPy raise for damaged archives and headers (`bench/fuzz.py rows`)."""


def read_arrays(
    path: Path, keys: str | Collection[str], names: Sequence[str], optional: Sequence[str] = ()
) -> dict[str, NDArray[Any]] | None:
    """The arrays stored under a key (one of `keys`); None if the file is absent, damaged, or of another measurement.

    Raises `InputError` where the disk does not give it: what it holds may be whole, and would be measured again.
    """
    if not path.exists():
        return None
    with reading(path):
        data = path.read_bytes()
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            if str(arrays["key"]) not in ((keys,) if isinstance(keys, str) else keys):
                return None
            return {name: arrays[name] for name in (*names, *(o for o in optional if o in arrays.files))}
    except _DAMAGE:
        return None


def write_arrays(path: Path, key: str, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Store arrays under `key`, the digest of all that they depend on; whole or not at all."""
    content: dict[str, Any] = {"key": np.array(key), **arrays}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **content)
    write_whole(path, buffer.getvalue())


def read_rows(file: Path, names: Sequence[str] | None = None) -> Mapping[str, NDArray[Any]]:
    """Read `RUN/rows/QUANT/TEXT.npz`: one array `[n_rows]` per row metric, and `windows`.

    With `names`, only those arrays that the file has, and always `kld` and `windows`.

    Raises InputError if the file is not there, FileFormatError if it is damaged, holds pickled objects, or its
    arrays differ in length.
    """
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            wanted = archive.files if names is None else {"kld", "windows", *names} & set(archive.files)
            # a single value is a label (the sweep's `key` of the measurement), no row metric
            arrays = {name: array for name in wanted if (array := archive[name]).ndim}
    except FileNotFoundError as error:
        raise InputError(f"{file} does not exist; the sweep writes it, or leave row-level questions out") from error
    except _DAMAGE as error:
        raise FileFormatError(f"{file} is not an .npz of plain arrays ({error}); run the sweep again") from error
    missing = [name for name in ("kld", "windows") if name not in arrays]
    if missing:
        raise FileFormatError(f"{file}: arrays {', '.join(missing)} are missing; found {', '.join(arrays) or 'none'}")
    shapes = {array.shape for array in arrays.values()}
    if len(shapes) != 1 or len(next(iter(shapes))) != 1:
        raise FileFormatError(f"{file}: arrays have the shapes {sorted(shapes)}, expected one length for all")
    return arrays
