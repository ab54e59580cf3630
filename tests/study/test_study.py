"""The study over whole runs: what it says, and what it says about what it cannot compute."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from fake_run import FakeQuant, FakeRun, ladder, write_fake_run
from scipy import stats

from quantprobe.run.cohort import read_cohort
from quantprobe.study.fidelity import fidelity_variables
from quantprobe.study.findings import Findings, study_cohort
from quantprobe.study.panel import read_panel
from quantprobe.study.zone import ZoneSpec

FEW = {"n_boot": 200, "n_perm": 499}


def _study(*runs: Path, **how) -> Findings:
    findings = study_cohort(read_cohort(runs), **{"margin": 0.02, **FEW, **how})
    text = json.dumps(findings.to_dict(), allow_nan=False)
    assert "nan" not in text.lower().replace("finance", "")
    assert not any("nan" in sentence.split() or "None" in sentence for sentence in findings.sentences)
    return findings


def _edit(run: Path, change) -> Path:
    file = run / "results.json"
    results = json.loads(file.read_text(encoding="utf-8"))
    change(results)
    file.write_text(json.dumps(results), encoding="utf-8")
    return run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "whole"
    return write_fake_run(
        folder, FakeRun(quants=ladder(10), tasks={"arc": 200, "hella": 200}, texts={"wiki": 256, "code": 256})
    )


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run, tmp_path / "copy"))


def test_whole_study(run: Path) -> None:
    findings = _study(run)
    cohort = read_cohort([run])
    full = findings.zones[0].full
    kld = [np.mean([q.texts[t].kld_mean.value for t in ("wiki", "code")]) for q in cohort.quants]
    acc = [np.mean([q.tasks[t].acc.value for t in ("arc", "hella")]) for q in cohort.quants]
    assert full.value == pytest.approx(stats.spearmanr(kld, acc).statistic, abs=1e-9)
    assert [zone.kind for zone in findings.zones] == ["margin", "noise"]
    assert findings.sentences[0].startswith("Over all quants, kld_mean on all texts against accuracy pooled")
    assert f"n = {full.n}" in findings.sentences[0]
    assert sum("Silent zone by" in sentence for sentence in findings.sentences) == 2
    measures = {(row.measure, row.source) for row in findings.correlations}
    for name in [
        "kld_mean",
        "kld_median",
        "kld_p90",
        "kld_p95",
        "kld_p99",
        "kld_p999",
        "kld_max",
        "kld_geomean",
        "kld_reverse_mean",
        "jsd_mean",
        "tv_mean",
        "ppl_ratio",
        "delta_ppl",
        "ln_ppl_ratio",
        "same_top",
        "delta_p_rms",
    ]:
        assert {(name, "wiki"), (name, "code")} <= measures
    targets = {(row.target, row.target_source) for row in findings.correlations}
    assert {("acc", "arc"), ("acc_norm", "hella"), ("pooled", "all tasks"), ("normalised", "all tasks")} <= targets
    assert {row.subset for row in findings.correlations} == {"full", "zone", "lossy"}
    assert findings.remarks == ()


def test_same_seed_same_findings(run: Path) -> None:
    first, again, other = (_study(run, seed=seed, n_boot=50, n_perm=99).to_dict() for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_chosen_zone_comes_first(run: Path) -> None:
    findings = _study(run, zone=ZoneSpec("top", top=4))
    assert [zone.kind for zone in findings.zones] == ["top", "margin", "noise"]
    assert len(findings.zones[0].members) >= 4
    assert "the 4 most accurate quants" in " ".join(findings.sentences)


def test_derived_measures(run: Path) -> None:
    cohort = read_cohort([run])
    found = {(v.name, v.source): v.values for v in fidelity_variables(cohort)}
    first = cohort.quants[0].texts["wiki"]
    assert found["ppl_ratio", "wiki"][0] == pytest.approx(math.exp(first.ln_ppl_ratio.value))
    assert found["delta_ppl", "wiki"][0] == pytest.approx(first.ppl.value - first.ppl_base.value)
    np.testing.assert_allclose(
        found["kld_mean", "all texts"], (found["kld_mean", "wiki"] + found["kld_mean", "code"]) / 2
    )
    assert ("kld_mean", "arc") in found


def test_means_that_results_lack_come_from_the_rows(run: Path, copy: Path) -> None:
    def forget(results) -> None:
        for quant in results["quants"]:
            for key in ("jsd_mean", "tv_mean", "kld_reverse_mean", "kld_geomean"):
                quant["texts"]["wiki"].pop(key)

    before, after = (
        {(v.name, v.source): v.values for v in fidelity_variables(read_cohort([folder]))}
        for folder in (run, _edit(copy, forget))
    )
    assert before.keys() == after.keys()
    for key, values in before.items():
        np.testing.assert_allclose(after[key], values, rtol=1e-12)


@pytest.mark.parametrize("n_quants", [0, 1, 2])
def test_too_few_quants(tmp_path: Path, n_quants: int) -> None:
    run = write_fake_run(tmp_path / "r", FakeRun(quants=ladder(n_quants) if n_quants else ()))
    findings = _study(run)
    assert any(f"The cohort has {n_quants} quant" in remark for remark in findings.remarks)
    assert all(row.correlation.value is None and row.correlation.reason for row in findings.correlations)
    assert len(findings.ranking.quants) == n_quants


def test_all_quants_equal(tmp_path: Path) -> None:
    findings = _study(write_fake_run(tmp_path / "r", FakeRun(quants=ladder(6, "null"))))
    text = " ".join(findings.sentences)
    assert "All quants have the same mean KLD" in text
    assert "All 6 quants have the same accuracy on arc" in text
    assert findings.ranking.n_separable == 0
    assert {quant.letters for quant in findings.ranking.quants} == {"a"}


def test_twins_are_named(tmp_path: Path) -> None:
    """Two files with the same tensors: one quant, counted twice."""

    def copy_numbers(results: dict) -> None:
        first, second = results["quants"][1], results["quants"][2]
        second["texts"], second["tasks"] = first["texts"], first["tasks"]

    run = write_fake_run(tmp_path / "r", FakeRun(quants=ladder(8)))
    assert "in every number" not in " ".join(_study(run).remarks)
    findings = _study(_edit(run, copy_numbers))
    [remark] = [remark for remark in findings.remarks if "in every number" in remark]
    names = [quant.name for quant in ladder(8)[1:3]]
    assert remark.startswith(", ".join(names)) and "counts one quant 2 times" in remark


def test_one_task_of_constant_accuracy(tmp_path: Path) -> None:
    quants = tuple(FakeQuant(f"Q{i}", 1e-9 * (i + 1), 0.0, 1000 - i) for i in range(6))
    findings = _study(write_fake_run(tmp_path / "r", FakeRun(quants=quants, tasks={"arc": 100})))
    text = " ".join(findings.remarks)
    assert "same accuracy on arc" in text
    assert "Only one task was measured" in text
    rows = [row for row in findings.decomposition if row.target == "net"]
    assert rows
    assert all("same value" in row.correlation.reason or "only" in row.correlation.reason for row in rows)


def test_missing_tasks_for_some_quants(copy: Path) -> None:
    whole = _study(copy)
    findings = _study(_edit(copy, lambda results: results["quants"][3]["tasks"].pop("arc")))
    assert any("Q5_K_S was not measured on arc" in remark for remark in findings.remarks)
    assert findings.zones[0].full.n == whole.zones[0].full.n - 1
    on_hella = [
        r.correlation.n
        for r in findings.correlations
        if (r.target, r.target_source, r.subset) == ("acc", "hella", "full")
    ]
    assert set(on_hella) == {9, 10}  # 9 where the measure is taken on arc
    assert len(findings.ranking.quants) == 9


def test_no_files(tmp_path: Path) -> None:
    findings = _study(write_fake_run(tmp_path / "r", FakeRun(quants=ladder(10), with_files=False)))
    text = " ".join(findings.remarks)
    assert "No item file of arc" in text
    assert "No row file of wiki" in text
    assert "Groups, frontiers and the recommendation cannot be computed" in text
    assert findings.zones[0].full.value is not None
    assert "no item files" in findings.zones[0].acc_reliability.reason
    assert findings.item_level == findings.routers == ()


def test_no_texts_and_no_tasks(tmp_path: Path) -> None:
    tasks_only = _study(write_fake_run(tmp_path / "a", FakeRun(quants=ladder(8), texts={})))
    assert tasks_only.headline == "kld_mean on all tasks"
    assert tasks_only.zones[0].full.value is not None
    texts_only = _study(write_fake_run(tmp_path / "b", FakeRun(quants=ladder(8), tasks={})))
    assert any("No task was measured" in remark for remark in texts_only.remarks)
    assert texts_only.correlations == ()


def test_floor_is_named(copy: Path) -> None:
    findings = _study(_edit(copy, lambda results: results["null_control"]["texts"]["wiki"].update(kld_mean=0.0015)))
    assert any(
        "Q8_0: mean KLD on wiki is at the instrument's floor (0.0015 nats" in remark for remark in findings.remarks
    )


def test_null_numbers_and_unknown_sizes(copy: Path) -> None:
    def blank(results) -> None:
        results["quants"][0]["texts"]["wiki"]["kld_mean"] = None
        results["quants"][1]["tasks"]["arc"]["acc"] = None
        results["quants"][2]["size_bytes"] = None

    findings = _study(_edit(copy, blank))
    assert findings.zones[0].full.n == 8
    assert any("unknown size" in remark for remark in findings.remarks)


def test_items_that_differ_between_files(copy: Path) -> None:
    file = copy / "items" / "Q6_K" / "arc.csv"
    lines = file.read_text(encoding="utf-8").splitlines()
    file.write_text("\n".join([lines[0], *reversed(lines[1:-10])]) + "\n", encoding="utf-8")
    panel = read_panel(read_cohort([copy]))
    assert "arc: 10 of 200 items are not in every file" in " ".join(panel.remarks)
    task = panel.tasks[0]
    assert task.correct.shape == (10, 190)
    assert (task.base_correct == task.base_correct[0]).all()  # paired by id, whatever the order


def test_merged_runs_are_studied_as_one(run: Path, tmp_path: Path) -> None:
    more = write_fake_run(
        tmp_path / "more",
        FakeRun(
            quants=(FakeQuant("EXTRA", 0.005, 0.0, 10**8),),
            tasks={"arc": 200, "hella": 200},
            texts={"wiki": 256, "code": 256},
        ),
    )
    findings = _study(run, more)
    assert findings.names[-1] == "EXTRA"
    assert findings.zones[0].full.n == 11
