"""Smoothed accuracy: an early sign of the change of accuracy, with .2 to .7 of the variance of counted flips.

Each item counts Phi(m / h) in place of 1 where its margin m is above 0: an item near the boundary, which a small shift
flips one way or the other, counts in between. The width h is a tenth of the standard deviation of the base's margins,
fixed before any quant is seen.

For ranking quants and as an early sign, **not** for equivalence: it is another number than accuracy, off by up to .2
points at a margin of 1 on real items, and a choice of items made to deceive moves it further.
"""

from __future__ import annotations

import numpy as np
from scipy import special

from quantprobe.arrays import BoolArray, FloatArray
from quantprobe.errors import InputError
from quantprobe.stats.design import ItemDesign
from quantprobe.stats.estimates import Estimate
from quantprobe.stats.sampling import sampled_mean

WIDTH = 0.1
"""h in standard deviations of the base's margins."""


def smoothed_changes(base_margin: FloatArray, quant_margin: FloatArray) -> FloatArray:
    """Phi(m_quant / h) - Phi(m_base / h) of each item of one task, `[n_items]` float64 in [-1, 1].

    Margins in nats, NaN where not known or not decoded, which gives NaN. h = WIDTH times the standard deviation of all
    known base margins; where these are all equal, the limit h = 0 (1 above 0, 1/2 at 0). Raises `InputError` for
    lengths that differ or no known base margin.
    """
    known = np.isfinite(base_margin)
    if len(base_margin) != len(quant_margin) or not known.any():
        raise InputError(
            f"{int(known.sum())} known base margins of {len(base_margin)}, {len(quant_margin)} of the quant; smoothed "
            "accuracy needs margins of the same items, which answers imported without log-probabilities lack"
        )
    width = WIDTH * float(np.std(base_margin[known]))
    return _above(quant_margin, width) - _above(base_margin, width)


def smoothed_change(
    base_margin: FloatArray,
    quant_margin: FloatArray,
    design: ItemDesign,
    decoded: BoolArray | None = None,
    probabilities: FloatArray | None = None,
    level: float = 0.95,
) -> Estimate:
    """The mean change of smoothed accuracy over the items of one task, a fraction, with `sampled_mean`'s t interval.

    Without `decoded` and `probabilities` all items count as decoded. Decoded items without a known margin leave the
    pool.
    """
    values = smoothed_changes(base_margin, quant_margin)
    decoded = np.ones(len(values), dtype=np.bool_) if decoded is None else decoded
    probabilities = np.ones(len(values)) if probabilities is None else probabilities
    return sampled_mean(values, decoded, probabilities, design).estimate("fraction", level)


def _above(margin: FloatArray, width: float) -> FloatArray:
    if width == 0.0:
        return np.heaviside(margin, 0.5)
    shares: FloatArray = special.ndtr(margin / width)
    return shares
