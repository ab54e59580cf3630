"""Verdicts of a report: read off the shown interval, in one short sentence, with what would settle it."""

import re

import numpy as np
import pytest
from answer_factory import make_answers

from quantprobe.errors import InputError, MismatchError
from quantprobe.stats.design import item_design
from quantprobe.stats.estimates import Estimate
from quantprobe.stats.paired import verdict_of
from quantprobe.stats.sign_flips import ChangeTable
from quantprobe.stats.verdicts import judge, points_of, table_of_changes

SHOWN = re.compile(r"^([a-z ]+): ([-+][\d.]+) points \[([-+][\d.]+), ([-+][\d.]+)\]")


def table(n: int, *flips: tuple[int, int], groups: list[str] | None = None, grouping: str = "none") -> ChangeTable:
    """One row per quant with so many drops and leapfrogs at random places."""
    rng = np.random.default_rng(n)
    values = np.zeros((len(flips), n))
    for row, (drops, leapfrogs) in zip(values, flips, strict=True):
        places = rng.choice(n, drops + leapfrogs, replace=False)
        row[places[:drops]], row[places[drops:]] = -1, 1
    return ChangeTable(values, item_design(groups or [""] * n, grouping))


def test_the_five_verdicts_in_words() -> None:
    found = judge({"t": table(2_000, (90, 20), (20, 90), (2, 3), (20, 38), (40, 30))}).first
    assert [one.verdict for one in found] == ["worse", "better", "equivalent", "not inferior", "not separable"]
    worse, _, same, _, unknown = (one.sentence for one in found)
    assert re.fullmatch(r"worse: -3\.5 points \[-[\d.]+, -[\d.]+\]; 90 drops, 20 leapfrogs in 2,000 items", worse)
    assert "within ±1" in same
    assert re.search(r"these detect a change of [\d.]+; about [\d,]+ would settle ±1$", unknown)
    assert max(len(one.sentence.split()) for one in found) < 30


def test_a_loss_over_families_of_questions_is_worse() -> None:
    groups = [f"f{i % 18}" for i in range(556)]
    flips = [(2, 2), (4, 4), (9, 9), (12, 13), (47, 16), (40, 40), (100, 100)]
    found = judge({"built-in": table(556, *flips, groups=groups, grouping="strata")}).first
    assert found[4].verdict == "worse"
    assert [one.verdict for one in found if one is not found[4]] == ["not separable"] * 6


def test_a_real_loss_inside_the_margin_is_equivalent_and_says_so() -> None:
    [found] = judge({"t": table(20_000, (60, 20))}).first
    assert found.verdict == "equivalent" and found.adjusted_p < 0.001
    assert found.sentence.endswith("a real loss, smaller than the margin")
    assert judge({"t": table(20_000, (60, 20))}, margin=0.001).first[0].verdict == "worse"


def test_no_line_contradicts_itself() -> None:
    rng, n_lines = np.random.default_rng(1), 0
    for _ in range(12):
        flips = [tuple(rng.integers(0, 60, 2).tolist()) for _ in range(9)]
        found = judge({"a": table(700, *flips), "b": table(900, *flips[::-1])})
        for one in (*found.pooled, *found.tasks["a"], *found.tasks["b"]):
            n_lines += 1
            low, high = one.net.low, one.net.high
            assert one.verdict == verdict_of(low, high, 0.01)
            assert (low > 0 or high < 0) == (one.adjusted_p <= 0.05)
            shown = SHOWN.match(one.sentence)
            assert shown[1] == one.verdict == verdict_of(*(float(end) / 100 for end in shown.groups()[2:]), 0.01)
    assert n_lines == 12 * 27


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (-0.031, 0.004, ("-1.3", "-3.1", "+0.4")),
        (-0.031, -0.0004, ("-1.33", "-3.10", "-0.04")),
        (-0.00996, 0.004, ("-1.33", "-1.00", "+0.40")),
        (None, None, ("-1.3", "", "")),
    ],
)
def test_as_many_digits_as_the_verdict_needs(
    low: float | None, high: float | None, expected: tuple[str, str, str]
) -> None:
    found = points_of(Estimate(-0.0133, 0.01, low, high, 0.95, 300, 300, "fraction"), 0.01)
    if low == -0.00996:  # two decimals would show the margin itself
        assert found == ("-1.330", "-0.996", "+0.400")
    else:
        assert found == expected


