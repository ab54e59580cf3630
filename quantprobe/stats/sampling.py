"""Stratified decoding: which items a quant decodes, and what those say about all items of the task.

The base answers every item once. A quant rarely changes an answer that the base gave with a large margin, so it decodes
items near the boundary often and the others seldom, and each decoded flip d counts 1 / pi (Horvitz and Thompson,
1952). Whatever the probabilities pi are, the mean of d / pi is unbiased; good ones make it precise.

    pi ∝ .95 sqrt(p) / mean(sqrt(p)) + .05, at most 1,    p = P(t_3 > |m| / s),    s = SCALE sqrt(KLD) median |m|

with m the base's margin and KLD the quant's on a text. sqrt(p) minimises the variance where p is the chance of a flip
(Neyman, 1934); the uniform part bounds 1 / pi where p is wrong. A normal tail fails: margins of real quants move by a
scale that differs from item to item.

The draw is nested. Each item has one number u in [0, 1) from its id, the same for every quant and machine, and is
decoded where u < pi: a larger share only adds items (permanent random numbers; Ohlsson, 1995).

The variance is the design's, over the whole pool: the spread of d / pi, 0 where not decoded. It has both errors in it,
that of the pool as a sample of the questions one could ask, and that of the items left out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from scipy import sparse, special

from quantprobe.arrays import BoolArray, FloatArray, Int64Array
from quantprobe.errors import InputError
from quantprobe.stats.design import ItemDesign
from quantprobe.stats.estimates import ClusterMean, cluster_mean

SCALE = 0.9
"""Scale of a quant's margin shifts in units of sqrt(text KLD) median |m|. Seven quants of SmolLM2-135M have .70 to .93
on 556 built-in questions and .93 to 1.40 on 1,000 of ARC-Easy (from the median shift). Variance at 20 % decoded,
geometric mean over these 14: 2.65 times that of all items with .4, 2.42 with .7, 2.38 with .85 to 1.2, 2.45 with
1.5."""

UNIFORM_PART = 0.05
UNKNOWN_KLD = 0.3
"""Nats, taken where no text was measured: that of a lossy quant. Too large a KLD costs decodes, too small a one
costs coverage."""
_DOF = 3.0


def item_numbers(ids: Sequence[str], seed: int = 0) -> FloatArray:
    """The number in [0, 1) that decides about each item, `[n_items]` float64: a hash of seed and id.

    Items that are decoded together are given the same id, that of their unit.
    """
    start = f"{seed}\0"
    hashes = [hashlib.blake2b((start + name).encode("utf-8", "surrogatepass"), digest_size=8).digest() for name in ids]
    return np.array([int.from_bytes(h, "little") >> 11 for h in hashes], dtype=np.float64) * 2.0**-53


def flip_chances(base_margin: FloatArray, kld: float | None = None) -> FloatArray:
    """The relative chance that a quant flips each item, `[n_items]` float64 in [0, 1/2]; NaN where the margin is.

    One call per task: the scale is in units of that task's median margin. `base_margin` is in nats, `kld` the mean KLD
    of the quant on a text (nats); None takes `UNKNOWN_KLD`. Raises `InputError` for a KLD below 0 or not finite.
    """
    kld = UNKNOWN_KLD if kld is None else kld
    if not (np.isfinite(kld) and kld >= 0):
        raise InputError(f"a mean KLD of {kld} cannot choose items; give a finite number of nats, 0 or more, or none")
    margin = np.abs(np.asarray(base_margin, dtype=np.float64))
    known = np.isfinite(margin)
    if not known.any():
        return np.full(len(margin), np.nan)
    scale = max(SCALE * kld**0.5, 1e-6) * max(float(np.median(margin[known])), 1e-200)
    return np.where(known, special.stdtr(_DOF, -np.where(known, margin, 0.0) / scale), np.nan)


def share_probabilities(chances: FloatArray, share: float, units: Int64Array | None = None) -> FloatArray:
    """The probability with which each item is decoded, `[n_items]` float64 in (0, 1], with mean `share`.

    `chances` are from `flip_chances`, those of several tasks end to end. Where some are NaN these items are decoded
    for certain, and the mean may exceed the share; where all are, each item has the share. `units` numbers items
    that are decoded together or not at all: all of them get the probability that fits the mean chance of the unit,
    which is best where flips are independent and each item costs the same. What is cut off at 1 goes to the others.
    Raises `InputError` for a share outside (0, 1].
    """
    if not 0.0 < share <= 1.0:
        raise InputError(f"a share of {share} cannot be decoded; give one above 0, at most 1 (0.4 decodes 40 %)")
    n = len(chances)
    known = np.isfinite(chances)
    if share == 1.0 or not known.any():
        return np.full(n, share)
    if units is not None:
        codes = np.unique(units, return_inverse=True)[1]
        chances = (np.bincount(codes, weights=chances) / np.bincount(codes))[codes]
        known = np.isfinite(chances)
    weights = _weights(chances, known)
    result = np.ones(n)
    n_known = int(known.sum())
    expected = max(share * n - (n - n_known), UNIFORM_PART * share * n_known)
    result[known] = _fill(weights[known], expected)
    return result


def decode_probabilities(
    base_margin: FloatArray, kld: float | None, share: float, units: Int64Array | None = None
) -> FloatArray:
    """`share_probabilities` of one task's `flip_chances`; `[n_items]` float64 in (0, 1]."""
    return share_probabilities(flip_chances(base_margin, kld), share, units)


