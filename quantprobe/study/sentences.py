"""The findings in plain words: a headline each, and the numbers behind it.

No sentence has more than 30 words and no list more than 5 names; `tests/study/test_sentences.py` checks it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from quantprobe.stats.correlation import Correlation
from quantprobe.stats.estimates import Estimate
from quantprobe.stats.slope import Slope
from quantprobe.study.correlations import PREDICTS, CorrelationRow
from quantprobe.study.fidelity import ALL_TASKS
from quantprobe.study.item_level import ItemLevel, Router
from quantprobe.study.law import EXCLUDED, FOUND, UNDECIDED, WRONG_WAY, Law
from quantprobe.study.zone_findings import Zone

if TYPE_CHECKING:
    from quantprobe.study.findings import Findings

UNIT = "points per e-fold of KLD"
MAX_NAMES = 5


@dataclass(frozen=True)
class Sentence:
    """One finding: what was found in one sentence, and the sentences that belong to it, to fold away."""

    headline: str
    details: tuple[str, ...]
    kind: str
    """`zone`, `full`, `volume`, `cross-task`, `items`, `router`, `ranking` or `remark`, each at most once.

    The headline of `ranking` is the recommendation where there is one.
    """

    def __str__(self) -> str:
        return self.headline


def describe(findings: Findings) -> tuple[Sentence, ...]:
    """All findings, most important first; what could not be computed comes last, from the remarks."""
    found: list[Sentence] = []
    for zone in findings.zones:
        found += [_in_zone(zone, findings), _over_all(zone, findings)]
    found += _volume(findings)
    found += _cross_task(findings)
    found += _items(findings)
    found += _routers(findings)
    found += _ranking(findings)
    if findings.remarks:
        found.append(Sentence(findings.remarks[0], findings.remarks[1:], "remark"))
    return tuple(found)


def _in_zone(zone: Zone, findings: Findings) -> Sentence:
    n_all = len(zone.members) + len(zone.outside)
    details = [
        f"Zone: {zone.definition}; {len(zone.members)} of {n_all} quants ({list_names(zone.members)}).",
        *_law_details(zone.zone_law, findings),
        f"Rank correlation with accuracy inside the zone: {format_correlation(zone.inside)}.",
        *_limits(zone, findings.level),
    ]
    return Sentence(_headline(zone.zone_law, "Inside the zone"), tuple(details), "zone")


def _over_all(zone: Zone, findings: Findings) -> Sentence:
    law = zone.full_law
    details = [
        f"The measure is {findings.headline}, against accuracy pooled over the tasks.",
        *_law_details(law, findings),
        f"Rank correlation with accuracy over all quants: {format_correlation(zone.full)}.",
    ]
    if zone.lossy_law.slope.value is not None:
        details.append(f"Beyond the zone the slope is {format_slope(zone.lossy_law.slope)} (not tested).")
    return Sentence(_headline(law, "Over all quants"), tuple(details), "full")


def _headline(law: Law, place: str) -> str:
    slope = law.slope
    size = f"{law.smallest_slope:g} {UNIT}"
    if law.conclusion == FOUND:
        return f"{place} accuracy falls as KLD grows: {format_slope(slope)}."
    if law.conclusion == WRONG_WAY:
        return f"{place} KLD points the wrong way, accuracy rises with it: {format_slope(slope)}."
    if law.conclusion == EXCLUDED:
        low, high = slope.narrow_low or 0.0, slope.narrow_high or 0.0
        interval = f"[{low:+.2f}, {high:+.2f}], {100 * slope.narrow_level:g} % interval"
        return f"{place} there is no law of {size}: the slope is {slope.value:+.2f} ({interval})."
    return f"{place} it cannot be decided whether accuracy falls as KLD grows."


def _law_details(law: Law, findings: Findings) -> list[str]:
    slope = law.slope
    if slope.value is None:
        return [f"There is no slope: {law.because}."]
    details = []
    if law.conclusion == UNDECIDED:
        details += [f"It is undecided because {law.because}.", f"The slope is {format_slope(slope)}."]
    details.append(f"Fitted over {slope.n} quants that span {law.e_folds or 0:.1f} e-folds (factors of 2.7) of KLD.")
    if law.p_adjusted is not None and slope.p is not None and slope.p_quants is not None:
        details.append(
            f"Test against 0: {format_p(slope.p)} for quants and items together, {format_p(slope.p_quants)} for quants "
            f"alone; {format_p(law.p_adjusted)} after Holm's correction."
        )
    if slope.detectable is not None and law.conclusion == UNDECIDED:
        details.append(f"A slope below {slope.detectable:.2f} {UNIT} would usually go unseen here.")
    if law.conclusion == FOUND and _is_small(law):
        details.append(f"It is smaller than {law.smallest_slope:g}, the smallest slope that was said to matter.")
    return [*details, *_families(law, findings)]


def _is_small(law: Law) -> bool:
    low, high = law.slope.narrow_low, law.slope.narrow_high
    return low is not None and high is not None and -law.smallest_slope < low and high < law.smallest_slope


def _families(law: Law, findings: Findings) -> list[str]:
    if len(findings.families) < 2:
        return []
    details = ["Quants are compared within families, each with a level of its own."]
    shown = law.families[:MAX_NAMES]
    details += [
        f"Family {family.name or 'unnamed'} alone, {family.n} quants: slope {family.value:+.2f}"
        f"{_bounds(family.low, family.high)}."
        for family in shown
    ]
    if len({family.value > 0 for family in law.families if family.value}) > 1:
        details.append("Warning: the families' slopes differ in sign, so one slope for all may mislead.")
    return details


def _limits(zone: Zone, level: float) -> list[str]:
    accuracy = zone.acc_reliability
    if accuracy.value is None:
        return [f"How much of the differences in accuracy is noise is unknown: {accuracy.reason}."]
    if accuracy.low is None or accuracy.high is None:
        return []
    found = [
        f"Between {100 * accuracy.low:.0f} and {100 * accuracy.high:.0f} % of the variance of accuracy in the zone "
        f"would be seen again with other items ({100 * level:g} % interval)."
    ]
    if zone.ceiling_low is not None and zone.ceiling_high is not None and zone.ceiling_high < 1:
        found.append(
            f"The largest correlation that could show lies between {zone.ceiling_low:.2f} and {zone.ceiling_high:.2f}."
        )
    return found


def _volume(findings: Findings) -> list[Sentence]:
    """How much changes; which way is the law's business."""
    measure, _, source = findings.headline.partition(" on ")
    cells = {
        row.subset: row
        for row in findings.decomposition
        if (row.measure, row.source, row.target, row.target_source) == (measure, source, "volume", ALL_TASKS)
        and row.correlation.value is not None
    }
    if "full" not in cells:
        return []
    places = {"full": "over all quants", "zone": "inside the zone"}
    details = [f"{places[part].capitalize()}: {format_correlation(cells[part].correlation)}." for part in cells]
    shown = [places[part] for part, row in cells.items() if row.reading == PREDICTS]
    if shown:
        return [Sentence(f"More KLD changes more answers, {' and '.join(shown)}.", tuple(details), "volume")]
    return [Sentence("That more KLD changes more answers is not shown.", tuple(details), "volume")]


