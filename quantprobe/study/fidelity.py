"""Every way of saying how far, or which way, a quant moved: one variable per measure and source."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from quantprobe.arrays import FloatArray
from quantprobe.errors import InputError
from quantprobe.run.cohort import Cohort, QuantRecord
from quantprobe.stats.estimates import Estimate

ALL_TEXTS = "all texts"
ALL_TASKS = "all tasks"
HEADLINE = "kld_mean"
"""The one measure that is named beforehand; all others are in tables, corrected for being many."""

_Values = Mapping[str, Estimate]


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


@dataclass(frozen=True)
class _Measure:
    better: int
    log: bool
    value: Callable[[_Values], float]


def _stored(key: str) -> Callable[[_Values], float]:
    return lambda values: _number(values, key)


def _number(values: _Values, key: str) -> float:
    value = values[key].value if key in values else None
    return np.nan if value is None else value


def _ppl_ratio(values: _Values) -> float:
    return math.exp(min(_number(values, "ln_ppl_ratio"), 700.0))


def _delta_ppl(values: _Values) -> float:
    return _number(values, "ppl") - _number(values, "ppl_base")


FIDELITY: Mapping[str, _Measure] = {
    **{
        key: _Measure(-1, True, _stored(key))
        for key in (
            "kld_mean", "kld_median", "kld_p90", "kld_p95", "kld_p99", "kld_p999", "kld_max", "kld_geomean",
            "kld_reverse_mean", "jsd_mean", "tv_mean", "delta_p_rms",
        )
    },
    "ppl_ratio": _Measure(-1, False, _ppl_ratio),
    "delta_ppl": _Measure(-1, False, _delta_ppl),
    "ln_ppl_ratio": _Measure(-1, False, _stored("ln_ppl_ratio")),
    "same_top": _Measure(+1, False, _stored("same_top")),
    "top_k_overlap": _Measure(+1, False, _stored("top_k_overlap")),
}  # fmt: skip

_FROM_ROWS = {"kld_reverse_mean": "kld_reverse", "jsd_mean": "jsd", "tv_mean": "tv", "kld_geomean": "kld"}
"""What a run written by another program may lack, and the row metric that it is the mean of."""


def fidelity_variables(cohort: Cohort) -> tuple[Variable, ...]:
    """Each measure of `FIDELITY` on each text, KLD on each task, and the mean KLD over all texts (or tasks).

    A mean that `results.json` lacks is computed from the row file if there is one. A measure that no quant has is
    left out.
    """
    found = [_on_text(cohort, text, name, measure) for text in cohort.texts for name, measure in FIDELITY.items()]
    on_tasks = [
        Variable(HEADLINE, task, -1, True, _column(cohort, lambda q, t=task: task_number(q, t, HEADLINE)))  # type: ignore[misc]
        for task in cohort.tasks
    ]
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

    Tasks: volume, net, direction_index, margin_shift, gold_prob_shift, kld_mean. Texts: token_volume, token_net,
    token_direction_index (of drops and leapfrogs of the top token), delta_p_mean, kld_mean.
    """
    tasks = [
        Variable(name, task, better, name == HEADLINE, _column(cohort, lambda q, t=task, n=name: task_number(q, t, n)))  # type: ignore[misc]
        for task in cohort.tasks
        for name, better in (
            ("net", 1), ("direction_index", 1), ("margin_shift", 1), ("gold_prob_shift", 1), ("volume", -1),
            (HEADLINE, -1),
        )
    ]  # fmt: skip
    texts = [
        Variable(name, text, better, name == HEADLINE, _column(cohort, lambda q, t=text, m=measure: _text(q, t, m)))  # type: ignore[misc]
        for text in cohort.texts
        for name, better, measure in (
            ("token_net", 1, _token_net), ("token_direction_index", 1, _token_index),
            ("delta_p_mean", 1, _stored("delta_p_mean")),
            ("token_volume", -1, _token_volume), (HEADLINE, -1, _stored(HEADLINE)),
        )
    ]  # fmt: skip
    return tuple(v for v in (*tasks, *texts) if np.isfinite(v.values).any())


def _column(cohort: Cohort, value: Callable[[QuantRecord], float]) -> FloatArray:
    return np.array([value(quant) for quant in cohort.quants], np.float64)


def task_number(quant: QuantRecord, task: str, name: str) -> float:
    """A number of a quant on a task by its name in `results.json`; NaN where there is none."""
    return _number(quant.tasks[task].values, name) if task in quant.tasks else np.nan


def _text(quant: QuantRecord, text: str, measure: Callable[[_Values], float]) -> float:
    return measure(quant.texts[text].values) if text in quant.texts else np.nan


def _on_text(cohort: Cohort, text: str, name: str, measure: _Measure) -> Variable:
    values = _column(cohort, lambda quant: _text(quant, text, measure.value))
    if name in _FROM_ROWS:
        for index, quant in enumerate(cohort.quants):
            if text in quant.texts and name not in quant.texts[text].values:
                values[index] = _mean_of_rows(cohort, quant.name, text, name)
    return Variable(name, text, measure.better, measure.log, values)


def _mean_of_rows(cohort: Cohort, quant: str, text: str, name: str) -> float:
    try:
        rows = cohort.rows(quant, text, (_FROM_ROWS[name],)).get(_FROM_ROWS[name])
    except InputError:
        return np.nan
    finite = rows[np.isfinite(rows)] if rows is not None else np.array([])
    if name == "kld_geomean":
        return float(np.exp(np.log(finite).mean())) if len(finite) and finite.min() > 0 else np.nan
    return float(finite.mean()) if len(finite) else np.nan


def _token_net(values: _Values) -> float:
    return (_number(values, "token_leapfrogs") - _number(values, "token_drops")) / max(_number(values, "n_rows"), 1)


def _token_volume(values: _Values) -> float:
    return (_number(values, "token_leapfrogs") + _number(values, "token_drops")) / max(_number(values, "n_rows"), 1)


def _token_index(values: _Values) -> float:
    drops, leapfrogs = _number(values, "token_drops"), _number(values, "token_leapfrogs")
    return (leapfrogs - drops) / (leapfrogs + drops) if leapfrogs + drops > 0 else np.nan
