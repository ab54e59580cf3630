"""Area under the ROC curve, and what each observation contributes to its error."""

from __future__ import annotations

import numpy as np

from quantprobe.arrays import BoolArray, FloatArray


def auroc(scores: FloatArray, positive: BoolArray) -> float | None:
    """Probability that a random positive has the higher score, ties counted half (Mann-Whitney).

    None if there are no positives or no negatives.
    """
    n_positive = int(positive.sum())
    n_negative = len(positive) - n_positive
    if not n_positive or not n_negative:
        return None
    from scipy.stats import rankdata  # takes a third of a second

    rank_sum = float(rankdata(scores)[positive].sum())
    return (rank_sum - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative)


def auroc_influence(scores: FloatArray, positive: BoolArray) -> FloatArray:
    """What each observation adds to the AUROC's error, `[n]`; the sum of squares is its variance (DeLong 1988).

    Positives and negatives must both occur. Influences of one cluster are added before they are squared.
    """
    from scipy.stats import rankdata

    all_ranks = rankdata(scores)
    placements = np.empty(len(scores))
    for side, sign in ((positive, 1.0), (~positive, -1.0)):
        below = (all_ranks[side] - rankdata(scores[side])) / (~side).sum()
        placements[side] = below if sign > 0 else 1 - below
    area = placements[positive].mean()
    counts = np.where(positive, positive.sum(), (~positive).sum())
    return np.asarray((placements - area) / counts, np.float64)
