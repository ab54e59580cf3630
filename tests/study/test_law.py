"""The claims: what each conclusion needs, Holm over the two, families, and small counts of false and true ones.

The full counts are measured by bench/study_simulation.py.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from fake_panel import Cohort, flat_then_fall, flip_signs, no_law, simulate_panel, slope_in_zone

from quantprobe.stats.correlation import Resampling
from quantprobe.stats.slope import Slope, no_slope
from quantprobe.study.law import (
    EXCLUDED,
    FOUND,
    UNDECIDED,
    UNTESTED,
    WRONG_WAY,
    Law,
    _holm,
    _levels,
    conclude,
    study_laws,
)
from quantprobe.study.panel import Panel
from quantprobe.study.pooled import answers_of
from quantprobe.study.zone import ZoneSpec, zone_members

BIG = Cohort(25, 2_000, 3, shared=0.3)


def _laws(panel: Panel, spec: ZoneSpec | None = None, seed: int = 0) -> dict[str, Law]:
    spec, kld = spec or ZoneSpec(), panel.fidelity[0].values
    answers = answers_of(panel, panel.scores.names)
    members = zone_members(spec, kld, panel.bpw, answers, seed)
    return study_laws(panel, kld, answers, members, spec, Resampling(n_perm=499, seed=seed))


def _slope(value: float, low: float, high: float, p: float, **other) -> Slope:
    fields = {"level": 0.95, "narrow_low": low, "narrow_high": high, "narrow_level": 0.9, "p_quants": p}
    fields |= {"detectable": 0.3, "item_share": 0.7, "n": 12, "smallest_p": 1e-6} | other
    return Slope(value=value, low=low, high=high, p=p, **fields)


def test_conclusions() -> None:
    assert conclude(_slope(-0.3, -0.5, -0.1, 0.01), 100, 4.0, 0.5) == (FOUND, "")
    assert conclude(_slope(0.3, 0.1, 0.5, 0.01), 100, 4.0, 0.5) == (WRONG_WAY, "")
    assert conclude(_slope(-0.1, -0.4, 0.2, 0.3), 100, 4.0, 0.5) == (EXCLUDED, "")
    assert conclude(_slope(-0.1, -0.4, 0.2, 0.3), 100, 4.0, 0.3)[0] == UNDECIDED
    assert "more items" in conclude(_slope(-0.1, -0.7, 0.5, 0.3), 100, 4.0, 0.5)[1]
    assert "more quants" in conclude(_slope(-0.1, -0.7, 0.5, 0.3, item_share=0.2), 100, 4.0, 0.5)[1]
    assert (
        "4 quants are too few: their smallest possible p is 0.083"
        in conclude(_slope(-1, -2, -0.1, 0.083, n=4, smallest_p=1 / 12), 100, 4.0, 0.5)[1]
    )
    assert conclude(_slope(0, 0, 0, 1), 3, 4.0, 0.5) == (UNDECIDED, "only 3 items were answered differently")
    assert conclude(no_slope("nothing here", 0), 0, 4.0, 0.5) == (UNDECIDED, "nothing here")
    assert "span only 0.6 e-folds" in conclude(_slope(-0.1, -0.7, 0.5, 0.3), 100, 0.6, 0.5)[1]
    # a law is a law at the level at which it is tested
    assert conclude(_slope(-0.3, -0.6, 0.1, 0.03, level=0.975), 100, 4.0, 0.2)[0] == UNDECIDED


@pytest.mark.parametrize(
    ("p", "levels", "adjusted"),
    [
        ({"full": 0.01, "zone": 0.04}, [0.975, 0.95], [0.02, 0.04]),
        ({"full": 0.01, "zone": 0.02}, [0.95, 0.95], [0.02, 0.02]),
        ({"full": 0.03, "zone": 0.5}, [0.975, 0.975], [0.06, 0.5]),
        ({"full": 0.04}, [0.95], [0.04]),
    ],
)
def test_holm_and_its_levels(p: dict, levels: list[float], adjusted: list[float]) -> None:
    """Rejected at its level exactly where Holm's p is at most alpha."""
    found = _levels(p, 0.95)
    assert list(found.values()) == pytest.approx(levels)
    assert [_holm(p, part) for part in p] == pytest.approx(adjusted)
    for part, value in p.items():
        assert (value <= 1 - found[part] + 1e-12) == (_holm(p, part) <= 0.05)
    assert _holm(p, "lossy") is None


