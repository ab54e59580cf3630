"""What a number of items can show: minimum detectable effect, and items needed, for paired answers.

Normal approximation to McNemar's test (Connor, Biometrics 43, 1987): n = ((z_a sqrt(p) + z_b sqrt(p - d^2)) / d)^2 with
churn p (the share of items whose correctness changes), effect d (the net change), z_a at 1 - alpha / 2 and z_b at the
power. The exact test reaches a little less than the power asked for, because its level is below alpha.

Verdicts are read off two-sided intervals at level 1 - alpha, so an interval that must end above -margin does so with a
one-sided error of alpha / 2. In a report of several quants alpha is the alpha* of their simultaneous intervals.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from scipy import special

from quantprobe.errors import InputError
from quantprobe.stats.paired import share_interval


@dataclass(frozen=True)
class Plan:
    """What `n` items can tell at an expected churn; fractions, not percent."""

    n: int
    churn: float
    margin: float
    alpha: float
    power: float
    n_quants: int
    mde: float
    """Smallest net change that the test finds with the power asked for."""
    detectable: bool
    """False where `mde` is above the churn: even if every change were a drop, the test would miss it too often."""
    n_to_detect: int | None
    """Items to find a net change of `margin`; None where the margin is above the churn and cannot happen."""
    n_to_show_noninferior: int
    n_to_show_equivalent: int
    min_drops: int
    """Fewest drops, with no leapfrog, that give p <= alpha."""


def mde(n: float, churn: float, alpha: float = 0.05, power: float = 0.8) -> float:
    """Minimum detectable net change of `n` items, the d that solves the formula above for d in closed form.

    The result can be above the churn; then nothing that can happen is found with that power. For a churn that was
    observed rather than expected use `observed_mde`.
    """
    _check(churn, alpha, power)
    if n < 1:
        raise InputError(f"{n} items can show nothing; give at least one")
    z_a, z_b, p = _z(1 - alpha / 2), _z(power), churn
    # Squaring sqrt(n) d - z_a sqrt(p) = z_b sqrt(p - d^2): (n + z_b^2) d^2 - 2 z_a sqrt(n p) d + (z_a^2 - z_b^2) p = 0.
    root = math.sqrt(max(0.0, z_a**2 * n * p - (n + z_b**2) * (z_a**2 - z_b**2) * p))
    return min(1.0, (z_a * math.sqrt(n * p) + root) / (n + z_b**2))


def volume_bound(volume: float, n: float, confidence: float = 0.95) -> float:
    """One-sided upper bound (Wilson) of a volume observed in n items; 2.7 / n at 95 % where nothing changed."""
    return float(share_interval(volume * n, n, 2 * confidence - 1)[1])


def observed_mde(n: float, volume: float, alpha: float = 0.05, power: float = 0.8) -> float:
    """`mde` at an observed volume: at its one-sided 80 % upper bound, and at `min_drops` / n at least.

    No change seen in 100 items does not mean that a change of any size would have been found.
    """
    return mde(n, min(1.0, max(volume_bound(volume, n, 0.8), min_drops(alpha) / n)), alpha, power)


def items_to_detect(effect: float, churn: float, alpha: float = 0.05, power: float = 0.8) -> int | None:
    """Items that McNemar's test needs to find a net change of `effect`; None where the effect is above the churn."""
    _check(churn, alpha, power)
    if effect <= 0:
        raise InputError(f"an effect of {effect} cannot be detected; give one above 0 (0.01 is one percentage point)")
    if effect > churn:
        return None
    needed = (_z(1 - alpha / 2) * math.sqrt(churn) + _z(power) * math.sqrt(churn - effect**2)) / effect
    return max(1, math.ceil(needed**2 - 1e-9))


def items_for_noninferiority(margin: float, churn: float, alpha: float = 0.05, power: float = 0.8) -> int:
    """Items to show that a quant of no net change is not worse by `margin` or more (one-sided, at alpha)."""
    return _items_inside(margin, churn, alpha, power, z_power=_z(power))


