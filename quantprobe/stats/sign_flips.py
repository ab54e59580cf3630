"""Changes of many quants on the same items: one score statistic each, and all of them under joint sign flips.

All quants of a table answer the same items, so their changes depend on each other. Flipping the signs of all changes
of an item together (of a cluster, where items are clustered), at random, keeps that dependence and makes every net
change 0: the distribution of the largest statistic over all quants is what a correction needs (Westfall and Young,
Resampling-Based Multiple Testing, 1993, for sign flips; Winkler et al., NeuroImage 92, 2014).

The statistic is Tango's score of a net change of 0, sum d / sqrt(sum d^2) for changes d of -1, 0, 1, over the root of
the design effect, which is measured again in every flip. Changes that are weighted (d_i / pi_i of an item decoded with
probability pi_i, 0 where it was not) are counted in units of w = sum d^2 / sum |d|: with drops / w, leapfrogs / w and
items / w, net and variance are those of the weighted mean, and the same score and interval hold.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from quantprobe.arrays import BoolArray, Float32Array, FloatArray, Int64Array
from quantprobe.errors import InputError
from quantprobe.stats.design import ItemDesign, pool_designs
from quantprobe.stats.estimates import MIN_DESIGN_EFFECT

_BLOCK = 1 << 21


@dataclass(frozen=True, eq=False)
class ChangeTable:
    """The changes of all quants on the items of one task.

    `values` is `[n_quants, n_items]` float64: -1 for a drop, 1 for a leapfrog, 0 for neither, NaN for an item that is
    invalid or was not asked; or such changes over their probability of being decoded, 0 where not decoded. `weights`,
    `[n_quants]`, then has the largest inverse probability of each quant, which stands for the weight of changes where
    none was seen; None where every item was decoded.
    """

    values: FloatArray
    design: ItemDesign
    weights: FloatArray | None = None

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or self.values.shape[1] != self.design.n_items:
            raise InputError(f"{self.values.shape} changes for a design of {self.design.n_items} items")

    @property
    def n_quants(self) -> int:
        return len(self.values)


def pool_tables(tables: Sequence[ChangeTable]) -> ChangeTable:
    """All items of all tasks in one table; a quant that lacks a whole task has no row there (NaN)."""
    whole = np.logical_and.reduce([np.isfinite(table.values).any(axis=1) for table in tables])
    values = np.concatenate([table.values for table in tables], axis=1)
    known = [table.weights for table in tables if table.weights is not None]
    return ChangeTable(
        np.where(whole[:, None], values, np.nan),
        pool_designs([table.design for table in tables]),
        np.maximum.reduce(known) if known else None,
    )


@dataclass(frozen=True, eq=False)
class _Stratum:
    """Sums of one stratum, for each quant: V = squares - 2 mean cross + mean^2 sizes is its part of the variance."""

    signs: slice
    """Its clusters with any change, among the signs of the table."""
    sums: Float32Array
    """`[n_live, n_quants]`, sum of the changes of each such cluster."""
    cross: Float32Array | None
    """`[n_live, n_quants]`, the same times size / (1 - share); None where that is `scale` for all."""
    scale: FloatArray
    squares: FloatArray
    sizes: FloatArray
    n: FloatArray
    dof: FloatArray


class SignFlips:
    """One table, ready to be flipped: `statistics` of any signs, and what its intervals need.

    `live` says which clusters have a change in any quant of the report: one sign each, in the order of strata and
    clusters. Attributes are `[n_quants]`: items, drops and leapfrogs (sums of weights), the unit w of one change.
    """

    def __init__(self, table: ChangeTable, live: BoolArray) -> None:
        order = np.lexsort((table.design.clusters, table.design.strata))
        values = table.values[:, order]
        known = np.isfinite(values)
        changes = np.where(known, values, 0.0)
        self.n = known.sum(axis=1).astype(np.float64)
        self.drops, self.leapfrogs = -np.minimum(changes, 0).sum(axis=1), np.maximum(changes, 0).sum(axis=1)
        self.n_drops, self.n_leapfrogs = (changes < 0).sum(axis=1), (changes > 0).sum(axis=1)
        self.squares = (changes**2).sum(axis=1)
        moved = self.drops + self.leapfrogs
        unseen = np.ones(len(values)) if table.weights is None else table.weights
        self.unit = np.divide(self.squares, moved, out=unseen.astype(np.float64), where=moved > 0)
        self._plain = table.design.is_plain
        self.n_signs = int(live.sum())
        clusters, strata = table.design.clusters[order], table.design.strata[order]
        starts = np.flatnonzero(np.diff(clusters, prepend=-1))
        sums = np.add.reduceat(changes, starts, axis=1).T if len(starts) else changes.T
        sizes = np.add.reduceat(known, starts, axis=1, dtype=np.float64).T if len(starts) else known.T.astype(float)
        self._lone = np.zeros(sizes.shape)
        self._strata = [self._stratum(sums, sizes, live, part) for part in _runs(strata[starts])]
        self._alone = self._lone_clusters(sums, live)
        spread, dof = self._spread(np.ones((1, int(live.sum())), np.float32))
        self.n_clusters = (sizes > 0).sum(axis=0)
        effect = self._design_effect(spread, (self.leapfrogs - self.drops)[None])[0]
        self.design_effect: FloatArray = np.ones(len(values)) if self._plain else effect
        independent = not table.design.has_clusters
        self.dof: FloatArray = np.full(len(values), np.inf) if independent else dof
        self.stderr = np.sqrt(spread[0]) / np.maximum(self.n, 1)

    @property
    def net(self) -> FloatArray:
        """The mean change, NaN without items."""
        found = np.full(len(self.n), np.nan)
        np.divide(self.leapfrogs - self.drops, self.n, out=found, where=self.n > 0)
        return found

    def statistics(self, signs: Float32Array) -> FloatArray:
        """The score statistic of each quant under each row of signs, `[n_flips, n_live]` to `[n_flips, n_quants]`."""
        totals = np.zeros((len(signs), len(self.n)))
        for stratum in self._strata:
            totals += signs[:, stratum.signs] @ stratum.sums
        scale = self.squares
        if not self._plain:
            scale = scale * self._design_effect(self._spread(signs)[0], totals)
        found = np.zeros_like(totals)
        np.divide(totals, np.sqrt(scale), out=found, where=np.broadcast_to(scale > 0, totals.shape))
        return found

    def p_values(self, statistics: FloatArray) -> FloatArray:
        """Two-sided p of the statistics, normal or t where items are clustered."""
        if np.isinf(self.dof).all():
            return np.asarray(2 * special.ndtr(-np.abs(statistics)), np.float64)
        return np.asarray(2 * special.stdtr(self.dof, -np.abs(statistics)), np.float64)

    def _stratum(self, sums: FloatArray, sizes: FloatArray, live: BoolArray, part: slice) -> _Stratum:
        """The clusters of one stratum, for the quants that have several of them; others leave theirs to `_lone`."""
        size = sizes[part]
        several = (size > 0).sum(axis=0) >= 2
        self._lone[part] = np.where(several, 0.0, size)
        first, used = int(live[: part.start].sum()), live[part]
        signs = slice(first, first + int(used.sum()))
        return _sum_up(sums[part], np.where(several, size, 0.0), size.sum(axis=0), used, signs)

    def _lone_clusters(self, sums: FloatArray, live: BoolArray) -> _Stratum | None:
        """Clusters that are alone in their stratum, measured against the mean of all items; one alone, not at all."""
        if not self._lone.any():
            return None
        return _sum_up(sums, self._lone, self.n, live, slice(0, int(live.sum())))

    def _spread(self, signs: Float32Array) -> tuple[FloatArray, FloatArray]:
        """Variance of the sum of changes, `[n_flips, n_quants]`, and its degrees of freedom in the first flip."""
        parts, dofs = [], []
        for stratum in [*self._strata, *([self._alone] if self._alone else [])]:
            used = signs[:, stratum.signs]
            totals = (used @ stratum.sums).astype(np.float64)
            mean = totals / stratum.n
            cross = totals * stratum.scale if stratum.cross is None else used @ stratum.cross
            parts.append(np.maximum(stratum.squares - 2 * mean * cross + mean**2 * stratum.sizes, 0.0))
            dofs.append(stratum.dof)
        spread = np.sum(parts, axis=0)
        first, dof = np.array([part[0] for part in parts]), np.array(dofs)
        joint = dof.sum(axis=0)
        np.divide(first.sum(axis=0) ** 2, (first**2 / dof).sum(axis=0), out=joint, where=spread[0] > 0)
        return spread, joint

    def _design_effect(self, spread: FloatArray, totals: FloatArray) -> FloatArray:
        """Variance over that of a simple random sample; 1 where nothing varies."""
        simple = (self.squares - totals**2 / np.maximum(self.n, 1)) * (self.n / np.maximum(self.n - 1, 1))
        known = simple > 1e-9 * np.maximum(self.squares, 1)
        effect = np.divide(spread, simple, out=np.ones_like(spread), where=known)
        return np.asarray(np.maximum(effect, MIN_DESIGN_EFFECT))


def _sum_up(sums: FloatArray, sizes: FloatArray, n: FloatArray, live: BoolArray, signs: slice) -> _Stratum:
    """Sums over clusters `[n_clusters, n_quants]`, those of size 0 left out, around the mean of `n` items."""
    n = np.maximum(n, 1)
    share = sizes / n
    factor = np.divide(sizes > 0, 1 - share, out=np.full(sizes.shape, np.nan), where=share < 1)
    weights = sizes * factor
    most = weights.max(axis=0)
    equal = bool(((weights == most) | (sums == 0)).all())
    spread = (share**2 * (1 - 2 * share) * factor**2).sum(axis=0) + (share**2 * factor).sum(axis=0) ** 2
    return _Stratum(
        signs=signs,
        sums=sums[live].astype(np.float32),
        cross=None if equal else (sums * weights)[live].astype(np.float32),
        scale=most,
        squares=(factor * sums**2).sum(axis=0),
        sizes=(weights * sizes).sum(axis=0),
        n=n,
        dof=np.divide(share.sum(axis=0) ** 2, spread, out=np.ones_like(spread), where=spread > 0),
    )


def live_clusters(table: ChangeTable) -> BoolArray:
    """Which clusters, in the order of strata and clusters, have a change in any quant."""
    moved: BoolArray = np.any(np.nan_to_num(table.values) != 0, axis=0)
    order = np.lexsort((table.design.clusters, table.design.strata))
    starts = np.flatnonzero(np.diff(table.design.clusters[order], prepend=-1))
    return np.logical_or.reduceat(moved[order], starts) if len(starts) else np.zeros(0, np.bool_)


def draw_signs(n_flips: int, n_signs: int, width: int, seed: int) -> Iterator[Float32Array]:
    """Random signs -1 and 1, `[<= n_flips, n_signs]` at a time; `width` numbers per flip bound the memory."""
    rng = np.random.default_rng(seed)
    step = max(1, min(n_flips, _BLOCK // max(1, n_signs, width)))
    for start in range(0, n_flips, step):
        count = min(step, n_flips - start)
        bits = np.unpackbits(rng.integers(0, 256, (count, -(-n_signs // 8)), np.uint8), axis=1, count=n_signs)
        yield bits.astype(np.float32) * 2 - 1


def _runs(sorted_numbers: Int64Array) -> list[slice]:
    """Slices of equal neighbours."""
    starts = np.flatnonzero(np.diff(sorted_numbers, prepend=-1))
    return [slice(a, b) for a, b in itertools.pairwise([*starts.tolist(), len(sorted_numbers)])]
