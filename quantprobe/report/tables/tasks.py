"""The tables of tasks: which way the answers moved, quant by quant."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from rich.table import Table

from quantprobe.report.numbers import MISSING, format_estimate, format_plain
from quantprobe.report.results_view import ModelRow, ResultsView
from quantprobe.report.tables.shapes import escape_markdown, fit_table, markdown_table
from quantprobe.report.task_numbers import COUNTS, ESTIMATES, NORM, NUMBERS, TaskFacts, TaskNumbers
from quantprobe.stats.estimates import Estimate


@dataclass(frozen=True)
class TaskColumn:
    """One column of the human tables of tasks."""

    title: str
    priority: int
    """1 is the last to be dropped from a narrow terminal."""
    cell: Callable[[ModelRow, TaskNumbers], str]
    base_cell: Callable[[ResultsView, str], str] = lambda view, task: ""


def format_interval(estimate: Estimate, scale: float = 1.0, digits: int = 2) -> str:
    """`value [low, high]` with signs, to `digits` places; `value [n/a]` without an interval, `n/a` without a value."""
    if estimate.value is None:
        return MISSING
    if estimate.low is None or estimate.high is None:
        return f"{scale * estimate.value:+.{digits}f} [{MISSING}]"
    low, high = scale * estimate.low, scale * estimate.high
    return f"{scale * estimate.value:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"


def format_share(estimate: Estimate) -> str:
    """A share in percent, `value ± stderr`; with its interval where all items agree and the error says nothing."""
    return format_estimate(replace(estimate, stderr=estimate.stderr or None), 100)


def _base_numbers(view: ResultsView, task: str) -> TaskNumbers:
    """Numbers that hold the base's accuracy over the most items: from the quant that lost the fewest."""
    return min((numbers for _, numbers in view.answered(task)), key=lambda numbers: numbers.n_invalid)


def _base_norm(view: ResultsView, task: str) -> str:
    norm = _base_numbers(view, task).acc_norm_base
    return format_share(norm) if norm else ""


def _norm(model: ModelRow, numbers: TaskNumbers) -> str:
    return format_share(numbers.acc_norm) if numbers.acc_norm else ""


def _count(title: str, key: str, priority: int) -> TaskColumn:
    return TaskColumn(title, priority, lambda model, numbers: f"{getattr(numbers, key):,}")


def _p(title: str, key: str, priority: int) -> TaskColumn:
    return TaskColumn(title, priority, lambda model, numbers: format_plain(getattr(numbers, key), digits=2))


NORM_COLUMN = TaskColumn("Acc norm %", 10, _norm, _base_norm)
TASK_COLUMNS: tuple[TaskColumn, ...] = (
    TaskColumn("Quant", 1, lambda model, numbers: model.name, lambda view, task: f"{view.base.name} (base)"),
    TaskColumn("GB", 8, lambda model, n: format_plain(model.size_gb), lambda v, t: format_plain(v.base.size_gb)),
    TaskColumn(
        "Acc %", 2, lambda model, n: format_share(n.acc),
        lambda view, task: format_share(_base_numbers(view, task).acc_base),
    ),
    NORM_COLUMN,
    TaskColumn("Change, points", 2, lambda model, numbers: format_interval(numbers.net, 100)),
    _count("Drops", "drops", 3),
    _count("Leapfrogs", "leapfrogs", 3),
    _count("Wrong to other", "wrong_to_other_wrong", 9),
    TaskColumn("Volume %", 7, lambda model, numbers: format_share(numbers.volume)),
    TaskColumn(
        "Index", 6,
        lambda model, n: MISSING if n.direction_index is None else f"{n.direction_index:+.2f}",
    ),
    TaskColumn("Margin shift, nats", 4, lambda model, numbers: format_interval(numbers.margin_shift, digits=4)),
    TaskColumn("KLD", 11, lambda model, numbers: format_estimate(numbers.kld_mean)),
    _p("McNemar p", "mcnemar_p", 12),
    _p("Holm p", "holm_p", 5),
    TaskColumn("Verdict", 1, lambda model, numbers: numbers.verdict or MISSING),
)  # fmt: skip


def task_columns(view: ResultsView, task: str) -> list[TaskColumn]:
    """The columns that have something to say about this task."""
    rows = [numbers for _, numbers in view.answered(task)]
    idle = {"GB"} if all(model.size_bytes is None for model, _ in view.answered(task)) else set()
    idle |= set() if any(numbers.acc_norm for numbers in rows) else {NORM_COLUMN.title}
    idle |= set() if any(numbers.kld_mean.value is not None for numbers in rows) else {"KLD"}
    idle |= set() if any(numbers.margin_shift.value is not None for numbers in rows) else {"Margin shift, nats"}
    return [column for column in TASK_COLUMNS if column.title not in idle]


def task_rows(view: ResultsView, task: str) -> list[list[str]]:
    """Cells of one task's table, base line first, in the order of `task_columns`."""
    columns = task_columns(view, task)
    base = [column.base_cell(view, task) for column in columns]
    return [base, *([column.cell(model, numbers) for column in columns] for model, numbers in view.answered(task))]


def terminal_task_table(view: ResultsView, task: str, width: int | None) -> Table:
    """The table of one task for a terminal of `width` cells (None: as wide as it needs)."""
    columns = task_columns(view, task)
    titles, priorities = [column.title for column in columns], [column.priority for column in columns]
    return fit_table(f"{task}: answers against {view.base.name}", titles, priorities, task_rows(view, task), width)


