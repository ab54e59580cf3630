"""Correlations against scipy, p-values against their definitions and simulation; AUROC against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats
from sklearn.metrics import roc_auc_score

from quantprobe.stats.auroc import auroc, auroc_influence
from quantprobe.stats.correlation import (
    METHODS,
    Correlation,
    Resampling,
    Target,
    correlate_all,
    correlation_values,
)
from quantprobe.stats.design import item_design
from quantprobe.stats.item_contrast import ItemNoise, item_noise

SCIPY = {
    "spearman": lambda x, y: stats.spearmanr(x, y).statistic,
    "pearson": lambda x, y: stats.pearsonr(x, y).statistic,
}


def _silent(n: int) -> ItemNoise:
    """Items that add no error, so that only the quants are left."""
    return ItemNoise(np.zeros((n, 2)), np.zeros(2, np.int64), np.ones(1))


def _one(x: np.ndarray, y: np.ndarray, method: str, how: Resampling | None = None, families=None) -> Correlation:
    return correlate_all(x[None], [Target(y, _silent(len(y)))], method, families, how)[0][0]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("n", [3, 8, 40])
def test_equals_scipy(method: str, n: int) -> None:
    rng = np.random.default_rng(n)
    x = np.vstack([rng.normal(size=n), rng.integers(0, 3, n) + np.arange(n) % 2, 1e6 + rng.normal(size=n)])
    y = np.round(x[0] + rng.normal(size=n), 1)
    np.testing.assert_allclose(correlation_values(x, y, method), [SCIPY[method](a, y) for a in x], rtol=0, atol=1e-9)


@settings(max_examples=60, deadline=None)
@given(arrays(np.float64, (2, 9), elements=st.integers(-4, 4).map(float)), st.sampled_from(METHODS))
def test_ties_equal_scipy(xy: np.ndarray, method: str) -> None:
    found = _one(xy[0], xy[1], method, Resampling(n_perm=50))
    if np.ptp(xy[0]) == 0 or np.ptp(xy[1]) == 0:
        assert found.value is None
        assert found.p is None
        assert "same value" in found.reason
        return
    assert found.value == pytest.approx(SCIPY[method](xy[0], xy[1]), abs=1e-9)
    assert 0 < found.p <= 1
    assert found.low <= found.value <= found.high


@pytest.mark.parametrize("method", METHODS)
def test_p_is_the_larger_of_permutation_and_t(method: str) -> None:
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=6), rng.normal(size=6)
    reference = stats.permutation_test(
        (x,), lambda a: np.abs(SCIPY[method](a, y)), permutation_type="pairings", alternative="greater"
    )
    by_t = stats.linregress(x if method == "pearson" else stats.rankdata(x), y).pvalue
    assert _one(x, y, method).p == pytest.approx(max(reference.pvalue, by_t), abs=1e-12)


def test_shared_items_are_seen() -> None:
    """All quants answer the same items, and the noisier ones follow them more: no law, but the quants show one."""
    rng = np.random.default_rng(0)
    x = np.linspace(0, 1, 12)
    design = item_design([""] * 200, "none")
    small, small_alone, widened = 0, 0, []
    for _ in range(300):
        signed = (x[:, None] * rng.normal(size=200) + 0.3 * rng.normal(size=(12, 200))).round()
        mean, noise = signed.mean(1), item_noise(signed, design)
        found = correlate_all(x[None], [Target(mean, noise)], "spearman", None, Resampling(n_perm=199))[0][0]
        alone = _one(x, mean, "spearman", Resampling(n_perm=199))
        small += found.p <= 0.05
        small_alone += alone.p <= 0.05
        widened.append((found.high - found.low) / (alone.high - alone.low))
        assert (found.p <= 0.05) == (not found.low <= 0 <= found.high)
    assert small <= 24  # 5 % of 300 and three standard errors
    assert small_alone > 100
    assert np.mean(widened) > 1.1


def test_within_families() -> None:
    """Two families with the same clean law at different levels; and families that make a law where there is none."""
    x = np.concatenate([np.arange(5.0), np.arange(5.0) + 3])
    y = -x + np.repeat([0.0, 10], 5)
    families = np.repeat([0, 1], 5)
    assert _one(x, y, "spearman").value > 0
    for method in METHODS:
        assert _one(x, y, method, families=families).value == pytest.approx(-1)
    level = np.repeat([0.0, 10], 5) + np.tile([1.0, 5, 2, 4, 3], 2)
    assert _one(x, level, "spearman").p < 0.05
    assert abs(_one(x, level, "spearman", families=families).value) < 0.4
    # p of all orders within families: only the own order and its mirror image are as extreme, of 5!^2
    assert _one(x, y, "spearman", Resampling(n_perm=20_000), families).p == pytest.approx(2 / 120**2, rel=1e-6)


def test_interval_covers_and_p_is_uniform() -> None:
    rng = np.random.default_rng(4)
    covered, small = [], []
    for _ in range(60):
        x = rng.normal(size=(5, 30))
        y = 0.6 * x + 0.8 * rng.normal(size=(5, 30))
        cells = correlate_all(x, [Target(row, _silent(30)) for row in y], "pearson", None, Resampling(n_perm=99))
        covered += [cells[i][i].low <= 0.6 <= cells[i][i].high for i in range(5)]
        small += [cells[i][j].p <= 0.1 for i in range(5) for j in range(5) if i != j]
    assert 0.92 <= np.mean(covered) <= 0.98
    assert np.mean(small) == pytest.approx(0.10, abs=0.035)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_perfect_order_is_not_certainty(sign: float) -> None:
    x, nearly = np.arange(6.0), np.array([0.0, 1.0, 2.0, 3.0, 5.0, 4.0])
    perfect, swapped = _one(x, sign * x, "spearman"), _one(x, sign * nearly, "spearman")
    ends = sorted([perfect.low * sign, perfect.high * sign])
    assert perfect.value == sign and ends[1] == 1.0
    assert min(swapped.low * sign, swapped.high * sign) < ends[0] < 0.9


def test_missing_values_pair_by_pair() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 10)), rng.normal(size=(2, 10))
    x[0, 3], y[1, :8] = np.nan, np.nan
    cells = correlate_all(x, [Target(row, _silent(10)) for row in y], "spearman", None, Resampling(n_perm=50))
    assert [[cell.n for cell in row] for row in cells] == [[9, 2], [10, 2]]
    keep = np.isfinite(x[0])
    assert cells[0][0].value == pytest.approx(stats.spearmanr(x[0][keep], y[0][keep]).statistic, abs=1e-9)
    assert cells[0][1].value is None
    assert "2 quants are too few" in cells[0][1].reason
    four = _one(np.arange(4.0), np.array([1.0, 3, 2, 4]), "spearman")
    assert four.low is None
    assert four.p is not None
    assert "no interval" in four.reason


def test_unknown_items_leave_no_p() -> None:
    x, y = np.arange(8.0), np.arange(8.0)[::-1]
    bare = correlate_all(x[None], [Target(y)], "spearman")[0][0]
    assert (bare.value, bare.p, bare.low) == (-1.0, None, None)
    assert "no items are known" in bare.reason
    partly = _silent(8)
    partly.residuals[:3] = np.nan
    assert correlate_all(x[None], [Target(y, partly)], "spearman")[0][0].n == 5


@settings(max_examples=50, deadline=None)
@given(arrays(np.float64, 25, elements=st.integers(0, 6).map(float)), arrays(np.bool_, 25))
def test_auroc_equals_sklearn(scores: np.ndarray, positive: np.ndarray) -> None:
    found = auroc(scores, positive)
    if positive.all() or not positive.any():
        assert found is None
    else:
        assert found == pytest.approx(roc_auc_score(positive, scores), abs=1e-12)


def test_auroc_error_against_simulation() -> None:
    rng = np.random.default_rng(0)
    areas, errors = [], []
    for _ in range(400):
        positive = rng.random(120) < 0.3
        scores = rng.normal(size=120) + 0.8 * positive
        areas.append(auroc(scores, positive))
        errors.append(np.sqrt((auroc_influence(scores, positive) ** 2).sum()))
    assert np.mean(errors) == pytest.approx(np.std(areas), rel=0.1)


def test_large_cohort_stays_small() -> None:
    """200 quants go through the chunked paths and agree with scipy."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 200)), rng.normal(size=200)
    for method in METHODS:
        cell = correlate_all(x, [Target(y, _silent(200))], method, None, Resampling(n_perm=300))[1][0]
        assert cell.value == pytest.approx(SCIPY[method](x[1], y), abs=1e-9)
        assert cell.low < cell.value < cell.high
