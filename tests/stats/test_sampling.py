"""Stratified decoding: the draw, its probabilities, and estimates that hold for the whole pool."""

import numpy as np
import pytest

from quantprobe.errors import InputError
from quantprobe.probes.grouping import CLUSTERS, UNGROUPED
from quantprobe.stats.design import ItemDesign, item_design
from quantprobe.stats.estimates import cluster_mean
from quantprobe.stats.sampling import (
    decode_probabilities,
    flip_chances,
    item_numbers,
    sampled_mean,
    share_probabilities,
    unit_design,
    units_are_cheaper,
)

SHARES = (0.1, 0.2, 0.35, 0.55, 0.75, 1.0)


def simulated(n: int, kld: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Base margins, and signed flips of a quant whose shifts have a scale of each item's own."""
    rng = np.random.default_rng(seed)
    base = rng.normal(1, 1.5, n)
    scale = np.sqrt(kld) * np.exp(0.8 * rng.normal(size=n) - 0.32)
    return base, (base + scale * rng.normal(size=n) > 0) * 1.0 - (base > 0)


def plain(n: int) -> ItemDesign:
    return item_design([""] * n, UNGROUPED)


def test_numbers_of_items_are_the_same_everywhere() -> None:
    numbers = item_numbers([f"question {i}" for i in range(4000)])
    assert item_numbers(["question 1", "ä"]) == pytest.approx([numbers[1], 0.91738666], abs=1e-8)
    assert not np.array_equal(item_numbers(["question 1"], seed=1), numbers[1:2])
    counts = np.histogram(numbers, bins=20, range=(0, 1))[0]
    assert ((counts - 200) ** 2 / 200).sum() < 43.8, "chi-square with 19 degrees of freedom, 0.1 %"


@pytest.mark.parametrize("kld", [0.0, 0.004, 0.1, 2.0, None])
def test_probabilities_meet_the_share_and_nest(kld: float | None) -> None:
    base, _ = simulated(3000, 0.1, seed=1)
    looks = np.array([decode_probabilities(base, kld, share) for share in SHARES])
    assert looks.mean(axis=1) == pytest.approx(SHARES, abs=1e-9)
    assert (np.diff(looks, axis=0) >= 0).all()
    assert ((looks > 0) & (looks <= 1)).all()
    order = np.argsort(np.abs(base))
    assert (np.diff(looks[:, order], axis=1) <= 1e-15).all(), "further from the boundary, never more likely"


def test_a_quant_that_moves_more_spreads_its_items() -> None:
    base, _ = simulated(3000, 0.1, seed=1)
    near, far = decode_probabilities(base, 0.004, 0.2), decode_probabilities(base, 0.4, 0.2)
    assert near.var() > far.var()
    assert near.min() > 0.05 * 0.2, "the uniform part bounds the weights"


def test_unknown_margins() -> None:
    base, _ = simulated(1000, 0.1, seed=2)
    base[:50] = np.nan
    pi = decode_probabilities(base, 0.05, 0.3)
    assert (pi[:50] == 1).all()
    assert pi.mean() == pytest.approx(0.3)
    base[:400] = np.nan
    assert decode_probabilities(base, 0.05, 0.3).min() > 0, (
        "more unknown items than the share: the others keep a chance"
    )
    assert (decode_probabilities(np.full(7, np.nan), 0.05, 0.3) == 0.3).all()


def test_units_are_drawn_whole() -> None:
    base, _ = simulated(1000, 0.1, seed=3)
    units = np.repeat(np.arange(200), 5)
    pi = decode_probabilities(base, 0.05, 0.3, units).reshape(200, 5)
    assert (pi == pi[:, :1]).all()
    assert pi.mean() == pytest.approx(0.3)
    chances = flip_chances(base, 0.05)
    assert np.argmax(pi[:, 0]) == np.argmax(chances.reshape(200, 5).mean(axis=1))
    assert not units_are_cheaper(chances, units, 0.3, prefix_cost=0, item_cost=50)
    assert units_are_cheaper(chances, units, 0.3, prefix_cost=5000, item_cost=50)


def test_estimates_are_unbiased_and_their_error_is_right() -> None:
    n, runs = 400, 500
    estimates, errors, within = [], [], []
    for run in range(runs):
        base, flips = simulated(n, 0.3, seed=run)
        pi = decode_probabilities(base, 0.3, 0.3)
        decoded = np.random.default_rng([run, 1]).random(n) < pi
        mean = sampled_mean(np.where(decoded, flips, np.nan), decoded, pi, plain(n))
        exact = flips.mean()
        estimates.append(mean.mean)
        errors.append(mean.stderr or 0.0)
        within.append(mean.mean - exact)
    spread = np.std(estimates)
    assert abs(np.mean(within)) < 4 * np.std(within) / runs**0.5
    assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(spread, rel=0.12)


def test_fewer_decodes_for_the_same_error() -> None:
    base, flips = simulated(200_000, 0.03, seed=4)
    ratios = [
        float(np.mean(flips**2 / decode_probabilities(base, 0.03, share)) / np.mean(flips**2)) for share in (0.2, 0.4)
    ]
    assert ratios[0] < 2.2, "uniform sampling has 5"
    assert ratios[1] < 1.25, "uniform sampling has 2.5"


def test_all_items_decoded_is_the_ordinary_mean() -> None:
    rng = np.random.default_rng(5)
    values, ones = rng.normal(size=120), np.ones(120)
    clusters = rng.integers(0, 9, 120)
    everything = np.ones(120, dtype=bool)
    alone = sampled_mean(values, everything, ones, plain(120))
    assert (alone.mean, alone.dof) == pytest.approx((values.mean(), 119))
    assert alone.stderr == pytest.approx(values.std(ddof=1) / 120**0.5)
    grouped = sampled_mean(values, everything, ones, item_design([str(c) for c in clusters], CLUSTERS))
    expected = cluster_mean(values, clusters)
    assert (grouped.mean, grouped.stderr, grouped.dof) == pytest.approx((expected.mean, expected.stderr, expected.dof))


def test_items_without_an_answer_leave_the_pool() -> None:
    values, ones = np.array([1.0, 0.0, -1.0, np.nan]), np.ones(4)
    decoded = np.array([True, True, False, True])
    mean = sampled_mean(values, decoded, ones * 0.5, plain(4))
    assert (mean.mean, mean.n) == (pytest.approx(2 / 3), 3)
    one = sampled_mean(values, decoded, ones, item_design(["x"] * 4, CLUSTERS))
    assert one.stderr is None
    assert one.estimate("fraction", 0.95).low is None


def test_units_and_clusters_that_share_items_are_one() -> None:
    design = ItemDesign(np.zeros(6, np.int64), np.array([0, 0, 1, 2, 3, 3]))
    joined = unit_design(design, np.array([7, 8, 8, 9, 10, 10]))
    assert joined.clusters.tolist() == [0, 0, 0, 1, 2, 2]
    with pytest.raises(InputError, match="two strata"):
        unit_design(ItemDesign(np.array([0, 1]), np.array([0, 1])), np.array([0, 0]))


def test_refusals() -> None:
    base = np.array([0.5, -1.0])
    with pytest.raises(InputError, match="share of 0"):
        share_probabilities(flip_chances(base), 0.0)
    with pytest.raises(InputError, match="KLD of nan"):
        flip_chances(base, float("nan"))
    with pytest.raises(InputError, match="outside"):
        sampled_mean(base, np.array([True, True]), np.array([0.0, 1.0]), plain(2))
    with pytest.raises(InputError, match="differ"):
        sampled_mean(base, np.array([True]), np.ones(2), plain(2))
    with pytest.raises(InputError, match="no decoded item"):
        sampled_mean(base * np.nan, np.array([True, True]), np.ones(2), plain(2))
