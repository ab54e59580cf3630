"""Row metrics against closed forms and the NumPy float64 twin."""

from __future__ import annotations

import math

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from row_twin import row_twin

from quantprobe.compiling import compiled
from quantprobe.errors import MismatchError
from quantprobe.metrics.kernels import compare_rows
from quantprobe.metrics.rows import (
    FLAG_FIELDS,
    FLOAT_FIELDS,
    ROW_DTYPE,
    row_metrics,
    token_drops,
    token_leapfrogs,
)
from quantprobe.metrics.vector_math import fast_exp, fast_log

INF = np.float32(np.inf)


def _one(base, quant, target=0):
    block = [np.array([row], np.float32) for row in (base, quant)]
    return row_metrics(*block, np.array([target], np.int32))[0]


def _assert_row_is(row, twin):
    floats = np.array([twin[name] for name in FLOAT_FIELDS], np.float64)
    assert row["finite"] == np.all(np.isfinite(floats))
    if not row["finite"]:
        assert all(math.isnan(row[name]) for name in FLOAT_FIELDS)
        assert not any(row[name] for name in FLAG_FIELDS)
        return
    for name in FLOAT_FIELDS:
        assert row[name] == pytest.approx(twin[name], rel=1e-11, abs=3e-14), name
    for name in ("same_top", "base_right", "quant_right"):
        assert row[name] == twin[name], name


def _noisy_block(n_rows, n_vocab, seed, noise=0.3):
    rng = np.random.default_rng(seed)
    base = (3 * rng.normal(size=(n_rows, n_vocab))).astype(np.float32)
    quant = (base + noise * rng.normal(size=base.shape)).astype(np.float32)
    return base, quant, rng.integers(0, n_vocab, n_rows).astype(np.int32)


def test_hand_example():
    row = _one(np.log([0.5, 0.5]), np.log([0.25, 0.75]), target=0)
    assert row["kld"] == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3), abs=1e-7)
    assert row["kld_reverse"] == pytest.approx(0.25 * math.log(0.5) + 0.75 * math.log(1.5), abs=1e-7)
    assert row["tv"] == pytest.approx(0.25, abs=1e-7)
    assert row["delta_p"] == pytest.approx(-0.25, abs=1e-7)
    assert row["delta_logp"] == pytest.approx(-math.log(2), abs=1e-7)
    assert row["base_entropy"] == pytest.approx(math.log(2), abs=1e-7)
    assert row["base_confidence"] == pytest.approx(0.5, abs=1e-7)
    assert row["base_right"] and not row["quant_right"] and not row["same_top"]
    assert row["top_k_overlap"] == 1.0


@pytest.mark.parametrize("n_vocab", [1, 2, 3, 7, 10, 11, 255, 256, 257, 513, 5003])
def test_rows_equal_the_twin_for_every_vocabulary_size(n_vocab):
    base, quant, targets = _noisy_block(6, n_vocab, seed=n_vocab)
    for row, *case in zip(row_metrics(base, quant, targets), base, quant, targets, strict=True):
        _assert_row_is(row, row_twin(*case))


def test_a_large_vocabulary_equals_the_twin():
    base, quant, targets = _noisy_block(1, 262_144, seed=5)
    _assert_row_is(row_metrics(base, quant, targets)[0], row_twin(base[0], quant[0], targets[0]))


@st.composite
def _row_pairs(draw):
    """Rows on a coarse grid, so that ties happen, with some entries impossible in one model or in both."""
    n_vocab = draw(st.integers(1, 40))
    grid = st.integers(-400, 400).map(lambda i: i / 4)
    base = draw(npst.arrays(np.float32, n_vocab, elements=grid))
    quant = draw(st.one_of(st.just(base.copy()), npst.arrays(np.float32, n_vocab, elements=grid)))
    for row in draw(st.sampled_from([[], [base], [quant], [base, quant]])):
        row[draw(st.integers(0, n_vocab - 1))] = draw(st.sampled_from([-INF, -INF, np.float32(np.nan), INF]))
    if draw(st.booleans()):
        impossible = draw(npst.arrays(np.bool_, n_vocab))
        base[impossible] = quant[impossible] = -INF
    return base, quant, draw(st.integers(0, n_vocab - 1))


@settings(max_examples=300, deadline=None)
@given(_row_pairs())
def test_any_row_equals_the_twin(pair):
    with np.errstate(all="ignore"):
        twin = row_twin(*pair)
    _assert_row_is(_one(*pair), twin)


