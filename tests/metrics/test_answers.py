"""Answers and their direction: hand-made cases, scipy, and invariants."""

import numpy as np
import pytest
from answer_factory import make_answers, make_pair
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import softmax

from quantprobe.errors import InputError, MismatchError
from quantprobe.metrics.answers import Answers, pool_answers
from quantprobe.metrics.direction import list_changes, measure_direction, measure_groups

CHOICES = st.lists(st.floats(-50, 0), min_size=2, max_size=5)


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Answers, Answers]:
    base = draw(st.lists(CHOICES, min_size=1, max_size=12))
    quant = [draw(st.lists(st.floats(-50, 0), min_size=len(row), max_size=len(row))) for row in base]
    gold = [draw(st.integers(0, len(row) - 1)) for row in base]
    groups = [draw(st.sampled_from(["", "a", "b"])) for _ in base]
    if draw(st.booleans()):
        quant[0] = [float("nan"), *quant[0][1:]]
    return make_answers(base, gold, groups), make_answers(quant, gold, groups)


def test_prediction_margin_and_probability() -> None:
    found = make_answers([[-1.0, -2.0, -0.5], [-3.0, -1.0]], gold=[0, 1])
    assert found.pred.tolist() == [2, 1]
    assert found.correct.tolist() == [False, True]
    assert found.margin == pytest.approx([-0.5, 2.0])
    assert found.gold_prob == pytest.approx([softmax([-1.0, -2.0, -0.5])[0], softmax([-3.0, -1.0])[1]], abs=1e-12)


def test_the_first_of_equals_is_the_prediction_and_ties_are_counted() -> None:
    found = make_answers([[-1.0, -1.0, -2.0], [-2.0, -1.0, -1.0], [-1.0, -2.0, -2.0]], gold=[1, 1, 0])
    assert found.pred.tolist() == [0, 1, 0]
    assert found.correct.tolist() == [False, True, True]
    assert found.margin == pytest.approx([0.0, 0.0, 1.0])
    assert found.tied.tolist() == [True, True, False]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("place", [0, 1])
def test_items_that_are_not_finite_are_invalid_and_not_padding(bad: float, place: int) -> None:
    broken = [-1.0, -2.0]
    broken[place] = bad
    found = make_answers([broken, [-1.0, -2.0, -3.0]], gold=[0, 0])
    assert found.valid.tolist() == [False, True]
    assert found.pred.tolist() == [-1, 0]
    assert not found.correct[0]
    assert np.isnan(found.margin[0])
    assert np.isnan(found.gold_prob[0])
    counted = measure_direction(found, make_answers([[-1.0, -2.0], [-3.0, -2.0, -1.0]], gold=[0, 0]))
    assert (counted.n, counted.n_invalid, counted.drops) == (1, 1, 1)


def test_extreme_margins_stay_finite() -> None:
    found = make_answers([[-5000.0, 0.0], [0.0, -5000.0]], gold=[0, 0])
    assert found.gold_prob.tolist() == [0.0, 1.0]
    assert found.margin.tolist() == [-5000.0, 5000.0]


@pytest.mark.parametrize(
    ("logprobs", "gold", "words"),
    [([[-1.0]], [0], "1 choices"), ([[-1.0, -2.0]], [2], "right choice is 2"), ([[-1.0, -2.0]], [-1], "choice is -1")],
)
def test_impossible_items_are_refused(logprobs: list[list[float]], gold: list[int], words: str) -> None:
    with pytest.raises(InputError, match=words):
        make_answers(logprobs, gold)


def test_direction_of_a_hand_made_task() -> None:
    base = make_answers([[0, -1, -2], [0, -1, -2], [0, -1, -2], [0, -1, -2], [0, -1, -2]], gold=[0, 0, 1, 1, 1])
    quant = make_answers([[0, -1, -2], [-1, 0, -2], [-1, 0, -2], [-1, -2, 0], [0, -1, -3]], gold=[0, 0, 1, 1, 1])
    found = measure_direction(base, quant)
    assert (found.drops, found.leapfrogs, found.wrong_to_other_wrong) == (1, 1, 1)
    assert (found.volume, found.net, found.index) == (0.4, 0.0, 0.0)
    assert (found.acc_base, found.acc) == (0.4, 0.4)
    assert found.margin_shift == pytest.approx((0 - 2 + 2 - 1 + 0) / 5)
    assert found.margin_shift_abs == pytest.approx(5 / 5)
    assert found.margin_shift_ratio == pytest.approx(-1 / 5)
    kinds = [(item.id, item.kind) for item in list_changes(base, quant)]
    assert kinds == [("q1", "drop"), ("q2", "leapfrog"), ("q3", "wrong to other wrong")]


