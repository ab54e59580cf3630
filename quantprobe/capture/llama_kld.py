"""llama.cpp's own base file (`llama-perplexity --kl-divergence-base`): read, import, write.

Layout, little-endian: `_logits_`, int32 n_ctx, n_vocab, n_windows; int32 tokens `[n_windows, n_ctx]` (before the BOS
replacement); then one record for each scored position: float32 scale, float32 min_log_prob, uint16 codes
`[n_vocab]`, and a zero word if n_vocab is odd. There is no checksum, no model, no tokenizer and no BOS flag in it.
"""

from __future__ import annotations

import contextlib
import math
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numba import prange

from quantprobe.arrays import Float32Array, Int32Array, UInt16Array
from quantprobe.capture.meta import JsonValue, record_width
from quantprobe.capture.store import Capture
from quantprobe.capture.writer import CaptureWriter, lock_file
from quantprobe.compiling import compiled
from quantprobe.errors import FileFormatError, InputError, MismatchError
from quantprobe.files import reading, sync_file, sync_folder, writing
from quantprobe.gguf.model import ModelIdentity
from quantprobe.locks import try_lock
from quantprobe.probes.text import TextProbe

MAGIC = b"_logits_"
HEADER_BYTES = 20
HEADER_WORDS = 4
SPAN = 16.0
"""Nats below the best token at which llama.cpp clamps."""
TOP_CODE = 65535
_PIECE_BYTES = 1 << 26


@dataclass(frozen=True)
class LlamaKldFile:
    """A base file whose header fits its size."""

    path: Path
    n_ctx: int
    n_vocab: int
    n_windows: int

    @classmethod
    def open(cls, path: Path) -> LlamaKldFile:
        """Check the header of `path` against the size of the file; nothing else is read.

        Raises `FileFormatError` if it is no base file, was truncated or has bytes too many.
        """
        with reading(path):
            n_bytes = path.stat().st_size
            with path.open("rb") as file:
                header = file.read(HEADER_BYTES)
        if header[:8] != MAGIC:
            raise FileFormatError(
                f"{path} is not a base file of llama.cpp: it begins with {header[:8]!r}, not {MAGIC!r}"
            )
        if len(header) < HEADER_BYTES:
            raise FileFormatError(
                f"{path} ends inside its header ({n_bytes} bytes): the run that wrote it stopped before the first "
                "window, for example because the text was too short; write it again"
            )
        n_ctx, n_vocab, n_windows = struct.unpack("<iii", header[8:])
        if n_ctx < 4 or n_vocab < 1 or n_windows < 1:
            raise FileFormatError(
                f"{path} claims {n_windows} windows of {n_ctx} tokens over a vocabulary of {n_vocab}; "
                "expected at least 1, 4 and 1: the header is damaged, write the file again"
            )
        found = cls(path, n_ctx, n_vocab, n_windows)
        found._check_size(n_bytes)
        return found

    @property
    def rows_per_window(self) -> int:
        return self.n_ctx - 1 - self.n_ctx // 2

    @property
    def n_rows(self) -> int:
        return self.n_windows * self.rows_per_window

    def tokens(self) -> Int32Array:
        """The windows, `[n_windows, n_ctx]` int32. Raises `FileFormatError` for a token outside the vocabulary."""
        with reading(self.path), self.path.open("rb") as file:
            file.seek(HEADER_BYTES)
            data = file.read(4 * self.n_windows * self.n_ctx)
        tokens = np.frombuffer(data, dtype="<i4").reshape(self.n_windows, self.n_ctx).astype(np.int32)
        wrong = (tokens < 0) | (tokens >= self.n_vocab)
        if wrong.any():
            window, position = np.argwhere(wrong)[0].tolist()
            raise FileFormatError(
                f"{self.path}: token {position} of window {window} is {tokens[window, position]}, outside the "
                f"vocabulary of {self.n_vocab}; the file is damaged, write it again"
            )
        return tokens

    def records(self) -> UInt16Array:
        """The records, `[n_rows, record_width(n_vocab)]` uint16, read-only and not loaded."""
        offset = HEADER_BYTES + 4 * self.n_windows * self.n_ctx
        with reading(self.path):
            return np.memmap(self.path, "<u2", mode="r", offset=offset, shape=(self.n_rows, record_width(self.n_vocab)))

    def _check_size(self, n_bytes: int) -> None:
        n_before = HEADER_BYTES + 4 * self.n_windows * self.n_ctx
        n_window = self.rows_per_window * 2 * record_width(self.n_vocab)
        expected = n_before + self.n_windows * n_window
        if n_bytes < expected:
            n_whole = max(n_bytes - n_before, 0) // n_window
            raise FileFormatError(
                f"{self.path} is truncated: {n_bytes} of {expected} bytes, {n_whole} complete windows "
                f"of {self.n_windows}; its run was interrupted or the copy is not whole, write or copy it again"
            )
        if n_bytes > expected:
            raise FileFormatError(
                f"{self.path} has {n_bytes - expected} bytes after its last record; {self.n_windows} windows of "
                f"{self.n_ctx} tokens over a vocabulary of {self.n_vocab} take {expected}; "
                "the file is damaged, write it again"
            )


