"""Designs: what groups are, and how tasks join."""

import numpy as np
import pytest

from quantprobe.errors import InputError
from quantprobe.stats.design import as_design, item_design, pool_designs


def test_groups_are_strata_clusters_or_nothing() -> None:
    groups = ["a", "b", "a", "", ""]
    strata = item_design(groups, "strata")
    assert (strata.strata.tolist(), strata.n_strata, strata.has_clusters) == ([0, 1, 0, 2, 2], 3, False)
    clusters = item_design(groups, "clusters")
    assert (clusters.n_clusters, clusters.n_strata, clusters.has_clusters) == (4, 1, True)
    assert item_design(groups, "none").is_plain and not strata.is_plain and not clusters.is_plain
    with pytest.raises(InputError, match="strata, clusters, none"):
        item_design(groups, "subjects")


def test_pooled_tasks_are_strata_and_keep_their_own() -> None:
    pooled = pool_designs([item_design(["a", "a", "b"], "clusters"), item_design(["x", "y"], "strata")])
    assert pooled.strata.tolist() == [0, 0, 0, 1, 2]
    assert pooled.clusters.tolist() == [0, 0, 1, 2, 3]


def test_keeping_items_numbers_them_again() -> None:
    kept = item_design(["a", "b", "b", "c"], "clusters").keep(np.array([False, True, True, True]))
    assert (kept.clusters.tolist(), kept.strata.tolist()) == ([0, 0, 1], [0, 0, 0])
    assert as_design(np.array([7, -3, 7], np.int32)).clusters.tolist() == [1, 0, 1]
