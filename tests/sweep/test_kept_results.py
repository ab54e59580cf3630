"""results.json keeps what earlier calls measured as long as it fits, and says what it leaves out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from road_cases import Quiet, results, succeed, write_letters
from tiny_gguf import write_tiny

from quantprobe.probes.items import Question
from quantprobe.probes.questions.jsonl import write_native
from quantprobe.run.results import Quant, Results
from quantprobe.settings import Settings
from quantprobe.sweep import Budget, Inputs, TaskInput, TextInput, capture_base, compare_quants

SETTINGS = Settings(n_ctx=32, n_threads=1, n_gpu_layers=0)
N_ITEMS = 120


class World:
    """A capture of a text and two tasks, and quants that can be measured against it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        base = write_tiny(folder / "base.gguf", n_layer=1)
        self.quants = [write_tiny(folder / f"{name}.gguf", n_layer=1, noise=n) for n, name in ((0.1, "a"), (0.3, "b"))]
        write_letters(folder / "t.txt")
        for name in ("q", "r"):
            items = [
                Question(f"{name}{n}", f"g{n % 3}", f"{n} bottles of", ("beer", "milk", "ink"), n % 3)
                for n in range(N_ITEMS)
            ]
            write_native(folder / f"{name}.jsonl", items, "strata")
        tasks = tuple(TaskInput(name, folder / f"{name}.jsonl") for name in ("q", "r"))
        inputs = Inputs((TextInput("t", folder / "t.txt"),), tasks)
        capture_base(base, inputs, SETTINGS, folder / "base.qpc", Quiet())

    def compare(
        self, run: Path, *names: str, settings: Settings = SETTINGS, **options: object
    ) -> tuple[Results, Quiet]:
        progress = Quiet()
        quants = [self.folder / f"{name}.gguf" for name in names]
        found = compare_quants(self.folder / "base.qpc", quants, settings, run, progress, **options)
        return found.results, progress


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("kept"))


def by_name(found: Results) -> dict[str, Quant]:
    return {quant.name: quant for quant in found.quants}


def test_one_more_quant_joins_the_others_whose_files_are_gone(world: World, tmp_path: Path) -> None:
    at_once, _ = world.compare(tmp_path / "at once", "a", "b")
    run = tmp_path / "run"
    world.compare(run, "a")
    hidden = (world.folder / "a.gguf").rename(tmp_path / "a.gguf")
    try:
        both, progress = world.compare(run, "b")
    finally:
        hidden.rename(world.folder / "a.gguf")
    assert [quant.name for quant in both.quants] == ["a", "b"]
    assert both == at_once, "judged together, bit for bit as in one call"
    assert not any("left out" in note for note in progress.notes)
    assert not any(" a on " in label for label in progress.labels)


def test_probes_of_earlier_calls_stay(world: World, tmp_path: Path) -> None:
    at_once, _ = world.compare(tmp_path / "at once", "a")
    world.compare(tmp_path / "run", "a", probes=["t", "q"])
    joined, progress = world.compare(tmp_path / "run", "a", probes=["r"])
    assert by_name(joined) == by_name(at_once)
    assert [label for label in progress.labels if label.startswith("compare")] == ["compare a on r"]
    assert joined.tasks == at_once.tasks and joined.null_control == at_once.null_control


def test_replace_keeps_what_it_names(world: World, tmp_path: Path) -> None:
    world.compare(tmp_path, "a")
    alone, _ = world.compare(tmp_path, "b", probes=["t"], replaces=True)
    assert (list(by_name(alone)), list(alone.quants[0].texts), alone.tasks) == (["b"], ["t"], {})
    assert alone.null_control is not None and list(alone.null_control.tasks) == []


def test_what_does_not_fit_is_named(world: World, tmp_path: Path) -> None:
    world.compare(tmp_path, "a")
    shutil.rmtree(tmp_path / "rows" / "a")
    found, progress = world.compare(tmp_path, "b", probes=["t"])
    assert list(by_name(found)) == ["b"]
    lost = [note for note in progress.notes if "left out" in note]
    assert [note.split(" is left out")[0] for note in lost] == ["a on t", "a on q", "a on r"]
    assert all("are gone" in note for note in lost)


def test_other_settings_do_not_stay(world: World, tmp_path: Path) -> None:
    world.compare(tmp_path, "a", probes=["t"])
    changed = Settings(n_ctx=32, n_threads=1, n_gpu_layers=0, flash_attn=False)
    found, progress = world.compare(tmp_path, "b", settings=changed, allow=["flash_attn"], probes=["t"])
    assert list(by_name(found)) == ["b"]
    assert any("a on t is left out of the results: its rows were measured under other" in n for n in progress.notes)


