"""Chats on the main road: conversations as windows, categories in every output, another score is another probe."""

from __future__ import annotations

import csv
import io
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chat_templates import TEMPLATES
from road_cases import fail, results, succeed
from tiny_gguf import write_tiny

from quantprobe.api import open_run
from quantprobe.capture import Capture
from quantprobe.capture.probe_files import decode_text
from quantprobe.engine.quantize import quantize
from quantprobe.engine.recipe import Recipe
from quantprobe.errors import FileFormatError

LETTERS = "etaoinshrdlu"


def write_chats(path: Path, n: int = 12, longest: int = 30) -> Path:
    """Conversations of one to three turns each; every third has no category."""
    rng = random.Random(1)

    def says(role: str) -> dict[str, str]:
        return {"role": role, "content": "".join(rng.choices(LETTERS, k=rng.randint(1, longest)))}

    lines = []
    for i in range(n):
        messages = [says(role) for _ in range(1 + i % 3) for role in ("user", "assistant")]
        lines.append(json.dumps({"messages": messages, **({"category": ["code", "chat"][i % 3]} if i % 3 < 2 else {})}))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


class World:
    def __init__(self, folder: Path) -> None:
        template = TEMPLATES["chatml"].source
        self.folder = folder
        self.base = write_tiny(folder / "base.gguf", vocab="bpe", head_type="F16", chat_template=template)
        self.quant = write_tiny(folder / "q.gguf", vocab="bpe", weight_type="Q8_0", chat_template=template)
        self.chats = write_chats(folder / "talk.jsonl")
        self.run = folder / "run"

    def sweep(self, *more: object, chats: Path | None = None, n_ctx: int = 512) -> Any:
        return succeed(
            "sweep", self.base, self.quant, "--text", f"talk={chats or self.chats}", "-c", n_ctx, "-t", 1, "-o",
            self.run, *more,
        )  # fmt: skip


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def n_said(path: Path) -> list[int]:
    """Tokens that the assistant says in each conversation: a letter each, and the end of each turn."""
    chats = [json.loads(line)["messages"] for line in path.read_text(encoding="utf-8").splitlines()]
    return [sum(len(m["content"]) + 1 for m in chat if m["role"] == "assistant") for chat in chats]


def test_the_main_road(world: World) -> None:
    output = world.sweep("--details").stdout
    found = results(world.run)
    said = n_said(world.chats)
    [text] = [quant["texts"]["talk"] for quant in found["quants"]]
    assert text["n_rows"] == sum(said)
    assert text["kld_mean"]["n_clusters"] == len(said)
    assert found["texts"]["talk"]["score"] == found["settings"]["score"] == "assistant"
    assert found["texts"]["talk"]["n_read"] == len(said) and found["texts"]["talk"]["n_turns"] == 0
    null = found["null_control"]["texts"]["talk"]
    assert null["kld_max"] == 0 and 0 < null["kld_mean"]["n"] < sum(said)  # one block in eight
    parts = text["by_category"]
    assert {name: part["n_rows"] for name, part in parts.items()} == {
        "(none)": sum(said[2::3]), "chat": sum(said[1::3]), "code": sum(said[0::3])
    }  # fmt: skip
    assert {part["kld_mean"]["n_clusters"] for part in parts.values()} == {len(said) // 3}
    for name in ("kld_mean", "same_top", "ln_ppl_ratio"):
        whole = sum(part[name]["value"] * part["n_rows"] for part in parts.values()) / text["n_rows"]
        assert whole == pytest.approx(text[name]["value"], rel=1e-9)
    assert max(part["kld_max"] for part in parts.values()) == text["kld_max"] > 0
    table = (world.run / "results_categories.csv").read_text(encoding="utf-8")
    lines = list(csv.DictReader(io.StringIO(table)))
    assert [line["category"] for line in lines] == sorted(parts)
    assert float(lines[2]["kld_mean"]) == parts["code"]["kld_mean"]["value"]
    assert "talk by category" in output and "the assistant's tokens" in output
    page = (world.run / "report" / "report.html").read_text(encoding="utf-8")
    assert 'id="heat-talk"' in page and 'class="heat-7"' in page and 'id="categories-talk"' in page
    markdown = (world.run / "results.md").read_text(encoding="utf-8")
    assert "talk by category" in markdown
    found_by = {(number.measure, number.category): number.value for number in open_run(world.run).numbers()}
    assert found_by["kld_mean", "chat"] == parts["chat"]["kld_mean"]["value"]
    assert found_by["kld_mean", ""] == text["kld_mean"]["value"]


def test_the_same_again_decodes_nothing(world: World) -> None:
    world.sweep()
    before = (world.run / "results.json").read_bytes()
    again = world.sweep()
    assert "1 of 1 measurements are already" in again.stderr
    assert (world.run / "results.json").read_bytes() == before


def test_another_score_is_another_probe(world: World) -> None:
    world.sweep()
    first = results(world.run)
    output = world.sweep("--score", "all")
    assert "talk has changed" in output.stderr
    second = results(world.run)
    assert second["texts"]["talk"]["score"] == "all"
    assert second["quants"][0]["texts"]["talk"]["n_rows"] > first["quants"][0]["texts"]["talk"]["n_rows"]


def test_what_is_cut_is_told_and_counted(world: World) -> None:
    chats = write_chats(world.folder / "long.jsonl", longest=60)
    output = world.sweep(chats=chats, n_ctx=120)
    cut = results(world.run)["texts"]["talk"]
    assert cut["n_shortened"] > 0 and cut["n_left_out"] > 0 and cut["longest"] > 120
    assert f"of 12 conversations {cut['n_shortened']} lost {cut['n_turns']} turn" in output.stderr
    assert f"{cut['n_left_out']} are left out" in output.stderr and "--ctx-size" in output.stderr
    capture = Capture.open(next(world.run.glob("base*.qpc")))
    probe = capture.text_probe("talk")
    assert probe.n_windows == 12 - cut["n_left_out"]
    assert probe.n_ctx <= 120
    assert np.array_equal(probe.targets()[-1:], [258])  # every window ends with the end of a turn


def test_plain_texts_beside_chats(world: World) -> None:
    plain = world.folder / "plain.txt"
    plain.write_text("".join(random.Random(0).choices(LETTERS, k=300)), encoding="utf-8")
    world.sweep("--text", f"plain={plain}", n_ctx=64)
    found = results(world.run)
    texts = found["quants"][0]["texts"]
    assert "by_category" not in texts["plain"] and "plain" not in found["texts"]
    assert texts["plain"]["n_rows"] == 4 * 31
    alone = succeed("sweep", world.base, world.quant, "--text", f"plain={plain}", "-c", 64, "-t", 1, "-o",
                    world.folder / "alone")  # fmt: skip
    assert alone.exit_code == 0
    assert results(world.folder / "alone")["quants"][0]["texts"]["plain"] == texts["plain"]


def test_errors(world: World, tmp_path: Path) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"messages": [{"role": "user", "content": "a"}]}\n{"messages": 1}\n', encoding="utf-8")
    arguments = ["sweep", world.base, world.quant, "-t", 1, "-o", world.run]
    assert "bad.jsonl, line 2: 'messages' must be a list" in fail(*arguments, "--text", bad)
    bare = write_tiny(tmp_path / "bare.gguf", vocab="bpe")
    words = fail("sweep", bare, world.quant, "-t", 1, "-o", world.run, "--text", world.chats)
    assert "bare.gguf has no chat template; 'talk' is a file of chats" in words
    succeed("capture", world.base, "--text", world.chats, "-t", 1, "-o", tmp_path / "b.qpc")
    assert "holds conversations" in fail("kld", "export", tmp_path / "b.qpc", tmp_path / "b.kld")
    assert "assistant" in fail(*arguments, "--text", world.chats, "--score", "some")


