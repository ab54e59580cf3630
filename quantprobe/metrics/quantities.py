"""What every number is: the one declaration of its name, unit, formula, title, and of which way is better.

`ROW_QUANTITIES` are the numbers of one scored token, `TEXT_QUANTITIES` (the fields of `TextNumbers`) those of a text,
`TASK_QUANTITIES` those of a task. Row files, summaries, tables and the documentation take names, units and titles from
here. A new row metric is computed in `kernels.py` and declared here; its mean over a text is a field of `TextNumbers`.
"""

# The defaults of `TextNumbers` all come from dataclasses.field.
# ruff: noqa: RUF009

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Generic, Literal, TypeVar

TOP_K = 10
"""Length of the lists whose overlap is counted."""

Better = Literal["lower", "higher", "none"]
"""`none`: a count or a rate that says how much changed, not whether for the better."""
Idea = Literal["ppl", "kld", "tail", "top", "probability", "accuracy", "direction", "volume", "test", "base", "count"]
"""What a number is about. Numbers of one idea say much the same of a quant: a short table needs one of each."""
How = Literal["mean", "share", "rms", "geometric mean", "percentile"]

Estimate = TypeVar("Estimate")
"""The record of a number with its uncertainty (`quantprobe.stats.estimates.Estimate`), which lies a layer above."""


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """The declaration of one number."""

    name: str
    """Its key in `results.json`; of a row metric its array in a row file."""
    unit: str
    better: Better
    meaning: str
    """Formula and meaning, in one line."""
    title: str
    """Of a column, without the unit."""
    idea: Idea
    log: bool = False
    """Whether its natural scale is the logarithm: it is above 0 and spans decades."""
    rows: str = ""
    """The row metric that it summarises; empty where it is another function of the rows (`stats/summary.py`)."""
    how: How = "mean"
    """How it summarises them."""
    fraction: float = 0.0
    """Of a percentile, 0 (the smallest) to 1 (the largest)."""


def _declare(
    name: str, unit: str, better: Better, title: str, idea: Idea, meaning: str, *, log: bool = False
) -> Quantity:
    return Quantity(name=name, unit=unit, better=better, meaning=meaning, title=title, idea=idea, log=log)


FLAG = "true or false"
"""The unit of a row metric that is a flag."""

ROW_QUANTITIES = (
    _declare("nll_base", "nats", "lower", "NLL (base)", "base", "-ln p[t]"),
    _declare("nll", "nats", "lower", "NLL", "ppl", "-ln q[t]"),
    _declare("kld", "nats", "lower", "KLD", "kld", "KL(base || quant) = sum p ln(p/q)", log=True),
    _declare("kld_reverse", "nats", "lower", "Reverse KLD", "kld", "KL(quant || base) = sum q ln(q/p)", log=True),
    _declare("jsd", "nats", "lower", "JSD", "kld",
             "(KL(p || m) + KL(q || m)) / 2 with m = (p + q) / 2, at most ln 2", log=True),
    _declare("tv", "probability", "lower", "TV", "kld", "sum |p - q| / 2, 0 to 1", log=True),
    _declare("top_k_overlap", "fraction", "higher", "Top-10 overlap", "top",
             "share of the base's ten most probable tokens that are among the quant's ten"),
    _declare("delta_p", "probability", "higher", "Δp", "probability",
             "change of the target's probability, q[t] - p[t]"),
    _declare("delta_logp", "nats", "higher", "Δ ln p", "ppl", "ln q[t] - ln p[t]"),
    _declare("base_entropy", "nats", "none", "Entropy (base)", "base", "-sum p ln p"),
    _declare("base_confidence", "probability", "none", "Confidence (base)", "base", "max p"),
    _declare("same_top", FLAG, "higher", "Same top", "top", "base and quant have the same most probable token"),
    _declare("base_right", FLAG, "higher", "Right (base)", "base", "the base's most probable token is t"),
    _declare("quant_right", FLAG, "higher", "Right", "top", "the quant's most probable token is t"),
    _declare("finite", FLAG, "higher", "Finite", "count", "every float field of the row is a finite number"),
)  # fmt: skip
"""The fields of a row in order, floats before flags: p = softmax(base), q = softmax(quant), t the target token."""

