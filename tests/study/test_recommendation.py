"""The recommendation: the smallest quant shown not to lose the margin, and what the smaller ones need."""

from dataclasses import replace

import numpy as np
import pytest

from quantprobe.stats.design import item_design
from quantprobe.stats.sign_flips import ChangeTable
from quantprobe.stats.verdicts import judge
from quantprobe.study.recommendation import Candidate, Undecided, recommend


def candidate(name: str, size: float | None, drops: int, leapfrogs: int, n: int = 2_000) -> Candidate:
    """A quant alone in its report."""
    values = np.zeros((1, n))
    values[0, :drops], values[0, n - leapfrogs :] = -1, 1
    [one] = judge({"t": ChangeTable(values, item_design([""] * n, "none"))}).first
    return Candidate(name, size, 0.5, one.net, (drops + leapfrogs) / n, one.n_effective, one.alpha_star)


BIG = candidate("Big", 9e9, 2, 2)
MID = candidate("Mid", 5e9, 3, 3)
GAIN = candidate("Gain", 4e9, 5, 90)
SMALL = candidate("Small", 3e9, 15, 12)
WORSE = candidate("Worse", 2e9, 40, 15)
TINY = candidate("Tiny", 1e9, 180, 20)


def test_the_smallest_that_is_shown_not_to_lose_the_margin() -> None:
    found = recommend([BIG, MID, TINY], 0.01)
    assert (found.name, found.undecided, found.ruled_out) == ("Mid", (), ("Tiny",))
    assert found.sentence.startswith(
        "Mid is the smallest quant shown to lose less than 1 percentage point: +0.0 points ["
    )
    assert recommend([BIG, GAIN, MID, TINY], 0.01).name == "Gain", "a quant that is better will do"


def test_what_the_smaller_ones_need() -> None:
    found = recommend([BIG, MID, candidate("Small", 3e9, 32, 22), TINY], 0.01)
    assert found.name == "Mid"
    [open_] = found.undecided
    assert open_.name == "Small" and open_.n_more > 0
    assert f"Small is smaller and undecided: {-0.5:+.1f} points [" in found.sentence
    assert f"about {open_.n_more:,} more items would show it." in found.sentence
    assert all(len(part.split()) <= 30 for part in found.sentence.split(". "))
    alone = recommend([candidate("Small", 3e9, 32, 22)], 0.01)
    assert alone.name is None and alone.undecided == (replace(open_),)
    assert (
        "No quant is shown to lose less than 1 percentage point" in alone.sentence and "Small may do" in alone.sentence
    )


def test_the_items_that_are_asked_for_are_enough() -> None:
    """With the upper bound of the volume and the net change as it is, the interval ends above the margin."""
    rng = np.random.default_rng(1)
    [open_] = recommend([candidate("Small", 3e9, 32, 22)], 0.01).undecided
    n, volume, net = 2_000 + open_.n_more, 54 / 2_000, -10 / 2_000
    design, shown = item_design([""] * n, "none"), 0
    for _ in range(60):
        loses = rng.random((1, n)) < (1 - net / volume) / 2
        values = np.where(rng.random((1, n)) < volume, np.where(loses, -1.0, 1.0), 0.0)
        shown += judge({"t": ChangeTable(values, design)}).first[0].net.low > -0.01
    assert shown >= 48


def test_a_quant_that_lost_more_than_the_margin_needs_no_more_items() -> None:
    found = recommend([BIG, WORSE, TINY], 0.01)
    assert found.undecided == (Undecided("Worse", WORSE.net, None),)
    assert "Worse" not in found.sentence and found.ruled_out == ("Tiny",)


def test_nothing_to_recommend() -> None:
    found = recommend([TINY], 0.01)
    assert (found.name, found.undecided, found.ruled_out) == (None, (), ("Tiny",))
    assert "No quant's size is known" in recommend([replace(BIG, size_bytes=None)], 0.01).sentence
    nothing = recommend([candidate("New", 1e9, 0, 0, n=100)], 0.01)
    assert nothing.undecided[0].n_more > 500, "an unseen change is not a volume of 0"


@pytest.mark.parametrize("n_quants", [5, 20])
def test_quants_at_the_margin_are_seldom_recommended(n_quants: int) -> None:
    rng, n, taken = np.random.default_rng(2), 1_000, 0
    for _ in range(60):
        changed = rng.random((n_quants, n)) < 0.04
        values = np.where(changed, np.where(rng.random((n_quants, n)) < 0.625, -1.0, 1.0), 0.0)
        found = judge({"t": ChangeTable(values, item_design([""] * n, "none"))}).first
        quants = [Candidate("q", 1e9 + q, 0.5, o.net, 0.04, o.n_effective, o.alpha_star) for q, o in enumerate(found)]
        taken += recommend(quants, 0.01).name is not None
    # a true 2.5 % gives at most 5 of 60 in 99.6 % of cases
    assert taken <= 5