def test_a_law_is_found_and_none_is_not() -> None:
    found = [_laws(simulate_panel(slope_in_zone(1.0), seed, BIG), seed=seed)["zone"] for seed in range(6)]
    assert sum(law.conclusion == FOUND for law in found) >= 5  # 99 of 100
    assert np.mean([law.slope.value for law in found]) == pytest.approx(-1 / np.log(50), abs=0.08)
    nothing = [law for seed in range(12) for law in _claims(simulate_panel(no_law, seed, replace(BIG, n_items=400)))]
    assert sum(law.is_law for law in nothing) <= 3  # above in 1 of 500 runs at 5 % a cohort
    assert {law.conclusion for law in nothing} <= {EXCLUDED, UNDECIDED, FOUND, WRONG_WAY}


def _claims(panel: Panel) -> list[Law]:
    laws = _laws(panel)
    return [laws["full"], laws["zone"]]


def test_no_law_can_be_shown() -> None:
    """Flat near the base and falling beyond: a law over all quants, and none of half a point in the zone."""
    cohort = replace(BIG, direction=0.3, direction_below=0.05)
    laws = [_laws(simulate_panel(flat_then_fall, seed, cohort)) for seed in range(6)]
    assert all(law["full"].conclusion == FOUND for law in laws)
    assert sum(law["zone"].conclusion == EXCLUDED for law in laws) >= 4
    assert all(law["lossy"].conclusion == UNTESTED and law["lossy"].slope.value < -1 for law in laws)
    assert laws[0]["zone"].p_adjusted >= laws[0]["zone"].slope.p


def test_signs_drawn_anew_leave_no_law() -> None:
    panel = simulate_panel(flat_then_fall, 0, replace(BIG, n_items=500))
    turned = flip_signs(panel, np.random.default_rng(0))
    assert _laws(panel)["full"].conclusion == FOUND
    assert not _laws(turned)["full"].is_law
    before, after = (answers_of(p, p.scores.names).signed for p in (panel, turned))
    np.testing.assert_array_equal(np.abs(before), np.abs(after))
    np.testing.assert_array_equal((before[:1] * before), (after[:1] * after))  # quants turn together
    assert (turned.scores.drops + turned.scores.leapfrogs == panel.scores.drops + panel.scores.leapfrogs).all()


def test_families_with_clean_laws_do_not_hide_each_other() -> None:
    """With an importance matrix the same losses come at a much smaller KLD: together no fall is left."""
    panel = simulate_panel(slope_in_zone(3.0), 1, Cohort(16, 2_000, 2))
    kld = panel.fidelity[0].values.copy()
    kld[8:] *= kld[0] / kld[8] * 0.9
    mixed = replace(panel, fidelity=(replace(panel.fidelity[0], values=kld),))
    laws = _laws(replace(mixed, families=("plain",) * 8 + ("imatrix",) * 8))
    assert abs(_laws(mixed)["full"].slope.value) < abs(laws["full"].slope.value)
    assert laws["full"].conclusion == FOUND
    assert [(family.name, family.n) for family in laws["full"].families] == [("plain", 8), ("imatrix", 8)]
    assert all(family.low < family.value < family.high for family in laws["full"].families)


def test_a_zone_of_every_quant_is_one_question() -> None:
    laws = _laws(simulate_panel(no_law, 3, Cohort(10, highest=0.04)))
    assert laws["zone"].slope == laws["full"].slope
    assert laws["full"].slope.level == 0.95
    assert laws["full"].p_adjusted == laws["full"].slope.p


def test_four_quants_in_the_zone_cost_the_others_nothing() -> None:
    panel = simulate_panel(flat_then_fall, 5, Cohort(12))
    kld = np.sort(panel.fidelity[0].values)
    laws = _laws(panel, ZoneSpec("kld", 0, float(kld[3])))
    assert laws["zone"].conclusion == UNDECIDED
    assert "4 quants are too few" in laws["zone"].because
    assert laws["full"].slope.level == 0.95


def test_zone_by_margin() -> None:
    laws = _laws(simulate_panel(flat_then_fall, 5, Cohort(20, 2_000)), ZoneSpec("margin"))
    assert laws["zone"].slope.n >= 8
    assert laws["zone"].conclusion in (EXCLUDED, UNDECIDED)
    assert laws["lossy"].because == "the zone was chosen by accuracy"


def test_what_is_missing_is_said() -> None:
    panel = simulate_panel(no_law, 0, Cohort(6))
    kld = panel.fidelity[0].values.copy()
    kld[0] = 0.0
    assert _laws(replace(panel, fidelity=(replace(panel.fidelity[0], values=kld),)))["full"].slope.n == 5
    part = replace(panel, tasks=panel.tasks[:2])
    assert _laws(part)["full"].because == "there are no item files of every task"
    same = replace(panel, fidelity=(replace(panel.fidelity[0], values=np.full(6, 0.01)),))
    assert _laws(same)["zone"].because == "all quants have the same KLD"
