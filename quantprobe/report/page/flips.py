"""The questions whose correctness changed in most quants, for the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from quantprobe.metrics.direction import DROP, LEAPFROG
from quantprobe.probes.items import Question
from quantprobe.run.cohort import Cohort
from quantprobe.run.items import PairedAnswers
from quantprobe.run.questions import read_task_questions

N_FLIPS = 5
"""Of each direction and task."""


@dataclass(frozen=True)
class SharedFlip:
    """One question whose correctness changed in several quants."""

    id: str
    group: str
    direction: str
    """`drop` or `leapfrog`."""
    n_flipped: int
    n_quants: int
    base_margin: float | None
    """log P(right) - log P(best wrong) in nats; `quant_margin` is the median over the quants that flipped."""
    quant_margin: float | None
    question: Question | None
    gold: int
    other: int
    """The wrong choice: the quants' most frequent one for a drop, the base's for a leapfrog; -1 if unknown."""


def shared_flips(cohort: Cohort, task: str) -> tuple[SharedFlip, ...]:
    """The five drops and five leapfrogs that most quants share; ties go to the larger sum of margin shifts.

    Items that are invalid in base or quant count as unchanged. Empty where no run kept its answers.
    """
    answers = [cohort.items(q.name, task) for q in cohort.quants if task in q.tasks and cohort.has_items(q.name, task)]
    seen: dict[tuple[str, str], list[tuple[PairedAnswers, int]]] = {}
    for pair in answers:
        valid = pair.base.valid & pair.quant.valid
        for direction, before, after in ((DROP, pair.base, pair.quant), (LEAPFROG, pair.quant, pair.base)):
            for index in np.flatnonzero(valid & before.correct & ~after.correct).tolist():
                seen.setdefault((direction, pair.base.ids[index]), []).append((pair, index))
    ranked = sorted(seen.items(), key=lambda entry: _weight(entry[1]), reverse=True)
    questions = _questions(cohort, task) if ranked else {}
    return tuple(
        _flip(direction, places, len(answers), questions)
        for wanted in (DROP, LEAPFROG)
        for (direction, _), places in [entry for entry in ranked if entry[0][0] == wanted][:N_FLIPS]
    )


def _weight(places: Sequence[tuple[PairedAnswers, int]]) -> tuple[int, float]:
    shifts = [abs(float(pair.quant.margin[i] - pair.base.margin[i])) for pair, i in places]
    return len(shifts), float(np.nansum(shifts))


def _questions(cohort: Cohort, task: str) -> Mapping[str, Question]:
    for run in cohort.runs:
        found = read_task_questions(run, task)
        if found:
            return found
    return {}


def _flip(
    direction: str,
    places: Sequence[tuple[PairedAnswers, int]],
    n_quants: int,
    questions: Mapping[str, Question],
) -> SharedFlip:
    pair, index = places[0]
    chosen = [int((p.quant if direction == DROP else p.base).pred[i]) for p, i in places]
    others = [choice for choice in chosen if choice >= 0]
    margins = np.array([p.quant.margin[i] for p, i in places])
    known = margins[np.isfinite(margins)]
    base_margin = float(pair.base.margin[index])
    return SharedFlip(
        id=pair.base.ids[index],
        group=pair.base.groups[index],
        direction=direction,
        n_flipped=len(places),
        n_quants=n_quants,
        base_margin=base_margin if np.isfinite(base_margin) else None,
        quant_margin=float(np.median(known)) if len(known) else None,
        question=questions.get(pair.base.ids[index]),
        gold=int(pair.base.gold[index]),
        other=max(set(others), key=others.count) if others else -1,
    )
