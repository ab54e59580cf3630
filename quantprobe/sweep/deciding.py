"""`--decide`: a quant decodes the questions that can tell most, and stops when it is decided.

The base has answered every question in the capture. A quant decodes each with a probability that is larger near the
base's boundary (`stats.sampling`), look by look, until its verdict is settled (`stats.sequential`) or the budget is
spent. What was decoded is kept, so that a later run goes on from there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from quantprobe.arrays import BoolArray, FloatArray, Int64Array
from quantprobe.metrics.answers import Answers
from quantprobe.run.items import Sample
from quantprobe.run.results import Drawn
from quantprobe.stats.design import item_design, pool_designs
from quantprobe.stats.sampling import flip_chances, item_numbers, share_probabilities
from quantprobe.stats.sequential import Decision, StopRule, affordable_share, decide, next_share


@dataclass(frozen=True)
class Budget:
    """What one quant may spend on questions; None: as much as it takes."""

    items: int | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class DecidePlan:
    """How quants are decided: by which rule, within which budget."""

    rule: StopRule
    budget: Budget = field(default_factory=Budget)
    seed: int = 0


@dataclass(frozen=True, eq=False)
class DecidedTasks:
    """The verdict on all tasks together, what was decoded of each, and what the draw depended on."""

    decision: Decision
    samples: Mapping[str, Sample]
    drawn: Drawn


def decide_tasks(
    base: Mapping[str, Answers],
    groupings: Mapping[str, str],
    kld: float | None,
    plan: DecidePlan,
    decode: Callable[[str, Int64Array], tuple[Answers, Answers]],
) -> DecidedTasks:
    """Decode look by look until the quant is decided or the budget is spent.

    Parameters
    ----------
    base
        The base's answers to every question, by task.
    groupings
        By task, whether its groups are strata or clusters (`stats.design`).
    kld
        The quant's mean KLD on a text in nats; None where no text was measured.
    decode
        Given a task and the numbers of items, decodes those that are not there yet and gives the answers of base and
        quant to all items; an answer that is not decoded is not valid.
    """
    pool = _Pool(base, groupings, kld, plan.seed)
    decision: Decision | None = None
    n_done, started = 0, time.monotonic()
    while decision is None or not decision.stop:
        done = pool.shares[-1] if pool.shares else 0.0
        share = next_share(plan.rule.shares, done, _affordable(plan.budget, len(pool.numbers), n_done, started))
        if share is None and decision is not None:
            break
        pool.look(share or plan.rule.shares[0])  # the first look is always taken
        decision = pool.decide(decode, plan.rule)
        n_done = int(pool.drawn.sum())
    return DecidedTasks(decision, pool.samples(), pool.facts())


def judge_again(
    base: Mapping[str, Answers],
    groupings: Mapping[str, str],
    drawn: Drawn,
    rule: StopRule,
    decode: Callable[[str, Int64Array], tuple[Answers, Answers]],
) -> DecidedTasks:
    """The verdict on what was decoded before, under a rule whose error may be another: the table has other quants now.

    The intervals of all looks hold together at any error, however the quant was stopped (`stats.sequential`).
    """
    pool = _Pool({name: base[name] for name in drawn.tasks}, groupings, drawn.kld, drawn.seed)
    for share in drawn.shares:
        pool.look(share)
    return DecidedTasks(pool.decide(decode, rule), pool.samples(), drawn)


class _Pool:
    """The questions of all tasks end to end, and the looks at them so far."""

    def __init__(self, base: Mapping[str, Answers], groupings: Mapping[str, str], kld: float | None, seed: int) -> None:
        self.shares: list[float] = []
        self._base, self._kld, self._seed = base, kld, seed
        self._looks: list[FloatArray] = []
        self._chances = np.concatenate([flip_chances(one.margin, kld) for one in base.values()])
        ids = [[f"{name}/{item}" for item in one.ids] for name, one in base.items()]
        self.numbers = np.concatenate([item_numbers(each, seed) for each in ids])
        self._design = pool_designs([item_design(one.groups, groupings[name]) for name, one in base.items()])

    def look(self, share: float) -> None:
        """Draw more questions."""
        probability = share_probabilities(self._chances, share)
        self._looks.append(np.maximum(probability, self._looks[-1]) if self._looks else probability)
        self.shares.append(share)

    @property
    def drawn(self) -> BoolArray:
        return self.numbers < self._looks[-1]

    def decide(self, decode: Callable[[str, Int64Array], tuple[Answers, Answers]], rule: StopRule) -> Decision:
        values = _decode_drawn(list(self._base), self._base, self.drawn, decode)
        return decide(values, self.drawn, np.array(self._looks), self._design, rule)

    def samples(self) -> dict[str, Sample]:
        return _by_task(list(self._base), self._base, self.drawn, self._looks[-1])

    def facts(self) -> Drawn:
        return Drawn(tasks=tuple(self._base), shares=tuple(self.shares), kld=self._kld, seed=self._seed)


def _affordable(budget: Budget, n_items: int, n_done: int, started: float) -> float:
    shares = [1.0]
    if budget.items is not None:
        shares.append(affordable_share(n_items, n_done, budget.items - n_done))
    if budget.seconds is not None and n_done:
        spent = time.monotonic() - started
        shares.append(affordable_share(n_items, n_done, budget.seconds - spent, max(spent, 1e-6) / n_done))
    return min(shares)


def _decode_drawn(
    names: Sequence[str],
    base: Mapping[str, Answers],
    drawn: BoolArray,
    decode: Callable[[str, Int64Array], tuple[Answers, Answers]],
) -> FloatArray:
    """Signed flips of all tasks end to end, `[n_items]`; NaN where an item has no valid answer."""
    values, start = np.full(len(drawn), np.nan), 0
    for name in names:
        part = slice(start, start + base[name].n_items)
        before, after = decode(name, np.flatnonzero(drawn[part]))
        known = before.valid & after.valid
        values[part] = np.where(known, after.correct.astype(np.float64) - before.correct, np.nan)
        start = part.stop
    return values


def _by_task(
    names: Sequence[str], base: Mapping[str, Answers], drawn: BoolArray, probability: FloatArray
) -> dict[str, Sample]:
    found, start = {}, 0
    for name in names:
        part = slice(start, start + base[name].n_items)
        found[name] = Sample(drawn[part].copy(), probability[part].copy())
        start = part.stop
    return found
