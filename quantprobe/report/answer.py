"""What a cohort answers: which quant to take, which smaller one may do, which not, and what is not known.

The page and the card take verdicts and findings from here alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from quantprobe.report.marks import pareto_members
from quantprobe.report.names import cohort_names, join_words
from quantprobe.report.numbers import format_net, format_plain, format_points
from quantprobe.report.printable import printable
from quantprobe.run.cohort import Cohort
from quantprobe.run.floor import task_control, text_control
from quantprobe.run.results import Quant
from quantprobe.stats.estimates import Estimate

if TYPE_CHECKING:
    from quantprobe.study.findings import Findings

WORSE = "worse"
MAX_LABEL = 36
"""Letters of a name in pictures and on the card; tables and details have all of it."""


@dataclass(frozen=True)
class Standing:
    """Where one quant stands."""

    name: str
    label: str
    """The name without what all quants share."""
    size_bytes: int | None
    change: Estimate | None = None
    """Net change of accuracy, a fraction, over all questions (or `on` one task)."""
    volume: Estimate | None = None
    verdict: str | None = None
    on: str = ""
    """The task that `change` is of, where tasks were not pooled: the one with the lowest low end."""
    more: int | None = None
    """About how many further questions would settle it; None where nobody knows."""
    mde: float | None = None
    """Smallest change that the questions find, a fraction."""
    kld: Estimate | None = None
    """Mean KLD (nats) on the first text."""
    margin: float | None = None
    """The equivalence margin, a fraction."""
    beaten_by: str = ""
    """Label of a quant that is no larger and clearly nearer; empty for none."""

    @property
    def change_words(self) -> str:
        """The change in points with its interval, with as many decimals as its verdict needs."""
        return format_net(self.change, self.margin)

    @property
    def low(self) -> float:
        """Low end of the change; -inf where there is none."""
        return -math.inf if self.change is None or self.change.low is None else self.change.low


@dataclass(frozen=True)
class Answer:
    """The answer of a cohort, by accuracy, or by distance alone where no task was measured."""

    by_accuracy: bool
    take: Standing | None
    """The smallest quant shown to lose no more than the margin."""
    may_do: tuple[Standing, ...]
    """Smaller quants that are undecided, the soonest settled first. By distance: the Pareto line, largest first."""
    not_these: tuple[Standing, ...]
    """Quants shown to be worse, the largest first. By distance: those that a smaller and nearer one beats."""
    undecided: bool
    """No quant is shown to be good enough, and not all are shown to be worse."""
    why: str
    unknown: tuple[str, ...]


@dataclass(frozen=True)
class Fold:
    """A finding: what it says in one line, and what stands behind it."""

    headline: str
    details: tuple[str, ...]


def answer_of(cohort: Cohort, findings: Findings | None) -> Answer:
    """The answer of a cohort; without `findings`, from the runs' own verdicts. Cache variants are no part of it."""
    cohort = cohort.own_lines()
    stood = standings(cohort, findings)
    if not cohort.tasks:
        return _answer_by_distance(cohort, stood)
    margin = margin_of(cohort, findings)
    sized = sorted((s for s in stood if s.size_bytes is not None), key=lambda s: (s.size_bytes or 0, -s.low))
    take = _recommended(sized, margin)
    worse = [s for s in stood if s.verdict == WORSE and s is not take]
    open_ones = [s for s in stood if s.verdict != WORSE and s.change is not None and s.low <= -margin]
    may_do = open_ones
    if take is not None and take.size_bytes is not None:
        may_do = [s for s in open_ones if s.size_bytes is not None and s.size_bytes < (take.size_bytes or 0)]
    return Answer(
        by_accuracy=True,
        take=take,
        may_do=tuple(sorted(may_do, key=lambda s: (_value(s) <= -margin, s.more or math.inf, s.size_bytes or 0))),
        not_these=tuple(sorted(worse, key=lambda s: -(s.size_bytes or 0))),
        undecided=take is None and bool(open_ones),
        why=_why(cohort, take, open_ones, margin),
        unknown=tuple(_unknown(cohort, take, open_ones, stood)),
    )


