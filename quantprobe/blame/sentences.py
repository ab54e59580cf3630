"""What a blame found, in words: only what its intervals show."""

from __future__ import annotations

from collections.abc import Iterator

from quantprobe.run.blame import GOLD_PROB, KLD, MARGIN, NET, Blame, Departure, Effect, GroupEffects
from quantprobe.stats.estimates import Estimate
from quantprobe.stats.two_level import ALONE, AVERAGED, RESTORED

SCALES = {KLD: (1.0, "nats"), MARGIN: (1.0, "nats"), NET: (100.0, "points"), GOLD_PROB: (100.0, "points")}
WORDS = {KLD: "distance", MARGIN: "margin", NET: "accuracy", GOLD_PROB: "gold probability"}
WAYS = {
    RESTORED: "restored in the quant",
    ALONE: "restored where all others are",
    AVERAGED: "restored, averaged over the states of the other groups",
}


def describe(blame: Blame) -> Iterator[str]:
    """The findings, most important first."""
    for way in blame.ways:
        yield from _of_way(blame, way)
    yield from _additivity(blame)


def _of_way(blame: Blame, way: str) -> Iterator[str]:
    prefix = "" if len(blame.ways) == 1 else f"{WAYS[way].capitalize()}: "
    for measure in (KLD, MARGIN):
        if measure in blame.measures:
            yield prefix + _first(blame.of_way(way), measure)
    pairs = [each for each in blame.disagreements if each.way == way]
    if pairs:
        found = pairs[0]
        more = f" {len(pairs)} pairs of groups are so; this one is the clearest." if len(pairs) > 1 else ""
        yield (
            f"{prefix}Distance and answers disagree: {found.more_distance} gives back "
            f"{_number(found.distance, KLD)} more distance than {found.more_answers}, and "
            f"{_number(found.answers, MARGIN)} less margin (both intervals corrected over all pairs of groups).{more}"
        )


def _first(effects: tuple[GroupEffects, ...], measure: str) -> str:
    """Which group gives back the most, if that is shown; shares only where the total is."""
    ranked = sorted(effects, key=lambda each: -(each.measures[measure].given_back.value or 0.0))
    best = ranked[0]
    effect = best.measures[measure]
    if not _is_positive(effect):
        return f"No group is shown to give back {WORDS[measure]}."
    share = "" if effect.share is None or not 0 < effect.share < 1.5 else f", {effect.share:.0%} of the total"
    harm = [each.group for each in effects if _is_negative(each.measures[measure])]
    worse = f" Restoring {', '.join(harm)} costs {WORDS[measure]}." if harm else ""
    return f"{best.group} gives back the most {WORDS[measure]}: {_number(effect.given_back, measure)}{share}.{worse}"


def _additivity(blame: Blame) -> Iterator[str]:
    for measure in (KLD, MARGIN):
        sums = [each for each in blame.departures if each.measure == measure and each.name.startswith("sum")]
        spare = [each for each in blame.departures if each.measure == measure and each not in sums]
        for each in sums:
            if _is_shown(each.value):
                yield (
                    f"Effects do not add up in {WORDS[measure]}: their sum is {_number(each.value, measure)} off what "
                    "restoring everything gives back."
                )
        if any(_is_shown(each.value) for each in spare):
            yield (
                f"Groups interact in {WORDS[measure]}: {sum(_is_shown(each.value) for each in spare)} of {len(spare)} "
                "columns that no group has are not 0, so effects may hold a part of other groups' products; "
                "--design foldover separates them."
            )
    if blame.interactions:
        largest = blame.interactions[0]
        yield (
            f"{len(blame.interactions)} of {blame.n_interactions * len(blame.measures)} products of two groups are "
            f"beyond noise; the largest, in {WORDS[largest.measure]}: {_pairs(largest)}, "
            f"{_number(largest.value, largest.measure)}."
        )


def _pairs(found: Departure) -> str:
    return f"one of {found.name}" if found.name.count(" x ") > 1 else found.name


def _number(estimate: Estimate, measure: str) -> str:
    scale, unit = SCALES[measure]
    value = (estimate.value or 0.0) * scale
    digits = 4 if measure == KLD else 3 if measure == MARGIN else 1
    if estimate.low is None or estimate.high is None:
        return f"{value:.{digits}f} {unit}"
    return f"{value:.{digits}f} {unit} ({estimate.low * scale:.{digits}f} to {estimate.high * scale:.{digits}f})"


def _is_shown(estimate: Estimate) -> bool:
    return estimate.low is not None and estimate.high is not None and (estimate.low > 0 or estimate.high < 0)


def _is_positive(effect: Effect) -> bool:
    return effect.given_back.low is not None and effect.given_back.low > 0


def _is_negative(effect: Effect) -> bool:
    return effect.given_back.high is not None and effect.given_back.high < 0
