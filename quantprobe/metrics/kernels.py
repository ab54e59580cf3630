"""The compiled inner loops: everything that must look at every entry of a row.

Three entry points, `compare_rows` (logits against logits), `compare_records` (llama.cpp's 16-bit base records against
logits) and `log_normalisers` (logits alone); `rows.py` and `scores.py` validate their input. Rows are
shared out over threads and every row is summed by one thread in one fixed order, so the result has the same bits for
any thread count. `reassoc` and `contract` let LLVM keep several partial sums and fuse multiply-adds; no flag that
assumes finite numbers is set.
"""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from quantprobe.arrays import Float32Array, FloatArray, Int32Array, Int64Array, UInt16Array
from quantprobe.compiling import compiled
from quantprobe.metrics.quantities import TOP_K
from quantprobe.metrics.vector_math import fast_exp, fast_log, float32_of_bits

FLOOR = -16.0
"""llama.cpp's KLD leaves out base log-probabilities at or below this."""

_TILE = 256
_KEY_POSITIVE_INF = np.int32(0x7F800000)
_KEY_NEGATIVE_INF = np.int32(-0x7F800001)
_KEY_LOWEST = np.int32(-0x80000000)
_KEY_HIGHEST = np.int32(0x7FFFFFFF)
_TINY = 1e-300
_POSITIVE_LOGPROB = 1e-3


@compiled()
def _order_key(bits: np.int32) -> np.int32:
    """Maps float32 bits to integers of the same order (its own inverse); NaN lies beyond the infinities.

    Integer maxima vectorise; float maxima do not while NaN must be noticed.
    """
    return np.int32(bits ^ ((bits >> np.int32(31)) & _KEY_HIGHEST))


@compiled()
def _insert(values: Float32Array, indices: Int64Array, n_top: int, value: np.float32, index: int) -> int:
    """Put one entry into the descending list; behind its equals, so that the first index wins."""
    place = min(n_top, TOP_K - 1)
    while place > 0 and values[place - 1] < value:
        values[place] = values[place - 1]
        indices[place] = indices[place - 1]
        place -= 1
    values[place] = value
    indices[place] = index
    return min(n_top + 1, TOP_K)


@compiled()
def _key_range(bits: Int32Array) -> tuple[np.int32, np.int32]:
    highest, lowest = _KEY_LOWEST, _KEY_HIGHEST
    for i in range(bits.size):
        key = _order_key(bits[i])
        highest = key if key > highest else highest
        lowest = key if key < lowest else lowest
    return highest, lowest


@compiled()
def _scan_row(row: Float32Array, bits: Int32Array, values: Float32Array, indices: Int64Array) -> int:
    """The largest entries above -inf, into `values` and `indices`; returns how many, at most `TOP_K`.

    -1 for a row with NaN or +inf. A tile is looked at entry by entry only when its maximum belongs in the list.
    """
    n_top = 0
    threshold = np.float32(-np.inf)
    for start in range(0, row.size, _TILE):
        tile = row[start : start + _TILE]
        highest, lowest = _key_range(bits[start : start + _TILE])
        if highest >= _KEY_POSITIVE_INF or lowest < _KEY_NEGATIVE_INF:
            return -1
        if float32_of_bits(_order_key(highest)) > threshold:
            for i in range(tile.size):
                if tile[i] > threshold:
                    n_top = _insert(values, indices, n_top, tile[i], start + i)
                    if n_top == TOP_K:
                        threshold = values[TOP_K - 1]
    return n_top


@compiled("reassoc", "contract", "nsz", "arcp")
def _exponential_sums(
    base: Float32Array, quant: Float32Array, base_max: float, quant_max: float, scratch: FloatArray
) -> tuple[float, float, float, float, float, float]:
    """Sums of b, q, b(x-y), q(x-y), bx, qy with x, y the shifted logits and b, q their exponentials.

    The exponentials stay in `scratch` `[2, n_vocab]`: reading them back costs a quarter of computing them again.
    A probability of 0 contributes 0, also where its logit is -inf.
    """
    sum_b = sum_q = cross_b = cross_q = self_b = self_q = 0.0
    for i in range(base.size):
        x = np.float64(base[i]) - base_max
        y = np.float64(quant[i]) - quant_max
        b = fast_exp(x)
        q = fast_exp(y)
        scratch[0, i] = b
        scratch[1, i] = q
        sum_b += b
        sum_q += q
        cross_b += b * (x - y) if b > 0.0 else 0.0
        cross_q += q * (x - y) if q > 0.0 else 0.0
        self_b += b * x if b > 0.0 else 0.0
        self_q += q * y if q > 0.0 else 0.0
    return sum_b, sum_q, cross_b, cross_q, self_b, self_q