def items_for_equivalence(margin: float, churn: float, alpha: float = 0.05, power: float = 0.8) -> int:
    """Items to show that a quant of no net change is within `margin` on both sides (two one-sided tests).

    Both tests must succeed, so the quantile is that of 1 - (1 - power) / 2; the usual formula with that of `power`
    gives a real power of 60 % where 80 % was asked for.
    """
    return _items_inside(margin, churn, alpha, power, z_power=_z(1 - (1 - power) / 2))


def items_to_settle(margin: float, churn: float, alpha: float = 0.05, power: float = 0.8) -> int:
    """Items after which `not separable` is unlikely: a change of `margin` is found, and no change is shown equivalent.

    The larger of the two needs; each is met with the power asked for, by a two-sided interval at level 1 - alpha.
    """
    inside = items_for_equivalence(margin, churn, alpha / 2, power)
    return max(items_to_detect(margin, churn, alpha, power) or 0, inside)


def round_up(n: int) -> int:
    """To two digits; a plan is no more precise."""
    step = 1
    while n >= 100 * step:
        step *= 10
    return -(-n // step) * step


def min_drops(alpha: float = 0.05) -> int:
    """Fewest drops without a leapfrog that exact McNemar finds: the smallest k with 2 * 0.5^k <= alpha (6 at 0.05)."""
    return max(1, math.ceil(math.log2(2 / alpha) - 1e-12))


def plan(
    n: int, churn: float, margin: float = 0.01, alpha: float = 0.05, power: float = 0.8, n_quants: int = 1
) -> Plan:
    """What `n` items can tell before they are run.

    With `n_quants` in the report every interval is planned at alpha / n_quants (Bonferroni): the worst case, quants
    that have nothing in common. The report itself corrects less where its quants move together (`simultaneous`).
    Raises `InputError` for numbers outside their range.
    """
    if n_quants < 1:
        raise InputError(f"{n_quants} quants cannot be planned for; give at least one")
    corrected = alpha / n_quants
    smallest = mde(n, churn, corrected, power)
    return Plan(
        n=n,
        churn=churn,
        margin=margin,
        alpha=alpha,
        power=power,
        n_quants=n_quants,
        mde=smallest,
        detectable=smallest <= churn,
        n_to_detect=items_to_detect(margin, churn, corrected, power),
        n_to_show_noninferior=items_for_noninferiority(margin, churn, corrected / 2, power),
        n_to_show_equivalent=items_for_equivalence(margin, churn, corrected / 2, power),
        min_drops=min_drops(corrected),
    )


def _items_inside(margin: float, churn: float, alpha: float, power: float, z_power: float) -> int:
    _check(churn, alpha, power)
    if not 0 < margin <= 1:
        raise InputError(
            f"a margin of {margin} cannot be tested; give a fraction above 0 (0.01 is one percentage point)"
        )
    # With little churn the interval is that of no change at all: z^2 / (n + z^2) must fit inside the margin.
    z_alpha = _z(1 - alpha)
    floor = z_alpha**2 * (1 / margin - 1)
    return max(1, math.ceil(max((z_alpha + z_power) ** 2 * churn / margin**2, floor) - 1e-9))


def _check(churn: float, alpha: float, power: float) -> None:
    if not 0 <= churn <= 1:
        raise InputError(f"a churn of {churn} is not a fraction; give 0 to 1 (0.04: 4 of 100 answers change)")
    if not 0 < alpha < 0.5:
        raise InputError(f"a significance level of {alpha} is out of range; give one above 0 and below 0.5 (0.05)")
    if not 0.5 <= power < 1:
        raise InputError(f"a power of {power} is out of range; give 0.5 or more and below 1 (0.8)")


def _z(probability: float) -> float:
    return float(special.ndtri(probability))
