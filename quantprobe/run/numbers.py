"""Every number of a cohort in long form: one record per quant, probe and measure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

from quantprobe.metrics.quantities import TASK_QUANTITIES, TEXT_QUANTITIES
from quantprobe.run.cohort import Cohort
from quantprobe.stats.estimates import Estimate
from quantprobe.stats.summary import CategorySummary, TextSummary
from quantprobe.stats.summary_tasks import TaskSummary

UNITS = {
    "text": {quantity.name: quantity.unit for quantity in TEXT_QUANTITIES},
    "task": {quantity.name: quantity.unit for quantity in TASK_QUANTITIES},
}


@dataclass(frozen=True)
class Number:
    """One number of `results.json`, in its unit; None where a part does not exist."""

    quant: str
    sha256: str
    size_bytes: int | None
    kind: str
    """`text` or `task`."""
    probe: str
    """Name of the text or task."""
    measure: str
    value: float | None
    stderr: float | None
    low: float | None
    high: float | None
    level: float
    n: int
    n_clusters: int
    unit: str
    category: str = ""
    """Of a text, the category of windows that the number is of; empty: all."""


def cohort_numbers(cohort: Cohort) -> Iterator[Number]:
    """All numbers of all quants on all texts, then tasks, in the order of the records."""
    for quant in cohort.quants:
        probes: list[tuple[str, str, str, TextSummary | CategorySummary | TaskSummary]] = []
        for name, text in quant.texts.items():
            probes += [("text", name, "", text)]
            probes += [("text", name, category, one) for category, one in text.by_category.items()]
        probes += [("task", name, "", task) for name, task in quant.tasks.items()]
        for kind, probe, category, summary in probes:
            n = summary.n_items if isinstance(summary, TaskSummary) else summary.n_rows
            for measure, e in _estimates(summary, n or 0):
                unit = e.unit or UNITS[kind].get(measure, "")
                yield Number(
                    quant.name, quant.sha256, quant.size_bytes, kind, probe, measure,
                    e.value, e.stderr, e.low, e.high, e.level, e.n, e.n_clusters, unit, category,
                )  # fmt: skip


def _estimates(summary: TextSummary | CategorySummary | TaskSummary, n: int) -> Iterator[tuple[str, Estimate]]:
    """Every number of a summary; a plain one, over `n` rows or items, as an estimate without uncertainty."""
    for each in fields(summary):
        value = getattr(summary, each.name)
        if isinstance(value, Estimate):
            yield each.name, value
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield each.name, Estimate(float(value), n=n)
