"""Two runs of one cohort: nothing found in copies, planted changes found, noise left alone."""

import json
from dataclasses import replace

import numpy as np
import pytest
from fake_run import FakeRun, ladder, write_fake_run
from scipy import stats

from quantprobe.errors import InputError, MismatchError
from quantprobe.run.cohort import read_cohort
from quantprobe.study.diff import BY_ITEMS, BY_ROWS, UNPAIRED, diff_runs

RUN = FakeRun(quants=ladder(4), tasks={"arc": 200}, texts={"wiki": 512}, row_window=16)


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return write_fake_run(tmp_path_factory.mktemp("diff") / "a", RUN)


def test_a_run_against_its_copy_moves_nothing(original, tmp_path):
    copy = write_fake_run(tmp_path / "b", RUN)
    found = diff_runs(original, copy)
    assert len(found.shifts) == 4 * 3 and not any(shift.moved for shift in found.shifts)
    assert all(shift.change.value == 0 and shift.p == 1.0 for shift in found.shifts)
    assert found.settings == () and found.other_files == () and found.base_flips == (("arc", 0, 200),)
    assert found.sentences()[0].startswith("Nothing moved beyond the noise: none of 12 comparisons")
    json.dumps(found.to_dict(), allow_nan=False)


def test_planted_changes_are_found_with_their_direction(original, tmp_path):
    """One quant is redone at half the KLD and with its answers' harm undone; the others stay as they were."""
    last = RUN.quants[-1]
    better = replace(last, kld=last.kld / 2, shift=0.0)
    settings = {**RUN.settings, "llama_cpp_version": "b2", "backend": "cuda", "n_threads": 8}
    other = write_fake_run(tmp_path / "b", replace(RUN, quants=(*RUN.quants[:-1], better), settings=settings))
    found = diff_runs(original, other)
    moved = {(shift.quant, shift.measure): shift for shift in found.shifts if shift.moved}
    assert {quant for quant, _ in moved} == {last.name} and (last.name, "kld_mean") in moved
    kld = moved[last.name, "kld_mean"]
    assert kld.how == BY_ROWS and kld.change.value < 0
    assert moved[last.name, "acc"].change.value > 0 and moved[last.name, "margin"].change.value > 0
    assert [(each.name, each.a, each.b) for each in found.settings] == [
        ("backend", "cpu", "cuda"), ("llama_cpp_version", "b1", "b2"), ("n_threads", "not set", 8),
    ]  # fmt: skip
    assert found.other_files == (last.name,)
    text = " ".join(found.sentences())
    assert f"{last.name} on wiki: mean KLD -" in text and "better in B; paired by rows" in text
    assert "Settings that move logits and differ: backend cpu -> cuda; llama_cpp_version b1 -> b2." in text
    assert "Settings that move no logits and differ: n_threads not set -> 8." in text


def test_paired_numbers_are_those_of_scipy(tmp_path):
    """One row per window and no groups: the clustered test is the ordinary paired t test."""
    a = write_fake_run(tmp_path / "a", replace(RUN, row_window=1))
    redone = tuple(replace(quant, kld=quant.kld * 1.05) for quant in RUN.quants)
    b = write_fake_run(tmp_path / "b", replace(RUN, row_window=1, quants=redone))
    rows_a, rows_b = (read_cohort([run]).rows("Q8_0", "wiki")["kld"] for run in (a, b))
    expected = stats.ttest_rel(rows_b, rows_a)
    shift = next(s for s in diff_runs(a, b).shifts if s.quant == "Q8_0" and s.measure == "kld_mean")
    assert shift.p == pytest.approx(expected.pvalue, rel=1e-9)
    interval = expected.confidence_interval(0.95)
    assert (shift.change.low, shift.change.high) == pytest.approx((interval.low, interval.high), rel=1e-9)


def test_items_are_paired_by_id_whatever_their_order(original, tmp_path):
    other = write_fake_run(tmp_path / "b", RUN)
    file = other / "items" / "Q8_0" / "arc.csv"
    header, *lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    file.write_text(header + "".join(lines[::-1][:150]), encoding="utf-8", newline="")
    shift = next(s for s in diff_runs(original, other).shifts if s.quant == "Q8_0" and s.measure == "acc")
    assert shift.how == BY_ITEMS and shift.change.n == 150 and shift.change.value == 0