_ROWS = {quantity.name: quantity for quantity in ROW_QUANTITIES}


def _number(
    unit: str, better: Better, title: str, idea: Idea, meaning: str, *, required: bool = False, **more: Any
) -> Any:
    """A field of `TextNumbers` with its declaration; None unless it is `required`."""
    metadata = {"unit": unit, "better": better, "title": title, "idea": idea, "meaning": meaning, **more}
    return field(metadata=metadata) if required else field(default=None, metadata=metadata)


def _mean(rows: str, title: str, meaning: str, *, required: bool = False) -> Any:
    """The mean of a row metric over all rows, of a flag the share; with the metric's unit and direction."""
    metric = _ROWS[rows]
    unit, how = ("fraction", "share") if metric.unit == FLAG else (metric.unit, "mean")
    more = {"log": metric.log, "rows": rows, "how": how}
    return _number(unit, metric.better, title, metric.idea, meaning, required=required, **more)


def _percentile(rows: str, fraction: float, *, tail: bool = False) -> Any:
    metric = _ROWS[rows]
    rank = f"{100 * fraction:g} %"
    words, title = {
        0.0: ("smallest", f"Min {metric.title}"),
        0.5: ("median", f"Median {metric.title}"),
        1.0: ("largest", f"Max {metric.title}"),
    }.get(fraction, (f"{rank} percentile", f"{metric.title} {rank}"))
    more: dict[str, Any] = {"log": metric.log, "rows": rows, "how": "percentile", "fraction": fraction}
    idea: Idea = "tail" if tail else metric.idea
    return _number(metric.unit, metric.better, title, idea, f"{words} of the rows' {metric.title}", **more)


@dataclass(frozen=True, kw_only=True)
class TextNumbers(Generic[Estimate]):
    """The numbers of one quant on one text, `texts[NAME]` of `results.json`, each with its declaration.

    Everything but the mean KLD may be unknown (None) where another program measured.
    """

    ppl: Estimate | None = _number(
        "ppl", "lower", "PPL", "ppl", "perplexity of the quant: exp of the mean -ln q of the targets"
    )
    ppl_base: Estimate | None = _number("ppl", "lower", "PPL (base)", "base", "perplexity of the base on the same rows")
    ppl_ratio: Estimate | None = _number("ratio", "lower", "PPL ratio", "ppl", "ppl / ppl_base, paired")
    ln_ppl_ratio: Estimate | None = _number(
        "nats", "lower", "ln PPL ratio", "ppl", "mean difference of -ln p of the target (quant - base)"
    )
    kld_mean: Estimate = _mean("kld", "Mean KLD", "mean KL(base || quant) over all rows", required=True)
    kld_geomean: float | None = _number(
        "nats", "lower", "Geomean KLD", "kld",
        "geometric mean of KL(base || quant): the typical row, blind to outliers; 0 where any row's is 0",
        log=True, rows="kld", how="geometric mean",
    )  # fmt: skip
    kld_min: float | None = _percentile("kld", 0.0)
    kld_p001: float | None = _percentile("kld", 0.001)
    kld_p01: float | None = _percentile("kld", 0.01)
    kld_p05: float | None = _percentile("kld", 0.05)
    kld_p10: float | None = _percentile("kld", 0.1)
    kld_median: float | None = _percentile("kld", 0.5)
    kld_p90: float | None = _percentile("kld", 0.9, tail=True)
    kld_p95: float | None = _percentile("kld", 0.95, tail=True)
    kld_p99: float | None = _percentile("kld", 0.99, tail=True)
    kld_p999: float | None = _percentile("kld", 0.999, tail=True)
    kld_max: float | None = _percentile("kld", 1.0, tail=True)
    kld_reverse_mean: Estimate | None = _mean(
        "kld_reverse", "Reverse KLD", "mean KL(quant || base): punishes mass where the base has none"
    )
    jsd_mean: Estimate | None = _mean("jsd", "JSD", "mean Jensen-Shannon divergence, symmetric, at most ln 2")
    tv_mean: Estimate | None = _mean("tv", "TV", "mean total variation: probability mass that moved to other tokens")
    same_top: Estimate | None = _mean(
        "same_top", "Same top", "rows where base and quant have the same most probable token"
    )
    top_k_overlap: Estimate | None = _mean(
        "top_k_overlap", "Top-10 overlap", "share of the base's ten most probable tokens among the quant's ten"
    )
    delta_p_mean: Estimate | None = _mean(
        "delta_p", "Mean Δp", "mean change of the target's probability (quant - base)"
    )
    delta_p_rms: Estimate | None = _number(
        "probability", "lower", "RMS Δp", "probability", "root mean square change of the target's probability",
        log=True, rows="delta_p", how="rms",
    )  # fmt: skip
    delta_p_min: float | None = _percentile("delta_p", 0.0)
    delta_p_p001: float | None = _percentile("delta_p", 0.001)
    delta_p_p01: float | None = _percentile("delta_p", 0.01)
    delta_p_p05: float | None = _percentile("delta_p", 0.05)
    delta_p_p10: float | None = _percentile("delta_p", 0.1)
    delta_p_p25: float | None = _percentile("delta_p", 0.25)
    delta_p_median: float | None = _percentile("delta_p", 0.5)
    delta_p_p75: float | None = _percentile("delta_p", 0.75)
    delta_p_p90: float | None = _percentile("delta_p", 0.9)
    delta_p_p95: float | None = _percentile("delta_p", 0.95)
    delta_p_p99: float | None = _percentile("delta_p", 0.99)
    delta_p_p999: float | None = _percentile("delta_p", 0.999)
    delta_p_max: float | None = _percentile("delta_p", 1.0)
    token_drops: int | None = _number(
        "rows", "lower", "Token drops", "direction",
        "rows where the base's first choice is the target and the quant's is not",
    )  # fmt: skip
    token_leapfrogs: int | None = _number(
        "rows", "higher", "Token leapfrogs", "direction",
        "rows where the quant's first choice is the target and the base's is not",
    )  # fmt: skip
    n_rows: int | None = _number("rows", "none", "Rows", "count", "scored rows with finite numbers")
    n_nonfinite: int | None = _number(
        "rows", "lower", "Non-finite", "count", "scored rows left out: NaN or infinity in the logits or in the result"
    )


