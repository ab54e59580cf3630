"""Correlations against scipy and scikit-learn, intervals and p-values against their definitions and simulation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats
from sklearn.metrics import roc_auc_score

from quantprobe.stats.auroc import auroc, auroc_influence
from quantprobe.stats.correlation import METHODS, Resampling, correlate, correlate_all, correlation_values
from quantprobe.stats.reliability import attenuation_ceiling, change_range, split_half_reliability

SCIPY = {
    "spearman": lambda x, y: stats.spearmanr(x, y).statistic,
    "kendall": lambda x, y: stats.kendalltau(x, y).statistic,
    "pearson": lambda x, y: stats.pearsonr(x, y).statistic,
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("n", [3, 8, 40])
def test_equals_scipy(method: str, n: int) -> None:
    rng = np.random.default_rng(n)
    x = np.vstack([rng.normal(size=n), rng.integers(0, 3, n) + np.arange(n) % 2, 1e6 + rng.normal(size=n)])
    y = np.vstack([x[0] + rng.normal(size=n), np.round(rng.normal(size=n), 1)])
    values = correlation_values(x, y, method)
    expected = [[SCIPY[method](a, b) for b in y] for a in x]
    np.testing.assert_allclose(values, expected, rtol=0, atol=1e-9)


@settings(max_examples=60, deadline=None)
@given(arrays(np.float64, (2, 9), elements=st.integers(-4, 4).map(float)), st.sampled_from(METHODS))
def test_ties_equal_scipy(xy: np.ndarray, method: str) -> None:
    found = correlate(xy[0], xy[1], method, Resampling(n_boot=20, n_perm=50))
    if np.ptp(xy[0]) == 0 or np.ptp(xy[1]) == 0:
        assert found.value is None
        assert found.p is None
        assert "same value" in found.reason
        return
    assert found.value == pytest.approx(SCIPY[method](xy[0], xy[1]), abs=1e-9)
    assert 0 < found.p <= 1


@pytest.mark.parametrize("method", METHODS)
def test_bootstrap_is_scipy_on_the_resamples(method: str) -> None:
    """The weighted form must give, resample by resample, what scipy gives on the drawn quants."""
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=12), np.round(rng.normal(size=12))
    how = Resampling(n_boot=200, n_perm=10, seed=5)
    found = correlate(x, y, method, how)
    generator = np.random.default_rng(5)
    generator.random((10, 12))  # the permutations come first
    weights = generator.multinomial(12, np.full(12, 1 / 12), size=200)
    drawn = [np.repeat(np.arange(12), w) for w in weights]
    expected = np.quantile([SCIPY[method](x[d], y[d]) for d in drawn], [0.025, 0.975])
    np.testing.assert_allclose([found.low, found.high], expected, atol=1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_exact_permutation_p(method: str) -> None:
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=6), rng.normal(size=6)
    reference = stats.permutation_test(
        (x,), lambda a: np.abs(SCIPY[method](a, y)), permutation_type="pairings", alternative="greater"
    )
    assert correlate(x, y, method).p == pytest.approx(reference.pvalue, abs=1e-12)
    if method == "kendall":
        assert correlate(x, y, method).p == pytest.approx(stats.kendalltau(x, y, method="exact").pvalue, abs=1e-12)


def test_random_permutation_p_is_near_the_exact_one() -> None:
    rng = np.random.default_rng(2)
    x = rng.normal(size=20)
    y = 0.4 * x + rng.normal(size=20)
    exact = stats.kendalltau(x, y, method="exact").pvalue
    assert correlate(x, y, "kendall").p == pytest.approx(exact, abs=4 * np.sqrt(exact / 9999))


def test_interval_covers_and_p_is_uniform() -> None:
    rng = np.random.default_rng(4)
    covered, small = [], []
    for _ in range(60):
        x = rng.normal(size=(5, 30))
        y = 0.6 * x + 0.8 * rng.normal(size=(5, 30))
        cells = correlate_all(x, y, "pearson", Resampling(n_boot=400, n_perm=99))
        covered += [cells[i][i].low <= 0.6 <= cells[i][i].high for i in range(5)]
        small += [cells[i][j].p <= 0.1 for i in range(5) for j in range(5) if i != j]
    assert 0.89 <= np.mean(covered) <= 0.97  # a percentile interval of 30 is known to be a little short
    assert np.mean(small) == pytest.approx(0.10, abs=0.035)


def test_missing_values_pair_by_pair() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 10)), rng.normal(size=(2, 10))
    x[0, 3], y[1, :8] = np.nan, np.nan
    cells = correlate_all(x, y, "spearman", Resampling(n_boot=50, n_perm=50))
    assert [[cell.n for cell in row] for row in cells] == [[9, 2], [10, 2]]
    keep = np.isfinite(x[0])
    assert cells[0][0].value == pytest.approx(stats.spearmanr(x[0][keep], y[0][keep]).statistic, abs=1e-9)
    assert cells[0][1].value is None
    assert "only 2 quants" in cells[0][1].reason
    four = correlate(np.arange(4.0), np.array([1.0, 3, 2, 4]), "spearman")
    assert four.low is None
    assert four.p is not None
    assert "no interval" in four.reason


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


def test_change_of_range() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=200_000)
    y = 0.7 * x + np.sqrt(1 - 0.49) * rng.normal(size=200_000)
    inside = np.abs(x) < 0.5
    observed = np.corrcoef(x[inside], y[inside])[0, 1]
    ratio = x[inside].std() / x.std()
    assert change_range(0.7, ratio) == pytest.approx(observed, abs=0.01)
    assert change_range(observed, 1 / ratio) == pytest.approx(0.7, abs=0.02)
    assert change_range(-0.7, 1.0) == pytest.approx(-0.7)
    assert change_range(0.7, 0.0) == 0.0
    assert change_range(1.0, 0.3) == pytest.approx(1.0)


def test_reliability_of_a_known_law() -> None:
    """Scores true + noise: the reliability is var(true) / (var(true) + var(noise) / n)."""
    rng = np.random.default_rng(0)
    found = []
    for seed in range(10):
        true = rng.normal(0, 0.1, 40)
        sums = true[:, None] + rng.normal(0, 1, (40, 100))
        found.append(split_half_reliability(sums, np.ones(100), 200, seed))
    assert np.mean([r.value for r in found]) == pytest.approx(0.5, abs=0.12)
    assert all(r.low <= r.value <= r.high for r in found)
    noise = split_half_reliability(rng.normal(size=(40, 400)), np.ones(400))
    assert noise.value < 0.4
    assert split_half_reliability(np.ones((5, 8)), np.ones(8)).reason == "all quants have equal scores"
    assert split_half_reliability(np.ones((2, 8)), np.ones(8)).value is None
    assert attenuation_ceiling(0.5, 0.5) == pytest.approx(0.5)
    assert attenuation_ceiling(-0.1, 0.5) == 0.0


def test_large_cohort_stays_small() -> None:
    """200 quants go through the chunked paths and agree with scipy."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 200)), rng.normal(size=(1, 200))
    for method in METHODS:
        cell = correlate_all(x, y, method, Resampling(n_boot=300, n_perm=300))[1][0]
        assert cell.value == pytest.approx(SCIPY[method](x[1], y[0]), abs=1e-9)
        assert cell.low < cell.value < cell.high