@given(pairs())
def test_invariants(pair: tuple[Answers, Answers]) -> None:
    base, quant = pair
    found, swapped = measure_direction(base, quant), measure_direction(quant, base)
    assert found.n + found.n_invalid == base.n_items
    assert (found.drops, found.leapfrogs) == (swapped.leapfrogs, swapped.drops)
    assert found.wrong_to_other_wrong == swapped.wrong_to_other_wrong
    assert len(list_changes(base, quant)) == found.drops + found.leapfrogs + found.wrong_to_other_wrong
    if found.n == 0:
        assert found.net is found.volume is found.margin_shift is None
        return
    assert found.net == pytest.approx(found.acc - found.acc_base, abs=1e-12)
    assert found.net == pytest.approx(found.volume * (found.index or 0.0), abs=1e-12)
    for name in ("net", "margin_shift", "gold_prob_shift"):
        assert getattr(swapped, name) == pytest.approx(-getattr(found, name), abs=1e-12)
    assert abs(found.margin_shift) <= found.margin_shift_abs + 1e-12
    same = measure_direction(base, base)
    assert (same.drops, same.leapfrogs, same.volume, same.index, same.margin_shift) == (0, 0, 0.0, None, 0.0)


@given(pairs())
def test_groups_add_up(pair: tuple[Answers, Answers]) -> None:
    base, quant = pair
    loose = [i for i, group in enumerate(base.groups) if not group]
    groups = measure_groups(base, quant)
    assert [found.group for found in groups] == [g for g in dict.fromkeys(base.groups) if g]
    assert sum(found.n + found.n_invalid for found in groups) == base.n_items - len(loose)
    if not loose:
        whole = measure_direction(base, quant)
        assert sum(found.drops for found in groups) == whole.drops
        assert sum(found.leapfrogs for found in groups) == whole.leapfrogs


def test_pooling_adds_the_tasks_up() -> None:
    first, second = make_pair(1, n=30, n_groups=3), make_pair(2, n=20)
    narrow = make_answers([[-1.0, -2.0]] * 5, gold=[0] * 5), make_answers([[-2.0, -1.0]] * 5, gold=[0] * 5)
    tasks = {"arc": first, "mmlu": second, "yesno": narrow}
    base = pool_answers({name: pair[0] for name, pair in tasks.items()})
    quant = pool_answers({name: pair[1] for name, pair in tasks.items()})
    assert base.ids[0] == "arc/q0"
    assert base.groups[0] == "arc/g0"
    assert base.groups[-1] == ""
    pooled = measure_direction(base, quant)
    parts = [measure_direction(*pair) for pair in tasks.values()]
    assert (pooled.n, pooled.drops) == (55, sum(part.drops for part in parts))
    assert pooled.margin_shift == pytest.approx(sum(part.margin_shift * part.n for part in parts) / 55)
    assert base.kld is None
    assert np.isnan(quant.kld[-1])
    with pytest.raises(InputError):
        pool_answers({})


def test_different_items_are_refused_with_the_first_and_the_number() -> None:
    base, quant = make_answers([[-1.0, -2.0]] * 3, [0] * 3), make_answers([[-1.0, -2.0]] * 2, [0] * 2)
    with pytest.raises(MismatchError, match=r"1 of the base's 3 .*first: 'q2'"):
        measure_direction(base, quant)
    other_gold = make_answers([[-1.0, -2.0]] * 3, [0, 1, 0])
    with pytest.raises(MismatchError, match="'q1'"):
        measure_direction(base, other_gold)
    with pytest.raises(MismatchError, match="2 choices for the base and 3"):
        measure_direction(base, make_answers([[-1.0, -2.0, -3.0]] * 3, [0] * 3))
