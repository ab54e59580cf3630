"""What an importance matrix says of each weight, and how two of them differ."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from quantprobe.arrays import FloatArray
from quantprobe.errors import MismatchError
from quantprobe.imatrix.matrix import Entry, Imatrix

ACTIVE = 1e-5
"""Mean squares up to this count as no activation, as in llama-imatrix."""
TOP_SHARE = 0.01
"""Share of the columns, those with the largest means, whose overlap is compared."""
_LAYER = re.compile(r"blk\.(\d+)\.(.+?)(?:\.weight)?$")


@dataclass(frozen=True)
class TensorStatistics:
    """One weight; all of it on the means m_j of the matrices that saw tokens.

    `total` is the sum of m_j, `mean`, `sd`, `low` and `high` are of the m_j, `active` is the share above `ACTIVE`,
    `entropy` is that of p_j = m_j / total divided by log2 of their number: 1 where all columns weigh the same (and for
    a single column or total 0). `top_share` is the share of `total` in the top 1 % of the columns. `cosine` is that to
    the same weight of the layer before, None for the first. `n_tokens` is the count (of all experts together).
    """

    name: str
    layer: int | None
    role: str
    n_columns: int
    n_experts: int
    n_seen: int
    """Matrices that saw at least one token."""
    min_count: int
    n_tokens: int
    total: float
    mean: float
    sd: float
    low: float
    high: float
    active: float
    entropy: float
    top_share: float
    cosine: float | None


@dataclass(frozen=True)
class TensorComparison:
    """One weight of two matrices, on the means m_j of the columns that both saw.

    `cosine` of the two vectors (nan if one is 0); `log_ratio` and `log_ratio_sd` are mean and standard deviation of
    ln m_j^B - ln m_j^A over the columns above 0 in both; `rank` is Spearman's correlation (ties get mean ranks; nan if
    one is constant); `top_overlap` is the share of A's top 1 % of the columns (at least one) that are in B's.
    """

    name: str
    layer: int | None
    role: str
    cosine: float
    log_ratio: float
    log_ratio_sd: float
    rank: float
    top_overlap: float


@dataclass(frozen=True)
class Comparison:
    """Two importance matrices."""

    tensors: tuple[TensorComparison, ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]


def layer_and_role(name: str) -> tuple[int | None, str]:
    """`blk.3.attn_q.weight` is (3, "attn_q"); a weight outside the layers has no layer."""
    found = _LAYER.match(name)
    return (int(found[1]), found[2]) if found else (None, name.removesuffix(".weight"))


def describe(imatrix: Imatrix) -> list[TensorStatistics]:
    """The statistics of every weight, layer by layer."""
    means = {name: entry.means().astype(np.float64) for name, entry in imatrix.entries.items()}
    found = [_describe(name, entry, means) for name, entry in imatrix.entries.items()]
    return sorted(found, key=lambda each: (each.layer is None, each.layer or 0, each.role))


def _describe(name: str, entry: Entry, means: Mapping[str, FloatArray]) -> TensorStatistics:
    layer, role = layer_and_role(name)
    seen = entry.counts > 0
    values = means[name][seen].reshape(-1)
    if not values.size:
        values = np.zeros(1)
    total = float(values.sum())
    before = means.get(name.replace(f"blk.{layer}.", f"blk.{layer - 1}.", 1)) if layer else None
    return TensorStatistics(
        name=name,
        layer=layer,
        role=role,
        n_columns=entry.n_columns,
        n_experts=entry.n_matrices,
        n_seen=int(seen.sum()),
        min_count=int(entry.counts.min()),
        n_tokens=int(entry.counts.sum()),
        total=total,
        mean=float(values.mean()),
        sd=float(values.std()),
        low=float(values.min()),
        high=float(values.max()),
        active=float(np.mean(values > ACTIVE)),
        entropy=_entropy(values, total),
        top_share=float(np.sort(values)[-_n_top(values.size) :].sum() / total) if total > 0 else 0.0,
        cosine=None if before is None or before.shape != means[name].shape else _cosine(before, means[name]),
    )


def _entropy(values: FloatArray, total: float) -> float:
    if total <= 0 or values.size < 2:
        return 1.0
    shares = values[values > 0] / total
    return float(-(shares * np.log2(shares)).sum() / np.log2(values.size))


def _n_top(n: int) -> int:
    return max(1, int(TOP_SHARE * n))


def _cosine(a: FloatArray, b: FloatArray) -> float:
    scale = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(np.vdot(a, b)) / scale if scale > 0 else float("nan")


def compare(a: Imatrix, b: Imatrix, names: Sequence[str]) -> Comparison:
    """Compare what both have; `names` of the two files are for messages.

    Raises `MismatchError` if nothing is in both, or a weight has two sizes: other models.
    """
    common = [name for name in a.entries if name in b.entries]
    if not common:
        raise MismatchError(f"{names[0]} and {names[1]} have no weight in common; they belong to different models")
    tensors = [_compare(name, a.entries[name], b.entries[name], names) for name in common]
    tensors.sort(key=lambda each: (each.layer is None, each.layer or 0, each.role))
    only_a = tuple(name for name in a.entries if name not in b.entries)
    only_b = tuple(name for name in b.entries if name not in a.entries)
    return Comparison(tuple(tensors), only_a, only_b)


def _compare(name: str, a: Entry, b: Entry, names: Sequence[str]) -> TensorComparison:
    if a.sums.size != b.sums.size:
        raise MismatchError(
            f"{name} has {a.sums.size} values in {names[0]} and {b.sums.size} in {names[1]}; "
            "they belong to different models"
        )
    n_matrices = max(a.n_matrices, b.n_matrices)  # an old file has one count for all experts
    seen = np.broadcast_to(a.counts > 0, (n_matrices,)) & np.broadcast_to(b.counts > 0, (n_matrices,))
    x = a.means().astype(np.float64).reshape(n_matrices, -1)[seen].reshape(-1)
    y = b.means().astype(np.float64).reshape(n_matrices, -1)[seen].reshape(-1)
    layer, role = layer_and_role(name)
    nan = float("nan")
    if not x.size:
        return TensorComparison(name, layer, role, nan, nan, nan, nan, nan)
    positive = (x > 0) & (y > 0)
    ratios = np.log(y[positive]) - np.log(x[positive])
    n_top = _n_top(x.size)
    top_a, top_b = (set(np.argsort(values, kind="stable")[-n_top:].tolist()) for values in (x, y))
    return TensorComparison(
        name=name,
        layer=layer,
        role=role,
        cosine=_cosine(x, y),
        log_ratio=float(ratios.mean()) if ratios.size else nan,
        log_ratio_sd=float(ratios.std()) if ratios.size else nan,
        rank=_rank_correlation(x, y),
        top_overlap=len(top_a & top_b) / n_top,
    )


def _rank_correlation(x: FloatArray, y: FloatArray) -> float:
    ranks = [rankdata(values) for values in (x, y)]
    a, b = (each - each.mean() for each in ranks)
    return _cosine(a, b)