def test_the_pool_is_the_first_verdict() -> None:
    tasks = {"a": table(800, (30, 9), (0, 0)), "b": table(700, (28, 9), (0, 0))}
    found = judge(tasks)
    assert found.first is found.pooled
    assert found.pooled[0].verdict == "worse" and found.pooled[0].net.n == 1_500
    assert found.pooled[0].alpha_star > found.tasks["a"][0].alpha_star
    assert {one.net.level for one in (*found.pooled, *found.tasks["a"])} == {0.95}
    alone = judge({"a": tasks["a"]})
    assert alone.pooled is None and alone.first is alone.tasks["a"]
    assert judge({}).first == ()
    assert judge({"a": table(5)}).first == ()


def test_nothing_seen_settles_nothing_for_free() -> None:
    [found] = judge({"t": table(100, (0, 0))}).first
    assert found.verdict == "not separable"
    assert found.mde > 0.05
    assert found.n_to_settle > 2_000, "100 items without a change leave a volume of up to 2.6 %"


def test_more_quants_ask_for_more_items_and_find_less() -> None:
    alone = judge({"t": table(1_000, (30, 25))}).first[0]
    many = judge({"t": table(1_000, *[(30, 25)] * 12)}).first[0]
    assert many.alpha_star < alone.alpha_star / 3
    assert many.mde > 1.2 * alone.mde
    assert many.n_to_settle > 1.4 * alone.n_to_settle


@pytest.mark.parametrize("n_quants", [1, 12])
def test_the_printed_reach_is_real(n_quants: int) -> None:
    """A quant that truly loses what the report says it can find is found in about 80 % of reports."""
    rng, n, volume, hits = np.random.default_rng(3), 1_500, 0.06, 0
    reach = judge({"t": table(n, *[(45, 45)] * n_quants)}).first[0].mde
    for _ in range(60):
        values = np.where(rng.random((n_quants, n)) < volume, np.where(rng.random((n_quants, n)) < 0.5, -1.0, 1.0), 0)
        loses = rng.random(n) < (volume + reach) / 2 / volume
        values[0] = np.where(rng.random(n) < volume, np.where(loses, -1.0, 1.0), 0)
        hits += judge({"t": ChangeTable(values, item_design([""] * n, "none"))}).first[0].net.high < 0
    assert 42 <= hits <= 58


def test_changes_from_answers() -> None:
    right, wrong, broken = [0.0, -1.0], [-1.0, 0.0], [float("nan"), 0.0]
    base = make_answers([right, right, wrong, broken], [0] * 4)
    quant = make_answers([wrong, right, right, right], [0] * 4)
    found = table_of_changes([(base, quant), None], item_design([""] * 4, "none"))
    np.testing.assert_array_equal(found.values, [[-1, 0, 1, np.nan], [np.nan] * 4])
    assert judge({"t": found}).first[1] is None
    with pytest.raises(MismatchError):
        table_of_changes([(base, make_answers([right], [0]))], item_design([""] * 4, "none"))


def test_what_cannot_be_judged_is_refused() -> None:
    for arguments in ({"margin": 0.0}, {"margin": float("nan")}, {"level": 1.0}, {"level": 0.4}):
        with pytest.raises(InputError, match="out of range"):
            judge({"t": table(50, (1, 1))}, **arguments)
    with pytest.raises(InputError, match="'empty' has no items"):
        judge({"empty": ChangeTable(np.zeros((2, 0)), item_design([], "none"))})
    with pytest.raises(InputError, match="different numbers of quants"):
        judge({"a": table(50, (1, 1)), "b": table(50, (1, 1), (2, 2))})
