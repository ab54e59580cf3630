"""Does the study claim a law in noise, and does it find one that is there? Simulated cohorts of known law.

    python bench/study_simulation.py [N_COHORTS] [--run RUN]

Prints one line per question with counts. With --run also a real run with the signs of its items' flips drawn anew.
"""

from __future__ import annotations

import argparse
import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy import special

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from fake_panel import (
    IN_ZONE,
    Cohort,
    flat_then_fall,
    flip_signs,
    no_law,
    simulate_panel,
    slope_in_zone,
    slope_then_flat,
)

from quantprobe.stats.correlation import Resampling
from quantprobe.stats.permutations import centre
from quantprobe.stats.slope import fit_slope
from quantprobe.study.findings import Findings, study_panel
from quantprobe.study.law import EXCLUDED, FOUND, WRONG_WAY
from quantprobe.study.panel import Panel
from quantprobe.study.pooled import answers_of
from quantprobe.study.ranking import Ranking
from quantprobe.study.zone import MARGIN, ZoneSpec, fold_of, zone_members
from quantprobe.study.zone_findings import Zone, study_zone

NO_RANKING = Ranking((), "", 0, 0, 0, 0, 0.01, None, "", "not part of this")
CLAIMS = ("predict the other tasks", "point the wrong way")


def how(seed: int) -> Resampling:
    return Resampling(n_boot=1, n_perm=1_999, seed=seed)


def zone_of(panel: Panel, seed: int, spec: ZoneSpec) -> Zone:
    headline, answers = panel.fidelity[0], answers_of(panel, panel.scores.names)
    members = zone_members(spec, headline.values, panel.bpw, answers, seed)
    return study_zone(panel, headline, spec, members, answers, how(seed), 0.5)


def without_item_kld(panel: Panel) -> Panel:
    """Item-level numbers are described, not claimed; leaving them out saves the time."""
    return replace(panel, tasks=tuple(replace(task, kld=np.full_like(task.kld, np.nan)) for task in panel.tasks))


def claims(findings: Findings) -> dict[str, bool]:
    """What in a study claims a law of accuracy or direction: a headline, a star, any sentence."""
    zone = findings.zones[0]
    headline = zone.zone_law.is_law or zone.full_law.is_law
    rows = (*findings.correlations, *findings.decomposition, *findings.cross_task)
    cross = next((s.headline for s in findings.sentences if s.kind == "cross-task"), "")
    sentence = any(claim in cross for claim in CLAIMS) and "none of" not in cross
    return {
        "headline": headline,
        "star": any(row.reading and row.is_law for row in rows),
        "sentence": headline or sentence,
        "zone": zone.zone_law.is_law,
        "all quants": zone.full_law.is_law,
    }


def count(panels: Iterator[tuple[int, Panel]]) -> Counter[str]:
    found: Counter[str] = Counter()
    for seed, panel in panels:
        study = study_panel(without_item_kld(panel), how=how(seed), ranking=NO_RANKING)
        found.update({name: int(claimed) for name, claimed in claims(study).items()})
    return found


def simulated(law: Callable, cohort: Cohort, n: int) -> Iterator[tuple[int, Panel]]:
    """n cohorts, from seeds that no other kind of cohort has."""
    start = zlib.crc32(f"{law.__qualname__} {cohort}".encode())
    return ((seed, simulate_panel(law, seed, cohort)) for seed in range(start, start + n))


