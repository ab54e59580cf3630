"""Tensors on another device than their layer: which rules reach llama.cpp, and which are refused beforehand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_gguf import write_tiny

from quantprobe.engine import machine, overrides
from quantprobe.engine import model as engine_model
from quantprobe.engine.devices import Device
from quantprobe.engine.machine import describe_machine
from quantprobe.engine.model import Model
from quantprobe.engine.overrides import tensor_overrides
from quantprobe.engine.runner import probe_blocks
from quantprobe.engine.told import LogLine, told_output_device
from quantprobe.errors import InputError
from quantprobe.gguf.model import read_model_info
from quantprobe.probes.text import TextProbe
from quantprobe.settings import Settings

DEVICES = [Device(0, "CUDA0", "RTX 3060", "GPU", "CUDA", 0, 0), Device(1, "CPU", "Xeon", "CPU", "CPU", 0, 0)]


@pytest.fixture(scope="module")
def experts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("m") / "experts.gguf", "olmoe", "bpe")


def logits(path: Path, **chosen: Any) -> np.ndarray[Any, Any]:
    probe = TextProbe("t", np.random.default_rng(0).integers(3, 259, (2, 32), dtype=np.int32), None)
    with Model(read_model_info(path), Settings(n_ctx=32, n_threads=1, **chosen)) as model:
        return np.concatenate([block.logits.copy() for block in probe_blocks(model, probe)])


@pytest.mark.parametrize(
    ("chosen", "moved"),
    [
        ({"override_tensor": ("ffn_up_exps=CPU", "attn_q=CPU")}, {"ffn_up_exps", "attn_q", "attn_q_norm"}),
        ({"n_cpu_moe": 1}, {"ffn_up_exps", "ffn_gate_exps", "ffn_down_exps"}),
    ],
)
def test_llama_cpp_takes_the_rules_and_logits_stay(
    chosen: dict[str, Any], moved: set[str], experts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []

    def listen(n_layer: int, lines: list[LogLine]) -> str | None:
        told.extend(text for _, text in lines if "buffer type overridden to CPU" in text)
        return told_output_device(n_layer, lines)

    monkeypatch.setattr(engine_model, "told_output_device", listen)
    again = logits(experts, **chosen)
    names = [line.split("tensor ")[1].split()[0] for line in told]
    assert {name.split(".")[2] for name in names} == moved
    layers = {name.split(".")[1] for name in names}
    assert layers == ({"0"} if "n_cpu_moe" in chosen else {"0", "1"})
    monkeypatch.undo()
    np.testing.assert_array_equal(again, logits(experts))


def test_rules_come_in_the_order_in_which_they_count(experts: Path) -> None:
    settings = Settings(override_tensor=("output=CPU", "blk=CPU"), n_cpu_moe=99)
    found = tensor_overrides(read_model_info(experts), settings)
    assert found.rules is not None and found.output_device == "CPU"
    assert [rule.pattern for rule in found.rules] == [
        b"output", b"blk", rb"blk\.0\.ffn_(up|down|gate|gate_up)_(ch|)exps",
        rb"blk\.1\.ffn_(up|down|gate|gate_up)_(ch|)exps", None,
    ]  # fmt: skip
    assert len({rule.buffer_type for rule in found.rules}) == 2 and found.rules[4].buffer_type is None
    assert tensor_overrides(read_model_info(experts), Settings()).rules is None


def test_the_output_matrix_is_where_a_rule_puts_it(experts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overrides, "list_devices", lambda: DEVICES)
    monkeypatch.setattr(overrides._native, "buffer_types", lambda: [("CUDA0", 16), ("CPU", 32)])
    for rules, device in (
        (("^output=CUDA0", "output=CPU"), "CUDA0"), (("exps=CPU", "output.weight=CPU"), "CPU"), (("exps=CPU",), None)
    ):  # fmt: skip
        assert tensor_overrides(read_model_info(experts), Settings(override_tensor=rules)).output_device == device


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"override_tensor": ("exps=CUDA7",)}, "does not use a device CUDA7; it uses CPU"),
        ({"override_tensor": ("exps=CPU", "ffn_(up=CPU")}, r"'ffn_\(up' is not a regular expression"),
        ({"override_tensor": ("ffn_up_exp$=CPU",)}, "matches no tensor of experts.gguf, whose names are like"),
    ],
)
def test_rules_that_cannot_be_meant(chosen: dict[str, Any], message: str, experts: Path) -> None:
    with pytest.raises(InputError, match=message):
        Model(read_model_info(experts), Settings(n_threads=1, **chosen))


def test_experts_of_a_model_without_any(tmp_path: Path) -> None:
    dense = read_model_info(write_tiny(tmp_path / "dense.gguf"))
    with pytest.raises(InputError, match=r"the first 3 layers of dense.gguf have no experts \(llama, 2 layers\)"):
        Model(dense, Settings(n_threads=1, n_cpu_moe=3))


def test_what_is_recorded_is_what_the_rules_come_to(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(override_tensor=("a=CPU", "b=CUDA0"), n_cpu_moe=2)
    monkeypatch.setattr(machine, "list_devices", lambda: DEVICES)
    found = "a=CPU; b=RTX 3060; experts of the first 2 layers=CPU"
    assert describe_machine(settings).overrides_used == found
    assert describe_machine(Settings()).overrides_used == "none"
    monkeypatch.setattr(machine, "list_devices", lambda: DEVICES[1:])
    assert describe_machine(settings).overrides_used == "none"
