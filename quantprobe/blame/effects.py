"""Effects of groups, paired on the same rows and items: contrasts of runs, with intervals that hold together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from quantprobe.arrays import FloatArray
from quantprobe.blame.groups import Group
from quantprobe.run.blame import KLD, MARGIN, Departure, Disagreement, Effect, GroupEffects
from quantprobe.stats.design import ItemDesign
from quantprobe.stats.estimates import Estimate, cluster_mean
from quantprobe.stats.max_t import MAX_JOINT, JointMeans, joint_means
from quantprobe.stats.two_level import Contrasts, Design

UNITS: Mapping[str, str] = {KLD: "nats", "net": "fraction", MARGIN: "nats", "gold_prob": "probability"}
LEVEL = 0.95
_ROUNDING = 1e-12


@dataclass(frozen=True, eq=False)
class Response:
    """One measure of every run on the same rows or items, larger being better."""

    values: FloatArray
    """`[n_runs, n]`, finite; the KLD with its sign reversed."""
    design: ItemDesign

    def means(self) -> FloatArray:
        """`[n_runs]`."""
        return np.asarray(self.values.mean(axis=1))

    def joint(self, weights: FloatArray, n_family: int | None = None) -> JointMeans:
        """Contrasts of the runs, `[n, n_runs]`, with simultaneous intervals."""
        values = weights @ self.values
        values[np.abs(values) < _ROUNDING] = 0.0
        return joint_means(values, self.design, LEVEL, n_family=n_family)


def total_of(response: Response, design: Design, unit: str) -> Estimate:
    """What restoring everything gives back, with an interval of its own."""
    return cluster_mean(design.total() @ response.values, response.design).estimate(unit, LEVEL)


def group_effects(
    design: Design, responses: Mapping[str, Response], groups: Sequence[Group]
) -> tuple[GroupEffects, ...]:
    """The effect of every group in every way and measure."""
    found: list[GroupEffects] = []
    for way, weights in design.effects.items():
        joint = {name: response.joint(weights) for name, response in responses.items()}
        totals = {name: float(design.total() @ response.means()) for name, response in responses.items()}
        for i, group in enumerate(groups):
            measures = {
                name: _effect(means.estimate(i, UNITS[name]), means.p[i], totals[name], group)
                for name, means in joint.items()
            }
            found.append(GroupEffects(group=group.name, way=way, measures=measures))
    return tuple(found)


def _effect(estimate: Estimate, p: float, total: float, group: Group) -> Effect:
    value = estimate.value
    return Effect(
        given_back=estimate,
        p=float(p) if np.isfinite(p) else None,
        share=None if value is None or abs(total) < _ROUNDING else value / total,
        per_mb=None if value is None or group.extra_bytes <= 0 else value / (group.extra_bytes / 1e6),
    )


def departures(contrasts: Contrasts, responses: Mapping[str, Response]) -> tuple[Departure, ...]:
    """Contrasts that are 0 where effects add up, each measure corrected by itself."""
    if not contrasts.names:
        return ()
    found = []
    for measure, response in responses.items():
        joint = response.joint(contrasts.weights)
        for i, name in enumerate(contrasts.names):
            p = float(joint.p[i]) if np.isfinite(joint.p[i]) else None
            found.append(Departure(name=name, measure=measure, value=joint.estimate(i, UNITS[measure]), p=p))
    return tuple(found)


def is_shown(estimate: Estimate) -> bool:
    """Whether the interval leaves out 0."""
    return estimate.low is not None and estimate.high is not None and (estimate.low > 0 or estimate.high < 0)


def name_pairs(found: Sequence[Departure], groups: Sequence[Group]) -> tuple[Departure, ...]:
    """Interactions beyond noise, the largest first; pairs of numbers become pairs of names."""

    def named(pair: str) -> str:
        return " x ".join(groups[int(number)].name for number in pair.split("x"))

    shown = sorted((each for each in found if is_shown(each.value)), key=lambda each: -abs(each.value.value or 0.0))
    return tuple(
        Departure(name=", ".join(map(named, each.name.split(", "))), measure=each.measure, value=each.value, p=each.p)
        for each in shown
    )


def disagreements(
    design: Design, responses: Mapping[str, Response], groups: Sequence[Group]
) -> tuple[Disagreement, ...]:
    """Pairs of groups of which one gives back more distance and the other more margin, both beyond noise.

    Pairs are chosen by looking, so both differences are corrected over all pairs of groups. The pair whose weaker
    difference is the clearest comes first. Of more than `MAX_JOINT` pairs only the two groups that are first in one of
    the measures are compared, corrected for all by Sidak's inequality.
    """
    if KLD not in responses or MARGIN not in responses or len(groups) < 2:
        return ()
    found: list[tuple[float, Disagreement]] = []
    for way, weights in design.effects.items():
        pairs, n_pairs = _pairs_to_compare(responses, weights)
        if not pairs:
            continue
        rows = np.array([weights[a] - weights[b] for a, b in pairs])
        family = n_pairs if len(pairs) < n_pairs else None
        distance, answers = responses[KLD].joint(rows, family), responses[MARGIN].joint(-rows, family)
        for i, (a, b) in enumerate(pairs):
            both = (distance.estimate(i, "nats"), answers.estimate(i, "nats"))
            if all(is_shown(each) for each in both) and (both[0].value or 0) * (both[1].value or 0) > 0:
                more, less = (a, b) if (both[0].value or 0) > 0 else (b, a)
                kept = both if more == a else (_negative(both[0]), _negative(both[1]))
                one = Disagreement(
                    way=way,
                    more_distance=groups[more].name,
                    more_answers=groups[less].name,
                    distance=kept[0],
                    answers=kept[1],
                )
                found.append((min(_clearness(each) for each in kept), one))
    return tuple(one for _, one in sorted(found, key=lambda pair: -pair[0]))


def _pairs_to_compare(responses: Mapping[str, Response], weights: FloatArray) -> tuple[list[tuple[int, int]], int]:
    """The pairs, and how many there are to choose from."""
    every = list(combinations(range(len(weights)), 2))
    if len(every) <= MAX_JOINT:
        return every, len(every)
    first, second = (int(np.argmax(weights @ responses[name].means())) for name in (KLD, MARGIN))
    return ([] if first == second else [(first, second)]), len(every)


def _negative(estimate: Estimate) -> Estimate:
    value, low, high = (None if end is None else -end for end in (estimate.value, estimate.high, estimate.low))
    return replace(estimate, value=value, low=low, high=high)


def _clearness(estimate: Estimate) -> float:
    return abs(estimate.value or 0.0) / estimate.stderr if estimate.stderr else 0.0