TEXT_QUANTITIES = tuple(Quantity(name=each.name, **each.metadata) for each in fields(TextNumbers))
"""The numbers of `texts[NAME]`, in their order there."""

TASK_QUANTITIES = (
    _declare("acc", "fraction", "higher", "Accuracy", "accuracy", "questions that the quant answers right"),
    _declare("acc_base", "fraction", "higher", "Accuracy (base)", "base", "questions that the base answers right"),
    _declare("acc_norm", "fraction", "higher", "Acc norm", "accuracy",
             "as acc, choices compared by log-probability per character (the rule `chars`)"),
    _declare("acc_norm_base", "fraction", "higher", "Acc norm (base)", "base", "acc_norm of the base"),
    _declare("drops", "questions", "lower", "Drops", "direction", "base right, quant wrong"),
    _declare("leapfrogs", "questions", "higher", "Leapfrogs", "direction", "base wrong, quant right"),
    _declare("wrong_to_other_wrong", "questions", "none", "Wrong to other wrong", "volume",
             "both wrong, with different answers"),
    _declare("volume", "fraction", "lower", "Volume", "volume",
             "(drops + leapfrogs) / n: how many answers changed between right and wrong"),
    _declare("net", "fraction", "higher", "Net change", "direction",
             "(leapfrogs - drops) / n: the change of accuracy, with an interval that holds together with all others of "
             "the report"),
    _declare("net_smoothed", "fraction", "higher", "Smoothed change", "direction",
             "mean change of Phi(margin / h), h a tenth of the base margins' standard deviation: an early sign of the "
             "net change with less noise, up to 0.2 points off it, and no part of the verdict"),
    _declare("direction_index", "ratio", "higher", "Direction index", "direction",
             "(leapfrogs - drops) / (leapfrogs + drops): -1 only drops, +1 only leapfrogs"),
    _declare("direction_index_low", "ratio", "higher", "Direction index, low", "direction",
             "lower end of the interval of direction_index"),
    _declare("direction_index_high", "ratio", "higher", "Direction index, high", "direction",
             "upper end of the interval of direction_index"),
    _declare("margin_shift", "nats", "higher", "Margin shift", "direction",
             "mean change of ln P(correct) - ln P(best wrong)"),
    _declare("margin_shift_abs", "nats", "lower", "Absolute margin shift", "volume",
             "mean absolute change of ln P(correct) - ln P(best wrong)"),
    _declare("margin_shift_ratio", "ratio", "higher", "Margin shift ratio", "direction",
             "margin_shift / margin_shift_abs, -1 to 1"),
    _declare("gold_prob_shift", "probability", "higher", "Gold probability shift", "direction",
             "mean change of the correct choice's share of probability"),
    _declare("gold_prob_shift_abs", "probability", "lower", "Absolute gold probability shift", "volume",
             "mean absolute change of the correct choice's share of probability"),
    _declare("gold_prob_shift_ratio", "ratio", "higher", "Gold probability shift ratio", "direction",
             "gold_prob_shift / gold_prob_shift_abs, -1 to 1"),
    _declare("mcnemar_p", "p-value", "none", "McNemar p", "test", "exact McNemar test of drops against leapfrogs"),
    _declare("p", "p-value", "none", "p", "test",
             "mcnemar_p, or with clusters the larger of it and the t test's"),
    _declare("adjusted_p", "p-value", "none", "Adjusted p", "test",
             "p corrected for every quant and task of the report (joint sign flips, Westfall and Young)"),
    _declare("alpha_star", "p-value", "none", "Alpha of one", "test",
             "1 less the level of this interval by itself, in a report whose intervals all hold together"),
    _declare("design_effect", "ratio", "none", "Design effect", "test",
             "variance of the net change over that of as many independent questions"),
    _declare("dof", "degrees", "none", "Degrees of freedom", "test",
             "degrees of freedom of the net change where questions are clustered"),
    _declare("margin_shift_p", "p-value", "none", "Margin shift p", "test", "t test of margin_shift"),
    _declare("margin_shift_holm_p", "p-value", "none", "Margin shift Holm p", "test",
             "margin_shift_p corrected for all quants of the table (Holm)"),
    _declare("margin", "fraction", "none", "Equivalence margin", "test",
             "smallest change of accuracy that matters, fixed beforehand"),
    _declare("mde", "fraction", "none", "Detectable", "test",
             "smallest change of accuracy that the corrected test finds with power 80 %"),
    _declare("n_to_settle", "questions", "none", "To settle", "test",
             "questions after which a change of the margin would be found, and no change be shown equivalent"),
    _declare("kld_mean", "nats", "lower", "Mean KLD", "kld",
             "mean over questions of the KL(base || quant) of their rows", log=True),
    _declare("n_items", "questions", "none", "Items", "count", "questions compared"),
    _declare("n_decoded", "questions", "none", "Decoded", "count",
             "questions that the quant decoded, where it decoded a sample (--decide); null: all"),
    _declare("n_invalid", "questions", "lower", "Invalid", "count",
             "questions left out: a choice without a finite log-probability, or a correctness that nobody told"),
    _declare("n_ties", "questions", "none", "Ties", "count", "questions whose best choice is shared"),
    _declare("n_left_out", "questions", "none", "Left out", "count",
             "questions that were never asked: too long, or broken and skipped on request"),
)  # fmt: skip
"""The numbers of `tasks[NAME]`, in their order there."""

_TEXT = {quantity.name: quantity for quantity in TEXT_QUANTITIES}
_TASK = {quantity.name: quantity for quantity in TASK_QUANTITIES}
QUANTITIES: Mapping[str, Quantity] = {**_TASK, **_TEXT}
"""Every number of `results.json` by name. `kld_mean`, which both have, is the text's here; unit and title are one."""


def text_quantity(name: str) -> Quantity:
    """The number of a text of that name; KeyError if there is none."""
    return _TEXT[name]


def task_quantity(name: str) -> Quantity:
    """The number of a task of that name; KeyError if there is none."""
    return _TASK[name]
