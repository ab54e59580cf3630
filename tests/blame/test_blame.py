"""Blame on tiny models: what it measures, that it continues, that nothing is left behind."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from capture_runs import questions
from road_cases import Quiet, environment, write_letters
from tiny_gguf import write_tiny

from quantprobe import files
from quantprobe.blame import hybrids, job
from quantprobe.blame.groups import make_groups
from quantprobe.blame.job import blame
from quantprobe.blame.measuring import Runs
from quantprobe.blame.prospect import Plan, candidates, open_pair
from quantprobe.capture.store import Capture
from quantprobe.errors import FileFormatError, InputError
from quantprobe.gguf.hybrid import write_hybrid
from quantprobe.probes.questions.jsonl import write_native
from quantprobe.run.blame import KLD, Blame, read_blame
from quantprobe.run.folder import RunFolder
from quantprobe.settings import Settings
from quantprobe.sweep import Inputs, TaskInput, TextInput, compare_quants, measuring
from quantprobe.sweep.measuring import Measuring

SETTINGS = Settings(n_ctx=32, n_threads=1, n_gpu_layers=0)
BY_ROLE = Plan(design="single")


class World:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.base = write_tiny(folder / "base.gguf", n_layer=1)
        self.quant = write_tiny(folder / "quant.gguf", n_layer=1, weight_type="Q4_0", head_type="F32")
        write_native(folder / "q.jsonl", questions(12))
        self.inputs = Inputs(
            (TextInput("t", write_letters(folder / "t.txt", 32 * 6)),), (TaskInput("q", folder / "q.jsonl"),)
        )

    def blame(self, run: Path, plan: Plan = BY_ROLE, progress: Quiet | None = None) -> Blame:
        return blame(self.base, self.quant, self.inputs, SETTINGS, run, progress or Quiet(), plan)[1]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("blame"))


@pytest.fixture(scope="module")
def calm(world: World) -> Blame:
    return world.blame(world.folder / "calm")


def test_groups_are_the_roles_that_differ(world: World, calm: Blame) -> None:
    assert [group.name for group in calm.groups] == [
        "attention q, k",
        "attention v, output",
        "FFN gate, up",
        "FFN down",
    ]
    assert all(group.quant_types.keys() == {"Q4_0"} and group.base_types.keys() == {"F32"} for group in calm.groups)
    assert all(0.03 < (group.weight_error or 0) < 0.15 for group in calm.groups)
    assert read_blame(RunFolder(world.folder / "calm")) == calm


def test_an_effect_is_the_difference_of_two_runs(calm: Blame) -> None:
    means = {run.restored: run.means for run in calm.runs}
    for each in calm.effects:
        kld = each.measures[KLD]
        assert kld.given_back.value == pytest.approx(means[()]["kld"] - means[each.group,]["kld"])
        assert kld.share == pytest.approx(kld.given_back.value / means[()]["kld"])
        assert each.measures["net"].given_back.value == pytest.approx(means[each.group,]["acc"] - means[()]["acc"])
        extra = calm.group(each.group).extra_bytes
        assert kld.per_mb == pytest.approx(kld.given_back.value / extra * 1e6)
    assert means[tuple(group.name for group in calm.groups)]["kld"] == 0


def test_everything_restored_is_the_base_and_nothing_the_quant(world: World, calm: Blame, tmp_path: Path) -> None:
    """Both hybrids are written and decoded, not taken for granted."""
    progress = Quiet()
    pair = open_pair(world.base, world.quant, progress)
    every = {unit.name for unit in pair.differing}
    write_hybrid(pair, every, tmp_path / "all.gguf")
    write_hybrid(pair, set(), tmp_path / "none.gguf")
    capture = next((world.folder / "calm").glob("*.qpc"))
    found = compare_quants(
        capture, [tmp_path / "all.gguf", tmp_path / "none.gguf", world.quant], SETTINGS, tmp_path / "run", progress
    ).results.quants
    assert found[0].texts["t"].kld_mean.value == 0 and found[0].texts["t"].kld_max == 0
    assert (found[0].tasks["q"].drops, found[0].tasks["q"].leapfrogs) == (0, 0)
    assert found[1].texts == found[2].texts and found[1].texts["t"].kld_mean.value > 0


def test_a_finished_blame_writes_and_decodes_nothing(
    world: World, calm: Blame, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a hybrid was written")

    monkeypatch.setattr(hybrids, "write_hybrid", refuse)
    assert world.blame(world.folder / "calm") == calm


class Killed(BaseException):
    """The end of the process."""


@pytest.mark.parametrize("n_writes", [1, 3, 4, 6, 9, 11])
def test_killed_at_a_write_it_continues(
    n_writes: int, world: World, calm: Blame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every durable write of the run, hybrids included, ends the work once."""
    left = n_writes
    original, of_hybrid = files.write_whole, hybrids.write_hybrid

    def kill(*arguments: Any) -> Any:
        nonlocal left
        left -= 1
        if left == 0:
            raise Killed
        return (of_hybrid if len(arguments) == 3 else original)(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(hybrids, "write_hybrid", kill)
        patched.setattr("quantprobe.run.rows.write_whole", kill)
        with pytest.raises(Killed):
            world.blame(tmp_path / "run")
    assert not list((tmp_path / "run").rglob("*.gguf"))
    assert world.blame(tmp_path / "run") == calm
    assert not list((tmp_path / "run").rglob("*.partial"))


def test_a_hybrid_that_a_kill_left_has_no_final_name_and_is_removed(world: World, calm: Blame, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    run.path.mkdir()
    run.hybrid.write_bytes(b"half")
    assert run.hybrid.name.endswith(".partial")
    assert world.blame(run.path) == calm
    assert not run.hybrid.exists()


KILLED_WHILE_DECODING = """
import os, sys
from pathlib import Path
from quantprobe.sweep import measuring
original, left = measuring.probe_blocks, int(sys.argv[1])
def blocks(*arguments, **options):
    global left
    for block in original(*arguments, **options):
        left -= 1
        if left < 0:
            os._exit(9)
        yield block
measuring.probe_blocks = blocks
from quantprobe.cli.main import main
sys.argv[1:] = sys.argv[2:]
main()
"""


def test_a_killed_process_leaves_a_partial_file_and_is_continued(world: World, calm: Blame, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    command = ["blame", world.base, world.quant, "--text", f"t={world.folder / 't.txt'}", "--design", "single"]
    command += ["--task", f"q={world.folder / 'q.jsonl'}", "-c", "32", "-t", "1", "-ngl", "0", "-o", run.path]
    arguments = [sys.executable, "-c", KILLED_WHILE_DECODING, "5", *map(str, command)]
    ended = subprocess.run(arguments, capture_output=True, env=environment(), timeout=120, check=False)
    assert ended.returncode == 9, ended.stderr
    assert [path.name for path in run.path.glob("*gguf*")] == [run.hybrid.name]
    assert world.blame(run.path).effects == calm.effects
    assert not run.hybrid.exists()


def test_one_hybrid_at_a_time(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    original = measuring.probe_blocks

    def counting(*arguments: Any, **options: Any) -> Iterator[Any]:
        seen.append(len(list((tmp_path / "run").glob("*gguf*"))))
        yield from original(*arguments, **options)

    monkeypatch.setattr(measuring, "probe_blocks", counting)
    found = world.blame(tmp_path / "run", Plan(design="hadamard"))
    assert max(seen) == 1 and found.design == "hadamard" and not list((tmp_path / "run").glob("*gguf*"))


def test_both_ways_and_patterns(world: World, calm: Blame) -> None:
    plan = Plan(by=("ffn_down", "attn_v"), design="single", way="both")
    found = world.blame(world.folder / "calm", plan)
    assert {group.name for group in found.groups} == {"ffn_down", "attn_v", "the rest"}
    assert found.ways == ("restored", "alone")
    down = {each.way: each.measures[KLD].given_back.value for each in found.effects if each.group == "ffn_down"}
    before = next(each for each in calm.effects if each.group == "FFN down")
    assert down["restored"] == before.measures[KLD].given_back.value  # the same hybrid, whatever the group is called
    assert down["alone"] is not None and down["alone"] > 0
    world.blame(world.folder / "calm")


def test_a_fold_over_gives_the_means_of_single_runs(world: World, tmp_path: Path) -> None:
    found = world.blame(tmp_path / "run", Plan(design="foldover"))
    rows = {run.restored: run.means["kld"] for run in found.runs}
    for each in found.effects:
        with_it = [kld for restored, kld in rows.items() if each.group in restored]
        without = [kld for restored, kld in rows.items() if each.group not in restored]
        assert each.measures[KLD].given_back.value == pytest.approx(np.mean(without) - np.mean(with_it))
    assert found.n_interactions > 0


def test_the_budget_picks_the_design(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Runs, "measure", lambda runs, row: 0.0 if row.all() or not row.any() else 60.0)
    kinds = {}
    for minutes in (7, 9, 20):
        designs = candidates(Plan(seconds=60.0 * minutes), 4)
        capture = Capture.open(next((world.folder / "calm").glob("*.qpc")))
        pair = open_pair(world.base, world.quant, Quiet())
        here = Measuring(capture, SETTINGS, RunFolder(tmp_path), Quiet(), world.base)
        runs = Runs(here, pair, make_groups(pair, ("role",)))
        kinds[minutes] = job._measure(runs, designs, 60.0 * minutes, Quiet()).kind
    assert kinds == {7: "single", 9: "hadamard", 20: "foldover"}
    with pytest.raises(InputError, match="larger --budget"):
        job._measure(runs, candidates(Plan(seconds=90.0), 4), 90.0, Quiet())


def test_equal_models_are_refused(world: World, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing to blame"):
        blame(world.base, world.base, world.inputs, SETTINGS, tmp_path / "run", Quiet(), BY_ROLE)


@pytest.mark.parametrize(
    ("by", "words"), [(("attn_(",), "regular expression"), (("nothing",), "fits no tensor"), (("role", "x"), "alone")]
)
def test_bad_groups_are_refused(by: tuple[str, ...], words: str, world: World) -> None:
    pair = open_pair(world.base, world.quant, Quiet())
    with pytest.raises(InputError, match=words):
        make_groups(pair, by)


@pytest.mark.parametrize("damage", ['{"format_version": 9}', "{", '{"format_version": 1}'])
def test_a_damaged_blame_json_is_named(damage: str, tmp_path: Path) -> None:
    (tmp_path / "blame.json").write_text(damage, encoding="utf-8")
    with pytest.raises(FileFormatError, match=r"blame\.json"):
        read_blame(RunFolder(tmp_path))
