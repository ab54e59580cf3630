"""`RUN/rows/QUANT/NAME.npz`: what was measured, so that later questions need no new inference."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantprobe.files import write_whole


def read_arrays(path: Path, key: str, names: Sequence[str]) -> dict[str, NDArray[Any]] | None:
    """The arrays stored under `key`; None if the file is absent, damaged, or holds another measurement."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            if str(arrays["key"]) != key:
                return None
            return {name: arrays[name] for name in names}
    except (OSError, LookupError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error):
        return None


def write_arrays(path: Path, key: str, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Store arrays under `key`, the digest of all that they depend on; whole or not at all."""
    content: dict[str, Any] = {"key": np.array(key), **arrays}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **content)
    write_whole(path, buffer.getvalue())
