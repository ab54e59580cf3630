"""Importance matrix and cache types as factors of a sweep: made, measured, compared in pairs, and never mixed up."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from road_cases import Quiet, fail, results, succeed, write_letters
from tiny_gguf import write_tiny

pytest.importorskip("quantprobe._native", reason="the native extension is not built")

from quantprobe.errors import InputError
from quantprobe.gguf.parts import read_parts
from quantprobe.imatrix.file import write_imatrix
from quantprobe.imatrix.matrix import Entry, Imatrix
from quantprobe.run.cohort import read_cohort
from quantprobe.run.folder import RunFolder
from quantprobe.run.results import Quant
from quantprobe.settings import Settings
from quantprobe.study.variants import CACHE, IMATRIX, compare_variants, find_pairs
from quantprobe.sweep import (
    Inputs,
    Making,
    TextInput,
    compare_quants,
    inputs,
    ladder,
    making,
    measuring,
    plan_making,
    sweep,
)
from quantprobe.sweep.lines import cache_variants, line_name

SETTINGS = Settings(n_ctx=32, n_threads=1, n_gpu_layers=0)
OPTIONS = ("-c", 32, "-t", 1, "-ngl", 0)


def write_matrix(path: Path, base: Path, seed: int) -> Path:
    """A matrix that weighs the columns of every weight at random, calibrated on `STEM.txt`."""
    rng = np.random.default_rng(seed)
    entries = {
        tensor.name: Entry(rng.lognormal(0, 3, (1, tensor.shape[0])), np.full(1, 8, np.int64))
        for tensor in read_parts(base)[0].tensors.values()
        if len(tensor.shape) == 2 and tensor.name.startswith("blk.")
    }
    write_imatrix(path, Imatrix(entries, (f"{path.stem}.txt",), 11, 512))
    return path


@cache
def planned(base: Path, types: Sequence[str], imatrices: Sequence[Path | None]) -> Making:
    """A plan needs a process of llama.cpp's, and stays the same."""
    return plan_making(base, types, imatrices)


@dataclass(frozen=True)
class World:
    base: Path
    a: Path
    b: Path
    text: Path
    run: Path

    def sweep(self, *arguments: object) -> list[object]:
        return ["sweep", self.base, "--text", f"t={self.text}", *OPTIONS, "-o", self.run, *arguments]

    def measure(
        self,
        types: Sequence[str] = ("IQ4_NL",),
        imatrices: Sequence[Path | None] | None = None,
        keep: bool = True,
        texts: Sequence[Path] = (),
        **options: Any,
    ) -> tuple[Quant, ...]:
        """What results.json holds after a sweep that makes its quants; no page is drawn."""
        matrices = [None, self.a] if imatrices is None else imatrices
        plan = replace(planned(self.base, tuple(types), tuple(matrices)), keeps_files=keep)
        given = Inputs(tuple(TextInput(path.stem, path) for path in (self.text, *texts)))
        return sweep(self.base, [], given, SETTINGS, self.run, Quiet(), making=plan, **options).results.quants

    def files(self) -> list[str]:
        return sorted(path.name for path in (self.run / "quants").glob("*.gguf"))


@pytest.fixture
def world(tmp_path: Path) -> World:
    base = write_tiny(tmp_path / "tiny-F32.gguf", n_layer=1)
    a, b = (write_matrix(tmp_path / f"{name}.gguf", base, seed) for name, seed in (("a", 1), ("b", 2)))
    return World(base, a, b, write_letters(tmp_path / "text.txt"), tmp_path / "run")


MADE = ["tiny-IQ4_NL-a", "tiny-IQ4_NL-b", "tiny-IQ4_NL", "tiny-Q8_0"]


