"""Which quant to take: the smallest that is shown not to lose the margin, and what would settle the smaller ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from quantprobe.stats.estimates import Estimate
from quantprobe.stats.power import items_for_noninferiority, round_up, volume_bound
from quantprobe.stats.verdicts import points_of


@dataclass(frozen=True)
class Candidate:
    """What the recommendation needs to know of one quant; `net` has its interval of the whole report."""

    name: str
    size_bytes: float | None
    acc: float
    net: Estimate
    volume: float
    n_effective: float
    alpha_star: float


@dataclass(frozen=True)
class Undecided:
    """A quant smaller than the recommended one that may do."""

    name: str
    net: Estimate
    n_more: int | None
    """Items beyond these that would show it, with power 0.8, if its net change stays where it is and its volume is at
    the upper bound; None where its net change is at -margin or below, so that more items would rather rule it out."""


@dataclass(frozen=True)
class Recommendation:
    """One quant to take, or none, and why."""

    name: str | None
    sentence: str
    undecided: tuple[Undecided, ...] = ()
    """From the smallest on."""
    ruled_out: tuple[str, ...] = ()
    """Quants whose whole interval lies at -margin or below, from the smallest on."""


def recommend(quants: Sequence[Candidate], margin: float) -> Recommendation:
    """The smallest quant whose interval lies above -margin: equivalent, not inferior or better.

    All intervals of a report hold together, so the choice among them costs nothing: a quant that loses the margin or
    more is taken in at most alpha / 2 of reports.
    """
    sized = sorted((q for q in quants if q.size_bytes is not None), key=lambda q: (q.size_bytes or 0.0, -q.acc))
    if not sized:
        return Recommendation(None, "No quant's size is known, so none can be called the smallest.")
    shown = [q.net.low is not None and q.net.low > -margin for q in sized]
    taken = sized[shown.index(True)] if any(shown) else None
    smaller = sized[: shown.index(True)] if taken is not None else sized
    lost = [q.net.high is not None and q.net.high <= -margin for q in smaller]
    undecided = tuple(
        Undecided(q.name, q.net, _items_more(q, margin)) for q, out in zip(smaller, lost, strict=True) if not out
    )
    ruled_out = tuple(q.name for q in sized if q.net.high is not None and q.net.high <= -margin)
    sentence = " ".join((_choice(taken, sized, margin), _next(undecided, taken is not None, margin))).strip()
    return Recommendation(taken.name if taken is not None else None, sentence, undecided, ruled_out)


def _choice(taken: Candidate | None, sized: Sequence[Candidate], margin: float) -> str:
    n_items = max(q.net.n for q in sized)
    limit = f"{100 * margin:g} percentage point{'' if 100 * margin == 1 else 's'}"
    if taken is None:
        return f"No quant is shown to lose less than {limit} over {n_items:,} items."
    return (
        f"{taken.name} is the smallest quant shown to lose less than {limit}: "
        f"{_words(taken.net, margin)} over {taken.net.n:,} items."
    )


def _next(undecided: Sequence[Undecided], has_choice: bool, margin: float) -> str:
    """The undecided quant that the fewest items would settle."""
    open_ = [(quant.n_more, quant) for quant in undecided if quant.n_more is not None]
    if not open_:
        return ""
    n_more, quant = min(open_, key=lambda pair: pair[0])
    which = "is smaller and undecided" if has_choice else "may do"
    return f"{quant.name} {which}: {_words(quant.net, margin)}; about {n_more:,} more items would show it."


def _words(net: Estimate, margin: float) -> str:
    value, low, high = points_of(net, margin)
    return f"{value} points [{low}, {high}]" if low and high else f"{value} points (no interval)"


def _items_more(quant: Candidate, margin: float) -> int | None:
    """A gain counts as no change: it may be chance, and no change is enough."""
    gap = margin + min(quant.net.value or 0.0, 0.0)
    if quant.net.value is None or gap <= 0:
        return None
    bound = min(1.0, volume_bound(quant.volume, quant.n_effective))
    needed = items_for_noninferiority(gap, bound, quant.alpha_star / 2) * quant.net.n / quant.n_effective
    # the score interval is a little wider than the formula's: one that just fails needs some items more
    return round_up(round(max(needed - quant.net.n, 0.2 * quant.net.n)))
