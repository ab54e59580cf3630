"""One definition of the silent zone: who is in it, the law inside and around it, and what could have been seen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from quantprobe.arrays import BoolArray
from quantprobe.stats.correlation import Correlation, Resampling, Target, correlate_all
from quantprobe.stats.reliability import Reliability, attenuation_ceiling
from quantprobe.study.correlations import CHOSEN
from quantprobe.study.fidelity import ALL_TASKS, Variable
from quantprobe.study.law import FULL, LOSSY, ZONE, Law, study_laws
from quantprobe.study.panel import Panel
from quantprobe.study.pooled import Answers
from quantprobe.study.precision import accuracy_reliability, fidelity_reliability
from quantprobe.study.targets import accuracy_targets
from quantprobe.study.zone import MARGIN, ZoneSpec


@dataclass(frozen=True)
class Zone:
    """The zone, the slopes that are the headline, and the rank correlations beside them."""

    kind: str
    definition: str
    members: tuple[str, ...]
    outside: tuple[str, ...]
    full_law: Law
    zone_law: Law
    lossy_law: Law
    full: Correlation
    """Spearman of the headline fidelity with pooled accuracy over all quants; `inside`, `lossy` over the parts."""
    inside: Correlation
    lossy: Correlation
    acc_reliability: Reliability
    """Of accuracy in the zone (by margin: of quants chosen by accuracy, so for them too low)."""
    kld_reliability: Reliability
    ceiling_low: float | None
    """From where to where the largest correlation lies that scores of these reliabilities can show."""
    ceiling_high: float | None
    conclusion: str
    """Of `zone_law`: one of `law.CONCLUSIONS`."""
    because: str


def study_zone(
    panel: Panel,
    headline: Variable,
    spec: ZoneSpec,
    members: BoolArray,
    answers: Answers | None,
    how: Resampling,
    smallest_slope: float,
) -> Zone:
    """Fit and judge the law of each part, and correlate the headline with accuracy inside and outside the zone."""
    laws = study_laws(panel, headline.values, answers, members, spec, how, smallest_slope)
    acc_reliability = accuracy_reliability(panel, np.flatnonzero(members), answers, how.level)
    kld_reliability = fidelity_reliability(panel, np.flatnonzero(members), headline, how.level)
    ceiling = attenuation_ceiling(acc_reliability, kld_reliability)
    correlations = _correlations(panel, headline, spec, members, how)
    known = np.isfinite(headline.values)
    return Zone(
        kind=spec.kind,
        definition=spec.describe(),
        members=tuple(panel.names[i] for i in np.flatnonzero(members)),
        outside=tuple(panel.names[i] for i in np.flatnonzero(known & ~members)),
        full_law=laws[FULL],
        zone_law=laws[ZONE],
        lossy_law=laws[LOSSY],
        full=correlations[FULL],
        inside=correlations[ZONE],
        lossy=correlations[LOSSY],
        acc_reliability=acc_reliability,
        kld_reliability=kld_reliability,
        ceiling_low=ceiling[0],
        ceiling_high=ceiling[1],
        conclusion=laws[ZONE].conclusion,
        because=laws[ZONE].because,
    )


def _correlations(
    panel: Panel, headline: Variable, spec: ZoneSpec, members: BoolArray, how: Resampling
) -> Mapping[str, Correlation]:
    pooled = next((t.target for t in accuracy_targets(panel) if (t.name, t.source) == ("pooled", ALL_TASKS)), None)
    found = {}
    for part, mask in ((FULL, np.ones_like(members)), (ZONE, members), (LOSSY, ~members)):
        at = np.flatnonzero(mask)
        if pooled is None:
            found[part] = Correlation("spearman", None, None, None, how.level, None, 0, "no accuracy is known")
            continue
        chosen_by_accuracy = spec.kind == MARGIN and part != FULL
        noise = None if chosen_by_accuracy or pooled.noise is None else pooled.noise.take(at)
        target = Target(pooled.values[at], noise)
        cell = correlate_all(headline.values[None, at], [target], "spearman", panel.family_codes[at], how)[0][0]
        found[part] = replace(cell, reason=CHOSEN) if chosen_by_accuracy and cell.value is not None else cell
    return found
