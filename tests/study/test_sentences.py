"""The findings in words: short, plain, and never in contradiction with the numbers beside them."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from fake_panel import Cohort, flat_then_fall, no_law, simulate_panel, slope_in_zone

from quantprobe.stats.correlation import Correlation, Resampling
from quantprobe.stats.estimates import Estimate
from quantprobe.stats.slope import no_slope
from quantprobe.study.findings import Findings, study_panel
from quantprobe.study.panel import Panel
from quantprobe.study.ranking import Ranking
from quantprobe.study.sentences import (
    Sentence,
    format_correlation,
    format_estimate,
    format_p,
    format_slope,
    list_names,
)
from quantprobe.study.zone import ZoneSpec

QUICK = Resampling(n_boot=20, n_perm=499)
BIG = Cohort(20, 2_000, 2)
NO_RANKING = Ranking((), "", 0, 0, 0, 0, 0.01, None, "", "not part of this")


def _study(panel: Panel, **how) -> Findings:
    """Without the ranking and the items' KLD, which take most of the time."""
    tasks = tuple(replace(task, kld=np.full_like(task.kld, np.nan)) for task in panel.tasks)
    return study_panel(replace(panel, tasks=tasks), how=QUICK, ranking=NO_RANKING, **how)


def _of(findings: Findings, kind: str) -> Sentence:
    return next(sentence for sentence in findings.sentences if sentence.kind == kind)


CASES = {
    "law": (slope_in_zone(1.5), BIG, ZoneSpec()),
    "no law": (flat_then_fall, BIG, ZoneSpec()),
    "wrong way": (slope_in_zone(-2), BIG, ZoneSpec()),
    "few quants": (no_law, Cohort(3, 60, 1), ZoneSpec()),
    "nobody": (no_law, Cohort(6, 60, 1, lowest=0.5), ZoneSpec()),
    "margin": (no_law, Cohort(12, 200, 2), ZoneSpec("margin")),
    "size": (no_law, Cohort(12, 200, 2), ZoneSpec("bpw", 3, 9)),
}


@pytest.mark.parametrize("case", CASES)
def test_short_and_whole(case: str) -> None:
    law, cohort, spec = CASES[case]
    families = ("plain", "imatrix") * (cohort.n_quants // 2) + ("plain",) * (cohort.n_quants % 2)
    panel = replace(
        simulate_panel(law, 1, cohort), families=families, bpw=np.linspace(9, 2, cohort.n_quants), remarks=("One.",)
    )
    findings = study_panel(panel, zone=spec, how=QUICK) if case in ("few quants", "size") else _study(panel, zone=spec)
    for sentence in findings.sentences:
        for text in (sentence.headline, *sentence.details):
            if text == findings.ranking.recommendation:
                continue
            assert len(text.split()) <= 30, text
            assert text.endswith((".", "%", ")")), text
            assert "nan" not in text.lower().split()
            assert "None" not in text
            assert len(re.findall(r"\bQ\d+", text)) <= 5, text
    kinds = [sentence.kind for sentence in findings.sentences]
    assert len(kinds) == len(set(kinds)) <= 8


def test_each_conclusion_has_its_words() -> None:
    law = _study(simulate_panel(slope_in_zone(1.5), 1, BIG))
    assert re.match(r"Inside the zone accuracy falls as KLD grows: -0\.\d\d \[-", _of(law, "zone").headline)
    assert any("smaller than 0.5, the smallest slope that was said to matter" in d for d in _of(law, "full").details)
    none = _study(simulate_panel(flat_then_fall, 1, BIG))
    assert _of(none, "zone").headline.startswith("Inside the zone there is no law of 0.5 points per e-fold of KLD:")
    assert "90 % interval" in _of(none, "zone").headline
    assert _of(none, "full").headline.startswith("Over all quants accuracy falls as KLD grows")
    wrong = _study(simulate_panel(slope_in_zone(-2), 1, BIG))
    assert "Over all quants KLD points the wrong way, accuracy rises with it: +" in _of(wrong, "full").headline
    few = _study(simulate_panel(no_law, 1, Cohort(4, 200, 2, highest=0.04)))
    assert _of(few, "zone").headline == "Inside the zone it cannot be decided whether accuracy falls as KLD grows."
    assert any("smallest possible p is 0.083" in detail for detail in _of(few, "zone").details)
    assert "predict" not in " ".join(sentence.headline for sentence in few.sentences[:2])


def test_declared_slope_is_what_is_excluded() -> None:
    panel = simulate_panel(flat_then_fall, 1, BIG)
    wide, tight = (_study(panel, smallest_slope=size) for size in (2.0, 0.01))
    assert "no law of 2 points" in _of(wide, "zone").headline
    assert "cannot be decided" in _of(tight, "zone").headline
    assert tight.smallest_slope == 0.01


def test_families_are_warned_of() -> None:
    panel = simulate_panel(no_law, 0, replace(BIG, n_quants=12))
    kld = panel.fidelity[0].values
    falls = -0.02 * np.log(kld / 0.001) * np.where(np.arange(12) % 2, 1, -1)
    turned = simulate_panel(lambda klds: falls, 0, replace(BIG, n_quants=12))
    turned = replace(turned, families=("plain", "imatrix") * 6)
    details = _of(_study(turned), "full").details
    assert any(re.match(r"Family plain alone, 6 quants: slope \+\d", detail) for detail in details)
    assert any("differ in sign" in detail for detail in details)
    assert not any("differ in sign" in d for d in _of(_study(replace(turned, families=())), "full").details)


def test_items_and_router_are_described_for_the_zone_too() -> None:
    findings = study_panel(simulate_panel(no_law, 0, Cohort(6, 200, 2)), how=QUICK, ranking=NO_RANKING)
    for kind in ("items", "router"):
        details = _of(findings, kind).details
        assert any(detail.startswith("All quants") for detail in details)
        assert any(detail.startswith("The zone") for detail in details)


def test_numbers_in_words() -> None:
    r = Correlation("spearman", -0.82, -0.92, -0.61, 0.95, 0.0004, 28)
    assert format_correlation(r) == "rho -0.82 [-0.92, -0.61], p < 0.001, n = 28"
    assert format_correlation(replace(r, p=None, reason="no items")) == "rho -0.82, n = 28, no p (no items)"
    assert format_correlation(replace(r, value=None, reason="3 quants are too few")) == (
        "not computable (3 quants are too few)"
    )
    assert format_correlation(replace(r, method="pearson", low=None, high=None, reason="no interval")) == (
        "r -0.82 (no interval), p < 0.001, n = 28"
    )
    assert [format_p(p) for p in (0.0001, 0.0123, 0.5)] == ["p < 0.001", "p = 0.012", "p = 0.50"]
    assert format_slope(no_slope("no items", 0)) == "not computable: no items"
    assert list_names([]) == "none"
    assert list_names(list("abcdefg")) == "a, b, c, d, e and 2 more"
    half = Estimate(0.512, 0.01, 0.49, 0.53, 0.95, 10, 10, "fraction")
    assert format_estimate(half, " %", 100) == "51.2 % [49.0, 53.0]"
    assert format_estimate(replace(half, low=None), "x") == "0.51x (no interval: too few cases)"
    assert str(Sentence("Lead.", ("More.",), "zone")) == "Lead."
