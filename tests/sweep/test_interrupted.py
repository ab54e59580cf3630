"""Interrupted at any block, a run goes on to the bits of a calm one and decodes nearly nothing twice."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from road_cases import Quiet, write_letters
from tiny_gguf import write_tiny

from quantprobe.engine.plan_choices import POOL
from quantprobe.errors import InputError
from quantprobe.probes.items import Question
from quantprobe.probes.questions.jsonl import write_native
from quantprobe.run.folder import RunFolder
from quantprobe.run.results import results_document
from quantprobe.settings import Settings
from quantprobe.sweep import Inputs, TaskInput, TextInput, capture_base, checkpoint, compare_quants
from quantprobe.sweep.unfinished import Unfinished

SETTINGS = Settings(n_ctx=32, n_ubatch=64, n_threads=1, n_gpu_layers=0)


HEADER = "the sum of two and three is five. the capital of peru is lima. "


def questions(n: int) -> list[Question]:
    """Questions with one header; their choices have two to eleven letters."""
    letters = "etaoinshrdlu"
    choices = [(letters[: 2 + k % 4], letters[-11 + k % 5 :], letters[k % 3 : 6]) for k in range(n)]
    return [Question(f"q{k}", f"g{k % 3}", f"{HEADER}{letters[k % 9 :]}", choices[k], k % 3) for k in range(n)]


class Counted(Quiet):
    """Counts the tokens of quants; Ctrl-C (or another end) after `left` of them."""

    def __init__(self, left: float = np.inf, end: type[BaseException] = KeyboardInterrupt) -> None:
        super().__init__()
        self.left = left
        self.n_tokens = 0
        self._end = end

    def advance(self, n: int = 1) -> None:
        if self.labels[-1].startswith("compare"):
            self.n_tokens += n
            self.left -= n
            if self.left <= 0:
                raise self._end


class World:
    def __init__(self, folder: Path, arch: str = "llama") -> None:
        self.folder = folder
        self.base = write_tiny(folder / "base.gguf", arch, n_layer=1)
        self.quant = write_tiny(folder / "quant.gguf", arch, n_layer=1, noise=0.1)
        write_letters(folder / "t.txt", 32 * 60)
        write_native(folder / "q.jsonl", questions(24), "strata")
        inputs = Inputs((TextInput("t", folder / "t.txt"),), (TaskInput("q", folder / "q.jsonl"),))
        self.capture = folder / "base.qpc"
        capture_base(self.base, inputs, SETTINGS, self.capture, Quiet())

    def compare(self, run: str, progress: Quiet, **options: object) -> dict[str, object]:
        out = self.folder / run
        return results_document(compare_quants(self.capture, [self.quant], SETTINGS, out, progress, **options).results)

    def rows(self, run: str) -> dict[str, bytes]:
        """Every array that is kept of the quant, as bytes."""
        folder = RunFolder(self.folder / run)
        found = {}
        for path in (folder.rows("quant", "t"), folder.task_rows("quant", "q")):
            with np.load(path) as arrays:
                found |= {f"{path.name}/{name}": arrays[name].tobytes() for name in arrays.files}
        return found


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("dense"))


@pytest.fixture(scope="module")
def hybrid(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("hybrid"), "falcon-h1")


def stop_at_random(world: World, n_stops: int, n_tokens: int, probe: str) -> int:
    """Interrupt a probe so often, each time after at most `n_tokens`; the tokens that were decoded in all."""
    rng = np.random.default_rng(1)
    n_decoded = 0
    for _ in range(n_stops):
        counted = Counted(left=float(rng.integers(1, n_tokens)))
        with pytest.raises(KeyboardInterrupt):
            world.compare(f"stopped {probe}", counted, probes=[probe])
        n_decoded += counted.n_tokens
    last = Counted()
    assert world.compare(f"stopped {probe}", last, probes=[probe]) == world.compare(
        f"calm {probe}", Counted(), probes=[probe]
    )
    return n_decoded + last.n_tokens


def test_twenty_interruptions_of_a_text_decode_nothing_twice(world: World) -> None:
    calm = Counted()
    world.compare("calm", calm)
    assert stop_at_random(world, 20, 128, "t") == 32 * 60
    assert not list(world.folder.rglob("*.checkpoint"))
    assert stop_at_random(world, 3, 100, "q") < calm.n_tokens - 32 * 60 + 3 * (len(HEADER) + SETTINGS.n_ubatch)


def test_a_task_decodes_a_header_and_what_is_pooled_again_at_most(hybrid: World) -> None:
    calm = Counted()
    hybrid.compare("calm", calm, probes=["q"])
    n_tokens = stop_at_random(hybrid, 4, 100, "q")
    assert calm.n_tokens < n_tokens < calm.n_tokens + 4 * (len(HEADER) + POOL * SETTINGS.n_ubatch)
    kept = [RunFolder(hybrid.folder / run).task_rows("quant", "q") for run in ("calm", "stopped q")]
    with np.load(kept[0]) as calm_rows, np.load(kept[1]) as rows:
        assert all(rows[name].tobytes() == calm_rows[name].tobytes() for name in ("base", "quant", "kld"))


def save_on_time_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is saved when the work ends, as when the process is killed."""
    original = Unfinished.save

    def save(self: Unfinished) -> None:
        if sys.exc_info()[0] is None:
            original(self)

    monkeypatch.setattr(Unfinished, "save", save)


