"""Calibrated on what is measured: a planted overlap is found, told, kept, and not computed again."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import pytest
from road_cases import Quiet, fail, results, succeed
from tiny_gguf import write_tiny

pytest.importorskip("quantprobe._native", reason="the native extension is not built")

from quantprobe.gguf.model import ImatrixInfo
from quantprobe.probes.items import Question
from quantprobe.probes.questions.jsonl import write_native
from quantprobe.report.notes import overlap_warnings
from quantprobe.run.cohort import read_cohort
from quantprobe.run.folder import RunFolder
from quantprobe.run.results import CalibrationOverlap, read_results, write_results
from quantprobe.settings import Settings
from quantprobe.sweep import Inputs, TaskInput, TextInput, calibration, sweep

SETTINGS = Settings(n_ctx=64, n_threads=1, n_gpu_layers=0)
N_WORDS = 60


def sentences(seed: int, n_words: int) -> list[str]:
    rng = random.Random(seed)
    return ["".join(rng.choices("etaoinshrdlu", k=rng.randint(2, 4))) for _ in range(n_words)]


class World:
    """A text of which 20 words in a row stand in `calib.txt`, and a quant whose matrix names that file."""

    def __init__(self, folder: Path) -> None:
        self.base = write_tiny(folder / "base.gguf", n_layer=1)
        self.calibration = folder / "calib.txt"
        matrix = {
            "quantize.imatrix.file": ("a.gguf", gguf.GGUFValueType.STRING),
            "quantize.imatrix.dataset": (str(self.calibration), gguf.GGUFValueType.STRING),
        }
        self.quant = write_tiny(folder / "q.gguf", n_layer=1, noise=0.01, extra={k: v[0] for k, v in matrix.items()})
        words = sentences(0, N_WORDS)
        self.text = folder / "t.txt"
        self.text.write_text(" ".join(words), encoding="utf-8", newline="\n")
        planted = " ".join(sentences(1, 50) + [word.upper() + "," for word in words[10:30]] + sentences(2, 50))
        self.planted = planted
        self.run = folder / "run"

    def measure(self, *files: Path, tasks: tuple[TaskInput, ...] = ()) -> list[CalibrationOverlap]:
        given = Inputs((TextInput("t", self.text),), tasks)
        outcome = sweep(self.base, [self.quant], given, SETTINGS, self.run, Quiet(), calibration=files)
        return list(outcome.results.overlaps)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_the_file_that_a_quant_names_is_compared_by_itself(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    assert world.measure() == []
    assert "overlaps" not in results(world.run)
    world.calibration.write_text(world.planted, encoding="utf-8")
    (found,) = world.measure()
    assert (found.dataset, found.probe, found.n) == ("calib.txt", "t", 13)
    # the tail behind the last whole window is not measured
    assert N_WORDS - 20 < found.n_words <= N_WORDS + 1
    assert found.n_covered == 20
    assert found.example == " ".join(sentences(0, N_WORDS)[10:23])
    (warning,) = overlap_warnings(read_cohort([world.run]))
    assert "the calibration text calib.txt" in warning and "q look better there" in warning

    def refuse(*arguments: Any) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr(calibration, "overlap", refuse)
    assert world.measure() == [found]
    world.calibration.unlink()  # without the file it stays
    assert world.measure() == [found]
    assert overlap_warnings(read_cohort([world.run])) == [warning]


def test_a_file_is_given_by_name(world: World, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "calib.txt").write_text(world.planted, encoding="utf-8")
    other = elsewhere / "other.txt"
    other.write_text(world.planted, encoding="utf-8")
    found = world.measure(elsewhere / "calib.txt", other)
    assert [(one.dataset, one.n_covered) for one in found] == [("calib.txt", 20), ("other.txt", 20)]
    first, second = overlap_warnings(read_cohort([world.run]))
    assert "q look better there" in first
    assert "no quant here says it was made with it" in second


def test_without_overlap_nothing_is_said(world: World) -> None:
    world.calibration.write_text(" ".join(sentences(5, 500)), encoding="utf-8")
    (found,) = world.measure()
    assert (found.n_covered, found.share) == (0, 0.0)
    assert overlap_warnings(read_cohort([world.run])) == []


def test_another_text_or_calibration_is_compared_anew(world: World) -> None:
    world.calibration.write_text(world.planted, encoding="utf-8")
    (first,) = world.measure()
    world.calibration.write_text("nothing in common", encoding="utf-8")
    (second,) = world.measure()
    assert (first.n_covered, second.n_covered) == (20, 0)
    world.calibration.write_text(world.planted, encoding="utf-8")
    world.text.write_text(" ".join(sentences(7, N_WORDS)), encoding="utf-8")
    (third,) = world.measure()
    assert third.n_covered == 0
    assert third.probe_sha256 != second.probe_sha256


def test_questions_are_compared_too(world: World, tmp_path: Path) -> None:
    prompt = " ".join(sentences(3, 14))
    questions = [Question(f"q{k}", "", f"{prompt} {k}", (" yes", " no"), 0) for k in range(4)]
    write_native(tmp_path / "asked.jsonl", questions, "none")
    world.calibration.write_text(prompt, encoding="utf-8")
    found = world.measure(tasks=(TaskInput("asked", tmp_path / "asked.jsonl"),))
    of_task = next(one for one in found if one.probe == "asked")
    assert of_task.n_covered == 4 * 14
    assert of_task.share > 0.7


def test_report_adds_what_it_finds_to_the_run(world: World, tmp_path: Path) -> None:
    world.measure()
    world.calibration.write_text(world.planted, encoding="utf-8")
    copy = tmp_path / "calib.txt"
    succeed("report", world.run, "--no-study", "--calibration", copy)
    assert "Calibrated on what is measured" in (world.run / "report" / "report.html").read_text(encoding="utf-8")
    assert [one["n_covered"] for one in results(world.run)["overlaps"]] == [20]
    copy.unlink()
    succeed("report", world.run, "--no-study")
    assert "Calibrated on what is measured" in (world.run / "report" / "report.html").read_text(encoding="utf-8")


def test_a_run_without_a_capture_says_where_to_give_the_file(world: World, tmp_path: Path) -> None:
    world.measure()
    world.calibration.write_text(world.planted, encoding="utf-8")
    found = read_results(world.run)
    other = RunFolder(tmp_path / "other")
    write_results(found, other)
    message = fail("report", other.path, "--no-study", "--calibration", world.calibration)
    assert "give --calibration to the command that measures" in message


@pytest.mark.parametrize(
    ("recorded", "is_its"), [("C:\\texts\\calib.txt", True), ("a/calib.txt", True), ("b.txt", False)]
)
def test_datasets_are_known_by_the_files_own_name(world: World, recorded: str, is_its: bool) -> None:
    world.calibration.write_text(world.planted, encoding="utf-8")
    world.measure()
    found = read_results(world.run)
    quants = tuple(replace(quant, imatrix=ImatrixInfo(dataset=recorded)) for quant in found.quants)
    write_results(replace(found, quants=quants), RunFolder(world.run))
    (warning,) = overlap_warnings(read_cohort([world.run]))
    assert ("q look better" in warning) == is_its
