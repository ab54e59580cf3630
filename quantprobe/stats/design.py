"""How items were chosen: strata that a benchmark holds on purpose, and clusters that a sample of sources brings.

A cluster is a set of items with one source (a passage, a document, a stretch of text): one accident hits them all. The
clusters are a sample, and the error of a mean is the spread between them. A stratum is a kind of question that the
benchmark holds on purpose (an MMLU subject, a family of built-in questions). The strata are a fixed set, and the error
is the spread within them.

A stratum with a single cluster has no spread of its own. Such lone clusters are measured together, each against the
mean of all items, as if they were one stratum (collapsed strata; Wolter, Introduction to Variance Estimation, 2007,
2.5): the error becomes a little too large where their means differ, never too small.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from quantprobe.arrays import BoolArray, Int32Array, Int64Array
from quantprobe.probes.grouping import CLUSTERS, STRATA, check_grouping


@dataclass(frozen=True, eq=False)
class ItemDesign:
    """The stratum and the cluster of each item, both `[n_items]` int64 numbered from 0; a cluster has one stratum."""

    strata: Int64Array
    clusters: Int64Array

    @property
    def n_items(self) -> int:
        return len(self.strata)

    @property
    def n_strata(self) -> int:
        return int(self.strata.max()) + 1 if len(self.strata) else 0

    @property
    def n_clusters(self) -> int:
        return int(self.clusters.max()) + 1 if len(self.clusters) else 0

    @property
    def has_clusters(self) -> bool:
        """Whether any cluster has several items; without, items are independent of each other."""
        return self.n_clusters < self.n_items

    @property
    def is_plain(self) -> bool:
        """One stratum of independent items: a simple random sample."""
        return self.n_strata <= 1 and not self.has_clusters

    def keep(self, mask: BoolArray) -> ItemDesign:
        """The design of the items where `mask` is true, numbered again."""
        return ItemDesign(_renumber(self.strata[mask]), _renumber(self.clusters[mask]))


def item_design(groups: Sequence[str], grouping: str) -> ItemDesign:
    """The design of one task from its items' groups; an item without a group is its own cluster.

    With strata, items without a group share one stratum of their own. Raises `InputError` for an unknown grouping.
    """
    check_grouping(grouping)
    n = len(groups)
    alone = np.arange(n, dtype=np.int64)
    if grouping == STRATA:
        return ItemDesign(_number(groups), alone)
    if grouping == CLUSTERS:
        return ItemDesign(np.zeros(n, np.int64), _number([group or i for i, group in enumerate(groups)]))
    return ItemDesign(np.zeros(n, np.int64), alone)


def as_design(grouping: ItemDesign | Int32Array | Int64Array) -> ItemDesign:
    """A design as it is; cluster numbers (any integers, `[n_items]`) as clusters of one stratum."""
    if isinstance(grouping, ItemDesign):
        return grouping
    return ItemDesign(np.zeros(len(grouping), np.int64), _renumber(grouping))


def pool_designs(designs: Sequence[ItemDesign]) -> ItemDesign:
    """The designs of several tasks end to end: tasks are strata, and keep their own strata and clusters within."""
    strata_starts = np.cumsum([0, *(design.n_strata for design in designs)])
    cluster_starts = np.cumsum([0, *(design.n_clusters for design in designs)])
    return ItemDesign(
        np.concatenate([d.strata + start for d, start in zip(designs, strata_starts[:-1], strict=True)]),
        np.concatenate([d.clusters + start for d, start in zip(designs, cluster_starts[:-1], strict=True)]),
    )


def _renumber(numbers: ArrayLike) -> Int64Array:
    return np.asarray(np.unique(np.asarray(numbers), return_inverse=True)[1], np.int64)


def _number(keys: Sequence[object]) -> Int64Array:
    numbers: dict[object, int] = {}
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int64)
