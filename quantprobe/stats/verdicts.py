"""Verdicts over a table of quants: Holm's correction, and each verdict in one sentence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from quantprobe.stats.paired import EQUIVALENT, NOT_SEPARABLE, WORSE, decide_verdict, holm
from quantprobe.stats.summary_tasks import TaskSummary


def correct_over_quants(summaries: Sequence[TaskSummary]) -> list[TaskSummary]:
    """The same summaries, in the same order, with Holm's p over all of them, the verdicts and their sentences.

    One call per table: the quants of one task, or of the pooled tasks. Margin-shift p that do not exist are left out.
    """
    adjusted = holm([summary.p for summary in summaries])
    known = [i for i, summary in enumerate(summaries) if summary.margin_shift_p is not None]
    shift_p = dict(zip(known, holm([summaries[i].margin_shift_p or 0.0 for i in known]).tolist(), strict=True))
    corrected = []
    for i, summary in enumerate(summaries):
        holm_p = float(adjusted[i])
        verdict = decide_verdict(summary.net, summary.net_for_equivalence, holm_p, summary.margin)
        judged = replace(summary, holm_p=holm_p, verdict=verdict, margin_shift_holm_p=shift_p.get(i))
        corrected.append(replace(judged, sentence=describe_verdict(judged)))
    return corrected


def describe_verdict(summary: TaskSummary) -> str:
    """The verdict in one sentence, in percentage points, with the interval and what would settle it."""
    net, holm_p = summary.net, summary.holm_p
    found = f"net {_points(net.value)} points [{_points(net.low)}, {_points(net.high)}]"
    flips = f"{summary.drops} drops, {summary.leapfrogs} leapfrogs of {summary.n_items} items"
    margin = f"{100 * summary.margin:g}"
    if summary.verdict == EQUIVALENT:
        real = holm_p is not None and holm_p <= 1 - net.level
        which = "loss" if (net.value or 0.0) < 0 else "gain"
        tail = f"; the {which} is real (Holm p = {holm_p:.2g}) but smaller than the margin" if real else ""
        inner = summary.net_for_equivalence
        inside = f"{inner.level:.0%} interval [{_points(inner.low)}, {_points(inner.high)}] inside the margin"
        return f"equivalent within ±{margin} points: {flips}, net {_points(net.value)} points, {inside}{tail}"
    if summary.verdict == NOT_SEPARABLE:
        return (
            f"not separable: {flips}, {found}; these items find a change of {100 * summary.mde:.2g} points, "
            f"about {summary.n_to_settle:,} would settle ±{margin}{_describe_shift(summary)}"
        )
    return f"{summary.verdict}: {flips}, {found}, Holm p = {holm_p:.2g}{_describe_shift(summary)}"


def _describe_shift(summary: TaskSummary) -> str:
    p, shift = summary.margin_shift_holm_p, summary.margin_shift
    if p is None or p > 1 - shift.level or shift.value is None or shift.low is None or shift.high is None:
        return ""
    agrees = summary.verdict == NOT_SEPARABLE or (shift.value < 0) == (summary.verdict == WORSE)
    joint = "; " if agrees else "; against that, "
    which = "away from" if shift.value < 0 else "towards"
    interval = f"{shift.value:+.3g} nats [{shift.low:+.3g}, {shift.high:+.3g}]"
    return f"{joint}margins moved {which} the right answers by {interval}"


def _points(fraction: float | None) -> str:
    return "?" if fraction is None else f"{100 * fraction:+.2f}"
