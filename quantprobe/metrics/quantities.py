"""What every number is: the one declaration of its name, unit, formula, title, and of which way is better.

`ROW_METRICS` are the numbers of one scored token, `TextNumbers` those of a text and `TASK_QUANTITIES` those of a task.
Row files, summaries, tables and the documentation take names, units and titles from here. A new row metric is computed
in `kernels.py` and declared here; where a text shall have its mean, that is a field of `TextNumbers`.
"""

# The defaults of `TextNumbers` all come from dataclasses.field.
# ruff: noqa: RUF009

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Generic, Literal, TypeVar

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


def _row(
    name: str, unit: str, better: Better, meaning: str, title: str, idea: Idea, *, log: bool = False
) -> tuple[str, Quantity]:
    return name, Quantity(name=name, unit=unit, better=better, meaning=meaning, title=title, idea=idea, log=log)


FLAG = "true or false"
"""The unit of a row metric that is a flag."""

ROW_METRICS: Mapping[str, Quantity] = dict(
    (
        _row("nll_base", "nats", "lower", "-ln p[t]", "NLL (base)", "base"),
        _row("nll", "nats", "lower", "-ln q[t]", "NLL", "ppl"),
        _row("kld", "nats", "lower", "KL(base || quant) = sum p ln(p/q)", "KLD", "kld", log=True),
        _row("kld_reverse", "nats", "lower", "KL(quant || base) = sum q ln(q/p)", "Reverse KLD", "kld", log=True),
        _row("jsd", "nats", "lower", "(KL(p || m) + KL(q || m)) / 2 with m = (p + q) / 2, at most ln 2", "JSD", "kld",
             log=True),
        _row("tv", "probability", "lower", "sum |p - q| / 2, 0 to 1", "TV", "kld", log=True),
        _row("top_k_overlap", "fraction", "higher",
             "share of the base's ten most probable tokens that are among the quant's ten", "Top-10 overlap", "top"),
        _row("delta_p", "probability", "higher", "change of the target's probability, q[t] - p[t]", "Δp",
             "probability"),
        _row("delta_logp", "nats", "higher", "ln q[t] - ln p[t]", "Δ ln p", "ppl"),
        _row("base_entropy", "nats", "none", "-sum p ln p", "Entropy (base)", "base"),
        _row("base_confidence", "probability", "none", "max p", "Confidence (base)", "base"),
        _row("same_top", FLAG, "higher", "base and quant have the same most probable token", "Same top", "top"),
        _row("base_right", FLAG, "higher", "the base's most probable token is t", "Right (base)", "base"),
        _row("quant_right", FLAG, "higher", "the quant's most probable token is t", "Right", "top"),
        _row("finite", FLAG, "higher", "every float field of the row is a finite number", "Finite", "count"),
    )
)  # fmt: skip
"""The fields of a row in order, floats before flags: p = softmax(base), q = softmax(quant), t the target token."""


def _number(
    unit: str, better: Better, meaning: str, title: str, idea: Idea, *, required: bool = False, **more: Any
) -> Any:
    """A field of `TextNumbers` with its declaration; None unless it is `required`."""
    metadata = {"unit": unit, "better": better, "meaning": meaning, "title": title, "idea": idea, **more}
    return field(metadata=metadata) if required else field(default=None, metadata=metadata)


def _mean(rows: str, meaning: str, title: str, *, required: bool = False) -> Any:
    """The mean of a row metric over all rows, of a flag the share; with the metric's unit and direction."""
    metric = ROW_METRICS[rows]
    unit, how = ("fraction", "share") if metric.unit == FLAG else (metric.unit, "mean")
    more = {"log": metric.log, "rows": rows, "how": how}
    return _number(unit, metric.better, meaning, title, metric.idea, required=required, **more)


def _percentile(rows: str, fraction: float, *, tail: bool = False) -> Any:
    metric = ROW_METRICS[rows]
    rank = f"{100 * fraction:g} %"
    words, title = {
        0.0: ("smallest", f"Min {metric.title}"),
        0.5: ("median", f"Median {metric.title}"),
        1.0: ("largest", f"Max {metric.title}"),
    }.get(fraction, (f"{rank} percentile", f"{metric.title} {rank}"))
    more: dict[str, Any] = {"log": metric.log, "rows": rows, "how": "percentile", "fraction": fraction}
    idea: Idea = "tail" if tail else metric.idea
    return _number(metric.unit, metric.better, f"{words} of the rows' {metric.title}", title, idea, **more)


