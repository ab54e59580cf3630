"""Do verdicts keep their promises? Simulated reports of known truth; prints what happened, with counts.

python bench/verdict_simulation.py [N_REPORTS]

The model: the base's margin on an item is normal (63 % right); a quant adds its shift and noise of size
sqrt(KLD) / 2, of which a part r is shared by all quants. Its true net change is set exactly.
"""

from __future__ import annotations

import re
import sys
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import special

sys.path.insert(0, str(Path(__file__).parents[1]))

from interval_coverage import coverage, holds

from quantprobe.stats.design import ItemDesign, item_design
from quantprobe.stats.paired import holm, mcnemar_p, verdict_of
from quantprobe.stats.sign_flips import ChangeTable
from quantprobe.stats.simultaneous import simultaneous_intervals
from quantprobe.stats.verdicts import Judged, Judgement, judge
from quantprobe.study.recommendation import Candidate, recommend

CENTRE, SPREAD, NOISE = 0.5, 1.5, 0.5
MARGIN = 0.01
SHOWN = re.compile(r"^([a-z ]+): ([-+][\d.]+) points \[([-+][\d.]+), ([-+][\d.]+)\]")

Floats = NDArray[np.float64]


def plain(n: int) -> ItemDesign:
    return item_design([""] * n, "none")


def strata(n: int, count: int) -> ItemDesign:
    return item_design([f"s{i % count}" for i in range(n)], "strata")


def clusters(n: int, size: int) -> ItemDesign:
    return item_design([f"c{i // size}" for i in range(n)], "clusters")


def changes(
    rng: np.random.Generator, design: ItemDesign, klds: Floats, nets: Floats, r: float, together: float = 0.0
) -> ChangeTable:
    """One task. `together`: the part of a quant's noise that a cluster of items shares; strata differ in difficulty."""
    n, n_quants = design.n_items, len(klds)
    scale = NOISE * np.sqrt(klds)
    centre = CENTRE + (rng.permuted(np.linspace(-1.0, 1.0, design.n_strata)) if design.n_strata > 1 else np.zeros(1))
    margins = centre[design.strata] + SPREAD * rng.standard_normal(n)
    shared = np.sqrt(r) * rng.standard_normal(n)
    own = rng.standard_normal((n_quants, n)) * np.sqrt(1 - r - together)
    if together:
        own += np.sqrt(together) * rng.standard_normal((n_quants, design.n_clusters))[:, design.clusters]
    moved = margins + _shifts(scale, nets, centre)[:, None] + scale[:, None] * (shared + own)
    return ChangeTable((moved > 0).astype(np.float64) - (margins > 0), design)


def _shifts(scale: Floats, nets: Floats, centre: Floats) -> Floats:
    """The shift of each quant for which the accuracy over all strata changes by exactly its net, by bisection."""
    wide = np.sqrt(SPREAD**2 + scale**2)
    target = special.ndtr(centre / SPREAD).mean() + nets
    low, high = np.full(len(nets), -20.0), np.full(len(nets), 20.0)
    for _ in range(60):
        middle = (low + high) / 2
        below = special.ndtr((centre[None] + middle[:, None]) / wide[:, None]).mean(1) < target
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return (low + high) / 2


def report(rng: np.random.Generator, klds: Floats, nets: Floats, r: float) -> dict[str, ChangeTable]:
    """Three tasks: 18 strata of unequal difficulty, independent items, and passages of 10 questions."""
    return {
        "strata": changes(rng, strata(500, 18), klds, nets, r),
        "plain": changes(rng, plain(1000), klds, nets, r),
        "clusters": changes(rng, clusters(1500, 10), klds, nets, r, together=0.2),
    }


class Contradictions:
    """Counts lines whose verdict is not that of the interval, of the shown digits, or of the corrected p."""

    def __init__(self) -> None:
        self.lines, self.wrong, self.words = 0, 0, 0

    def check(self, found: Judgement) -> None:
        for one in (*(found.pooled or ()), *(q for task in found.tasks.values() for q in task)):
            if one is not None:
                self.lines += 1
                self.wrong += not self.agrees(one)
                self.words = max(self.words, len(one.sentence.split()))

    def agrees(self, one: Judged) -> bool:
        low, high = one.net.low, one.net.high
        shown = SHOWN.match(one.sentence)
        if low is None or high is None or shown is None:
            return one.verdict == "not separable"
        ends = [round(float(end) / 100, 12) for end in shown.groups()[2:]]
        leaves_out = low > 0 or high < 0
        return (
            one.verdict == verdict_of(low, high, MARGIN) == shown[1] == verdict_of(ends[0], ends[1], MARGIN)
            and leaves_out == (one.adjusted_p <= 0.05)
            and not (one.verdict == "worse" and (one.net.value or 0) >= 0)
        )