def standings(cohort: Cohort, findings: Findings | None) -> tuple[Standing, ...]:
    """Where each quant stands over all questions, in the order of the cohort."""
    labels = quant_labels(cohort)
    margin = margin_of(cohort, findings)
    return tuple(
        replace(_standing(cohort, quant, label, findings), margin=margin)
        for quant, label in zip(cohort.quants, labels, strict=True)
    )


def quant_labels(cohort: Cohort) -> list[str]:
    """Names without the beginning that all quants and the base share, safe to show on one line."""
    names = cohort_names(cohort)
    labels = [" ".join(printable(names(quant.name)).split()) or "unnamed" for quant in cohort.quants]
    return [label if len(label) <= MAX_LABEL else f"{label[: MAX_LABEL - 1]}…" for label in labels]


def margin_of(cohort: Cohort, findings: Findings | None) -> float:
    """The equivalence margin, a fraction: the study's, else the runs'; one point where nobody fixed any."""
    if findings is not None:
        return findings.margin
    known = [task.margin for quant in cohort.quants for task in quant.tasks.values() if task.margin is not None]
    return known[0] if known else 0.01


def n_questions(cohort: Cohort) -> int:
    """Questions of all tasks; of each, what the quant with the most answered."""
    return sum(max((q.tasks[t].n_items or 0 for q in cohort.quants if t in q.tasks), default=0) for t in cohort.tasks)


def finding_folds(findings: Findings | None) -> tuple[Fold, ...]:
    """The study's findings, most important first: a headline each, and what is folded under it."""
    return tuple(
        Fold(printable(sentence.headline), tuple(printable(detail) for detail in sentence.details))
        for sentence in (findings.sentences if findings is not None else ())
        if sentence.kind != "recommendation"  # the card has it
    )


def _standing(cohort: Cohort, quant: Quant, label: str, findings: Findings | None) -> Standing:
    kld = next((quant.texts[text].kld_mean for text in cohort.texts if text in quant.texts), None)
    where = Standing(quant.name, label, quant.size_bytes, kld=kld)
    for ranked in findings.ranking.quants if findings is not None else ():
        if ranked.name == quant.name:
            found = _with(where, ranked.net, ranked.volume, ranked.verdict, quant)
            return replace(found, more=_items_more(findings, quant.name))
    if quant.pooled is not None and quant.pooled.net is not None:
        return _with(where, quant.pooled.net, quant.pooled.volume, quant.pooled.verdict, quant)
    if not cohort.tasks or any(task not in quant.tasks for task in cohort.tasks):
        return where
    return _by_task(where, quant, cohort.tasks)


def _items_more(findings: Findings | None, name: str) -> int | None:
    """Questions that would show the quant to be good enough; None for one that is decided or rather lost."""
    undecided = findings.ranking.undecided if findings is not None else ()
    return next((one.n_more for one in undecided if one.name == name), None)


def _with(where: Standing, net: Estimate, volume: Estimate | None, verdict: str | None, quant: Quant) -> Standing:
    summary = quant.pooled or (next(iter(quant.tasks.values())) if len(quant.tasks) == 1 else None)
    more = None
    if summary is not None and summary.n_to_settle is not None and summary.n_items is not None:
        more = max(summary.n_to_settle - summary.n_items, 0) or None
    mde = None if summary is None else summary.mde
    return replace(where, change=net, volume=volume, verdict=verdict, more=more, mde=mde)


def _by_task(where: Standing, quant: Quant, tasks: Sequence[str]) -> Standing:
    """By the task that speaks most against it; worse where any task says so."""
    known = {task: net for task in tasks if (net := quant.tasks[task].net) is not None}
    if len(known) < len(tasks):
        return where
    lowest = min(known, key=lambda task: -math.inf if (low := known[task].low) is None else low)
    verdict = WORSE if WORSE in [quant.tasks[task].verdict for task in tasks] else quant.tasks[lowest].verdict
    found = _with(where, known[lowest], quant.tasks[lowest].volume, verdict, quant)
    return found if len(tasks) == 1 else replace(found, on=lowest)


def _recommended(sized: Sequence[Standing], margin: float) -> Standing | None:
    """The smallest whose shown interval ends above -margin: what the reader sees is what decides."""
    return next((standing for standing in sized if standing.low > -margin), None)


