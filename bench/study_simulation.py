"""Does the study find a law that is known? 200 simulated cohorts of each law; prints how often each answer is given.

python bench/study_simulation.py [N_COHORTS]
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from fake_panel import LAWS, simulate_panel

from quantprobe.stats.correlation import Resampling
from quantprobe.study.zone import PREDICTS, ZoneSpec, study_zone


def main(n_cohorts: int = 200) -> None:
    for law in LAWS:
        start = time.perf_counter()
        wide = Counter[str]()
        inside = {kind: Counter[str]() for kind in ("margin", "noise", "top")}
        both, sizes = Counter[str](), Counter[str]()
        for seed in range(n_cohorts):
            panel = simulate_panel(law, seed)
            how = Resampling(n_boot=200, n_perm=1_999, seed=seed)
            for kind, counts in inside.items():
                zone = study_zone(panel, panel.fidelity[0], ZoneSpec(kind, margin=0.02, top=12), how)
                finds_wide = zone.full.p is not None and zone.full.p <= 0.05 and (zone.full.value or 0) < 0
                wide[str(finds_wide)] += kind == "margin"
                counts[zone.conclusion] += 1
                both[kind] += finds_wide and (zone.conclusion == PREDICTS) == (law in ("everywhere", "hidden"))
                sizes[kind] += len(zone.members)
        print(
            f"law {law}: {n_cohorts} cohorts, {time.perf_counter() - start:.0f} s; wide range found in {wide['True']}"
        )
        for kind, counts in inside.items():
            answers = ", ".join(f"{answer} {count}" for answer, count in counts.most_common())
            print(f"  zone by {kind:6} ({sizes[kind] / n_cohorts:.1f} quants): both right {both[kind]}; {answers}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
