"""The cohort as arrays: which items are in, and what is said of those that are not."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
from fake_run import FakeRun, ladder, write_fake_run

from quantprobe.run.cohort import read_cohort
from quantprobe.run.folder import RunFolder
from quantprobe.run.items import read_items, write_items
from quantprobe.study.panel import Panel, read_panel

RUN = FakeRun(quants=(*ladder(2), replace(ladder(1)[0], name="IQ4_XS")), tasks={"arc": 80}, texts={"wiki": 64})


def panel_of(folder: Path, run: FakeRun = RUN) -> Panel:
    return read_panel(read_cohort([write_fake_run(folder, run)]))


def test_every_quant_is_told_by_family_digest_and_size(tmp_path: Path) -> None:
    panel = panel_of(tmp_path)
    assert panel.families == ("no imatrix", "no imatrix", "imatrix")
    assert panel.family_codes.tolist() == [0, 0, 1]
    assert panel.digests == tuple(quant.sha256 for quant in read_cohort([tmp_path]).quants)
    np.testing.assert_allclose(panel.bpw, panel.sizes / 270e6 * 16)
    assert panel.remarks == ()


def test_groups_count_as_the_run_says(tmp_path: Path) -> None:
    counts = {}
    for grouping in ("none", "strata", "clusters"):
        design = panel_of(tmp_path / grouping, replace(RUN, grouping=grouping)).tasks[0].design
        counts[grouping] = (design.n_strata, design.n_clusters)
    assert counts == {"none": (1, 80), "strata": (20, 80), "clusters": (1, 20)}


def test_items_that_are_invalid_anywhere_are_out_for_all(tmp_path: Path) -> None:
    panel = panel_of(tmp_path, replace(RUN, n_invalid=2, n_invalid_base=3))
    [task] = panel.tasks
    assert task.correct.shape == (3, 75) and task.design.n_items == 75
    assert panel.remarks == (
        "arc: 5 of 80 items are not in every file, or invalid in one, and are left out.",
    )  # fmt: skip
    cohort = read_cohort([tmp_path])
    for row, quant in enumerate(cohort.quants):
        pair = cohort.items(quant.name, "arc")
        np.testing.assert_array_equal(task.correct[row], pair.quant.correct[pair.valid])
        np.testing.assert_array_equal(task.kld[row], pair.quant.kld[pair.valid])


def test_a_broken_quant_does_not_take_the_items_of_the_others(tmp_path: Path) -> None:
    write_fake_run(tmp_path, RUN)
    file = RunFolder(tmp_path).items("Q6_K", "arc")
    pair = read_items(file)
    broken = np.arange(80) < 20
    write_items(file, pair.base, replace(pair.quant, valid=~broken, correct=pair.quant.correct & ~broken))
    with file.open(encoding="utf-8", newline="") as stream:
        assert sum(row["quant_correct"] == "" for row in csv.DictReader(stream)) == 20
    panel = read_panel(read_cohort([tmp_path]))
    assert panel.tasks[0].quants.tolist() == [0, 2] and panel.tasks[0].correct.shape == (2, 80)
    [remark] = panel.remarks
    assert remark.startswith("More than 10% of the items of arc are invalid in Q6_K: ")


def test_the_floor_is_told_unless_it_is_zero(tmp_path: Path) -> None:
    assert panel_of(tmp_path / "zero", replace(RUN, quants=ladder(2, "null"))).remarks == ()
    [remark] = panel_of(tmp_path / "high", replace(RUN, floor=0.01)).remarks
    assert remark.startswith("Q8_0: mean KLD on wiki is at the instrument's floor (0.01 nats")
