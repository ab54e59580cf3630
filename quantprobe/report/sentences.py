"""What a run says, in sentences: the same ones on the page and in the model card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from quantprobe.report.numbers import format_plain
from quantprobe.report.page.cells import VERDICT_SIGNS, join_words
from quantprobe.run.cohort import Cohort, TaskRecord, TextRecord
from quantprobe.study.findings import Findings


@dataclass(frozen=True)
class Block:
    """Sentences under one heading; the first block of a page has none."""

    title: str
    sentences: tuple[str, ...]


def measured_block(cohort: Cohort) -> Block:
    """What was measured, on what, how far the instrument itself can be trusted, and what is missing."""
    sentences = [_subject(cohort), *(_text_sentence(cohort, text) for text in cohort.texts)]
    sentences += [_task_sentence(cohort, task) for task in cohort.tasks]
    sentences += [null_sentence(cohort), *_defects(cohort)]
    return Block("", tuple(sentences))


def verdict_block(cohort: Cohort) -> Block:
    """The verdict on each quant, task by task, with the margin and what could have been seen."""
    sentences = [sentence for task in cohort.tasks for sentence in _verdicts(task, _records(cohort, task))]
    return Block("Verdicts", tuple(sentences))


def advice_block(findings: Findings) -> list[Block]:
    """Which quant to take, in the study's words; empty where it has no answer."""
    advice = findings.ranking.recommendation
    return [Block("Which one to take", (advice,))] if advice else []


def study_block(findings: Findings) -> Block:
    """Whether fidelity predicts accuracy here, in the study's words."""
    rest = tuple(sentence for sentence in findings.sentences if sentence != findings.ranking.recommendation)
    return Block("Does fidelity predict accuracy here?", rest)


def null_sentence(cohort: Cohort) -> str:
    """The null control in words: what this instrument shows where there is no difference."""
    if cohort.null_control is None:
        return "No null control was run, so the floor of the instrument is unknown and small differences prove nothing."
    floors = {text: null_floor(cohort, text) for text in cohort.texts}
    known = [f"{text} {format_plain(floor)} nats" for text, floor in floors.items() if floor]
    tasks = cohort.null_control.get("tasks") or {}
    flips = {name: (entry.get("drops") or 0) + (entry.get("leapfrogs") or 0) for name, entry in tasks.items()}
    changed = [f"{name} {count} answers changed" for name, count in flips.items() if count]
    if not known and not changed:
        return "Null control: the base against its own capture shows a KLD of exactly 0 and no changed answer."
    return (
        f"Null control: the base against its own capture shows {join_words([*known, *changed])}; "
        "nothing at or below that is interpreted."
    )


def null_floor(cohort: Cohort, text: str) -> float | None:
    """Mean KLD (nats) of the base against its own capture: the far end of its interval; None if not measured."""
    texts: Mapping[str, Any] = (cohort.null_control or {}).get("texts") or {}
    entry = (texts.get(text) or {}).get("kld_mean")
    if isinstance(entry, Mapping):
        ends = [entry.get(key) for key in ("value", "low", "high")]
        return max((abs(float(end)) for end in ends if end is not None), default=None)
    return None if entry is None else abs(float(entry))


def below_floor(cohort: Cohort, text: str) -> list[str]:
    """Quants whose mean KLD on `text` does not stand above the null control."""
    floor = null_floor(cohort, text)
    names = []
    for quant in cohort.quants:
        mean = quant.texts[text].values["kld_mean"].value if text in quant.texts else None
        if floor is not None and floor > 0 and mean is not None and mean <= floor:
            names.append(quant.name)
    return names


def _subject(cohort: Cohort) -> str:
    n = len(cohort.quants)
    what = [f"{len(cohort.texts)} text{'s' * (len(cohort.texts) != 1)}"] if cohort.texts else []
    what += [f"{len(cohort.tasks)} task{'s' * (len(cohort.tasks) != 1)}"] if cohort.tasks else []
    return f"{n} quant{'s' * (n != 1)} of {cohort.base.name}, each compared with that base on {join_words(what)}."