def import_kld(
    path: Path, out: Path, base: ModelIdentity, bos: int | None, settings: Mapping[str, JsonValue], name: str
) -> Capture:
    """Make the capture `out` of kind `llama_kld` from a base file, its records as they are.

    `base` and `bos` say what the file does not: which model wrote it, and which token replaced the first of every
    window (None: none). `name` becomes the name of the text probe.

    Raises `FileFormatError` for a damaged file, `MismatchError` if its vocabulary is not that of the base, `InputError`
    if `out` is there already or another process is making it.
    """
    source = LlamaKldFile.open(path)
    if source.n_vocab != base.n_vocab:
        raise MismatchError(
            f"{path} is over {source.n_vocab} tokens and the base {base.name} has {base.n_vocab}; "
            "give the model that the file was written with"
        )
    probe = TextProbe(name, source.tokens(), bos)
    lock = try_lock(lock_file(out))
    if lock is None:
        raise InputError(f"another process is writing {out}; wait for it, or choose another name for the capture")
    with lock:
        if out.exists():
            raise InputError(f"{out} exists already; delete it or choose another name for the capture")
        return _write_import(source, probe, out, base, settings)


def _write_import(
    source: LlamaKldFile, probe: TextProbe, out: Path, base: ModelIdentity, settings: Mapping[str, JsonValue]
) -> Capture:
    width = record_width(source.n_vocab)
    n_piece = max(1, _PIECE_BYTES // (2 * width))
    with CaptureWriter.create(out, base, settings, "llama_kld") as writer:
        if not writer.reuse(probe):
            rows = writer.begin(probe, "uint16", width)
            records = source.records()
            for low in range(0, source.n_rows, n_piece):
                piece = np.asarray(records[low : low + n_piece])
                _check_records(source.path, low, piece)
                rows.write(np.arange(low, low + len(piece), dtype=np.int64), piece)
            rows.finish()
        return writer.finish()


def _check_records(path: Path, first: int, records: UInt16Array) -> None:
    """Raise `FileFormatError` for a record that llama.cpp cannot have written; one from NaN logits it can have."""
    header = np.ascontiguousarray(records[:, :HEADER_WORDS]).view(np.float32)
    scale, min_log_prob = header[:, 0], header[:, 1]
    # 1.001: f32(m - f32(m - 16)) is 16 only to the spacing of float32 at m
    wrong = (scale < 0) | (scale > 1.001 * SPAN / TOP_CODE) | (min_log_prob > 0)
    wrong |= np.isinf(scale) | (min_log_prob == math.inf)
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise FileFormatError(
            f"{path}: record {first + row} has the scale {scale[row]:g} and the lowest log-probability "
            f"{min_log_prob[row]:g}; expected 0 to {SPAN / TOP_CODE:.3g} and at most 0; "
            "the file is damaged, write it again"
        )


def write_kld(path: Path, probe: TextProbe, n_vocab: int, records: Iterable[UInt16Array]) -> None:
    """Write a base file that `llama-perplexity --kl-divergence` reads.

    `records` are blocks `[n, record_width(n_vocab)]` uint16 in row order, `probe.n_rows` together. The file grows as
    `NAME.partial` and is removed if anything fails.

    Raises `MismatchError` if the blocks are not the rows of the probe, `InputError` if the disk refuses.
    """
    if probe.score_from is not None:
        raise MismatchError(
            f"{probe.name!r} is scored from position {probe.first} on, and a base file of llama.cpp holds the second "
            "half of each window; capture without --score-from"
        )
    partial = path.with_name(path.name + ".partial")
    width = record_width(n_vocab)
    n_rows = 0
    try:
        with writing(path):
            with partial.open("wb") as file:
                file.write(MAGIC + struct.pack("<iii", probe.n_ctx, n_vocab, probe.n_windows))
                file.write(probe.tokens.astype("<i4").tobytes())
                for block in records:
                    if block.ndim != 2 or block.shape[1] != width or block.dtype != np.uint16:
                        raise MismatchError(f"records are {block.shape} {block.dtype}, expected [n, {width}] uint16")
                    file.write(np.ascontiguousarray(block, dtype="<u2").data)
                    n_rows += len(block)
                if n_rows != probe.n_rows:
                    raise MismatchError(f"{n_rows} records for the {probe.n_rows} rows of {probe.name!r}")
                sync_file(file)
            partial.replace(path)
            sync_folder(path.parent)
    finally:
        with contextlib.suppress(OSError):  # what went wrong before it is the news
            partial.unlink(missing_ok=True)


def encode_records(logits: Float32Array) -> UInt16Array:
    """Logits `[n_rows, n_vocab]` float32 as llama.cpp's records, `[n_rows, record_width(n_vocab)]` uint16.

    With m the highest logit, mn = max(lowest, m - 16) and ls = log(sum exp(l - m)): scale = (m - mn) / 65535,
    min_log_prob = (mn - m) - ls, code = round_half_even((l - mn) / scale), in the float32 steps of llama.cpp's
    `log_softmax`; only the sum is float64. Differs in one thing: a row without a softmax (NaN, +inf, only -inf)
    gets NaN in its header, where llama.cpp's codes are undefined.
    """
    n_rows, n_vocab = logits.shape
    out = np.zeros((n_rows, record_width(n_vocab)), dtype=np.uint16)
    header = np.empty((n_rows, 2), dtype=np.float32)
    _encode(np.ascontiguousarray(logits, dtype=np.float32), header, out[:, HEADER_WORDS:])
    out[:, :HEADER_WORDS] = header.view(np.uint16)
    return out


def decode_records(records: UInt16Array, n_vocab: int) -> Float32Array:
    """Log-probabilities in nats, `[n_rows, n_vocab]` float32: `scale * code + min_log_prob`.

    Product and sum are each rounded to float32. A code of 0 means "at or below the floor" and decodes to
    the floor, as in llama.cpp.
    Raises `MismatchError` if the records are not over `n_vocab` tokens.
    """
    if records.ndim != 2 or records.shape[1] != record_width(n_vocab):
        raise MismatchError(
            f"records of shape {records.shape} do not fit a vocabulary of {n_vocab}, [n_rows, {record_width(n_vocab)}]"
        )
    header = np.ascontiguousarray(records[:, :HEADER_WORDS]).view(np.float32)
    out = records[:, HEADER_WORDS : HEADER_WORDS + n_vocab].astype(np.float32)
    out *= header[:, :1]
    out += header[:, 1:]
    return out


@compiled(parallel=True, nogil=True)
def _encode(logits: Float32Array, header: Float32Array, codes: UInt16Array) -> None:
    # A float literal would make numba compute in float64; every constant here is float32 for that reason.
    magic = np.float32(12582912.0)  # 1.5 * 2**23: a float32 sum with it has no room for a fraction
    for row in prange(logits.shape[0]):
        best = np.float32(-math.inf)
        low = np.float32(math.inf)
        valid = True
        for x in logits[row]:
            valid = valid and not math.isnan(x)
            best = max(best, x)
            low = min(low, x)
        if not valid or math.isinf(best):
            header[row, 0] = math.nan
            header[row, 1] = math.nan
            continue
        floor = max(low, np.float32(best - np.float32(SPAN)))
        total = 0.0
        for x in logits[row]:
            total += np.float64(math.exp(np.float32(x - best)))
        log_sum = np.float32(math.log(total))
        scale = np.float32(np.float32(best - floor) / np.float32(TOP_CODE))
        header[row, 0] = scale
        header[row, 1] = np.float32(np.float32(floor - best) - log_sum)
        if scale == 0:
            continue
        inverse = np.float32(np.float32(1.0) / scale)
        for token in range(logits.shape[1]):
            x = logits[row, token]
            if x > floor:
                product = np.float32(inverse * np.float32(x - floor))
                codes[row, token] = int(np.float32(np.float32(product + magic) - magic))
