"""The whole summary of a task: known tables, null runs, and the form of results.json."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from answer_factory import make_answers, make_pair
from scipy import stats

from quantprobe.errors import InputError
from quantprobe.metrics.answers import Answers
from quantprobe.run.json_text import plain
from quantprobe.stats.design import item_design
from quantprobe.stats.smoothed import smoothed_change
from quantprobe.stats.summary_sampled import summarise_sampled
from quantprobe.stats.summary_tasks import TaskSummary, summarise_task
from quantprobe.stats.verdicts import correct_over_quants, table_of_changes
from quantprobe.stats.verdicts import judge as judge_tables


def flipped(n: int, drops: int, leapfrogs: int, groups: list[str] | None = None) -> tuple[Answers, Answers]:
    """Two choices; half the items right in the base, then so many changed."""
    right, wrong = [0.0, -1.0], [-1.0, 0.0]
    base = [right if i % 2 == 0 else wrong for i in range(n)]
    quant = list(base)
    for i in range(drops):
        quant[2 * i] = wrong
    for i in range(leapfrogs):
        quant[2 * i + 1] = right
    return make_answers(base, [0] * n, groups), make_answers(quant, [0] * n, groups)


def judge(*pairs: tuple[Answers, Answers], margin: float = 0.01) -> list[TaskSummary]:
    design = item_design(pairs[0][0].groups, "none")
    judged = judge_tables({"task": table_of_changes(pairs, design)}, margin).first
    return correct_over_quants([summarise_task(base, quant, margin) for base, quant in pairs], judged)


def test_numbers_of_a_known_table() -> None:
    [found] = judge(flipped(400, drops=30, leapfrogs=10))
    assert (found.drops, found.leapfrogs, found.n_items) == (30, 10, 400)
    assert found.net.value == pytest.approx(-0.05)
    assert found.volume.value == pytest.approx(0.1)
    assert found.direction_index == pytest.approx(-0.5)
    assert found.direction_index_low < -0.5 < found.direction_index_high < 0
    assert found.mcnemar_p == pytest.approx(stats.binomtest(10, 40).pvalue, abs=1e-9)
    assert found.p == found.mcnemar_p
    assert found.adjusted_p < 0.01 and found.alpha_star <= 0.05
    assert found.acc.value - found.acc_base.value == pytest.approx(found.net.value)
    assert found.margin_shift.value == pytest.approx(2 * found.net.value)
    assert found.margin_shift_ratio.value == pytest.approx(-0.5)
    assert found.verdict == "worse"
    assert "30 drops, 10 leapfrogs in 400" in found.sentence
    assert not found.noninferior


def test_what_the_report_found_replaces_what_the_task_alone_says() -> None:
    pairs = [flipped(1000, 60, 10), flipped(1000, 10, 60), flipped(1000, 2, 2), flipped(1000, 20, 15)]
    alone = [summarise_task(base, quant) for base, quant in pairs]
    assert {s.verdict for s in alone} == {None} == {s.mde for s in alone}
    worse, better, same, unknown = judge(*pairs)
    assert [s.verdict for s in (worse, better, same, unknown)] == ["worse", "better", "equivalent", "not separable"]
    assert (worse.noninferior, same.noninferior, unknown.noninferior) == (False, True, False)
    assert worse.net.low < alone[0].net.low < alone[0].net.high < worse.net.high < 0
    assert f"about {unknown.n_to_settle:,} would settle ±1" in unknown.sentence


def test_base_against_itself_is_not_a_difference() -> None:
    base, _ = make_pair(4, n=500)
    [found] = judge((base, base))
    assert (found.p, found.adjusted_p, found.net.value, found.margin_shift_p) == (1.0, 1.0, 0.0, 1.0)
    assert found.verdict == "equivalent"
    assert found.direction_index is None
    assert found.margin_shift_ratio.value is None
    assert found.mde > 0.01, "no change seen in 500 items is no proof against a change of any size"
    few, _ = make_pair(4, n=100)
    [found] = judge((few, few))
    assert found.verdict == "not separable", "100 items cannot show equivalence within one point"


def test_margin_shift_sees_what_flips_do_not() -> None:
    [found] = judge(make_pair(5, n=300, noise=0.05, shift=-0.03))
    assert found.verdict == "not separable"
    assert found.margin_shift_holm_p < 0.01
    assert found.margin_shift.high < 0


def test_smoothed_change_is_that_of_the_margins() -> None:
    base, quant = make_pair(5, n=300, noise=0.05, shift=-0.03)
    design = item_design(base.groups, "none")
    found = summarise_task(base, quant).net_smoothed
    assert found == smoothed_change(base.margin, quant.margin, design)
    assert found.unit == "fraction" and found.low < found.value < found.high < 0

    everything = summarise_sampled(base, quant, np.ones(300, np.bool_), np.ones(300), design, 0.01).net_smoothed
    assert everything.value == pytest.approx(found.value)
    some = np.arange(300) % 2 == 0
    unseen = replace(quant, margin=np.where(some, quant.margin, np.nan))
    half = summarise_sampled(base, unseen, some, np.full(300, 0.5), design, 0.01).net_smoothed
    assert half == smoothed_change(base.margin, unseen.margin, design, some, np.full(300, 0.5))


def test_answers_without_margins_have_no_smoothed_change() -> None:
    base, quant = make_pair(5, n=300)
    assert summarise_task(base, replace(quant, margin=np.full(300, np.nan))).net_smoothed is None


def test_shift_p_is_scipys_t_test_and_groups_change_it() -> None:
    base, quant = make_pair(6, n=200, shift=-0.02)
    found = summarise_task(base, quant)
    expected = stats.ttest_rel(quant.margin, base.margin)
    assert found.margin_shift_p == pytest.approx(expected.pvalue, rel=1e-9)
    interval = expected.confidence_interval(0.95)
    assert (found.margin_shift.low, found.margin_shift.high) == pytest.approx((interval.low, interval.high), rel=1e-9)
    grouped = summarise_task(*make_pair(6, n=200, shift=-0.02, n_groups=20), grouping="clusters")
    assert (found.margin_shift.n_clusters, grouped.margin_shift.n_clusters) == (200, 20)
    assert len(grouped.by_group) == 20
    assert sum(group.drops for group in grouped.by_group.values()) == grouped.drops
    for group in grouped.by_group.values():
        assert group.net.low <= group.net.value <= group.net.high
        assert group.net.n == group.n_items == 10


def test_invalid_tied_and_left_out_items_are_counted() -> None:
    nan = float("nan")
    base = make_answers([[0.0, -1.0], [nan, 0.0], [0.0, 0.0], [-1.0, 0.0]], [0, 0, 0, 0])
    quant = make_answers([[0.0, -1.0], [0.0, -1.0], [0.0, -1.0], [nan, 0.0]], [0, 0, 0, 0])
    found = summarise_task(base, quant, n_left_out=3, rule="sum", template="cloze")
    assert (found.n_items, found.n_invalid, found.n_ties, found.n_left_out) == (2, 2, 1, 3)
    assert (found.rule, found.template) == ("sum", "cloze")
    assert found.kld_mean.value is None


def test_acc_norm_comes_from_the_other_rule() -> None:
    base, quant = flipped(100, 5, 0)
    norm = flipped(100, 0, 10)
    found = summarise_task(base, quant, norm=norm)
    assert (found.acc.value, found.acc_norm.value, found.acc_norm_base.value) == pytest.approx((0.45, 0.6, 0.5))


def test_dictionary_has_the_contracts_keys_and_is_strict_json() -> None:
    base, quant = make_pair(7, n=60, n_groups=3)
    [found] = judge((base, quant))
    content = plain(found)
    contract = (
        "rule acc acc_base acc_norm drops leapfrogs wrong_to_other_wrong volume net direction_index margin_shift "
        "gold_prob_shift mcnemar_p adjusted_p alpha_star verdict margin mde kld_mean n_items n_invalid"
    )
    assert set(contract.split()) <= set(content)
    text = json.dumps(content, allow_nan=False)
    assert json.loads(text) == content
    for name in ("acc", "net", "volume", "margin_shift", "gold_prob_shift", "kld_mean"):
        assert set(content[name]) == {"value", "stderr", "low", "high", "level", "n", "n_clusters", "unit"}
    assert set(content["by_group"]) == {"g0", "g1", "g2"}
    assert content["kld_mean"]["value"] == pytest.approx(float(np.mean(quant.kld)))


@pytest.mark.parametrize(("n", "drops"), [(1, 0), (2, 1), (3, 0)])
def test_tiny_tasks_give_numbers_and_no_claim(n: int, drops: int) -> None:
    [found] = judge(flipped(n, drops, 0))
    assert found.verdict == "not separable"
    json.dumps(plain(found), allow_nan=False)
    assert found.mde is None if n == 1 else math.isfinite(found.mde)


def test_nothing_to_compare() -> None:
    nan = float("nan")
    broken = make_answers([[nan, 0.0]], [0])
    with pytest.raises(InputError, match="none of 1 items"):
        summarise_task(broken, broken)
    base, quant = make_pair(8, n=10)
    for arguments in ({"margin": 0.0}, {"margin": float("nan")}, {"level": 1.0}, {"level": 0.4}):
        with pytest.raises(InputError, match="out of range"):
            summarise_task(base, quant, **arguments)
