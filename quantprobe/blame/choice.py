"""Which type each group gets: a small integer program over a model of what types cost.

The model: what a group costs is proportional to the square of its relative weight error, and costs of groups add up.
Both are approximations, and effects have noise. So a choice is a proposal; `verify` measures it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

from quantprobe.arrays import FloatArray
from quantprobe.errors import InputError
from quantprobe.run.blame import KLD, MARGIN, Blame

DISTANCE, ANSWERS, BOTH = "distance", "answers", "both"
OBJECTIVES = (DISTANCE, ANSWERS, BOTH)
MAX_RATIO = 3.5
"""No type whose weight error is this many times the measured one: the model reaches no further."""
_FLOOR = 0.02
"""A group costs at least this share of an equal part, however small its effect came out."""


@dataclass(frozen=True)
class Option:
    """One type for one group."""

    type_name: str
    n_bytes: int
    error: float
    """Relative weight error."""


@dataclass(frozen=True)
class Choice:
    """The options that were chosen, one per group, and what the model says of them."""

    options: tuple[Option, ...]
    distance: float
    """Nats of KLD that are left, by the model."""
    margin: float | None
    """Nats of margin that are lost, by the model; None without answers."""

    @property
    def n_bytes(self) -> int:
        return sum(option.n_bytes for option in self.options)


def group_costs(blame: Blame) -> dict[str, FloatArray]:
    """What each group costs at the quant's own type, `[n_groups]` in nats, by objective; none below a small floor.

    Distances are the effects themselves. Margins are shrunk towards what the group's distance would let expect, by
    as much as noise explains of their spread (empirical Bayes): where direction cannot be told, distance stands for it.
    """
    effects = blame.of_way(blame.ways[0])
    costs: dict[str, FloatArray] = {}
    kld = np.array([each.measures[KLD].given_back.value or 0.0 for each in effects])
    costs[DISTANCE] = _floored(kld, blame.total[KLD].value or float(kld.sum()))
    if MARGIN in blame.total:
        margin = np.array([each.measures[MARGIN].given_back.value or 0.0 for each in effects])
        stderr = np.array([each.measures[MARGIN].given_back.stderr or np.inf for each in effects])
        total = float(margin.sum())
        if total > 0:
            expected = total * costs[DISTANCE] / costs[DISTANCE].sum()
            known = np.isfinite(stderr)
            excess = ((margin - expected) ** 2 - stderr**2)[known]
            spread = max(0.0, float(excess.mean())) if known.any() else 0.0
            weight = np.where(known, spread / np.maximum(spread + stderr**2, 1e-300), 0.0)
            costs[ANSWERS] = _floored(expected + weight * (margin - expected), total)
    return costs


def _floored(costs: FloatArray, total: float) -> FloatArray:
    return np.asarray(np.maximum(costs, _FLOOR * max(total, 1e-12) / len(costs)))


def choose(
    blame: Blame, options: Sequence[Sequence[Option]], errors: Sequence[float], max_bytes: int, objective: str
) -> Choice:
    """The cheapest options, one per group, within `max_bytes` in all.

    `errors` are the weight errors at which the costs were measured. Raises `InputError` where the limit cannot be met,
    or answers are asked for and the blame has none, or no loss of them.
    """
    costs = group_costs(blame)
    if objective != DISTANCE and ANSWERS not in costs:
        raise InputError(
            "the blame shows no loss of margin, so there are no answers to win back; use --objective distance, or "
            "measure questions (quantprobe blame --task)"
        )
    allowed = [_within(each, error) for each, error in zip(options, errors, strict=True)]
    scales = {name: values / values.sum() for name, values in costs.items()}
    weights = scales[ANSWERS] + scales[DISTANCE] if objective == BOTH else scales[objective]
    picked = _solve(allowed, errors, weights, max_bytes)
    ratios = np.array([_ratio(option, error) for option, error in zip(picked, errors, strict=True)])
    margin = float((costs[ANSWERS] * ratios).sum()) if ANSWERS in costs else None
    return Choice(tuple(picked), float((costs[DISTANCE] * ratios).sum()), margin)


def _within(options: Sequence[Option], error: float) -> list[Option]:
    """Options near enough to what was measured; the best at least."""
    near = [option for option in options if option.error <= MAX_RATIO * error]
    return near or [min(options, key=lambda option: option.error)]


def _ratio(option: Option, error: float) -> float:
    return (option.error / error) ** 2 if error > 0 else 0.0


def _solve(
    options: Sequence[Sequence[Option]], errors: Sequence[float], weights: FloatArray, max_bytes: int
) -> list[Option]:
    flat = [(group, option) for group, each in enumerate(options) for option in each]
    smallest = sum(min(option.n_bytes for option in each) for each in options)
    if smallest > max_bytes:
        raise InputError(
            f"the smallest mix within {MAX_RATIO:g} times the measured weight errors takes {smallest / 1e6:.1f} MB, "
            f"and {max_bytes / 1e6:.1f} MB are left for it; give a larger --size, or blame a smaller quant"
        )
    cost = np.array([weights[group] * _ratio(option, errors[group]) for group, option in flat])
    one = np.zeros((len(options), len(flat)))
    for place, (group, _) in enumerate(flat):
        one[group, place] = 1
    size = np.array([option.n_bytes for _, option in flat], np.float64)[None]
    scale = max_bytes or 1
    found = milp(
        cost + 1e-9 * size[0] / scale,  # of equals the smaller
        constraints=[LinearConstraint(one, 1, 1), LinearConstraint(size / scale, -np.inf, 1)],
        integrality=np.ones(len(flat), np.int64),
        bounds=Bounds(0, 1),
    )
    if found.x is None:
        raise InputError(f"no mix of types was found under the limit ({found.message}); give a larger --size")
    return [option for taken, (_, option) in zip(found.x, flat, strict=True) if taken > 0.5]
