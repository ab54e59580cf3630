"""Numbers as people read them: rounded to what their uncertainty leaves."""

from __future__ import annotations

import math

from quantprobe.stats.estimates import Estimate
from quantprobe.stats.verdicts import points_of

MISSING = "n/a"


def format_estimate(estimate: Estimate | None, scale: float = 1.0) -> str:
    """`value ± stderr`: the error to two significant digits, the value to the same place.

    `scale` multiplies both (100 for percent). Where there is an interval and no error (a share of exactly
    0 or 1) it is `value [low, high]`; a value with neither, for which there were too few windows, is
    `value ± n/a`; no value at all is `n/a`.
    """
    if estimate is None or estimate.value is None:
        return MISSING
    value = estimate.value * scale
    if estimate.stderr is None and estimate.low is not None and estimate.high is not None:
        return f"{format_plain(value)} [{format_plain(estimate.low * scale)}, {format_plain(estimate.high * scale)}]"
    if estimate.stderr is None:
        return f"{format_plain(value)} ± {MISSING}"
    stderr = estimate.stderr * scale
    if stderr <= 1e-12 * abs(value):  # nothing, or the rounding of float64 sums
        return f"{format_plain(value)} ± 0"
    decimals = 1 - _exponent(stderr)
    if decimals > 7 and abs(value) < 1e-3:
        shift = _exponent(value if abs(value) > stderr else stderr)
        kept = decimals + shift
        return f"({value / 10.0**shift:.{kept}f} ± {stderr / 10.0**shift:.{kept}f})e{shift}"
    kept = max(decimals, 0)
    return f"{round(value, decimals):.{kept}f} ± {round(stderr, decimals):.{kept}f}"


def format_interval(estimate: Estimate | None, scale: float = 1.0, signed: bool = False) -> str:
    """`+1.2 [-0.3, +2.7]`: as many decimals as the interval's width leaves two digits for.

    With `signed`, as many more as an end that is not 0 needs to be shown on its side of 0.
    The sign is always written, because the direction is the point. `+1.20 [no interval]` where there is none, `n/a`
    where there is no value.
    """
    if estimate is None or estimate.value is None:
        return MISSING
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value * scale:+.2f} [no interval]"
    width = (estimate.high - estimate.low) * scale
    decimals = 2 if width <= 0 else min(max(1 - math.floor(math.log10(width)), 0), 7)
    ends = [end for end in (estimate.low, estimate.high) if end]
    while signed and decimals < 12 and any(round(end * scale, decimals) == 0 for end in ends):
        decimals += 1
    low, value, high = (f"{number * scale:+.{decimals}f}" for number in (estimate.low, estimate.value, estimate.high))
    return f"{value} [{low}, {high}]"


def format_net(net: Estimate | None, margin: float | None) -> str:
    """A net change in points, `-0.6 [-1.7, +0.5]`, with as many decimals as its verdict at `margin` (a fraction) needs.

    So an end that is inside the margin, or on one side of 0, is shown there.
    """
    if net is None or net.low is None or net.high is None or margin is None:
        return format_interval(net, 100)
    value, low, high = points_of(net, margin)
    return f"{value} [{low}, {high}]"


def format_plain(value: float | None, scale: float = 1.0, digits: int = 3) -> str:
    """A number without an error, such as a quantile, to `digits` significant digits; `n/a` for None."""
    if value is None:
        return MISSING
    value *= scale
    if value == 0:
        return "0"
    exponent = _exponent(value, digits)
    if exponent < -5:
        return f"{value:.{digits - 1}e}".replace("e-0", "e-")
    return f"{value:.{max(digits - 1 - exponent, 0)}f}"


def format_points(share: float) -> str:
    """A margin or change of accuracy in words: `1 point`, `0.5 points`."""
    points = f"{100 * share:g}"
    return f"{points} point{'' if points == '1' else 's'}"


def format_size(n_bytes: int) -> str:
    """A size in both units that authors use, `4.92 GB (4.58 GiB)`: GB is 10^9 bytes, GiB 2^30."""
    return f"{format_plain(n_bytes / 1e9)} GB ({format_plain(n_bytes / 2**30)} GiB)"


def _exponent(value: float, digits: int = 2) -> int:
    """Decimal exponent of `value` after rounding to `digits` significant digits (0.0996 -> -1 at two)."""
    return int(f"{value:.{digits - 1}e}".partition("e")[2]) if math.isfinite(value) else 0
