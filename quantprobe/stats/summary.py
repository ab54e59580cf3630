"""What the rows of one text say about one quant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantprobe.arrays import Int32Array
from quantprobe.errors import InputError
from quantprobe.metrics.quantities import TEXT_QUANTITIES, Quantity, TextNumbers
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

NO_CATEGORY = "(none)"
"""Where windows without a category are counted, in a text that has categories."""


@dataclass(frozen=True, kw_only=True)
class CategorySummary(TextNumbers[Estimate]):
    """One quant on the windows of one category: the same numbers, of these windows alone.

    Its intervals are not corrected for choosing among categories.
    """


@dataclass(frozen=True, kw_only=True)
class TextSummary(TextNumbers[Estimate]):
    """One quant on one text; `quantprobe.metrics.quantities` declares the numbers.

    Estimates are clustered by window. Percentiles (linear, type 7) and counts are those of the measured rows. Rows that
    are not finite are in no number but `n_nonfinite`; `n_rows` counts the others. `kld_geomean` is None where a row's
    KLD is negative, as imported base files can give.
    """

    by_category: Mapping[str, CategorySummary] = field(default_factory=dict)
    """In the order of the categories' names; empty where windows have none."""


def summarise_text(
    rows: NDArray[np.void], windows: Int32Array, level: float = 0.95, categories: Sequence[str] = ()
) -> TextSummary:
    """Summarise the rows of one text.

    Parameters
    ----------
    rows : `[n_rows]` of `ROW_DTYPE`
    windows : `[n_rows]` int32
        The window of each row: neighbouring tokens are not independent, windows nearly are.
    level : float
        Coverage that every interval aims at.
    categories
        The category of each window by number; none: they have no categories.

    Raises
    ------
    InputError
        Where the two do not belong together, or `level` is outside (0, 1).
    """
    if rows.shape != windows.shape:
        raise InputError(f"{len(rows)} rows and {len(windows)} window numbers do not belong to one text")
    return TextSummary(**_numbers(rows, windows, level), by_category=_by_category(rows, windows, level, categories))


def _by_category(
    rows: NDArray[np.void], windows: Int32Array, level: float, categories: Sequence[str]
) -> dict[str, CategorySummary]:
    if not categories:
        return {}
    of_row = np.array([category or NO_CATEGORY for category in categories], dtype=object)[windows]
    return {
        name: CategorySummary(**_numbers(rows[of_row == name], windows[of_row == name], level))
        for name in sorted(set(of_row))
    }


def _numbers(rows: NDArray[np.void], windows: Int32Array, level: float) -> dict[str, Any]:
    """The fields of `TextNumbers`."""
    finite = rows["finite"]
    n_nonfinite = int(np.count_nonzero(~finite))
    rows, windows = rows[finite], windows[finite]
    declared = [quantity for quantity in TEXT_QUANTITIES if quantity.rows]
    ln_ppl_ratio = mean_estimate(rows["nll"] - rows["nll_base"], windows, "nats", level)
    return dict(
        ppl=exponential(mean_estimate(rows["nll"], windows, "nats", level), "ppl"),
        ppl_base=exponential(mean_estimate(rows["nll_base"], windows, "nats", level), "ppl"),
        ppl_ratio=exponential(ln_ppl_ratio, "ratio"),
        ln_ppl_ratio=ln_ppl_ratio,
        **{each.name: _summarise(each, rows, windows, level) for each in declared if each.how != "percentile"},
        **_percentiles([each for each in declared if each.how == "percentile"], rows),
        token_drops=int(np.count_nonzero(token_drops(rows))),
        token_leapfrogs=int(np.count_nonzero(token_leapfrogs(rows))),
        n_rows=len(rows),
        n_nonfinite=n_nonfinite,
    )


def _summarise(quantity: Quantity, rows: NDArray[np.void], windows: Int32Array, level: float) -> Any:
    """A declared number of finite rows."""
    values = rows[quantity.rows]
    if quantity.how == "geometric mean":
        return geometric_mean(values)
    if quantity.how == "share":
        return fraction_estimate(values, windows, level)
    if quantity.how == "rms":
        return rms_estimate(values, windows, quantity.unit, level)
    return mean_estimate(values, windows, quantity.unit, level)


def _percentiles(quantities: list[Quantity], rows: NDArray[np.void]) -> dict[str, Any]:
    """The declared percentiles, all those of one row metric from one pass."""
    found: dict[str, Any] = {}
    for metric in dict.fromkeys(quantity.rows for quantity in quantities):
        own = [quantity for quantity in quantities if quantity.rows == metric]
        values = percentiles(rows[metric], [quantity.fraction for quantity in own])
        found |= dict(zip((quantity.name for quantity in own), values, strict=True))
    return found
