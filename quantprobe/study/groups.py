"""Which quants can be told apart, and letters that say so."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from quantprobe.arrays import BoolArray, Int64Array
from quantprobe.stats.design import ItemDesign, as_design
from quantprobe.stats.estimates import cluster_mean
from quantprobe.stats.paired import holm, mcnemar_p


def separable_pairs(correct: BoolArray, grouping: ItemDesign | Int64Array, alpha: float) -> BoolArray:
    """Which rows of `[n_rows, n_items]` differ, `[n_rows, n_rows]`, at Holm-corrected alpha over all pairs.

    Exact McNemar; where items are clustered the larger of its p and that of the t test over the design.
    """
    design = as_design(grouping)
    right = correct.astype(np.float32)  # counts below 2^24 are exact
    both, totals = right @ right.T, right.sum(1)
    only = (totals[:, None] - both).astype(np.int64)
    upper = np.triu_indices(len(correct), 1)
    p = mcnemar_p(only[upper], only.T[upper])
    if design.has_clusters:
        for at in np.flatnonzero(p * len(p) <= 1):  # the t test can only raise a p, and the others stay above alpha
            i, j = upper[0][at], upper[1][at]
            grouped = cluster_mean(correct[i].astype(np.float64) - correct[j], design).p_value
            p[at] = max(p[at], grouped or 0.0)
    separable = np.zeros(only.shape, np.bool_)
    separable[upper] = holm(p) <= alpha
    return separable | separable.T


def compact_letters(separable: BoolArray) -> list[str]:
    """Letters of each row, such that two rows share one exactly if they are not separable.

    Insert and absorb: every separable pair splits the groups that hold both; a group inside another is dropped. Groups
    are lettered by their first row, so rows should come best first.
    """
    n = len(separable)
    groups: list[frozenset[int]] = [frozenset(range(n))] if n else []
    for i, j in zip(*np.nonzero(np.triu(separable, 1)), strict=True):
        split = [part for group in groups if {i, j} <= group for part in (group - {i}, group - {j})]
        kept = [group for group in groups if not {i, j} <= group]
        groups = kept + [part for part in dict.fromkeys(split) if not _is_absorbed(part, kept, split)]
    groups.sort(key=lambda group: sorted(group))
    return ["".join(_letter(k) for k, group in enumerate(groups) if row in group) for row in range(n)]


def _letter(k: int) -> str:
    return chr(ord("a") + k) if k < 26 else f"({k + 1})"


def _is_absorbed(part: frozenset[int], kept: Sequence[frozenset[int]], split: Sequence[frozenset[int]]) -> bool:
    return any(part <= group for group in kept) or any(part < other for other in split)
