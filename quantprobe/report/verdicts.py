"""The verdicts of a run, one line per quant, the recommended one first."""

from __future__ import annotations

import math

from quantprobe.report.names import WHOLE, ShortNames
from quantprobe.report.numbers import format_plain
from quantprobe.report.tables.cells import VERDICT_SIGNS
from quantprobe.report.tables.tasks import answered, task_names
from quantprobe.run.cohort import Cohort
from quantprobe.run.results import Quant
from quantprobe.stats.paired import BETTER, EQUIVALENT, NOT_SEPARABLE, WORSE
from quantprobe.stats.summary_tasks import TaskSummary

ORDER = (EQUIVALENT, BETTER, NOT_SEPARABLE, WORSE)


def verdict_lines(cohort: Cohort, names: ShortNames = WHOLE) -> list[str]:
    """A title and a line per quant, for all tasks together where the run pooled them, else task by task."""
    lines: list[str] = []
    for task in task_names(cohort)[: 1 if any(quant.pooled for quant in cohort.quants) else None]:
        rows = [row for row in answered(cohort, task) if row[1].verdict is not None]
        if not rows:
            continue
        best = recommended(cohort, task)
        rows.sort(key=lambda row: (row[0] is not best, *_rank(*row)))
        width = max(len(names(quant.name)) for quant, _ in rows)
        first = rows[0][1]
        margin = "" if first.margin is None else f", margin ±{_points(first.margin)}"
        lines.append(f"Verdicts: {task}, {first.n_items or first.acc.n:,} questions{margin}")
        lines += [
            f"  {VERDICT_SIGNS.get(str(summary.verdict), ' ')} {names(quant.name):<{width}}  "
            f"{describe(summary)}{': take this one, the smallest that is' if quant is best else ''}"
            for quant, summary in rows
        ]
    return lines


def recommended(cohort: Cohort, task: str) -> Quant | None:
    """The smallest quant that is shown to be equivalent to the base, or better; None where none is."""
    good = [
        (quant.size_bytes, i, quant)
        for i, (quant, summary) in enumerate(answered(cohort, task))
        if summary.verdict in (EQUIVALENT, BETTER) and quant.size_bytes is not None
    ]
    return min(good)[2] if good else None


def describe(summary: TaskSummary) -> str:
    """A verdict in a few words, with what the table beside it does not say."""
    if summary.verdict == NOT_SEPARABLE and summary.n_to_settle:
        return f"{NOT_SEPARABLE}; about {_round_up(summary.n_to_settle):,} questions would settle it"
    net = summary.net
    if summary.verdict in (WORSE, BETTER) and net is not None and (net.low or 0.0) * (net.high or 0.0) > 0:
        low, high = sorted(abs(end) for end in (net.low, net.high) if end is not None)
        return f"{summary.verdict} by {format_plain(low, 100, 2)} to {format_plain(high, 100, 2)} points"
    return str(summary.verdict)


def _rank(quant: Quant, summary: TaskSummary) -> tuple[int, float]:
    verdict = summary.verdict or ""
    return ORDER.index(verdict) if verdict in ORDER else len(ORDER), quant.size_bytes or math.inf


def _points(margin: float) -> str:
    return f"{100 * margin:g} point{'' if margin == 0.01 else 's'}"


def _round_up(n: int) -> int:
    """To two digits: the plan is no more precise."""
    step = 10 ** max(len(str(n)) - 2, 0)
    return -(-n // step) * step
