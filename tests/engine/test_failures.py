"""What fails in the engine is one error with a reason; after an assertion of ggml nothing goes on and nothing hangs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from road_cases import Quiet, write_letters
from tiny_gguf import write_tiny

from quantprobe.engine import head as engine_head
from quantprobe.engine.abi import guarded
from quantprobe.engine.base_rows import open_base_rows
from quantprobe.engine.devices import Device
from quantprobe.engine.failures import engine_errors
from quantprobe.engine.head import Head, fit_head
from quantprobe.engine.model import Context, Model
from quantprobe.engine.plan import Geometry, Step
from quantprobe.engine.runner import probe_blocks, run_blocks
from quantprobe.errors import EngineError, InputError
from quantprobe.gguf.model import HeadSource, read_head_source, read_model_info
from quantprobe.probes.text import TextProbe
from quantprobe.settings import Settings
from quantprobe.sweep import Inputs, TextInput, base_decode, capture_base, compare_quants
from quantprobe.sweep import measuring as sweep_measuring

SETTINGS = Settings(n_ctx=32, n_threads=1)
CPU = Device(0, "CPU", "", "CPU", "CPU", 1, 1)
FULL = Device(0, "GPU0", "", "GPU", "CUDA", 1, 1)
ROUNDING = Device(0, "GPU1", "", "GPU", "CUDA", 1, 1)


class StandInHead(Head):
    """GPU0 has no room; GPU1 rounds the last bit; the CPU is what it is."""

    cpu_has_room = True

    def __init__(self, *args: Any) -> None:
        self.device = args[5]
        if self.device == FULL or (self.device == CPU and not StandInHead.cpu_has_room):
            raise EngineError(
                f"the base's output matrix cannot be used on {self.device.name}: no memory for its 7 bytes"
            )
        super().__init__(*args)

    def compute(self, hidden: Any) -> Any:
        logits = super().compute(hidden)
        return np.nextafter(logits, np.float32(0)) if self.device == ROUNDING else logits


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StandInHead, "cpu_has_room", True)
    monkeypatch.setattr(engine_head, "Head", StandInHead)
    monkeypatch.setattr("quantprobe.engine.base_rows.Head", StandInHead)
    monkeypatch.setattr(base_decode, "Head", StandInHead)


@pytest.fixture
def rows(tmp_path: Path) -> tuple[HeadSource, Any, Any]:
    """A model's head, and hidden rows with the logits that it makes of them."""
    source = read_head_source(write_tiny(tmp_path / "m.gguf"))
    hidden = np.random.default_rng(0).standard_normal((4, 64), dtype=np.float32)
    return source, hidden, Head.of(source, engine_head.Post(), CPU, 1).compute(hidden).copy()


@pytest.mark.parametrize(
    ("devices", "expected", "n_notes"),
    [
        ([FULL, CPU], CPU, 1),
        ([ROUNDING, FULL, CPU], ROUNDING, 1),  # the CPU is for where no other gives a way
        ([ROUNDING, Device(0, "GPU2", "", "GPU", "CUDA", 1, 1), CPU], "GPU2", 0),  # the exact one of several
        ([CPU, ROUNDING], CPU, 0),
    ],
)
def test_the_head_goes_where_it_is_exact_and_has_room(
    stand_in: None, rows: Any, devices: list[Device], expected: Any, n_notes: int
) -> None:
    notes: list[str] = []
    fit = fit_head(rows[0], devices, 1, rows[1], rows[2], 512, notes.append)
    assert fit is not None
    assert fit.device == expected or fit.device.name == expected
    assert fit.exact == (expected is not ROUNDING)
    assert len(notes) == n_notes


def sweep_with(folder: Path, devices: list[Device], monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any, list[str]]:
    for module in (base_decode, sweep_measuring):
        monkeypatch.setattr(module, "output_devices", lambda *_: tuple(devices))
    base = write_tiny(folder / "b.gguf")
    text = TextInput("t", write_letters(folder / "t.txt", 323))
    quiet = Quiet()
    capture = capture_base(base, Inputs((text,)), SETTINGS, folder / "b.qpc", quiet)
    result = compare_quants(folder / "b.qpc", [base], SETTINGS, folder / "run", quiet)
    return capture, result.results.quants[0].texts["t"], quiet.notes


