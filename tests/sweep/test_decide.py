"""--decide and --precision on a tiny model: less is decoded, what was decoded is kept, and all of it can follow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from road_cases import fail, succeed
from tiny_gguf import write_tiny

from quantprobe.probes.items import Question
from quantprobe.probes.questions.jsonl import write_native
from quantprobe.run.cohort import read_cohort
from quantprobe.run.folder import RunFolder
from quantprobe.run.items import read_items
from quantprobe.run.results import read_results

N_ITEMS = 120


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("decide")
    write_tiny(folder / "m-F16.gguf", weight_type="F16")
    write_tiny(folder / "m-Q8_0.gguf", weight_type="Q8_0")
    words = " ".join(f"{number} bottles of beer on the wall." for number in range(400))
    (folder / "t.txt").write_text(words, encoding="utf-8")
    for name in ("q", "r"):
        items = [
            Question(f"{name}{n}", f"g{n % 3}", f"{n} bottles of", ("beer", "milk", "ink"), n % 3)
            for n in range(N_ITEMS)
        ]
        write_native(folder / f"{name}.jsonl", items, "strata")
    return folder


def sweep(world: Path, run: str, *more: object) -> RunFolder:
    models = (world / "m-F16.gguf", world / "m-Q8_0.gguf")
    fixed = ("--text", world / "t.txt", "-c", "32", "-t", "1", "-o", world / run)
    succeed("sweep", *models, *fixed, *more)
    return RunFolder(world / run)


def tasks(world: Path, *names: str) -> list[object]:
    return [part for name in names for part in ("--task", world / f"{name}.jsonl")]


def test_a_budget_is_kept_and_a_full_run_goes_on_from_what_was_decoded(world: Path) -> None:
    run = sweep(world, "budget", *tasks(world, "q", "r"), "--decide", "--budget", "60")
    quant = read_results(run.path).quants[0]
    assert quant.pooled is not None and quant.pooled.n_decoded is not None
    assert 10 <= quant.pooled.n_decoded <= 90, "about 10 % of 240 at the first look, 60 at most in expectation"
    assert quant.pooled.n_items == 2 * N_ITEMS and quant.pooled.verdict is not None
    assert [task.verdict for task in quant.tasks.values()] == [None, None], "the verdict is on all tasks together"
    pair = read_items(run.items("m-Q8_0", "q"))
    assert pair.sample is not None
    assert (pair.quant.valid == pair.sample.decoded).all() and pair.base.valid.all()
    assert ((pair.sample.probability > 0) & (pair.sample.probability <= 1)).all()
    with np.load(run.task_rows("m-Q8_0", "q")) as arrays:
        assert arrays["decoded"].sum() == pair.sample.decoded.sum()

    whole = sweep(world, "budget", *tasks(world, "q", "r"))
    fresh = sweep(world, "fresh", *tasks(world, "q", "r"))
    continued, at_once = (read_items(one.items("m-Q8_0", "q")) for one in (whole, fresh))
    assert continued.sample is None and continued.quant.valid.all()
    agree = (continued.quant.pred == at_once.quant.pred).mean()
    assert agree >= 0.97, "batches of a part round a little differently"
    np.testing.assert_allclose(continued.quant.margin, at_once.quant.margin, atol=0.05)


def test_one_task_has_the_verdict_itself_and_the_study_says_what_it_leaves_out(world: Path) -> None:
    run = sweep(world, "single", *tasks(world, "q"), "--decide")
    quant = read_results(run.path).quants[0]
    assert quant.pooled is None and quant.tasks["q"].verdict is not None
    assert f"of {N_ITEMS} questions decoded" in (quant.tasks["q"].sentence or "")
    assert "A sample of q alone was decoded by" in succeed("study", run.path, "--details").stdout
    assert read_cohort([run.path]).tasks == ("q",)


def test_precision_stops_a_text_early_and_a_full_run_finishes_it(world: Path) -> None:
    part = read_results(sweep(world, "precise", "--precision", "50%").path).quants[0].texts["t"]
    whole = read_results(sweep(world, "precise").path).quants[0].texts["t"]
    fresh = read_results(sweep(world, "plain").path).quants[0].texts["t"]
    assert part.kld_mean.n_clusters == 20 < whole.kld_mean.n_clusters == fresh.kld_mean.n_clusters
    assert whole.kld_mean.value == pytest.approx(fresh.kld_mean.value, rel=1e-3)
    assert abs((part.kld_mean.value or 0) - (whole.kld_mean.value or 0)) < 6 * (part.kld_mean.stderr or 0)


def test_what_makes_no_sense_is_refused(world: Path) -> None:
    models = (world / "m-F16.gguf", world / "m-Q8_0.gguf", "--text", world / "t.txt")
    assert "--budget limits --decide" in fail("sweep", *models, "--budget", "5m")
    assert "neither a number of questions" in fail("sweep", *models, "--decide", "--budget", "soon")
