"""The slope: against least squares, against permutations by brute force, and its interval against its p."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from quantprobe.stats.design import item_design
from quantprobe.stats.item_contrast import ItemNoise, item_noise
from quantprobe.stats.permutations import block_orders, smallest_p
from quantprobe.stats.slope import Fold, SlopeFit, fit_slope

ONE = np.zeros(100, np.int64)


def _fold(change: np.ndarray, residuals: np.ndarray | None = None, quants: np.ndarray | None = None) -> Fold:
    n = len(change)
    residuals = np.zeros((n, 2)) if residuals is None else residuals
    noise = ItemNoise(residuals, np.zeros(residuals.shape[1], np.int64), np.array([residuals.shape[1] - 1.0]))
    return Fold(np.arange(n) if quants is None else quants, change, noise)


def test_without_item_noise_it_is_least_squares() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=12)
    y = -0.5 * x + rng.normal(size=12)
    fit = fit_slope(x, [_fold(y)], ONE[:12])
    expected = stats.linregress(x, y)
    assert fit.value == pytest.approx(expected.slope)
    assert fit.stderr == pytest.approx(expected.stderr)
    assert fit.dof == pytest.approx(10)
    assert fit.at(0.95).item_share == 0
    assert fit.p == pytest.approx(max(expected.pvalue, fit.p_quants))


def test_items_that_all_quants_share_widen_it() -> None:
    """One item that pushes every quant, the more the larger x: quants alone see a perfect line."""
    x = np.linspace(-1, 1, 9)
    residuals = np.outer(x, [1.0, -1.0])
    fit = fit_slope(x, [_fold(x, residuals)], ONE[:9])
    assert fit.p_quants < 0.001
    assert fit.stderr == pytest.approx(np.sqrt(2))
    assert fit.p > 0.5
    assert fit.at(0.95).item_share == pytest.approx(1)


def test_permutation_p_is_that_of_all_orders() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=6), rng.normal(size=6).round(1)
    fit = fit_slope(x, [_fold(y)], ONE[:6])
    centred = x - x.mean()
    slopes = [abs(centred @ np.array(order)) for order in itertools.permutations(y)]
    assert fit.p_quants == pytest.approx(np.mean(np.array(slopes) >= abs(centred @ y) - 1e-9))
    assert fit.n_extra == 0
    # the slopes that it does not reject, tried one by one
    low, high = fit._interval(0.9)
    for slope in np.linspace(low - 1, high + 1, 41):
        rest = y - slope * x
        p = np.mean([abs(centred @ np.array(o)) >= abs(centred @ rest) - 1e-12 for o in itertools.permutations(rest)])
        inside = low - 1e-9 <= slope <= high + 1e-9
        assert inside or p <= 0.1 + 1e-12


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(4, 14), st.integers(1, 3), st.sampled_from([0.9, 0.95, 0.975]))
def test_interval_and_p_never_contradict_each_other(seed: int, n: int, n_families: int, level: float) -> None:
    rng = np.random.default_rng(seed)
    families = rng.integers(0, n_families, n)
    x = rng.normal(size=n).round(1)
    signed = rng.choice([-1.0, 0, 1], p=[0.1, 0.85, 0.05], size=(n, 60))
    noise = item_noise(signed, item_design([""] * 60, "none"))
    fit = fit_slope(x, [Fold(np.arange(n), signed.mean(1), noise)], families, n_perm=200, seed=seed)
    if isinstance(fit, str):
        assert "few" in fit or "same" in fit
        return
    slope = fit.at(level)
    excludes = (slope.low is not None and slope.low > 0) or (slope.high is not None and slope.high < 0)
    touches = 0 in (slope.low, slope.high)
    assert touches or excludes == (slope.p <= 1 - level)
    assert slope.low is None or slope.low <= slope.value
    assert slope.high is None or slope.high >= slope.value


def test_families_have_levels_of_their_own() -> None:
    """Two clean lines at different levels: together a rise, within families the fall that both have."""
    x = np.concatenate([np.arange(6.0), np.arange(6.0) + 4])
    y = -x + np.repeat([0.0, 12], 6)
    families = np.repeat([0, 1], 6)
    assert fit_slope(x, [_fold(y)], ONE[:12]).value > 0
    fit = fit_slope(x, [_fold(y)], families)
    assert fit.value == pytest.approx(-1)
    assert fit.p < 0.01
    single = fit_slope(np.append(x, 100.0), [_fold(np.append(y, 100.0))], np.append(families, 2))
    assert single.value == pytest.approx(-1)
    assert single.n == 12


def test_two_folds_are_the_mean_of_two_slopes() -> None:
    """Independent item errors are added, the quants' scatter is not."""
    x = np.arange(8.0)
    residuals = np.random.default_rng(3).normal(0, 10, (8, 40))
    y = -x + np.array([0.1, -0.1] * 4)
    one, two = (fit_slope(x, [_fold(y, residuals)] * k, ONE[:8]) for k in (1, 2))
    assert two.value == pytest.approx(one.value)
    assert two.stderr == pytest.approx(one.stderr / np.sqrt(2))
    part = [_fold(y[:6], None, np.arange(6)), _fold(y[2:], None, np.arange(2, 8))]
    assert fit_slope(x, part, ONE[:8]).n == 8
    assert fit_slope(x, part, ONE[:8]).smallest_p == pytest.approx(2 / (2 * 24 * 2))


def test_why_there_is_none() -> None:
    assert fit_slope(np.arange(2.0), [_fold(np.arange(2.0))], ONE[:2]) == "2 quants in 1 families are too few"
    assert fit_slope(np.ones(5), [_fold(np.arange(5.0))], ONE[:5]) == "all quants have the same KLD"
    assert "too few" in fit_slope(np.arange(4.0), [_fold(np.arange(4.0))], np.array([0, 0, 1, 2]))
    nothing = fit_slope(np.arange(5.0), [_fold(np.zeros(5))], ONE[:5])
    assert isinstance(nothing, SlopeFit)
    assert (nothing.value, nothing.p) == (0, 1)
    four = fit_slope(np.arange(4.0), [_fold(-np.arange(4.0))], ONE[:4])
    assert four.smallest_p == pytest.approx(1 / 12)
    assert four.at(0.95).low is None  # no order of four can reject any slope


def test_orders_stay_in_their_blocks() -> None:
    blocks = np.array([0, 1, 0, 1, 1])
    orders, is_whole = block_orders(blocks, 100, 0)
    assert is_whole
    assert len({tuple(order) for order in orders.tolist()}) == 12
    assert (blocks[orders] == blocks).all()
    assert smallest_p(blocks) == pytest.approx(2 / 12)
    drawn, is_whole = block_orders(blocks, 11, 0)
    assert not is_whole
    assert (blocks[drawn] == blocks).all()
    assert (np.sort(drawn, axis=1) == np.arange(5)).all()
    assert smallest_p(np.zeros(300)) == 0
