"""What to look at in a table of answers, in words: only what its numbers carry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from quantprobe.report.results_view import ModelRow, ResultsView, short_names
from quantprobe.report.tables.tasks import format_interval
from quantprobe.report.task_numbers import TaskNumbers

Row = tuple[ModelRow, TaskNumbers]
VERDICTS = {
    "worse": "Worse than the base",
    "better": "Better than the base",
    "equivalent": "Equivalent within the margin",
    "not separable": "Not separable (these questions cannot tell)",
}


def task_highlights(view: ResultsView, task: str) -> list[str]:
    """Sentences on one task's quants; none where the task was not measured."""
    rows = view.answered(task)
    if not rows:
        return []
    names = short_names([model.name for model, _ in rows], view.base.name)
    rows = [(replace(model, name=name), numbers) for name, (model, numbers) in zip(names, rows, strict=True)]
    return [*_verdicts(task, rows), *_hidden_flips(rows), *_early_signs(rows)]


def _verdicts(task: str, rows: Sequence[Row]) -> list[str]:
    """Which quants have which verdict, in one sentence."""
    groups = {
        words: [model.name for model, numbers in rows if numbers.verdict == verdict]
        for verdict, words in VERDICTS.items()
    }
    found = [f"{words}: {', '.join(names)}" for words, names in groups.items() if names]
    return [f"The {rows[0][1].n_items:,} questions of {task}. {'. '.join(found)}."] if found else []


def _hidden_flips(rows: Sequence[Row]) -> list[str]:
    """The quant whose changed answers cancel the most in its accuracy."""
    model, numbers = max(rows, key=_n_cancelled)
    if _n_cancelled((model, numbers)) == 0:
        return []
    return [
        f"Accuracy hides what cancels: {model.name} lost {numbers.drops:,} right answers and gained "
        f"{numbers.leapfrogs:,}, a change of {format_interval(numbers.net, 100)} points."
    ]


def _n_cancelled(row: Row) -> int:
    return min(row[1].drops, row[1].leapfrogs)


def _early_signs(rows: Sequence[Row]) -> list[str]:
    """Quants that these questions cannot separate by flips, and whose margins moved all the same."""
    found = [
        f"{model.name} ({format_interval(numbers.margin_shift, digits=3)} nats)"
        for model, numbers in rows
        if numbers.verdict == "not separable" and _has_moved(numbers)
    ]
    if not found:
        return []
    return [f"Margins moved before answers did (Holm's p over the table is small): {', '.join(found)}."]


def _has_moved(numbers: TaskNumbers) -> bool:
    p = numbers.margin_shift_holm_p
    return p is not None and p <= 1 - numbers.margin_shift.level