def markdown_tasks(view: ResultsView) -> list[str]:
    """The blocks of results.md that are about tasks."""
    parts = []
    for task in view.task_names:
        titles = [column.title for column in task_columns(view, task)]
        parts += [f"## Task: {escape_markdown(task)}", markdown_table(titles, task_rows(view, task))]
        parts += [f"- {escape_markdown(note)}" for note in task_notes(view, task)]
    return parts


def task_notes(view: ResultsView, task: str) -> list[str]:
    """What holds for one task: its questions, the null control, what the items can show, every verdict in words."""
    answered = view.answered(task)
    facts = view.facts.get(task)
    n_items, n_clusters = answered[0][1].n_items, answered[0][1].acc.n_clusters
    clusters = f" in {n_clusters:,} groups" if n_clusters < n_items else ""
    how = f", template {facts.template}, rule {facts.rule}" if facts else ""
    notes = [f"{n_items:,} questions{clusters}{how}."]
    notes += _case_notes(facts, [numbers for _, numbers in answered]) + _token_notes(facts)
    if view.null_flips.get(task) is not None:
        flips = view.null_flips[task]
        what = "no answer changes" if flips == 0 else f"{flips:,} answers change; so many are the instrument's own"
        notes.append(f"Null control: the base against its own capture, {what}.")
    notes += [f"{model.name}: {numbers.sentence}." for model, numbers in answered if numbers.sentence]
    notes += _reach_notes([numbers for _, numbers in answered])
    notes += [
        f"{model.name}: {numbers.n_invalid:,} questions have no answer (a log-probability was not finite, or nobody "
        "told) and are in no number of its line."
        for model, numbers in answered
        if numbers.n_invalid
    ]
    return notes


def _case_notes(facts: TaskFacts | None, rows: Sequence[TaskNumbers]) -> list[str]:
    """Questions left out, ties and odd choices; nothing where there are none."""
    notes = []
    if facts and facts.n_left_out:
        notes.append(
            f"{facts.n_left_out:,} questions are left out: longer than the context, or broken and skipped on request."
        )
    n_ties = max(numbers.n_ties for numbers in rows)
    if n_ties:
        notes.append(f"Up to {n_ties:,} questions have two best choices; the first of them counts as the answer.")
    cases = [(facts.n_identical, "two choices of the same tokens"), (facts.n_token_prefix, "a choice that begins "
             "another"), (facts.n_empty_prefix, "choices without a common first token")] if facts else []  # fmt: skip
    found = [f"{n:,} with {what}" for n, what in cases if n]
    if found:
        notes.append(f"Odd questions: {', '.join(found)}.")
    return notes


def _token_notes(facts: TaskFacts | None) -> list[str]:
    if facts is None or not facts.n_tokens_decoded:
        return []
    ratio = facts.n_tokens_naive / facts.n_tokens_decoded
    return [
        f"{facts.n_tokens_decoded:,} tokens decoded per model; every choice by itself would be "
        f"{facts.n_tokens_naive:,} ({ratio:.1f} times as many)."
    ]


def _reach_notes(rows: Sequence[TaskNumbers]) -> list[str]:
    known = [100 * numbers.mde for numbers in rows if numbers.mde is not None]
    if not known:
        return []
    low, high = format_plain(min(known), digits=2), format_plain(max(known), digits=2)
    reach = low if low == high else f"{low} (the steadiest quant) to {high} (the least steady)"
    return [f"Smallest change that these questions find with power 80 %: {reach} points of accuracy."]


def reading_task_notes(view: ResultsView) -> list[str]:
    """How to read the tables of tasks; nothing where there are none."""
    rows = [numbers for quant in view.quants for numbers in quant.tasks.values()]
    if not rows:
        return []
    level = rows[0].net.level
    margin = "" if rows[0].margin is None else f" of ±{100 * rows[0].margin:g} points, fixed beforehand"
    return [
        "Drops were right in the base and are wrong in the quant, leapfrogs the other way round. Change is their "
        f"difference in points of accuracy with its paired {level:.0%} interval, volume their sum, index the "
        "difference over the sum (-1: only losses, +1: only gains). ± is one standard error.",
        "Margin shift is the mean change of log P(right) - log P(best wrong) in nats: it moves before answers flip, "
        "and is a sign of its own, no part of the verdict.",
        f"A verdict is about a margin{margin}: `worse` or `better` need Holm's p over all quants of the table, "
        "`equivalent` the interval inside the margin; `not separable` says that these questions cannot tell, not that "
        "nothing changed.",
    ]


def csv_tasks(view: ResultsView) -> str:
    """results_tasks.csv: one line per quant and task, plain numbers in the units of results.json, empty for null."""
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    keys = (*ESTIMATES, *NORM)
    estimates = [f"{key}{suffix}" for key in keys for suffix in ("", "_stderr", "_low", "_high")]
    identity = ["task", "name", "path", "sha256", "size_bytes", "size_gb", "bpw", "file_type"]
    writer.writerow([*identity, *estimates, *COUNTS, "n_ties", *NUMBERS, "verdict", "n_clusters", "level"])
    for task in view.task_names:
        for model, numbers in view.answered(task):
            line: list[object] = [task, model.name, model.path, model.sha256, model.size_bytes, model.size_gb]
            line += [model.bpw, model.file_type]
            for key in keys:
                estimate: Estimate | None = getattr(numbers, key)
                line += (
                    [None] * 4 if estimate is None else [estimate.value, estimate.stderr, estimate.low, estimate.high]
                )
            line += [getattr(numbers, key) for key in (*COUNTS, "n_ties", *NUMBERS, "verdict")]
            writer.writerow([*line, numbers.net.n_clusters, numbers.net.level])
    return out.getvalue()
