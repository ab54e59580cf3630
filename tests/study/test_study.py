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

from quantprobe.run.cohort import Cohort, read_cohort
from quantprobe.study.fidelity import fidelity_variables
from quantprobe.study.findings import Findings, study_cohort
from quantprobe.study.panel import read_panel
from quantprobe.study.zone import ZoneSpec

FEW = {"n_boot": 200, "n_perm": 499}


def _study(*runs: Path, **how) -> Findings:
    findings = study_cohort(read_cohort(runs), **{"margin": 0.02, **FEW, **how})
    text = json.dumps(findings.to_dict(), allow_nan=False)
    assert "nan" not in text.lower().replace("finance", "")
    for sentence in findings.sentences:
        for line in (sentence.headline, *sentence.details):
            assert "nan" not in line.split()
            assert "None" not in line
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
    # ranks within the families, IQ quants with an importance matrix and the others without
    family = np.array([quant.imatrix is None for quant in cohort.quants])
    ranks = np.zeros((2, len(kld)))
    for part in (family, ~family):
        ranks[:, part] = [stats.rankdata(np.array(side)[part]) - (part.sum() + 1) / 2 for side in (kld, acc)]
    assert full.value == pytest.approx(stats.pearsonr(*ranks).statistic, abs=1e-9)
    assert findings.families == ("no imatrix", "imatrix")
    assert [zone.kind for zone in findings.zones] == ["kld"]
    assert [sentence.kind for sentence in findings.sentences][:3] == ["zone", "full", "volume"]
    assert f"n = {full.n}" in " ".join(findings.sentences[1].details)
    law = findings.zones[0].full_law
    signed = _signed(cohort)
    fit = np.polyfit(np.log(kld), 100 * signed.mean(1), 1)[0]
    assert law.slope.value == pytest.approx(fit, rel=0.5)  # its weights favour the quants near the base
    assert law.slope.low < law.slope.value < law.slope.high < 0
    assert law.n_changed == (signed != 0).any(0).sum()
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


def test_chosen_zone(run: Path) -> None:
    kld = [np.mean([q.texts[t].kld_mean.value for t in ("wiki", "code")]) for q in read_cohort([run]).quants]
    findings = _study(run, zone=ZoneSpec.parse("kld:0.001-0.3"))
    assert len(findings.zones[0].members) == sum(0.001 <= value <= 0.3 for value in kld)
    assert "Zone: KLD 0.001 to 0.3 nats;" in findings.sentences[0].details[0]
    crossed = _study(run, zone=ZoneSpec.parse("margin:5%"))
    assert crossed.zones[0].kind == "margin"
    zone = [row for row in crossed.correlations if row.subset == "zone"]
    assert zone
    assert all(row.correlation.p is None and not row.reading for row in zone)


def _signed(cohort: Cohort) -> np.ndarray:
    tables = [[cohort.items(quant.name, task) for task in cohort.tasks] for quant in cohort.quants]
    parts = [[t.quant.correct.astype(float) - t.base.correct for t in row] for row in tables]
    return np.array([np.concatenate(row) for row in parts])


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
    assert "are one and the same in every number and are counted once" in " ".join(findings.remarks)
    assert len(findings.identical[0]) == 6
    assert findings.zones[0].full.n == 1
    assert findings.ranking.n_separable == 0
    assert {quant.letters for quant in findings.ranking.quants} == {"a"}


def test_twins_are_counted_once(tmp_path: Path) -> None:
    """Two files with the same tensors are one quant."""
    names = [quant.name for quant in ladder(8)[1:3]]

    def copy_numbers(results: dict) -> None:
        first, second = results["quants"][1], results["quants"][2]
        second["texts"], second["tasks"] = first["texts"], first["tasks"]

    run = write_fake_run(tmp_path / "r", FakeRun(quants=ladder(8)))
    assert _study(run).zones[0].full.n == 8
    for folder in ("items", "rows"):
        shutil.rmtree(run / folder / names[1])
        shutil.copytree(run / folder / names[0], run / folder / names[1])
    findings = _study(_edit(run, copy_numbers))
    assert findings.identical == (tuple(names),)
    assert findings.zones[0].full.n == 7
    assert f"{', '.join(names)} are one and the same in every number and are counted once." in findings.remarks


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
    assert findings.zones[0].full.p is None
    assert findings.zones[0].conclusion == "cannot be decided"
    assert "no item files" in findings.zones[0].because
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
