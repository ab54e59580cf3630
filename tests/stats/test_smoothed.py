"""Smoothed accuracy: its closed form, its limits, and that it is steadier than counted flips."""

import numpy as np
import pytest
from scipy import stats

from quantprobe.errors import InputError
from quantprobe.probes.grouping import UNGROUPED
from quantprobe.stats.design import item_design
from quantprobe.stats.sampling import decode_probabilities
from quantprobe.stats.smoothed import smoothed_change, smoothed_changes


def test_closed_form() -> None:
    base, quant = np.array([-1.0, 0.0, 1.0, np.nan]), np.array([-1.0, 0.05, np.nan, 1.0])
    width = 0.1 * np.std([-1.0, 0.0, 1.0])
    expected = stats.norm.cdf(0.05 / width) - 0.5
    assert smoothed_changes(base, quant) == pytest.approx([0, expected, np.nan, np.nan], nan_ok=True)


def test_equal_base_margins_count_hard() -> None:
    assert smoothed_changes(np.full(3, 2.0), np.array([1.0, 0.0, -1.0])).tolist() == [0.0, -0.5, -1.0]


def test_steadier_than_flips_and_cheaper_still_when_sampled() -> None:
    rng = np.random.default_rng(1)
    n, found = 500, {"hard": [], "smooth": [], "sampled": []}
    design = item_design([""] * n, UNGROUPED)
    for _ in range(200):
        base = rng.normal(1, 1.5, n)
        quant = base + 0.1 * rng.normal(size=n)
        pi = decode_probabilities(base, 0.01, 0.2)
        decoded = rng.random(n) < pi
        found["hard"].append(np.mean((quant > 0) * 1.0 - (base > 0)))
        found["smooth"].append(smoothed_change(base, quant, design).value)
        found["sampled"].append(smoothed_change(base, np.where(decoded, quant, np.nan), design, decoded, pi).value)
    spread = {name: np.std(values) for name, values in found.items()}
    assert spread["smooth"] < 0.75 * spread["hard"]
    assert spread["sampled"] < spread["hard"]
    assert np.mean(found["sampled"]) == pytest.approx(np.mean(found["smooth"]), abs=4 * spread["sampled"] / 200**0.5)


def test_estimate_of_all_items() -> None:
    base, quant = np.array([-1.0, 0.0, 1.0, 2.0]), np.array([-0.9, 0.1, 0.9, 2.1])
    values = smoothed_changes(base, quant)
    estimate = smoothed_change(base, quant, item_design([""] * 4, UNGROUPED))
    assert (estimate.value, estimate.stderr) == pytest.approx((values.mean(), values.std(ddof=1) / 2))
    assert (estimate.n, estimate.unit) == (4, "fraction")


def test_needs_margins() -> None:
    with pytest.raises(InputError, match="0 known base margins"):
        smoothed_changes(np.array([np.nan]), np.array([1.0]))
    with pytest.raises(InputError, match="of the same items"):
        smoothed_changes(np.array([1.0]), np.array([1.0, 2.0]))
