"""One quant against its base on one task: everything that `results.json` says under `quants[].tasks[NAME]`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from quantprobe.arrays import BoolArray, FloatArray
from quantprobe.errors import InputError
from quantprobe.metrics.answers import Answers
from quantprobe.metrics.direction import measure_direction
from quantprobe.probes.grouping import UNGROUPED
from quantprobe.stats.clusters import cluster_mean, mean_of_known, ratio_of_known
from quantprobe.stats.design import ItemDesign, item_design
from quantprobe.stats.estimates import Estimate, fraction_estimate
from quantprobe.stats.paired import compare_paired
from quantprobe.stats.smoothed import smoothed_change
from quantprobe.stats.summary_groups import GroupSummary, summarise_groups


@dataclass(frozen=True, kw_only=True)
class TaskSummary:
    """The numbers of one quant on one task; fractions 0 to 1, margins and KLD in nats, None where there is none.

    Errors are those of the task's design (`design.ItemDesign`): within strata, between clusters. What belongs to a
    whole report is filled by `verdicts.correct_over_quants`: `net` with its simultaneous interval, `adjusted_p`,
    `alpha_star`, `noninferior`, `verdict`, `sentence`, `mde` and `n_to_settle`. Until then `net` has the interval of
    this comparison alone, and the others are None.
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
    """The net change; its level is that at which all intervals of the report hold together."""
    net_smoothed: Estimate | None = None
    """The change of smoothed accuracy (`stats.smoothed`): an early sign with less noise, and no part of the verdict."""
    direction_index: float | None = None
    direction_index_low: float | None = None
    direction_index_high: float | None = None
    margin_shift: Estimate | None = None
    margin_shift_abs: Estimate | None = None
    margin_shift_ratio: Estimate | None = None
    """Signed over absolute, -1 to 1 (`clusters.ratio_of_known`)."""
    gold_prob_shift: Estimate | None = None
    gold_prob_shift_abs: Estimate | None = None
    gold_prob_shift_ratio: Estimate | None = None
    mcnemar_p: float | None = None
    p: float | None = None
    """Of this comparison alone: McNemar's, and with clusters the larger of it and the t test's."""
    adjusted_p: float | None = None
    """Corrected for every quant and task of the report; at most 1 - level exactly where `net` leaves out 0."""
    margin_shift_p: float | None = None
    """t test of the signed margin shift; a second, more sensitive sign, and no part of the verdict."""
    margin_shift_holm_p: float | None = None
    noninferior: bool | None = None
    """The lower end of `net` is above -margin."""
    verdict: str | None = None
    sentence: str | None = None
    margin: float | None = None
    mde: float | None = None
    """Smallest net change that these items find with power 0.8 at this report's `alpha_star`."""
    n_to_settle: int | None = None
    """Items after which a change of `margin` would be found, and no change be shown equivalent (power 0.8), at
    `alpha_star`, from an upper bound of the volume."""
    kld_mean: Estimate | None = None
    """Mean over items of the item's mean KLD."""
    n_items: int | None = None
    """Items valid in both."""
    n_decoded: int | None = None
    """Items that the quant decoded, where it decoded a sample (`--decide`); None: all."""
    n_invalid: int | None = None
    """Items left out because a log-probability was not finite, or a correctness unknown, in base or quant."""
    n_ties: int | None = None
    """Items whose best choice is shared in base or quant; the first of them is the prediction."""
    n_left_out: int | None = None
    """Questions that never became items (too long, or broken and skipped on request)."""
    by_group: Mapping[str, GroupSummary] = field(default_factory=dict)
    """By name of the group; empty where items have none."""
    grouping: str = UNGROUPED
    """What the groups of the items are: `strata`, `clusters` or `none`; `mixed` where pooled tasks differ."""
    design_effect: float = 1.0
    """Variance of the net change over that of as many independent items."""
    dof: float | None = None
    """Degrees of freedom of the net change where items are clustered."""
    alpha_star: float | None = None
    """1 less the level of this interval by itself, in a report whose intervals all hold together at `net.level`."""


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
    grouping: str = UNGROUPED,
    design: ItemDesign | None = None,
) -> TaskSummary:
    """Compare the answers of a quant with the base's, item by item.

    `norm` gives base and quant under the rule `bytes`, for acc_norm. `margin` is the smallest net change that
    matters, a fraction, chosen before the answers are seen. `grouping` says what the groups of the items are;
    `design`, over all items, replaces the one that follows from it (several tasks pooled). Raises `MismatchError`
    unless both answered the same items, and `InputError` if no item is valid in both, or margin or level is out of
    range.
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
    whole = item_design(base.groups, grouping) if design is None else design
    items = whole.keep(valid)
    change = compare_paired(base.correct[valid], quant.correct[valid], items, level)
    shift = _shift_of((quant.margin - base.margin)[valid], items, "nats", level)
    gold_shift = _shift_of((quant.gold_prob - base.gold_prob)[valid], items, "probability", level)
    kld = np.full(int(valid.sum()), np.nan) if quant.kld is None else quant.kld[valid]
    return TaskSummary(
        rule=rule,
        template=template,
        acc=fraction_estimate(quant.correct[valid], items, level),
        acc_base=fraction_estimate(base.correct[valid], items, level),
        acc_norm=None if norm is None else _accuracy(norm[1], norm[0], whole, level),
        acc_norm_base=None if norm is None else _accuracy(norm[0], norm[1], whole, level),
        drops=change.drops,
        leapfrogs=change.leapfrogs,
        wrong_to_other_wrong=direction.wrong_to_other_wrong,
        volume=change.volume,
        net=change.net,
        net_smoothed=smoothed_net(base.margin[valid], quant.margin[valid], items, level),
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
        adjusted_p=None,
        margin_shift_p=shift.p,
        margin_shift_holm_p=None,
        noninferior=None,
        verdict=None,
        sentence=None,
        margin=margin,
        mde=None,
        n_to_settle=None,
        kld_mean=mean_of_known(kld, items, "nats", level),
        n_items=direction.n,
        n_invalid=direction.n_invalid,
        n_ties=int(((base.tied | quant.tied) & valid).sum()),
        n_left_out=n_left_out,
        by_group=summarise_groups(base, quant, level),
        grouping=grouping,
        design_effect=change.design_effect,
        dof=change.dof,
    )


def smoothed_net(
    base_margin: FloatArray,
    quant_margin: FloatArray,
    design: ItemDesign,
    level: float,
    decoded: BoolArray | None = None,
    probabilities: FloatArray | None = None,
) -> Estimate | None:
    """`smoothed.smoothed_change`; None for answers without margins (imported ones without log-probabilities)."""
    if not np.isfinite(base_margin).any() or not np.isfinite(quant_margin).any():
        return None
    return smoothed_change(base_margin, quant_margin, design, decoded, probabilities, level)


def _accuracy(answers: Answers, other: Answers, design: ItemDesign, level: float) -> Estimate:
    valid = answers.valid & other.valid
    return fraction_estimate(answers.correct[valid], design.keep(valid), level)


def _shift_of(shifts: FloatArray, design: ItemDesign, unit: str, level: float) -> _Shift:
    known = np.isfinite(shifts)
    return _Shift(
        signed=mean_of_known(shifts, design, unit, level),
        absolute=mean_of_known(np.abs(shifts), design, unit, level),
        ratio=ratio_of_known(shifts, design, level),
        p=cluster_mean(shifts[known], design.keep(known)).p_value if known.any() else None,
    )
