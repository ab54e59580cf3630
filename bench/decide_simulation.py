"""What deciding with fewer decodes saves and what it costs: variance, coverage, false verdicts, decodes, agreement.

python bench/decide_simulation.py [--runs N] [--items RUN/items ...]

The simulated cohort is that of examples/smollm2_cohort: 25 quants with their KLD and their observed net change as the
truth. Margins of the base are N(1, 1.5); a quant moves each by mu + sqrt(KLD) times noise whose scale differs from item
to item (log-normal, sd .8), as that of real quants does; mu makes the population's change exactly the truth. With
--items, the items that quantprobe wrote take the place of simulated ones: each pair is drawn again with other numbers.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from quantprobe.run.items import read_items
from quantprobe.stats.design import ItemDesign, item_design, pool_designs
from quantprobe.stats.estimates import mean_estimate
from quantprobe.stats.paired import net_interval, verdict_of
from quantprobe.stats.sampling import SCALE, decode_probabilities, flip_chances, sampled_mean, share_probabilities
from quantprobe.stats.sequential import Decision, StopRule, decide, precision_reached
from quantprobe.stats.smoothed import smoothed_changes

FloatArray = NDArray[np.float64]
CENTRE, SD = 1.0, 1.5
COHORT = Path(__file__).parents[1] / "examples" / "smollm2_cohort" / "results.json"
MARGIN = 0.01
NEAR = 0.05
"""KLD below which a quant is called near."""


@dataclass(frozen=True, eq=False)
class Pair:
    """One quant beside its base on a pool of items."""

    name: str
    kld: float
    base: FloatArray
    quant: FloatArray
    flips: FloatArray
    chances: FloatArray
    design: ItemDesign


def paired(name: str, kld: float, base: FloatArray, quant: FloatArray) -> Pair:
    flips = (quant > 0) * 1.0 - (base > 0)
    return Pair(name, kld, base, quant, flips, flip_chances(base, kld), item_design([""] * len(base), "none"))


def noise(kind: str, n: int, rng: np.random.Generator) -> FloatArray:
    """Shifts in units of sqrt(KLD): `normal` as in the simplest model, `mixed` with a scale of each item's own."""
    plain = rng.normal(size=n)
    return 0.5 * plain if kind == "normal" else plain * np.exp(0.8 * rng.normal(size=n) - 0.32)


class Population:
    """Questions without end: draws pools on which a quant's change is the truth only on average.

    With `passages`, a pool is so many passages of equal size, each of which a quant moves as a whole by a further shift
    of a third of sqrt(KLD).
    """

    def __init__(self, kind: str, kld: float, net: float, passages: int = 0) -> None:
        rng = np.random.default_rng(7)
        base, moved = rng.normal(CENTRE, SD, 400_000), kld**0.5 * noise(kind, 400_000, rng)
        moved += kld**0.5 / 3 * rng.normal(size=400_000) * (passages > 0)
        right = np.mean(base > 0)
        self.shift = optimize.brentq(lambda mu: np.mean(base + moved + mu > 0) - right - net, -4, 4, xtol=1e-5)
        self.kind, self.kld, self.passages = kind, kld, passages

    def draw(self, n: int, rng: np.random.Generator) -> Pair:
        base = rng.normal(CENTRE, SD, n)
        quant = base + self.shift + self.kld**0.5 * noise(self.kind, n, rng)
        if not self.passages:
            return paired("", self.kld, base, quant)
        passage = np.arange(n) * self.passages // n
        quant += self.kld**0.5 / 3 * rng.normal(size=self.passages)[passage]
        return replace(paired("", self.kld, base, quant), design=item_design([f"p{g}" for g in passage], "clusters"))


def variance_ratio(pair: Pair, share: float, scale: float = SCALE, hajek: bool = False) -> float:
    """Variance of the net change from the decoded share over that from all items, in expectation over the draws."""
    pi = decode_probabilities(pair.base, pair.kld * (scale / SCALE) ** 2, share)
    mean = float(pair.flips.mean())
    if hajek:
        return float(np.mean((pair.flips - mean) ** 2 / pi) / pair.flips.var())
    return float((np.mean(pair.flips**2 / pi) - mean**2) / pair.flips.var())