def _text_sentence(cohort: Cohort, text: str) -> str:
    means = [(q, q.texts[text].values["kld_mean"]) for q in cohort.quants if text in q.texts]
    known = sorted((e.value, q.name) for q, e in means if e.value is not None)
    counts = _span([e.n for _, e in means])
    windows = _span([e.n_clusters for _, e in means])
    if not known:
        return f"Text {text}: no mean KLD could be computed."
    (low, nearest), (high, farthest) = known[0], known[-1]
    reach = (
        f"from {format_plain(low)} ({nearest}) to {format_plain(high)} ({farthest})"
        if len(known) > 1
        else format_plain(low)
    )
    floor = below_floor(cohort, text)
    tail = f" At the floor of the instrument, so not told apart from the base: {join_words(floor)}." if floor else ""
    return f"Text {text}: {counts} rows in {windows} windows; mean KLD {reach} nats.{tail}"


def _task_sentence(cohort: Cohort, task: str) -> str:
    records = _records(cohort, task)
    items = _span([record.counts.get("n_items", 0) for record in records.values()])
    bases = [r.values["acc_base"] for r in records.values() if "acc_base" in r.values]
    base = next((e for e in bases if e.value is not None), None)
    accuracy = ""
    if base is not None and base.value is not None:
        accuracy = f"; the base is right on {base.value:.1%}"
        if base.low is not None and base.high is not None:
            accuracy += f" ({base.level:.0%} interval {base.low:.1%} to {base.high:.1%})"
    rules = sorted({record.rule for record in records.values()})
    return f"Task {task}: {items} items, scored by the rule {join_words(rules)}{accuracy}."


def _verdicts(task: str, records: Mapping[str, TaskRecord]) -> list[str]:
    by_verdict = {v: [n for n, r in records.items() if r.verdict == v] for v in VERDICT_SIGNS}
    parts = [f"{verdict}: {join_words(names)}" for verdict, names in by_verdict.items() if names]
    without = [name for name, record in records.items() if record.verdict not in VERDICT_SIGNS]
    if without:
        parts.append(f"no verdict: {join_words(without)}")
    margins = {r.values["margin"].value for r in records.values() if "margin" in r.values} - {None}
    margin = (
        f" (margin {join_words([f'{m * 100:g} pp' for m in sorted(m for m in margins if m is not None)])})"
        if margins
        else ""
    )
    sentences = [f"{task}{margin}: {'; '.join(parts)}."]
    mdes = [r.values["mde"].value for n, r in records.items() if r.verdict == "not separable" and "mde" in r.values]
    known = [mde for mde in mdes if mde is not None]
    if known:
        sentences.append(
            f"{task}: not separable is a result. With these items a true change smaller than "
            f"{min(known) * 100:.2g} to {max(known) * 100:.2g} pp would usually go unseen."
            if min(known) != max(known)
            else f"{task}: not separable is a result. With these items a true change smaller than "
            f"{known[0] * 100:.2g} pp would usually go unseen."
        )
    return sentences


def _defects(cohort: Cohort) -> list[str]:
    sentences = []
    for quant in cohort.quants:
        bad = {n: _count(t) for n, t in quant.texts.items() if _count(t)}
        sentences += [
            f"{quant.name}: {n:,} rows of {text} held NaN or infinity and are in no number." for text, n in bad.items()
        ]
        invalid = {n: t.counts.get("n_invalid", 0) for n, t in quant.tasks.items()}
        sentences += [f"{quant.name}: {n:,} items of {task} could not be scored." for task, n in invalid.items() if n]
        lacking = [n for n in cohort.texts if n not in quant.texts] + [n for n in cohort.tasks if n not in quant.tasks]
        if lacking:
            sentences.append(f"{quant.name} was not measured on {join_words(lacking)}.")
    return sentences


def _count(text: TextRecord) -> int:
    value = text.values["n_nonfinite"].value if "n_nonfinite" in text.values else None
    return int(value or 0)


def _records(cohort: Cohort, task: str) -> dict[str, TaskRecord]:
    return {quant.name: quant.tasks[task] for quant in cohort.quants if task in quant.tasks}


def _span(counts: Sequence[int]) -> str:
    if not counts:
        return "0"
    low, high = min(counts), max(counts)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
