"""What is said of one importance matrix and of two."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import entropy, spearmanr

from quantprobe.errors import MismatchError
from quantprobe.imatrix.matrix import Entry, Imatrix
from quantprobe.imatrix.statistics import compare, describe, layer_and_role


def make(**values: object) -> Imatrix:
    """Entries from means, each over 10 tokens; `a__0` is blk.0.a.weight."""
    entries = {}
    for name, means in values.items():
        role, _, layer = name.partition("__")
        table = np.atleast_2d(np.asarray(means, dtype=float))
        label = f"blk.{layer}.{role}.weight" if layer else f"{role}.weight"
        entries[label] = Entry(10 * table, np.full(len(table), 10))
    return Imatrix(entries, chunk_size=5)


def test_names() -> None:
    assert layer_and_role("blk.13.ffn_down_exps.weight") == (13, "ffn_down_exps")
    assert layer_and_role("output.weight") == (None, "output")


def test_statistics_are_those_of_the_means() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.exponential(size=300), rng.exponential(size=300)
    x[:3] = 1e-6
    first, second, output = describe(make(w__1=y, output=[2.0], w__0=x))
    assert [first.name, second.name, output.name] == ["blk.0.w.weight", "blk.1.w.weight", "output.weight"]
    assert (first.layer, first.role, first.n_columns, first.n_tokens) == (0, "w", 300, 10)
    assert first.total == pytest.approx(x.sum()) and first.mean == pytest.approx(x.mean())
    assert (first.sd, first.low, first.high) == pytest.approx((x.std(), 1e-6, x.max()))
    assert first.active == 0.99
    assert first.entropy == pytest.approx(entropy(x / x.sum(), base=2) / math.log2(300), rel=1e-6)
    assert first.top_share == pytest.approx(np.sort(x)[-3:].sum() / x.sum())
    assert first.cosine is None and output.cosine is None
    assert second.cosine == pytest.approx(x @ y / np.linalg.norm(x) / np.linalg.norm(y))
    assert (output.entropy, output.top_share) == (1.0, 1.0)


def test_experts_that_saw_nothing_are_counted_and_left_out() -> None:
    entry = Entry(np.array([[4.0, 8.0], [0.0, 0.0], [6.0, 6.0]]), np.array([2, 0, 3]))
    [found] = describe(Imatrix({"blk.0.ffn_up_exps.weight": entry}))
    assert (found.n_experts, found.n_seen, found.min_count, found.n_tokens) == (3, 2, 0, 5)
    assert found.total == 2 + 4 + 2 + 2 and found.low == 2.0
    [nothing] = describe(Imatrix({"w": Entry(np.zeros((1, 3)), np.zeros(1, np.int64))}))
    assert (nothing.total, nothing.entropy, nothing.top_share) == (0.0, 1.0, 0.0)


def test_comparison_is_scipys() -> None:
    rng = np.random.default_rng(1)
    x = rng.exponential(size=400)
    y = x * np.exp(rng.normal(0.3, 0.5, size=400))
    [found] = compare(make(w__0=x), make(w__0=y), ["a", "b"]).tensors
    assert found.cosine == pytest.approx(x @ y / np.linalg.norm(x) / np.linalg.norm(y))
    assert found.rank == pytest.approx(spearmanr(x, y).statistic, abs=1e-6)
    assert found.log_ratio == pytest.approx(np.log(y / x).mean(), rel=1e-5)
    assert found.log_ratio_sd == pytest.approx(np.log(y / x).std(), rel=1e-5)
    best = [set(np.argsort(values)[-4:]) for values in (x, y)]
    assert found.top_overlap == len(best[0] & best[1]) / 4


def test_a_matrix_is_equal_to_itself() -> None:
    one = make(w__0=[3.0, 1.0, 2.0], v__0=[1.0, 1.0, 1.0])
    v, w = compare(one, one, ["a", "b"]).tensors
    assert (w.cosine, w.log_ratio, w.log_ratio_sd, w.rank, w.top_overlap) == pytest.approx((1, 0, 0, 1, 1))
    assert math.isnan(v.rank) and v.top_overlap == 1


def test_what_only_one_has_is_told() -> None:
    found = compare(make(w__0=[1.0], a__0=[1.0]), make(w__0=[0.0], b__0=[1.0]), ["a", "b"])
    assert (found.only_a, found.only_b) == (("blk.0.a.weight",), ("blk.0.b.weight",))
    assert math.isnan(found.tensors[0].cosine) and math.isnan(found.tensors[0].log_ratio)
    unseen = Imatrix({"blk.0.w.weight": Entry(np.zeros((1, 1)), np.zeros(1, np.int64))})
    assert math.isnan(compare(make(w__0=[1.0]), unseen, ["a", "b"]).tensors[0].rank)


def test_other_models_are_refused() -> None:
    with pytest.raises(MismatchError, match="a and b have no weight in common"):
        compare(make(w__0=[1.0]), make(v__0=[1.0]), ["a", "b"])
    with pytest.raises(MismatchError, match=r"has 1 values in a and 2 in b"):
        compare(make(w__0=[1.0]), make(w__0=[1.0, 2.0]), ["a", "b"])
