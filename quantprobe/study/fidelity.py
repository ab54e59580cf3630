"""Every way of saying how far, or which way, a quant moved: one variable per measure and source."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from quantprobe.arrays import FloatArray
from quantprobe.metrics.quantities import Better, task_quantity, text_quantity
from quantprobe.run.cohort import Cohort
from quantprobe.run.results import Quant
from quantprobe.stats.estimates import Estimate
from quantprobe.stats.summary import TextSummary

ALL_TEXTS = "all texts"
ALL_TASKS = "all tasks"
HEADLINE = "kld_mean"
"""The one measure that is named beforehand; all others are in tables, corrected for being many."""

FIDELITY = (
    *("kld_mean", "kld_median", "kld_p90", "kld_p95", "kld_p99", "kld_p999", "kld_max", "kld_geomean"),
    *("kld_reverse_mean", "jsd_mean", "tv_mean", "delta_p_rms", "ppl_ratio", "delta_ppl", "ln_ppl_ratio"),
    *("same_top", "top_k_overlap"),
)
"""Measures of how far a quant moved on a text, by their names in `results.json`, and `delta_ppl`."""

TASK_DIRECTION = ("net", "direction_index", "margin_shift", "gold_prob_shift", "volume", HEADLINE)
TEXT_DIRECTION = ("token_net", "token_direction_index", "delta_p_mean", "token_volume", HEADLINE)

_FROM_ROWS = ("kld_reverse_mean", "jsd_mean", "tv_mean", "kld_geomean")
"""What a run written by another program may lack, and its row metrics tell."""

_SIGNS: Mapping[Better, int] = {"higher": +1, "lower": -1, "none": 0}


@dataclass(frozen=True)
class Variable:
    """One number per quant, `[n_quants]` float64, NaN where it does not exist."""

    name: str
    source: str
    """The text or task it was measured on, or `all texts`, `all tasks`."""
    better: int
    """+1 if more is closer to the base (or better), -1 if less is, 0 if neither."""
    log: bool
    """Whether its natural scale is the logarithm (KLD and its kin span decades)."""
    values: FloatArray

    def scaled(self) -> tuple[FloatArray, str]:
        """Values on the scale for Pearson: their ln where the scale is logarithmic and all are positive."""
        finite = self.values[np.isfinite(self.values)]
        if self.log and len(finite) and finite.min() > 0:
            return np.log(self.values), "ln"
        return self.values, "linear"


def number(value: Estimate | float | None) -> float:
    """A member of a summary as a plain number, NaN where there is none."""
    value = value.value if isinstance(value, Estimate) else value
    return math.nan if value is None else float(value)


def task_number(quant: Quant, task: str, name: str) -> float:
    """A number of a quant on a task by its name in `results.json`; NaN where there is none."""
    return number(getattr(quant.tasks[task], name)) if task in quant.tasks else math.nan


def text_number(quant: Quant, text: str, name: str) -> float:
    """A number of a quant on a text by its name in `results.json`, or one that is derived; NaN where there is none."""
    if text not in quant.texts:
        return math.nan
    summary = quant.texts[text]
    return _DERIVED[name](summary) if name in _DERIVED else number(getattr(summary, name))


def fidelity_variables(cohort: Cohort) -> tuple[Variable, ...]:
    """Each measure of `FIDELITY` on each text, KLD on each task, and the mean KLD over all texts (or tasks).

    A mean that `results.json` lacks is computed from the row file if there is one. A measure that no quant has is
    left out.
    """
    found = [_on_text(cohort, text, name) for text in cohort.texts for name in FIDELITY]
    on_tasks = [_on_task(cohort, task, HEADLINE) for task in cohort.tasks]
    means = [
        Variable(HEADLINE, source, -1, True, np.mean([v.values for v in group], axis=0))
        for source, group in (
            (ALL_TEXTS, [v for v in found if v.name == HEADLINE and np.isfinite(v.values).any()]),
            (ALL_TASKS, [v for v in on_tasks if np.isfinite(v.values).any()]),
        )
        if group
    ]
    return tuple(v for v in (*means, *found, *on_tasks) if np.isfinite(v.values).any())


def direction_variables(cohort: Cohort) -> tuple[Variable, ...]:
    """Measures of which way a quant moved, on each task and each text, and for comparison how far.

    `token_volume`, `token_net` and `token_direction_index` of a text count drops and leapfrogs of the top token.
    """
    tasks = [_on_task(cohort, task, name) for task in cohort.tasks for name in TASK_DIRECTION]
    texts = [_on_text(cohort, text, name) for text in cohort.texts for name in TEXT_DIRECTION]
    return tuple(v for v in (*tasks, *texts) if np.isfinite(v.values).any())


def _on_task(cohort: Cohort, task: str, name: str) -> Variable:
    values = np.array([task_number(quant, task, name) for quant in cohort.quants], np.float64)
    quantity = task_quantity(name)
    return Variable(name, task, _SIGNS[quantity.better], quantity.log, values)


def _on_text(cohort: Cohort, text: str, name: str) -> Variable:
    values = np.array([text_number(quant, text, name) for quant in cohort.quants], np.float64)
    if name in _FROM_ROWS:
        for index, quant in enumerate(cohort.quants):
            if text in quant.texts and getattr(quant.texts[text], name) is None:
                values[index] = _mean_of_rows(cohort, quant.name, text, name)
    if name in _DERIVED_SIGNS:
        return Variable(name, text, _DERIVED_SIGNS[name], False, values)
    quantity = text_quantity(name)
    return Variable(name, text, _SIGNS[quantity.better], quantity.log, values)


def _mean_of_rows(cohort: Cohort, quant: str, text: str, name: str) -> float:
    if not cohort.has_rows(quant, text):
        return math.nan
    metric = text_quantity(name).rows
    rows = cohort.rows(quant, text, (metric,)).get(metric)
    finite = rows[np.isfinite(rows)] if rows is not None else np.array([])
    if name == "kld_geomean":
        return float(np.exp(np.log(finite).mean())) if len(finite) and finite.min() > 0 else math.nan
    return float(finite.mean()) if len(finite) else math.nan


def _token_counts(summary: TextSummary) -> tuple[float, float, float]:
    rows = math.nan if summary.n_rows is None else max(summary.n_rows, 1)
    return number(summary.token_drops), number(summary.token_leapfrogs), rows


def _token_net(summary: TextSummary) -> float:
    drops, leapfrogs, n_rows = _token_counts(summary)
    return (leapfrogs - drops) / n_rows


def _token_volume(summary: TextSummary) -> float:
    drops, leapfrogs, n_rows = _token_counts(summary)
    return (leapfrogs + drops) / n_rows


def _token_index(summary: TextSummary) -> float:
    drops, leapfrogs, _ = _token_counts(summary)
    return (leapfrogs - drops) / (leapfrogs + drops) if leapfrogs + drops > 0 else math.nan


_DERIVED: Mapping[str, Callable[[TextSummary], float]] = {
    "ppl_ratio": lambda summary: math.exp(min(number(summary.ln_ppl_ratio), 700.0)),
    "delta_ppl": lambda summary: number(summary.ppl) - number(summary.ppl_base),
    "token_net": _token_net,
    "token_volume": _token_volume,
    "token_direction_index": _token_index,
}
_DERIVED_SIGNS = {"delta_ppl": -1, "token_net": +1, "token_volume": -1, "token_direction_index": +1}
"""Which way is better for what is not in `results.json`."""
