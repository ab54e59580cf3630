"""One quant against its base on a task of which it decoded a sample."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from quantprobe.arrays import BoolArray, FloatArray
from quantprobe.metrics.answers import Answers
from quantprobe.stats.design import ItemDesign
from quantprobe.stats.estimates import Estimate, fraction_estimate
from quantprobe.stats.sampling import sampled_mean
from quantprobe.stats.sequential import Decision
from quantprobe.stats.summary_tasks import TaskSummary, smoothed_net
from quantprobe.stats.verdicts import points_of


def summarise_sampled(
    base: Answers,
    quant: Answers,
    decoded: BoolArray,
    probability: FloatArray,
    design: ItemDesign,
    margin: float,
    level: float = 0.95,
    *,
    rule: str = "",
    template: str = "",
    n_left_out: int = 0,
) -> TaskSummary:
    """Estimates over all items from those that were decoded (`sampling.sampled_mean`), without a verdict.

    `base` has the answers to all items, `quant` those to the decoded ones; an item that is invalid in either leaves
    the pool. Accuracy is the base's own plus the estimated change. Drops, leapfrogs and changes between wrong answers
    are counts of what was decoded, not of all items. Numbers that a sample cannot give are None.
    """
    pool = base.valid & (quant.valid | ~decoded)
    items, drawn, pi = design.keep(pool), decoded[pool], probability[pool]
    before, after = base.correct[pool], quant.correct[pool]
    change = np.where(drawn, after.astype(np.float64) - before, 0.0)

    def mean(values: FloatArray, unit: str) -> Estimate:
        kept = np.isfinite(values) | ~drawn
        if not (kept & drawn).any():
            return Estimate(None, level=level, unit=unit)
        return sampled_mean(values[kept], drawn[kept], pi[kept], items.keep(kept)).estimate(unit, level)

    net = mean(change, "fraction")
    acc_base = fraction_estimate(before, items, level)
    other = ~before & ~after & drawn & (base.pred[pool] != quant.pred[pool])
    kld = np.full(base.n_items, np.nan) if quant.kld is None else quant.kld
    return TaskSummary(
        rule=rule,
        template=template,
        acc=_plus(acc_base, net),
        acc_base=acc_base,
        drops=int((change < 0).sum()),
        leapfrogs=int((change > 0).sum()),
        wrong_to_other_wrong=int(other.sum()),
        volume=mean(np.abs(change), "fraction"),
        net=net,
        net_smoothed=smoothed_net(base.margin[pool], quant.margin[pool], items, level, drawn, pi),
        margin_shift=mean((quant.margin - base.margin)[pool], "nats"),
        gold_prob_shift=mean((quant.gold_prob - base.gold_prob)[pool], "probability"),
        kld_mean=mean(kld[pool], "nats"),
        margin=margin,
        n_items=int(pool.sum()),
        n_decoded=int(drawn.sum()),
        n_invalid=int(base.n_items - pool.sum()),
        n_left_out=n_left_out,
    )


def with_decision(summary: TaskSummary, decision: Decision, margin: float, level: float) -> TaskSummary:
    """The summary with the verdict of its last look; its interval holds over all looks, and at `level` over all quants.

    The rule of the decision must have had its share of 1 - `level` alone.
    """
    value, low, high = points_of(decision.net, margin)
    interval = f"[{low}, {high}]" if low and high else "(no interval)"
    decided = f"{decision.n_decoded:,} of {decision.net.n:,} questions decoded"
    return replace(
        summary,
        net=replace(decision.net, level=level),
        verdict=decision.verdict,
        noninferior=decision.net.low is not None and decision.net.low > -margin,
        sentence=f"{decision.verdict}: {value} points {interval}; {decided}",
    )


def _plus(acc_base: Estimate, net: Estimate) -> Estimate:
    """Accuracy of the quant; its interval is left to the change, which is what was estimated."""
    value = None if acc_base.value is None or net.value is None else acc_base.value + net.value
    return Estimate(value, level=acc_base.level, n=acc_base.n, n_clusters=acc_base.n_clusters, unit="fraction")
