"""Recipes: the best mix under a limit, made as it was chosen, verified on what the blame never saw."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from capture_runs import questions
from road_cases import Quiet, fail, run, succeed, write_letters
from tiny_gguf import write_tiny

from quantprobe.blame.choice import ANSWERS, BOTH, DISTANCE, MAX_RATIO, Option, choose, group_costs
from quantprobe.blame.recipe import make_mix
from quantprobe.engine.type_errors import MEASURABLE, row_bytes, squared_error
from quantprobe.errors import InputError, MismatchError
from quantprobe.gguf.model import ModelIdentity
from quantprobe.gguf.tensors import read_inventory
from quantprobe.probes.questions.jsonl import write_native
from quantprobe.run.blame import Blame, BlameGroup, Effect, GroupEffects, read_blame
from quantprobe.run.folder import RunFolder
from quantprobe.stats.estimates import Estimate


def made_up(kld: list[float], margin: list[float] | None = None, stderr: float = 0.01) -> Blame:
    """A blame with these effects."""
    groups, effects = [], []
    for i, value in enumerate(kld):
        name = f"g{i}"
        groups.append(
            BlameGroup(
                name=name, tensors=(), base_bytes=2, quant_bytes=1, base_types={}, quant_types={}, weight_error=0.1
            )
        )
        measures = {"kld": Effect(given_back=Estimate(value, 0.001))}
        if margin is not None:
            measures["margin"] = Effect(given_back=Estimate(margin[i], stderr))
        effects.append(GroupEffects(group=name, way="averaged", measures=measures))
    total = {"kld": Estimate(sum(kld))} | ({} if margin is None else {"margin": Estimate(sum(margin))})
    model = ModelIdentity(name="m")
    return Blame(
        base=model, quant=model, by=("role",), n_parts=3, design="hadamard", ways=("averaged",), groups=tuple(groups),
        distance_on="texts", total=total, effects=tuple(effects),
    )  # fmt: skip


OPTIONS = [Option("A", 40, 0.3), Option("B", 50, 0.1), Option("C", 60, 0.05), Option("D", 90, 0.005)]


@pytest.mark.parametrize("limit", [165, 180, 200, 240, 400])
@pytest.mark.parametrize("objective", [DISTANCE, ANSWERS, BOTH])
def test_the_choice_is_the_best_of_all(limit: int, objective: str) -> None:
    blame = made_up([0.5, 0.1, 0.05, 0.2], [0.1, 0.4, 0.01, 0.2], stderr=0.001)
    found = choose(blame, [OPTIONS] * 4, [0.1] * 4, limit, objective)
    costs = group_costs(blame)
    weights = {name: values / values.sum() for name, values in costs.items()}
    weight = weights[DISTANCE] + weights[ANSWERS] if objective == BOTH else weights[objective]

    def cost(mix: tuple[Option, ...]) -> float:
        return sum(w * (option.error / 0.1) ** 2 for w, option in zip(weight, mix, strict=True))

    every = [mix for mix in itertools.product(OPTIONS, repeat=4) if sum(option.n_bytes for option in mix) <= limit]
    assert found.n_bytes <= limit
    assert cost(found.options) == pytest.approx(min(map(cost, every)))


def test_answers_that_cannot_be_told_follow_distance() -> None:
    noisy = group_costs(made_up([0.4, 0.2, 0.1], [-0.1, 0.3, 0.1], stderr=1.0))
    assert noisy[ANSWERS] / noisy[ANSWERS].sum() == pytest.approx(noisy[DISTANCE] / noisy[DISTANCE].sum())
    sharp = group_costs(made_up([0.4, 0.2, 0.1], [0.0, 0.3, 0.1], stderr=1e-4))
    assert np.argmax(sharp[ANSWERS]) == 1 and sharp[ANSWERS].min() > 0


def test_what_cannot_be_chosen_is_said() -> None:
    with pytest.raises(InputError, match="larger --size"):
        choose(made_up([0.1, 0.2]), [OPTIONS] * 2, [0.1] * 2, 79, DISTANCE)
    with pytest.raises(InputError, match="--objective distance"):
        choose(made_up([0.1, 0.2]), [OPTIONS] * 2, [0.1] * 2, 200, ANSWERS)
    with pytest.raises(InputError, match="no loss of margin"):
        choose(made_up([0.1, 0.2], [-0.1, -0.2]), [OPTIONS] * 2, [0.1] * 2, 200, BOTH)


def test_types_far_from_what_was_measured_are_not_taken() -> None:
    found = choose(made_up([1.0, 0.0]), [OPTIONS] * 2, [0.1, 0.01], 400, DISTANCE)
    assert found.options[1].error <= MAX_RATIO * 0.01


@pytest.mark.parametrize("name", MEASURABLE)
def test_ggml_quantizes_as_its_types_say(name: str) -> None:
    values = np.random.default_rng(0).normal(size=(16, 512)).astype(np.float32)
    error = (squared_error(values, name) / float((values**2).sum())) ** 0.5
    usual = {"F16": 3e-4, "Q8_0": 0.0053, "Q6_K": 0.017, "Q5_0": 0.041, "Q4_0": 0.082, "Q4_K": 0.07, "Q2_K": 0.29}
    assert 1e-5 < error < 0.35
    assert name not in usual or error == pytest.approx(usual[name], rel=0.35)
    assert row_bytes("Q4_K", 576) is None and row_bytes("Q4_0", 64) == 36


class World:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.base = write_tiny(folder / "base.gguf", n_layer=2)
        self.quant = write_tiny(folder / "quant.gguf", n_layer=2, weight_type="Q4_0")
        self.run = folder / "run"
        for name, seed in (("seen", 1), ("other", 2)):
            write_letters(folder / f"{name}.txt", 32 * 6, seed)
            write_native(folder / f"{name}.jsonl", questions(12, seed))
        self.settings = ("-c", "32", "-t", "1", "-ngl", "0")
        succeed("blame", self.base, self.quant, *self.inputs("seen", "seen"), *self.settings, "-o", self.run)

    def inputs(self, text: str, task: str) -> tuple[str, ...]:
        return ("--text", f"{text}t={self.folder / text}.txt", "--task", f"{task}q={self.folder / task}.jsonl")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("recipe"))


def test_the_file_has_the_chosen_types_and_fits(world: World) -> None:
    blame = read_blame(RunFolder(world.run))
    size = 100_000
    mix = make_mix(blame, world.base, size, DISTANCE)
    assert mix.plan.size_bytes <= size
    types = {tensor.name: tensor.target_type for tensor in mix.plan.tensors}
    for group, option in zip(blame.groups, mix.choice.options, strict=True):
        assert {types[name] for name in group.tensors} == {option.type_name}
    ours, theirs = mix.commands(world.base)
    assert "--tensor-type" in ours and theirs.startswith("llama-quantize")


def test_another_base_is_refused(world: World, tmp_path: Path) -> None:
    other = write_tiny(tmp_path / "other.gguf", n_layer=2, seed=5)
    with pytest.raises(MismatchError, match="not the base of this blame"):
        make_mix(read_blame(RunFolder(world.run)), other, 100_000, DISTANCE, Quiet())


@pytest.mark.parametrize(("text", "task"), [("seen", "other"), ("other", "seen")])
def test_what_the_blame_saw_is_refused(text: str, task: str, world: World, tmp_path: Path) -> None:
    words = fail(
        "recipe", world.run, "--size", "0.1MB", "--objective", "distance", "--verify", *world.inputs(text, task),
        *world.settings, "-o", tmp_path / "out",
    )  # fmt: skip
    assert "verify on" in words and not (tmp_path / "out").exists()


def test_a_part_of_what_the_blame_saw_is_refused_too(world: World, tmp_path: Path) -> None:
    part = tmp_path / "part.jsonl"
    write_native(part, [*questions(12, 1)[:1], *questions(5, 3)[1:]])
    words = fail(
        "recipe", world.run, "--size", "0.1MB", "--objective", "distance", "--verify", "--task", part, *world.settings
    )
    assert "1 questions of part are among those of the blame" in words


def test_verified_it_says_what_the_intervals_say(world: World, tmp_path: Path) -> None:
    found = run(
        "recipe", world.run, "--size", "0.1MB", "--objective", "distance", "--verify", *world.inputs("other", "other"),
        *world.settings, "-o", tmp_path / "out",
    )  # fmt: skip
    assert found.exit_code == 0, found.output
    document = json.loads((tmp_path / "out" / "recipe.json").read_text(encoding="utf-8"))
    made = read_inventory(tmp_path / "out" / "quants" / "recipe.gguf")
    assert made.info.size_bytes == document["recipe_bytes"] <= 100_000
    assert document["standard_bytes"] <= 1.005 * document["recipe_bytes"]
    for measure in document["measures"].values():
        low, high = measure["difference"]["low"], measure["difference"]["high"]
        assert measure["verdict"] == ("better" if low > 0 else "worse" if high < 0 else "cannot be told")
    assert document["verdict"] == document["measures"]["kld"]["verdict"]
    results = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    klds = {quant["name"]: quant["texts"]["othert"]["kld_mean"]["value"] for quant in results["quants"]}
    difference = document["measures"]["kld"]["difference"]["value"]
    assert difference == pytest.approx(klds[document["standard"]] - klds[document["recipe"]])
    assert "In distance, the recipe" in found.output


def test_options_that_do_not_go_together(world: World) -> None:
    assert "give both, or neither" in fail("recipe", world.run, "--size", "1MB", "--verify")
    assert "give both, or neither" in fail("recipe", world.run, "--size", "1MB", *world.inputs("other", "other"))
    assert "neither a size" in fail("recipe", world.run, "--size", "4")
    assert "expected some of" in fail("recipe", world.run, "--size", "1MB", "--types", "IQ1_S")
    assert "does not exist" in fail("recipe", world.folder, "--size", "1MB")


def test_the_commands_say_what_they_did(world: World) -> None:
    output = succeed("recipe", world.run, "--size", "0.1MB", "--objective", "distance").output
    assert "which nothing has measured yet" in output and "quantprobe quantize" in output
    shown = succeed(
        "blame", world.base, world.quant, *world.inputs("seen", "seen"), *world.settings, "--dry-run"
    ).output
    assert "hybrids (hadamard design)" in shown and "FFN down" in shown
    again = succeed("blame", world.base, world.quant, *world.inputs("seen", "seen"), *world.settings, "-o", world.run)
    assert "gives back the most distance" in again.output or "No group is shown" in again.output
    page = (world.run / "report" / "report.html").read_text(encoding="utf-8")
    assert "Which tensors cost what" in page and "data:image/png" in page
    assert (world.run / "blame-map.png").stat().st_size > 10_000