def test_no_room_on_the_gpu_means_the_cpu(stand_in: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    capture, summary, notes = sweep_with(tmp_path, [FULL, CPU], monkeypatch)
    assert (capture.meta.kind, capture.meta.head.device, summary.kld_max) == ("hidden", "CPU", 0.0)
    assert capture.meta.settings["flash_attn_used"] is True
    assert sum("cannot be used on GPU0: no memory" in note for note in notes) == 1, (
        "told once: the CPU is known by then"
    )


def test_no_room_at_all_means_log_probabilities(
    stand_in: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StandInHead, "cpu_has_room", False)
    capture, summary, notes = sweep_with(tmp_path, [FULL, CPU], monkeypatch)
    assert capture.meta.kind == "logprobs" and summary.kld_max < 1e-6
    assert any("no memory" in note for note in notes) and any("16-bit log-probabilities" in note for note in notes)


def test_a_comparison_elsewhere_takes_the_next_device(
    stand_in: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    capture, _, _ = sweep_with(tmp_path, [CPU], monkeypatch)
    notes: list[str] = []
    open_base_rows(capture, [FULL, ROUNDING, CPU], 1, None, 512, notes.append)
    assert notes == [], "the device of the capture comes first"
    monkeypatch.setattr(StandInHead, "cpu_has_room", False)
    with pytest.raises(EngineError, match="cannot be used on CPU: no memory"):
        open_base_rows(capture, [FULL, CPU], 1, None, 512, notes.append)


def test_memory_of_a_head_is_taken_at_once(tmp_path: Path) -> None:
    source = read_head_source(write_tiny(tmp_path / "m.gguf"))
    with pytest.raises(EngineError, match=r"cannot be used on CPU: no memory for .* rows of logits on CPU"):
        Head.of(source, engine_head.Post(), CPU, 1, n_rows=2**45)


@pytest.mark.parametrize("error", [RuntimeError("why"), ValueError("why"), IndexError("why"), TypeError("why")])
def test_errors_of_the_extension_are_translated(error: Exception) -> None:
    with pytest.raises(EngineError, match="no rows: why"), engine_errors("no rows"):
        raise error
    with pytest.raises(EngineError, match="no rows: out of memory"), engine_errors("no rows"):
        raise MemoryError


GEOMETRY = Geometry(n_ctx=64, n_seq=2, n_batch=64, n_ubatch=64, n_outputs=8, unified=True)


def step(**changes: Any) -> Step:
    values = {
        "tokens": np.full(4, 5, np.int32), "pos": np.arange(4, dtype=np.int32), "seq": np.zeros(4, np.int32),
        "n_seq": np.ones(4, np.int32), "output": np.ones(4, np.int8), "row_ids": np.arange(4, dtype=np.int64),
    }  # fmt: skip
    return Step(**{**values, **changes})


WRONG_STEPS = {
    "token": (step(tokens=np.full(4, 259, np.int32)), "token 259 is outside the vocabulary of 259"),
    "copy": (step(copies=((0, 2),)), "sequence 2; n_seq_max is 2"),
    "remove": (step(removes=(-1,)), "sequence -1"),
    "forget": (step(forgets=(7,)), "sequence 7"),
    "arrays": (step(seq=np.zeros(3, np.int32)), "different lengths"),
    "type": (step(output=np.zeros((2, 2), np.int8)), "incompatible function arguments"),
}


@pytest.mark.parametrize("name", WRONG_STEPS)
def test_a_wrong_step_is_an_engine_error(tmp_path: Path, name: str) -> None:
    wrong, message = WRONG_STEPS[name]
    info = read_model_info(write_tiny(tmp_path / "m.gguf"))
    with Model(info, SETTINGS) as model, Context(model, GEOMETRY) as context:
        with pytest.raises(EngineError, match=rf"could not decode a batch of 4 tokens with m\.gguf: (?s:.*){message}"):
            list(run_blocks(context, [wrong]))
        assert len(list(run_blocks(context, [step(clear=True)]))) == 1, "the context is still good"


def test_positions_beyond_those_learned_are_refused(tmp_path: Path) -> None:
    """ggml's assertion would end the process."""
    info = read_model_info(write_tiny(tmp_path / "m.gguf", "gpt2", n_ctx_train=40))
    assert info.n_positions == 40
    probe = TextProbe("t", np.full((1, 64), 5, np.int32), None)
    with Model(info, SETTINGS) as model, pytest.raises(InputError, match=r"for 40 tokens; use --ctx-size 40 or less"):
        list(probe_blocks(model, probe))


ASSERTION = """
import sys
from dataclasses import replace
from pathlib import Path
import numpy as np
from quantprobe.engine.abi import guarded
from quantprobe.engine.devices import list_devices
from quantprobe.engine.head import Head, Post
from quantprobe.engine.model import Context, Model
from quantprobe.engine.plan import Geometry, Step
from quantprobe.engine.runner import run_blocks
from quantprobe.errors import EngineError
from quantprobe.gguf.model import read_head_source, read_model_info
from quantprobe.settings import Settings

path = Path(sys.argv[1])
info = replace(read_model_info(path), n_positions=None)  # as if nobody had checked the positions
settings = Settings(n_ctx=64, n_threads=2)
half = np.repeat([0, 1], 32).astype(np.int32)
pos = np.concatenate([np.arange(40, 72), np.arange(32)]).astype(np.int32)  # the first thread's half is out of range
ones = np.ones(64, np.int32)
step = Step(np.full(64, 5, np.int32), pos, half, ones, ones.astype(np.int8), np.arange(64))

def refused(call):
    try:
        call()
    except EngineError as error:
        print(error, flush=True)

with Model(info, settings) as model:
    with Context(model, Geometry(128, 2, 64, 64, 64, True)) as context:
        head = Head.of(read_head_source(path), Post(), list_devices()[0], 1)
        refused(lambda: list(run_blocks(context, [step])))
        for again in (replace(step, clear=True), replace(step, copies=((0, 1),)), replace(step, removes=(0,))):
            refused(lambda: list(run_blocks(context, [again])))
        refused(lambda: head.compute(np.ones((2, 64), np.float32)))
        refused(lambda: Context(model, Geometry(128, 2, 64, 64, 64, True)))
        refused(lambda: Model(info, settings))
"""


def test_after_an_assertion_everything_is_refused_and_the_process_ends(tmp_path: Path) -> None:
    """An assertion in one of two threads: the other waits at a barrier for ever, so that the next region would hang."""
    path = write_tiny(tmp_path / "m.gguf", "gpt2", n_ctx_train=40)
    done = subprocess.run(
        [sys.executable, "-c", ASSERTION, str(path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    first, *others = done.stdout.splitlines()
    assert "could not decode a batch of 64 tokens with m.gguf" in first and "GGML_ASSERT" in first
    assert len(others) == 6
    assert all("llama.cpp has failed in this process already" in line and "start a new one" in line for line in others)


def test_an_assertion_while_loading_leaves_other_models_usable(tmp_path: Path) -> None:
    broken = write_tiny(tmp_path / "broken.gguf", "olmoe", extra={"olmoe.expert_used_count": 0})
    with pytest.raises(EngineError, match=r"could not load .*broken\.gguf.*GGML_ASSERT"):
        Model(read_model_info(broken), SETTINGS)
    probe = TextProbe("t", np.full((1, 32), 5, np.int32), None)
    with Model(read_model_info(write_tiny(tmp_path / "m.gguf")), SETTINGS) as model:
        assert len(list(probe_blocks(model, probe))) == 1


def test_a_guard_that_is_left_protects_no_longer() -> None:
    with guarded():
        pass
    with guarded(), guarded():
        pass