LINES = Contradictions()


def judged(tasks: Mapping[str, ChangeTable]) -> Judgement:
    found = judge(tasks, MARGIN)
    LINES.check(found)
    return found


def all_lines(found: Judgement) -> list[tuple[int, Judged]]:
    tables = [*(found.tasks.values()), *([found.pooled] if found.pooled else [])]
    return [(q, one) for table in tables for q, one in enumerate(table) if one is not None]


def recommended(found: Judgement) -> int | None:
    """The smallest quant that the recommendation takes, sizes falling with the quant's number."""
    quants = [
        Candidate(str(q), 1e9 - q, 0.5, one.net, 0.05, one.n_effective, one.alpha_star)
        for q, one in enumerate(found.first)
        if one is not None
    ]
    name = recommend(quants, MARGIN).name
    return None if name is None else int(name)


def null_reports(n_reports: int) -> None:
    print(
        f"\nAny false worse or better in a report of 25 null quants, 3 tasks and their pool ({n_reports} reports each)"
    )
    klds = np.geomspace(0.0005, 0.5, 25)
    for r in (0.0, 0.1, 0.3):
        rng, counts = np.random.default_rng(int(100 * r)), Counter[str]()
        for _ in range(n_reports):
            found = judged(report(rng, klds, np.zeros(25), r))
            pooled = any(one is not None and one.verdict in ("worse", "better") for one in found.pooled or ())
            counts["pool"] += pooled
            counts["any"] += any(one.adjusted_p <= 0.05 for _, one in all_lines(found))
        any_line, pool = share(counts["any"], n_reports), share(counts["pool"], n_reports)
        print(f"  shared noise {r:.1f}: any line {any_line}, pool {pool}")


def few_clusters(n_reports: int) -> None:
    print(f"\n10 quants on 5 passages of 100 questions, 20 of 25 and 1,000 plain items ({n_reports} reports each)")
    klds = np.geomspace(0.002, 0.5, 10)
    for net in (0.0, -MARGIN):
        rng, counts = np.random.default_rng(3), Counter[str]()
        for _ in range(n_reports):
            tasks = {
                "5": changes(rng, clusters(500, 100), klds, np.full(10, net), 0.1, together=0.2),
                "20": changes(rng, clusters(500, 25), klds, np.full(10, net), 0.1, together=0.2),
                "plain": changes(rng, plain(1000), klds, np.full(10, net), 0.1),
            }
            lines = all_lines(judged(tasks))
            counts["hold"] += all(holds(one.net, net) for _, one in lines)
            counts["above"] += any((one.net.low or -1) > -MARGIN for _, one in lines)
        hold, above = share(counts["hold"], n_reports), share(counts["above"], n_reports)
        print(f"  net {100 * net:+.0f} points: all intervals hold {hold}" + (f"; not inferior {above}" if net else ""))


def margin_reports(n_reports: int) -> None:
    print(
        f"\nAll quants truly at -1 point: any false equivalent, not inferior, better or recommended ({n_reports} each)"
    )
    for n_quants in (5, 10, 25):
        klds, nets = np.geomspace(0.002, 0.5, n_quants), np.full(n_quants, -MARGIN)
        for name in ("3 tasks", "1,500 items", "6,000 items"):
            rng, counts = np.random.default_rng(n_quants), Counter[str]()
            for _ in range(n_reports):
                if name == "3 tasks":
                    tasks = report(rng, klds, nets, 0.1)
                else:
                    tasks = {"task": changes(rng, plain(int(name[:5].replace(",", ""))), klds, nets, 0.1)}
                found = judged(tasks)
                counts["line"] += any((one.net.low or -1) > -MARGIN for _, one in all_lines(found))
                counts["equivalent"] += any(one.verdict == "equivalent" for _, one in all_lines(found))
                counts["taken"] += recommended(found) is not None
                counts["all hold"] += all(holds(one.net, -MARGIN) for _, one in all_lines(found))
            print(
                f"  {n_quants:2} quants, {name:11}: any {share(counts['line'], n_reports)}, equivalent "
                f"{share(counts['equivalent'], n_reports)}, recommended {share(counts['taken'], n_reports)}; "
                f"all intervals hold {share(counts['all hold'], n_reports)}"
            )


