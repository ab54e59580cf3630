"""The answer as three short blocks that are read in seconds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from quantprobe.report.answer import WORSE, Answer, Standing
from quantprobe.report.marks import mark_of
from quantprobe.report.numbers import MISSING, format_plain
from quantprobe.run.cohort import Cohort

N_SHOWN = 2
POINTS = "change, points of accuracy"


@dataclass(frozen=True)
class Entry:
    """One quant in a block; `place` is its place in the cohort."""

    place: int
    label: str
    size: str
    fact: str
    css: str


@dataclass(frozen=True)
class CardBlock:
    """One block: a title, at most two quants, and a line about the others."""

    kind: str
    """`take`, `maybe` or `not`: the class of the style sheet."""
    title: str
    entries: Sequence[Entry]
    more: str = ""
    """`and 7 more`; a press shows them in the table by the verdict `filter`."""
    filter: str = ""
    note: str = ""
    unit: str = ""
    """Of the numbers beside the names."""


def card_blocks(cohort: Cohort, answer: Answer) -> list[CardBlock]:
    """What to take, what may do, what not, as the card of the page shows it."""
    if not answer.by_accuracy:
        return _distance_blocks(cohort, answer)
    blocks = [_first_block(cohort, answer)]
    if answer.may_do:
        title = "Smaller, may do" if answer.take is not None else "May do"
        blocks.append(_block(cohort, "maybe", title, answer.may_do, "not separable", _settling(answer.may_do)))
    elif answer.take is not None:
        blocks.append(CardBlock("maybe", "Smaller, may do", [], note="Every smaller quant is decided."))
    if answer.not_these:
        blocks.append(_block(cohort, "not", "Not these", answer.not_these, WORSE, "Shown to be worse than the base."))
    else:
        blocks.append(CardBlock("not", "Not these", [], note="No quant is shown to be worse than the base."))
    return blocks


def settle_words(standing: Standing) -> str:
    """What would settle an undecided quant; empty where nobody knows."""
    return "" if standing.more is None else f"about {_round(standing.more):,} more questions would settle it"


def _first_block(cohort: Cohort, answer: Answer) -> CardBlock:
    if answer.take is not None:
        return CardBlock("take", "Take this one", [_entry(cohort, answer.take)], note=answer.why, unit=POINTS)
    return CardBlock("take", "Not decided yet" if answer.undecided else "None of these", [], note=answer.why)


def _block(cohort: Cohort, kind: str, title: str, standings: Sequence[Standing], verdict: str, note: str) -> CardBlock:
    rest = len(standings) - N_SHOWN
    shown = standings[: N_SHOWN if rest > 0 else len(standings)]
    return CardBlock(
        kind, title, [_entry(cohort, s) for s in shown], f"and {rest} more" if rest > 0 else "", verdict, note, POINTS
    )


def _settling(standings: Sequence[Standing]) -> str:
    """What would settle the first of them."""
    words = settle_words(standings[0])
    return f"{standings[0].label}: {words}." if words else "More questions would settle it."


def _entry(cohort: Cohort, standing: Standing) -> Entry:
    mark = mark_of(standing.verdict)
    fact = f"{mark.sign} {standing.change_words}"
    if standing.on:
        fact += f" on {standing.on}"
    return Entry(_place(cohort, standing), standing.label, size_words(standing.size_bytes), fact, mark.css)


def _distance_blocks(cohort: Cohort, answer: Answer) -> list[CardBlock]:
    steps = _steps(answer.may_do)
    near = [
        Entry(_place(cohort, s), s.label, size_words(s.size_bytes), f"KLD {format_plain(_kld(s))}", "") for s in steps
    ]
    beaten = [
        Entry(_place(cohort, s), s.label, size_words(s.size_bytes), f"{s.beaten_by} is nearer", "")
        for s in answer.not_these[:N_SHOWN]
    ]
    rest = len(answer.not_these) - N_SHOWN
    worse = "Another file is no larger and clearly nearer." if beaten else "No quant has a smaller and nearer rival."
    return [
        CardBlock("take", "Distance only", [], note=answer.why),
        CardBlock(
            "maybe", "Nearest for their size", near, note="No smaller file is nearer; each step doubles the KLD."
        ),
        CardBlock("not", "Not these", beaten, note=worse + (f" {rest} more are like that." if rest > 0 else "")),
    ]


def _steps(line: Sequence[Standing]) -> list[Standing]:
    """Quants of the Pareto line, from the nearest on, each at twice the KLD of the one before or more; at most five."""
    steps: list[Standing] = []
    for standing in line:
        if not steps or _kld(standing) >= 2 * _kld(steps[-1]):
            steps.append(standing)
    return steps[:5]


def _kld(standing: Standing) -> float:
    return 0.0 if standing.kld is None or standing.kld.value is None else standing.kld.value


def size_words(n_bytes: int | None) -> str:
    """`2.49 GB`, or MB for files below one GB."""
    if n_bytes is None:
        return MISSING
    return f"{format_plain(n_bytes / 1e9)} GB" if n_bytes >= 1e9 else f"{format_plain(n_bytes / 1e6)} MB"


def _place(cohort: Cohort, standing: Standing) -> int:
    return next(i for i, quant in enumerate(cohort.quants) if quant.name == standing.name)


def _round(n: int) -> int:
    """To two digits, upwards: a plan is no more precise."""
    step = 1
    while n >= 100 * step:
        step *= 10
    return -(-n // step) * step