@pytest.mark.parametrize(("seconds", "n_twice"), [(0.0, 0), (1e9, 640)])
def test_a_kill_costs_what_came_since_the_last_checkpoint(
    world: World, seconds: float, n_twice: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    calm = Counted()
    world.compare(f"calm {seconds}", calm)
    monkeypatch.setattr(checkpoint, "CHECKPOINT_SECONDS", seconds)
    run, killed, last = f"killed {seconds}", Counted(left=640, end=SystemExit), Counted()
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        save_on_time_alone(patch)
        world.compare(run, killed)
    world.compare(run, last)
    assert killed.n_tokens + last.n_tokens == calm.n_tokens + n_twice
    assert world.rows(run) == world.rows(f"calm {seconds}")


def damage(files: Sequence[Path]) -> None:
    files[0].write_bytes(files[0].read_bytes()[:-30])


def forget(files: Sequence[Path]) -> None:
    files[0].unlink()


@pytest.mark.parametrize("harm", [damage, forget])
def test_a_damaged_checkpoint_is_decoded_again(
    world: World, harm: Callable[[Sequence[Path]], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "CHECKPOINT_SECONDS", 0.0)
    world.compare("calm", Counted())
    run = harm.__name__
    with pytest.raises(KeyboardInterrupt):
        world.compare(run, Counted(left=640))
    files = sorted((world.folder / run).rglob("*.checkpoint/*.npz"))
    assert len(files) == 10
    harm(files)
    world.compare(run, Counted())
    assert world.rows(run) == world.rows("calm")


def test_a_checkpoint_serves_other_options_too(world: World) -> None:
    """Windows that are whole are kept where another part of the text is asked for."""
    with pytest.raises(KeyboardInterrupt):
        world.compare("precise", Counted(left=1280))
    counted = Counted()
    world.compare("precise", counted, precision=10.0, probes=["t"])
    assert 0 < counted.n_tokens < 20 * 32, "of the first 20 windows in a random order two thirds are there"
    with np.load(RunFolder(world.folder / "precise").rows("quant", "t")) as arrays:
        assert len(set(arrays["windows"].tolist())) > 40


def test_a_disk_that_is_full_does_not_hide_the_interruption(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise InputError("cannot write")

    monkeypatch.setattr("quantprobe.sweep.unfinished.write_arrays", full)
    with pytest.raises(KeyboardInterrupt):
        world.compare("full", Counted(left=640))