def mixed_reports(n_reports: int) -> None:
    print(f"\nNets from 0 to -5 points: all intervals of the report hold ({n_reports} reports each)")
    for n_quants in (5, 10, 25):
        klds, nets = np.geomspace(0.002, 0.5, n_quants), -np.linspace(0, 0.05, n_quants)
        rng, held = np.random.default_rng(n_quants), Counter[str]()
        for _ in range(n_reports):
            found = judged(report(rng, klds, nets, 0.1))
            held["report"] += all(holds(one.net, float(nets[q])) for q, one in all_lines(found))
            alone = judged({"task": changes(rng, plain(500), klds, nets, 0.1)})
            held["500"] += all(holds(one.net, float(nets[q])) for q, one in all_lines(alone))
            taken = recommended(found)
            held["beyond"] += taken is not None and nets[taken] <= -MARGIN
        print(
            f"  {n_quants:2} quants: 3 tasks and pool {share(held['report'], n_reports)}, one task of 500 items "
            f"{share(held['500'], n_reports)}; recommended beyond the margin {share(held['beyond'], n_reports)}"
        )


def known_case(n_reports: int) -> None:
    print(f"\n47 drops, 16 leapfrogs of 556 items in 18 strata, among 7 quants ({n_reports} cohorts)")
    verdicts, sentence = Counter[str](), ""
    for seed in range(n_reports):
        rng = np.random.default_rng(seed)
        values = np.zeros((7, 556))
        for row, volume in zip(values, (4, 8, 18, 25, 63, 80, 200), strict=True):
            places = rng.choice(556, volume, replace=False)
            row[places] = rng.choice([-1, 1], volume)
            if volume == 63:
                row[places[:47]], row[places[47:]] = -1, 1
        one = judged({"built-in": ChangeTable(values, strata(556, 18))}).first[4]
        assert one is not None
        verdicts[one.verdict] += 1
        sentence = one.sentence
    print(f"  {dict(verdicts)}; {sentence}")


def power(n_reports: int) -> None:
    print(
        f"\nPower, one task: a loss of 2 points at 5 % volume, and no change at 5 % volume ({n_reports} reports each)"
    )
    print("  quants items   found  Holm   not inferior  equivalent  alpha* x quants   power at the printed reach")
    for n_quants in (1, 10, 25):
        for n in (500, 1500, 5000):
            rng, hits, level = np.random.default_rng(n + n_quants), Counter[str](), []
            for _ in range(n_reports):
                found, table = _with_two(rng, n, n_quants, -0.02)
                one = found.first[0]
                assert one is not None
                hits["found"] += one.verdict == "worse"
                drops, leapfrogs = (table.values < 0).sum(1), (table.values > 0).sum(1)
                hits["holm"] += bool(holm(mcnemar_p(drops, leapfrogs))[0] <= 0.05)
                level.append(one.alpha_star * n_quants)
                still = _with_two(rng, n, n_quants, 0.0)[0].first[0]
                assert still is not None
                hits["inferior"] += (still.net.low or -1) > -MARGIN
                hits["equivalent"] += still.verdict == "equivalent"
                # a quant that truly loses what the report says it can find, at the volume that it has
                reach = min(0.9 * 0.05, still.mde)
                lost = _with_two(rng, n, n_quants, -reach)[0].first[0]
                assert lost is not None
                hits["reach"] += (lost.net.high or 1) < 0
                hits["beyond"] += still.mde > 0.9 * 0.05
            rates = {key: value / n_reports for key, value in hits.items()}
            beyond = f" (beyond the volume in {rates['beyond']:.0%})" if rates.get("beyond") else ""
            print(
                f"  {n_quants:6} {n:5}   {rates.get('found', 0):.3f}  {rates.get('holm', 0):.3f}  "
                f"{rates.get('inferior', 0):.3f}         {rates.get('equivalent', 0):.3f}       {np.mean(level):.3f}"
                f"             {rates.get('reach', 0):.3f}{beyond}"
            )


def _with_two(rng: np.random.Generator, n: int, n_quants: int, net: float) -> tuple[Judgement, ChangeTable]:
    """One quant of 5 % volume and the given net, the others null quants of 0.5 to 14 % volume."""
    klds = np.concatenate([[0.22], np.geomspace(0.0005, 0.5, max(n_quants - 1, 1))[: n_quants - 1]])
    nets = np.zeros(n_quants)
    nets[0] = net
    table = changes(rng, plain(n), klds, nets, 0.1)
    return judged({"task": table}), table


