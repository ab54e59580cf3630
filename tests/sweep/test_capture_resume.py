"""A base that is interrupted inside a text or a task gives the capture that it would have given."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from capture_cases import flip_byte
from capture_runs import SETTINGS, Counting, digests, text_and_task
from road_cases import Quiet, write_letters
from tiny_archs import ARCHS
from tiny_gguf import write_tiny

from quantprobe.capture import Capture
from quantprobe.settings import Settings
from quantprobe.sweep import Inputs, base_decode, capture_base, checkpoint


class Stopped(Exception):
    """The end of a process that nobody told; what was not saved is lost."""


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> Counting:
    return Counting(monkeypatch)


@pytest.mark.parametrize("probe", ["text", "task"])
@pytest.mark.parametrize("arch", [*ARCHS, "logprobs"])
def test_interrupted_at_every_block(tmp_path: Path, counting: Counting, arch: str, probe: str) -> None:
    """The same files, bit for bit, and no block is decoded twice."""
    kind = "logprobs" if arch == "logprobs" else None
    arch = "llama" if kind else arch
    base = write_tiny(tmp_path / "b.gguf", arch, head_type="F16", n_layer=ARCHS[arch].n_least)
    inputs = text_and_task(tmp_path)[probe]
    capture_base(base, inputs, SETTINGS, tmp_path / "whole.qpc", Quiet(), kind=kind)
    n_blocks, n_tokens = counting.n_blocks, counting.n_tokens
    assert n_blocks >= 3
    whole = digests(tmp_path / "whole.qpc")
    for n in range(n_blocks):
        out = tmp_path / f"{n}.qpc"
        counting.left, counting.n_blocks, counting.n_tokens = n, 0, 0
        with pytest.raises(KeyboardInterrupt):
            capture_base(base, inputs, SETTINGS, out, Quiet(), kind=kind)
        assert not out.exists()
        counting.left = None
        quiet = Quiet()
        capture_base(base, inputs, SETTINGS, out, quiet, kind=kind)
        assert counting.n_blocks == n_blocks
        assert n_tokens <= counting.n_tokens < 2 * n_tokens  # a header is decoded again
        assert any("are there already" in note for note in quiet.notes) == (n > 0)
        assert digests(out) == whole


def test_interrupted_again_and_again(tmp_path: Path, counting: Counting) -> None:
    base = write_tiny(tmp_path / "b.gguf", head_type="F16", n_layer=1)
    both = text_and_task(tmp_path)
    inputs = Inputs(both["text"].texts, both["task"].tasks)
    capture_base(base, inputs, SETTINGS, tmp_path / "whole.qpc", Quiet())
    n_blocks, counting.n_blocks = counting.n_blocks, 0
    for _ in range(n_blocks - 1):
        counting.left = 1
        with pytest.raises(KeyboardInterrupt):
            capture_base(base, inputs, SETTINGS, tmp_path / "b.qpc", Quiet())
    counting.left = None
    capture_base(base, inputs, SETTINGS, tmp_path / "b.qpc", Quiet())
    assert counting.n_blocks == n_blocks
    assert digests(tmp_path / "b.qpc") == digests(tmp_path / "whole.qpc")


def kill_after(n: int, base: Path, inputs: Inputs, out: Path, counting: Counting, patch: pytest.MonkeyPatch) -> None:
    """A process that vanishes after `n` blocks and had saved at each of them but the last."""
    counting.left, counting.error = n, Stopped
    patch.setattr(checkpoint, "CHECKPOINT_SECONDS", 0.0)
    saved = 0
    original = base_decode.RowWriter.checkpoint

    def save(self: Any, state: Any) -> None:
        nonlocal saved
        saved += 1
        if saved < n:
            original(self, state)

    patch.setattr(base_decode.RowWriter, "checkpoint", save)
    with pytest.raises(Stopped):
        capture_base(base, inputs, SETTINGS, out, Quiet())
    counting.left = None


@pytest.mark.parametrize("damage", ["none", "first", "last", "short", "gone", "checkpoint"])
def test_what_a_loss_of_power_tore_is_decoded_again(
    tmp_path: Path, counting: Counting, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    """Rows of the checkpoint are believed only where their bytes are in the file."""
    base = write_tiny(tmp_path / "b.gguf", head_type="F16", n_layer=1)
    inputs = text_and_task(tmp_path)["text"]
    capture_base(base, inputs, SETTINGS, tmp_path / "whole.qpc", Quiet())
    n_blocks, out = counting.n_blocks, tmp_path / "b.qpc"
    assert n_blocks == 5
    with monkeypatch.context() as patch:
        kill_after(4, base, inputs, out, counting, patch)
    rows = tmp_path / "b.qpc.partial" / "00-t.rows"
    block = rows.stat().st_size // 4  # three of the four are in the checkpoint
    if damage == "first":
        flip_byte(rows, 7)
    elif damage == "last":
        flip_byte(rows, 3 * block - 1)
    elif damage == "short":
        rows.write_bytes(rows.read_bytes()[: 2 * block])
    elif damage == "gone":
        rows.unlink()
    elif damage == "checkpoint":
        flip_byte(rows.with_suffix(".checkpoint"), 200)
    counting.n_blocks = 0
    capture_base(base, inputs, SETTINGS, out, Quiet())
    left = {"none": 2, "first": 5, "last": 3, "short": 3, "gone": 5, "checkpoint": 5}[damage]
    assert counting.n_blocks - (left == 5) in (left, left - 1)
    assert digests(out) == digests(tmp_path / "whole.qpc")


def test_another_text_does_not_go_on_from_the_checkpoint(tmp_path: Path, counting: Counting) -> None:
    base = write_tiny(tmp_path / "b.gguf", head_type="F16", n_layer=1)
    inputs = text_and_task(tmp_path)["text"]
    counting.left = 3
    with pytest.raises(KeyboardInterrupt):
        capture_base(base, inputs, SETTINGS, tmp_path / "b.qpc", Quiet())
    counting.left, counting.n_blocks = None, 0
    write_letters(tmp_path / "t.txt", 32 * 5 + 3, seed=9)
    capture_base(base, inputs, SETTINGS, tmp_path / "b.qpc", Quiet())
    assert counting.n_blocks == 5
    capture_base(base, inputs, SETTINGS, tmp_path / "whole.qpc", Quiet())
    assert digests(tmp_path / "b.qpc") == digests(tmp_path / "whole.qpc")


def test_a_probe_that_was_begun_waits_for_its_turn(tmp_path: Path, counting: Counting) -> None:
    """A run over something else, finished in between, does not cost what was decoded."""
    base = write_tiny(tmp_path / "b.gguf", head_type="F16", n_layer=1)
    both, out = text_and_task(tmp_path), tmp_path / "b.qpc"
    counting.left = 3
    with pytest.raises(KeyboardInterrupt):
        capture_base(base, both["text"], SETTINGS, out, Quiet())
    counting.left = None
    capture_base(base, both["task"], SETTINGS, out, Quiet())
    assert (out / "00-t.checkpoint").is_file()
    counting.n_blocks = 0
    capture = capture_base(base, both["text"], SETTINGS, out, Quiet())
    assert counting.n_blocks == 5 - 3
    assert [entry.name for entry in capture.meta.probes] == ["q", "t"]
    capture.verify()
    assert not (out / "00-t.checkpoint").exists()


def test_saving_takes_place_by_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: now)
    clock = checkpoint.Clock()
    assert not clock.is_due()
    now += checkpoint.CHECKPOINT_SECONDS
    assert clock.is_due()
    assert not clock.is_due()


@pytest.mark.model
def test_the_real_model_goes_on_to_the_same_bits(tmp_path: Path, smollm2: Path, counting: Counting) -> None:
    settings = Settings(n_ctx=32, n_ubatch=64, n_threads=1, n_gpu_layers=0)
    both = text_and_task(tmp_path, n_letters=200, n_questions=2)
    inputs = Inputs(both["text"].texts, both["task"].tasks)
    whole = capture_base(smollm2, inputs, settings, tmp_path / "whole.qpc", Quiet())
    n_blocks = counting.n_blocks
    for n in (n_blocks // 2,):
        out = tmp_path / f"{n}.qpc"
        counting.left, counting.n_blocks = n, 0
        with pytest.raises(KeyboardInterrupt):
            capture_base(smollm2, inputs, settings, out, Quiet())
        counting.left = None
        capture_base(smollm2, inputs, settings, out, Quiet())
        assert counting.n_blocks == n_blocks
        assert digests(out) == digests(whole.path)
    for entry in Capture.open(whole.path).meta.probes:
        assert json.loads(json.dumps(entry.null_control))["kld_max"] == 0.0