def _value(standing: Standing) -> float:
    return -math.inf if standing.change is None or standing.change.value is None else standing.change.value


def _asked(cohort: Cohort) -> str:
    n = len(cohort.tasks)
    return f"{n_questions(cohort):,} questions" + (f" of {n} tasks" if n > 1 else "")


def _why(cohort: Cohort, take: Standing | None, open_ones: Sequence[Standing], margin: float) -> str:
    if take is not None:
        return (
            f"The smallest of {len(cohort.quants)} quants that is shown to lose no more than {format_points(margin)} "
            f"of accuracy, over {_asked(cohort)}."
        )
    if open_ones:
        return (
            f"{_asked(cohort)} are too few: none of {len(cohort.quants)} quants is shown to lose no more than "
            f"{format_points(margin)} of accuracy."
        )
    return f"No quant is shown to stay within {format_points(margin)} of the base over {_asked(cohort)}."


def _unknown(
    cohort: Cohort, take: Standing | None, open_ones: Sequence[Standing], stood: Sequence[Standing]
) -> list[str]:
    found = []
    if take is not None:
        quant = cohort.quant(take.name)
        bad = [printable(task) for task in cohort.tasks if task in quant.tasks and quant.tasks[task].verdict == WORSE]
        if bad:
            found.append(f"On {join_words(bad)} alone {take.label} is worse than the base.")
    if open_ones:
        reach = [s.mde for s in open_ones if s.mde is not None]
        tail = f"; these questions find a loss of {format_plain(min(reach), 100, 2)} points or more" if reach else ""
        found.append(f"{len(open_ones)} of {len(cohort.quants)} quants are undecided{tail}.")
    lacking = sum(s.change is None for s in stood)
    if lacking:
        found.append(f"{lacking} of {len(stood)} quants did not answer every task and have no verdict over all.")
    if any(s.on for s in stood):
        found.append("The tasks were not pooled: each quant is judged by the task that speaks most against it.")
    return [*found, *_no_control(cohort)]


def _no_control(cohort: Cohort) -> list[str]:
    """The doubt that is left where no text and no task was compared with the base's own capture."""
    null = cohort.null_control
    controls = [text_control(null, text) for text in cohort.texts] + [task_control(null, t) for t in cohort.tasks]
    if any(control.state.shows_floor for control in controls):
        return []
    return ["No null control stands behind these numbers, so small differences may be the instrument's own."]


def _answer_by_distance(cohort: Cohort, stood: Sequence[Standing]) -> Answer:
    known = [s for s in stood if s.kld is not None and s.kld.value is not None]
    sizes = np.array([math.nan if s.size_bytes is None else s.size_bytes for s in known], np.float64)
    means = np.array([s.kld.value for s in known if s.kld is not None], np.float64)
    line = [s for s, member in zip(known, pareto_members(sizes, means), strict=True) if member]
    beaten = [(s, rival) for s in known if (rival := _beaten_by(s, known)) is not None]
    texts = join_words([printable(text) for text in cohort.texts])
    return Answer(
        by_accuracy=False,
        take=None,
        may_do=tuple(sorted(line, key=lambda s: -(s.size_bytes or 0))),
        not_these=tuple(
            replace(s, beaten_by=rival.label)
            for s, rival in sorted(beaten, key=lambda pair: -(pair[0].size_bytes or 0))
        ),
        undecided=True,
        why=f"No task was measured. This page says how far each quant moved on {texts or 'no text'}, not whether its "
        "answers became worse.",
        unknown=("Which way answers moved: sweep with --task to learn it.", *_no_control(cohort)),
    )


def _beaten_by(standing: Standing, others: Sequence[Standing]) -> Standing | None:
    """The nearest quant that is no larger and whose whole interval is nearer; None for none or without intervals."""
    if standing.size_bytes is None or standing.kld is None or standing.kld.low is None:
        return None
    rivals = [
        s
        for s in others
        if s.size_bytes is not None and s.size_bytes <= standing.size_bytes
        and s.kld is not None and s.kld.high is not None and s.kld.high < standing.kld.low
    ]  # fmt: skip
    return min(rivals, key=lambda s: s.kld.value or 0.0 if s.kld is not None else math.inf, default=None)
