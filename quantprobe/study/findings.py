"""The study as a whole: every question asked of one cohort, and the answers as records and as sentences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import numpy as np

from quantprobe.arrays import BoolArray
from quantprobe.run.cohort import Cohort
from quantprobe.stats.correlation import METHODS, Resampling
from quantprobe.study import sentences
from quantprobe.study.correlations import ADJUSTMENT, CorrelationRow, Part, adjust_p, correlation_table
from quantprobe.study.decomposition import cross_task, decompose
from quantprobe.study.distinct import distinct_quants
from quantprobe.study.fidelity import ALL_TASKS, ALL_TEXTS, HEADLINE, Variable
from quantprobe.study.item_level import ItemLevel, Router, item_level, route
from quantprobe.study.law import SMALLEST_SLOPE
from quantprobe.study.panel import Panel, read_panel
from quantprobe.study.pooled import answers_of
from quantprobe.study.ranking import Ranking, rank
from quantprobe.study.sentences import Sentence, list_names
from quantprobe.study.targets import accuracy_targets
from quantprobe.study.zone import MARGIN, ZoneSpec, zone_members
from quantprobe.study.zone_findings import Zone, study_zone

TESTS = (
    "Claims of a law: the slope over all quants and the one inside the zone, Holm over the two. A slope smaller than "
    "the smallest that matters: two one-sided tests, not corrected. Stars in tables: " + ADJUSTMENT + "; volume is a "
    "family of its own. Item-level numbers and the router are described, not tested."
)


@dataclass(frozen=True)
class Findings:
    """What the study found. `zones[0]` is what `zone` in all tables means."""

    names: tuple[str, ...]
    margin: float
    smallest_slope: float
    """Points of accuracy per e-fold of KLD, declared beforehand: a smaller slope does not matter."""
    level: float
    seed: int
    n_boot: int
    n_perm: int
    headline: str
    """The fidelity measure named beforehand."""
    adjustment: str
    """Of the tables' p; `tests` names every family of tests."""
    tests: str
    families: tuple[str, ...]
    """Names of the families within which quants are compared."""
    identical: tuple[tuple[str, ...], ...]
    """Sets of quants that are one and the same and were counted once."""
    zones: tuple[Zone, ...]
    """The zone that was chosen; none where no KLD or no task was measured."""
    correlations: tuple[CorrelationRow, ...]
    decomposition: tuple[CorrelationRow, ...]
    cross_task: tuple[CorrelationRow, ...]
    item_level: tuple[ItemLevel, ...]
    routers: tuple[Router, ...]
    ranking: Ranking
    sentences: tuple[Sentence, ...]
    remarks: tuple[str, ...]
    """What could not be computed, and why."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types for the `study` of `results.json`; a number that does not exist is None, never NaN."""
        plain: dict[str, Any] = _plain(self)
        return plain


def study_cohort(
    cohort: Cohort,
    margin: float = 0.01,
    zone: ZoneSpec | None = None,
    seed: int = 0,
    level: float = 0.95,
    n_boot: int = 2_000,
    n_perm: int = 9_999,
    smallest_slope: float = SMALLEST_SLOPE,
) -> Findings:
    """Ask whether fidelity predicts accuracy over a cohort, where, and which quant to take.

    Lines of other cache types than the run's are left out (`Cohort.own_lines`).

    Parameters
    ----------
    cohort
        As from `read_cohort`.
    margin
        Largest net change of accuracy that does not matter, a fraction fixed beforehand.
    zone
        The silent zone; KLD up to 0.05 nats if not given.
    seed, level, n_boot, n_perm
        Of all bootstraps, intervals, tests and permutations. The same seed gives the same findings.
    smallest_slope
        Smallest slope that matters, in points of accuracy per e-fold of KLD, fixed beforehand.
    """
    return study_panel(
        read_panel(cohort.own_lines()), margin, zone, Resampling(n_boot, n_perm, seed, level), smallest_slope
    )


def study_panel(
    panel: Panel,
    margin: float = 0.01,
    zone: ZoneSpec | None = None,
    how: Resampling | None = None,
    smallest_slope: float = SMALLEST_SLOPE,
    ranking: Ranking | None = None,
) -> Findings:
    """`study_cohort` for a cohort that is already in arrays; `ranking` is computed if not given."""
    how, spec = how or Resampling(), zone or ZoneSpec()
    ranking = ranking or rank(panel, margin, how)
    everyone = panel.names
    panel, identical = distinct_quants(panel)
    headline, answers = _headline(panel), answers_of(panel, panel.scores.names)
    kld = np.full(panel.n_quants, np.nan) if headline is None else headline.values
    members = zone_members(spec, kld, panel.bpw, answers, how.seed)
    zones: tuple[Zone, ...] = ()
    if headline is not None and panel.scores.names:
        zones = (_with_twins(study_zone(panel, headline, spec, members, answers, how, smallest_slope), identical),)
    tables = _tables(panel, members, spec, how)
    findings = Findings(
        names=everyone,
        margin=margin,
        smallest_slope=smallest_slope,
        level=how.level,
        seed=how.seed,
        n_boot=how.n_boot,
        n_perm=how.n_perm,
        headline="" if headline is None else f"{headline.name} on {headline.source}",
        adjustment=ADJUSTMENT,
        tests=TESTS,
        families=tuple(dict.fromkeys(panel.families)),
        identical=identical,
        zones=zones,
        correlations=tables[0],
        decomposition=tables[1],
        cross_task=tables[2],
        item_level=item_level(panel, members, how.level),
        routers=route(panel, members, how.level),
        ranking=ranking,
        sentences=(),
        remarks=(*_remarks(panel, headline, members, ranking), *_identical(identical), *panel.remarks),
    )
    return replace(findings, sentences=sentences.describe(findings))


