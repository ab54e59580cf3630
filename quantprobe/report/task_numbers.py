"""What results.json says about tasks, typed: the numbers of one quant, and the facts that hold for every quant."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from quantprobe.stats.estimates import Estimate

ESTIMATES = ("acc", "acc_base", "net", "volume", "margin_shift", "gold_prob_shift", "kld_mean")
NORM = ("acc_norm", "acc_norm_base")
"""Estimates that a task may lack."""
COUNTS = ("drops", "leapfrogs", "wrong_to_other_wrong", "n_items", "n_invalid")
NUMBERS = ("direction_index", "mcnemar_p", "holm_p", "margin", "mde")


@dataclass(frozen=True)
class TaskNumbers:
    """What one quant did on one task; units as in results.json (fractions, nats, counts)."""

    acc: Estimate
    acc_base: Estimate
    acc_norm: Estimate | None
    acc_norm_base: Estimate | None
    net: Estimate
    volume: Estimate
    margin_shift: Estimate
    gold_prob_shift: Estimate
    kld_mean: Estimate
    drops: int
    leapfrogs: int
    wrong_to_other_wrong: int
    n_items: int
    n_invalid: int
    n_ties: int
    direction_index: float | None
    mcnemar_p: float | None
    holm_p: float | None
    margin_shift_holm_p: float | None
    """Of the t test of the margin shift, over all quants of the table."""
    margin: float | None
    mde: float | None
    verdict: str
    """Empty where nobody judged."""
    sentence: str
    """The verdict in words; empty where there are none."""


@dataclass(frozen=True)
class TaskFacts:
    """What holds for a task whatever the quant; `quantprobe.sweep.results.TaskFacts` says what each count means."""

    rule: str
    template: str
    n_items: int
    n_left_out: int
    n_identical: int
    n_token_prefix: int
    n_empty_prefix: int
    n_tokens_decoded: int
    n_tokens_naive: int


def read_task(entry: Mapping[str, Any]) -> TaskNumbers:
    """One entry of `quants[].tasks`; KeyError, TypeError or ValueError if it has not the form of one."""
    values: dict[str, Any] = {key: Estimate(**entry[key]) for key in ESTIMATES}
    values |= {key: None if entry.get(key) is None else Estimate(**entry[key]) for key in NORM}
    values |= {key: int(entry[key]) for key in COUNTS}
    values |= {key: None if entry[key] is None else float(entry[key]) for key in NUMBERS}
    values["margin_shift_holm_p"] = entry.get("margin_shift_holm_p")
    values |= {key: entry.get(key) or "" for key in ("verdict", "sentence")}
    return TaskNumbers(**values, n_ties=int(entry.get("n_ties", 0)))


def read_facts(entry: Mapping[str, Any]) -> TaskFacts:
    """One entry of `tasks`."""
    return TaskFacts(**{each.name: entry[each.name] for each in fields(TaskFacts)})
