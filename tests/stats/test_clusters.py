"""Clusters: scipy where it has it, simulation where it has not."""

import numpy as np
import pytest
from scipy import stats

from quantprobe.errors import InputError
from quantprobe.stats.clusters import mean_of_known, ratio_of_known
from quantprobe.stats.design import item_design
from quantprobe.stats.estimates import cluster_mean


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


def test_degrees_of_freedom_are_bell_and_mccaffreys() -> None:
    sizes = np.array([3, 5, 12, 40])
    clusters = np.repeat(np.arange(4), sizes)
    n, share = sizes.sum(), sizes / sizes.sum()
    # v = A e for independent errors: the eigenvalues of A A' give Satterthwaite's degrees of freedom
    membership = (clusters == np.arange(4)[:, None]).astype(float)
    a = (membership - share[:, None]) / np.sqrt(1 - share)[:, None] / n
    lambdas = np.linalg.eigvalsh(a @ a.T)
    values = np.random.default_rng(3).normal(size=n)
    found = cluster_mean(values, clusters)
    assert found.dof == pytest.approx(lambdas.sum() ** 2 / (lambdas**2).sum(), rel=1e-9)
    assert found.stderr == pytest.approx(np.linalg.norm(a @ values), rel=1e-9)


def test_strata_are_the_stratified_mean_of_textbooks() -> None:
    rng = np.random.default_rng(4)
    sizes, levels = [10, 40, 100], [-2.0, 0.0, 3.0]
    parts = [rng.normal(level, 1, size) for level, size in zip(levels, sizes, strict=True)]
    groups = [f"s{h}" for h, size in enumerate(sizes) for _ in range(size)]
    found = cluster_mean(np.concatenate(parts), item_design(groups, "strata"))
    n = sum(sizes)
    spreads = [len(part) * part.var(ddof=1) for part in parts]
    assert found.stderr == pytest.approx(np.sqrt(sum(spreads)) / n, rel=1e-12)
    dof = sum(spreads) ** 2 / sum(s**2 / (size - 1) for s, size in zip(spreads, sizes, strict=True))
    assert found.dof == pytest.approx(dof, rel=1e-9)
    assert found.stderr < 0.6 * stats.sem(np.concatenate(parts)), "the spread between strata is no error"


def test_lone_clusters_are_measured_against_the_mean_of_all() -> None:
    values = np.random.default_rng(5).normal(size=12)
    every = cluster_mean(values, item_design([f"s{i}" for i in range(12)], "strata"))
    assert (every.stderr, every.dof) == pytest.approx((stats.sem(values), 11), rel=1e-9)
    one = cluster_mean(np.append(values, 30.0), item_design(["a"] * 12 + ["b"], "strata"))
    assert one.stderr > 1.5, "an item alone in its stratum must not vanish from the error"


def test_degenerate_means() -> None:
    tiny = cluster_mean(np.array([0.0, 8.7e-85]), np.arange(2))
    assert (tiny.stderr, tiny.dof) == pytest.approx((4.35e-85, 1.0), abs=0)
    assert cluster_mean(np.array([2.0]), np.array([0])).stderr is None
    assert cluster_mean(np.zeros(5), np.arange(5)).p_value == 1.0
    assert cluster_mean(np.ones(5), np.arange(5)).p_value is None
    for bad in (np.array([]), np.array([1.0, np.nan])):
        with pytest.raises(InputError):
            cluster_mean(bad, np.arange(len(bad)))


@pytest.mark.parametrize("n_clusters", [3, 5, 12, 57])
@pytest.mark.parametrize("even", [True, False])
def test_coverage_of_the_mean_of_few_clusters_that_move_together(n_clusters: int, even: bool) -> None:
    rng = np.random.default_rng(3)
    sizes = np.full(n_clusters, 12) if even else np.round(np.geomspace(6, 24, n_clusters)).astype(int)
    clusters = np.repeat(np.arange(n_clusters), sizes)
    inside = naive = 0
    for _ in range(1_500):
        values = rng.normal(size=n_clusters)[clusters] + rng.normal(size=len(clusters))
        estimate = cluster_mean(values, clusters).estimate("nats", 0.95)
        inside += estimate.low <= 0 <= estimate.high
        naive += abs(values.mean()) <= stats.norm.ppf(0.975) * values.std(ddof=1) / np.sqrt(len(values))
    assert 0.93 <= inside / 1_500 <= 0.97
    assert naive / 1_500 < 0.7, "the simulation must be one where clusters matter"


def test_ratio_of_known() -> None:
    found = ratio_of_known(np.array([1.0, -2.0, np.nan, 4.0]), np.arange(4), 0.95)
    assert (found.value, found.n, found.n_clusters) == (pytest.approx(3 / 7), 3, 3)
    assert -1 < found.low < 3 / 7 < found.high < 1
    assert ratio_of_known(np.zeros(3), np.arange(3), 0.95).value is None
    all_up = ratio_of_known(np.ones(3), np.arange(3), 0.95)
    assert (all_up.value, all_up.low) == (1.0, None), "three that agree do not say how sure that is"
    assert mean_of_known(np.full(3, np.nan), np.arange(3), "nats", 0.95).value is None


@pytest.mark.parametrize(("n_clusters", "size"), [(4, 50), (40, 5)])
def test_ratio_covers_with_clusters_that_move_together(n_clusters: int, size: int) -> None:
    rng = np.random.default_rng(4)
    clusters = np.repeat(np.arange(n_clusters), size)
    sample = rng.normal(0.2, np.sqrt(1.25), 4_000_000)
    truth = sample.sum() / np.abs(sample).sum()
    inside = 0
    for _ in range(1_000):
        values = rng.normal(0.2, 1.0, len(clusters)) + rng.normal(0, 0.5, n_clusters)[clusters]
        found = ratio_of_known(values, clusters, 0.95)
        inside += found.low <= truth <= found.high
    assert 0.93 <= inside / 1_000 <= 0.97
