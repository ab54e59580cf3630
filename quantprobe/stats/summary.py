"""What the rows of one text say about one quant."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantprobe.arrays import FloatArray, Int32Array
from quantprobe.errors import InputError
from quantprobe.metrics.rows import token_drops, token_leapfrogs
from quantprobe.stats.estimates import (
    Estimate,
    exponential,
    fraction_estimate,
    geometric_mean,
    mean_estimate,
    percentiles,
    rms_estimate,
)

_TAILS = {"min": 0.0, "p001": 0.001, "p01": 0.01, "p05": 0.05, "p10": 0.1, "median": 0.5}
_TAILS |= {"p90": 0.9, "p95": 0.95, "p99": 0.99, "p999": 0.999, "max": 1.0}
_TAILS_AND_QUARTILES = _TAILS | {"p25": 0.25, "p75": 0.75}


@dataclass(frozen=True, kw_only=True)
class TextSummary:
    """One quant on one text; `texts[NAME]` of `results.json`.

    KLD, JSD and `ln_ppl_ratio` are in nats, probabilities and fractions run from 0 to 1. Estimates are clustered by
    window. Percentiles (linear, type 7) and counts are those of the measured rows. Rows that are not finite are in
    no number but `n_nonfinite`; `n_rows` counts the others. Everything but the mean KLD may be unknown (None) where
    another program measured.
    """

    ppl: Estimate | None = None
    ppl_base: Estimate | None = None
    ppl_ratio: Estimate | None = None
    ln_ppl_ratio: Estimate | None = None
    kld_mean: Estimate
    kld_geomean: float | None = None
    """0 where any row's KLD is 0; None where one is negative, as imported base files can give."""
    kld_min: float | None = None
    kld_p001: float | None = None
    """The 0.1 % percentile; `kld_p999` is the 99.9 % one."""
    kld_p01: float | None = None
    kld_p05: float | None = None
    kld_p10: float | None = None
    kld_median: float | None = None
    kld_p90: float | None = None
    kld_p95: float | None = None
    kld_p99: float | None = None
    kld_p999: float | None = None
    kld_max: float | None = None
    kld_reverse_mean: Estimate | None = None
    jsd_mean: Estimate | None = None
    tv_mean: Estimate | None = None
    same_top: Estimate | None = None
    top_k_overlap: Estimate | None = None
    delta_p_mean: Estimate | None = None
    delta_p_rms: Estimate | None = None
    delta_p_min: float | None = None
    delta_p_p001: float | None = None
    delta_p_p01: float | None = None
    delta_p_p05: float | None = None
    delta_p_p10: float | None = None
    delta_p_p25: float | None = None
    delta_p_median: float | None = None
    delta_p_p75: float | None = None
    delta_p_p90: float | None = None
    delta_p_p95: float | None = None
    delta_p_p99: float | None = None
    delta_p_p999: float | None = None
    delta_p_max: float | None = None
    token_drops: int | None = None
    token_leapfrogs: int | None = None
    n_rows: int | None = None
    n_nonfinite: int | None = None


def summarise_text(rows: NDArray[np.void], windows: Int32Array, level: float = 0.95) -> TextSummary:
    """Summarise the rows of one text.

    Parameters
    ----------
    rows : `[n_rows]` of `ROW_DTYPE`
    windows : `[n_rows]` int32
        The window of each row: neighbouring tokens are not independent, windows nearly are.
    level : float
        Coverage that every interval aims at.

    Raises
    ------
    InputError
        Where the two do not belong together, or `level` is outside (0, 1).
    """
    if rows.shape != windows.shape:
        raise InputError(f"{len(rows)} rows and {len(windows)} window numbers do not belong to one text")
    finite = rows["finite"]
    n_nonfinite = int(np.count_nonzero(~finite))
    rows, windows = rows[finite], windows[finite]

    def mean(name: str, unit: str) -> Estimate:
        return mean_estimate(rows[name], windows, unit, level)

    ln_ppl_ratio = mean_estimate(rows["nll"] - rows["nll_base"], windows, "nats", level)
    return TextSummary(
        ppl=exponential(mean("nll", "nats"), "ppl"),
        ppl_base=exponential(mean("nll_base", "nats"), "ppl"),
        ppl_ratio=exponential(ln_ppl_ratio, "ratio"),
        ln_ppl_ratio=ln_ppl_ratio,
        kld_mean=mean("kld", "nats"),
        kld_geomean=geometric_mean(rows["kld"]),
        **_named_percentiles("kld", rows["kld"], _TAILS),
        kld_reverse_mean=mean("kld_reverse", "nats"),
        jsd_mean=mean("jsd", "nats"),
        tv_mean=mean("tv", "probability"),
        same_top=fraction_estimate(rows["same_top"], windows, level),
        top_k_overlap=mean("top_k_overlap", "fraction"),
        delta_p_mean=mean("delta_p", "probability"),
        delta_p_rms=rms_estimate(rows["delta_p"], windows, "probability", level),
        **_named_percentiles("delta_p", rows["delta_p"], _TAILS_AND_QUARTILES),
        token_drops=int(np.count_nonzero(token_drops(rows))),
        token_leapfrogs=int(np.count_nonzero(token_leapfrogs(rows))),
        n_rows=len(rows),
        n_nonfinite=n_nonfinite,
    )


def _named_percentiles(prefix: str, values: FloatArray, fractions: Mapping[str, float]) -> dict[str, Any]:
    names = [f"{prefix}_{name}" for name in fractions]
    return dict(zip(names, percentiles(values, list(fractions.values())), strict=True))
