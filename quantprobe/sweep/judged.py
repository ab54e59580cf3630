"""Judges all quants of a run together, however many calls measured them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from quantprobe.arrays import Int64Array
from quantprobe.metrics.answers import Answers
from quantprobe.run.items import PairedAnswers, Sample
from quantprobe.run.judging import AnsweredTask, judge_decided, judge_quants
from quantprobe.run.results import Drawn, Quant, TaskFacts
from quantprobe.stats.sequential import StopRule
from quantprobe.sweep.deciding import DecidedTasks, judge_again
from quantprobe.sweep.quants import UnjudgedQuant

LEVEL = 0.95
"""At which all intervals of the net change hold together."""


def stop_rule(n_quants: int, margin: float) -> StopRule:
    """The rule by which each of `n_quants` is decided."""
    return StopRule(alpha=(1 - LEVEL) / n_quants, margin=margin)


def judge_all(
    quants: Sequence[UnjudgedQuant],
    facts: Mapping[str, TaskFacts],
    margin: float,
) -> tuple[Quant, ...]:
    """The quants with the summaries and verdicts of their tasks, in their order.

    Quants that answered every question are one family of intervals; each one that was decided on a sample (`--decide`)
    has its share of the error among all quants.
    """
    whole = [one for one in quants if one.quant.drawn is None]
    judged = {one.name: one for one in judge_quants(_bare(whole), _tasks(whole, {}, facts), margin, LEVEL)}
    sampled = [one for one in quants if one.quant.drawn is not None]
    rule = stop_rule(max(1, len(quants)), margin)
    found = {one.quant.name: _decision(one, one.quant.drawn, facts, rule) for one in sampled if one.quant.drawn}
    samples = {name: decided.samples for name, decided in found.items()}
    decisions = [decided.decision for decided in found.values()]
    tasks = _tasks(sampled, samples, facts)
    judged |= {one.name: one for one in judge_decided(_bare(sampled), tasks, decisions, margin, LEVEL)}
    return tuple(judged[one.quant.name] for one in quants)


def _bare(quants: Sequence[UnjudgedQuant]) -> list[Quant]:
    return [one.quant for one in quants]


def _decision(
    one: UnjudgedQuant,
    drawn: Drawn,
    facts: Mapping[str, TaskFacts],
    rule: StopRule,
) -> DecidedTasks:
    """The verdict on a quant that was decided, with its share of the error in this table."""
    base = {name: answered.answers[0] for name, answered in one.answered.items()}

    def decoded(name: str, _: Int64Array) -> tuple[Answers, Answers]:
        return one.answered[name].answers

    return judge_again(base, {name: facts[name].grouping for name in base}, drawn, rule, decoded)


def _tasks(
    quants: Sequence[UnjudgedQuant],
    samples: Mapping[str, Mapping[str, Sample]],
    facts: Mapping[str, TaskFacts],
) -> dict[str, AnsweredTask]:
    """The answers of all quants, by task; tasks that none of them answered are left out."""
    found = {}
    for name in (name for name in facts if any(name in one.answered for one in quants)):
        given = [one.answered.get(name) for one in quants]
        pairs = [
            None if answered is None else PairedAnswers(*answered.answers, samples.get(one.quant.name, {}).get(name))
            for one, answered in zip(quants, given, strict=True)
        ]
        norms = [None if answered is None else answered.norm for answered in given]
        found[name] = AnsweredTask(
            facts[name].rule, pairs, norms, facts[name].template, facts[name].n_left_out, facts[name].grouping
        )
    return found
