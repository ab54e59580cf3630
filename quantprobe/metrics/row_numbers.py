"""Row metrics from a few numbers of each row: what a graph on another device leaves of two rows of the vocabulary.

Terms of the sums are float32, so that a difference of two sums would have an error of 1e-7 nats, as much as the KLD of
a very good quant. Each divergence is therefore a sum of its own, whose terms are small where it is. What the numbers
cannot tell exactly is not guessed: such rows are named, for the kernels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quantprobe.arrays import BoolArray, Float32Array, FloatArray, Int32Array, Int64Array
from quantprobe.metrics.quantities import TOP_K
from quantprobe.metrics.rows import FLAG_FIELDS, FLOAT_FIELDS, ROW_DTYPE

ABSOLUTE, RELATIVE = 2e-6, 5e-6
"""Two values of a float field agree if they differ by at most `ABSOLUTE + RELATIVE * |value|`, in the field's unit."""

IMBALANCE = 1e-5
"""Largest sum of d, as a share of that of b, by which two sets of probabilities may fail to be both 1."""


@dataclass(frozen=True, eq=False)
class RowNumbers:
    """Of each row; second axes of two are base and quant.

    x, y are the logits of base and quant less their maxima, b, q their exponentials, t = y - x + ln(sum b / sum q) is
    the difference of log-probabilities, and d = b (e^t - 1) that of probabilities in units of b.
    """

    sums: FloatArray
    """`[n_rows, 8]` float64: sums of b, q, b x, d, |d|, d - b t, d t, (b + d) t - (2 b + d) ln((1 + e^t) / 2)."""
    maxima: Float32Array
    """`[n_rows, 2]` float32."""
    targets: Float32Array
    """`[n_rows, 2]` float32: the logits of the target."""
    top_ids: Int32Array
    """`[n_rows, 2, n_top]` int32: the tokens with the largest logits, in any order; the last may be one of several."""
    top: Float32Array
    """`[n_rows, 2, n_top]` float32: their logits."""


def rows_from_numbers(found: RowNumbers, targets: Int32Array, n_vocab: int) -> tuple[NDArray[np.void], BoolArray]:
    """`[n_rows]` of `ROW_DTYPE`, and which of the rows are right (`[n_rows]` bool).

    The others have NaN or infinities somewhere, which may cancel or not, probabilities that float32 does not hold
    beside others that matter (then the sum of d is not 0), or a tie that reaches the end of a top list.
    """
    out = np.zeros(len(targets), ROW_DTYPE)
    with np.errstate(all="ignore"):
        _fill_floats(found, out)
    first, n_top = _top_lists(found)
    shared = (first[:, 0, :n_top, None] == first[:, 1, None, :n_top]).sum(axis=(1, 2))
    out["top_k_overlap"] = shared / n_top
    out["same_top"] = first[:, 0, 0] == first[:, 1, 0]
    out["base_right"] = first[:, 0, 0] == targets
    out["quant_right"] = first[:, 1, 0] == targets
    out["finite"] = True
    return out, _are_sure(found, out, n_top, n_vocab)


def _are_sure(found: RowNumbers, rows: NDArray[np.void], n_top: int, n_vocab: int) -> BoolArray:
    values: FloatArray = np.stack([rows[name] for name in FLOAT_FIELDS], axis=1)
    sure: BoolArray = np.isfinite(np.hstack([found.sums, found.targets, values])).all(axis=1)
    sure &= np.abs(found.sums[:, 3]) <= IMBALANCE * found.sums[:, 0]
    if found.top.shape[2] < n_vocab:
        by_size = np.sort(found.top, axis=2)
        sure &= (by_size[:, :, -n_top] > by_size[:, :, 0]).all(axis=1)
    return sure


def _fill_floats(found: RowNumbers, out: NDArray[np.void]) -> None:
    sum_b, sum_q, self_b, _, distance, forward, both_ways, mixed = found.sums.T
    log_b, log_q = np.log(sum_b), np.log(sum_q)
    out["tv"] = 0.5 * distance / sum_b
    # divergences and entropies cannot be negative; rounding can make them so
    out["kld"] = np.maximum(0.0, forward / sum_b)
    out["kld_reverse"] = np.maximum(0.0, (both_ways - forward) / sum_b)
    out["jsd"] = np.where(distance == 0.0, 0.0, np.maximum(0.0, 0.5 * mixed / sum_b))
    out["base_entropy"] = np.maximum(0.0, log_b - self_b / sum_b)
    out["base_confidence"] = 1.0 / sum_b
    tops, logits = found.maxima.astype(np.float64), found.targets.astype(np.float64)
    out["nll_base"] = log_b + (tops[:, 0] - logits[:, 0])
    out["nll"] = log_q + (tops[:, 1] - logits[:, 1])
    out["delta_p"] = np.exp(-out["nll"]) - np.exp(-out["nll_base"])
    out["delta_logp"] = out["nll_base"] - out["nll"]


def _top_lists(found: RowNumbers) -> tuple[Int64Array, int]:
    """The tokens from the largest logit down, among equals the lowest id first, and how many make a list."""
    order = np.lexsort((found.top_ids, -found.top), axis=-1)
    n_top = min(TOP_K, found.top.shape[2])
    return np.take_along_axis(found.top_ids, order, axis=2).astype(np.int64), n_top


def disagreement(rows: NDArray[np.void], expected: NDArray[np.void]) -> str:
    """Where two computations of the same rows differ by more than the bound, in words; "" if nowhere.

    Flags and top lists must be equal, and a value that one of both does not have is a difference.
    """
    for name in FLAG_FIELDS:
        n = int((rows[name] != expected[name]).sum())
        if n:
            return f"{name} differs on {n} of {len(rows)} rows"
    for name in FLOAT_FIELDS:
        bound = 0.0 if name == "top_k_overlap" else ABSOLUTE
        apart = ~np.isclose(rows[name], expected[name], rtol=RELATIVE * bool(bound), atol=bound, equal_nan=True)
        if apart.any():
            row = int(np.argmax(apart))
            return (
                f"{name} differs on {apart.sum()} of {len(rows)} rows ({rows[name][row]:.8g} instead of "
                f"{expected[name][row]:.8g}); the bound is {bound:g} + {RELATIVE * bool(bound):g} of it"
            )
    return ""
