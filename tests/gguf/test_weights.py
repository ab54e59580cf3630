"""Dequantization by rows against ggml's own, and the error of weights against a plain computation."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
import pytest
from ggml_blocks import MADE, TYPE_IDS, ggml_function, quantize_rows
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from quantprobe.arrays import Float32Array
from quantprobe.errors import MismatchError
from quantprobe.gguf.header import Tensor
from quantprobe.gguf.tensors import PlacedTensor, place_of
from quantprobe.gguf.weights import compare_weights, dequantize_rows, largest_first

COLUMNS = 512
EXACT = {"Q1_0": "q1_0", "Q2_0": "q2_0", "Q4_0": "q4_0", "Q6_K": "q6_K", "IQ1_M": "iq1_m", "NVFP4": "nvfp4"}


def write_rows(path: Path, rows: NDArray[np.uint8], name: str, matrices: int = 1, role: str = "ffn_up") -> PlacedTensor:
    path.write_bytes(rows.tobytes())
    shape: tuple[int, ...] = (COLUMNS, len(rows) // matrices)
    tensor = Tensor(
        f"blk.0.{role}.weight", shape + ((matrices,) if matrices > 1 else ()), TYPE_IDS[name], 0, rows.nbytes
    )
    return PlacedTensor(path, tensor, place_of(tensor.name))


def write_float(path: Path, values: Float32Array, matrices: int = 1) -> PlacedTensor:
    return write_rows(path, values.view(np.uint8), "F32", matrices)


@pytest.fixture
def weights() -> Float32Array:
    return np.random.default_rng(3).standard_normal((24, COLUMNS), dtype=np.float32)


@pytest.mark.parametrize("name", EXACT)
def test_rows_are_dequantized_as_by_ggml(name: str, weights: Float32Array, tmp_path: Path) -> None:
    rows = quantize_rows(weights, name)
    ours = dequantize_rows(write_rows(tmp_path / "x.bin", rows, name), 3, 20)
    theirs = np.empty((20, COLUMNS), np.float32)
    function = ggml_function(f"dequantize_row_{EXACT[name]}")
    function.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64]
    function(np.ascontiguousarray(rows[3:23]).ctypes.data, theirs.ctypes.data, theirs.size)
    np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", MADE)
def test_every_type_has_an_error_like_its_bits(name: str, weights: Float32Array, tmp_path: Path) -> None:
    base = write_float(tmp_path / "base.bin", weights)
    quant = write_rows(tmp_path / "quant.bin", quantize_rows(weights, name), name)
    [found] = compare_weights([(quant, base)])
    assert found.relative is not None
    # rate-distortion: no code of R bits reproduces Gaussian weights with less than 2^-R
    assert 2 ** -(quant.bits + 0.1) < found.relative < 0.85
    assert (found.type_name, found.base_type, found.weighted) == (name, "F32", None)


def test_the_error_is_the_plain_formula_and_weighted_by_columns(weights: Float32Array, tmp_path: Path) -> None:
    other = weights + np.random.default_rng(4).standard_normal(weights.shape, dtype=np.float32) / 7
    importance = np.random.default_rng(5).random((3, COLUMNS), dtype=np.float32)
    base, quant = write_float(tmp_path / "b", weights, 3), write_float(tmp_path / "q", other, 3)
    [found] = compare_weights([(quant, base)], {quant.name: importance.reshape(-1)})
    w = np.repeat(importance, 8, axis=0).astype(np.float64)
    exact, b = (other.astype(np.float64) - weights.astype(np.float64)) ** 2, weights.astype(np.float64) ** 2
    assert found.relative == pytest.approx(np.sqrt(exact.sum() / b.sum()), rel=1e-12)
    assert found.weighted == pytest.approx(np.sqrt((w * exact).sum() / (w * b).sum()), rel=1e-12)


@given(rows=st.integers(1, 30), matrices=st.sampled_from([1, 2, 3]), block=st.integers(1, 20), data=st.data())
@settings(max_examples=25, deadline=None)
def test_blocks_of_rows_change_nothing(
    rows: int, matrices: int, block: int, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    seed = data.draw(st.integers(0, 99))
    folder = tmp_path_factory.mktemp("w")
    values = np.random.default_rng(seed).standard_normal((rows * matrices, COLUMNS), dtype=np.float32)
    base, quant = write_float(folder / "b", values, matrices), write_float(folder / "q", values * 1.25, matrices)
    importance = {quant.name: np.arange(1, matrices * COLUMNS + 1, dtype=np.float32)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("quantprobe.gguf.weights.BLOCK_ELEMENTS", block * COLUMNS)
        [found] = compare_weights([(quant, base)], importance)
    assert (found.relative, found.weighted) == (pytest.approx(0.25, rel=1e-6), pytest.approx(0.25, rel=1e-6))
    assert found.n_elements == values.size


def test_a_sample_of_rows_reaches_over_the_tensor(tmp_path: Path) -> None:
    values = np.ones((4000, COLUMNS), np.float32)
    other = values.copy()
    other[3990:] = 0
    base, quant = write_float(tmp_path / "b", values), write_float(tmp_path / "q", other)
    [found] = compare_weights([(quant, base)], max_rows=64)
    assert found.n_elements == 64 * COLUMNS
    assert found.relative == pytest.approx(np.sqrt(8 / 64))


def test_what_has_no_error(tmp_path: Path, weights: Float32Array) -> None:
    zeros, broken = np.zeros_like(weights), weights.copy()
    broken[3, 3] = np.nan
    base = write_float(tmp_path / "b", weights)
    cases = {"zero": (zeros, base), "nan": (broken, base), "same": (weights, base)}
    found = {
        name: compare_weights([(write_float(tmp_path / name, values), other)])[0]
        for name, (values, other) in cases.items()
    }
    of_zeros = compare_weights([(base, write_float(tmp_path / "zb", zeros))])[0]
    assert (found["zero"].relative, found["nan"].relative, found["same"].relative) == (1.0, None, 0.0)
    assert of_zeros.relative is None
    ordered = largest_first([found["same"], found["zero"], found["nan"]])
    assert [each.relative for each in ordered] == [None, 1.0, 0.0]


def test_an_importance_matrix_of_another_model_is_refused(tmp_path: Path, weights: Float32Array) -> None:
    base = write_float(tmp_path / "b", weights)
    with pytest.raises(MismatchError, match=r"has 7 columns for blk\.0\.ffn_up\.weight, expected 512"):
        compare_weights([(base, base)], {base.name: np.ones(7, np.float32)})
