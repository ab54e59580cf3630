"""The silent zone: the quants near the base, by a range that is declared before accuracy is seen."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from quantprobe.arrays import BoolArray, FloatArray, Int64Array
from quantprobe.errors import InputError
from quantprobe.stats.item_contrast import ItemNoise, item_noise
from quantprobe.stats.slope import Fold
from quantprobe.study.pooled import Answers

KLD, BPW, MARGIN = "kld", "bpw", "margin"
KINDS = (KLD, BPW, MARGIN)
DEFAULT_KLD = 0.05
_EXAMPLES = "kld:0-0.05, kld:0.001-0.05, bpw:4-6.5, margin or margin:1%"
_NUMBER = r"(\d+(?:\.\d*)?(?:e[+-]?\d+)?|\.\d+)"


@dataclass(frozen=True)
class ZoneSpec:
    """Which quants are the silent zone.

    "kld": low <= KLD <= high, in nats of the headline measure. "bpw": low <= bits per weight <= high. Neither looks at
    accuracy, so neither bends the slope inside. "margin": |net change| <= margin on one half of the items, scored on
    the other half, both ways round.
    """

    kind: str = KLD
    low: float = 0.0
    high: float = DEFAULT_KLD
    margin: float = 0.01

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(f"a zone {self.kind!r} is not known; write one of {_EXAMPLES}")
        if not 0 <= self.low < self.high:
            raise InputError(
                f"the zone {self.kind}:{self.low:g}-{self.high:g} is no range; write for example {_EXAMPLES}"
            )
        if not 0 < self.margin < 1:
            raise InputError(f"the margin {self.margin:g} is not between 0 and 1; write margin:1% or margin:0.01")

    @staticmethod
    def parse(text: str, margin: float = 0.01) -> ZoneSpec:
        """From `kld:LOW-HIGH`, `bpw:LOW-HIGH`, `margin` or `margin:1%`; `margin` is that of the word alone.

        Raises `InputError` with examples for anything else.
        """
        kind, _, rest = text.strip().lower().partition(":")
        if kind == MARGIN and not rest:
            return ZoneSpec(MARGIN, margin=margin)
        share = re.fullmatch(_NUMBER + "(%?)", rest)
        if kind == MARGIN and share:
            return ZoneSpec(MARGIN, margin=float(share[1]) / (100 if share[2] else 1))
        limits = re.fullmatch(_NUMBER + "-" + _NUMBER, rest)
        if kind in (KLD, BPW) and limits:
            return ZoneSpec(kind, float(limits[1]), float(limits[2]))
        raise InputError(f"{text!r} is not a zone; write for example {_EXAMPLES}")

    def describe(self) -> str:
        """The rule in words."""
        if self.kind == MARGIN:
            return f"net change within ±{100 * self.margin:g} points on the other half of the items"
        unit = "nats" if self.kind == KLD else "bits per weight"
        name = "KLD" if self.kind == KLD else "size"
        return f"{name} up to {self.high:g} {unit}" if not self.low else f"{name} {self.low:g} to {self.high:g} {unit}"


def zone_members(spec: ZoneSpec, kld: FloatArray, bpw: FloatArray, answers: Answers | None, seed: int) -> BoolArray:
    """Which quants are in the zone, `[n_quants]`; one whose KLD, size or answers are unknown is not.

    By margin: those that are within it on both halves of the items.
    """
    if spec.kind != MARGIN:
        values = kld if spec.kind == KLD else bpw
        if not len(values):
            return np.zeros(len(kld), np.bool_)
        return np.asarray((values >= spec.low) & (values <= spec.high), np.bool_)
    members = np.zeros(len(kld), np.bool_)
    if answers is not None:
        first = half_of_items(answers, seed)
        within = [_within(answers, half, spec.margin) for half in (first, ~first)]
        members[answers.quants] = within[0] & within[1]
    return members


def zone_folds(spec: ZoneSpec, members: BoolArray, answers: Answers, usable: BoolArray, seed: int) -> list[Fold]:
    """The changes inside the zone in points, of usable quants: all items at once, or half of them twice by margin.

    A fold by margin holds the quants that are within it on the half of the items that the fold does not score.
    """
    if spec.kind != MARGIN:
        return [fold_of(answers, usable[answers.quants] & members[answers.quants])]
    first = half_of_items(answers, seed)
    return [
        fold_of(answers, usable[answers.quants] & _within(answers, chosen, spec.margin), ~chosen)
        for chosen in (first, ~first)
    ]


def fold_of(answers: Answers, rows: BoolArray, items: BoolArray | None = None) -> Fold:
    """The net change in points of these rows of the answers, over these items."""
    part = answers.take(np.flatnonzero(rows), items)
    noise = item_noise(100 * part.signed, part.design)
    if noise is None:  # one cluster of items: nothing is known of its error
        noise = ItemNoise(np.full((len(part.quants), 1), np.nan), np.zeros(1, np.int64), np.ones(1))
    return Fold(part.quants, 100 * part.signed.mean(1), noise)


def half_of_items(answers: Answers, seed: int) -> BoolArray:
    """A random half of the items, `[n_items]`: whole clusters, half of those of each stratum."""
    rng = np.random.default_rng(seed)
    clusters, first = np.unique(answers.design.clusters, return_index=True)
    strata = answers.design.strata[first]
    chosen = np.zeros(len(clusters), np.bool_)
    for stratum in np.unique(strata):
        places = rng.permutation(np.flatnonzero(strata == stratum))
        chosen[places[: (len(places) + int(rng.integers(2))) // 2]] = True
    return np.asarray(chosen[np.searchsorted(clusters, answers.design.clusters)], np.bool_)


def _within(answers: Answers, items: BoolArray, margin: float) -> BoolArray:
    return np.asarray(np.abs(answers.signed[:, items].mean(1)) <= margin + 1e-12, np.bool_)


def cluster_sums(values: FloatArray, clusters: Int64Array) -> tuple[FloatArray, FloatArray]:
    """Sums of `[n_rows, n_items]` over clusters, `[n_rows, n_clusters]`, and the items in each."""
    codes = np.unique(clusters, return_inverse=True)[1]
    counts = np.bincount(codes).astype(np.float64)
    if len(counts) == len(codes):
        return values[:, np.argsort(codes)], counts
    return np.array([np.bincount(codes, weights=row) for row in values]), counts
