"""What to look at in the tables, in words: only what the numbers carry, most important first."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from quantprobe.report.names import WHOLE, ShortNames, join_words
from quantprobe.report.numbers import format_estimate, format_interval, format_plain
from quantprobe.report.tables.tasks import POOLED, TaskRow, answered, task_names
from quantprobe.report.tables.texts import TextRow, text_rows
from quantprobe.run.cohort import Cohort
from quantprobe.run.floor import is_at_floor
from quantprobe.stats.estimates import Estimate
from quantprobe.stats.paired import NOT_SEPARABLE


@dataclass(frozen=True)
class Highlight:
    """One sentence; those of a low rank are shown first."""

    rank: int
    sentence: str

    def on(self, text: str) -> Highlight:
        return Highlight(self.rank, f"On {text}, {self.sentence[0].lower()}{self.sentence[1:]}")


def highlights(cohort: Cohort, names: ShortNames = WHOLE) -> list[str]:
    """Sentences on all texts and tasks; none says what the tables' numbers do not show."""
    found: list[Highlight] = []
    for text in cohort.texts:
        told = text_highlights(cohort, text, names)
        found += told if len(cohort.texts) == 1 else [each.on(text) for each in told]
    tasks = task_names(cohort)
    for task in tasks:
        later = 10 * (task != tasks[0] and tasks[0] == POOLED)  # what the pool says comes first
        found += [Highlight(each.rank + later, each.sentence) for each in task_highlights(cohort, task, names)]
    if cohort.texts and not cohort.tasks:
        found.append(Highlight(9, "KLD measures distance; whether answers became worse needs a task (--task)."))
    return [each.sentence for each in sorted(found, key=lambda each: each.rank)]


def text_highlights(cohort: Cohort, text: str, names: ShortNames = WHOLE) -> list[Highlight]:
    """Sentences on one text's quants that stand above the floor."""
    rows = [row for row in text_rows(cohort, text, names) if _kld(row) > 0]
    rows = sorted((row for row in rows if not is_at_floor(row.summary.kld_mean, row.floor)), key=_kld)
    if not rows:
        return [Highlight(1, "No quant stands above the instrument's floor, so their order is unknown.")]
    return [_range(rows), *_step(rows), *_beaten(rows), *_unordered(rows), *_hidden_from_ppl(rows)]


def task_highlights(cohort: Cohort, task: str, names: ShortNames = WHOLE) -> list[Highlight]:
    """Sentences on one task's quants; none where it was not measured."""
    rows = [TaskRow(names(quant.name), quant, summary) for quant, summary in answered(cohort, task)]
    return [*_cancelled(task, rows), *_early_signs(task, rows)]


def _kld(row: TextRow) -> float:
    return row.summary.kld_mean.value or 0.0


def _size(row: TextRow) -> float:
    """Bytes; NaN, of which nothing can be said, where unknown."""
    return math.nan if row.model.size_bytes is None else row.model.size_bytes


def _range(rows: Sequence[TextRow]) -> Highlight:
    near, far = rows[0], rows[-1]
    if len(rows) == 1:
        return Highlight(1, f"The mean KLD of {near.name} is {format_estimate(near.summary.kld_mean)} nats.")
    return Highlight(1, f"Closest to the base is {near.name} ({_place(near)}), farthest {far.name} ({_place(far)}).")


def _place(row: TextRow) -> str:
    same_top = None if row.summary.same_top is None else row.summary.same_top.value
    top = "" if same_top is None else f", same top token {format_plain(same_top, 100)} %"
    return f"KLD {format_plain(_kld(row))}{top}"


def _step(rows: Sequence[TextRow]) -> Iterator[Highlight]:
    """The step down in size that costs most, between neighbours in KLD that the intervals tell apart."""
    steps = [(a, b) for a, b in pairwise(rows) if _size(b) < _size(a) and not _overlap(a, b)]
    if steps:
        a, b = max(steps, key=lambda step: _kld(step[1]) / _kld(step[0]))
        yield Highlight(
            3,
            f"The costliest step is from {a.name} to {b.name}: {format_plain(_kld(b) / _kld(a), digits=2)} times the "
            f"KLD for {1 - _size(b) / _size(a):.0%} less size.",
        )


def _beaten(rows: Sequence[TextRow]) -> Iterator[Highlight]:
    """Quants for which another is both clearly closer and no larger."""
    pairs = []
    for i, row in enumerate(rows):
        rivals = [other for other in rows[:i] if _size(other) <= _size(row) and not _overlap(other, row)]
        if rivals:
            pairs.append(f"{row.name} by {rivals[0].name}")
    if pairs:
        yield Highlight(4, f"Beaten by a quant that is closer to the base and no larger: {join_words(pairs, 4)}.")


def _unordered(rows: Sequence[TextRow]) -> Iterator[Highlight]:
    """Neighbours whose intervals overlap. The same tokens serve both, so this errs on the careful side."""
    pairs = [f"{a.name} and {b.name}" for a, b in pairwise(rows) if _overlap(a, b)]
    if pairs:
        yield Highlight(
            6, f"These intervals cannot tell apart {'; '.join(pairs[:4])}. More --chunks would narrow them."
        )


def _overlap(a: TextRow, b: TextRow) -> bool:
    high, low = a.summary.kld_mean.high, b.summary.kld_mean.low
    return high is None or low is None or high >= low


def _hidden_from_ppl(rows: Sequence[TextRow]) -> Iterator[Highlight]:
    """Quants that surely moved, and whose perplexity does not show it."""
    hidden = [row.name for row in rows if _moved(row) and _holds_zero(row.summary.ln_ppl_ratio)]
    if hidden:
        yield Highlight(
            7,
            f"Perplexity alone would not tell {join_words(hidden, 4)} from the base: gains and losses on single tokens "
            "cancel in perplexity, but not in KLD.",
        )


def _moved(row: TextRow) -> bool:
    return row.summary.kld_mean.low is not None and row.summary.kld_mean.low > (row.floor or 0.0)


def _holds_zero(estimate: Estimate | None) -> bool:
    if estimate is None or estimate.low is None or estimate.high is None:
        return False
    return estimate.low <= 0 <= estimate.high


def _cancelled(task: str, rows: Sequence[TaskRow]) -> Iterator[Highlight]:
    """The quant whose changed answers cancel the most in its accuracy."""
    row = max(rows, key=_n_cancelled, default=None)
    if row is not None and _n_cancelled(row):
        n_decoded = row.summary.n_decoded
        sample = "" if n_decoded is None else f" of the {n_decoded:,} questions that it decoded"
        yield Highlight(
            2,
            f"Accuracy on {task} hides what cancels: {row.name} lost {row.summary.drops:,} right answers and gained "
            f"{row.summary.leapfrogs:,}{sample}.",
        )


def _n_cancelled(row: TaskRow) -> int:
    return min(row.summary.drops or 0, row.summary.leapfrogs or 0)


def _early_signs(task: str, rows: Sequence[TaskRow]) -> Iterator[Highlight]:
    """Quants that these questions cannot separate by flips, and whose margins moved all the same."""
    moved = [
        f"{row.name} ({format_interval(row.summary.margin_shift)} nats)"
        for row in rows
        if row.summary.verdict == NOT_SEPARABLE and _has_moved(row)
    ]
    if moved:
        yield Highlight(5, f"Margins on {task} moved although the verdict is still open: {join_words(moved, 3)}.")


def _has_moved(row: TaskRow) -> bool:
    p, shift = row.summary.margin_shift_holm_p, row.summary.margin_shift
    return p is not None and shift is not None and p <= 1 - shift.level
