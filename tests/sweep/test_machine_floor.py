"""A capture that comes from another machine: the base is decoded here, and the distance is told."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from road_cases import Quiet, fail, results, succeed, write_letters
from tiny_gguf import write_tiny

from quantprobe.api import open_run
from quantprobe.capture import Capture
from quantprobe.capture.meta_file import META_FILE, dump_meta
from quantprobe.errors import EngineError
from quantprobe.report.notes import null_sentences
from quantprobe.run.cohort import read_cohort
from quantprobe.settings import MACHINE
from quantprobe.sweep import captured_settings, compare_quants, inputs, machine_floor


@dataclass
class Moved:
    """A capture whose recorded machine can be changed, and a quant to compare with it."""

    base: Path
    quant: Path
    capture: Path
    run: Path

    def change(self, **changes: Any) -> None:
        """Change recorded facts; None removes one, `base` is the identity of the base."""
        meta = Capture.open(self.capture).meta
        base = changes.pop("base", meta.base)
        settings = {**meta.settings, **changes}
        settings = {name: value for name, value in settings.items() if value is not None}
        (self.capture / META_FILE).write_bytes(dump_meta(replace(meta, base=base, settings=settings), complete=True))

    def replace_base(self, **options: Any) -> None:
        """Another base behind the capture, as if this machine computed other logits: rows stay what they were."""
        write_tiny(self.base, head_type="F16", **options)
        self.change(base=inputs.identify(inputs.read_measurable(self.base), Quiet()).identity())

    def compare(self, *arguments: object) -> list[object]:
        return ["compare", self.capture, self.quant, "-t", 1, "-o", self.run, *arguments]

    def notes(self, **options: Any) -> list[str]:
        told = Quiet()
        compare_quants(self.capture, [self.quant], captured_settings(self.capture, {}), self.run, told, **options)
        return told.notes


@pytest.fixture
def moved(tmp_path: Path) -> Moved:
    base, quant = write_tiny(tmp_path / "base.gguf", head_type="F16"), write_tiny(tmp_path / "q.gguf", noise=0.05)
    text = write_letters(tmp_path / "t.txt")
    succeed("capture", base, "--text", f"t={text}", "-c", 32, "-t", 1, "-o", tmp_path / "base.qpc", "--embed-head")
    return Moved(base, quant, tmp_path / "base.qpc", tmp_path / "run")


def count_loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    loaded: list[str] = []
    original = inputs.load_model

    def load(info: Any, *arguments: Any) -> Any:
        loaded.append(info.name)
        return original(info, *arguments)

    monkeypatch.setattr(machine_floor, "load_model", load)
    return loaded


def test_the_machine_of_the_capture_decodes_no_base(moved: Moved, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = count_loads(monkeypatch)
    succeed(*moved.compare())
    assert loaded == [] and "machine_floor" not in results(moved.run)


def test_other_features_are_refused_with_the_number_that_they_move(moved: Moved) -> None:
    moved.change(cpu_features="AVX")
    message = fail(*moved.compare())
    assert "cpu_features differ: nothing in the first alone, " in message and "--allow cpu_features" in message
    assert "the base decoded here has a KLD of exactly 0 to its captured rows (180 rows of t)" in message
    assert not (moved.run / "results.json").exists()


def test_an_allowed_machine_comes_with_its_floor(moved: Moved, monkeypatch: pytest.MonkeyPatch) -> None:
    moved.change(devices_used=["H200", "CPU"], llama_cpp_commit="abcdef0")
    moved.replace_base(noise=1e-3)
    allow = ("--allow", "devices_used", "--allow", "llama_cpp_commit")
    succeed(*moved.compare(*allow))
    floor = results(moved.run)["machine_floor"]
    assert 0 < floor["kld_mean"] < floor["kld_max"] < 1e-3
    assert (floor["probe"], floor["n_rows"], len(floor["differences"])) == ("t", 180, 2)
    cohort = read_cohort([moved.run])
    assert cohort.floor("t") == floor["kld_mean"]
    sentence = null_sentences(cohort)[-1]
    assert "devices_used is ['H200', 'CPU'] and ['CPU']" in sentence
    assert "this machine's rows of the base differ from the capture's by a KLD of at most 0.000" in sentence
    assert open_run(moved.run).cohort.machine_floors == cohort.machine_floors

    loaded = count_loads(monkeypatch)
    told = moved.notes(allow=("devices_used", "llama_cpp_commit"))
    assert loaded == [] and results(moved.run)["machine_floor"] == floor  # the same machine is measured once
    assert [note for note in told if "differs from its captured rows by a mean KLD of" in note]
    moved.replace_base(noise=1e-2)
    succeed(*moved.compare(*allow))
    assert loaded == ["base"] and results(moved.run)["machine_floor"]["kld_mean"] > floor["kld_mean"]


def test_a_head_that_computes_otherwise_here_is_seen(moved: Moved) -> None:
    """The rows are the capture's, and the output matrix that multiplies them is another one than the base's here."""
    moved.change(cpu_features="AVX")
    moved.replace_base(seed=1)
    message = fail(*moved.compare())
    assert "the base decoded here differs from its captured rows by a mean KLD of" in message


def test_without_the_base_there_is_no_floor(moved: Moved) -> None:
    moved.change(cpu_features="AVX")
    moved.base.unlink()
    assert "by as much as a good quant does (cpu_features" in fail(*moved.compare())
    succeed(*moved.compare("--allow", "cpu_features"))
    assert "machine_floor" not in results(moved.run)


def test_another_file_in_the_place_of_the_base_is_not_decoded(moved: Moved, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = count_loads(monkeypatch)
    moved.change(cpu_features="AVX")
    write_tiny(moved.base, head_type="F16", seed=5)
    succeed(*moved.compare("--allow", "cpu_features"))
    assert loaded == [] and "machine_floor" not in results(moved.run)


def test_a_base_that_cannot_be_decoded_here_stops_nothing(moved: Moved, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any) -> Any:
        raise EngineError("no room for 140 GB")

    monkeypatch.setattr(machine_floor, "load_model", refuse)
    moved.change(cpu_features="AVX")
    told = moved.notes(allow=("cpu_features",))
    assert any("the floor of this machine is not known" in note and "no room for 140 GB" in note for note in told)


def test_a_capture_of_an_older_version_stays_usable(moved: Moved, monkeypatch: pytest.MonkeyPatch) -> None:
    """It holds the version and the backend, and tells nothing else of its machine."""
    new = set(MACHINE) - {"llama_cpp_version", "backend"}
    moved.change(**dict.fromkeys(new))
    assert set(MACHINE) & set(Capture.open(moved.capture).meta.settings) == {"llama_cpp_version", "backend"}
    loaded = count_loads(monkeypatch)
    told = moved.notes()
    asked = new - {"flash_attn_used"}  # which only a context tells
    (note,) = [note for note in told if "does not tell" in note]
    assert all(name in note for name in asked) and loaded == []
    succeed(*moved.compare("--base-model", moved.base))
    assert loaded == ["base"]
    assert null_sentences(read_cohort([moved.run]))[-1] == (
        "The capture does not tell the machine that it was made on: this machine's rows of the base have a KLD of "
        "exactly 0 to the capture's (180 rows of t)."
    )


def test_what_the_base_made_of_flash_attention_is_recorded_of_the_quants(
    moved: Moved, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = count_loads(monkeypatch)
    moved.change(flash_attn_used=True)
    succeed(*moved.compare())
    assert results(moved.run)["settings"]["flash_attn_used"] is True and loaded == []


def test_refused_settings_decode_no_base(moved: Moved, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = count_loads(monkeypatch)
    moved.change(cpu_features="AVX")
    assert "type_k is f16 and f32" in fail(*moved.compare("-ctk", "f32"))
    assert loaded == []


def test_an_imported_base_file_gets_a_floor_where_its_base_is_given(moved: Moved, tmp_path: Path) -> None:
    """Its rows are 16-bit log-probabilities: the base differs from them by their rounding."""
    succeed("kld", "export", moved.capture, tmp_path / "base.kld")
    succeed("kld", "import", tmp_path / "base.kld", "--model", moved.base, "--out", tmp_path / "imported.qpc")
    moved.capture = tmp_path / "imported.qpc"
    succeed(*moved.compare())
    assert "machine_floor" not in results(moved.run)
    succeed(*moved.compare("--base-model", moved.base))
    floor = results(moved.run)["machine_floor"]
    assert (floor["n_rows"], floor["differences"]) == (180, [])
    assert 0 < abs(floor["kld_mean"]) < 1e-5