def _tables(
    panel: Panel, members: BoolArray, spec: ZoneSpec, how: Resampling
) -> tuple[tuple[CorrelationRow, ...], tuple[CorrelationRow, ...], tuple[CorrelationRow, ...]]:
    """Correlations, decomposition and cross-task, their p adjusted together."""
    tested = spec.kind != MARGIN
    full = Part("full", np.ones(panel.n_quants, np.bool_))  # pairs with a number missing are left out cell by cell
    parts = [full, Part("zone", members, tested), Part("lossy", ~members, tested)]
    correlations = correlation_table(panel.fidelity, accuracy_targets(panel), parts, panel.family_codes, how, METHODS)
    decomposition, across = decompose(panel, parts[:2], how), cross_task(panel, parts[:2], how)
    adjusted = adjust_p([*correlations, *decomposition, *across], how.level)
    first, second = len(correlations), len(correlations) + len(decomposition)
    return adjusted[:first], adjusted[first:second], adjusted[second:]


def _with_twins(zone: Zone, identical: Sequence[Sequence[str]]) -> Zone:
    """The zone with every name of a quant that was counted once."""
    others = {group[0]: group[1:] for group in identical}
    members, outside = (
        tuple(name for first in names for name in (first, *others.get(first, ())))
        for names in (zone.members, zone.outside)
    )
    return replace(zone, members=members, outside=outside)


def _headline(panel: Panel) -> Variable | None:
    """Mean KLD over all texts, or over all tasks where there are no texts."""
    for source in (ALL_TEXTS, ALL_TASKS):
        for variable in panel.fidelity:
            if variable.name == HEADLINE and variable.source == source:
                return variable
    return None


def _identical(groups: Sequence[Sequence[str]]) -> list[str]:
    return [f"{list_names(names)} are one and the same in every number and are counted once." for names in groups]


def _remarks(panel: Panel, headline: Variable | None, members: BoolArray, ranking: Ranking) -> Sequence[str]:
    found: list[str] = []
    n = panel.n_quants
    if n < 3:
        found.append(f"The cohort has {n} quant{'s' if n != 1 else ''}: a correlation needs at least 3, an interval 5.")
    if headline is None:
        found.append("No KLD was measured on any text or task: whether it predicts accuracy cannot be asked.")
    elif n > 1 and len(set(headline.values[np.isfinite(headline.values)].tolist())) <= 1:
        found.append("All quants have the same mean KLD: nothing can be correlated with it.")
    if headline is not None and (n_zero := int((headline.values <= 0).sum())):
        found.append(f"{n_zero} quants have a KLD of 0, which has no logarithm, and are left out of the slopes.")
    if not panel.scores.names:
        found.append("No task was measured: accuracy, direction, groups and the recommendation cannot be computed.")
    for task, acc in zip(panel.scores.names, panel.scores.acc, strict=True):
        known = acc[np.isfinite(acc)]
        if len(known) > 1 and np.ptp(known) == 0:
            found.append(f"All {len(known)} quants have the same accuracy on {task} ({100 * known[0]:.1f} %).")
    if panel.scores.names and not np.isfinite(panel.scores.chance).all():
        found.append("The number of choices of some task is unknown, so the accuracy normalised by chance is left out.")
    if len(panel.scores.names) == 1:
        found.append(
            "Only one task was measured: whether a measure on one task predicts the others cannot be asked of tasks."
        )
    if ranking.reason and panel.scores.names:
        found.append(f"Groups, frontiers and the recommendation cannot be computed: {ranking.reason}.")
    if panel.scores.names and not any(np.isfinite(task.kld).any() for task in panel.tasks):
        found.append("No item has a KLD: the item-level question and the router are left out.")
    if np.isnan(panel.sizes).any():
        found.append("Quants of unknown size are left out of the frontiers and the recommendation.")
    if headline is not None and panel.scores.names and not members.any():
        found.append("No quant is in the silent zone by the rule that was chosen.")
    return found


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        plain = {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
        if isinstance(value, CorrelationRow):  # one flat record per cell
            plain |= plain.pop("correlation")
        return plain
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value
