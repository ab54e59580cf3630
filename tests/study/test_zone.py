"""The zone: its words, its members, and that choosing it by accuracy does not bend the slope inside."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from fake_panel import Cohort, no_law, simulate_panel

from quantprobe.errors import InputError
from quantprobe.stats.design import item_design
from quantprobe.study.pooled import Answers, answers_of
from quantprobe.study.zone import ZoneSpec, fold_of, half_of_items, zone_folds, zone_members


@pytest.mark.parametrize(
    ("text", "spec", "words"),
    [
        ("kld:0-0.05", ZoneSpec(), "KLD up to 0.05 nats"),
        ("KLD:0.001-0.05", ZoneSpec("kld", 0.001, 0.05), "KLD 0.001 to 0.05 nats"),
        ("kld:1e-3-.05", ZoneSpec("kld", 0.001, 0.05), "KLD 0.001 to 0.05 nats"),
        ("bpw:4-6.5", ZoneSpec("bpw", 4, 6.5), "size 4 to 6.5 bits per weight"),
        ("margin", ZoneSpec("margin"), "net change within ±1 points on the other half of the items"),
        ("margin:2%", ZoneSpec("margin", margin=0.02), "net change within ±2 points on the other half of the items"),
        (
            "margin:0.005",
            ZoneSpec("margin", margin=0.005),
            "net change within ±0.5 points on the other half of the items",
        ),
    ],
)
def test_words(text: str, spec: ZoneSpec, words: str) -> None:
    assert ZoneSpec.parse(text) == spec
    assert spec.describe() == words


def test_the_margin_of_the_word_alone() -> None:
    assert ZoneSpec.parse("margin", margin=0.03).margin == 0.03


@pytest.mark.parametrize(
    "text", ["", "noise", "top:4", "band:0.6-0.7", "kld", "kld:0.05", "kld:0.1-0.05", "kld:a-b", "bpw:4", "margin:200%"]
)
def test_other_words_are_refused_with_examples(text: str) -> None:
    with pytest.raises(InputError, match=r"kld:0-0\.05|margin:1%"):
        ZoneSpec.parse(text)


def test_members_by_a_declared_range() -> None:
    kld = np.array([0.0, 0.001, 0.05, 0.06, np.nan])
    bpw = np.array([8.5, np.nan, 6.5, 4.0, 5.0])
    nobody = np.zeros(0)
    assert zone_members(ZoneSpec(), kld, nobody, None, 0).tolist() == [True, True, True, False, False]
    assert zone_members(ZoneSpec("bpw", 4, 6.5), kld, bpw, None, 0).tolist() == [False, False, True, True, True]
    assert not zone_members(ZoneSpec("bpw", 4, 6.5), kld, nobody, None, 0).any()
    assert not zone_members(ZoneSpec("margin"), kld, nobody, None, 0).any()


def test_halves_hold_whole_clusters_of_every_stratum() -> None:
    design = item_design([f"passage {i // 4}" for i in range(80)], "clusters")
    answers = Answers(np.arange(1), np.zeros((1, 80)), design, np.zeros(80, int))
    half = half_of_items(answers, 3)
    assert half.sum() == 40
    assert (half.reshape(20, 4) == half[::4, None]).all()
    kinds = item_design([f"kind {i % 5}" for i in range(80)], "strata")
    half = half_of_items(Answers(np.arange(1), np.zeros((1, 80)), kinds, np.zeros(80, int)), 3)
    assert np.bincount(kinds.strata[half]).tolist() == [8] * 5
    assert (half != half_of_items(Answers(np.arange(1), np.zeros((1, 80)), kinds, np.zeros(80, int)), 4)).any()


def test_margin_scores_what_it_did_not_choose_by() -> None:
    """Quants without any true change, chosen by a margin below their noise: the scored half must show all of it."""
    chosen, scored = [], []
    for seed in range(40):
        panel = simulate_panel(no_law, seed, Cohort(20, 400, 1, lowest=0.3))
        answers = answers_of(panel, panel.scores.names)
        first = half_of_items(answers, seed)
        folds = zone_folds(ZoneSpec("margin"), np.ones(20, bool), answers, np.ones(20, bool), seed)
        for fold, half in zip(folds, (first, ~first), strict=True):
            chosen += (100 * answers.signed[np.ix_(fold.quants, np.flatnonzero(half))].mean(1)).tolist()
            scored += fold.change.tolist()
    whole = fold_of(answers, np.ones(20, bool), first)
    assert np.abs(chosen).max() <= 1
    assert np.std(scored) > 1.5 * np.std(chosen)
    assert np.std(scored) == pytest.approx(np.std(whole.change), rel=0.4)


def test_one_cluster_has_no_error() -> None:
    panel = simulate_panel(no_law, 0, Cohort(5, 20, 1))
    task = replace(panel.tasks[0], design=item_design(["one"] * 20, "clusters"))
    answers = answers_of(replace(panel, tasks=(task,)), ("task0",))
    assert np.isnan(fold_of(answers, np.ones(5, bool)).noise.residuals).all()
