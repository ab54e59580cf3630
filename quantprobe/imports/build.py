"""Measurements made elsewhere, as a run like any other: the same records, summaries and files as a sweep's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from quantprobe.errors import InputError
from quantprobe.gguf.model import ModelIdentity
from quantprobe.imports.matching import Match, check_base, match_quants
from quantprobe.metrics.answers import Answers
from quantprobe.probes.grouping import UNGROUPED
from quantprobe.run.cohort import Cohort
from quantprobe.run.folder import RunFolder
from quantprobe.run.items import PairedAnswers, write_items
from quantprobe.run.judging import AnsweredTask, judge_quants
from quantprobe.run.results import Quant, QuantFiles, Results, TaskFacts, write_results
from quantprobe.settings import EQUIVALENCE_MARGIN, margin_of
from quantprobe.stats.estimates import fraction_estimate
from quantprobe.stats.summary import TextSummary
from quantprobe.stats.summary_tasks import TaskSummary


@dataclass(frozen=True)
class ImportedText:
    """What was printed about quants on one text."""

    name: str
    source: str
    """What measured it."""
    summaries: Mapping[str, TextSummary]
    """By name of the quant."""


@dataclass(frozen=True)
class ImportedAnswers:
    """One quant's answers to one task, and the base's to the same items; None where nobody gave those."""

    quant: Answers
    base: Answers | None
    norm: tuple[Answers, Answers] | None = None
    """Base and quant under acc_norm."""


@dataclass(frozen=True)
class ImportedTask:
    """Answers to one task."""

    name: str
    source: str
    rule: str
    """What decided correctness."""
    answers: Mapping[str, ImportedAnswers]
    """By name of the quant."""
    grouping: str = UNGROUPED


@dataclass(frozen=True)
class Import:
    """What was read: the models as far as they are known, and what was measured on them."""

    base: ModelIdentity
    quants: tuple[ModelIdentity, ...]
    texts: tuple[ImportedText, ...] = ()
    tasks: tuple[ImportedTask, ...] = ()


@dataclass(frozen=True)
class ImportedRun:
    """A run that is not yet written."""

    results: Results
    items: Mapping[tuple[str, str], PairedAnswers]
    """By quant and task."""
    notes: tuple[str, ...]
    """What was matched to what in the cohort that it joins, and what was not."""


def build_run(found: Import, like: Cohort | None = None, margin: float | None = None) -> ImportedRun:
    """Make a run that `study`, `report`, `flips` and `diff` read like any other.

    Parameters
    ----------
    like
        A cohort of the same base, measured under the same settings, for which the importer vouches: base, settings and
        the files of the quants that are matched (`match_quants`) are taken from it, so that both are one cohort.
    margin
        The change of accuracy, a fraction, that is called equivalent; None: that of `like`, else 0.01.

    Raises
    ------
    InputError
        No quant, a name that occurs twice, or two that mean the same quant of `like`.
    MismatchError
        The base's answers are those of one of the quants of `like`.
    """
    names = [quant.name for quant in found.quants]
    if not names or len(set(names)) != len(names):
        raise InputError("each quant needs a name of its own" if names else "nothing to import")
    settings: dict[str, Any] = dict(like.settings) if like else {}
    margin = margin or margin_of(settings) or EQUIVALENCE_MARGIN
    quants: list[Quant] = [Quant(**vars(quant)) for quant in found.quants]
    notes: list[str] = []
    if like is not None:
        check_base(found.base.name, like)
        matches = match_quants(names, like)
        quants = [_known(quant, match) for quant, match in zip(quants, matches, strict=True)]
        notes = [*map(str, matches), *_left_over(found, like, matches)]
    judged = judge_quants(quants, _answered(found), margin)
    results = Results(
        base=found.base if like is None else like.base,
        settings=settings | _described(found, settings) | {"equivalence_margin": margin},
        tasks={task.name: _facts(task) for task in found.tasks},
        quants=tuple(
            replace(
                quant,
                texts={text.name: text.summaries[name] for text in found.texts if name in text.summaries},
                tasks={**_accuracies(found, name), **quant.tasks},
            )
            for name, quant in zip(names, judged, strict=True)
        ),
    )
    final = dict(zip(names, (quant.name for quant in quants), strict=True))
    items = {
        (final[name], task.name): PairedAnswers(answers.base, answers.quant)
        for task in found.tasks
        for name, answers in task.answers.items()
        if answers.base is not None
    }
    return ImportedRun(results, items, tuple(notes))


def write_imported(run: ImportedRun, folder: RunFolder) -> None:
    """Write results.json and the items.

    Raises `InputError` where the folder holds a results.json already: a run is never replaced by an import.
    """
    if folder.results.exists():
        raise InputError(f"{folder.path} already holds a run (results.json); write the import to another folder")
    for (quant, task), pair in run.items.items():
        write_items(folder.items(quant, task), pair.base, pair.quant)
    write_results(run.results, folder)


def _known(quant: Quant, match: Match) -> Quant:
    """The quant as the cohort knows it, nothing measured yet."""
    if match.quant is None:
        return quant
    return replace(match.quant, texts={}, tasks={}, pooled=None, files=QuantFiles())


def _left_over(found: Import, like: Cohort, matches: Sequence[Match]) -> list[str]:
    """The base, what of the cohort the import lacks, and probes that both have."""
    matched = {match.quant.name for match in matches if match.quant is not None}
    without = [quant.name for quant in like.quants if quant.name not in matched]
    notes = [f"base: {found.base.name or 'unnamed'} is taken to be {like.base.name}, as --like vouches"]
    if without:
        notes.append(f"not in the import: {', '.join(without)}")
    notes += [
        f"the run measured {name} too: to study both, give the import another name, or --allow {kind}.{name}"
        for kind, ours, theirs in (("texts", found.texts, like.texts), ("tasks", found.tasks, like.tasks))
        for name in (each.name for each in ours)
        if name in theirs
    ]
    return notes


def _described(found: Import, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings `texts` and `tasks`, in which each probe says who measured it."""
    described: dict[str, Any] = {}
    for kind, probes in (("texts", found.texts), ("tasks", found.tasks)):
        known = settings.get(kind)
        measured = {probe.name: {"measured_by": probe.source} for probe in probes}
        described[kind] = {**(known if isinstance(known, Mapping) else {}), **measured}
    return described