def forbid(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing may be made, loaded or decoded any more."""

    def refuse(*arguments: Any, **options: Any) -> None:
        raise AssertionError("work was done")

    monkeypatch.setattr(inputs, "Model", refuse)
    monkeypatch.setattr(ladder, "quantize", refuse)
    monkeypatch.setattr(measuring, "probe_blocks", refuse)


def count_made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of files that are made, in order."""
    made: list[str] = []
    quantize = ladder.quantize

    def count(source: Path, target: Path, *arguments: Any, **options: Any) -> list[Path]:
        made.append(target.name)
        return quantize(source, target, *arguments, **options)

    monkeypatch.setattr(ladder, "quantize", count)
    return made


def test_a_sweep_makes_and_measures_and_pairs(world: World) -> None:
    matrices = ("--imatrix", "none", "--imatrix", world.a, "--imatrix", world.b)
    printed = succeed(*world.sweep("--types", "Q8_0,IQ4_NL", "--chunks", 2, *matrices)).stdout
    assert "What the importance matrix did" in printed
    assert world.files() == sorted(f"{name}.gguf" for name in MADE)
    assert sorted(quant["name"] for quant in results(world.run)["quants"]) == sorted(MADE)
    pairs = find_pairs(read_cohort([world.run]))
    assert {(pair.factor, pair.of, pair.a_level, pair.b_level) for pair in pairs} == {
        (IMATRIX, "IQ4_NL", "none", "a"),
        (IMATRIX, "IQ4_NL", "none", "b"),
        (IMATRIX, "IQ4_NL", "a", "b"),
    }


def test_a_finished_run_that_keeps_its_files_makes_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    found = world.measure()
    forbid(monkeypatch)
    assert world.measure() == found


def test_with_keep_none_files_go_and_a_finished_run_makes_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = world.measure(keep=False)
    assert [quant.name for quant in found] == ["tiny-IQ4_NL", "tiny-IQ4_NL-a"]
    assert world.files() == []
    forbid(monkeypatch)
    assert world.measure(keep=False) == found
    # what this call names stays with --replace, too, and without results.json the rows are enough
    assert world.measure(keep=False, replaces=True) == found
    (world.run / "results.json").unlink()
    assert world.measure(keep=False) == found


def test_keep_none_measures_what_keep_all_does(world: World) -> None:
    found = world.measure(keep=False)
    assert world.measure() == found
    assert len(world.files()) == 2
    assert world.measure(keep=False) == found
    assert world.files() == []


@pytest.mark.parametrize("keep", [True, False])
def test_interrupted_between_making_and_measuring(world: World, monkeypatch: pytest.MonkeyPatch, keep: bool) -> None:
    """The file that was there is not made again."""
    made = count_made(monkeypatch)

    def stop(*arguments: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    def run() -> tuple[Quant, ...]:
        return world.measure(["Q8_0", "Q4_0"], [], keep)

    with monkeypatch.context() as patched:
        patched.setattr(measuring, "probe_blocks", stop)
        with pytest.raises(KeyboardInterrupt):
            run()
    assert made == (["tiny-Q8_0.gguf", "tiny-Q4_0.gguf"] if keep else ["tiny-Q8_0.gguf"])
    assert "tiny-Q8_0.gguf" in world.files()
    assert [quant.name for quant in run()] == ["tiny-Q8_0", "tiny-Q4_0"]
    assert made == ["tiny-Q8_0.gguf", "tiny-Q4_0.gguf"]
    assert world.files() == (["tiny-Q4_0.gguf", "tiny-Q8_0.gguf"] if keep else [])


def test_what_changed_is_made_and_measured_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def run() -> list[str]:
        made.clear()
        world.measure(["Q8_0", "IQ4_NL"], [world.a], keep=False)
        return made

    made = count_made(monkeypatch)
    both = ["tiny-Q8_0.gguf", "tiny-IQ4_NL.gguf"]  # Q8_0 ignores the matrix, but records it
    assert run() == both
    write_matrix(world.a, world.base, 9)
    assert run() == both
    path = world.run / "quants" / "made.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    record["tiny-Q8_0.gguf"]["measured"] = {"name": 3}
    path.write_text(json.dumps(record), encoding="utf-8")
    assert run() == ["tiny-Q8_0.gguf"]


def test_another_text_needs_the_files_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    made = count_made(monkeypatch)
    other = write_letters(world.text.with_name("other.txt"), seed=1)
    world.measure(["Q8_0"], [], keep=False)
    (quant,) = world.measure(["Q8_0"], [], keep=False, texts=[other])
    assert set(quant.texts) == {"text", "other"}
    assert made == ["tiny-Q8_0.gguf"] * 2


def test_given_and_made_quants_mix(world: World) -> None:
    given = write_tiny(world.base.with_name("given.gguf"), n_layer=1, noise=0.1)
    succeed("sweep", world.base, given, "--types", "Q8_0", "--text", f"t={world.text}", *OPTIONS, "-o", world.run)
    assert [quant["name"] for quant in results(world.run)["quants"]] == ["given", "tiny-Q8_0"]


def test_what_cannot_be_made_is_refused_before_anything_else(world: World) -> None:
    assert "IQ2_XXS cannot be made without an importance matrix" in fail(*world.sweep("--types", "IQ2_XXS"))
    assert "give quants, or --types to make some" in fail(*world.sweep())
    assert "--imatrix is used for the quants of --types" in fail(*world.sweep(world.base, "--imatrix", world.a))
    clash = write_tiny(world.base.with_name("tiny-Q8_0.gguf"), n_layer=1)
    with pytest.raises(InputError, match="have one name"):
        sweep(
            world.base, [clash], Inputs((TextInput("t", world.text),)), SETTINGS, world.run, Quiet(),
            making=plan_making(world.base, ["Q8_0"], []),
        )  # fmt: skip
    assert not world.run.exists()


@pytest.fixture
def quant(world: World) -> Path:
    return write_tiny(world.base.with_name("q.gguf"), n_layer=1, weight_type="Q8_0")


K_BF16: dict[str, str] = {"type_k": "bf16"}


def klds(world: World, quant: Path, run: Path, **options: Any) -> dict[str, float | None]:
    given = Inputs((TextInput("t", world.text),))
    found = sweep(world.base, [quant], given, SETTINGS, run, Quiet(), **options).results.quants
    return {one.name: one.texts["t"].kld_mean.value for one in found}


def test_cache_types_are_lines_of_their_own(world: World, quant: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = klds(world, quant, world.run, variants=({}, K_BF16))
    assert list(found) == ["tiny-F32 [k bf16]", "q", "q [k bf16]"]
    assert len(set(found.values())) == 3
    document = results(world.run)
    assert document["settings"]["type_k"] == "f16"
    assert [one.get("variant") for one in document["quants"]] == [K_BF16, None, K_BF16]
    forbid(monkeypatch)
    assert klds(world, quant, world.run, variants=({}, K_BF16)) == found
    assert klds(world, quant, world.run) == found  # a later call without the variants keeps them
    (shift,) = compare_variants(read_cohort([world.run]))
    assert (shift.pair.factor, shift.pair.of, shift.pair.b_level) == (CACHE, "q", "k bf16")


def test_a_line_has_the_numbers_of_a_run_of_its_own(world: World, quant: Path) -> None:
    found = klds(world, quant, world.run, variants=({}, K_BF16))
    alone = world.run.with_name("alone")
    assert klds(world, quant, alone) == {"q": found["q"]}
    (capture,) = alone.glob("*.qpc")
    changed = compare_quants(
        capture, [quant], SETTINGS.changed(K_BF16), alone.with_name("changed"), Quiet(), allow=["type_k"]
    ).results.quants
    assert [one.texts["t"].kld_mean.value for one in changed] == [found["q [k bf16]"]]


def test_compare_takes_several_cache_types(world: World, quant: Path) -> None:
    klds(world, quant, world.run, kind="logprobs")
    (capture,) = world.run.glob("*.qpc")
    succeed("compare", capture, quant, "-t", 1, "-ctk", "f16", "-ctk", "bf16", "-o", world.run)
    assert [one["name"] for one in results(world.run)["quants"]] == ["tiny-F32 [k bf16]", "q", "q [k bf16]"]
    world.base.rename(world.base.with_name("elsewhere.gguf"))
    ended = succeed("compare", capture, quant, "-t", 1, "-ctk", "f16", "-ctk", "f32", "-o", world.run, "--replace")
    assert "what the cache types cost alone is not measured" in ended.stderr
    assert [one["name"] for one in results(world.run)["quants"]] == ["q", "q [k f32]"]


def test_rows_of_a_line_do_not_fit_another(world: World, quant: Path) -> None:
    found, folder = klds(world, quant, world.run, variants=({}, K_BF16)), RunFolder(world.run)
    folder.rows("q", "t").write_bytes(folder.rows("q [k bf16]", "t").read_bytes())
    assert klds(world, quant, world.run, variants=({}, K_BF16)) == found


def test_both_factors_in_one_run_without_files(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def run() -> set[str]:
        variants = ({}, {"type_v": "bf16"})
        return {one.name for one in world.measure(["IQ4_NL"], [world.a, world.b], keep=False, variants=variants)}

    stems = ("tiny-IQ4_NL-a", "tiny-IQ4_NL-b")
    assert run() == {*stems, *(f"{stem} [v bf16]" for stem in stems), "tiny-F32 [v bf16]"}
    factors = [pair.factor for pair in find_pairs(read_cohort([world.run]))]
    assert sorted(factors) == [CACHE, CACHE, IMATRIX, IMATRIX]
    forbid(monkeypatch)
    assert len(run()) == 5


@pytest.mark.parametrize(
    ("types_k", "types_v", "names"),
    [
        ((), (), ["m"]),
        (("q8_0",), (), ["m"]),  # the run's own
        (("q8_0", "f16"), (), ["m", "m [k f16]"]),
        (("f16", "q8_0"), ("f16", "q8_0"), ["m", "m [v q8_0]", "m [k q8_0]", "m [kv q8_0]"]),
        (("f16", "q8_0"), ("f16", "bf16"), ["m", "m [v bf16]", "m [k q8_0]", "m [k q8_0, v bf16]"]),
    ],
)
def test_lines_are_every_combination(types_k: tuple[str, ...], types_v: tuple[str, ...], names: list[str]) -> None:
    first = {"type_k": (*types_k, "f16")[0], "type_v": (*types_v, "f16")[0]}
    variants = cache_variants(Settings(**first), types_k, types_v)  # type: ignore[arg-type]
    assert [line_name("m", variant) for variant in variants] == names


def test_impossible_cache_types_are_refused() -> None:
    with pytest.raises(InputError, match="given twice"):
        cache_variants(Settings(), ("f16", "f16"), ())
    with pytest.raises(InputError, match="needs --flash-attn on"):
        cache_variants(Settings(flash_attn=False), (), ("f16", "q8_0"))


def test_another_process_measures_what_this_one_waited_for(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a call waits for the lock of a quant, another makes, measures and deletes it: nothing is left to do."""
    locked, entered = making.locked, []

    def wait(path: Path, tell: Any) -> Any:
        if "make" in path.name and not entered:
            entered.append(path)
            world.measure(["Q8_0"], [], keep=False)
            forbid(monkeypatch)
        return locked(path, tell)

    monkeypatch.setattr(making, "locked", wait)
    found = world.measure(["Q8_0"], [], keep=False)
    assert [quant.name for quant in found] == ["tiny-Q8_0"]
    assert entered
