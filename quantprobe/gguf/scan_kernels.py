"""The compiled loop of the scan: magnitudes of one field over many blocks, as integers."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantprobe.compiling import compiled
from quantprobe.gguf.block_layouts import FORMATS, ScaleField


@compiled(nogil=True)  # pieces are scanned on threads
def _statistics(words: NDArray[Any], mask: int, bad: int, inf: int) -> NDArray[np.int64]:
    """`[n_bad, n_inf, highest finite key, sum of finite keys, n finite not zero]`; every step is free of branches."""
    narrow_mask, narrow_bad, narrow_inf = np.int32(mask), np.int32(bad), np.int32(inf)
    n_bad, n_inf, n_nonzero, highest = np.int64(0), np.int64(0), np.int64(0), np.int32(0)
    total = np.int64(0)
    for i in range(words.size):
        key = np.int32(words[i]) & narrow_mask
        is_bad = key >= narrow_bad
        finite = np.int32(0) if is_bad else key
        n_bad += is_bad
        n_inf += key == narrow_inf
        n_nonzero += finite > 0
        highest = finite if finite > highest else highest
        total += finite
    return np.array([n_bad, n_inf, highest, total, n_nonzero], np.int64)


def _words(data: NDArray[np.uint8], block_bytes: int, field: ScaleField, n: int) -> NDArray[Any]:
    """The field of `n` blocks as unsigned integers, `[n]`: a view of `data` but for IQ1_M's."""
    if field.format == "iq1_m":
        # ggml: (sc[0] >> 12) | ((sc[1] >> 8) & 0x00f0) | ((sc[2] >> 4) & 0x0f00) | (sc[3] & 0xf000)
        words = data.view("<u2").reshape(n, block_bytes // 2)[:, field.offset // 2 :]
        low = (words[:, 0] >> 12) | ((words[:, 1] >> 8) & 0x00F0)
        packed: NDArray[Any] = low | ((words[:, 2] >> 4) & 0x0F00) | (words[:, 3] & 0xF000)
        return packed
    if field.format == "f64":
        return data.view("<u4")[1::2]
    size = FORMATS[field.format].n_bytes
    return data.view(f"<u{size}")[field.offset // size :: block_bytes // size][:n]


def _mask(format_name: str) -> int:
    return {"e8m0": 0xFF, "ue4m3": 0x7F}.get(format_name, 0x7FFFFFFF if format_name in ("f32", "f64") else 0x7FFF)


def field_stats(data: NDArray[np.uint8], block_bytes: int, field: ScaleField, n: int) -> NDArray[np.int64]:
    """Statistics of one field over `n` whole blocks in `data`; see `_statistics`."""
    kind = FORMATS[field.format]
    words = _words(data, block_bytes, field, n)
    return _statistics(words, _mask(field.format), kind.bad, -1 if kind.inf is None else kind.inf)


def field_keys(data: NDArray[np.uint8], block_bytes: int, field: ScaleField, n: int) -> NDArray[Any]:
    """The keys of one field, `[n]`: bits without the sign."""
    keys: NDArray[Any] = _words(data, block_bytes, field, n) & _mask(field.format)
    return keys