@compiled("reassoc", "contract", "nsz", "arcp")
def _mixture_sums(scratch: FloatArray, ratio: float) -> tuple[float, float]:
    """Sums of |b - q'| and of (b + q') ln(b + q'), q' = q * ratio; `ratio` gives both the same normaliser.

    Equal rows have a ratio of exactly 1 and a first sum of exactly 0, fused multiply-add or not.
    """
    distance = mixture = 0.0
    for i in range(scratch.shape[1]):
        b = scratch[0, i]
        q = scratch[1, i] * ratio
        distance += abs(b - q)
        both = b + q
        both = both if both > _TINY else _TINY
        mixture += both * fast_log(both)
    return distance, mixture


@compiled()
def _count_shared(first: Int64Array, n_first: int, second: Int64Array, n_second: int) -> int:
    shared = 0
    for i in range(n_first):
        for j in range(n_second):
            if first[i] == second[j]:
                shared += 1
    return shared


@compiled()
def _mark_missing(out: Any) -> None:
    """A row that has no numbers: NaN in every float field, False in every flag."""
    out.nll_base = out.nll = out.kld = out.kld_reverse = out.jsd = out.tv = np.nan
    out.top_k_overlap = out.delta_p = out.delta_logp = out.base_entropy = out.base_confidence = np.nan
    out.same_top = out.base_right = out.quant_right = out.finite = False


@compiled()
def _fill_divergences(base: Float32Array, quant: Float32Array, m: Float32Array, scratch: FloatArray, out: Any) -> None:
    """Every field that needs the whole row; `m` holds the two maxima."""
    base_max, quant_max = np.float64(m[0]), np.float64(m[1])
    sum_b, sum_q, cross_b, cross_q, self_b, self_q = _exponential_sums(base, quant, base_max, quant_max, scratch)
    log_b, log_q = math.log(sum_b), math.log(sum_q)
    distance, mixture = _mixture_sums(scratch, sum_b / sum_q)
    entropy_b = log_b - self_b / sum_b
    entropy_q = log_q - self_q / sum_q
    out.tv = 0.5 * distance / sum_b
    # Divergences and entropies cannot be negative; rounding (about 1e-16) can make them so.
    out.kld = max(0.0, cross_b / sum_b + (log_q - log_b))
    out.kld_reverse = max(0.0, (log_b - log_q) - cross_q / sum_q)
    entropy_mixture = math.log(2.0) + log_b - 0.5 * mixture / sum_b
    out.jsd = max(0.0, entropy_mixture - 0.5 * (entropy_b + entropy_q)) if distance > 0.0 else 0.0
    out.base_entropy = max(0.0, entropy_b)
    out.base_confidence = 1.0 / sum_b
    out.nll_base = log_b
    out.nll = log_q


@compiled()
def _compare_row(
    base: Float32Array,
    quant: Float32Array,
    base_bits: Int32Array,
    quant_bits: Int32Array,
    target: int,
    scratch: FloatArray,
    out: Any,
) -> None:
    """One row into one record of `ROW_DTYPE`."""
    values = np.empty((2, TOP_K), np.float32)
    indices = np.empty((2, TOP_K), np.int64)
    n_base = _scan_row(base, base_bits, values[0], indices[0])
    n_quant = _scan_row(quant, quant_bits, values[1], indices[1])
    _mark_missing(out)
    if n_base < 1 or n_quant < 1:
        return
    _fill_divergences(base, quant, values[:, 0], scratch, out)
    out.nll_base += np.float64(values[0, 0]) - np.float64(base[target])
    out.nll += np.float64(values[1, 0]) - np.float64(quant[target])
    if not math.isfinite(out.kld + out.kld_reverse + out.nll_base + out.nll):
        _mark_missing(out)
        return
    out.delta_p = math.exp(-out.nll) - math.exp(-out.nll_base)
    out.delta_logp = out.nll_base - out.nll
    out.top_k_overlap = _count_shared(indices[0], n_base, indices[1], n_quant) / n_base
    out.same_top = indices[0, 0] == indices[1, 0]
    out.base_right = indices[0, 0] == target
    out.quant_right = indices[1, 0] == target
    out.finite = True


@compiled(parallel=True)
def compare_rows(
    base: Float32Array, quant: Float32Array, targets: Int32Array, out: NDArray[Any], n_slices: int
) -> None:
    """Fill `out` `[n_rows]` from logits `[n_rows, n_vocab]`; slice s takes rows s, s + n_slices, ..."""
    base_bits = base.view(np.int32)
    quant_bits = quant.view(np.int32)
    for part in numba.prange(n_slices):
        scratch = np.empty((2, base.shape[1]), np.float64)
        for row in range(part, base.shape[0], n_slices):
            _compare_row(base[row], quant[row], base_bits[row], quant_bits[row], targets[row], scratch, out[row])


@compiled("reassoc", "contract", "nsz", "arcp")
def _exponential_sum(row: Float32Array, top: float) -> float:
    total = 0.0
    for i in range(row.size):
        total += fast_exp(np.float64(row[i]) - top)
    return total


