"""Rows against llama.cpp's 16-bit base records: the tool's float32 arithmetic and the float64 one."""

from __future__ import annotations

import math

import numpy as np
import pytest
from row_twin import encode_record, llama_twin, llama_twin_float64, row_twin

from quantprobe.errors import MismatchError
from quantprobe.metrics.rows import FLAG_FIELDS, FLOAT_FIELDS, llama_row_metrics


def _block(n_rows, n_vocab, seed, noise=0.3, spread=3.0):
    rng = np.random.default_rng(seed)
    base = (spread * rng.normal(size=(n_rows, n_vocab))).astype(np.float32)
    quant = (base + noise * rng.normal(size=base.shape)).astype(np.float32)
    return np.stack([encode_record(row) for row in base]), quant, rng.integers(0, n_vocab, n_rows).astype(np.int32)


def _decode(record, n_vocab):
    scale, lowest = record[:4].view(np.float32)
    return scale * record[4 : 4 + n_vocab].astype(np.float32) + lowest


@pytest.mark.parametrize("n_vocab", [2, 3, 259, 1000, 5003])
@pytest.mark.parametrize("spread", [0.5, 3.0, 8.0])
def test_compat_rows_equal_the_tools_float32_arithmetic(n_vocab, spread):
    records, quant, targets = _block(5, n_vocab, seed=n_vocab, spread=spread)
    for row, *case in zip(llama_row_metrics(records, quant, targets, True), records, quant, targets, strict=True):
        twin = llama_twin(*case)
        assert row["finite"]
        for name in ("nll", "nll_base", "delta_p"):
            assert row[name] == np.float32(row[name]), "a float32 value"
        assert row["nll_base"] == twin["nll_base"]
        assert row["nll"] == pytest.approx(twin["nll"], rel=2.4e-7)
        assert row["delta_p"] == pytest.approx(twin["delta_p"], rel=1e-6, abs=1.2e-7)
        assert row["kld"] == pytest.approx(twin["kld"], rel=1e-6, abs=5e-7)
        assert row["delta_logp"] == row["nll_base"] - row["nll"]
        assert row["same_top"] == twin["same_top"]


@pytest.mark.parametrize("n_vocab", [2, 3, 259, 5003])
@pytest.mark.parametrize("spread", [0.5, 8.0])
def test_float64_rows_equal_the_same_rule_in_float64(n_vocab, spread):
    records, quant, targets = _block(5, n_vocab, seed=n_vocab, spread=spread)
    for row, *case in zip(llama_row_metrics(records, quant, targets, False), records, quant, targets, strict=True):
        for name, value in llama_twin_float64(*case).items():
            assert row[name] == pytest.approx(value, rel=1e-11, abs=1e-14), name


@pytest.mark.parametrize("compat", [True, False])
def test_the_other_fields_are_those_of_the_decoded_row(compat):
    records, quant, targets = _block(5, 700, seed=1, spread=8.0)
    rows = llama_row_metrics(records, quant, targets, compat)
    for row, record, logits, target in zip(rows, records, quant, targets, strict=True):
        twin = row_twin(_decode(record, 700), logits, target)
        for name in ("kld_reverse", "jsd", "tv", "top_k_overlap", "base_entropy", "base_confidence"):
            assert row[name] == pytest.approx(twin[name], rel=1e-11, abs=3e-14), name
        for name in ("same_top", "base_right", "quant_right"):
            assert row[name] == twin[name], name


@pytest.mark.parametrize("compat", [True, False])
def test_entries_at_the_floor_are_left_out_and_the_rest_not_renormalised(compat):
    base = np.array([0.0, -1.0, -40.0], np.float32)
    quant = np.array([0.0, -1.0, 3.0], np.float32)
    row = llama_row_metrics(encode_record(base)[None], quant[None], np.array([2], np.int32), compat)[0]
    log_p = base[:2].astype(np.float64) - math.log(1 + math.exp(-1))
    log_q = quant.astype(np.float64) - math.log(1 + math.exp(-1) + math.exp(3))
    assert row["kld"] == pytest.approx(float(np.sum(np.exp(log_p) * (log_p - log_q[:2]))), abs=2e-4)
    assert row["nll_base"] == pytest.approx(16 + math.log(1 + math.exp(-1)), abs=1e-4), "clamped"


def test_the_same_model_may_give_a_small_negative_kld():
    rng = np.random.default_rng(6)
    base = (3 * rng.normal(size=(50, 1000))).astype(np.float32)
    rows = llama_row_metrics(np.stack([encode_record(row) for row in base]), base, np.zeros(50, np.int32), True)
    assert np.all(np.abs(rows["kld"]) < 1e-4)
    assert np.any(rows["kld"] < 0)


def test_a_flat_row_has_scale_zero_and_the_lowest_token_on_top():
    flat = np.full(7, 2.5, np.float32)
    row = llama_row_metrics(encode_record(flat)[None], flat[None], np.array([0], np.int32), True)[0]
    assert row["same_top"] and row["base_right"] and row["quant_right"]
    assert row["nll_base"] == pytest.approx(math.log(7), rel=1e-6)
    assert row["kld"] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("compat", [True, False])
@pytest.mark.parametrize("header", [(np.nan, 0.0), (np.inf, 0.0), (1e-4, np.nan), (1e30, 0.0), (1.0, -2.0)])
def test_a_damaged_record_is_not_finite(header, compat):
    records, quant, targets = _block(3, 11, seed=2)
    clean = llama_row_metrics(records, quant, targets, compat)
    records[1, :4] = np.array(header, np.float32).view(np.uint16)
    records[1, 4 + targets[1]] = 65535
    rows = llama_row_metrics(records, quant, targets, compat)
    assert rows["finite"].tolist() == [True, False, True]
    assert all(math.isnan(rows[1][name]) for name in FLOAT_FIELDS)
    assert not any(rows[1][name] for name in FLAG_FIELDS)
    assert rows[[0, 2]].tobytes() == clean[[0, 2]].tobytes()


def test_quant_rows_without_numbers_are_not_finite():
    records, quant, targets = _block(3, 11, seed=2)
    quant[0, 5] = np.nan
    quant[2, 5] = -np.inf
    assert llama_row_metrics(records, quant, targets, True)["finite"].tolist() == [False, True, False]


@pytest.mark.parametrize(
    "records",
    [
        np.zeros((2, 7), np.uint16),
        np.zeros((2, 8), np.int16),
        np.zeros((1, 8), np.uint16),
        np.zeros((8, 2), np.uint16).T,
    ],
)
def test_records_that_do_not_fit_are_refused(records):
    with pytest.raises(MismatchError, match=r"need contiguous uint16 \(2, 8\)"):
        llama_row_metrics(records, np.zeros((2, 3), np.float32), np.zeros(2, np.int32), True)
