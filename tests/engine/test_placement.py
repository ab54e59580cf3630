"""Where llama.cpp puts the output matrix, over stand-in devices; and what its log lines tell."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from road_cases import Quiet, write_letters
from tiny_gguf import write_tiny

from quantprobe.engine import model as engine_model
from quantprobe.engine.devices import Device
from quantprobe.engine.model import Model
from quantprobe.engine.placement import model_devices, output_devices
from quantprobe.engine.told import told_flash_attn, told_output_device
from quantprobe.errors import EngineError, MismatchError
from quantprobe.gguf.model import read_model_info
from quantprobe.settings import Settings
from quantprobe.sweep import Inputs, TextInput, capture_base, compare_quants

GB = 10**9


def device(name: str, kind: str = "GPU", free: int = 10, backend: str = "CUDA") -> Device:
    return Device(0, name, "", kind, backend, free * GB, free * GB)


CPU = device("CPU", "CPU", 64, "CPU")
ONE = [device("CUDA0"), CPU]
TWO = [device("CUDA0"), device("CUDA1"), CPU]
LAPTOP = [device("Vulkan0", "IGPU", backend="Vulkan"), device("CUDA0"), device("BLAS", "ACCEL", backend="BLAS"), CPU]
MIXED = [device("A0", "IGPU", backend="A"), device("A1", "IGPU", backend="A"), device("B0", "IGPU", backend="B"), CPU]
REMOTE = [device("CUDA0"), device("RPC0", backend="RPC"), CPU]
REMOTE_IGPU = [device("A0", "IGPU", backend="A"), device("RPC0", backend="RPC"), CPU]
UNEVEN = [device("CUDA0", free=99), device("CUDA1", free=1), CPU]
SILENT = [device("X0", free=0), device("X1", free=0), CPU]


@pytest.mark.parametrize(
    ("devices", "settings", "expected"),
    [
        ([CPU], {}, []),
        (TWO, {}, ["CUDA0", "CUDA1"]),
        (TWO, {"n_gpu_layers": 0}, []),
        (TWO, {"split_mode": "none"}, ["CUDA0"]),
        (TWO, {"split_mode": "none", "main_gpu": 1}, ["CUDA1"]),
        (TWO, {"split_mode": "row", "main_gpu": 1}, ["CUDA0", "CUDA1"]),
        (ONE, {"split_mode": "none", "main_gpu": 1}, []),
        (LAPTOP, {}, ["CUDA0"]),
        (MIXED, {}, ["A0", "A1"]),
        (REMOTE, {}, ["RPC0", "CUDA0"]),
        (REMOTE_IGPU, {}, ["RPC0", "A0"]),
    ],
)
def test_devices_of_a_model(devices: list[Device], settings: dict[str, Any], expected: list[str]) -> None:
    assert [each.name for each in model_devices(devices, Settings(**settings))] == expected


@pytest.mark.parametrize(
    ("devices", "settings", "expected"),
    [
        ([CPU], {}, "CPU"),
        (ONE, {}, "CUDA0 CPU"),
        (ONE, {"n_gpu_layers": 32}, "CPU"),  # all layers but the output
        (ONE, {"n_gpu_layers": 33}, "CUDA0 CPU"),
        (TWO, {}, "CUDA1 CUDA0 CPU"),
        (TWO, {"tensor_split": (0, 1)}, "CUDA1 CUDA0 CPU"),
        (TWO, {"tensor_split": (1, 0)}, "CUDA0 CUDA1 CPU"),
        (TWO, {"tensor_split": (3,)}, "CUDA0 CUDA1 CPU"),
        (TWO, {"tensor_split": (31, 1)}, "CUDA1 CUDA0 CPU"),  # the second has the last of 33 layers
        (TWO, {"tensor_split": (33, 1)}, "CUDA0 CUDA1 CPU"),  # the second's part begins behind it
        (TWO, {"n_gpu_layers": 33, "tensor_split": (1, 1)}, "CUDA1 CUDA0 CPU"),
        (UNEVEN, {}, "CUDA0 CUDA1 CPU"),
        (SILENT, {}, "X1 X0 CPU"),
        (TWO, {"split_mode": "none", "main_gpu": 1}, "CUDA1 CPU"),
        (TWO, {"split_mode": "none", "main_gpu": 1, "tensor_split": (1, 0)}, "CUDA1 CPU"),
    ],
)
def test_device_of_the_output(devices: list[Device], settings: dict[str, Any], expected: str) -> None:
    assert " ".join(each.name for each in output_devices(devices, Settings(**settings), 32)) == expected


def test_what_llama_cpp_tells_comes_first() -> None:
    assert [each.name for each in output_devices(TWO, Settings(), 32, "CUDA0")] == ["CUDA0", "CUDA1", "CPU"]
    assert [each.name for each in output_devices(TWO, Settings(), 32, "CPU")] == ["CPU", "CUDA1", "CUDA0"]
    assert [each.name for each in output_devices(TWO, Settings(), 32, "Metal")] == ["CUDA1", "CUDA0", "CPU"]


def test_the_output_is_the_layer_behind_the_last() -> None:
    lines = [
        (1, "load_tensors: layer   1 assigned to device CUDA0, is_swa = 0"),
        (1, "load_tensors: layer   2 assigned to device CUDA1, is_swa = 0"),
        (2, "load_tensors: offloaded 3/3 layers to GPU"),
    ]
    assert told_output_device(2, lines) == "CUDA1"
    assert told_output_device(3, lines) is None


OFF = "Flash Attention not supported, set to disabled"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("resolve_fused_ops: Flash Attention enabled", True),
        (f"resolve_fused_ops: {OFF}", False),
        ("llama_init_from_model: flash_attn is not compatible with Grok - forcing off", False),
        ("llama_init_from_model: enabling flash_attn since it is required for quantized V cache", True),
        ("llama_context: Flash Attention was auto, set to enabled", True),
        ("llama_context: flash_attn            = auto", None),
        ("resolve_fused_ops: fused Gated Delta Net (chunked) enabled", None),
    ],
)
def test_what_flash_attention_resolved_to(line: str, expected: bool | None) -> None:
    assert told_flash_attn([(2, line)]) is expected
    assert told_flash_attn([(2, "llama_context: flash_attn            = auto"), (2, line)]) is expected


def test_llama_cpp_still_tells(tmp_path: Path) -> None:
    """Against the installed library: a new wording is noticed here."""
    info = read_model_info(write_tiny(tmp_path / "m.gguf"))
    for wanted in (True, False):
        with Model(info, Settings(n_ctx=32, n_threads=1, flash_attn=wanted)) as model:
            assert model.flash_attn_used is wanted
            assert model.output_device == "CPU"


def test_a_quant_that_resolves_otherwise_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = read_model_info(write_tiny(tmp_path / "m.gguf"))
    monkeypatch.setattr(engine_model, "told_flash_attn", lambda lines: told_flash_attn([*lines, (3, OFF)]))
    with Model(info, Settings(n_ctx=32, n_threads=1)) as model:
        assert model.flash_attn_used is False
        model.require_flash_attn(False)
        model.require_flash_attn(None)  # a capture that does not tell
        with pytest.raises(MismatchError, match=r"m\.gguf is computed without .* both with --flash-attn off"):
            model.require_flash_attn(True)


def test_a_model_without_a_kernel_is_told_and_held_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The capture says what its logits were made with; a quant that has a kernel is then an error."""
    base = write_tiny(tmp_path / "b.gguf")
    settings, quiet = Settings(n_ctx=32, n_threads=1), Quiet()
    inputs = Inputs((TextInput("t", write_letters(tmp_path / "t.txt", 100)),))
    with monkeypatch.context() as patched:
        patched.setattr(engine_model, "told_flash_attn", lambda lines: told_flash_attn([*lines, (3, OFF)]))
        capture = capture_base(base, inputs, settings, tmp_path / "b.qpc", quiet)
        compare_quants(tmp_path / "b.qpc", [base], settings, tmp_path / "run", quiet)
    assert capture.meta.settings["flash_attn_used"] is False
    assert any("computed without flash attention" in note for note in quiet.notes)
    capture_base(base, inputs, settings, tmp_path / "b.qpc", quiet)  # the same one
    with pytest.raises(MismatchError, match="--flash-attn off"):
        compare_quants(tmp_path / "b.qpc", [base], settings, tmp_path / "run2", quiet)
    off = replace(settings, flash_attn=False)
    compare_quants(tmp_path / "b.qpc", [base], off, tmp_path / "run2", quiet, allow=("flash_attn",))


def test_a_context_that_cannot_be_made_says_why(tmp_path: Path) -> None:
    info = read_model_info(write_tiny(tmp_path / "m.gguf"))
    with pytest.raises(EngineError, match=r"type q8_0 with block size 32 does not divide n_embd_head_v=16"):
        Model(info, Settings(n_ctx=32, n_threads=1, type_v="q8_0"))
