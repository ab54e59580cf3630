"""NumPy twins of the row kernels: plain, float64, one row at a time."""

from __future__ import annotations

import numpy as np
from scipy.special import log_softmax, rel_entr

from quantprobe.arrays import Float32Array, FloatArray, UInt16Array
from quantprobe.metrics.rows import TOP_K


def row_twin(base: Float32Array, quant: Float32Array, target: int) -> dict[str, float]:
    """Every field of one row; whatever is not a finite number says that the row is not `finite`."""
    with np.errstate(invalid="ignore"):
        log_p, log_q = log_softmax(base.astype(np.float64)), log_softmax(quant.astype(np.float64))
    p, q = np.exp(log_p), np.exp(log_q)
    top_p, top_q = _top_list(base), _top_list(quant)
    return {
        "nll_base": -log_p[target],
        "nll": -log_q[target],
        "kld": _kl(p, log_p, log_q),
        "kld_reverse": _kl(q, log_q, log_p),
        "jsd": float(np.sum(rel_entr(p, (p + q) / 2) + rel_entr(q, (p + q) / 2))) / 2,
        "tv": float(np.sum(np.abs(p - q))) / 2,
        "top_k_overlap": len(set(top_p) & set(top_q)) / max(1, len(top_p)),
        "delta_p": q[target] - p[target],
        "delta_logp": log_q[target] - log_p[target],
        "base_entropy": -float(np.sum(p[p > 0] * log_p[p > 0])),
        "base_confidence": float(np.max(p)),
        "same_top": np.argmax(base) == np.argmax(quant),
        "base_right": np.argmax(base) == target,
        "quant_right": np.argmax(quant) == target,
    }


def encode_record(logits: Float32Array) -> UInt16Array:
    """One row as llama-perplexity writes it: float32 scale and minimum, one 16-bit code per token, padded to pairs."""
    highest, lowest = logits.max(), logits.min()
    floor = max(lowest, np.float32(highest - 16))
    log_sum = np.float32(np.log(np.sum(_expf(logits - highest).astype(np.float64))))
    scale = np.float32((highest - floor) / np.float32(65535))
    codes = np.zeros(len(logits) + len(logits) % 2, np.uint16)
    if scale > 0:
        codes[: len(logits)] = np.where(logits > floor, np.rint((np.float32(1) / scale) * (logits - floor)), 0)
    header = np.array([scale, np.float32(floor - highest) - log_sum], np.float32).view(np.uint16)
    return np.concatenate([header, codes])


def llama_twin(record: UInt16Array, quant: Float32Array, target: int) -> dict[str, float]:
    """The fields that the tool defines, in its float32 arithmetic."""
    scale, lowest = record[:4].view(np.float32)
    log_p = scale * record[4 : 4 + len(quant)].astype(np.float32) + lowest
    highest = quant.max()
    log_sum = highest + np.float32(np.log(np.cumsum(_expf(quant - highest).astype(np.float64))[-1]))
    terms = _expf(log_p) * ((log_p - quant) + log_sum)
    nll, nll_base = log_sum - quant[target], -log_p[target]
    return {
        "nll": nll,
        "nll_base": nll_base,
        "kld": float(np.sum(terms[log_p > -16].astype(np.float64))),
        "delta_p": _expf(-nll) - _expf(-nll_base),
        "same_top": np.argmax(log_p) == np.argmax(quant),
    }


def llama_twin_float64(record: UInt16Array, quant: Float32Array, target: int) -> dict[str, float]:
    """The same rule in float64."""
    scale, lowest = record[:4].view(np.float32).astype(np.float64)
    log_p = scale * record[4 : 4 + len(quant)] + lowest
    log_q = log_softmax(quant.astype(np.float64))
    kept = log_p > -16
    return {
        "nll": -log_q[target],
        "nll_base": -log_p[target],
        "kld": float(np.sum(np.exp(log_p[kept]) * (log_p - log_q)[kept])),
        "delta_p": np.exp(log_q[target]) - np.exp(log_p[target]),
    }


def _kl(p: FloatArray, log_p: FloatArray, log_q: FloatArray) -> float:
    held = ~(p == 0)
    return float(np.sum(p[held] * (log_p[held] - log_q[held])))


def _top_list(row: Float32Array) -> list[int]:
    order = np.argsort(-row.astype(np.float64), kind="stable")[:TOP_K]
    return [int(i) for i in order if row[i] > -np.inf]


def _expf(x: Float32Array) -> Float32Array:
    """exp rounded once to float32, which a good libm's expf nearly always equals."""
    return np.exp(np.asarray(x, np.float64)).astype(np.float32)