@settings(max_examples=100, deadline=None)
@given(npst.arrays(np.float32, st.integers(1, 300), elements=st.floats(-1e4, 1e4, width=32)), st.data())
def test_identical_rows_are_exactly_equal(base, data):
    row = _one(base, base.copy(), data.draw(st.integers(0, len(base) - 1)))
    for name in ("kld", "kld_reverse", "jsd", "tv", "delta_p", "delta_logp"):
        assert row[name] == 0.0, name
    assert row["same_top"] and row["finite"] and row["top_k_overlap"] == 1.0
    assert row["nll"] == row["nll_base"]


@settings(max_examples=100, deadline=None)
@given(npst.arrays(np.float32, (2, 50), elements=st.floats(-50, 50, width=32)))
def test_bounds_hold(pair):
    row, swapped = _one(*pair), _one(*pair[::-1])
    assert 0 <= row["jsd"] <= math.log(2) + 1e-15
    assert 0 <= row["tv"] <= 1 + 1e-15
    assert 2 * row["tv"] ** 2 <= row["kld"] + 1e-12, "Pinsker"
    assert row["kld"] == pytest.approx(swapped["kld_reverse"], rel=1e-12, abs=1e-14)
    assert row["jsd"] == pytest.approx(swapped["jsd"], rel=1e-12, abs=1e-14)
    assert -1e-15 <= row["base_entropy"] <= math.log(50) + 1e-12


def test_a_shift_of_the_logits_changes_nothing():
    base, quant, targets = _noisy_block(4, 300, seed=1)
    base, quant = np.rint(base * 256) / 256, np.rint(quant * 256) / 256  # so that shifting does not round
    rows, shifted = (
        row_metrics(base, quant, targets),
        row_metrics(base - np.float32(64), quant + np.float32(32), targets),
    )
    assert shifted.tobytes() == rows.tobytes()


def test_a_tiny_difference_keeps_its_digits():
    base, _, _ = _noisy_block(1, 1000, seed=2)
    quant = np.nextafter(base, INF)
    row, twin = _one(base[0], quant[0]), row_twin(base[0], quant[0], 0)
    assert 0 < twin["kld"] < 1e-12
    assert row["kld"] == pytest.approx(twin["kld"], abs=2e-15)


def test_ties_go_to_the_lowest_token():
    row = _one([1, 2, 2, 0], [0, 0, 5, 5], target=2)
    assert not row["same_top"] and not row["base_right"] and row["quant_right"]
    assert _one([-0.0, 0.0], [0.0, -0.0])["same_top"]
    # 12 equal entries: the list is 0 to 9; lifting token 11 in the quant pushes out one of them
    flat = np.zeros(12, np.float32)
    lifted = flat.copy()
    lifted[11] = 1
    assert _one(flat, lifted)["top_k_overlap"] == pytest.approx(0.9)


def test_ascending_and_descending_rows_keep_the_right_top_lists():
    ascending = np.arange(1000, dtype=np.float32) / 100
    assert _one(ascending, ascending[::-1].copy())["top_k_overlap"] == 0.0
    assert _one(ascending, ascending + 1, target=999)["base_right"]


@pytest.mark.parametrize("place", [0, 5, 255, 256, 299])
@pytest.mark.parametrize("value", [np.nan, -np.nan, np.inf])
def test_non_finite_logits_spoil_their_row_only(place, value):
    base, quant, targets = _noisy_block(3, 300, seed=3)
    clean = row_metrics(base, quant, targets)
    for block in (base, quant):
        dirty = block.copy()
        dirty[1, place] = np.copysign(np.float32(value), value)
        rows = row_metrics(dirty, quant, targets) if block is base else row_metrics(base, dirty, targets)
        assert rows["finite"].tolist() == [True, False, True]
        assert math.isnan(rows[1]["kld"]) and not rows[1]["same_top"]
        assert rows[[0, 2]].tobytes() == clean[[0, 2]].tobytes()


def test_minus_infinity_is_probability_zero():
    row = _one([0, -INF, 1], [0.5, -INF, 1], target=0)
    _assert_row_is(row, row_twin(np.array([0, -INF, 1], np.float32), np.array([0.5, -INF, 1], np.float32), 0))
    assert row["finite"]
    assert row["top_k_overlap"] == 1.0
    assert not _one([0, 1], [-INF, 1], target=1)["finite"], "kld is infinite"
    assert not _one([-INF, 1], [0, 1], target=1)["finite"], "kld_reverse is infinite"
    assert not _one([-INF, 1], [-INF, 1], target=0)["finite"], "nll is infinite"
    assert not _one([-INF, -INF], [-INF, -INF])["finite"], "no distribution"