@compiled(parallel=True)
def log_normalisers(rows: Float32Array, used: Int64Array, out: FloatArray) -> None:
    """ln(sum(exp(logits))) of the rows `used` of `[n_rows, n_vocab]`; NaN for a row with NaN or +inf, or all -inf."""
    bits = rows.view(np.int32)
    for i in numba.prange(used.size):
        highest, lowest = _key_range(bits[used[i]])
        finite = lowest >= _KEY_NEGATIVE_INF and _KEY_NEGATIVE_INF < highest < _KEY_POSITIVE_INF
        top = np.float64(float32_of_bits(_order_key(highest)))
        out[used[i]] = top + math.log(_exponential_sum(rows[used[i]], top)) if finite else np.nan


@compiled()
def _decode_record(record: UInt16Array, scale: np.float32, lowest: np.float32, decoded: Float32Array) -> None:
    """`scale * code + lowest` in float32, as llama.cpp decodes (no fused multiply-add)."""
    for i in range(decoded.size):
        decoded[i] = scale * np.float32(record[4 + i]) + lowest


@compiled()
def _expf(x: np.float32) -> np.float32:
    """exp rounded once to float32: as glibc's expf in all but 6 of 10,000 cases, but vectorisable."""
    return np.float32(fast_exp(np.float64(x)))


@compiled("reassoc")
def _sum(values: FloatArray) -> float:
    total = 0.0
    for i in range(values.size):
        total += values[i]
    return total


@compiled()
def _fill_float32(base: Float32Array, quant: Float32Array, target: int, scratch: FloatArray, out: Any) -> None:
    """llama.cpp's own arithmetic: float32 terms, float64 sums, float32 nll; `base` is the decoded record.

    The terms go through `scratch` so that only their float64 sums, and no float32 step, may be reordered.
    """
    quant_max = np.max(quant)
    for i in range(quant.size):
        scratch[0, i] = _expf(quant[i] - quant_max)
    log_sum = quant_max + np.float32(math.log(_sum(scratch[0])))
    for i in range(quant.size):
        term = _expf(base[i]) * ((base[i] - quant[i]) + log_sum)
        scratch[1, i] = term if base[i] > np.float32(FLOOR) else np.float32(0.0)
    nll_base, nll = -base[target], log_sum - quant[target]
    out.kld, out.nll_base, out.nll = _sum(scratch[1]), nll_base, nll
    out.delta_p = np.float32(math.exp(-nll)) - np.float32(math.exp(-nll_base))


@compiled("reassoc", "contract", "nsz", "arcp")
def _truncated_kld(record: UInt16Array, quant: Float32Array, scale: float, lowest: float, log_sum: float) -> float:
    kld = 0.0
    for i in range(quant.size):
        logp = scale * np.float64(record[4 + i]) + lowest
        kld += fast_exp(logp) * (logp - np.float64(quant[i]) + log_sum) if logp > FLOOR else 0.0
    return kld


@compiled()
def _fill_float64(record: UInt16Array, header: Float32Array, quant: Float32Array, target: int, out: Any) -> None:
    """The same rule (skip the floor, no renormalisation) in float64; `out.nll` is there already."""
    scale, lowest = np.float64(header[0]), np.float64(header[1])
    out.kld = _truncated_kld(record, quant, scale, lowest, out.nll + np.float64(quant[target]))
    out.nll_base = -(scale * np.float64(record[4 + target]) + lowest)
    out.delta_p = math.exp(-out.nll) - math.exp(-out.nll_base)


@compiled(parallel=True)
def compare_records(
    records: UInt16Array,
    headers: Float32Array,
    quant: Float32Array,
    targets: Int32Array,
    compat: bool,
    out: NDArray[Any],
    n_slices: int,
) -> None:
    """Fill `out` from base records `[n_rows, 4 + n_vocab (+ 1)]`, their float32 `headers` `[n_rows, 2]`, and logits."""
    quant_bits = quant.view(np.int32)
    n_vocab = quant.shape[1]
    for part in numba.prange(n_slices):
        scratch = np.empty((2, n_vocab), np.float64)
        base = np.empty(n_vocab, np.float32)
        base_bits = base.view(np.int32)
        for row in range(part, quant.shape[0], n_slices):
            target = targets[row]
            _decode_record(records[row], headers[row, 0], headers[row, 1], base)
            _compare_row(base, quant[row], base_bits, quant_bits[row], target, scratch, out[row])
            if not out[row].finite:
                continue
            if compat:
                _fill_float32(base, quant[row], target, scratch, out[row])
            else:
                _fill_float64(records[row], headers[row], quant[row], target, out[row])
            out[row].delta_logp = out[row].nll_base - out[row].nll
            if not math.isfinite(out[row].kld) or out[row].nll_base < -_POSITIVE_LOGPROB:
                _mark_missing(out[row])
