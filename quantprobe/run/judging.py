"""From answers to the tasks of a run's quants: summaries, all tasks pooled, and verdicts that hold together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from quantprobe.metrics.answers import Answers, pool_answers
from quantprobe.probes.grouping import UNGROUPED
from quantprobe.run.items import PairedAnswers, Sample
from quantprobe.run.results import Quant
from quantprobe.stats.design import ItemDesign, item_design, pool_designs
from quantprobe.stats.sequential import Decision
from quantprobe.stats.summary_sampled import summarise_sampled, with_decision
from quantprobe.stats.summary_tasks import TaskSummary, summarise_task
from quantprobe.stats.verdicts import Judged, correct_over_quants, judge, table_of_changes

POOLED_RULE = "each task's own"


@dataclass(frozen=True, eq=False)
class AnsweredTask:
    """The answers of all quants to one task: one entry a quant, over the same items; None for one not measured."""

    rule: str
    pairs: Sequence[PairedAnswers | None]
    norms: Sequence[tuple[Answers, Answers] | None]
    """Base and quant under the rule of acc_norm, where it was scored."""
    template: str = ""
    n_left_out: int = 0
    grouping: str = UNGROUPED
    """What the groups of its items are (`stats.design`)."""


def judge_quants(
    quants: Sequence[Quant], tasks: Mapping[str, AnsweredTask], margin: float, level: float = 0.95
) -> tuple[Quant, ...]:
    """The quants with the summaries of their tasks, the pool of all tasks, and the verdicts of the whole table.

    All intervals of the net change hold together at `level`, over all quants, all tasks and the pool. `margin` is the
    equivalence margin, a fraction fixed beforehand.
    """
    summaries = {name: _summaries(task, margin, level) for name, task in tasks.items()}
    tables = {
        name: table_of_changes(
            [None if pair is None else (pair.base, pair.quant) for pair in task.pairs],
            item_design(_first(task).base.groups, task.grouping),
        )
        for name, task in tasks.items()
    }
    judgement = judge(tables, margin, level)
    judged = {name: _with_verdicts(summaries[name], judgement.tasks[name]) for name in tasks}
    pooled: list[TaskSummary | None] = [None] * len(quants)
    if judgement.pooled is not None:
        pooled = _with_verdicts([_pool(tasks, q, margin, level) for q in range(len(quants))], judgement.pooled)
    return tuple(
        replace(
            quant,
            tasks={name: summary for name in tasks if (summary := judged[name][q]) is not None},
            pooled=pooled[q],
        )
        for q, quant in enumerate(quants)
    )


def _first(task: AnsweredTask) -> PairedAnswers:
    return next(pair for pair in task.pairs if pair is not None)


def _summaries(task: AnsweredTask, margin: float, level: float) -> list[TaskSummary | None]:
    return [
        None
        if pair is None
        else summarise_task(
            pair.base,
            pair.quant,
            margin,
            level,
            rule=task.rule,
            template=task.template,
            n_left_out=task.n_left_out,
            norm=norm,
            grouping=task.grouping,
        )
        for pair, norm in zip(task.pairs, task.norms, strict=True)
    ]


def _pool(tasks: Mapping[str, AnsweredTask], q: int, margin: float, level: float) -> TaskSummary | None:
    """All questions of all tasks as one; None for a quant that lacks one of the tasks."""
    pairs = {name: task.pairs[q] for name, task in tasks.items()}
    known = {name: pair for name, pair in pairs.items() if pair is not None}
    if len(known) < len(tasks):
        return None
    base = pool_answers({name: pair.base for name, pair in known.items()})
    quant = pool_answers({name: pair.quant for name, pair in known.items()})
    design = pool_designs([item_design(pair.base.groups, tasks[name].grouping) for name, pair in known.items()])
    groupings = {task.grouping for task in tasks.values()}
    grouping = groupings.pop() if len(groupings) == 1 else "mixed"
    summary = summarise_task(base, quant, margin, level, rule=POOLED_RULE, design=design)
    return replace(summary, by_group={}, grouping=grouping)  # the tasks have their groups already


def _with_verdicts(
    summaries: Sequence[TaskSummary | None], judged: Sequence[Judged | None]
) -> list[TaskSummary | None]:
    known = [i for i, summary in enumerate(summaries) if summary is not None]
    corrected = correct_over_quants(
        [summary for summary in summaries if summary is not None], [judged[i] for i in known]
    )
    result: list[TaskSummary | None] = [None] * len(summaries)
    for i, summary in zip(known, corrected, strict=True):
        result[i] = summary
    return result


def judge_decided(
    quants: Sequence[Quant],
    tasks: Mapping[str, AnsweredTask],
    decisions: Sequence[Decision],
    margin: float,
    level: float = 0.95,
) -> tuple[Quant, ...]:
    """The quants of a run in which each decoded a sample until it was decided (`stats.sequential`).

    The verdict is on all tasks together; single tasks have estimates and no verdict of their own.
    """
    return tuple(
        _decided_quant(
            quant, {name: task for name, task in tasks.items() if task.pairs[q] is not None}, q, one, margin, level
        )
        for q, (quant, one) in enumerate(zip(quants, decisions, strict=True))
    )


def _decided_quant(
    quant: Quant, tasks: Mapping[str, AnsweredTask], q: int, decision: Decision, margin: float, level: float
) -> Quant:
    pairs = {name: pair for name, task in tasks.items() if (pair := task.pairs[q]) is not None}
    designs = {name: item_design(pair.base.groups, tasks[name].grouping) for name, pair in pairs.items()}
    summaries = {
        name: _summarise_sampled(tasks[name], pair, designs[name], margin, level) for name, pair in pairs.items()
    }
    if len(summaries) == 1:
        [(name, summary)] = summaries.items()
        return replace(quant, tasks={name: with_decision(summary, decision, margin, level)})
    whole = PairedAnswers(
        pool_answers({name: pair.base for name, pair in pairs.items()}),
        pool_answers({name: pair.quant for name, pair in pairs.items()}),
        pool_samples(list(pairs.values())),
    )
    pooled = _summarise_sampled(
        AnsweredTask(POOLED_RULE, (), ()), whole, pool_designs(list(designs.values())), margin, level
    )
    return replace(quant, tasks=summaries, pooled=with_decision(pooled, decision, margin, level))


def _summarise_sampled(
    task: AnsweredTask, pair: PairedAnswers, design: ItemDesign, margin: float, level: float
) -> TaskSummary:
    sample = pair.sample or everything(pair)
    summary = summarise_sampled(
        pair.base,
        pair.quant,
        sample.decoded,
        sample.probability,
        design,
        margin,
        level,
        rule=task.rule,
        template=task.template,
        n_left_out=task.n_left_out,
    )
    return replace(summary, grouping=task.grouping)


def everything(pair: PairedAnswers) -> Sample:
    """The sample of a quant that decoded all items."""
    return Sample(np.ones(pair.base.n_items, np.bool_), np.ones(pair.base.n_items))


def pool_samples(pairs: Sequence[PairedAnswers]) -> Sample:
    """The samples of several tasks end to end."""
    samples = [pair.sample or everything(pair) for pair in pairs]
    return Sample(
        np.concatenate([sample.decoded for sample in samples]),
        np.concatenate([sample.probability for sample in samples]),
    )
