"""How often the intervals of a task's summary hold: 3 to 57 clusters that move together, strata of unequal rates.

python bench/interval_coverage.py [N_SAMPLES]
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from quantprobe.stats.clusters import mean_of_known, ratio_of_known
from quantprobe.stats.design import ItemDesign, item_design
from quantprobe.stats.estimates import Estimate, fraction_estimate
from quantprobe.stats.paired import compare_paired


def holds(estimate: Estimate, truth: float) -> bool:
    return estimate.low is None or estimate.high is None or estimate.low <= truth <= estimate.high


def coverage(n_samples: int) -> None:
    """Every interval of a task's summary at 95 %, over clusters that move together and strata that differ."""
    print(f"\nCoverage of single intervals at 95 % ({n_samples} samples each)")
    print("  design                     acc    net    volume mean   ratio  net at 99.8 %")
    sizes: dict[str, tuple[Sequence[int], str]] = {}
    for count in (3, 4, 5, 8, 15, 30, 57):
        sizes[f"{count} equal clusters"] = ([max(10, 600 // count)] * count, "clusters")
        spread = np.round(np.geomspace(0.5, 2, count) * max(10, 600 // count)).astype(int)
        sizes[f"{count} clusters, sizes 1 to 4"] = (spread.tolist(), "clusters")
    sizes["18 strata, rates 10 to 90 %"] = ([30] * 18, "strata")
    sizes["5 strata of 10 to 800"] = ([10, 30, 100, 300, 800], "strata")
    sizes["57 strata of 20"] = ([20] * 57, "strata")
    sizes["6 strata of 4 passages"] = ([25] * 24, "both")
    for name, (counts, kind) in sizes.items():
        inside = Counter[str]()
        rng = np.random.default_rng(len(counts) + sum(counts))
        for _ in range(n_samples):
            inside.update(_covered(rng, counts, kind))
        cells = [f"{inside[key] / n_samples:.3f}" for key in ("acc", "net", "volume", "mean", "ratio", "far")]
        print(f"  {name:26} " + "  ".join(cells))


def _covered(rng: np.random.Generator, counts: Sequence[int], kind: str) -> Counter[str]:
    """Which intervals hold. Clusters share part of their margin and of their move; strata have rates of their own."""
    number = np.repeat(np.arange(len(counts)), counts)
    n, groups = len(number), [f"g{g}" for g in number]
    base_shift, move = np.zeros(n), np.zeros(n)
    stratum = number // 4 if kind == "both" else number
    levels = np.linspace(-1.28, 1.28, int(stratum.max()) + 1) * np.sqrt(1 + 0.15 * (kind == "both"))
    loss = np.linspace(-0.3, 0.1, len(levels))
    if kind != "clusters":
        base_shift, move = levels[stratum], loss[stratum]
    part = {"clusters": 0.15, "both": 0.15, "strata": 0.0}[kind]
    base_shift = base_shift + np.sqrt(part) * rng.standard_normal(len(counts))[number]
    own = np.sqrt(part) * rng.standard_normal(len(counts))[number] + np.sqrt(1 - part) * rng.standard_normal(n)
    margins = base_shift + rng.standard_normal(n) * np.sqrt(1 - (part if kind == "clusters" else 0))
    shift = move - 0.1 + 0.4 * own
    base, quant = margins > 0, margins + shift > 0
    truth = _truths(kind, tuple(counts))
    if kind == "both":
        design = ItemDesign(stratum.astype(np.int64), number.astype(np.int64))
    else:
        design = item_design(groups, kind)
    change, far = compare_paired(base, quant, design), compare_paired(base, quant, design, 0.998)
    found = {
        "acc": fraction_estimate(quant, design),
        "net": change.net,
        "volume": change.volume,
        "mean": mean_of_known(shift, design, "nats", 0.95),
        "ratio": ratio_of_known(shift, design, 0.95),
        "far": far.net,
    }
    return Counter({key: int(holds(estimate, truth[key])) for key, estimate in found.items()})


_TRUTHS: dict[tuple[str, tuple[int, ...]], dict[str, float]] = {}


def _truths(kind: str, counts: tuple[int, ...]) -> dict[str, float]:
    """Means over an endless sample of the same design."""
    key = (kind, counts if kind != "clusters" else ())
    if key not in _TRUTHS:
        rng, n = np.random.default_rng(99), 4_000_000
        n_strata = {"clusters": 1, "both": len(counts) // 4, "strata": len(counts)}[kind]
        weights = np.ones(1) if kind == "clusters" else np.array(counts, float).reshape(n_strata, -1).sum(1)
        stratum = rng.choice(n_strata, n, p=weights / weights.sum())
        level = np.linspace(-1.28, 1.28, n_strata)[stratum] if kind != "clusters" else np.zeros(n)
        loss = np.linspace(-0.3, 0.1, n_strata)[stratum] if kind != "clusters" else np.zeros(n)
        wide = np.sqrt(1.15) if kind == "both" else 1.0
        margins = level * wide + wide * rng.standard_normal(n)
        shift = loss - 0.1 + 0.4 * rng.standard_normal(n)
        base, quant = margins > 0, margins + shift > 0
        net = float(quant.mean() - base.mean())
        _TRUTHS[key] = {
            "acc": float(quant.mean()), "net": net, "far": net, "volume": float((base != quant).mean()),
            "mean": float(shift.mean()), "ratio": float(shift.sum() / np.abs(shift).sum()),
        }  # fmt: skip
    return _TRUTHS[key]


if __name__ == "__main__":
    coverage(*map(int, sys.argv[1:] or ["1500"]))