def _facts(task: ImportedTask) -> TaskFacts:
    n_items = max((answers.quant.n_items for answers in task.answers.values()), default=0)
    return TaskFacts(rule=task.rule, template=_template(task), n_items=n_items, grouping=task.grouping)


def _template(task: ImportedTask) -> str:
    return f"imported from {task.source}"


def _answered(found: Import) -> dict[str, AnsweredTask]:
    """The tasks whose base answers are known, with one entry a quant."""
    tasks = {}
    for task in found.tasks:
        answers = [task.answers.get(quant.name) for quant in found.quants]
        pairs = [None if a is None or a.base is None else PairedAnswers(a.base, a.quant) for a in answers]
        if any(pair is not None for pair in pairs):
            norms = [None if answer is None else answer.norm for answer in answers]
            tasks[task.name] = AnsweredTask(task.rule, pairs, norms, _template(task), grouping=task.grouping)
    return tasks


def _accuracies(found: Import, name: str) -> dict[str, TaskSummary]:
    """By task, the accuracy of a quant for which the base's answers are not known."""
    known = {task.name: (task, task.answers.get(name)) for task in found.tasks}
    return {
        task: _accuracy_alone(its, answers.quant)
        for task, (its, answers) in known.items()
        if answers is not None and answers.base is None
    }


def _accuracy_alone(task: ImportedTask, answers: Answers) -> TaskSummary:
    correct = answers.correct[answers.valid]
    return TaskSummary(
        rule=task.rule,
        template=_template(task),
        acc=fraction_estimate(correct, np.arange(len(correct))),
        n_items=len(correct),
        n_invalid=answers.n_items - len(correct),
    )
