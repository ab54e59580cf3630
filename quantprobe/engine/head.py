"""Hidden rows -> logits: the base's output matrix, applied again through ggml.

A capture keeps the hidden state of each row instead of its logits. Whether the logits can be had back is measured, not
assumed: `fit_head` compares with the real logits of the first rows and decides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from gguf import GGMLQuantizationType
from numpy.typing import NDArray

from quantprobe import _native
from quantprobe.arrays import Float32Array, Int32Array
from quantprobe.engine.devices import Device
from quantprobe.engine.failures import engine_errors
from quantprobe.errors import EngineError
from quantprobe.gguf.model import HeadSource
from quantprobe.metrics.rows import row_metrics

SELF_KLD_MAX = 1e-6
"""Mean self-KLD in nats up to which a hidden capture is accepted; exact ones have 0."""

_COMPACT = {"F16": "float16", "BF16": "bfloat16"}


@dataclass(frozen=True)
class Post:
    """What the model does to the product of hidden rows and output matrix."""

    scale: float = 1.0
    softcap: float = 0.0

    @property
    def name(self) -> str:
        parts = [f"scale {self.scale:g}"] if self.scale != 1.0 else []
        parts += [f"softcap {self.softcap:g}"] if self.softcap else []
        return ", ".join(parts) or "none"


@dataclass(frozen=True)
class HeadFit:
    """How hidden rows give the base's logits back, and how well."""

    row_dtype: str
    """What the rows are stored as: float16, bfloat16 or float32."""
    post: Post
    self_kld: float
    """Mean KLD of the recomputed against the real logits of the first rows, in nats."""
    exact: bool
    """The recomputed logits were bit-identical."""
    device: Device
    """Where they were recomputed."""


class Head:
    """The output matrix on one device. `compute` gives a view that the next call overwrites.

    `matrix` holds the bytes of `n_vocab` rows of ggml type `type_name`, as they lie in the GGUF; on the CPU a mapped
    file is used in place. Memory for products of `n_rows` rows is taken at once.
    Raises `EngineError` if there is no room for both.
    """

    def __init__(
        self,
        matrix: NDArray[np.uint8],
        type_name: str,
        shape: tuple[int, int],
        bias: Float32Array | None,
        post: Post,
        device: Device,
        n_threads: int,
        n_rows: int = 0,
    ) -> None:
        n_vocab, n_embd = shape
        self._failed = f"the base's output matrix ({type_name}, {n_vocab} x {n_embd}) cannot be used on {device.name}"
        with engine_errors(self._failed):
            self.product = _native.HeadProduct(
                type=int(GGMLQuantizationType[type_name]),
                n_embd=n_embd,
                n_vocab=n_vocab,
                matrix=np.asarray(matrix),
                bias=bias,
                scale=post.scale,
                softcap=post.softcap,
                device=device.index,
                n_threads=n_threads,
                n_rows_max=n_rows,
            )

    @classmethod
    def of(cls, source: HeadSource, post: Post, device: Device, n_threads: int, n_rows: int = 0) -> Head:
        """The output matrix of a GGUF, mapped."""
        matrix = np.memmap(source.path, dtype=np.uint8, mode="r", offset=source.offset, shape=(source.n_bytes,))
        return cls(
            matrix, source.type_name, (source.n_vocab, source.n_embd), source.bias, post, device, n_threads, n_rows
        )

    def compute(self, hidden: Float32Array) -> Float32Array:
        """Logits `[n_rows, n_vocab]` float32 of hidden rows `[n_rows, n_embd]` float32."""
        with engine_errors(self._failed):
            logits: Float32Array = self.product.compute(np.ascontiguousarray(hidden, dtype=np.float32))
        return logits


