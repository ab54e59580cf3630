"""The parts of the study, each against brute force, scipy, scikit-learn or a law that is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from fake_panel import Cohort, alone, flat_then_fall, simulate_panel
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats
from sklearn.metrics import roc_auc_score

from quantprobe.stats.correlation import Resampling
from quantprobe.stats.paired import compare_paired
from quantprobe.study.fidelity import ALL_TASKS
from quantprobe.study.groups import compact_letters, separable_pairs
from quantprobe.study.item_level import item_level, route
from quantprobe.study.panel import Panel, TaskAnswers, TaskScores
from quantprobe.study.ranking import frontier_share, rank

QUICK = Resampling(n_boot=100, n_perm=499)


def _scores(drops: list[list[float]], leapfrogs: list[list[float]], n: int = 100) -> TaskScores:
    b, c = np.array(drops, float), np.array(leapfrogs, float)
    base = np.full_like(b, 0.5)
    names = tuple(f"t{i}" for i in range(len(b)))
    return TaskScores(names, base + (c - b) / n, base, base, b, c, np.full_like(b, n), np.full(len(b), 0.25))


def _answers(seed: int, n_quants: int = 3, n_items: int = 80) -> TaskAnswers:
    rng = np.random.default_rng(seed)
    kld = np.round(np.exp(rng.normal(0, 1, (n_quants, n_items))), 2)  # with ties
    base = np.broadcast_to(rng.random(n_items) < 0.6, kld.shape).copy()
    correct = base ^ (rng.random(kld.shape) < 0.1 * np.minimum(kld, 5))
    return TaskAnswers(f"t{seed}", np.arange(n_quants), alone(n_items), base, correct, kld)


def _panel(*tasks: TaskAnswers, sizes: np.ndarray | None = None) -> Panel:
    n = len(tasks[0].quants)
    scores = _scores([[1.0] * n] * len(tasks), [[0.0] * n] * len(tasks))
    scores = replace(scores, names=tuple(task.name for task in tasks))
    sizes = np.arange(n, 0, -1.0) if sizes is None else sizes
    return Panel(tuple(f"Q{i}" for i in range(n)), sizes, (), (), scores, tasks, (), ())


def test_item_level_of_one_quant_is_the_plain_number() -> None:
    task = _answers(0)
    rows = {(r.subset, r.outcome): r for r in item_level(_panel(task), np.array([True, False, False]), 0.95)}
    wrong, kld = ~task.correct[1], task.kld[1]
    row = rows["Q1", "fails"]
    assert (row.n_with, row.n_without) == (wrong.sum(), (~wrong).sum())
    assert row.auroc.value == pytest.approx(roc_auc_score(wrong, kld), abs=1e-12)
    assert row.ratio.value == pytest.approx(stats.gmean(kld[wrong]) / stats.gmean(kld[~wrong]), rel=1e-12)
    assert row.ratio.low < row.ratio.value < row.ratio.high
    drops = rows["Q1", "drops"]
    at = task.base_correct[1]
    assert drops.auroc.value == pytest.approx(roc_auc_score(wrong[at], kld[at]), abs=1e-12)
    assert rows["zone", "fails"].auroc.value == pytest.approx(rows["Q0", "fails"].auroc.value)
    # a Welch-like error of a difference of log means, by hand
    logs = np.log(kld)
    error = np.sqrt(logs[wrong].var() / wrong.sum() + logs[~wrong].var() / (~wrong).sum()) * np.sqrt(80 / 79)
    assert row.ratio.stderr == pytest.approx(row.ratio.value * error, rel=1e-9)


def test_item_level_weighs_strata_by_pairs() -> None:
    tasks = [_answers(0), _answers(1)]
    rows = item_level(_panel(*tasks), np.ones(3, bool), 0.95)
    row = next(r for r in rows if (r.task, r.subset, r.outcome) == (ALL_TASKS, "full", "fails"))
    pairs = [
        ((~t.correct[q]).sum() * t.correct[q].sum(), roc_auc_score(~t.correct[q], t.kld[q]))
        for t in tasks
        for q in range(3)
    ]
    assert row.auroc.value == pytest.approx(sum(w * a for w, a in pairs) / sum(w for w, _ in pairs), abs=1e-12)


def test_item_level_interval_covers_when_items_are_shared() -> None:
    """All quants see the same items, so their answers to one are not independent: the interval must know."""
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(60):
        latent = rng.normal(size=150)
        kld = np.exp(latent + rng.normal(0, 0.3, (6, 150)))
        wrong = (latent + rng.normal(0, 2, 150) > 0.8) ^ (rng.random((6, 150)) < 0.05)
        task = TaskAnswers("t", np.arange(6), alone(150), ~wrong, ~wrong, kld)
        row = next(
            r for r in item_level(_panel(task), np.ones(6, bool), 0.95) if (r.subset, r.outcome) == ("full", "fails")
        )
        covered += row.auroc.low <= 0.657 <= row.auroc.high  # 0.657: the same law with 2,000,000 items
    assert 52 <= covered <= 60


def test_item_level_leaves_out_what_it_must() -> None:
    task = _answers(0)
    kld = task.kld.copy()
    kld[0], kld[1, 0], kld[2, :5] = np.nan, np.nan, 0.0
    rows = {(r.subset, r.outcome): r for r in item_level(_panel(replace(task, kld=kld)), np.zeros(3, bool), 0.95)}
    assert ("Q0", "fails") not in rows
    assert ("zone", "fails") not in rows
    assert rows["Q1", "fails"].n_with + rows["Q1", "fails"].n_without == 79
    positive = kld[2] > 0
    wrong = ~task.correct[2]
    expected = stats.gmean(kld[2][positive & wrong]) / stats.gmean(kld[2][positive & ~wrong])
    assert rows["Q2", "fails"].ratio.value == pytest.approx(expected, rel=1e-12)
    assert item_level(_panel(replace(task, kld=np.full_like(kld, np.nan))), np.ones(3, bool), 0.95) == ()


def test_router_is_the_plain_count() -> None:
    task = _answers(4, n_quants=5)
    found = route(_panel(task), np.array([True, True, False, False, False]), 0.95)
    means = task.kld.mean(1)
    for row, quants in zip(found, (range(5), range(2)), strict=True):
        total = by_item = by_quant = 0.0
        for i in quants:
            for j in (j for j in quants if j > i):
                for item in np.flatnonzero(task.correct[i] != task.correct[j]):
                    winner, loser = (i, j) if task.correct[i, item] else (j, i)
                    total += 1
                    by_item += 0.5 + 0.5 * np.sign(task.kld[loser, item] - task.kld[winner, item])
                    by_quant += means[winner] < means[loser]
        assert row.n_disagreements == total
        assert row.by_item.value == pytest.approx(by_item / total, abs=1e-12)
        assert row.by_quant.value == pytest.approx(by_quant / total, abs=1e-12)
        assert row.by_item.low < row.by_item.value < row.by_item.high


def test_router_interval_covers_a_coin() -> None:
    rng = np.random.default_rng(2)
    covered = 0
    for _ in range(100):
        base = rng.random(200) < 0.5
        correct = base ^ (rng.random((6, 200)) < 0.1)
        task = TaskAnswers("t", np.arange(6), alone(200), np.tile(base, (6, 1)), correct, rng.random((6, 200)))
        row = route(_panel(task), np.ones(6, bool), 0.95)[0]
        covered += row.by_item.low <= 0.5 <= row.by_item.high
    assert 89 <= covered <= 100


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 7).flatmap(lambda n: arrays(np.bool_, (n, n))))
def test_letters_are_shared_exactly_by_the_inseparable(raw: np.ndarray) -> None:
    separable = np.triu(raw, 1) | np.triu(raw, 1).T
    letters = compact_letters(separable)
    for i, mine in enumerate(letters):
        for j, theirs in enumerate(letters):
            if i != j:
                assert bool(set(mine) & set(theirs)) != separable[i, j]
        assert mine
    groups = [{i for i, mine in enumerate(letters) if letter in mine} for letter in set("".join(letters))]
    assert not any(a < b for a in groups for b in groups)


def test_separable_pairs_are_mcnemar_with_holm() -> None:
    rng = np.random.default_rng(0)
    base = rng.random(300) < 0.6
    correct = np.array(
        [base ^ (rng.random(300) < 0.02), base & (rng.random(300) < 0.9), base & (rng.random(300) < 0.6)]
    )
    p = [
        stats.binomtest(int((correct[i] & ~correct[j]).sum()), max(1, int((correct[i] != correct[j]).sum()))).pvalue
        for i, j in ((0, 1), (0, 2), (1, 2))
    ]
    order = np.argsort(p)
    adjusted = np.maximum.accumulate(np.array(p)[order] * [3, 2, 1])[np.argsort(order)]
    found = separable_pairs(correct, np.arange(300), 0.05)
    assert [found[0, 1], found[0, 2], found[1, 2]] == (adjusted <= 0.05).tolist()
    # with groups a pair is separable only if compare_paired's p, which is never smaller, says so
    groups = np.arange(300) // 20
    p = [compare_paired(correct[i], correct[j], groups).p for i, j in ((0, 1), (0, 2), (1, 2))]
    adjusted = np.maximum.accumulate(np.sort(p) * [3, 2, 1])[np.argsort(np.argsort(p))]
    found = separable_pairs(correct, groups, 0.05)
    assert [found[0, 1], found[0, 2], found[1, 2]] == (adjusted <= 0.05).tolist()


def test_frontier() -> None:
    sizes = np.array([4.0, 3.0, 3.0, 2.0, 1.0])
    scores = np.array([[0.9, 0.8, 0.8, 0.8, 0.1], [0.5, 0.6, 0.7, 0.2, 0.2]])
    np.testing.assert_array_equal(frontier_share(sizes, scores), [0.5, 0.0, 0.5, 0.5, 1.0])
    twins = frontier_share(np.array([1.0, 1.0]), np.array([[0.5, 0.5]]))
    np.testing.assert_array_equal(twins, [1.0, 1.0])


def test_ranking_of_a_known_cohort() -> None:
    panel = simulate_panel(flat_then_fall, 2, Cohort(10, 1_000))
    ranking = rank(panel, 0.02, Resampling(n_boot=200))
    by_name = {quant.name: quant for quant in ranking.quants}
    assert (ranking.n_items, ranking.n_pairs) == (3000, 55)
    assert by_name["Q9"].verdict == "worse"
    assert not set(by_name["Q9"].letters) & set(ranking.base_letters)
    assert by_name["Q9"].on_frontier == 1.0  # the smallest always is
    assert ranking.recommended in by_name
    taken = by_name[ranking.recommended]
    assert taken.net.low > -0.02, "shown not to lose the margin"
    assert all(q.net.low <= -0.02 for q in ranking.quants if q.size_bytes < taken.size_bytes)
    for quant in ranking.quants:
        tells_apart = not set(quant.letters) & set(ranking.base_letters)
        assert tells_apart == (quant.net.low > 0 or quant.net.high < 0), "letters and intervals agree on the base"
        assert (quant.adjusted_p <= 0.05) == tells_apart
    assert [quant.acc for quant in ranking.quants] == sorted((q.acc for q in ranking.quants), reverse=True)
    assert by_name["Q0"].on_kld_frontier is not None
    assert rank(replace(panel, tasks=panel.tasks[:2]), 0.02, QUICK).reason == "no item files of task2"
    assert "no item files" in rank(replace(panel, tasks=()), 0.02, QUICK).reason
