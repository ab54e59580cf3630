"""Rows as 16-bit log-probabilities, for a base whose logits cannot be recomputed from hidden rows.

A row is `n_vocab + 4` words of 16 bits: float32 `best` (the highest log-probability, nats), float32 `scale`,
then one code a token. Code 0 is probability 0; any other code stands for `best - scale * (65535 - code)**2`.

The steps grow with the distance from the best token, so the tokens that carry the probability are the
finest, and no value has to be clamped: with d nats below the best and a row that spans `range` nats,
the error is at most `sqrt(d * range) / 65534`, plus the float32 rounding of the result. For a range of 40 nats
that is 1e-4 at d = 1 and 6e-4 at d = 40; equal steps over the range, 3e-4 everywhere.
llama.cpp's file has 1.2e-4 and cuts at 16 nats.
"""

from __future__ import annotations

import math

import numpy as np
from numba import prange

from quantprobe.arrays import Float32Array, UInt16Array
from quantprobe.capture.meta import HEADER_WORDS
from quantprobe.compiling import compiled
from quantprobe.errors import MismatchError

TOP_CODE = 65535
N_STEPS = 65534
ZERO_GAP = 745.0
"""Nats below the best from which exp is 0 in float64: such a token is stored as probability 0."""


def encode_logprobs(logits: Float32Array) -> UInt16Array:
    """Log-softmax of `[n_rows, n_vocab]` float32 logits as `[n_rows, n_vocab + 4]` uint16.

    The sum over the vocabulary is float64. A logit of -inf keeps probability 0. A row with NaN or +inf, or with
    nothing but -inf, has no softmax: it is marked by a NaN in its header and decodes to NaN.
    """
    n_rows, n_vocab = logits.shape
    out = np.zeros((n_rows, n_vocab + HEADER_WORDS), dtype=np.uint16)
    header = np.empty((n_rows, 2), dtype=np.float32)
    _encode(np.ascontiguousarray(logits, dtype=np.float32), header, out[:, HEADER_WORDS:])
    out[:, :HEADER_WORDS] = header.view(np.uint16)
    return out


def decode_logprobs(rows: UInt16Array) -> Float32Array:
    """Log-probabilities in nats, `[n_rows, n_vocab]` float32, of rows from `encode_logprobs`.

    Raises `MismatchError` if the rows are too narrow to be such rows.
    """
    if rows.ndim != 2 or rows.shape[1] <= HEADER_WORDS:
        raise MismatchError(f"rows of shape {rows.shape} are not 16-bit log-probabilities, [n_rows, n_vocab + 4]")
    header = np.ascontiguousarray(rows[:, :HEADER_WORDS]).view(np.float32)
    out = np.empty((rows.shape[0], rows.shape[1] - HEADER_WORDS), dtype=np.float32)
    _decode(np.ascontiguousarray(rows), header, out)
    return out


@compiled(parallel=True, nogil=True)
def _encode(logits: Float32Array, header: Float32Array, codes: UInt16Array) -> None:
    for row in prange(logits.shape[0]):
        best = -math.inf
        valid = True
        for x in logits[row]:
            valid = valid and not math.isnan(x) and x < math.inf
            best = max(best, np.float64(x))
        if not valid or best == -math.inf:
            header[row, 0] = math.nan
            header[row, 1] = math.nan
            continue
        total = 0.0
        span = 0.0
        for x in logits[row]:
            gap = best - np.float64(x)
            if gap < ZERO_GAP:
                total += math.exp(-gap)
                span = max(span, gap)
        scale = np.float32(span / (float(N_STEPS) * N_STEPS))
        header[row, 0] = -math.log(total)
        header[row, 1] = scale
        inverse = 1.0 / math.sqrt(scale) if scale > 0 else 0.0
        for token in range(logits.shape[1]):
            gap = best - np.float64(logits[row, token])
            if gap < ZERO_GAP:
                codes[row, token] = TOP_CODE - min(int(math.sqrt(gap) * inverse + 0.5), N_STEPS)


@compiled(parallel=True, nogil=True)
def _decode(rows: UInt16Array, header: Float32Array, out: Float32Array) -> None:
    for row in prange(rows.shape[0]):
        best = np.float64(header[row, 0])
        scale = np.float64(header[row, 1])
        for token in range(out.shape[1]):
            code = rows[row, token + HEADER_WORDS]
            if code == 0 and not math.isnan(best):
                out[row, token] = -math.inf
            else:
                step = np.float64(TOP_CODE) - np.float64(code)
                out[row, token] = best - scale * step * step