def print_variances(pairs: Sequence[Pair]) -> None:
    shares = (0.2, 0.3, 0.4)
    print("\nVariance against all items decoded (uniform: 5.0, 3.3, 2.5), by share 20, 30, 40 %")
    print(
        f"{'pair':34}{'KLD':>8}{'volume':>8}  " + "".join(f"{c:>20}" for c in ("HT", "ratio", "scale .5", "scale 1.4"))
    )
    for pair in pairs:
        cells = [
            "/".join(f"{variance_ratio(pair, share, scale, hajek):.2f}" for share in shares)
            for scale, hajek in ((SCALE, False), (SCALE, True), (0.5, False), (1.4, False))
        ]
        volume = np.mean(pair.flips != 0)
        print(f"{pair.name[-34:]:34}{pair.kld:8.4f}{volume:8.3f}  " + "".join(f"{cell:>20}" for cell in cells))


def print_fixed(n_runs: int, n_items: int = 1500, share: float = 0.4) -> None:
    """Coverage and false equivalence of one look at a fixed share, truth at the margin."""
    print(f"\n{share:.0%} of {n_items} items against all, truth exactly -1 point, {n_runs} runs")
    for kind, kld in (("mixed", 0.01), ("mixed", 0.1), ("mixed", 0.3), ("normal", 0.1)):
        population, rng = Population(kind, kld, -MARGIN), np.random.default_rng(11)
        found = np.zeros((2, 2))
        for _ in range(n_runs):
            pair = population.draw(n_items, rng)
            for row, part in enumerate((share, 1.0)):
                pi = decode_probabilities(pair.base, kld, part)
                mean = sampled_mean(pair.flips, rng.random(n_items) < pi, pi, pair.design)
                wide, narrow = mean.estimate("fraction", 0.95), mean.estimate("fraction", 0.9)
                found[row] += (wide.low <= -MARGIN <= wide.high, narrow.low > -MARGIN and narrow.high < MARGIN)
        (covered, false), (covered_all, false_all) = found / n_runs
        print(
            f"  {kind:6} KLD {kld:.2f}: 95 % interval covers {covered:.3f} (all items {covered_all:.3f}); "
            f"false equivalence at 5 % {false:.3f} ({false_all:.3f})"
        )


def print_designs(n_runs: int, n_items: int = 1200, kld: float = 0.2) -> None:
    """Coverage with clusters, with passages decoded whole, and with strata."""
    print(f"\nTruth -1 point, {n_items} items, KLD {kld}, {n_runs} runs: truth inside at 40 %; at all of three looks")
    rule, rng = StopRule(shares=(0.2, 0.4, 1.0)), np.random.default_rng(12)
    for passages, whole in ((0, False), (3, False), (5, False), (20, False), (57, False), (240, False), (240, True)):
        population = Population("mixed", kld, -MARGIN, passages)
        fixed = looks_inside = 0
        for _ in range(n_runs):
            pair = population.draw(n_items, rng)
            units = pair.design.clusters if whole else None
            looks = np.array([decode_probabilities(pair.base, kld, share, units) for share in rule.shares])
            numbers = rng.random(n_items) if units is None else rng.random(n_items)[units]
            mean = sampled_mean(pair.flips, numbers < looks[1], looks[1], pair.design).estimate("fraction", 0.95)
            fixed += mean.low <= -MARGIN <= mean.high
            seen = [decide(pair.flips, numbers < looks[k], looks[: k + 1], pair.design, rule).net for k in range(3)]
            looks_inside += all(net.low <= -MARGIN <= net.high for net in seen)
        name = f"{passages} passages{' decoded whole' if whole else ''}" if passages else "independent items"
        print(f"  {name:28} {fixed / n_runs:.3f}  {looks_inside / n_runs:.3f}", flush=True)
    strata = item_design([f"s{min(i % 8, 3)}" for i in range(n_items)], "strata")
    nets = np.array([0.01, -0.03, 0.0, -0.0125])
    populations = [Population("mixed", kld, net) for net in nets]
    truth = float(nets[strata.strata].mean())
    fixed = 0
    for _ in range(n_runs):
        parts = [population.draw(int((strata.strata == h).sum()), rng) for h, population in enumerate(populations)]
        base, flips = np.empty(n_items), np.empty(n_items)
        for h, part in enumerate(parts):
            base[strata.strata == h], flips[strata.strata == h] = part.base, part.flips
        pi = decode_probabilities(base, kld, 0.4)
        mean = sampled_mean(flips, rng.random(n_items) < pi, pi, strata).estimate("fraction", 0.95)
        fixed += mean.low <= truth <= mean.high
    print(f"  {'4 strata, rates differ':28} {fixed / n_runs:.3f}")


