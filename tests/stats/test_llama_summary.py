"""llama-perplexity's printed statistics: form and arithmetic."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from row_twin import encode_record

from quantprobe.errors import InputError
from quantprobe.metrics.rows import ROW_DTYPE, llama_row_metrics
from quantprobe.stats.llama_summary import summarise_llama

GOLDEN = Path(__file__).parents[2].parent / "shared" / "golden"
needs_golden = pytest.mark.skipif(not GOLDEN.is_dir(), reason="llama.cpp's own output is not beside the checkout")
NUMBER = r"-?(?:\d+\.\d+|nan)"


def _made_rows(n_rows, seed=0, noise=0.3):
    rng = np.random.default_rng(seed)
    base = (3 * rng.normal(size=(n_rows, 40))).astype(np.float32)
    quant = (base + noise * rng.normal(size=base.shape)).astype(np.float32)
    records = np.stack([encode_record(row) for row in base])
    return llama_row_metrics(records, quant, rng.integers(0, 40, n_rows).astype(np.int32), compat=True)


def _shape(text):
    """The lines from the first heading on, every number replaced by how many places it has after the point."""
    body = text[text.index("====== Perplexity") :].rstrip("\n")
    return [
        re.sub(rf" *({NUMBER})(?= *(%|$|±))", lambda m: f" <{len(m[1].partition('.')[2])}>", line)
        for line in body.splitlines()
    ]


def _golden_base(path):
    """Records `[n_rows, nv]` and targets `[n_rows]` of a base file."""
    data = path.read_bytes()
    n_ctx, n_vocab, n_chunks = np.frombuffer(data, "<i4", 3, 8)
    tokens = np.frombuffer(data, "<i4", n_chunks * n_ctx, 20).reshape(n_chunks, n_ctx)
    records = np.frombuffer(data, "<u2", offset=20 + tokens.nbytes).reshape(-1, 2 * ((n_vocab + 1) // 2) + 4)
    return records, np.ascontiguousarray(tokens[:, n_ctx // 2 + 1 :]).reshape(-1), int(n_vocab)


@pytest.mark.golden
@needs_golden
@pytest.mark.parametrize("name", ["kld-Q8_0", "kld-f32"])
def test_the_text_has_the_tools_form(name):
    golden = (GOLDEN / "tiny" / f"{name}.stdout.txt").read_text(encoding="utf-8")
    own = _shape(summarise_llama(_made_rows(300)).format())
    tool = [line.replace(" <0>", " <6>") for line in _shape(golden)]  # -nan
    assert len(own) == 39
    assert own == tool


@pytest.mark.golden
@needs_golden
def test_the_labels_are_those_of_the_parsed_goldens():
    golden = json.loads((GOLDEN / "smollm2" / "wiki_c512_20chunks_kld.json").read_text(encoding="utf-8"))
    values = summarise_llama(_made_rows(300)).values()
    for printed in golden.values():
        assert list(values) == list(printed)
        assert [1 if u is None else 2 for _, u in values.values()] == [len(v) for v in printed.values()]


@pytest.mark.golden
@needs_golden
@pytest.mark.parametrize("compat", [True, False])
def test_a_real_base_file_gives_the_base_perplexity_that_the_tool_printed(compat):
    records, targets, n_vocab = _golden_base(GOLDEN / "tiny" / "base.kld")
    header = records[:, :4].copy().view(np.float32)
    decoded = header[:, :1] * records[:, 4 : 4 + n_vocab].astype(np.float32) + header[:, 1:]
    rows = llama_row_metrics(records, np.ascontiguousarray(decoded), targets, compat)
    statistics = summarise_llama(rows)
    value, uncertainty = statistics.values()["Mean PPL(base)"]
    assert f"{value:.6f} {uncertainty:.6f}" == "433.932628 16.100322"
    assert "Mean PPL(base)                : 433.932628 ±  16.100322\n" in statistics.format()
    assert statistics.values()["Same top p"] == (100.0, 0.0)


def test_values_follow_the_tools_definitions():
    rows = _made_rows(1001)
    values = summarise_llama(rows).values()
    nll, nll_base, kld, delta_p = rows["nll"], rows["nll_base"], rows["kld"], rows["delta_p"]

    def error(x):
        return np.std(x) / math.sqrt(len(x) - 1)

    ratio = nll - nll_base
    assert values["Mean PPL(Q)"] == pytest.approx((np.exp(nll.mean()), np.exp(nll.mean()) * error(nll)), rel=1e-6)
    correlation, none = values["Cor(ln(PPL(Q)), ln(PPL(base)))"]
    assert none is None
    assert correlation == pytest.approx(100 * np.corrcoef(nll, nll_base)[0, 1], rel=1e-6)
    assert values["Mean ln(PPL(Q)/PPL(base))"] == pytest.approx((ratio.mean(), error(ratio)), rel=1e-4)
    assert values["Mean KLD"] == pytest.approx((kld.mean(), error(kld)), rel=1e-9)
    assert values["Mean Δp"] == pytest.approx((100 * delta_p.mean(), 100 * error(delta_p)), rel=1e-6)
    rms = math.sqrt(np.mean(delta_p**2))
    assert values["RMS Δp"] == pytest.approx((100 * rms, 50 / rms * error(delta_p**2)), rel=1e-6)
    same = rows["same_top"].mean()
    assert values["Same top p"] == pytest.approx((100 * same, 100 * math.sqrt(same * (1 - same) / 1000)), rel=1e-9)
    for label, rank in {"Minimum": 0, "0.1%": 0.1, "10.0%": 10, "Median": 50, "99.9%": 99.9, "Maximum": 100}.items():
        assert values[f"{label} KLD"][0] == pytest.approx(np.percentile(kld, rank), rel=1e-3)
        assert values[f"{label} Δp"][0] == pytest.approx(100 * np.percentile(delta_p, rank), rel=1e-3, abs=1e-5)


def test_percentile_positions_are_float32():
    n_rows = 100_004
    rows = np.zeros(n_rows, ROW_DTYPE)
    rows["finite"] = True
    rows["nll"] = rows["nll_base"] = 1.0
    rows["kld"] = np.arange(n_rows)
    values = summarise_llama(rows).values()
    position = np.float32(0.999) * np.float32(n_rows - 1)
    assert values["99.9% KLD"][0] == float(position)
    assert abs(float(position) - 0.999 * (n_rows - 1)) > 1e-4, "visible: the position has steps of 1/128"
    assert values["Median KLD"][0] == (n_rows - 1) / 2
    assert summarise_llama(rows[:-1]).values()["Median KLD"][0] == (n_rows - 2) / 2


def test_rows_without_numbers_are_counted():
    rows = _made_rows(200)
    dirty = np.concatenate([rows, np.zeros(3, ROW_DTYPE)])
    statistics = summarise_llama(dirty)
    assert (statistics.n_rows, statistics.n_nonfinite) == (200, 3)
    assert statistics.values() == summarise_llama(rows).values()


def test_too_few_rows_are_an_error_and_not_silence():
    assert summarise_llama(_made_rows(100)).n_rows == 100
    with pytest.raises(InputError, match=r"99 measured rows; llama\.cpp's statistics need 100"):
        summarise_llama(_made_rows(99))