def units_are_cheaper(
    chances: FloatArray, units: Int64Array, share: float, prefix_cost: float, item_cost: float
) -> bool:
    """Whether decoding whole units costs less than decoding their items one by one, at equal variance.

    Items of a unit share a prefix, which costs `prefix_cost` (tokens, or seconds) once where any of them is decoded;
    each costs `item_cost` on top. Compared is expected cost times sum(p / pi), with independent flips, for which whole
    units look at their best.
    """
    p = np.where(np.isfinite(chances), chances, 0.5)
    alone, whole = share_probabilities(p, share), share_probabilities(p, share, units)
    codes = np.unique(units, return_inverse=True)[1]
    with np.errstate(divide="ignore"):
        none = np.exp(np.bincount(codes, weights=np.log1p(-alone)))
    first = np.unique(codes, return_index=True)[1]
    cost_alone = item_cost * alone.sum() + prefix_cost * (1 - none).sum()
    cost_whole = item_cost * whole.sum() + prefix_cost * whole[first].sum()
    return bool(cost_whole * (p / whole).sum() < cost_alone * (p / alone).sum())


def unit_design(design: ItemDesign, units: Int64Array) -> ItemDesign:
    """The design whose clusters hold whole units: what is decoded together is not drawn independently.

    Clusters and units that share an item become one cluster. Raises `InputError` for a unit across two strata.
    """
    codes = np.unique(units, return_inverse=True)[1]
    n_units = int(codes.max()) + 1 if len(codes) else 0
    size = design.n_clusters + n_units
    links = sparse.coo_array((np.ones(len(codes)), (design.clusters, design.n_clusters + codes)), shape=(size, size))
    clusters = sparse.csgraph.connected_components(links, directed=False)[1][design.clusters]
    pairs = np.unique(np.stack([clusters, design.strata]), axis=1)
    if len(np.unique(pairs[0])) < pairs.shape[1]:
        raise InputError("items of two strata are decoded together; make the units smaller, or the strata clusters")
    return ItemDesign(design.strata, np.unique(clusters, return_inverse=True)[1].astype(np.int64))


def sampled_mean(values: FloatArray, decoded: BoolArray, probabilities: FloatArray, design: ItemDesign) -> ClusterMean:
    """The mean of `values` over the pool, from the items that were decoded with these probabilities.

    mean(psi), psi = values / probabilities where decoded and 0 elsewhere; its error is `cluster_mean`'s for psi. The
    ratio sum(psi) / sum(1 / pi) is no better, since items left out are known to hold little change (.98 to 1.15 times
    the variance). `values` `[n_items]` float64 are read where decoded; items decoded without an answer (NaN) leave the
    pool. Raises `InputError` for lengths that differ, probabilities outside (0, 1], or no item.
    """
    psi, kept = weighted_values(values, decoded, probabilities)
    return cluster_mean(psi, design.keep(kept))


def weighted_values(values: FloatArray, decoded: BoolArray, probabilities: FloatArray) -> tuple[FloatArray, BoolArray]:
    """psi of the items that stay in the pool, `[n_kept]` float64, and which these are, `[n_items]`."""
    if not len(values) == len(decoded) == len(probabilities):
        raise InputError(f"{len(values)} values, {len(decoded)} flags and {len(probabilities)} probabilities differ")
    if not ((probabilities > 0) & (probabilities <= 1)).all():
        raise InputError("a probability of decoding is outside (0, 1]; every item needs a chance")
    kept = ~(decoded & np.isnan(values))
    if not kept.any():
        raise InputError("no decoded item has an answer; nothing can be compared")
    psi = np.where(decoded[kept], values[kept], 0.0) / probabilities[kept]
    return psi, kept


def _weights(chances: FloatArray, known: BoolArray) -> FloatArray:
    root = np.sqrt(np.where(known, chances, 0.0))
    mean = float(root[known].mean())
    if mean == 0.0:
        return np.ones(len(chances))
    return (1 - UNIFORM_PART) * root / mean + UNIFORM_PART


def _fill(weights: FloatArray, expected: float) -> FloatArray:
    """min(1, c w) with the c that makes the sum `expected`: the largest are cut off, one more until the rest fits."""
    order = np.sort(weights)[::-1]
    rest = np.cumsum(order[::-1])[::-1]
    factors = (expected - np.arange(len(order))) / rest
    fits = factors * order <= 1
    n_cut = int(fits.argmax()) if fits.any() else len(order) - 1
    filled: FloatArray = np.minimum(1.0, factors[n_cut] * weights)
    return filled