@dataclass(frozen=True, kw_only=True)
class TextNumbers(Generic[Estimate]):
    """The numbers of one quant on one text, `texts[NAME]` of `results.json`, each with its declaration.

    Everything but the mean KLD may be unknown (None) where another program measured.
    """

    ppl: Estimate | None = _number(
        "ppl", "lower", "perplexity of the quant: exp of the mean -ln q of the targets", "PPL", "ppl"
    )
    ppl_base: Estimate | None = _number("ppl", "lower", "perplexity of the base on the same rows", "PPL (base)", "base")
    ppl_ratio: Estimate | None = _number("ratio", "lower", "ppl / ppl_base, paired", "PPL ratio", "ppl")
    ln_ppl_ratio: Estimate | None = _number(
        "nats", "lower", "mean difference of -ln p of the target (quant - base)", "ln PPL ratio", "ppl"
    )
    kld_mean: Estimate = _mean("kld", "mean KL(base || quant) over all rows", "Mean KLD", required=True)
    kld_geomean: float | None = _number(
        "nats", "lower",
        "geometric mean of KL(base || quant): the typical row, blind to outliers; 0 where any row's is 0",
        "Geomean KLD", "kld", log=True, rows="kld", how="geometric mean",
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
        "kld_reverse", "mean KL(quant || base): punishes mass where the base has none", "Reverse KLD"
    )
    jsd_mean: Estimate | None = _mean("jsd", "mean Jensen-Shannon divergence, symmetric, at most ln 2", "JSD")
    tv_mean: Estimate | None = _mean("tv", "mean total variation: probability mass that moved to other tokens", "TV")
    same_top: Estimate | None = _mean(
        "same_top", "rows where base and quant have the same most probable token", "Same top"
    )
    top_k_overlap: Estimate | None = _mean(
        "top_k_overlap", "share of the base's ten most probable tokens among the quant's ten", "Top-10 overlap"
    )
    delta_p_mean: Estimate | None = _mean(
        "delta_p", "mean change of the target's probability (quant - base)", "Mean Δp"
    )
    delta_p_rms: Estimate | None = _number(
        "probability", "lower", "root mean square change of the target's probability", "RMS Δp", "probability",
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
        "rows", "lower", "rows where the base's first choice is the target and the quant's is not", "Token drops",
        "direction",
    )  # fmt: skip
    token_leapfrogs: int | None = _number(
        "rows", "higher", "rows where the quant's first choice is the target and the base's is not", "Token leapfrogs",
        "direction",
    )  # fmt: skip
    n_rows: int | None = _number("rows", "none", "scored rows with finite numbers", "Rows", "count")
    n_nonfinite: int | None = _number(
        "rows", "lower", "scored rows left out: NaN or infinity in the logits or in the result", "Non-finite", "count"
    )


def _task(
    name: str, unit: str, better: Better, title: str, idea: Idea, meaning: str, *, log: bool = False
) -> tuple[str, Quantity]:
    return name, Quantity(name=name, unit=unit, better=better, meaning=meaning, title=title, idea=idea, log=log)


TEXT_QUANTITIES: Mapping[str, Quantity] = {
    each.name: Quantity(name=each.name, **each.metadata) for each in fields(TextNumbers)
}
"""The numbers of `texts[NAME]`, in their order there."""

