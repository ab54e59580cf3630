"""Estimates against scipy, closed forms and simulated coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from quantprobe.errors import InputError
from quantprobe.stats.estimates import (
    exponential,
    fraction_estimate,
    geometric_mean,
    mean_estimate,
    percentiles,
    rms_estimate,
)


def test_one_row_per_cluster_is_the_ordinary_t_interval():
    values = np.random.default_rng(0).normal(3, 2, 50)
    estimate = mean_estimate(values, np.arange(50), "nats", level=0.9)
    low, high = stats.t.interval(0.9, 49, loc=values.mean(), scale=stats.sem(values))
    assert estimate.value == pytest.approx(values.mean(), rel=1e-14)
    assert estimate.stderr == pytest.approx(stats.sem(values), rel=1e-12)
    assert (estimate.low, estimate.high) == pytest.approx((low, high), rel=1e-12)
    assert (estimate.level, estimate.n, estimate.n_clusters, estimate.unit) == (0.9, 50, 50, "nats")


def test_equal_clusters_are_as_good_as_their_means():
    groups = np.random.default_rng(1).normal(size=(12, 7))
    estimate = mean_estimate(groups.reshape(-1), np.repeat(np.arange(12), 7), "nats")
    assert estimate.stderr == pytest.approx(stats.sem(groups.mean(axis=1)), rel=1e-12)
    assert (estimate.n, estimate.n_clusters) == (84, 12)


def test_unequal_clusters_by_hand():
    # mean 2; cluster sums of residuals: (1-2) + (1-2) = -2 and 4-2 = 2;
    # CR2: stderr^2 = (4 / (1 - 2/3) + 4 / (1 - 1/3)) / 9 = 2
    estimate = mean_estimate(np.array([1.0, 4.0, 1.0]), np.array([7, -3, 7], np.int32), "nats")
    assert estimate.value == 2.0
    assert estimate.stderr == pytest.approx(2**0.5)
    # two clusters leave one degree of freedom, whatever their sizes
    assert estimate.high == pytest.approx(2 + stats.t.ppf(0.975, 1) * 2**0.5)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.floats(-1e3, 1e3), st.integers(0, 5)), min_size=1, max_size=40), st.randoms())
def test_order_and_names_of_clusters_do_not_matter(rows, random):
    def estimate(rows, offset):
        return mean_estimate(np.array([v for v, _ in rows]), np.array([c for _, c in rows]) * 3 + offset, "nats")

    expected = estimate(rows, 0)
    random.shuffle(rows)
    shuffled = estimate(rows, -50)
    assert shuffled.value == pytest.approx(expected.value, abs=1e-9)
    assert shuffled.n_clusters == expected.n_clusters
    if expected.stderr is not None:
        assert shuffled.stderr == pytest.approx(expected.stderr, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("make", [mean_estimate, rms_estimate])
def test_too_little_for_an_uncertainty_has_none(make):
    one = make(np.array([1.0, 3.0]), np.array([4, 4]), "nats")
    assert one.value is not None
    assert (one.stderr, one.low, one.high, one.n, one.n_clusters) == (None, None, None, 2, 1)
    none = make(np.zeros(0), np.zeros(0, np.int64), "nats")
    assert (none.value, none.stderr, none.low, none.high, none.n, none.n_clusters) == (None, None, None, None, 0, 0)


def test_too_little_for_a_fraction():
    one = fraction_estimate(np.array([True, False]), np.array([4, 4]))
    assert (one.value, one.stderr, one.low, one.n_clusters) == (0.5, None, None, 1)
    assert fraction_estimate(np.zeros(0, np.bool_), np.zeros(0, np.int64)).value is None


@pytest.mark.parametrize(
    ("values", "clusters", "level", "words"),
    [
        (np.zeros(3), np.zeros(2, np.int32), 0.95, "one cluster per value"),
        (np.array([1.0, np.nan]), np.zeros(2, np.int32), 0.95, "1 of 2 values"),
        (np.array([1.0, np.inf]), np.zeros(2, np.int32), 0.95, "not finite"),
        (np.zeros(2), np.zeros(2, np.int32), 95, "level of 95"),
    ],
)
def test_input_that_makes_no_sense_is_refused(values, clusters, level, words):
    with pytest.raises(InputError, match=words):
        mean_estimate(values, clusters, "nats", level)


def test_the_mean_of_clustered_rows_is_covered_and_a_naive_interval_is_not():
    rng = np.random.default_rng(2)
    n_trials, n_clusters, n_each = 1500, 15, 20
    clusters, independent = np.repeat(np.arange(n_clusters), n_each), np.arange(n_clusters * n_each)
    windows = rng.normal(0, 0.5, (n_trials, n_clusters, 1))
    trials = (windows + rng.normal(size=(n_trials, n_clusters, n_each))).reshape(n_trials, -1)
    covered = [_holds(mean_estimate(values, clusters, "nats"), 0.0) for values in trials]
    naive = [_holds(mean_estimate(values, independent, "nats"), 0.0) for values in trials[:300]]
    assert 0.93 < np.mean(covered) < 0.97
    assert np.mean(naive) < 0.75


@pytest.mark.parametrize("fraction", [0.5, 0.9, 0.98])
def test_the_fraction_of_clustered_flags_is_covered(fraction):
    rng = np.random.default_rng(3)
    n_trials, n_clusters, n_each, concentration = 800, 20, 30, 15.0
    clusters = np.repeat(np.arange(n_clusters), n_each)
    rates = rng.beta(fraction * concentration, (1 - fraction) * concentration, (n_trials, n_clusters, 1))
    trials = (rng.random((n_trials, n_clusters, n_each)) < rates).reshape(n_trials, -1)
    covered = np.mean([_holds(fraction_estimate(flags, clusters), fraction) for flags in trials])
    assert 0.92 < covered < 0.985


def test_the_fraction_of_many_independent_flags_is_wilsons():
    flags = np.random.default_rng(4).random(100_000) < 0.3
    estimate = fraction_estimate(flags, np.arange(100_000))
    wilson = stats.binomtest(int(flags.sum()), 100_000).proportion_ci(method="wilson")
    assert (estimate.low, estimate.high) == pytest.approx((wilson.low, wilson.high), rel=1e-4)
    assert estimate.stderr == pytest.approx(math.sqrt(0.21 / 1e5), rel=1e-2)


@pytest.mark.parametrize("flag", [False, True])
def test_a_fraction_of_nothing_or_all_has_a_width(flag):
    estimate = fraction_estimate(np.full(200, flag), np.repeat(np.arange(10), 20))
    square = stats.t.ppf(0.975, 9) ** 2
    width = square / (200 + square)
    assert estimate.value == float(flag)
    assert estimate.stderr is None
    assert (estimate.low, estimate.high) == pytest.approx((1 - width, 1) if flag else (0, width), rel=1e-12)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 6)), min_size=1, max_size=60))
def test_a_fraction_lies_inside_its_interval(rows):
    estimate = fraction_estimate(np.array([f for f, _ in rows]), np.array([c for _, c in rows]))
    if estimate.n_clusters > 1:
        assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1
        assert estimate.low < estimate.high


def test_perplexity_by_the_delta_method():
    nll = mean_estimate(np.array([2.0, 2.5, 3.0, 3.5]), np.arange(4), "nats")
    ppl = exponential(nll, "ppl")
    assert ppl.value == math.exp(2.75)
    assert ppl.stderr == pytest.approx(math.exp(2.75) * nll.stderr)
    assert (ppl.low, ppl.high) == (math.exp(nll.low), math.exp(nll.high))
    assert (ppl.unit, ppl.n, ppl.n_clusters) == ("ppl", 4, 4)


def test_a_perplexity_beyond_float64_does_not_exist():
    huge = exponential(mean_estimate(np.array([1e4, 2e4]), np.arange(2), "nats"), "ppl")
    assert (huge.value, huge.stderr, huge.high) == (None, None, None)


def test_rms_and_its_stderr():
    values = np.random.default_rng(5).normal(0, 2, 4000)
    rms = rms_estimate(values, np.arange(4000), "probability")
    assert rms.value == pytest.approx(math.sqrt(np.mean(values**2)), rel=1e-13)
    assert rms.stderr == pytest.approx(2 / math.sqrt(2 * 4000), rel=0.1), "that of a normal's standard deviation"
    assert rms.low < 2 < rms.high
    still = rms_estimate(np.zeros(4), np.arange(4), "probability")
    assert (still.value, still.stderr, still.low, still.high) == (0, 0, 0, 0)
    wild = rms_estimate(np.array([0.0, 0.0, 9.0]), np.arange(3), "probability")
    assert wild.low == 0.0


def test_percentiles_are_type_7_in_float64():
    assert percentiles(np.array([4.0, 1.0, 2.0]), [0.0, 0.25, 0.5, 1.0]) == [1.0, 1.5, 2.0, 4.0]
    assert percentiles(np.array([0.1]), [0.999]) == [0.1]
    assert percentiles(np.zeros(0), [0.5, 0.9]) == [None, None]


def test_geometric_mean():
    assert geometric_mean(np.array([1.0, 4.0])) == pytest.approx(2.0)
    assert geometric_mean(np.array([0.0, 4.0])) == 0.0
    assert geometric_mean(np.array([-1e-9, 4.0])) is None
    assert geometric_mean(np.zeros(0)) is None


def _holds(estimate, truth):
    return estimate.low <= truth <= estimate.high
