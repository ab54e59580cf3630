"""Stop when decided: verdicts at several looks at a growing sample of items, with errors that hold over all of them.

The interval of each look is a repeated confidence interval (Jennison and Turnbull, 1989): with probability 1 - alpha
the truth is inside at every look. So however the stopping is chosen, a false `worse` or `better` comes in at most alpha
of runs, a false `equivalent` or `not inferior` in at most alpha / 2. alpha is that of one quant: for a table of 25 pass
.05 / 25, or what a joint correction leaves for each.

The verdict is read off that one interval, the first that fits:

* `equivalent`: inside (-margin, +margin);
* `worse`: high < 0; `better`: low > 0;
* `not inferior`: low > -margin;
* `not separable`.

A quant stops when a stronger verdict (one further up) is unlikely to come, even with all items: less likely than not
once `worse`, `better` or `not inferior` is reached, below 5 % before that. How likely it is follows from the
distribution of the final estimate given the present one, N(net, V_now - V_all). Stopping without a verdict spends no
error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from quantprobe.arrays import BoolArray, FloatArray
from quantprobe.errors import InputError
from quantprobe.stats.design import ItemDesign
from quantprobe.stats.estimates import MIN_DESIGN_EFFECT, Estimate, cluster_mean
from quantprobe.stats.paired import (
    BETTER,
    EQUIVALENT,
    NOT_INFERIOR,
    NOT_SEPARABLE,
    WORSE,
    net_interval,
    verdict_of,
)
from quantprobe.stats.sampling import weighted_values
from quantprobe.stats.spending import boundaries, spent_errors

MIN_WINDOWS = 20
"""Windows below which the relative error of a mean over a text is not trusted."""
_LIKELY, _UNLIKELY = 0.5, 0.05
_NEARLY_ALL = 1 - 1e-4


@dataclass(frozen=True)
class StopRule:
    """When a quant stops decoding items of a task."""

    alpha: float = 0.05
    """Two-sided error of one quant over all looks; corrected over quants by whoever makes the rule."""
    margin: float = 0.01
    """The smallest change that matters, a fraction."""
    shares: tuple[float, ...] = (0.1, 0.2, 0.35, 0.55, 0.75, 1.0)
    """Expected shares of items at the looks."""
    not_inferior_stops: bool = True
    """Whether `not inferior` settles a quant, which is what a recommendation needs."""

    def __post_init__(self) -> None:
        if not 0 < self.alpha < 1:
            raise InputError(f"an error of {self.alpha} is not between 0 and 1; use for example 0.05")
        if not 0 < self.margin <= 1:
            raise InputError(f"a margin of {self.margin} is no fraction above 0; 0.01 is one percentage point")
        rising = all(a < b for a, b in zip(self.shares, self.shares[1:], strict=False))
        if not self.shares or not rising or not 0 < self.shares[0] <= self.shares[-1] <= 1:
            raise InputError(f"the shares {self.shares} do not rise within (0, 1]; use for example 0.2, 0.5, 1")


@dataclass(frozen=True)
class Decision:
    """What one look found."""

    verdict: str
    net: Estimate
    """Net change of accuracy, a fraction. The interval holds at all looks together, at level 1 - alpha of the rule."""
    n_decoded: int
    share: float
    """Decoded items as a fraction of the pool."""
    stage: int
    """The look, from 1."""
    decided: bool
    """The verdict settles the quant: `equivalent`, `worse`, `better`, and `not inferior` where the rule says so."""
    outlook: float
    """Probability that all items would give a stronger verdict; 0 where all are decoded."""
    stop: bool
    """Further items are not worth their time; never True only because a budget is spent."""


def decide(
    values: FloatArray, decoded: BoolArray, looks: FloatArray, design: ItemDesign, rule: StopRule | None = None
) -> Decision:
    """The verdict on one quant at its latest look, and whether to go on.

    Parameters
    ----------
    values : `[n_items]` float64
        -1 for a drop, 1 for a leapfrog, 0 for neither; read where decoded. NaN there: no answer, leaves the pool.
    decoded : `[n_items]` bool
        The items drawn for this look: those whose number (`sampling.item_numbers`) is below the last row of `looks`.
        Items that happen to be there from elsewhere are not drawn and must be False.
    looks : `[n_looks, n_items]` float64
        Decoding probabilities of all looks so far, this one last, none falling from one look to the next.
    design : ItemDesign
        Strata and clusters; where items are decoded as units, from `sampling.unit_design`.

    Raises
    ------
    InputError
        Shapes that differ, probabilities that fall or lie outside (0, 1], nothing that can be compared.

    Notes
    -----
    The estimate is Horvitz and Thompson's. Its interval is Tango's score interval at effective counts: all counts are
    divided by the pool items that one decoded flip stands for, by the effect of strata and clusters on the
    variance, and by the squared ratio of the t to the normal quantile. It has a width before the first flip is seen:
    one flip of average weight is added when that weight is estimated.
    """
    rule = rule or StopRule()
    looks = np.atleast_2d(looks)
    if (np.diff(looks, axis=0) < 0).any() or looks.shape[1] != design.n_items:
        raise InputError(
            f"looks of shape {looks.shape} at {design.n_items} items: one column an item, and none may fall"
        )
    flips = _count_flips(values, decoded, looks, design)
    fractions = information_fractions(looks)
    ahead = fractions if fractions[-1] > _NEARLY_ALL else [*fractions, 1.0]
    quantiles = boundaries(ahead, spent_errors(ahead, rule.alpha))
    low, high = flips.interval(float(quantiles[len(fractions) - 1]))
    verdict = verdict_of(low, high, rule.margin)
    decided = verdict in (EQUIVALENT, WORSE, BETTER) or (verdict == NOT_INFERIOR and rule.not_inferior_stops)
    everything = bool((looks[-1] == 1).all())
    outlook = 0.0 if everything else flips.outlook(verdict, rule.margin, float(quantiles[-1]))
    return Decision(
        verdict=verdict,
        net=Estimate(flips.net, flips.stderr, low, high, 1 - rule.alpha, flips.n, flips.n_clusters, "fraction"),
        n_decoded=flips.n_decoded,
        share=flips.n_decoded / flips.n,
        stage=len(fractions),
        decided=decided,
        outlook=outlook,
        stop=everything or outlook < (_LIKELY if decided else _UNLIKELY),
    )


def information_fractions(looks: FloatArray) -> list[float]:
    """The information of each look as a fraction of that of all items, from `[n_looks, n_items]` probabilities.

    sum(p) / sum(p / pi), with p the squared probabilities of the first look, to which the chances of a flip are
    proportional. No answer enters it, so the error spent cannot depend on the answers.
    """
    chances = looks[0] ** 2
    return [float(chances.sum() / (chances / look).sum()) for look in looks]


def next_share(shares: Sequence[float], done: float, affordable: float = 1.0, worth: float = 0.02) -> float | None:
    """The share of the next look: the next one planned, or less where the budget pays for less.

    `done` is the share already drawn, `affordable` what may have been drawn in all when the budget is spent
    (`affordable_share`). None where all planned shares are done, or the budget pays for less than `worth` more.
    """
    planned = [share for share in shares if share > done + 1e-9]
    if not planned:
        return None
    share = min(planned[0], affordable)
    return share if share == planned[0] or share >= done + worth else None


def affordable_share(n_items: int, n_decoded: int, budget: float, cost: float = 1.0) -> float:
    """The share of all items that may have been decoded when `budget` is spent, at most 1.

    `budget` is what is left, in items (cost 1) or in seconds with `cost` the measured seconds of an item. Raises
    `InputError` for no items or a cost that is not above 0.
    """
    if n_items < 1 or not cost > 0:
        raise InputError(f"{n_items} items at {cost} each cannot be planned; measure at least one item first")
    return min(1.0, (n_decoded + max(0.0, budget) / cost) / n_items)


def precision_reached(estimate: Estimate, relative: float, min_clusters: int = MIN_WINDOWS) -> bool:
    """Whether the relative error of a mean, stderr / |value|, is at most `relative` (0.02 is 2 %).

    The 95 % interval is then about +-2 `relative` wide. Never before `min_clusters` windows: one tends to stop where
    the spread looks small by chance, and there windows of large KLD are missing and the mean is too low as well. From
    20 windows on that costs little: a bias of at most .2 % and coverage of 92 to 95 % (log-normal windows, simulated).
    """
    if not relative > 0:
        raise InputError(f"a relative error of {relative} is never reached; give one above 0 (0.02 is 2 %)")
    if estimate.value is None or estimate.stderr is None or estimate.n_clusters < min_clusters:
        return False
    return estimate.stderr <= relative * abs(estimate.value)


@dataclass(frozen=True)
class _Flips:
    """Drops and leapfrogs of the whole pool as estimated from the decoded items."""

    drops: float
    leapfrogs: float
    weight: float
    """Items of the pool that one decoded flip stands for, and 1 where all are decoded."""
    effect: float
    """Variance under strata and clusters over that of independent items."""
    dof: float
    stderr: float | None
    n: int
    n_decoded: int
    n_clusters: int

    @property
    def net(self) -> float:
        return (self.leapfrogs - self.drops) / self.n

    def interval(self, quantile: float) -> tuple[float | None, float | None]:
        """Tango's interval at effective counts; none for a single cluster."""
        if self.stderr is None:
            return None, None
        if not np.isfinite(quantile):
            return -1.0, 1.0
        tail = float(special.ndtr(-quantile))
        per_item = self.weight * self.effect * float(special.stdtrit(self.dof, tail) / quantile) ** 2
        low, high = net_interval(
            self.drops / per_item, self.leapfrogs / per_item, self.n / per_item, level=1 - 2 * tail
        )
        return float(low), float(high)

    def outlook(self, verdict: str, margin: float, quantile: float) -> float:
        """Probability that the interval of all items gives a stronger verdict; `quantile` is that of the last look."""
        if self.stderr is None or verdict == EQUIVALENT:
            return 0.0
        flips = max(self.drops + self.leapfrogs, 1.0)
        spread = (flips * self.effect * max(self.weight - 1, 0.0)) ** 0.5 / self.n
        # Half the width of Tango's interval: z^2 / n without a flip, z sqrt(flips) / n with many.
        half = (self.effect * quantile**2 * (flips + self.effect * quantile**2)) ** 0.5 / self.n

        def within(low: float, high: float) -> float:
            edges = (np.array([low, max(low, high)]) - self.net) / max(spread, 1e-12)
            return float(np.diff(special.ndtr(edges))[0])

        inside = within(half - margin, margin - half)
        if verdict in (WORSE, BETTER):
            return inside
        if verdict == NOT_SEPARABLE:
            return 1 - within(-half, half - margin)
        return 1 - within(-half, half) + within(max(-half, half - margin), min(half, margin - half))