def print_table(n_runs: int, n_quants: int = 7, n_items: int = 1500) -> None:
    """A whole table at the margin: quants share items, part of the noise and the draw."""
    rule, rng, any_false = StopRule(alpha=0.05 / n_quants), np.random.default_rng(14), 0
    klds = np.geomspace(0.004, 0.2, n_quants)
    shifts = [Population("mixed", kld, -MARGIN).shift for kld in klds]
    for _ in range(n_runs):
        base, shared, numbers = rng.normal(CENTRE, SD, n_items), noise("mixed", n_items, rng), rng.random(n_items)
        verdicts = []
        for kld, shift in zip(klds, shifts, strict=True):
            own = np.where(rng.random(n_items) < 0.3, shared, noise("mixed", n_items, rng))
            verdicts.append(stop(paired("", kld, base, base + shift + kld**0.5 * own), numbers, rule).verdict)
        any_false += "equivalent" in verdicts or "not inferior" in verdicts
    print(f"\n{n_quants} quants, all at -1 point, {n_runs} tables: a false equivalent or not inferior in {any_false}")


def follow(pair: Pair, numbers: FloatArray, rule: StopRule) -> Iterator[Decision]:
    """The looks of one quant, without stopping."""
    looks = np.array([share_probabilities(pair.chances, share) for share in rule.shares])
    for k in range(len(looks)):
        yield decide(pair.flips, numbers < looks[k], looks[: k + 1], pair.design, rule)


def stop(pair: Pair, numbers: FloatArray, rule: StopRule) -> Decision:
    return next(decision for decision in follow(pair, numbers, rule) if decision.stop)


def print_errors(n_runs: int, n_items: int = 1500) -> None:
    """Errors over all six looks, as if one claimed at each whatever there is to claim."""
    print(f"\nAll six looks at {n_items} items, {n_runs} runs: truth inside at every look; any false claim at any look")
    for alpha in (0.05, 0.05 / 25):
        rule = StopRule(alpha=alpha, margin=MARGIN)
        for kind, kld in (("mixed", 0.01), ("mixed", 0.1), ("mixed", 0.3), ("normal", 0.1)):
            cells = []
            for net in (-MARGIN, 0.0):
                population, rng = Population(kind, kld, net), np.random.default_rng(13)
                inside = claims = 0
                for _ in range(n_runs):
                    seen = list(follow(population.draw(n_items, rng), rng.random(n_items), rule))
                    inside += all(d.net.low <= net <= d.net.high for d in seen)
                    low, high = max(d.net.low for d in seen), min(d.net.high for d in seen)
                    claims += low > -MARGIN if net else (low > 0 or high < 0)
                what = "not inferior or equivalent" if net else "worse or better"
                cells.append(f"truth {net:+.0%}: inside {inside / n_runs:.3f}, false {what} {claims / n_runs:.3f}")
            print(f"  alpha {alpha:.3f} {kind:6} KLD {kld:.2f}  " + "; ".join(cells))


