"""Variants of one choice in pairs: which quants are variants, and what is said of them."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_run import FakeQuant, FakeRun, write_fake_run
from scipy import stats

from quantprobe.gguf.model import ImatrixInfo
from quantprobe.report.answer import answer_of, standings
from quantprobe.report.finish import write_run
from quantprobe.report.numbers import format_interval
from quantprobe.report.terminal import describe_run
from quantprobe.run.cohort import Cohort, read_cohort
from quantprobe.run.folder import RunFolder
from quantprobe.run.results import read_results, write_results
from quantprobe.stats.estimates import Estimate
from quantprobe.study.findings import study_cohort
from quantprobe.study.variants import CACHE, CANNOT_BE_TOLD, HELPED, HURT, IMATRIX, compare_variants, find_pairs

A = ImatrixInfo(file="/models/a.imatrix.gguf", dataset="code.txt", entries_count=210, chunks_count=100)
B = replace(A, file="/models/b.imatrix.gguf", dataset="wiki.txt")
Q4: Mapping[str, Any] = {"file_type": "Q4_K_M", "bpw": 4.9}


def cohort_of(
    folder: Path, quants: tuple[FakeQuant, ...], changes: Mapping[str, Mapping[str, Any]], **run: Any
) -> Cohort:
    """A simulated run whose quants are told apart by `changes` of what results.json records of them."""
    write_fake_run(folder, FakeRun(quants, **run))
    place = RunFolder(folder)
    results = read_results(folder)
    quants_told = tuple(replace(quant, **changes.get(quant.name, {})) for quant in results.quants)
    write_results(replace(results, quants=quants_told), place)
    return read_cohort([folder])


def quant(name: str, kld: float = 0.05, shift: float = 0.0) -> FakeQuant:
    return FakeQuant(name, kld, shift, 100_000_000)


def test_planted_differences_are_found_in_both_directions(tmp_path: Path) -> None:
    """`a` moved the answers and rows away from the base, `b` brought both back."""
    cohort = cohort_of(
        tmp_path / "run",
        (quant("plain", 0.05, -0.3), quant("a", 0.2, -1.2), quant("b", 0.02, 0.0)),
        {"plain": {**Q4, "imatrix": None}, "a": {**Q4, "imatrix": A}, "b": {**Q4, "imatrix": B}},
        texts={"wiki": 2048},
        tasks={"arc": 500, "hella": 500},
    )
    shifts = compare_variants(cohort)
    verdicts = {(s.pair.a_level, s.pair.b_level, s.probe): s.verdict for s in shifts}
    for probe in ("wiki", None):
        assert verdicts["none", "a", probe] == HURT
        assert verdicts["none", "b", probe] == HELPED
        assert verdicts["a", "b", probe] == HELPED
    assert len(shifts) == 3 * 4
    assert all(shift.adjusted_p is not None and shift.adjusted_p < 0.05 for shift in shifts if shift.verdict == HURT)


def test_the_interval_is_that_of_the_paired_rows(tmp_path: Path) -> None:
    """With one pair and one text nothing is corrected: the t interval over windows of equal size."""
    cohort = cohort_of(tmp_path / "run", (quant("a"), quant("b", 0.06)), {"a": {**Q4, "imatrix": A}, "b": Q4}, tasks={})
    (shift,) = compare_variants(cohort)
    assert (shift.pair.a, shift.pair.b) == ("b", "a")
    a, b = (np.asarray(cohort.rows(name, "wiki", ("kld",))["kld"], np.float64) for name in "ab")
    windows = (a - b).reshape(-1, 32).mean(1)
    assert shift.change.value == pytest.approx(windows.mean(), rel=1e-9)
    assert shift.change.stderr == pytest.approx(windows.std(ddof=1) / len(windows) ** 0.5, rel=1e-9)
    half = stats.t.ppf(0.975, len(windows) - 1) * windows.std(ddof=1) / len(windows) ** 0.5
    assert (shift.change.low, shift.change.high) == pytest.approx((windows.mean() - half, windows.mean() + half))
    assert shift.adjusted_p == pytest.approx(stats.ttest_1samp(windows, 0).pvalue)


def test_identical_rows_and_answers_cannot_be_told(tmp_path: Path) -> None:
    same = quant("plain", 0.05, -0.1)
    cohort = cohort_of(
        tmp_path / "run", (same, replace(same, name="other")),
        {"plain": {**Q4, "imatrix": None, "sha256": "1" * 64}, "other": {**Q4, "imatrix": A}},
    )  # fmt: skip
    files = (*cohort.rows_files.items(), *cohort.items_files.items())
    for (name, probe), path in files:
        if name == "other":
            twin = next(other for (one, of), other in files if (one, of) == ("plain", probe))
            path.write_bytes(twin.read_bytes())
    shifts = compare_variants(cohort)
    assert len(shifts) == 4
    assert {shift.verdict for shift in shifts} == {CANNOT_BE_TOLD}
    assert {shift.change.value for shift in shifts} == {0.0}


def test_a_difference_below_the_floor_is_not_read(tmp_path: Path) -> None:
    changes = {"plain": Q4, "a": {**Q4, "imatrix": A}}
    runs = (quant("plain", 0.001), quant("a", 0.002))
    clear = cohort_of(tmp_path / "clear", runs, changes, tasks={}, texts={"wiki": 4096})
    noisy = cohort_of(tmp_path / "noisy", runs, changes, tasks={}, texts={"wiki": 4096}, floor=0.01)
    assert [shift.verdict for shift in compare_variants(clear)] == [HURT]
    assert [shift.verdict for shift in compare_variants(noisy)] == [CANNOT_BE_TOLD]


@pytest.mark.parametrize(
    ("change", "n"),
    [
        ({}, 1),
        ({"imatrix": None}, 0),  # both without
        ({"file_type": "Q4_K_S"}, 0),
        ({"bpw": 5.4}, 0),  # another recipe under the same type
        ({"bpw": 4.95}, 1),
        ({"bpw": None}, 1),
        ({"variant": {"type_k": "q8_0"}}, 0),  # two things differ
        ({"file_type": ""}, 0),
    ],
)
def test_what_counts_as_variants_of_a_matrix(tmp_path: Path, change: Mapping[str, Any], n: int) -> None:
    told = {"a": {**Q4, "imatrix": None}, "b": {**Q4, "imatrix": A, **change}}
    pairs = find_pairs(cohort_of(tmp_path / "run", (quant("a"), quant("b")), told, tasks={}))
    assert [pair.factor for pair in pairs] == [IMATRIX] * n


def test_cache_types_of_one_file_are_a_pair_of_their_own(tmp_path: Path) -> None:
    same = {**Q4, "sha256": "1" * 64, "imatrix": A}
    told = {"m": same, "m [k q8_0]": {**same, "variant": {"type_k": "q8_0"}}, "n": {**Q4, "sha256": "2" * 64}}
    names = tuple(quant(name) for name in ("m [k q8_0]", "m", "n"))
    pairs = find_pairs(cohort_of(tmp_path / "run", names, told, tasks={}, settings={"type_k": "f16", "type_v": "f16"}))
    assert [(pair.factor, pair.of, pair.a, pair.b) for pair in pairs] == [
        (CACHE, "m", "m", "m [k q8_0]"),
        (IMATRIX, "Q4_K_M", "n", "m"),
    ]
    assert (pairs[0].a_level, pairs[0].b_level) == ("k f16", "k q8_0")


def test_matrices_of_one_file_name_are_told_apart(tmp_path: Path) -> None:
    told = {
        "a": {**Q4, "imatrix": A},
        "b": {**Q4, "imatrix": replace(B, file="C:\\other\\a.imatrix.gguf")},
        "c": {**Q4, "imatrix": ImatrixInfo()},
    }
    pairs = find_pairs(cohort_of(tmp_path / "run", (quant("a"), quant("b"), quant("c")), told, tasks={}))
    levels = {level for pair in pairs for level in (pair.a_level, pair.b_level)}
    assert levels == {"a", "a (wiki)", "matrix 2"}


def test_pairs_are_shown_wherever_a_run_is(tmp_path: Path) -> None:
    run = tmp_path / "run"
    told = {"plain": {**Q4, "imatrix": None}, "a<b>": {**Q4, "imatrix": replace(A, file="<b>.gguf")}}
    cohort_of(run, (quant("plain", 0.05, -0.3), quant("a<b>", 0.2, -2.0)), told, texts={"wiki": 2048})
    cohort, written = write_run(None, RunFolder(run))
    assert "results_pairs.csv" in written
    with (run / "results_pairs.csv").open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    assert {line["verdict"] for line in lines} >= {HURT}
    assert {(line["a"], line["b"], line["a_level"]) for line in lines} == {("plain", "a<b>", "none")}
    page = (run / "report" / "report.html").read_text(encoding="utf-8")
    assert "Variants in pairs" in page
    assert "▼ hurt" in page
    assert "<td><b>" not in page
    assert "## What the importance matrix did" in (run / "results.md").read_text(encoding="utf-8")
    assert any("What the importance matrix did" in str(part) for part in describe_run(cohort, 100))


def test_an_end_is_shown_on_its_side_of_zero() -> None:
    change = Estimate(-0.006, 0.002, -0.0116, -0.0004, 0.95, 100, 10, "nats")
    assert format_interval(change) == "-0.006 [-0.012, -0.000]"
    assert format_interval(change, signed=True) == "-0.0060 [-0.0116, -0.0004]"
    assert format_interval(replace(change, value=0.0, low=0.0, high=0.0), signed=True) == "+0.00 [+0.00, +0.00]"


def test_cache_variants_are_not_recommended(tmp_path: Path) -> None:
    """A line with another cache is no file that somebody could take, even if its numbers are the best."""
    same = {**Q4, "sha256": "1" * 64}
    told = {"m": same, "m [k q8_0]": {**same, "variant": {"type_k": "q8_0"}}}
    cohort = cohort_of(tmp_path / "run", (quant("m [k q8_0]", 0.0001), quant("m", 0.001)), told)
    for findings in (None, study_cohort(cohort, n_boot=200, n_perm=199)):
        answer = answer_of(cohort, findings)
        assert {one.name for one in (answer.take, *answer.may_do, *answer.not_these) if one} <= {"m"}
    assert [one.name for one in standings(cohort, None)] == ["m [k q8_0]", "m"]
    only = replace(cohort, quants=cohort.quants[:1])
    assert only.own_lines() is only


def test_a_run_without_variants_has_no_pairs(tmp_path: Path) -> None:
    cohort_of(tmp_path / "run", (quant("a"), quant("b")), {})
    written = write_run(None, RunFolder(tmp_path / "run"))[1]
    assert "results_pairs.csv" not in written
