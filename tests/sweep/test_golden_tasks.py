"""Tasks on SmolLM2 against what llama-perplexity and lm-evaluation-harness printed for the same models."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from road_cases import Quiet

pytest.importorskip("llama_cpp")

from quantprobe.engine.model import Model
from quantprobe.engine.plan_choices import n_naive_tokens
from quantprobe.engine.quantize import quantize
from quantprobe.engine.recipe import Recipe
from quantprobe.engine.runner import n_probe_tokens
from quantprobe.gguf.model import read_model_info
from quantprobe.metrics.answers import Answers
from quantprobe.run.items import read_items
from quantprobe.settings import Settings
from quantprobe.stats.summary_tasks import TaskSummary
from quantprobe.sweep import Inputs, TaskInput, sweep
from quantprobe.sweep.tasks import make_task_probe, read_tasks

pytestmark = [pytest.mark.golden, pytest.mark.model, pytest.mark.timeout(3600)]

BASE = "ref-f16"
SHIFTED_ROWS = slice(102, 112)
"""Winogrande rows after one that begins with its blank: llama-perplexity reads their rows one too late, up to the end
of its batch. Rows are never shifted here, so these ten differ on purpose."""

SLIPPED_ROWS = [*range(96, 102), *range(112, 120)]
"""Other rows with little text behind the choice: there llama-perplexity scores the second one from a wrong row."""


@pytest.fixture(scope="session")
def models(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A quant of the packaged model by its name, made when first asked for."""
    folder = tmp_path_factory.mktemp("smollm2")

    @cache
    def model(name: str) -> Path:
        path = folder / f"{name}.gguf"
        if name == BASE:
            quantize(smollm2, path, Recipe("F16", allow_requantize=True))
        else:
            quantize(model(BASE), path, Recipe(name))
        return path

    return model


Measured = dict[str, tuple[Answers, TaskSummary]]
"""Answers and summary by the model's name; the base has the summary of the last quant."""
Measure = Callable[..., Measured]


