"""Effects of groups, paired on the same rows and items: contrasts of runs, with intervals that hold together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
    """Where the group that gives back the most distance is not the one that gives back the most margin.

    Both are chosen by looking, so the intervals of the two differences are corrected over all pairs of groups.
    """
    if KLD not in responses or MARGIN not in responses or len(groups) < 2:
        return ()
    found = []
    for way, weights in design.effects.items():
        first, second = (int(np.argmax(weights @ responses[name].means())) for name in (KLD, MARGIN))
        if first == second:
            continue
        distance = _difference(responses[KLD], weights, first, second)
        answers = _difference(responses[MARGIN], weights, second, first)
        found.append(
            Disagreement(
                way=way,
                most_distance=groups[first].name,
                most_answers=groups[second].name,
                distance=distance,
                answers=answers,
                shown=is_shown(distance) and is_shown(answers),
            )
        )
    return tuple(found)


def _difference(response: Response, weights: FloatArray, a: int, b: int) -> Estimate:
    """Effect a less effect b, corrected over all pairs."""
    pairs = list(combinations(range(len(weights)), 2))
    if len(pairs) > MAX_JOINT:
        return response.joint((weights[a] - weights[b])[None], len(pairs)).estimate(0, "nats")
    signs = np.array([-1 if pair == (b, a) else 1 for pair in pairs])
    rows = np.array([weights[i] - weights[j] for i, j in pairs]) * signs[:, None]
    return response.joint(rows).estimate(pairs.index((min(a, b), max(a, b))), "nats")