def pack_rows(hidden: Float32Array, row_dtype: str) -> NDArray[np.generic]:
    """Hidden rows in the type that they are stored in; bfloat16 as its uint16 bits, rounded to nearest even."""
    if row_dtype == "bfloat16":
        bits = hidden.view(np.uint32)
        rounded = (bits + (0x7FFF + ((bits >> np.uint32(16)) & np.uint32(1)))) >> np.uint32(16)
        # a NaN must stay one: rounding could carry it into infinity or zero
        return np.where(np.isnan(hidden), np.uint16(0x7FC0), rounded.astype(np.uint16))
    return hidden.astype(np.dtype(row_dtype))


def unpack_rows(rows: NDArray[np.generic], row_dtype: str) -> Float32Array:
    """The float32 rows of `pack_rows`' result."""
    if row_dtype == "bfloat16":
        return (rows.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return rows.astype(np.float32)


def _candidates(source: HeadSource) -> Iterator[tuple[str, Post]]:
    """Storage types and post-processings to try, the most compact and most likely first.

    The architectures use `logit_scale` as a factor (Command-R) or as a divisor (Granite); which one is not written in
    the file, so both are tried.
    """
    posts = [Post()]
    if source.scale:
        posts = [Post(scale=source.scale), Post(scale=1.0 / source.scale), *posts]
    if source.softcap:
        posts = [replace(post, softcap=source.softcap) for post in posts] + posts
    for post in posts:
        for row_dtype in dict.fromkeys((_COMPACT.get(source.type_name, "float32"), "float32")):
            yield row_dtype, post


def fit_head(
    source: HeadSource,
    devices: Sequence[Device],
    n_threads: int,
    hidden: Float32Array,
    logits: Float32Array,
    n_rows: int = 0,
    on_note: Callable[[str], None] | None = None,
) -> HeadFit | None:
    """Find out how, and on which of `devices`, hidden rows give these logits back.

    The first bit-identical way wins; failing that the best one whose mean self-KLD is at most `SELF_KLD_MAX`; None if
    there is no such way: the capture then has to keep log-probabilities. The last device, the CPU, is tried if no other
    gives a way. A device without room for the matrix, or for `n_rows` rows of logits, is left out and told.
    """
    best: HeadFit | None = None
    for device in devices:
        if best is not None and device.kind == "CPU":
            break
        try:
            fit = _fit_on(source, device, n_threads, hidden, logits, n_rows)
        except EngineError as error:
            if on_note is not None:
                on_note(str(error))
            continue
        if fit is not None and (best is None or fit.exact or fit.self_kld < best.self_kld):
            best = fit
        if fit is not None and fit.exact:
            break
    return best


def _fit_on(
    source: HeadSource, device: Device, n_threads: int, hidden: Float32Array, logits: Float32Array, n_rows: int
) -> HeadFit | None:
    targets: Int32Array = np.zeros(len(logits), dtype=np.int32)
    best: HeadFit | None = None
    heads: dict[Post, Head] = {}
    for row_dtype, post in _candidates(source):
        if post not in heads:
            heads.clear()  # one at a time: a second one might not fit
            heads[post] = Head.of(source, post, device, n_threads, n_rows)
        again = heads[post].compute(unpack_rows(pack_rows(hidden, row_dtype), row_dtype))
        if _same_bits(again, logits):
            return HeadFit(row_dtype, post, 0.0, True, device)
        rows = row_metrics(again, logits, targets)
        self_kld = float(np.mean(rows["kld"])) if rows["finite"].all() else float("inf")
        if self_kld <= SELF_KLD_MAX and (best is None or self_kld < best.self_kld):
            best = HeadFit(row_dtype, post, self_kld, False, device)
    return best


def _same_bits(a: Float32Array, b: Float32Array) -> bool:
    """Whether two blocks of rows are bit-identical; row by row, as a comparison of all makes a byte for every logit."""
    pairs = zip(a.view(np.uint32), b.view(np.uint32), strict=True)
    return a.shape == b.shape and all(np.array_equal(one, other) for one, other in pairs)