def full_verdict(flips: FloatArray, alpha: float, rng: np.random.Generator, n_halves: int = 200) -> tuple[str, float]:
    """The verdict of all items, and the share of half-size resamples that repeat it."""
    n, drops, leapfrogs = len(flips), int((flips < 0).sum()), int((flips > 0).sum())
    halves = rng.multivariate_hypergeometric([drops, leapfrogs, n - drops - leapfrogs], n // 2, size=n_halves)
    low, high = net_interval(
        np.append(halves[:, 0], drops),
        np.append(halves[:, 1], leapfrogs),
        np.append(np.full(n_halves, n // 2), n),
        1 - alpha,
    )
    verdicts = [verdict_of(float(a), float(b), MARGIN) for a, b in zip(low, high, strict=True)]
    return verdicts[-1], float(np.mean([v == verdicts[-1] for v in verdicts[:-1]]))


def print_decodes(
    title: str,
    draw: Sequence[tuple[str, float, Callable[[np.random.Generator], Pair]]],
    n_runs: int,
    alpha: float,
    now: bool,
) -> None:
    """Decoded share and agreement with all items, quant by quant, and over near and other quants."""
    rule = StopRule(alpha=alpha, margin=MARGIN, not_inferior_stops=now)
    print(f"\n{title}; alpha {alpha:.3f}, {n_runs} runs a quant, 'not inferior' stops: {now}")
    print(
        f"{'quant':28}{'KLD':>8}{'saved':>7}{'same':>7}{'  repeatable: same':>20}   verdicts of all items / of the rule"
    )
    totals: dict[bool, list[tuple[float, bool, bool]]] = {True: [], False: []}
    for name, kld, make in draw:
        rng = np.random.default_rng(17)
        rows, finals, verdicts = [], [], []
        for _ in range(n_runs):
            pair = make(rng)
            final, repeated = full_verdict(pair.flips, alpha, rng)
            decision = stop(pair, rng.random(len(pair.flips)), rule)
            rows.append((1 - decision.share, decision.verdict == final, repeated >= 0.95))
            finals.append(final)
            verdicts.append(decision.verdict)
        totals[kld < NEAR] += rows
        saved, same, sure = (np.array(column) for column in zip(*rows, strict=True))
        certain = f"{np.mean(same[sure]):.3f} of {sure.sum()}" if sure.any() else "-"
        print(
            f"{name[-28:]:28}{kld:8.4f}{np.median(saved):7.2f}{np.mean(same):7.2f}{certain:>20}   "
            f"{_tally(finals)} / {_tally(verdicts)}",
            flush=True,
        )
    for near, rows in totals.items():
        if not rows:
            continue
        saved, same, sure = (np.array(column) for column in zip(*rows, strict=True))
        print(
            f"  KLD {'<' if near else '>='} {NEAR}: saved median {np.median(saved):.2f}, mean {np.mean(saved):.2f}; "
            f"same verdict {np.mean(same):.3f}; where repeatable {same[sure].sum()} of {sure.sum()}"
        )


def _tally(verdicts: Sequence[str]) -> str:
    short = {"equivalent": "E", "worse": "W", "better": "B", "not inferior": "N", "not separable": "-"}
    return " ".join(f"{short[v]}{100 * verdicts.count(v) / len(verdicts):.0f}" for v in short if v in verdicts)


def print_smoothed(n_runs: int, n_items: int = 1500) -> None:
    print(f"\nSmoothed accuracy of {n_items} items, truth -1 point, {n_runs} runs: variance against hard flips")
    for kld in (0.004, 0.03, 0.1, 0.3):
        population, rng = Population("mixed", kld, -MARGIN), np.random.default_rng(19)
        hard, smooth, sampled = (np.empty(n_runs) for _ in range(3))
        for k in range(n_runs):
            pair = population.draw(n_items, rng)
            values, pi = smoothed_changes(pair.base, pair.quant), decode_probabilities(pair.base, kld, 0.2)
            hard[k], smooth[k] = pair.flips.mean(), values.mean()
            sampled[k] = sampled_mean(values, rng.random(n_items) < pi, pi, pair.design).mean
        print(
            f"  KLD {kld:.3f}: all items {smooth.var() / hard.var():.2f}, "
            f"20 % decoded {sampled.var() / hard.var():.2f}; bias {100 * (smooth.mean() + MARGIN):+.2f} points"
        )


def print_precision(n_runs: int) -> None:
    print(f"\nStopping a text at a relative error, {n_runs} runs, log-normal windows: windows read, bias, coverage")
    for spread in (0.15, 0.3, 0.6):
        for relative, first in ((0.02, 20), (0.05, 20), (0.05, 5)):
            rng, rows = np.random.default_rng(23), []
            for _ in range(n_runs):
                windows = np.exp(spread * rng.normal(size=4000) - spread**2 / 2)
                for n in range(first, 4000):
                    estimate = (
                        mean_estimate(windows[:n], np.arange(n), "nats") if _close(windows[:n], relative) else None
                    )
                    if estimate is not None and precision_reached(estimate, relative, first):
                        rows.append((n, estimate.value, estimate.low <= 1 <= estimate.high))
                        break
            n, value, covered = (np.array(column) for column in zip(*rows, strict=True))
            print(
                f"  spread {spread:.2f}, {relative:.0%} from {first:2} windows: median {np.median(n):5.0f}, "
                f"bias {100 * (value.mean() - 1):+.1f} %, coverage {covered.mean():.3f}"
            )


def _close(values: FloatArray, relative: float) -> bool:
    return bool(values.std() <= 1.01 * relative * values.mean() * len(values) ** 0.5)


def cohort() -> list[tuple[str, float, float]]:
    """Name, mean KLD over the texts and observed net change of each quant of the example."""
    klds, rows = text_klds(COHORT), []
    for quant in json.loads(COHORT.read_text(encoding="utf-8"))["quants"]:
        tasks = quant["tasks"].values()
        net = sum(t["leapfrogs"] - t["drops"] for t in tasks) / sum(t["n_items"] for t in tasks)
        rows.append((quant["name"], klds[quant["name"]], net))
    return sorted(rows, key=lambda row: row[1])


def text_klds(results: Path) -> dict[str, float]:
    """Mean KLD over the texts of each quant of a results.json."""
    quants = json.loads(results.read_text(encoding="utf-8"))["quants"]
    return {q["name"]: float(np.mean([text["kld_mean"]["value"] for text in q["texts"].values()])) for q in quants}


def real_pairs(folder: Path) -> list[Pair]:
    """One pair of each quant and task of RUN/items, with the text KLD of RUN/results.json."""
    pairs, klds = [], text_klds(folder.parent / "results.json")
    for path in sorted(folder.glob("*/*.csv")):
        answers, kld = read_items(path), klds[path.parent.name]
        kept = answers.base.valid & answers.quant.valid
        base, quant = answers.base.margin[kept], answers.quant.margin[kept]
        flips = (answers.quant.correct * 1.0 - answers.base.correct)[kept]
        design = item_design([""] * len(flips), "none")
        name = f"{path.parent.name} {path.stem}"
        pairs.append(Pair(name, kld, base, quant, flips, flip_chances(base, kld), design))
    return pairs


def pool(pairs: Sequence[Pair]) -> list[Pair]:
    """One pair of each quant, its tasks end to end as strata."""
    pools = []
    for name in dict.fromkeys(pair.name.rpartition(" ")[0] for pair in pairs):
        own = [pair for pair in pairs if pair.name.rpartition(" ")[0] == name]
        base, quant, flips, chances = (
            np.concatenate([getattr(pair, field) for pair in own]) for field in ("base", "quant", "flips", "chances")
        )
        design = pool_designs([pair.design for pair in own])
        pools.append(Pair(name, float(np.mean([pair.kld for pair in own])), base, quant, flips, chances, design))
    return sorted(pools, key=lambda pair: pair.kld)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=150)
    parser.add_argument("--items", type=Path, nargs="*", default=[])
    options = parser.parse_args()
    runs, start = options.runs, time.perf_counter()
    if options.items:
        pairs = [pair for folder in options.items for pair in real_pairs(folder)]
        print_variances(pairs)
        draw = [(pair.name, pair.kld, lambda _, pair=pair: pair) for pair in pool(pairs)]
        for alpha in (0.05, 0.05 / len(draw)):
            print_decodes("Real items, all tasks pooled, drawn again", draw, max(20, runs // 10), alpha, now=True)
        return
    rng = np.random.default_rng(5)
    cells = [(kind, kld) for kind in ("mixed", "normal") for kld in (0.004, 0.03, 0.1, 0.3)]
    pools = [Population(kind, kld, -0.005).draw(200_000, rng) for kind, kld in cells]
    print_variances([replace(pool, name=kind) for (kind, _), pool in zip(cells, pools, strict=True)])
    print_fixed(10 * runs)
    print_designs(4 * runs)
    print_errors(2 * runs)
    print_table(runs)
    for n_items, alpha, now in ((3000, 0.05, True), (3000, 0.05 / 25, True), (3000, 0.05, False)):
        draw = []
        for name, kld, net in cohort():
            population = Population("mixed", kld, net)
            draw.append((name, kld, lambda rng, population=population, n=n_items: population.draw(n, rng)))
        print_decodes(f"The example cohort with {n_items} items", draw, runs // 3, alpha, now)
    print_smoothed(4 * runs)
    print_precision(runs)
    print(f"\n{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
