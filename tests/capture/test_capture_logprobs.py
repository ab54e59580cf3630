"""16-bit log-probabilities against a float64 log-softmax, and within their documented error."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from scipy.special import log_softmax

from quantprobe.capture.logprobs import ZERO_GAP, decode_logprobs, encode_logprobs
from quantprobe.errors import MismatchError


def check_error(logits: np.ndarray[Any, np.dtype[np.float32]]) -> None:
    """The bound of the module's docstring; zero exactly where float64 has zero."""
    expected = log_softmax(logits.astype(np.float64), axis=1)
    found = decode_logprobs(encode_logprobs(logits))
    assert found.shape == logits.shape
    gap = logits.max(axis=1, keepdims=True).astype(np.float64) - logits
    kept = gap < ZERO_GAP
    np.testing.assert_array_equal(np.isneginf(found), ~kept)
    span = np.where(kept, gap, 0).max(axis=1, keepdims=True)
    bound = np.sqrt(np.where(kept, gap, 0) * span) / 65534
    bound += span / 65534**2 + 2.0**-23 * np.abs(np.where(kept, expected, 0)) + 1e-30
    assert (np.abs(found[kept] - expected[kept]) <= bound[kept]).all()


@pytest.mark.parametrize("n_vocab", [2, 3, 257, 5000])
@pytest.mark.parametrize("spread", [0.1, 3.0, 15.0, 150.0])
def test_error_bound(n_vocab: int, spread: float) -> None:
    rng = np.random.default_rng(n_vocab)
    check_error((rng.normal(size=(6, n_vocab)) * spread + 20).astype(np.float32))


@settings(max_examples=60, deadline=None)
@given(
    npst.arrays(
        np.float32,
        npst.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9),
        elements=st.floats(-300, 300, width=32) | st.just(-np.inf).map(np.float32),
    )
)
def test_error_bound_of_any_row(logits: np.ndarray[Any, np.dtype[np.float32]]) -> None:
    check_error(logits[np.isfinite(logits).any(axis=1)])


def test_divergence_floor_is_below_that_of_equal_steps() -> None:
    """The base against its own rows, on a vocabulary of 20,000 that spans about 30 nats."""
    logits = (np.random.default_rng(1).normal(size=(50, 20_000)) * 4).astype(np.float32)
    exact = log_softmax(logits.astype(np.float64), axis=1)
    kld = (np.exp(exact) * (exact - decode_logprobs(encode_logprobs(logits)))).sum(axis=1)
    step = np.ptp(logits, axis=1, keepdims=True) / 65534
    even = exact.max(axis=1, keepdims=True) - np.rint((exact.max(axis=1, keepdims=True) - exact) / step) * step
    kld_even = (np.exp(exact) * (exact - even)).sum(axis=1)
    assert np.abs(kld).max() < 2e-5
    assert np.std(kld) < np.std(kld_even) / 2


def test_one_far_token_costs_the_others_little() -> None:
    logits = np.array([[0.0, -1.0, -2.0, -700.0], [0.0, -1.0, -2.0, -1e30]], dtype=np.float32)
    expected = log_softmax(logits.astype(np.float64), axis=1)
    found = decode_logprobs(encode_logprobs(logits))
    assert np.abs(found - expected)[0, :3].max() < np.sqrt(2 * 700) / 65534
    assert np.abs(found - expected)[1, :3].max() < np.sqrt(2 * 2) / 65534  # the range ends at the third token
    assert found[0, 3] == pytest.approx(expected[0, 3], abs=0.011)
    assert np.isneginf(found[1, 3])


def test_probability_zero_stays_zero() -> None:
    logits = np.array([[1.0, -np.inf, 0.0, -np.inf]], dtype=np.float32)
    found = decode_logprobs(encode_logprobs(logits))
    np.testing.assert_array_equal(np.isneginf(found), [[False, True, False, True]])
    np.testing.assert_allclose(found[0, [0, 2]], log_softmax([1.0, 0.0]), atol=1e-7)


def test_equal_logits_and_a_single_token() -> None:
    even = decode_logprobs(encode_logprobs(np.full((2, 7), -3.5, np.float32)))
    np.testing.assert_allclose(even, -np.log(7), rtol=1e-7)
    assert decode_logprobs(encode_logprobs(np.full((1, 1), 5.0, np.float32))).tolist() == [[0.0]]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_row_without_softmax_is_marked(bad: float) -> None:
    logits = np.zeros((4, 5), np.float32)
    logits[1, 3] = bad
    logits[2] = -np.inf
    found = decode_logprobs(encode_logprobs(logits))
    assert np.isnan(found[1:3]).all()
    assert np.isfinite(found[[0, 3]]).all()


def test_bits_do_not_depend_on_threads_or_layout() -> None:
    logits = np.random.default_rng(2).normal(size=(9, 100)).astype(np.float32) * 9
    expected = encode_logprobs(logits)
    n_threads = numba.get_num_threads()
    numba.set_num_threads(1)
    try:
        np.testing.assert_array_equal(encode_logprobs(logits), expected)
    finally:
        numba.set_num_threads(n_threads)
    np.testing.assert_array_equal(encode_logprobs(np.asfortranarray(logits)), expected)
    decoded = decode_logprobs(expected)
    wide = np.repeat(expected, 2, axis=1)[:, ::2]
    wide.setflags(write=False)
    np.testing.assert_array_equal(decode_logprobs(wide), decoded)


def test_no_rows_and_no_such_rows() -> None:
    assert decode_logprobs(encode_logprobs(np.empty((0, 6), np.float32))).shape == (0, 6)
    with pytest.raises(MismatchError, match="not 16-bit log-probabilities"):
        decode_logprobs(np.zeros((3, 4), np.uint16))
