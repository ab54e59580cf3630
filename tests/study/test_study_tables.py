"""The tables of correlations: against scipy, corrected as they say, and without claims where none would hold."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from fake_panel import Cohort, flat_then_fall, no_law, scores_of, simulate_panel
from scipy import stats

from quantprobe.stats.correlation import Resampling, Target
from quantprobe.stats.item_contrast import ItemNoise
from quantprobe.study.correlations import PREDICTS, WRONG_WAY, Part, adjust_p, correlation_table
from quantprobe.study.decomposition import cross_task, decompose
from quantprobe.study.fidelity import ALL_TASKS, Variable
from quantprobe.study.pooled import answers_of, join_answers, pool
from quantprobe.study.precision import accuracy_reliability, fidelity_reliability
from quantprobe.study.targets import NamedTarget, accuracy_targets, direction_targets, rest_target

QUICK = Resampling(n_boot=10, n_perm=499)


def _silent(n: int) -> ItemNoise:
    return ItemNoise(np.zeros((n, 2)), np.zeros(2, np.int64), np.ones(1))


def test_table_equals_scipy() -> None:
    rng = np.random.default_rng(0)
    measures = [Variable(f"m{i}", "wiki", -1, True, np.exp(rng.normal(size=20))) for i in range(3)]
    values = rng.normal(size=20)
    parts = [
        Part("full", np.ones(20, bool)),
        Part("zone", np.arange(20) < 12),
        Part("lossy", np.arange(20) >= 12, False),
    ]
    targets = [NamedTarget("acc", "t", Target(values, _silent(20)))]
    rows = correlation_table(measures, targets, parts, np.zeros(20, int), QUICK)
    assert len(rows) == 3 * 3 * 2
    row = next(r for r in rows if (r.measure, r.subset, r.correlation.method) == ("m1", "zone", "pearson"))
    assert row.scale == "ln"
    assert row.correlation.value == pytest.approx(
        stats.pearsonr(np.log(measures[1].values[:12]), values[:12]).statistic
    )
    lossy = [r for r in rows if r.subset == "lossy"]
    assert all(r.correlation.value is not None and r.correlation.p is None for r in lossy)


def _row(p: float, subset: str, value: float, is_law: bool = True, better: int = -1):
    measure = Variable("kld_mean", "t", better, True, np.arange(1.0, 9))
    target = NamedTarget("acc", "t", Target(np.arange(8.0), _silent(8)), is_law)
    row = correlation_table(
        [measure], [target], [Part(subset, np.ones(8, bool))], np.zeros(8, int), QUICK, ["spearman"]
    )[0]
    return replace(row, correlation=replace(row.correlation, p=p, value=value))


def test_p_is_adjusted_within_parts_and_read() -> None:
    rows = [_row(0.004, "full", -0.9), _row(0.01, "full", 0.8), _row(0.5, "full", 0.1), _row(0.02, "zone", -0.7)]
    rows += [_row(1e-9, "zone", 0.99, is_law=False)]
    rows = adjust_p(rows, 0.95)
    assert [row.p_adjusted for row in rows] == pytest.approx([0.024, 0.03, 1.0, 0.04, 1e-9])
    assert [row.reading for row in rows] == [PREDICTS, WRONG_WAY, "", PREDICTS, PREDICTS]
    assert rows[0].idea == "KLD"


def test_few_rows_make_no_claim() -> None:
    panel = simulate_panel(flat_then_fall, 0, Cohort(12))
    rows = correlation_table(
        panel.fidelity, accuracy_targets(panel), [Part("full", np.ones(12, bool))], panel.family_codes, QUICK
    )
    rows = adjust_p(rows, 0.95)
    assert {row.idea for row in rows} == {"KLD", "KLD tail (99 %)", "top-1 agreement", "PPL", ""}
    far = [row for row in rows if row.measure == "kld_p999"]
    assert all(row.correlation.value is not None and row.correlation.p is None and not row.reading for row in far)
    assert all(row.p_adjusted is None for row in rows if row.correlation.method == "pearson")
    headline = next(row for row in rows if (row.measure, row.target) == ("kld_mean", "pooled"))
    assert headline.reading == PREDICTS


def test_targets_and_their_errors() -> None:
    panel = simulate_panel(flat_then_fall, 1, Cohort(6, 300, 2))
    found = {(t.name, t.source): t for t in (*accuracy_targets(panel), *direction_targets(panel))}
    pooled = pool(panel.scores)
    np.testing.assert_allclose(found["pooled", ALL_TASKS].target.values, pooled.acc)
    signed = answers_of(panel, panel.scores.names).signed
    error = found["net", ALL_TASKS].target.noise.covariance()
    within = (np.cov(signed[:, :300]) + np.cov(signed[:, 300:])) / 300 / 4  # tasks are strata
    np.testing.assert_allclose(error, within)
    np.testing.assert_allclose(found["normalised", ALL_TASKS].target.noise.covariance(), error / 0.5**2)
    volume = found["volume", "task0"].target.noise.covariance()
    np.testing.assert_allclose(volume, np.cov(np.abs(signed[:, :300])) / 300)
    assert not found["volume", ALL_TASKS].is_law
    # the error of the direction index is that of flips of random direction, 1 / sqrt(flips)
    index = found["direction_index", "task0"].target
    flips = np.abs(signed[:, :300]).sum(1)
    expected = np.sqrt(1 / flips - index.values**2 / 300) * np.sqrt(300 / 299)
    np.testing.assert_allclose(np.sqrt(np.diag(index.noise.covariance())), expected)
    assert "normalised" not in {
        t.name for t in accuracy_targets(replace(panel, scores=replace(panel.scores, chance=np.array([0.5, np.nan]))))
    }


def test_cross_task_shares_no_item_with_its_target() -> None:
    panel = simulate_panel(no_law, 2, Cohort(8, 100, 3))
    target = rest_target(panel, "task1")
    assert target.source == "all tasks but task1"
    np.testing.assert_allclose(target.target.values, panel.scores.acc[[0, 2]].mean(0))
    assert target.target.noise.residuals.shape == (8, 200)
    assert rest_target(panel, "a text").target.noise.residuals.shape == (8, 300)
    one = simulate_panel(no_law, 2, Cohort(8, 100, 1))
    assert cross_task(one, [Part("full", np.ones(8, bool))], QUICK) == ()
    rows = cross_task(panel, [Part("full", np.ones(8, bool))], QUICK)
    assert {(row.source, row.target_source) for row in rows} == {
        (f"task{i}", f"all tasks but task{i}") for i in range(3)
    }


def test_decomposition_finds_volume_not_direction() -> None:
    panel = simulate_panel(no_law, 5, Cohort(25, 1_000))
    rows = adjust_p(decompose(panel, [Part("full", np.ones(25, bool))], QUICK), 0.95)
    read = {(row.measure, row.target): row.reading for row in rows if row.target_source == ALL_TASKS}
    assert read["kld_mean", "volume"] == PREDICTS
    assert read["kld_mean", "net"] == ""


def test_quants_without_answers_are_left_out_of_the_error() -> None:
    panel = simulate_panel(no_law, 4, Cohort(7, 100, 2))
    short = replace(
        panel.tasks[0],
        quants=np.arange(1, 7),
        base_correct=panel.tasks[0].base_correct[1:],
        correct=panel.tasks[0].correct[1:],
    )
    tasks = (short, panel.tasks[1])
    panel = replace(panel, tasks=tasks, scores=scores_of(tasks, 7))
    assert join_answers(tasks).quants.tolist() == list(range(1, 7))
    pooled = accuracy_targets(panel)[0]
    assert np.isnan(pooled.target.noise.residuals[0]).all()
    assert np.isfinite(pooled.target.noise.residuals[1:]).all()
    rows = correlation_table(panel.fidelity[:1], [pooled], [Part("full", np.ones(7, bool))], panel.family_codes, QUICK)
    assert rows[0].correlation.n == 6


def test_reliabilities() -> None:
    panel = simulate_panel(flat_then_fall, 1, Cohort(12))
    every, headline = np.arange(12), panel.fidelity[0]
    answers = answers_of(panel, panel.scores.names)
    assert accuracy_reliability(panel, every, answers, 0.95).low > 0.8
    assert fidelity_reliability(panel, every, headline, 0.95).low > 0.9
    bare = replace(panel, tasks=(), texts=())
    assert "no item files" in accuracy_reliability(bare, every, None, 0.95).reason
    assert "no row files" in fidelity_reliability(bare, every, headline, 0.95).reason
    assert answers_of(bare, panel.scores.names) is None
    assert answers_of(panel, ()) is None
