"""Clusters: scipy where it has it, simulation where it has not."""

import numpy as np
import pytest
from scipy import stats

from quantprobe.errors import InputError
from quantprobe.stats.clusters import cluster_bootstrap, cluster_mean, effective_clusters, item_clusters


def ratio(sums: np.ndarray) -> np.ndarray:
    return sums[:, 0] / sums[:, 1]


def test_without_groups_it_is_the_one_sample_t_test() -> None:
    values = np.random.default_rng(0).normal(0.3, 2.0, 57)
    found, expected = cluster_mean(values, np.arange(57)), stats.ttest_1samp(values, 0.0)
    assert found.p_value == pytest.approx(expected.pvalue, rel=1e-9)
    interval = expected.confidence_interval(0.9)
    estimate = found.estimate("nats", 0.9)
    assert (estimate.low, estimate.high) == pytest.approx((interval.low, interval.high), rel=1e-9)
    assert estimate.n_clusters == 57


def test_equal_groups_are_the_t_test_of_group_means() -> None:
    values = np.random.default_rng(1).normal(size=(12, 7)) + np.random.default_rng(2).normal(size=(12, 1))
    found = cluster_mean(values.ravel(), np.repeat(np.arange(12), 7))
    expected = stats.ttest_1samp(values.mean(axis=1), 0.0)
    assert found.p_value == pytest.approx(expected.pvalue, rel=1e-9)
    assert found.stderr == pytest.approx(stats.sem(values.mean(axis=1)), rel=1e-9)


def test_effective_clusters() -> None:
    assert effective_clusters(np.repeat(np.arange(10), 3)) == pytest.approx(10)
    assert effective_clusters(np.array([0] * 90 + [1] * 10)) == pytest.approx(10_000 / 8_200)
    assert effective_clusters(np.array([], dtype=np.int64)) == 0


def test_item_clusters_need_enough_groups() -> None:
    many = item_clusters([f"g{i % 10}" for i in range(50)])
    assert len(np.unique(many)) == 10
    assert many[0] == many[10] != many[1]
    few = item_clusters([f"g{i % 4}" for i in range(50)])
    assert len(np.unique(few)) == 50, "four groups cannot carry an error of their own"
    lopsided = item_clusters(["big"] * 1000 + [f"g{i}" for i in range(10)])
    assert len(np.unique(lopsided)) == 1010
    mixed = item_clusters([f"g{i % 10}" for i in range(50)] + ["", ""])
    assert len(np.unique(mixed)) == 12, "an item without a group is its own cluster"


def test_degenerate_means() -> None:
    assert cluster_mean(np.array([2.0]), np.array([0])).stderr is None
    assert cluster_mean(np.zeros(5), np.arange(5)).p_value == 1.0
    assert cluster_mean(np.ones(5), np.arange(5)).p_value is None
    for bad in (np.array([]), np.array([1.0, np.nan])):
        with pytest.raises(InputError):
            cluster_mean(bad, np.arange(len(bad)))


@pytest.mark.parametrize("even", [True, False])
def test_coverage_of_the_mean_with_correlated_groups(even: bool) -> None:
    rng = np.random.default_rng(3)
    sizes = np.full(25, 12) if even else np.concatenate([np.full(20, 6), np.full(5, 20)])
    clusters = np.repeat(np.arange(25), sizes)
    inside = naive = 0
    for _ in range(2_000):
        values = rng.normal(size=25)[clusters] + rng.normal(size=len(clusters))
        estimate = cluster_mean(values, clusters).estimate("nats", 0.95)
        inside += estimate.low <= 0 <= estimate.high
        alone = stats.norm.ppf(0.975) * values.std(ddof=1) / np.sqrt(len(values))
        naive += abs(values.mean()) <= alone
    assert 0.93 <= inside / 2_000 <= 0.97
    assert naive / 2_000 < 0.7, "the simulation must be one where groups matter"


def test_bootstrap_covers_a_ratio_with_correlated_groups() -> None:
    rng = np.random.default_rng(4)
    clusters = np.repeat(np.arange(40), 5)
    sample = rng.normal(0.2, 1.0, 4_000_000) + np.repeat(rng.normal(0, 0.5, 800_000), 5)
    truth = sample.sum() / np.abs(sample).sum()
    inside = 0
    for _ in range(600):
        values = rng.normal(0.2, 1.0, 200) + rng.normal(0, 0.5, 40)[clusters]
        bounds = cluster_bootstrap(np.stack([values, np.abs(values)], axis=1), clusters, ratio, n_boot=800, seed=7)
        inside += bounds[0] <= truth <= bounds[1]
    assert 0.92 <= inside / 600 <= 0.975


def test_bootstrap_is_seeded_and_agrees_with_scipy() -> None:
    values = np.random.default_rng(8).exponential(size=(300, 2))
    first = cluster_bootstrap(values, np.arange(300), ratio, seed=1)
    assert first == cluster_bootstrap(values, np.arange(300), ratio, seed=1)
    assert first != cluster_bootstrap(values, np.arange(300), ratio, seed=2)
    other = stats.bootstrap(
        (values[:, 0], values[:, 1]),
        lambda x, y, axis: x.sum(axis=axis) / y.sum(axis=axis),
        paired=True,
        vectorized=True,
        method="percentile",
        rng=np.random.default_rng(9),
        n_resamples=4_000,
    ).confidence_interval
    assert first == pytest.approx((other.low, other.high), abs=0.02)


def test_bootstrap_of_many_items_merges_them_without_changing_the_interval() -> None:
    values = np.random.default_rng(10).normal(0.3, 1.0, size=(20_000, 1))
    low, high = cluster_bootstrap(values, np.arange(20_000), lambda sums: sums[:, 0] / 20_000, seed=3)
    assert high - low == pytest.approx(2 * 1.96 * values.std() / np.sqrt(20_000), rel=0.1)
    assert low < values.mean() < high


def test_bootstrap_without_clusters_or_without_a_statistic() -> None:
    assert cluster_bootstrap(np.ones((5, 2)), np.zeros(5, dtype=np.int64), ratio) is None
    with np.errstate(invalid="ignore"):
        assert cluster_bootstrap(np.zeros((5, 2)), np.arange(5), ratio) is None