@pytest.fixture(scope="session")
def measure(models: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Measure:
    """Sweeps a task over the models of a golden."""

    def measured(task: TaskInput, golden: dict[str, Any], settings: Settings | None = None) -> Measured:
        run = tmp_path_factory.mktemp(task.name)
        quants = [models(name) for name in golden if name != BASE]
        result = sweep(models(BASE), quants, Inputs((), (task,)), settings or Settings(), run, Quiet()).results
        found: Measured = {}
        for quant in result.quants:
            pair = read_items(run / "items" / quant.name / f"{task.name}.csv")
            found[quant.name] = (pair.quant, quant.tasks[task.name])
            found[BASE] = (pair.base, quant.tasks[task.name])
        null = None if result.null_control is None else result.null_control.tasks[task.name]
        assert null is not None and null.drops == null.leapfrogs == null.kld_max == 0
        return found

    return measured


def read_golden(shared: Path, *parts: str) -> dict[str, Any]:
    golden: dict[str, Any] = json.loads(shared.joinpath("golden", *parts).read_text(encoding="utf-8"))
    return golden


N_PARALLEL = 16
"""The reference runs were made with `-np 16`, and answers of quantized models, which round activations to 8 bits, move
with the packing of the buffer: llama-perplexity -np 64 differs from its own -np 16 in 3 of 300 answers of Q3_K_M."""

FALL_SHORT: dict[str, set[str]] = {"hellaswag_200": {"Q8_0", "Q4_K_M", "Q2_K"}}
"""Quants known to agree in less than 99 % in our own batches: 197, 197 and 196 of 200."""


@pytest.mark.parametrize("n_parallel", [N_PARALLEL, None], ids=["its batches", "own batches"])
@pytest.mark.parametrize(
    ("golden_name", "data", "n_items", "n_agree"),
    [
        ("arc_easy_300_multiple_choice", "arc_easy_300.bin", None, 297),
        ("hellaswag_200", "hellaswag_val.txt", 200, 198),
    ],
)
def test_answers_are_those_of_llama_perplexity(
    shared: Path,
    measure: Measure,
    golden_name: str,
    data: str,
    n_items: int | None,
    n_agree: int,
    n_parallel: int | None,
) -> None:
    golden = read_golden(shared, "smollm2", f"{golden_name}.json")
    task = TaskInput("task", shared / "data" / "choice" / data, n_items=n_items)
    measured = measure(task, golden, Settings(n_parallel=n_parallel))
    agree = {
        name: int((measured[name][0].correct == np.array(printed["correct_in_run_order"], dtype=bool)).sum())
        for name, printed in golden.items()
    }
    print(golden_name, n_parallel, agree)
    assert agree.pop(BASE) == golden[BASE]["n"]
    short = {name for name, n in agree.items() if n < n_agree}
    assert short <= (FALL_SHORT.get(golden_name, set()) if n_parallel is None else set())
    if short:
        pytest.xfail(f"{golden_name}: {', '.join(f'{name} {agree[name]}' for name in sorted(short))}, {n_agree} asked")


def test_winogrande_scores_and_its_slip(shared: Path, measure: Measure) -> None:
    golden = read_golden(shared, "smollm2", "winogrande_like_120.json")
    path = shared / "data" / "choice" / "winogrande_like.csv"
    printed = {name: np.array([values["score_1"], values["score_2"]]).T for name, values in golden.items()}

    compat = measure(TaskInput("compat", path, rule="llama_winogrande_compat"), golden)
    moved = {name: np.abs(compat[name][0].logprobs - printed[name]) for name in golden}
    same = np.ones(len(printed[BASE]), dtype=bool)
    same[SHIFTED_ROWS] = False
    for name, by in moved.items():
        print(name, f"largest {by[same].max():.4f}, median {np.median(by[same]):.4f}, shifted {by[~same].max():.2f}")
    assert moved[BASE][same].max() < 0.05
    assert moved[BASE][~same].max() > 0.5
    # Q2_K's arithmetic is chaotic: llama-perplexity's own scores move as much with the shape of its batches
    assert np.median(moved["Q2_K"][same]) < 0.05
    predicted = np.array(golden[BASE]["predicted"])
    predicted -= predicted.min()
    clear = same & (np.abs(printed[BASE][:, 0] - printed[BASE][:, 1]) > 0.1)
    assert (compat[BASE][0].pred[clear] == predicted[clear]).all()

    right = measure(TaskInput("right", path, rule="llama_winogrande"), {BASE: None, "Q2_K": None})
    by = np.abs(right[BASE][0].logprobs - printed[BASE])
    assert by[same, 0].max() < 0.05, "the first choice has no slip"
    put_right = np.flatnonzero(same & (by[:, 1] > 0.05)).tolist()
    assert put_right == SLIPPED_ROWS, "the second choice is put right where it was wrong, and nowhere else"


def test_log_likelihoods_are_those_of_lm_eval(shared: Path, measure: Measure, tmp_path: Path) -> None:
    golden = read_golden(shared, "lm_eval", "arc_easy_300.json")
    lines = (shared / "data" / "choice" / "arc_easy.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (tmp_path / "arc.jsonl").write_text("".join(lines[:300]), encoding="utf-8")
    measured = measure(TaskInput("lm", tmp_path / "arc.jsonl", rule="sum"), golden)
    for name, printed in golden.items():
        answers, summary = measured[name]
        theirs = printed["choice_loglikelihood_sum"]
        pairs = zip(answers.logprobs, theirs, strict=True)
        by = np.concatenate([np.abs(ours[: len(sums)] - sums) for ours, sums in pairs])
        norm = summary.acc_norm_base if name == BASE else summary.acc_norm
        assert norm is not None
        acc = float(answers.correct.mean())
        print(name, f"largest {by.max():.4f}, median {np.median(by):.4f}, acc {acc:.4f} for {printed['acc']:.4f},")
        print(f"acc_norm {norm.value:.4f} for {printed['acc_norm']:.4f}")
        if name == BASE:
            assert by.max() < 0.05
            assert np.median(by) < 0.01
        assert abs(acc - printed["acc"]) <= 0.01
        assert abs(norm.value - printed["acc_norm"]) <= 0.01


def test_five_shot_mmlu_decodes_a_third_of_naive(shared: Path, smollm2: Path) -> None:
    folder = shared / "data" / "choice" / "mmlu"
    task = TaskInput("mmlu", folder / "test" / "high_school_geography.csv", few_shot=5, n_items=100)
    [read] = read_tasks(Inputs((), (task,)), Quiet())
    with Model(read_model_info(smollm2), Settings()) as model:
        probe = make_task_probe(model, read, Quiet())
        decoded, naive = n_probe_tokens(model, probe), n_naive_tokens(probe)
    print(f"{len(probe.items)} questions, {decoded} tokens decoded, {naive} naive: {decoded / naive:.3f}")
    assert len(probe.items) == 100
    assert decoded <= naive / 3
