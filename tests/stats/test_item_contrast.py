"""The error that all quants share: against the textbook, against brute force, and with few clusters."""

from __future__ import annotations

import numpy as np
import pytest

from quantprobe.stats.design import ItemDesign, item_design
from quantprobe.stats.item_contrast import item_noise


def test_without_groups_it_is_the_covariance_of_means() -> None:
    values = np.random.default_rng(0).normal(size=(4, 50))
    noise = item_noise(values, item_design([""] * 50, "none"))
    np.testing.assert_allclose(noise.covariance(), np.cov(values) / 50)
    weights = np.array([[1.0, -1, 0, 0], [0.3, 0.3, -0.1, -0.5]])
    variance, dof = noise.contrast(weights)
    np.testing.assert_allclose(variance, (weights @ values).var(1, ddof=1) / 50)
    np.testing.assert_allclose(dof, 49)
    np.testing.assert_allclose(noise.take(np.array([2, 0])).covariance(), noise.covariance()[np.ix_([2, 0], [2, 0])])


def test_strata_and_clusters_by_brute_force() -> None:
    """Two strata of three clusters each, of unequal sizes."""
    rng = np.random.default_rng(1)
    sizes = [2, 3, 4, 1, 5, 5]
    clusters = rng.permutation(np.repeat(np.arange(6), sizes))
    strata = clusters // 3
    values = rng.normal(size=(2, 20)) + strata * 5 + clusters
    noise = item_noise(values, ItemDesign(strata, clusters))
    expected = np.zeros((2, 2))
    for c, size in enumerate(sizes):
        in_stratum = strata == c // 3
        residual = (values[:, clusters == c] - values[:, in_stratum].mean(1, keepdims=True)).sum(1)
        expected += np.outer(residual, residual) / (1 - size / in_stratum.sum()) / 20**2
    np.testing.assert_allclose(noise.covariance(), expected)
    np.testing.assert_allclose(noise.dof, [81 / 29 - 1, 121 / 51 - 1])


def test_strata_take_no_part_in_the_error() -> None:
    """Kinds of question of unequal difficulty: the same error as with the differences between kinds removed."""
    rng = np.random.default_rng(2)
    groups = [f"kind {i % 5}" for i in range(100)]
    values = rng.normal(size=(1, 100))
    shifted = values + np.array([hash(i % 5) % 7 for i in range(100)])
    design = item_design(groups, "strata")
    np.testing.assert_allclose(item_noise(values, design).covariance(), item_noise(shifted, design).covariance())
    assert item_noise(shifted, item_design(groups, "none")).covariance() > 2 * item_noise(shifted, design).covariance()


def test_single_clusters_are_one_stratum_together() -> None:
    values = np.arange(6.0)[None]
    lonely = item_noise(values, ItemDesign(np.array([0, 0, 0, 1, 2, 3]), np.arange(6)))
    assert (len(lonely.dof), lonely.strata.tolist()) == (2, [0, 0, 0, 1, 1, 1])
    alone = item_noise(values, ItemDesign(np.array([0, 0, 0, 1, 1, 2]), np.arange(6)))
    assert alone.strata.tolist() == [0, 0, 0, 1, 1, 0]
    assert item_noise(values, ItemDesign(np.zeros(6, int), np.zeros(6, int))) is None
    assert item_noise(np.empty((0, 6)), ItemDesign(np.zeros(6, int), np.arange(6))).residuals.shape == (0, 6)


@pytest.mark.parametrize("n_clusters", [3, 7, 30])
def test_interval_covers_with_few_clusters(n_clusters: int) -> None:
    from scipy import stats

    rng = np.random.default_rng(n_clusters)
    clusters = np.repeat(np.arange(n_clusters), 10)
    design = ItemDesign(np.zeros(len(clusters), int), clusters)
    covered = 0
    for _ in range(400):
        values = rng.normal(size=n_clusters)[clusters] + rng.normal(size=len(clusters))
        variance, dof = item_noise(values[None], design).contrast(np.ones((1, 1)))
        covered += abs(values.mean()) <= stats.t.ppf(0.975, dof[0]) * np.sqrt(variance[0])
    assert 0.925 <= covered / 400 <= 0.98
