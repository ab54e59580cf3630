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
from quantprobe.study.correlations import ADJUSTMENT, CorrelationRow, accuracy_variables, correlation_table
from quantprobe.study.decomposition import cross_task, decompose
from quantprobe.study.fidelity import ALL_TASKS, ALL_TEXTS, HEADLINE, Variable
from quantprobe.study.item_level import ItemLevel, Router, item_level, route
from quantprobe.study.panel import Panel, read_panel
from quantprobe.study.ranking import Ranking, rank
from quantprobe.study.zone import Zone, ZoneSpec, pool, study_zone, zone_members


@dataclass(frozen=True)
class Findings:
    """What the study found. `zones[0]` is the definition that `zone` in all tables means."""

    names: tuple[str, ...]
    margin: float
    level: float
    seed: int
    n_boot: int
    n_perm: int
    headline: str
    """The fidelity measure named beforehand, against accuracy pooled over the tasks; not corrected."""
    adjustment: str
    zones: tuple[Zone, ...]
    correlations: tuple[CorrelationRow, ...]
    decomposition: tuple[CorrelationRow, ...]
    cross_task: tuple[CorrelationRow, ...]
    item_level: tuple[ItemLevel, ...]
    routers: tuple[Router, ...]
    ranking: Ranking
    sentences: tuple[str, ...]
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
) -> Findings:
    """Ask whether fidelity predicts accuracy over a cohort, where, and which quant to take.

    Parameters
    ----------
    cohort
        As from `read_cohort`.
    margin
        Largest net change of accuracy that does not matter, a fraction fixed beforehand.
    zone
        The silent zone of the tables; |net change| <= margin if not given. The definitions by margin and by noise are
        always reported.
    seed, level, n_boot, n_perm
        Of all bootstraps, intervals, tests and permutations. The same seed gives the same findings.
    """
    return study_panel(read_panel(cohort), margin, zone, Resampling(n_boot, n_perm, seed, level))


def study_panel(
    panel: Panel, margin: float = 0.01, zone: ZoneSpec | None = None, how: Resampling | None = None
) -> Findings:
    """`study_cohort` for a cohort that is already in arrays."""
    how = how or Resampling()
    spec = zone or ZoneSpec("margin", margin=margin, alpha=1 - how.level)
    pooled = pool(panel.scores)
    members = zone_members(pooled, spec)
    everyone = np.ones(panel.n_quants, np.bool_)  # pairs with a number missing are left out cell by cell
    subsets = {"full": everyone, "zone": members, "lossy": np.isfinite(pooled.acc) & ~members}
    headline = _headline(panel)
    ranking = rank(panel, margin, how)
    findings = Findings(
        names=panel.names,
        margin=margin,
        level=how.level,
        seed=how.seed,
        n_boot=how.n_boot,
        n_perm=how.n_perm,
        headline="" if headline is None else f"{headline.name} on {headline.source}",
        adjustment=ADJUSTMENT,
        zones=()
        if headline is None
        else tuple(study_zone(panel, headline, s, how) for s in _definitions(spec, margin, how)),
        correlations=correlation_table(panel.fidelity, accuracy_variables(panel.scores), subsets, how, METHODS),
        decomposition=decompose(panel, {"full": subsets["full"], "zone": members}, how),
        cross_task=cross_task(panel, spec, how),
        item_level=item_level(panel, members, how.level),
        routers=route(panel, members, how.level),
        ranking=ranking,
        sentences=(),
        remarks=(*panel.remarks, *_remarks(panel, headline, members, ranking)),
    )
    return replace(findings, sentences=sentences.describe(findings))


def _headline(panel: Panel) -> Variable | None:
    """Mean KLD over all texts, or over all tasks where there are no texts."""
    for source in (ALL_TEXTS, ALL_TASKS):
        for variable in panel.fidelity:
            if variable.name == HEADLINE and variable.source == source:
                return variable
    return None


def _definitions(spec: ZoneSpec, margin: float, how: Resampling) -> list[ZoneSpec]:
    """The chosen definition first, then those by margin and by noise."""
    usual = [ZoneSpec(kind, margin=margin, alpha=1 - how.level) for kind in ("margin", "noise")]
    return [spec, *(other for other in usual if other.kind != spec.kind)]


def _remarks(panel: Panel, headline: Variable | None, members: BoolArray, ranking: Ranking) -> Sequence[str]:
    found: list[str] = []
    n = panel.n_quants
    if n < 3:
        found.append(f"The cohort has {n} quant{'s' if n != 1 else ''}: a correlation needs at least 3, an interval 5.")
    if headline is None:
        found.append("No KLD was measured on any text or task: whether it predicts accuracy cannot be asked.")
    elif n > 1 and len(set(headline.values[np.isfinite(headline.values)].tolist())) <= 1:
        found.append("All quants have the same mean KLD: nothing can be correlated with it.")
    else:
        found += _twins(panel)
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
        found.append("No quant is in the silent zone by the definition that was chosen.")
    return found


def _twins(panel: Panel) -> list[str]:
    """Quants that are one and the same by every number: llama-quantize falls back to the same types, for example."""
    alike: dict[bytes, list[str]] = {}
    for name, values in zip(panel.names, np.array([variable.values for variable in panel.fidelity]).T, strict=True):
        if np.isfinite(values).any():
            alike.setdefault(values.tobytes(), []).append(name)
    return [
        f"{', '.join(names)} have the same fidelity in every number, so probably the same weights: the cohort counts "
        f"one quant {len(names)} times, and its correlations are less certain than their intervals say."
        for names in alike.values()
        if len(names) > 1
    ]


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