def shares(n_reports: int) -> None:
    print(f"\nWhat the pool's share of the error does: power among 25 quants, 3 tasks ({n_reports} reports each)")
    klds = np.concatenate([[0.22], np.geomspace(0.0005, 0.5, 24)])
    for name, loss in (("1.5 points on every task", (0.015,) * 3), ("4 points on the task of 500", (0.04, 0, 0))):
        hits = {part: Counter[str]() for part in (0.25, 0.5, 0.8, 0.95)}
        rng = np.random.default_rng(5)
        for _ in range(n_reports):
            tables = []
            for lost, n in zip(loss, (500, 1000, 1500), strict=True):
                nets = np.zeros(25)
                nets[0] = -lost
                tables.append(changes(rng, plain(n), klds, nets, 0.1))
            for part, counts in hits.items():
                found = simultaneous_intervals(tables, pool_share=part)
                counts["pool"] += bool(found[-1].high[0] < 0)
                counts["task"] += bool(found[0].high[0] < 0)
        cells = ", ".join(
            f"share {part:g}: pool {c['pool'] / n_reports:.3f}, task of 500 {c['task'] / n_reports:.3f}"
            for part, c in hits.items()
        )
        print(f"  {name}: {cells}")


def copies() -> None:
    print("\nCopies: alpha* of 25 quants, one task of 2,000 items")
    rng = np.random.default_rng(8)
    one = changes(rng, plain(2000), np.array([0.1]), np.zeros(1), 0.0)
    near = np.repeat(one.values, 25, axis=0)
    for row in near[1:]:
        row[rng.choice(2000, 2, replace=False)] = 0
    different = changes(rng, plain(2000), np.full(25, 0.1), np.zeros(25), 0.0)
    for name, values in (
        ("one quant", one.values),
        ("25 copies of it", np.repeat(one.values, 25, axis=0)),
        ("25 that differ in 2 items", near),
        ("25 quants of that KLD", different.values),
    ):
        [found] = simultaneous_intervals([ChangeTable(values, one.design)])
        print(f"  {name:26} {found.alpha_star:.4f} (Bonferroni {0.05 / len(values):.4f})")


def weighted(n_reports: int) -> None:
    print(f"\nItems decoded with unequal probability, 40 % of 4,000, all quants at -1 point ({n_reports} reports)")
    rng, counts = np.random.default_rng(9), Counter[str]()
    for _ in range(n_reports):
        klds, nets = np.geomspace(0.002, 0.5, 10), np.full(10, -MARGIN)
        margins = CENTRE + SPREAD * rng.standard_normal(4000)
        scale = NOISE * np.sqrt(klds)[:, None]
        moved = (
            margins + _shifts(scale[:, 0], nets, np.array([CENTRE]))[:, None] + scale * rng.standard_normal((10, 4000))
        )
        change = (moved > 0).astype(np.float64) - (margins > 0)
        near = special.stdtr(3, -np.abs(margins) / (1.5 * scale))
        chance = np.minimum(1, 0.4 * (0.95 * np.sqrt(near) / np.sqrt(near).mean(1, keepdims=True) + 0.05))
        values = np.where(rng.random(chance.shape) < chance, change / chance, 0.0)
        found = judged({"task": ChangeTable(values, plain(4000), 1 / chance.min(1))})
        counts["one"] += sum(holds(one.net, -MARGIN) for _, one in all_lines(found))
        counts["all"] += all(holds(one.net, -MARGIN) for _, one in all_lines(found))
        counts["false"] += any((one.net.low or -1) > -MARGIN for _, one in all_lines(found))
        counts["level"] += round(1e6 * found.first[0].alpha_star) if found.first[0] else 0
    one, nominal = counts["one"] / n_reports / 10, 1 - counts["level"] / n_reports / 1e6
    print(
        f"  an interval holds in {one:.4f} (nominal {nominal:.4f}), all in {share(counts['all'], n_reports)}; "
        f"any false not inferior {share(counts['false'], n_reports)}"
    )


def share(count: int, n: int) -> str:
    return f"{count / n:.3f} ({count} of {n})"


def main(n_reports: int = 300) -> None:
    start = time.perf_counter()
    null_reports(n_reports)
    few_clusters(n_reports)
    margin_reports(n_reports)
    mixed_reports(n_reports)
    coverage(5 * n_reports)
    known_case(min(n_reports, 50))
    power(n_reports)
    shares(n_reports // 2)
    copies()
    weighted(n_reports)
    print(
        f"\nLines whose interval, verdict, shown digits or corrected p contradict each other: {LINES.wrong} of "
        f"{LINES.lines:,}; longest sentence {LINES.words} words; {time.perf_counter() - start:.0f} s"
    )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