def _count_flips(values: FloatArray, decoded: BoolArray, looks: FloatArray, design: ItemDesign) -> _Flips:
    """Estimates of one look. The weight of a flip is sum(d^2 / pi^2) / sum(d^2 / pi), with one expected flip added."""
    psi, kept = weighted_values(values, decoded, looks[-1])
    pi, chances = looks[-1][kept], looks[0][kept] ** 2
    seen = float((chances * pi).sum())
    flips, squares = float(np.abs(psi).sum()), float((psi**2).sum())
    weight = (squares + float((chances / pi).sum()) / seen) / (flips + float(chances.sum()) / seen)
    mean = cluster_mean(psi, design.keep(kept))
    alone = float(psi.var(ddof=1)) / len(psi) if len(psi) > 1 else 0.0
    known = mean.stderr is not None and alone > 0
    return _Flips(
        drops=float(-psi[psi < 0].sum()),
        leapfrogs=float(psi[psi > 0].sum()),
        weight=weight,
        effect=max(MIN_DESIGN_EFFECT, (mean.stderr or 0.0) ** 2 / alone) if known else 1.0,
        dof=mean.dof,
        stderr=mean.stderr,
        n=mean.n,
        n_decoded=int(decoded[kept].sum()),
        n_clusters=mean.n_clusters,
    )