def test_a_quant_of_other_content_or_name_takes_the_place_of_the_old(world: World, tmp_path: Path) -> None:
    world.compare(tmp_path, "a", "b", probes=["t"])
    (tmp_path / "new").mkdir()
    renamed = shutil.copy(world.folder / "b.gguf", tmp_path / "new" / "c.gguf")
    other = write_tiny(tmp_path / "new" / "a.gguf", n_layer=1, noise=0.2)
    progress = Quiet()
    found = compare_quants(
        world.folder / "base.qpc", [other, Path(renamed)], SETTINGS, tmp_path, progress, probes=["t"]
    ).results
    assert list(by_name(found)) == ["a", "c"]
    assert any(note.startswith("a: the file has other content now") for note in progress.notes)
    assert any(note.startswith("b is left out: the same model is called c") for note in progress.notes)


@pytest.mark.parametrize("content", ["{", '{"format_version": 99}'])
def test_a_file_that_cannot_be_read_is_made_anew(world: World, tmp_path: Path, content: str) -> None:
    (tmp_path / "results.json").write_text(content, encoding="utf-8")
    found, progress = world.compare(tmp_path, "a", probes=["t"])
    assert list(by_name(found)) == ["a"]
    assert any("made anew: it cannot be read" in note for note in progress.notes)


def test_results_of_another_base_are_made_anew(world: World, tmp_path: Path) -> None:
    world.compare(tmp_path, "a", probes=["t"])
    document = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    document["base"]["sha256"] = "0" * 64
    (tmp_path / "results.json").write_text(json.dumps(document), encoding="utf-8")
    found, progress = world.compare(tmp_path, "b", probes=["t"])
    assert list(by_name(found)) == ["b"]
    assert any("made anew: a were measured against another base" in note for note in progress.notes)


def test_decided_quants_are_judged_again_beside_new_ones(world: World, tmp_path: Path) -> None:
    """Each has its share of the error among all: the first one's interval is wider when a second one joins it."""
    budget = Budget(items=70)
    first, _ = world.compare(tmp_path, "a", decide=budget, probes=["q", "r"])
    both, progress = world.compare(tmp_path, "b", decide=budget, probes=["q", "r"])
    assert list(by_name(both)) == ["a", "b"]
    assert not any(" a on " in label for label in progress.labels)
    before, after = first.quants[0], by_name(both)["a"]
    assert before.drawn == after.drawn is not None
    assert before.pooled is not None and after.pooled is not None
    assert after.pooled.n_decoded == before.pooled.n_decoded
    assert after.pooled.net.value == before.pooled.net.value
    low, high = (after.pooled.net.low, after.pooled.net.high)
    assert low is not None and high is not None and before.pooled.net.low is not None
    assert low < before.pooled.net.low
    alone, _ = world.compare(tmp_path, "a", decide=budget, probes=["q", "r"], replaces=True)
    assert alone.quants == first.quants


def test_decided_and_whole_quants_stand_side_by_side(world: World, tmp_path: Path) -> None:
    world.compare(tmp_path, "a", decide=Budget(items=70))
    both, _ = world.compare(tmp_path, "b")
    assert [(quant.name, quant.drawn is not None) for quant in both.quants] == [("a", True), ("b", False)]
    assert all(quant.pooled is not None and quant.pooled.verdict for quant in both.quants)
    whole, progress = world.compare(tmp_path, "a")
    assert [quant.drawn for quant in whole.quants] == [None, None]
    assert not any("left out" in note for note in progress.notes)
    assert by_name(whole)["b"].tasks == by_name(world.compare(tmp_path / "fresh", "a", "b")[0])["b"].tasks


def test_a_decision_stays_whole_or_not_at_all(world: World, tmp_path: Path) -> None:
    world.compare(tmp_path, "a", decide=Budget(items=70))
    (tmp_path / "rows" / "a" / "q.task.npz").unlink()
    found, progress = world.compare(tmp_path, "b", probes=["t"])
    assert by_name(found)["a"].tasks == {} and list(by_name(found)["a"].texts) == ["t"]
    assert any("a on r is left out" in note and "decided together" in note for note in progress.notes)


def test_the_command_keeps_and_replaces(world: World, tmp_path: Path) -> None:
    for name, options, expected in (("a", (), ["a"]), ("b", (), ["a", "b"]), ("b", ("--replace",), ["b"])):
        quant = world.folder / f"{name}.gguf"
        succeed("compare", world.folder / "base.qpc", quant, "-t", 1, "-ngl", 0, "-o", tmp_path, *options)
        assert [one["name"] for one in results(tmp_path)["quants"]] == expected