def _cross_task(findings: Findings) -> list[Sentence]:
    rows = [row for row in findings.cross_task if row.subset == "zone" and row.p_adjusted is not None]
    if not rows:
        return []
    right = [row for row in rows if row.reading == PREDICTS]
    wrong = [row for row in rows if row.reading and row.reading != PREDICTS]
    details = [_cross_row(row) for row in _strongest([*right, *wrong] or rows)]
    details.append(f"Correction: {findings.adjustment}.")
    if right:
        lead = f"Inside the zone {len(right)} of {len(rows)} measures on one task or text predict the other tasks."
    elif wrong:
        lead = f"Inside the zone {len(wrong)} of {len(rows)} measures on one task or text point the wrong way."
    else:
        lead = f"Inside the zone none of {len(rows)} measures on one task or text is shown to predict the other tasks."
    return [Sentence(lead, tuple(details), "cross-task")]


def _strongest(rows: Sequence[CorrelationRow]) -> list[CorrelationRow]:
    return sorted(rows, key=lambda row: -abs(row.correlation.value or 0.0))[:MAX_NAMES]


def _cross_row(row: CorrelationRow) -> str:
    reading = f", {row.reading}" if row.reading and row.reading != PREDICTS else ""
    return f"{row.measure} on {row.source} against {row.target_source}: {format_correlation(row.correlation)}{reading}."


_PLACES = {"full": "all quants", "zone": "the zone"}


