"""One quant against its base on one task: everything that `results.json` says under `quants[].tasks[NAME]`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from quantprobe.arrays import FloatArray, Int64Array
from quantprobe.errors import InputError
from quantprobe.metrics.answers import Answers
from quantprobe.metrics.direction import measure_direction
from quantprobe.stats.clusters import cluster_bootstrap, cluster_mean, item_clusters, mean_of_known
from quantprobe.stats.estimates import Estimate, fraction_estimate
from quantprobe.stats.paired import PairedChange, compare_paired
from quantprobe.stats.power import items_to_settle, observed_mde
from quantprobe.stats.summary_groups import GroupSummary, summarise_groups


@dataclass(frozen=True, kw_only=True)
class TaskSummary:
    """The numbers of one quant on one task; fractions 0 to 1, margins and KLD in nats, None where there is none.

    Uncertainty is clustered by group where there are enough groups, else by item (`clusters.item_clusters`);
    `n_clusters` of each Estimate says which. `holm_p`, `verdict` and `sentence` belong to a whole table of
    quants: `verdicts.correct_over_quants` fills them, until then they are None.
    """

    rule: str
    template: str = ""
    acc: Estimate
    """Accuracy of the quant under `rule` (lm-evaluation-harness's acc where the rule is `sum`)."""
    acc_base: Estimate | None = None
    acc_norm: Estimate | None = None
    """Accuracy under the rule `bytes`; None where it was not scored."""
    acc_norm_base: Estimate | None = None
    drops: int | None = None
    leapfrogs: int | None = None
    wrong_to_other_wrong: int | None = None
    volume: Estimate | None = None
    net: Estimate | None = None
    net_for_equivalence: Estimate | None = None
    """The net change with the interval that decides about equivalence, at level 1 - 2 (1 - level)."""
    direction_index: float | None = None
    direction_index_low: float | None = None
    direction_index_high: float | None = None
    margin_shift: Estimate | None = None
    margin_shift_abs: Estimate | None = None
    margin_shift_ratio: Estimate | None = None
    """Signed over absolute, -1 to 1; cluster bootstrap."""
    gold_prob_shift: Estimate | None = None
    gold_prob_shift_abs: Estimate | None = None
    gold_prob_shift_ratio: Estimate | None = None
    mcnemar_p: float | None = None
    p: float | None = None
    """The larger of McNemar's and, with groups, the cluster-robust p; what Holm corrects."""
    holm_p: float | None = None
    margin_shift_p: float | None = None
    """t test of the signed margin shift; a second, more sensitive sign, and no part of the verdict."""
    margin_shift_holm_p: float | None = None
    noninferior: bool | None = None
    """The lower end of `net_for_equivalence` is above -margin."""
    verdict: str | None = None
    sentence: str | None = None
    margin: float | None = None
    mde: float | None = None
    """Smallest net change that these items find with power 0.8 at the observed volume."""
    n_to_settle: int | None = None
    """Items after which a change of `margin` would be found, and no change be shown equivalent (power 0.8)."""
    kld_mean: Estimate | None = None
    """Mean over items of the item's mean KLD."""
    n_items: int | None = None
    """Items valid in both."""
    n_invalid: int | None = None
    """Items left out because a log-probability was not finite, or a correctness unknown, in base or quant."""
    n_ties: int | None = None
    """Items whose best choice is shared in base or quant; the first of them is the prediction."""
    n_left_out: int | None = None
    """Questions that never became items (too long, or broken and skipped on request)."""
    by_group: Mapping[str, GroupSummary] = field(default_factory=dict)
    """By name of the group; empty where items have none."""


@dataclass(frozen=True)
class _Shift:
    signed: Estimate
    absolute: Estimate
    ratio: Estimate
    p: float | None


def summarise_task(
    base: Answers,
    quant: Answers,
    margin: float = 0.01,
    level: float = 0.95,
    *,
    rule: str = "",
    template: str = "",
    n_left_out: int = 0,
    norm: tuple[Answers, Answers] | None = None,
) -> TaskSummary:
    """Compare the answers of a quant with the base's, item by item.

    `norm` gives base and quant under the rule `bytes`, for acc_norm. `margin` is the smallest net change that
    matters, a fraction, chosen before the answers are seen. Raises `MismatchError` unless both answered the same
    items, and `InputError` if no item is valid in both, or margin or level is out of range.
    """
    if not 0 < margin < 1:
        raise InputError(
            f"a margin of {margin} is out of range; give a fraction above 0 (0.01 is one percentage point)"
        )
    if not 0.5 < level < 1:
        raise InputError(f"a level of {level} is out of range; give one between 0.5 and 1 (0.95)")
    direction = measure_direction(base, quant)
    valid = base.valid & quant.valid
    if not valid.any():
        raise InputError(f"none of {base.n_items} items is valid in both base and quant; nothing can be compared")
    clusters = item_clusters([group for group, ok in zip(base.groups, valid, strict=True) if ok])
    change = compare_paired(base.correct[valid], quant.correct[valid], clusters, level)
    shift = _shift_of((quant.margin - base.margin)[valid], clusters, "nats", level)
    gold_shift = _shift_of((quant.gold_prob - base.gold_prob)[valid], clusters, "probability", level)
    kld = np.full(int(valid.sum()), np.nan) if quant.kld is None else quant.kld[valid]
    equivalence_low = change.net_for_equivalence.low
    return TaskSummary(
        rule=rule,
        template=template,
        acc=fraction_estimate(quant.correct[valid], clusters, level),
        acc_base=fraction_estimate(base.correct[valid], clusters, level),
        acc_norm=None if norm is None else _accuracy(norm[1], norm[0], level),
        acc_norm_base=None if norm is None else _accuracy(norm[0], norm[1], level),
        drops=change.drops,
        leapfrogs=change.leapfrogs,
        wrong_to_other_wrong=direction.wrong_to_other_wrong,
        volume=change.volume,
        net=change.net,
        net_for_equivalence=change.net_for_equivalence,
        direction_index=direction.index,
        direction_index_low=change.index_low,
        direction_index_high=change.index_high,
        margin_shift=shift.signed,
        margin_shift_abs=shift.absolute,
        margin_shift_ratio=shift.ratio,
        gold_prob_shift=gold_shift.signed,
        gold_prob_shift_abs=gold_shift.absolute,
        gold_prob_shift_ratio=gold_shift.ratio,
        mcnemar_p=change.mcnemar_p,
        p=change.p,
        holm_p=None,
        margin_shift_p=shift.p,
        margin_shift_holm_p=None,
        noninferior=equivalence_low is not None and equivalence_low > -margin,
        verdict=None,
        sentence=None,
        margin=margin,
        mde=observed_mde(change.n_effective, _value(change.volume), 1 - level),
        n_to_settle=_items_to_settle(change, margin, level),
        kld_mean=mean_of_known(kld, clusters, "nats", level),
        n_items=direction.n,
        n_invalid=direction.n_invalid,
        n_ties=int(((base.tied | quant.tied) & valid).sum()),
        n_left_out=n_left_out,
        by_group=summarise_groups(base, quant, level),
    )


def _items_to_settle(change: PairedChange, margin: float, level: float) -> int:
    volume = max(_value(change.volume), margin)
    return round(items_to_settle(margin, volume, 1 - level) * change.net.n / change.n_effective)


def _accuracy(answers: Answers, other: Answers, level: float) -> Estimate:
    valid = answers.valid & other.valid
    clusters = item_clusters([group for group, ok in zip(answers.groups, valid, strict=True) if ok])
    return fraction_estimate(answers.correct[valid], clusters, level)


def _shift_of(shifts: FloatArray, clusters: Int64Array, unit: str, level: float) -> _Shift:
    known = np.isfinite(shifts)
    moved = shifts[known]
    return _Shift(
        signed=mean_of_known(shifts, clusters, unit, level),
        absolute=mean_of_known(np.abs(shifts), clusters, unit, level),
        ratio=_ratio_of(moved, clusters[known], level),
        p=cluster_mean(moved, clusters[known]).p_value if len(moved) else None,
    )


def _ratio_of(shifts: FloatArray, clusters: Int64Array, level: float) -> Estimate:
    columns = np.stack([shifts, np.abs(shifts)], axis=1)
    signed, absolute = columns.sum(axis=0).tolist()
    bounds = cluster_bootstrap(columns, clusters, _signed_share, level) if absolute else None
    low, high = bounds or (None, None)
    value = signed / absolute if absolute else None
    return Estimate(value, None, low, high, level, len(shifts), len(np.unique(clusters)), "ratio")


def _signed_share(sums: FloatArray) -> FloatArray:
    with np.errstate(divide="ignore", invalid="ignore"):
        share: FloatArray = sums[:, 0] / sums[:, 1]
    return share


def _value(estimate: Estimate) -> float:
    return 0.0 if estimate.value is None else estimate.value
