"""The findings in plain words: each with its n, its interval and its p, and with what it does not show."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from quantprobe.stats.correlation import Correlation
from quantprobe.stats.estimates import Estimate
from quantprobe.study.correlations import CorrelationRow
from quantprobe.study.fidelity import ALL_TASKS
from quantprobe.study.zone import INVERSE, NOISE, PREDICTS, RANGE, UNDECIDED, Zone

if TYPE_CHECKING:
    from quantprobe.study.findings import Findings


def describe(findings: Findings) -> tuple[str, ...]:
    """All sentences, most important first; what could not be computed comes last, from the remarks."""
    found: list[str] = []
    if findings.zones:
        found.append(_full(findings))
        found += [_zone(zone, findings.level) for zone in findings.zones]
    found += _decomposition(findings)
    found += _cross_task(findings)
    found += _items(findings)
    found += _routers(findings)
    found += _ranking(findings)
    return (*found, *findings.remarks)


def format_correlation(r: Correlation) -> str:
    """`rho -0.82 [-0.92, -0.61], p = 0.0004, n = 28`, or why there is none."""
    if r.value is None or r.p is None:
        return f"not computable: {r.reason}"
    symbol = {"spearman": "rho", "kendall": "tau", "pearson": "r"}[r.method]
    interval = f" [{r.low:+.2f}, {r.high:+.2f}]" if r.low is not None and r.high is not None else f" ({r.reason})"
    return f"{symbol} {r.value:+.2f}{interval}, {format_p(r.p)}, n = {r.n}"


def format_p(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"


def _full(findings: Findings) -> str:
    full, lossy = findings.zones[0].full, findings.zones[0].lossy
    lead = f"Over all quants, {findings.headline} against accuracy pooled over the tasks: {format_correlation(full)}."
    if full.value is None or full.p is None:
        return lead
    if full.p <= 1 - findings.level and full.value < 0:
        return f"{lead} KLD predicts accuracy over the whole range (lossy quants alone: {format_correlation(lossy)})."
    if full.p <= 1 - findings.level:
        return f"{lead} Quants of higher KLD are the more accurate here, the opposite of what KLD is used for."
    return f"{lead} Over the whole range KLD is not shown to predict accuracy in this cohort."


def _zone(zone: Zone, level: float) -> str:
    n_members, n_all = len(zone.members), len(zone.members) + len(zone.outside)
    lead = f"Silent zone by {zone.kind} ({zone.definition}; {n_members} of {n_all} quants): "
    lead += f"{format_correlation(zone.inside)}. "
    if zone.conclusion == PREDICTS:
        return lead + "Fidelity does predict accuracy inside the zone."
    if zone.conclusion == INVERSE:
        return lead + "Inside the zone quants of higher KLD are the more accurate; choosing by KLD would mislead."
    limits = _limits(zone, level)
    if zone.conclusion == UNDECIDED:
        because = f": {limits}" if limits else ""
        return (
            lead + f"Whether fidelity predicts accuracy inside the zone cannot be decided with these quants{because}."
        )
    lead += "Fidelity is not shown to predict accuracy inside the zone"
    if zone.conclusion == NOISE:
        return lead + f", but benchmark noise alone could hide a law, so this is no evidence against one: {limits}."
    if zone.conclusion == RANGE:
        return lead + (
            "; benchmark noise does not explain that, but the narrower range alone could: differences of KLD "
            f"this small are lost in the scatter around the law: {limits}."
        )
    return lead + f", and neither benchmark noise nor the narrower range explains that: {limits}."


def _limits(zone: Zone, level: float) -> str:
    parts = []
    if zone.expected is not None and zone.expected_low is not None and zone.expected_high is not None:
        parts.append(
            f"the law of all quants would leave r {zone.expected:+.2f} here and show between {zone.expected_low:+.2f} "
            f"and {zone.expected_high:+.2f} in {100 * level:g} % of cohorts of this size (seen: r {zone.pearson:+.2f})"
        )
    if zone.ceiling is not None and zone.acc_reliability.value is not None:
        reliability = f"{zone.acc_reliability.value:.2f}"
        if zone.acc_reliability.low is not None:
            reliability += f" [{zone.acc_reliability.low:.2f}, {zone.acc_reliability.high:.2f}]"
        parts.append(
            f"the split-half reliability of accuracy is {reliability}, so no correlation above {zone.ceiling:.2f} "
            "could show"
        )
    elif zone.inside.value is not None:
        parts.append(f"the reliability of accuracy is unknown ({zone.acc_reliability.reason})")
    return "; ".join(parts)


def _decomposition(findings: Findings) -> list[str]:
    measure, _, source = findings.headline.partition(" on ")
    found = []
    for subset, place in (("full", "Over all quants"), ("zone", "Inside the zone")):
        cells = {
            row.target: row.correlation
            for row in findings.decomposition
            if (row.measure, row.source, row.subset, row.target_source) == (measure, source, subset, ALL_TASKS)
        }
        if {"volume", "net"} <= cells.keys() and cells["volume"].value is not None:
            found.append(
                f"{place}, {findings.headline} goes with how many answers change "
                f"(volume: {format_correlation(cells['volume'])}) "
                f"and with which way (net: {format_correlation(cells['net'])})."
            )
    return found


def _cross_task(findings: Findings) -> list[str]:
    rows = [row for row in findings.cross_task if row.subset == "zone" and row.p_adjusted is not None]
    if not rows:
        return []
    passed = [row for row in rows if row.p_adjusted is not None and row.p_adjusted <= 1 - findings.level]
    kld = [row for row in rows if row.measure == "kld_mean"]
    strongest = max(kld, key=lambda row: abs(row.correlation.value or 0.0)) if kld else None
    beside = (
        f" KLD's strongest is on {strongest.source}: {format_correlation(strongest.correlation)}." if strongest else ""
    )
    if not passed:
        return [
            f"Inside the zone none of {len(rows)} measures taken on one task or text is shown to predict accuracy "
            f"on the other tasks (corrected, {findings.adjustment.split(' ')[0]}).{beside}"
        ]
    return [_best_cross(passed, len(rows)) + beside]


def _best_cross(passed: Sequence[CorrelationRow], n_rows: int) -> str:
    best = max(passed, key=lambda row: abs(row.correlation.value or 0.0))
    return (
        f"Inside the zone {len(passed)} of {n_rows} measures taken on one task or text predict accuracy on the other "
        f"tasks (corrected); the strongest is {best.measure} on {best.source} against {best.target_source}: "
        f"{format_correlation(best.correlation)}."
    )


def _items(findings: Findings) -> list[str]:
    task = next((row.task for row in findings.item_level if row.task == ALL_TASKS), None)
    rows = [row for row in findings.item_level if row.subset == "full" and (task is None or row.task == task)]
    words = {
        "fails": "that a quant answers wrongly has",
        "drops": "that the base answers rightly and a quant then wrongly has",
        "leapfrogs": "that the base answers wrongly and a quant then rightly has",
    }
    return [
        f"An item {words[row.outcome]} {format_estimate(row.ratio, 'x')} the KLD (geometric mean) of one without, "
        f"AUROC {format_estimate(row.auroc)}, over {row.n_with:,} against {row.n_without:,} answers of {row.task}."
        for row in rows
        if row.ratio.value is not None
    ]


def _routers(findings: Findings) -> list[str]:
    found = []
    for subset, place in (("full", "all quants"), ("zone", "the zone's quants")):
        rows = [row for row in findings.routers if row.subset == subset]
        if rows:
            row = rows[-1]  # over all tasks where there are several
            low, high = row.by_item.low, row.by_item.high
            verdict = (
                "no better than a coin"
                if low is None or high is None or low <= 0.5 <= high
                else ("better than a coin" if low > 0.5 else "worse than a coin")
            )
            found.append(
                f"Among pairs of {place} that disagree on an item of {row.task}, the one with the lower KLD on it "
                f"is right in {format_estimate(row.by_item, ' %', 100)} of {row.n_disagreements:,} cases, {verdict}; "
                f"the one with the lower mean KLD in {format_estimate(row.by_quant, ' %', 100)}."
            )
    return found


def _ranking(findings: Findings) -> list[str]:
    ranking = findings.ranking
    if not ranking.quants:
        return []
    base = " (and the base)" if ranking.base_letters else ""
    found = [
        f"{ranking.n_separable} of {ranking.n_pairs} pairs of quants{base} "
        f"can be told apart by {ranking.n_items:,} items (paired, Holm-corrected)."
    ]
    sure = [quant for quant in ranking.quants if quant.on_frontier is not None and quant.on_frontier >= 0.5]
    if sure:
        shares = ", ".join(f"{quant.name} ({100 * (quant.on_frontier or 0):.0f} %)" for quant in sure)
        found.append(f"On the frontier of size and accuracy in at least half of the resamples: {shares}.")
    return [*found, ranking.recommendation] if ranking.recommendation else found


def format_estimate(estimate: Estimate, unit: str = "", factor: float = 1.0) -> str:
    """`2.31x [2.02, 2.64]`."""
    if estimate.value is None:
        return "unknown"
    shown = f"{factor * estimate.value:.{1 if factor > 1 else 2}f}{unit}"
    if estimate.low is None or estimate.high is None:
        return f"{shown} (no interval: too few cases)"
    digits = 1 if factor > 1 else 2
    return f"{shown} [{factor * estimate.low:.{digits}f}, {factor * estimate.high:.{digits}f}]"