def test_invalid_items_are_left_out(original, tmp_path):
    other = write_fake_run(tmp_path / "b", replace(RUN, n_invalid=3, n_invalid_base=2))
    found = diff_runs(original, other)
    assert {shift.change.n for shift in found.shifts if shift.measure in ("acc", "margin")} == {197}
    assert found.base_flips == (("arc", 0, 198),)
    assert not any(shift.moved for shift in found.shifts)


def test_without_rows_and_items_numbers_count_as_independent(original, tmp_path):
    other = write_fake_run(tmp_path / "b", replace(RUN, with_files=False, seed=1))
    found = diff_runs(original, other)
    assert {shift.how for shift in found.shifts} == {UNPAIRED} and len(found.shifts) == 8
    left, right = (read_cohort([run]).quant("Q8_0").texts["wiki"].kld_mean for run in (original, other))
    shift = found.shifts[0]
    assert shift.change.stderr == pytest.approx(np.hypot(left.stderr, right.stderr))
    assert shift.p == pytest.approx(2 * stats.norm.sf(abs(right.value - left.value) / shift.change.stderr))
    assert "8 of 8 comparisons could not be paired" in " ".join(found.sentences())


def test_other_windows_are_not_paired(original, tmp_path):
    other = write_fake_run(tmp_path / "b", replace(RUN, row_window=32))
    assert {s.how for s in diff_runs(original, other).shifts if s.measure == "kld_mean"} == {UNPAIRED}


def test_changes_below_the_floor_are_not_read(original, tmp_path):
    redone = tuple(replace(quant, kld=quant.kld * 1.5) for quant in RUN.quants)
    other = write_fake_run(tmp_path / "b", replace(RUN, quants=redone))
    assert any(shift.moved for shift in diff_runs(original, other).shifts if shift.measure == "kld_mean")
    results = json.loads((other / "results.json").read_text(encoding="utf-8"))
    results["null_control"]["texts"]["wiki"]["kld_mean"]["high"] = 10.0
    (other / "results.json").write_text(json.dumps(results), encoding="utf-8")
    assert not any(shift.moved for shift in diff_runs(original, other).shifts if shift.measure == "kld_mean")


def test_noise_alone_seldom_moves(tmp_path):
    """Pairs of runs of the same law and fresh noise: with 5 % false claims, 2 of 10 or fewer has probability 0.988."""
    claims = 0
    for pair in range(10):
        quants = tuple(replace(q, name=f"q{i}", kld=0.02, shift=0.0) for i, q in enumerate(ladder(2)))
        fake = FakeRun(quants=quants, tasks={"arc": 60}, texts={"wiki": 64}, row_window=4)
        runs = [write_fake_run(tmp_path / f"{pair}{s}", replace(fake, seed=2 * pair + s)) for s in (0, 1)]
        claims += any(shift.moved for shift in diff_runs(*runs).shifts)
    assert claims <= 2


def test_runs_that_cannot_be_compared_are_refused(original, tmp_path):
    other = write_fake_run(tmp_path / "b", replace(RUN, base_sha256="c" * 64))
    with pytest.raises(MismatchError, match="runs are compared against one base"):
        diff_runs(original, other)
    renamed = tuple(replace(quant, name=f"x{quant.name}") for quant in RUN.quants)
    other = write_fake_run(tmp_path / "c", replace(RUN, quants=renamed))
    with pytest.raises(InputError, match="no quant in common"):
        diff_runs(original, other)


def test_quants_of_one_run_only_are_named(original, tmp_path):
    other = write_fake_run(tmp_path / "b", replace(RUN, quants=RUN.quants[:2]))
    found = diff_runs(original, other)
    assert found.only_a == tuple(q.name for q in RUN.quants[2:]) and found.only_b == ()
    assert any(sentence.startswith("Only in A, not compared") for sentence in found.sentences())