TASK_QUANTITIES: Mapping[str, Quantity] = dict(
    (
        _task("acc", "fraction", "higher", "Accuracy", "accuracy", "questions that the quant answers right"),
        _task("acc_base", "fraction", "higher", "Accuracy (base)", "base", "questions that the base answers right"),
        _task("acc_norm", "fraction", "higher", "Acc norm", "accuracy",
              "as acc, choices compared by log-probability per character (the rule `chars`)"),
        _task("acc_norm_base", "fraction", "higher", "Acc norm (base)", "base", "the same of the base"),
        _task("drops", "questions", "lower", "Drops", "direction", "base right, quant wrong"),
        _task("leapfrogs", "questions", "higher", "Leapfrogs", "direction", "base wrong, quant right"),
        _task("wrong_to_other_wrong", "questions", "none", "Wrong to other wrong", "volume",
              "both wrong, with different answers"),
        _task("volume", "fraction", "lower", "Volume", "volume",
              "(drops + leapfrogs) / n: how many answers changed between right and wrong"),
        _task("net", "fraction", "higher", "Net change", "direction",
              "(leapfrogs - drops) / n: the change of accuracy"),
        _task("net_for_equivalence", "fraction", "higher", "Net change", "test",
              "net with the interval that decides about equivalence, at level 1 - 2 (1 - level)"),
        _task("direction_index", "ratio", "higher", "Direction index", "direction",
              "(leapfrogs - drops) / (leapfrogs + drops): -1 only drops, +1 only leapfrogs"),
        _task("direction_index_low", "ratio", "higher", "Direction index, low", "direction", "its interval"),
        _task("direction_index_high", "ratio", "higher", "Direction index, high", "direction", "its interval"),
        _task("margin_shift", "nats", "higher", "Margin shift", "direction",
              "mean change of ln P(correct) - ln P(best wrong)"),
        _task("margin_shift_abs", "nats", "lower", "Absolute margin shift", "volume", "mean of its absolute values"),
        _task("margin_shift_ratio", "ratio", "higher", "Margin shift ratio", "direction",
              "signed over absolute, -1 to 1"),
        _task("gold_prob_shift", "probability", "higher", "Gold probability shift", "direction",
              "mean change of the correct choice's share of probability"),
        _task("gold_prob_shift_abs", "probability", "lower", "Absolute gold probability shift", "volume",
              "mean of its absolute values"),
        _task("gold_prob_shift_ratio", "ratio", "higher", "Gold probability shift ratio", "direction",
              "signed over absolute, -1 to 1"),
        _task("mcnemar_p", "p-value", "none", "McNemar p", "test", "exact McNemar test of drops against leapfrogs"),
        _task("p", "p-value", "none", "p", "test",
              "the larger of mcnemar_p and, with groups, the cluster-robust p"),
        _task("holm_p", "p-value", "none", "Holm p", "test", "p corrected for all quants of the table (Holm)"),
        _task("margin_shift_p", "p-value", "none", "Margin shift p", "test", "t test of margin_shift"),
        _task("margin_shift_holm_p", "p-value", "none", "Margin shift Holm p", "test",
              "margin_shift_p corrected for all quants of the table (Holm)"),
        _task("margin", "fraction", "none", "Equivalence margin", "test",
              "smallest change of accuracy that matters, fixed beforehand"),
        _task("mde", "fraction", "none", "Detectable", "test",
              "smallest change of accuracy that this many questions could show"),
        _task("n_to_settle", "questions", "none", "To settle", "test",
              "questions after which a change of the margin would be found, and no change be shown equivalent"),
        _task("kld_mean", "nats", "lower", "Mean KLD", "kld",
              "mean over questions of the KL(base || quant) of their rows", log=True),
        _task("n_items", "questions", "none", "Items", "count", "questions compared"),
        _task("n_invalid", "questions", "lower", "Invalid", "count",
              "questions left out: a choice without a finite log-probability, or a correctness that nobody told"),
        _task("n_ties", "questions", "none", "Ties", "count", "questions whose best choice is shared"),
        _task("n_left_out", "questions", "none", "Left out", "count",
              "questions that were never asked: too long, or broken and skipped on request"),
    )
)  # fmt: skip
"""The numbers of `tasks[NAME]`, in their order there."""

QUANTITIES: Mapping[str, Quantity] = {**TASK_QUANTITIES, **TEXT_QUANTITIES}
"""Every number of `results.json` by name. `kld_mean`, which both have, is the text's here; unit and title are one."""


def text_quantity(name: str) -> Quantity:
    """The number of a text of that name; KeyError if there is none."""
    return TEXT_QUANTITIES[name]


def task_quantity(name: str) -> Quantity:
    """The number of a task of that name; KeyError if there is none."""
    return TASK_QUANTITIES[name]