def test_damaged_probe_files(world: World, tmp_path: Path) -> None:
    succeed("capture", world.base, "--text", world.chats, "-t", 1, "-o", tmp_path / "b.qpc")
    capture = Capture.open(tmp_path / "b.qpc")
    entry = capture.entry("talk")
    path = tmp_path / "b.qpc" / entry.probe.name
    data = path.read_bytes()
    header, _, tokens = data.partition(b"\n")
    assert decode_text(data, entry, "here").sha256() == entry.sha256
    for change in (
        {"lengths": [1]}, {"lengths": [3, 4]}, {"lengths": "x"}, {"scored": [[[0, 1]]]}, {"scored": 3}, {"cut": 3},
        {"categories": []}, {"cut": {"nobody": 1}}, {"lengths": [2**40]},
    ):  # fmt: skip
        record = json.loads(header)
        record["own"] |= change
        with pytest.raises(FileFormatError, match="here is not the probe"):
            decode_text(json.dumps(record).encode() + b"\n" + tokens, entry, "here")


@pytest.mark.model
def test_smollm2(smollm2: Path, tmp_path: Path) -> None:
    """The real template and tokenizer: a quant of the file moves what the assistant says, the file itself nothing."""
    chats = tmp_path / "chats.jsonl"
    lines = [
        {"category": "code", "messages": [
            {"role": "user", "content": "Write a Python function that adds two numbers."},
            {"role": "assistant", "content": "def add(a, b):\n    return a + b"}]},
        {"category": "chat", "messages": [
            {"role": "system", "content": "You are kind."}, {"role": "user", "content": "Good morning!"},
            {"role": "assistant", "content": "Good morning! How can I help you today?"},
            {"role": "user", "content": "Tell me a fact about the sea."},
            {"role": "assistant", "content": "The sea covers more than two thirds of the Earth."}]},
    ]  # fmt: skip
    chats.write_text("\n".join(json.dumps(line) for line in lines), encoding="utf-8")
    quant = tmp_path / "q2.gguf"
    quantize(smollm2, quant, Recipe("Q2_K", allow_requantize=True))
    succeed("sweep", smollm2, quant, "--text", chats, "-o", tmp_path / "run")
    found = results(tmp_path / "run")
    text = found["quants"][0]["texts"]["chats"]
    assert found["null_control"]["texts"]["chats"]["kld_max"] == 0
    assert list(text["by_category"]) == ["chat", "code"]
    assert text["n_rows"] == sum(part["n_rows"] for part in text["by_category"].values())
    assert 0.02 < text["kld_mean"]["value"] < 5
    capture = Capture.open(next((tmp_path / "run").glob("*.qpc")))
    assert capture.text_probe("chats").n_rows == text["n_rows"]
