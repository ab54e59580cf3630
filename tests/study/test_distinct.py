"""One quant under several names is one quant."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from fake_panel import Cohort, scores_of, simulate_panel, slope_in_zone

from quantprobe.stats.correlation import Resampling
from quantprobe.study.distinct import distinct_quants, take_quants
from quantprobe.study.findings import study_panel
from quantprobe.study.law import UNDECIDED
from quantprobe.study.panel import Panel


def _copies(panel: Panel, of: list[int]) -> Panel:
    """The panel with quants `of` in this order, repetitions and all."""
    at = np.array(of)
    tasks = tuple(
        replace(t, quants=np.arange(len(at)), base_correct=t.base_correct[at], correct=t.correct[at], kld=t.kld[at])
        for t in panel.tasks
    )
    return replace(
        panel,
        names=tuple(f"N{i}" for i in range(len(at))),
        sizes=panel.sizes[at],
        fidelity=tuple(replace(v, values=v.values[at]) for v in panel.fidelity),
        direction=tuple(replace(v, values=v.values[at]) for v in panel.direction),
        scores=scores_of(tasks),
        tasks=tasks,
        texts=tuple(replace(t, quants=np.arange(len(at)), kld_sums=t.kld_sums[at]) for t in panel.texts),
    )


def test_copies_are_counted_once_and_named() -> None:
    panel = simulate_panel(slope_in_zone(3.0), 0, Cohort(3, 400, 2))
    copies = _copies(panel, [0, 0, 0, 1, 1, 2, 2, 2])
    kept, groups = distinct_quants(copies)
    assert kept.names == ("N0", "N3", "N5")
    assert groups == (("N0", "N1", "N2"), ("N3", "N4"), ("N5", "N6", "N7"))
    np.testing.assert_array_equal(kept.scores.acc, panel.scores.acc)
    np.testing.assert_array_equal(kept.tasks[1].correct, panel.tasks[1].correct)
    findings = study_panel(copies, how=Resampling(20, 99))
    assert findings.names == copies.names
    assert findings.zones[0].full.n == 3
    assert set(findings.zones[0].members) | set(findings.zones[0].outside) == set(copies.names)
    assert findings.zones[0].full_law.conclusion == UNDECIDED
    assert any("N3, N4 are one and the same in every number" in remark for remark in findings.remarks)


def test_one_answer_or_number_apart_are_two() -> None:
    panel = _copies(simulate_panel(slope_in_zone(3.0), 0, Cohort(3, 400, 2)), [0, 0, 1])
    task = panel.tasks[0]
    correct = task.correct.copy()
    correct[0, :2] ^= [True, False]
    other = replace(panel, tasks=(replace(task, correct=correct), panel.tasks[1]))
    assert distinct_quants(other)[1] == ()
    values = panel.fidelity[1].values.copy()
    values[1] *= 1 + 1e-12
    assert distinct_quants(replace(panel, fidelity=(replace(panel.fidelity[1], values=values),)))[1] == ()
    assert distinct_quants(replace(panel, fidelity=()))[1] == ()
    assert distinct_quants(panel)[1] == (("N0", "N1"),)


def test_equal_digests_are_one_whatever_the_numbers() -> None:
    panel = simulate_panel(slope_in_zone(3.0), 0, Cohort(4, 50, 1))
    kept, groups = distinct_quants(
        replace(panel, digests=("a", "", "a", ""), families=("x", "y", "x", "y"), bpw=np.arange(4.0))
    )
    assert groups == (("Q0", "Q2"),)
    assert (kept.names, kept.families, kept.bpw.tolist()) == (("Q0", "Q1", "Q3"), ("x", "y", "y"), [0, 1, 3])
    assert distinct_quants(panel) == (panel, ())


def test_taking_quants_keeps_answers_with_their_quant() -> None:
    panel = simulate_panel(slope_in_zone(3.0), 0, Cohort(5, 50, 1))
    task = replace(panel.tasks[0], quants=np.array([1, 2, 4]), correct=panel.tasks[0].correct[[1, 2, 4]])
    taken = take_quants(replace(panel, tasks=(task,)), np.array([0, 2, 4]))
    assert taken.tasks[0].quants.tolist() == [1, 2]
    np.testing.assert_array_equal(taken.tasks[0].correct, panel.tasks[0].correct[[2, 4]])
    assert take_quants(panel, np.array([0, 3])).texts[0].kld_sums.shape == (2, 100)
