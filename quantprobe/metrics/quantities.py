"""What every number of `results.json` is: the one place for names, units and which way is better."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Better = Literal["lower", "higher", "none"]
"""`none`: a count or a rate that says how much changed, not whether for the better."""


@dataclass(frozen=True)
class Quantity:
    """One number of a text or task summary; `name` is its key in `results.json`."""

    name: str
    unit: str
    better: Better
    meaning: str


def _kld_tail(name: str, words: str) -> Quantity:
    return Quantity(name, "nats", "lower", f"{words} KL(base || quant) of a row")


def _delta_p_tail(name: str, words: str) -> Quantity:
    return Quantity(name, "probability", "higher", f"{words} change of a target's probability (quant - base)")


TEXT_QUANTITIES = (
    Quantity("ppl", "ppl", "lower", "perplexity of the quant: exp of the mean -ln p of the targets"),
    Quantity("ppl_base", "ppl", "lower", "perplexity of the base on the same rows"),
    Quantity("ppl_ratio", "ratio", "lower", "ppl / ppl_base, paired"),
    Quantity("ln_ppl_ratio", "nats", "lower", "mean difference of -ln p of the target (quant - base)"),
    Quantity("kld_mean", "nats", "lower", "mean KL(base || quant) over all rows"),
    Quantity("kld_geomean", "nats", "lower", "geometric mean of KL(base || quant): the typical row, blind to outliers"),
    _kld_tail("kld_min", "smallest"),
    _kld_tail("kld_p001", "0.1 % percentile of"),
    _kld_tail("kld_p01", "1 % percentile of"),
    _kld_tail("kld_p05", "5 % percentile of"),
    _kld_tail("kld_p10", "10 % percentile of"),
    _kld_tail("kld_median", "median"),
    _kld_tail("kld_p90", "90 % percentile of"),
    _kld_tail("kld_p95", "95 % percentile of"),
    _kld_tail("kld_p99", "99 % percentile of"),
    _kld_tail("kld_p999", "99.9 % percentile of"),
    _kld_tail("kld_max", "largest"),
    Quantity("kld_reverse_mean", "nats", "lower", "mean KL(quant || base): punishes mass where the base has none"),
    Quantity("jsd_mean", "nats", "lower", "mean Jensen-Shannon divergence, symmetric, at most ln 2"),
    Quantity("tv_mean", "probability", "lower", "mean total variation: probability mass that moved to other tokens"),
    Quantity("same_top", "fraction", "higher", "rows where base and quant have the same most probable token"),
    Quantity(
        "top_k_overlap", "fraction", "higher", "share of the base's ten most probable tokens among the quant's ten"
    ),
    Quantity("delta_p_mean", "probability", "higher", "mean change of the target's probability (quant - base)"),
    Quantity("delta_p_rms", "probability", "lower", "root mean square change of the target's probability"),
    _delta_p_tail("delta_p_min", "lowest"),
    _delta_p_tail("delta_p_p001", "0.1 % percentile of the"),
    _delta_p_tail("delta_p_p01", "1 % percentile of the"),
    _delta_p_tail("delta_p_p05", "5 % percentile of the"),
    _delta_p_tail("delta_p_p10", "10 % percentile of the"),
    _delta_p_tail("delta_p_p25", "25 % percentile of the"),
    _delta_p_tail("delta_p_median", "median"),
    _delta_p_tail("delta_p_p75", "75 % percentile of the"),
    _delta_p_tail("delta_p_p90", "90 % percentile of the"),
    _delta_p_tail("delta_p_p95", "95 % percentile of the"),
    _delta_p_tail("delta_p_p99", "99 % percentile of the"),
    _delta_p_tail("delta_p_p999", "99.9 % percentile of the"),
    _delta_p_tail("delta_p_max", "highest"),
    Quantity("token_drops", "rows", "lower", "rows where the base's first choice is the target and the quant's is not"),
    Quantity(
        "token_leapfrogs", "rows", "higher", "rows where the quant's first choice is the target and the base's is not"
    ),
    Quantity("n_rows", "rows", "none", "scored rows with finite numbers"),
    Quantity("n_nonfinite", "rows", "lower", "scored rows left out: NaN or infinity in the logits or in the result"),
)
"""The numbers of `texts[NAME]`, in the order of `TextSummary`."""

TASK_QUANTITIES = (
    Quantity("acc", "fraction", "higher", "questions the quant answers right"),
    Quantity("acc_base", "fraction", "higher", "questions the base answers right"),
    Quantity("acc_norm", "fraction", "higher", "as acc, choices compared by log-probability per byte"),
    Quantity("drops", "questions", "lower", "base right, quant wrong"),
    Quantity("leapfrogs", "questions", "higher", "base wrong, quant right"),
    Quantity("wrong_to_other_wrong", "questions", "none", "both wrong, with different answers"),
    Quantity(
        "volume", "fraction", "lower", "(drops + leapfrogs) / n: how many answers changed between right and wrong"
    ),
    Quantity("net", "fraction", "higher", "(leapfrogs - drops) / n: the change of accuracy"),
    Quantity(
        "direction_index",
        "ratio",
        "higher",
        "(leapfrogs - drops) / (leapfrogs + drops): -1 only drops, +1 only leapfrogs",
    ),
    Quantity("margin_shift", "nats", "higher", "mean change of ln P(correct) - ln P(best wrong)"),
    Quantity("gold_prob_shift", "probability", "higher", "mean change of the correct choice's share of probability"),
    Quantity("mcnemar_p", "p-value", "none", "exact McNemar test of drops against leapfrogs"),
    Quantity("holm_p", "p-value", "none", "mcnemar_p corrected for all quants of the table (Holm)"),
    Quantity("margin", "fraction", "none", "equivalence margin of the accuracy, fixed beforehand"),
    Quantity("mde", "fraction", "none", "smallest change of accuracy that this many questions could show"),
    Quantity("kld_mean", "nats", "lower", "mean over questions of the KL(base || quant) of their rows"),
    Quantity("n_items", "questions", "none", "questions compared"),
    Quantity("n_invalid", "questions", "lower", "questions left out: a choice without a finite log-probability"),
)
"""The numbers of `tasks[NAME]`."""


def text_quantity(name: str) -> Quantity:
    """The text quantity of that name; KeyError if there is none."""
    return _TEXT_BY_NAME[name]


def task_quantity(name: str) -> Quantity:
    """The task quantity of that name; KeyError if there is none."""
    return _TASK_BY_NAME[name]


_TEXT_BY_NAME = {quantity.name: quantity for quantity in TEXT_QUANTITIES}
_TASK_BY_NAME = {quantity.name: quantity for quantity in TASK_QUANTITIES}
