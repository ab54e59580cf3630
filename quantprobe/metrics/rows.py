"""Row metrics: what one scored position says about base and quant.

`quantities.ROW_QUANTITIES` declares the fields with their formulas. All come from one fused pass over the two rows
(`kernels.py`); sums are float64 and do not depend on the number of threads; log-probabilities count as logits.

Ties: the token with the lowest id counts as the more probable one. Nothing is smoothed or clamped (llama.cpp leaves out
terms below -16 nats; this does not), except that a divergence that rounding made negative is 0. Two rows with the
same bits give exactly 0. An entry of -inf is a probability of 0, never a member of a top list; p = 0 contributes 0.

`finite` is False, every float field NaN and every flag False where a row has NaN or +inf, where all of it is -inf, and
where a field is infinite by definition: one model gives -inf to a token that the other holds
possible, or to the target.
"""

from __future__ import annotations

import threading

import numpy as np
from numpy.typing import NDArray

from quantprobe.arrays import BoolArray, Float32Array, Int32Array, UInt16Array
from quantprobe.compiling import n_kernel_threads
from quantprobe.errors import MismatchError
from quantprobe.metrics.quantities import FLAG, ROW_QUANTITIES, TOP_K

__all__ = ["ROW_DTYPE", "TOP_K", "llama_row_metrics", "row_metrics", "token_drops", "token_leapfrogs"]

FLOAT_FIELDS = tuple(metric.name for metric in ROW_QUANTITIES if metric.unit != FLAG)
FLAG_FIELDS = tuple(metric.name for metric in ROW_QUANTITIES if metric.unit == FLAG)
ROW_DTYPE: np.dtype[np.void] = np.dtype(
    [(name, np.float64) for name in FLOAT_FIELDS] + [(name, np.bool_) for name in FLAG_FIELDS]
)
"""One record per scored row."""

# numba's plainest threading layer must not be entered by two threads at once.
_one_at_a_time = threading.Lock()


def row_metrics(base: Float32Array, quant: Float32Array, targets: Int32Array) -> NDArray[np.void]:
    """Compare two blocks of rows.

    Parameters
    ----------
    base, quant : `[n_rows, n_vocab]` float32, C-contiguous
        Logits or log-probabilities.
    targets : `[n_rows]` int32
        The token that each row should predict.

    Returns
    -------
    `[n_rows]` of `ROW_DTYPE`, see the head of this module for every field and its limits.

    Raises
    ------
    MismatchError
        Shapes or types that do not fit together, or a target outside the vocabulary.
    """
    _check_logits("base", base)
    _check_logits("quant", quant)
    if base.shape != quant.shape:
        raise MismatchError(
            f"the base block has shape {base.shape} and the quant block {quant.shape}; "
            "both need the same rows and the same vocabulary"
        )
    _check_targets(targets, *quant.shape)
    from quantprobe.metrics.kernels import compare_rows

    out = np.zeros(len(quant), ROW_DTYPE)
    with _one_at_a_time:
        compare_rows(base, quant, targets, out, _n_slices(len(quant)))
    return out


def llama_row_metrics(records: UInt16Array, quant: Float32Array, targets: Int32Array, compat: bool) -> NDArray[np.void]:
    """Compare llama.cpp's 16-bit base records with logits.

    A record holds float32 `scale` and `min_log_prob` in its first four words and one code per token after them:
    ln p = scale * code + min_log_prob, clamped up to 16 nats below the best token when it was written. As in
    `llama-perplexity --kl-divergence`, `kld` leaves out entries with ln p <= -16 and does not renormalise the rest, so
    small negative values are normal, and `nll_base`, `delta_p` and `delta_logp` take the target's ln p as decoded.
    The other fields compare the decoded record, clamped entries included, renormalised, with the quant.

    Parameters
    ----------
    records : `[n_rows, 2 * ((n_vocab + 1) // 2) + 4]` uint16, C-contiguous
    quant : `[n_rows, n_vocab]` float32, C-contiguous
        Logits.
    targets : `[n_rows]` int32
    compat : bool
        True: the tool's own arithmetic (float32 terms and nll, float64 sums). Exponentials are rounded correctly,
        which glibc's expf misses by one unit in 6 of 10,000 cases, and sums run in another order: differences
        below the tool's printed digits. False: the same rule in float64.

    Returns
    -------
    `[n_rows]` of `ROW_DTYPE`. A record that decodes to NaN, infinity or a target's log-probability above 0 is damaged
    and not `finite`.

    Raises
    ------
    MismatchError
        As `row_metrics`; also when the record length does not fit the vocabulary.
    """
    _check_logits("quant", quant)
    n_rows, n_vocab = quant.shape
    expected = (n_rows, 2 * ((n_vocab + 1) // 2) + 4)
    if records.dtype != np.uint16 or records.shape != expected or not records.flags.c_contiguous:
        raise MismatchError(
            f"the base records are {records.dtype} {records.shape}; {n_rows} rows of {n_vocab} logits "
            f"need contiguous uint16 {expected}"
        )
    _check_targets(targets, n_rows, n_vocab)
    from quantprobe.metrics.kernels import compare_records

    headers = np.ascontiguousarray(records[:, :4]).view(np.float32)
    out = np.zeros(n_rows, ROW_DTYPE)
    with _one_at_a_time:
        compare_records(records, headers, quant, targets, compat, out, _n_slices(n_rows))
    return out


def token_drops(rows: NDArray[np.void]) -> BoolArray:
    """Rows where the base's first choice is the target and the quant's is not, `[n_rows]` bool."""
    drops: BoolArray = rows["base_right"] & ~rows["quant_right"]
    return drops


def token_leapfrogs(rows: NDArray[np.void]) -> BoolArray:
    """Rows where the quant's first choice is the target and the base's is not, `[n_rows]` bool."""
    leapfrogs: BoolArray = rows["quant_right"] & ~rows["base_right"]
    return leapfrogs


def _n_slices(n_rows: int) -> int:
    return max(1, min(n_kernel_threads(), n_rows))


def _check_logits(name: str, block: Float32Array) -> None:
    if block.dtype != np.float32 or block.ndim != 2 or not block.flags.c_contiguous:
        layout = "contiguous" if block.flags.c_contiguous else "not contiguous"
        raise MismatchError(
            f"the {name} block is {block.dtype} {block.shape}, {layout}; expected contiguous float32 [n_rows, n_vocab]"
        )
    if block.shape[1] < 1:
        raise MismatchError(f"the {name} block has no vocabulary (shape {block.shape})")


def _check_targets(targets: Int32Array, n_rows: int, n_vocab: int) -> None:
    if targets.dtype != np.int32 or targets.shape != (n_rows,):
        raise MismatchError(f"the targets are {targets.dtype} {targets.shape}; {n_rows} rows need int32 ({n_rows},)")
    wrong = np.flatnonzero((targets < 0) | (targets >= n_vocab))
    if wrong.size:
        raise MismatchError(
            f"row {wrong[0]} has target token {targets[wrong[0]]}, outside the vocabulary of {n_vocab}; "
            "the probes were made with another tokenizer"
        )
