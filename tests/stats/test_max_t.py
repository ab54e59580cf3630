"""Simultaneous intervals of means over the same items."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from quantprobe.stats import max_t
from quantprobe.stats.design import as_design
from quantprobe.stats.estimates import mean_estimate
from quantprobe.stats.max_t import joint_means


def test_one_mean_has_the_ordinary_interval() -> None:
    values = np.random.default_rng(0).normal(0.3, 1, 60)
    clusters = np.arange(60) // 4
    expected = mean_estimate(values, clusters, "nats")
    found = joint_means(values[None], as_design(clusters)).estimate(0, "nats")
    assert found.value == pytest.approx(expected.value)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-6)


def test_independent_means_get_the_studentised_maximum() -> None:
    values = np.random.default_rng(1).normal(size=(10, 2_000))
    found = joint_means(values, as_design(np.arange(2_000)))
    critical = (found.high - found.means) / found.stderr
    assert critical == pytest.approx(np.full(10, stats.t.ppf(0.5 + 0.5 * 0.95 ** (1 / 10), 1999)), rel=0.02)


def test_copies_of_one_mean_cost_little() -> None:
    values = np.tile(np.random.default_rng(2).normal(size=400), (10, 1))
    found = joint_means(values, as_design(np.arange(400)))
    assert (found.high - found.means) / found.stderr == pytest.approx(np.full(10, stats.t.ppf(0.975, 399)), rel=0.1)


@pytest.mark.parametrize("n_clusters", [8, 100])
def test_all_intervals_hold_together(n_clusters: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(max_t, "N_DRAWS", 1000)
    rng = np.random.default_rng(3)
    shared = rng.normal(size=(200, 1, n_clusters))
    held = 0
    for common in shared:
        values = np.repeat(rng.normal(size=(6, n_clusters)) + common, 5, axis=1) + rng.normal(size=(6, 5 * n_clusters))
        found = joint_means(values, as_design(np.arange(5 * n_clusters) // 5))
        held += bool(((found.low <= 0) & (found.high >= 0)).all())
        assert np.array_equal(found.p <= 0.05, (found.low > 0) | (found.high < 0))
    assert 0.915 <= held / 200 <= 0.985


def test_what_does_not_vary_is_certain() -> None:
    found = joint_means(np.array([[1.0] * 6, [0.0] * 6, [0, 1, 0, 1, 0, 1]]), as_design(np.arange(6)))
    assert (found.low[0], found.high[0]) == pytest.approx((1, 1)) and found.p[0] < 0.05
    assert found.p[1] == pytest.approx(1)


def test_one_cluster_gives_no_error() -> None:
    found = joint_means(np.ones((2, 3)), as_design(np.zeros(3, np.int64))).estimate(1, "nats")
    assert (found.value, found.stderr, found.low) == (1, None, None)