def _items(findings: Findings) -> list[Sentence]:
    """Described with intervals, not tested."""
    whole = any(row.task == ALL_TASKS for row in findings.item_level)
    rows = [
        row
        for row in findings.item_level
        if row.subset in _PLACES and row.ratio.value is not None and (not whole or row.task == ALL_TASKS)
    ]
    lead = next((row for row in rows if row.outcome == "fails"), None)
    if lead is None:
        return []
    headline = f"Items that a quant answers wrongly have {format_estimate(lead.ratio, ' times')} the KLD of the others."
    return [Sentence(headline, tuple(_item_detail(row) for row in rows), "items")]


def _item_detail(row: ItemLevel) -> str:
    words = {"fails": "quant wrong", "drops": "base right, quant wrong", "leapfrogs": "base wrong, quant right"}
    return (
        f"{_PLACES[row.subset].capitalize()}, {words[row.outcome]} ({row.n_with:,} against {row.n_without:,} answers): "
        f"KLD ratio {format_estimate(row.ratio)}, AUROC {format_estimate(row.auroc)}."
    )


def _routers(findings: Findings) -> list[Sentence]:
    """Described with intervals, not tested."""
    last: dict[str, Router] = {}
    for row in findings.routers:
        last[row.subset] = row  # over all tasks where there are several
    if not last:
        return []
    lead = next(iter(last.values()))
    details = [
        f"{_PLACES[row.subset].capitalize()}, {row.n_disagreements:,} cases: lower KLD on the item "
        f"{format_estimate(row.by_item, ' %', 100)}, lower mean KLD {format_estimate(row.by_quant, ' %', 100)}."
        for row in last.values()
    ]
    headline = (
        "Where two quants disagree, the one with the lower KLD on the item is right in "
        f"{format_estimate(lead.by_item, ' %', 100)} of cases."
    )
    return [Sentence(headline, tuple(details), "router")]


def _ranking(findings: Findings) -> list[Sentence]:
    ranking = findings.ranking
    if not ranking.quants:
        return []
    base = " (and the base)" if ranking.base_letters else ""
    details = [
        f"{ranking.n_separable} of {ranking.n_pairs} pairs of quants{base} can be told apart by "
        f"{ranking.n_items:,} items (paired, corrected)."
    ]
    sure = [quant for quant in ranking.quants if quant.on_frontier is not None and quant.on_frontier >= 0.5]
    if sure:
        names = list_names([f"{quant.name} ({100 * (quant.on_frontier or 0):.0f} %)" for quant in sure])
        details.append(f"On the frontier of size and accuracy in most resamples: {names}.")
    headline = ranking.recommendation or details.pop(0)
    return [Sentence(headline, tuple(details), "ranking")]


def list_names(names: Sequence[str]) -> str:
    """At most five names, and how many more."""
    if not names:
        return "none"
    rest = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    return ", ".join(names[:MAX_NAMES]) + rest


def format_slope(slope: Slope) -> str:
    """`-0.31 [-0.50, -0.12] points per e-fold of KLD`, with the level where it is not 95 %."""
    if slope.value is None:
        return f"not computable: {slope.reason}"
    level = "" if abs(slope.level - 0.95) < 1e-9 else f" ({100 * slope.level:g} % interval)"
    return f"{slope.value:+.2f}{_bounds(slope.low, slope.high)} {UNIT}{level}"


def _bounds(low: float | None, high: float | None) -> str:
    if low is None or high is None:
        return " (no interval)"
    return f" [{low:+.2f}, {high:+.2f}]"


def format_correlation(r: Correlation) -> str:
    """`rho -0.82 [-0.92, -0.61], p = 0.0004, n = 28`, or what there is of it."""
    if r.value is None:
        return f"not computable ({r.reason})"
    symbol = {"spearman": "rho", "pearson": "r"}[r.method]
    if r.p is None:
        return f"{symbol} {r.value:+.2f}, n = {r.n}, no p ({r.reason})"
    interval = f" ({r.reason})" if r.low is None or r.high is None else f" [{r.low:+.2f}, {r.high:+.2f}]"
    return f"{symbol} {r.value:+.2f}{interval}, {format_p(r.p)}, n = {r.n}"


def format_p(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"


def format_estimate(estimate: Estimate, unit: str = "", factor: float = 1.0) -> str:
    """`2.31x [2.02, 2.64]`."""
    if estimate.value is None:
        return "unknown"
    shown = f"{factor * estimate.value:.{1 if factor > 1 else 2}f}{unit}"
    if estimate.low is None or estimate.high is None:
        return f"{shown} (no interval: too few cases)"
    digits = 1 if factor > 1 else 2
    return f"{shown} [{factor * estimate.low:.{digits}f}, {factor * estimate.high:.{digits}f}]"
