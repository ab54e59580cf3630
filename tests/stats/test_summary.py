"""The summary of a text."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest
from scipy import stats

from quantprobe.errors import InputError
from quantprobe.metrics.quantities import TEXT_QUANTITIES
from quantprobe.metrics.rows import FLOAT_FIELDS, ROW_DTYPE, row_metrics
from quantprobe.stats.estimates import Estimate
from quantprobe.stats.summary import summarise_text

N_WINDOWS, N_EACH = 12, 10
WINDOWS = np.repeat(np.arange(N_WINDOWS, dtype=np.int32), N_EACH)


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    base = (3 * rng.normal(size=(len(WINDOWS), 50))).astype(np.float32)
    quant = (base + rng.normal(size=base.shape)).astype(np.float32)
    rows = row_metrics(base, quant, rng.integers(0, 50, len(WINDOWS)).astype(np.int32))
    assert rows["finite"].all()
    return rows


def test_every_number_follows_from_the_rows(rows):
    summary = summarise_text(rows, WINDOWS)
    assert summary.ppl.value == pytest.approx(np.exp(rows["nll"].mean()))
    assert summary.ppl_base.value == pytest.approx(np.exp(rows["nll_base"].mean()))
    assert summary.ppl_ratio.value == pytest.approx(summary.ppl.value / summary.ppl_base.value)
    assert summary.ln_ppl_ratio.value == pytest.approx(-rows["delta_logp"].mean())
    means = {
        "kld_mean": "kld",
        "kld_reverse_mean": "kld_reverse",
        "jsd_mean": "jsd",
        "tv_mean": "tv",
        "same_top": "same_top",
        "top_k_overlap": "top_k_overlap",
        "delta_p_mean": "delta_p",
    }
    for name, column in means.items():
        estimate = getattr(summary, name)
        window_means = rows[column].reshape(N_WINDOWS, N_EACH).mean(axis=1)
        assert estimate.value == pytest.approx(window_means.mean()), name
        assert estimate.stderr == pytest.approx(stats.sem(window_means)), name
        assert (estimate.n, estimate.n_clusters) == (120, 12)
    assert summary.delta_p_rms.value == pytest.approx(np.sqrt(np.mean(rows["delta_p"] ** 2)))
    assert summary.kld_geomean == pytest.approx(stats.gmean(rows["kld"]))
    assert summary.token_drops == np.sum(rows["base_right"] & ~rows["quant_right"])
    assert summary.token_leapfrogs == np.sum(~rows["base_right"] & rows["quant_right"])
    assert (summary.n_rows, summary.n_nonfinite) == (120, 0)


@pytest.mark.parametrize("column", ["kld", "delta_p"])
def test_percentiles_carry_the_names_of_their_ranks(rows, column):
    summary = asdict(summarise_text(rows, WINDOWS))
    ranks = {"min": 0, "p001": 0.1, "p01": 1, "p05": 5, "p10": 10, "median": 50, "p90": 90, "p95": 95, "p99": 99}
    ranks |= {"p999": 99.9, "max": 100} | ({"p25": 25, "p75": 75} if column == "delta_p" else {})
    for name, rank in ranks.items():
        assert summary[f"{column}_{name}"] == pytest.approx(np.percentile(rows[column], rank), rel=1e-12), name


def test_rows_without_numbers_are_counted_and_left_out(rows):
    dirty = rows.copy()
    dirty[[3, 77]] = 0
    for name in FLOAT_FIELDS:
        dirty[name][[3, 77]] = np.nan
    kept = np.delete(np.arange(120), [3, 77])
    expected = asdict(summarise_text(rows[kept], WINDOWS[kept]))
    assert asdict(summarise_text(dirty, WINDOWS)) == expected | {"n_nonfinite": 2}
    assert expected["n_rows"] == 118


@pytest.mark.parametrize("n_rows", [0, 3])
def test_nothing_to_measure_gives_null_and_not_zero(n_rows):
    summary = asdict(summarise_text(np.zeros(n_rows, ROW_DTYPE), np.zeros(n_rows, np.int32)))
    assert (summary.pop("n_rows"), summary.pop("n_nonfinite")) == (0, n_rows)
    assert (summary.pop("token_drops"), summary.pop("token_leapfrogs")) == (0, 0)
    assert summary.pop("by_category") == {}
    for name, value in summary.items():
        assert (value["value"] if isinstance(value, dict) else value) is None, name


def test_the_base_against_itself_is_zero_with_an_honest_same_top():
    rng = np.random.default_rng(1)
    base = rng.normal(size=(120, 30)).astype(np.float32)
    summary = summarise_text(row_metrics(base, base, np.zeros(120, np.int32)), WINDOWS)
    assert (summary.kld_mean.value, summary.kld_max, summary.kld_geomean) == (0.0, 0.0, 0.0)
    assert summary.same_top.value == 1.0
    assert 0.9 < summary.same_top.low < 1.0
    assert summary.ppl_ratio.value == 1.0


def test_the_json_form_is_json(rows):
    text = json.dumps(asdict(summarise_text(rows, WINDOWS)), allow_nan=False)
    kld = json.loads(text)["kld_mean"]
    assert set(kld) == {"value", "stderr", "low", "high", "level", "n", "n_clusters", "unit"}


def test_rows_of_another_text_are_refused(rows):
    with pytest.raises(InputError, match="120 rows and 119"):
        summarise_text(rows, WINDOWS[:-1])


def test_every_estimate_has_the_declared_unit(rows):
    summary = summarise_text(rows, WINDOWS)
    estimates = [quantity for quantity in TEXT_QUANTITIES if isinstance(getattr(summary, quantity.name), Estimate)]
    assert len(estimates) == 12
    for quantity in estimates:
        assert getattr(summary, quantity.name).unit == quantity.unit, quantity.name


def test_categories_are_summarised_by_themselves(rows):
    categories = ("b", "a", "", "b", "a", "a", "b", "b", "a", "", "a", "b")
    whole = summarise_text(rows, WINDOWS, categories=categories)
    assert list(whole.by_category) == ["(none)", "a", "b"]
    for name, found in whole.by_category.items():
        inside = np.array([category or "(none)" for category in categories])[WINDOWS] == name
        alone = summarise_text(rows[inside], WINDOWS[inside])
        assert asdict(found) == {key: value for key, value in asdict(alone).items() if key != "by_category"}
    assert summarise_text(rows, WINDOWS).by_category == {}