def tasks_of(n_items: int) -> dict[str, int]:
    return {"n_tasks": 3, "n_items": n_items // 3}


def report(what: str, found: Counter[str], n: int, *names: str) -> None:
    parts = ", ".join(f"{name} {found[name]} ({100 * found[name] / n:.1f} %)" for name in names or found)
    print(f"  {what:62} {parts}", flush=True)


def null_cohorts(n: int) -> None:
    print(f"1. No law: cohorts of {n} that claim one (at most 5 % each)")
    shapes = {"3 x 500": {"n_tasks": 3, "n_items": 500}, "1 x 1,500": {"n_tasks": 1, "n_items": 1_500}}
    total: Counter[str] = Counter()
    cells = 0
    for n_quants in (14, 25):
        for items, shape in shapes.items():
            for shared in (0.0, 0.1, 0.3):
                cohort = Cohort(n_quants, shared=shared, **shape)
                found = count(simulated(no_law, cohort, n))
                report(f"{n_quants} quants, {items} items, shared noise {shared}", found, n)
                total += found
                cells += n
    report("all of these", total, cells)
    for law, name in ((slope_in_zone(1.0), "1-point law"), (flat_then_fall, "flat then fall")):
        cohort = Cohort(25, shared=0.3, direction=0.5)
        rng = np.random.default_rng(1)
        found = count((seed, flip_signs(panel, rng)) for seed, panel in simulated(law, cohort, n))
        report(f"{name}, items' signs drawn anew", found, n)


def real_items(run: Path, n: int) -> None:
    from quantprobe.run.cohort import read_cohort
    from quantprobe.study.panel import read_panel

    panel, rng = read_panel(read_cohort([run])), np.random.default_rng(0)
    print(f"1b. {run.name}: {panel.n_quants} quants, items' signs drawn anew {n} times")
    report("real items, no law", count((seed, flip_signs(panel, rng)) for seed in range(n)), n)


def methods(n: int) -> None:
    """The joint test against its parts: p of the slope in ln KLD over all quants of the cohort."""
    print(f"2. Which test: p <= 0.05 for the slope, of {n} cohorts in the zone's range of KLD")
    for law, name, direction in (
        (no_law, "nothing", 0.0),
        (no_law, "random direction 0.5", 0.5),
        (slope_in_zone(1.0), "1-point law", 0.0),
        (slope_in_zone(0.8), "0.8-point law", 0.0),
    ):
        for n_quants in (8, 14, 25):
            cohort = Cohort(n_quants, shared=0.3, direction=direction, highest=0.05, **tasks_of(1_500))
            found: Counter[str] = Counter()
            for seed, panel in simulated(law, cohort, n):
                slope = zone_of(panel, seed, ZoneSpec()).full_law.slope
                by_items = item_p(panel)
                p = {
                    "quants": slope.p_quants,
                    "items": by_items,
                    "larger": max(slope.p_quants, by_items),
                    "joint": slope.p,
                }
                found.update({test: int(value <= 0.05) for test, value in p.items()})
            report(f"{name}, {n_quants} quants, 1,500 items, shared noise 0.3", found, n)


def item_p(panel: Panel) -> float:
    """p of the item contrast alone: t of the mean over items of u_i = sum of w_q d_iq, w the centred ln KLD."""
    answers = answers_of(panel, panel.scores.names)
    fold = fold_of(answers, np.ones(len(answers.quants), bool))
    weights = centre(np.log(panel.fidelity[0].values), panel.family_codes)
    variance, dof = fold.noise.contrast(weights[None])
    value = weights @ fold.change
    return float(2 * special.stdtr(dof[0], -abs(value) / np.sqrt(variance[0]))) if variance[0] else 1.0


def flat_zone(n: int) -> None:
    print(f"3. Flat below a KLD of 0.05 with a random direction of 0.5 points there, falling beyond; of {n} cohorts")
    total: Counter[str] = Counter()
    cells = 0
    for n_items in (500, 1_500, 6_000):
        for n_quants in (14, 25):
            for shared in (0.1, 0.3):
                cohort = Cohort(n_quants, shared=shared, direction=0.5, direction_below=0.05, **tasks_of(n_items))
                found: Counter[str] = Counter()
                for seed, panel in simulated(flat_then_fall, cohort, n):
                    zone = zone_of(panel, seed, ZoneSpec())
                    found["law in the zone"] += zone.zone_law.is_law
                    found["excluded"] += zone.conclusion == EXCLUDED
                    found["law over all"] += zone.full_law.conclusion == FOUND
                report(f"{n_quants} quants, {n_items:,} items, shared noise {shared}", found, n, *found)
                total += found
                cells += n
    report("all of these", total, cells, "law in the zone")


def true_laws(n: int) -> None:
    print(f"4. A law in the zone (points lost from KLD 0.001 to 0.05): found in the zone, of {n} cohorts")
    for points in (0.8, 1.0):
        for n_items in (1_500, 6_000):
            for n_quants in (14, 25):
                for law, name in ((slope_in_zone(points), "going on"), (slope_then_flat(points), "flat beyond")):
                    cohort = Cohort(n_quants, shared=0.3, **tasks_of(n_items))
                    found: Counter[str] = Counter()
                    for seed, panel in simulated(law, cohort, n):
                        zone = zone_of(panel, seed, ZoneSpec())
                        found["found"] += zone.conclusion == FOUND
                        found["wrong way"] += zone.conclusion == WRONG_WAY
                        found["quants in it"] += len(zone.members)
                    what = f"{points} points, {name}, {n_quants} quants ({found['quants in it'] / n:.0f} in it)"
                    report(f"{what}, {n_items:,} items", found, n, "found", "wrong way")
            cohort = Cohort(14, shared=0.3, highest=0.05, **tasks_of(n_items))
            found = Counter(
                zone_of(p, s, ZoneSpec()).conclusion for s, p in simulated(slope_in_zone(points), cohort, n)
            )
            report(f"{points} points, 14 quants, all in the zone, {n_items:,} items", found, n, FOUND, WRONG_WAY)


def coverage(n: int) -> None:
    print(f"5. Coverage of the shown interval of the slope (95 % or, by Holm, 97.5 %), of {n} cohorts")
    print(
        "   (margin: cross-fitted; a random direction moves quants in and out of it, so it has no one true slope then)"
    )
    for law, slope, name, direction in (
        (no_law, 0.0, "nothing", 0.0),
        (no_law, 0.0, "random direction 0.5", 0.5),
        (slope_in_zone(1.0), -1 / IN_ZONE, "1-point law", 0.0),
        (slope_in_zone(1.0), -1 / IN_ZONE, "1-point law, direction 0.5", 0.5),
    ):
        for n_items in (1_500, 6_000):
            for n_quants in (14, 25):
                cohort = Cohort(n_quants, shared=0.3, direction=direction, **tasks_of(n_items))
                found: Counter[str] = Counter()
                for seed, panel in simulated(law, cohort, n):
                    zone = zone_of(panel, seed, ZoneSpec())
                    parts = {"zone": zone.zone_law.slope, "all": zone.full_law.slope}
                    if not direction:
                        parts["margin"] = zone_of(panel, seed, ZoneSpec(MARGIN)).zone_law.slope
                    for part, shown in parts.items():
                        found[part] += (shown.low is None or shown.low <= slope) and (
                            shown.high is None or slope <= shown.high
                        )
                    found["zone at 95 %"] += covers(panel, seed, slope)
                report(f"{name}, {n_quants} quants, {n_items:,} items", found, n, *parts, "zone at 95 %")


def covers(panel: Panel, seed: int, slope: float) -> bool:
    """Whether the 95 % interval of the slope in the zone, without Holm's wider levels, holds the true one."""
    headline, answers = panel.fidelity[0], answers_of(panel, panel.scores.names)
    members = zone_members(ZoneSpec(), headline.values, panel.bpw, answers, seed)
    x = np.log(headline.values)
    fit = fit_slope(x, [fold_of(answers, members[answers.quants])], panel.family_codes, np.exp(x / 2), 1_999, seed)
    shown = fit.at(0.95)
    return (shown.low is None or shown.low <= slope) and (shown.high is None or slope <= shown.high)


def exclusions(n: int) -> None:
    print(f"7. True slope in the zone exactly the smallest that matters (0.5 points per e-fold): excluded, of {n}")
    for direction in (0.0, 0.5):
        for n_items in (1_500, 6_000):
            for n_quants in (14, 25):
                cohort = Cohort(n_quants, shared=0.3, direction=direction, **tasks_of(n_items))
                found: Counter[str] = Counter()
                for seed, panel in simulated(slope_in_zone(0.5 * IN_ZONE), cohort, n):
                    found["excluded"] += zone_of(panel, seed, ZoneSpec()).conclusion == EXCLUDED
                report(f"random direction {direction}, {n_quants} quants, {n_items:,} items", found, n, "excluded")


def correlations(n: int) -> None:
    print(f"6. Coverage of the 95 % interval of the rank correlation with accuracy (mean over {4 * n} cohorts), of {n}")
    for law, name, direction in (
        (no_law, "nothing", 0.0),
        (slope_in_zone(1.0), "1-point law", 0.0),
        (flat_then_fall, "flat then fall, direction 0.5", 0.5),
    ):
        for n_quants in (14, 25):
            cohort = Cohort(n_quants, shared=0.3, direction=direction, **tasks_of(1_500))
            zones = [zone_of(panel, seed, ZoneSpec()) for seed, panel in simulated(law, cohort, 4 * n)]
            found: Counter[str] = Counter()
            for part in ("full", "inside"):
                cells = [getattr(zone, part) for zone in zones]
                mean = np.mean([cell.value for cell in cells if cell.value is not None])
                found[part] = sum(c.low is None or c.low <= mean <= c.high for c in cells[:n])
            report(f"{name}, {n_quants} quants, 1,500 items", found, n)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("n_cohorts", nargs="?", type=int, default=200)
    parser.add_argument("--run", type=Path, help="a run of real items")
    parser.add_argument("--only", help="numbers of the questions, such as 1,4")
    arguments = parser.parse_args()
    n = arguments.n_cohorts
    if arguments.run:
        real_items(arguments.run, n)
    questions = {"1": null_cohorts, "2": methods, "3": flat_zone, "4": true_laws, "5": coverage, "6": correlations}
    questions["7"] = exclusions
    for number, question in questions.items():
        if not arguments.only or number in arguments.only.split(","):
            start = time.perf_counter()
            question(n)
            print(f"  ({time.perf_counter() - start:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