def test_extreme_logits_do_not_overflow():
    row = _one([3e38, -3e38], [3e38, -3e38], target=0)
    assert row["finite"] and row["kld"] == 0 and row["base_confidence"] == 1 and row["base_entropy"] == 0


def test_bits_do_not_depend_on_threads_or_slices():
    base, quant, targets = _noisy_block(9, 3001, seed=4)
    expected = row_metrics(base, quant, targets).tobytes()
    for n_slices in (1, 2, 3, 9):
        out = np.zeros(9, ROW_DTYPE)
        compare_rows(base, quant, targets, out, n_slices)
        assert out.tobytes() == expected
    before = numba.get_num_threads()
    try:
        numba.set_num_threads(1)
        assert row_metrics(base, quant, targets).tobytes() == expected
    finally:
        numba.set_num_threads(before)


def test_no_rows_give_no_rows():
    empty = np.zeros((0, 5), np.float32)
    assert row_metrics(empty, empty, np.zeros(0, np.int32)).shape == (0,)


def test_token_flips():
    right_only_base = _one([2, 1], [1, 2], target=0)
    right_only_quant = _one([2, 1], [1, 2], target=1)
    rows = np.array([right_only_base, right_only_quant], ROW_DTYPE)
    assert token_drops(rows).tolist() == [True, False]
    assert token_leapfrogs(rows).tolist() == [False, True]


@pytest.mark.parametrize(
    ("base", "quant", "targets", "words"),
    [
        (np.zeros((2, 3)), np.zeros((2, 3), np.float32), np.zeros(2, np.int32), "base block is float64"),
        (np.zeros((2, 3), np.float32), np.zeros((2, 4), np.float32), np.zeros(2, np.int32), "same vocabulary"),
        (np.zeros((2, 3), np.float32), np.zeros((3, 2), np.float32).T, np.zeros(2, np.int32), "not contiguous"),
        (np.zeros(3, np.float32), np.zeros(3, np.float32), np.zeros(3, np.int32), "n_rows, n_vocab"),
        (np.zeros((2, 0), np.float32), np.zeros((2, 0), np.float32), np.zeros(2, np.int32), "no vocabulary"),
        (np.zeros((2, 3), np.float32), np.zeros((2, 3), np.float32), np.zeros(3, np.int32), "2 rows need"),
        (np.zeros((2, 3), np.float32), np.zeros((2, 3), np.float32), np.zeros(2), "targets are float64"),
        (np.zeros((2, 3), np.float32), np.zeros((2, 3), np.float32), np.array([0, 3], np.int32), "row 1 .* token 3"),
        (np.zeros((2, 3), np.float32), np.zeros((2, 3), np.float32), np.array([-1, 0], np.int32), "row 0 .* token -1"),
    ],
)
def test_input_that_does_not_fit_is_refused(base, quant, targets, words):
    with pytest.raises(MismatchError, match=words):
        row_metrics(base, quant, targets)


@compiled()
def _map_exp(x, out):
    for i in range(x.size):
        out[i] = fast_exp(x[i])


@compiled()
def _map_log(x, out):
    for i in range(x.size):
        out[i] = fast_log(x[i])


def test_fast_exp_is_exact_to_two_ulps():
    x = np.concatenate([np.linspace(-707.99, 0, 200_001), np.linspace(-1, 0, 100_001), -np.logspace(-300, 2, 1000)])
    out = np.empty_like(x)
    _map_exp(x, out)
    assert np.max(np.abs(out / np.exp(x) - 1)) < 4.5e-16
    edges = np.array([0.0, -0.0, -708.0, -1e9, -1e300, -np.inf])
    out = np.empty_like(edges)
    _map_exp(edges, out)
    assert out.tolist() == [1, 1, 0, 0, 0, 0]


def test_fast_log_is_exact_to_two_ulps():
    x = np.concatenate([np.logspace(-300, 0.3, 200_001), np.linspace(0.5, 2, 100_001)])
    out = np.empty_like(x)
    _map_log(x, out)
    assert np.max(np.abs(out - np.log(x)) / np.maximum(np.abs(np.log(x)), 1e-3)) < 4.5e-16
    assert out[np.flatnonzero(x == 1.0)].tolist() == [0.0] * np.count_nonzero(x == 1.0)
