"""Settings: declared once, checked, recorded, and known by whether they move logits."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

import pytest

from quantprobe.errors import InputError
from quantprobe.settings import FACTS, SETTINGS, Settings, margin_of, moves_logits

MOVING = {"n_ctx", "n_gpu_layers", "flash_attn", "type_k", "type_v", "n_parallel"}
"""Rows measured before are found again by a digest over these: a change here makes every run measure anew."""


def test_every_field_is_declared_with_a_default_that_can_be_written() -> None:
    assert list(SETTINGS) == [field.name for field in fields(Settings)]
    for setting in SETTINGS.values():
        setting.check(setting.default)
        assert setting.help and (setting.default_text or setting.default == ())
        if not setting.is_off_switch and not setting.unset and setting.default_text:
            assert setting.read(setting.default_text) == setting.default


def test_what_moves_logits() -> None:
    assert {name for name in SETTINGS if moves_logits(name)} == MOVING
    assert moves_logits("backend") and moves_logits("llama_cpp_version") and moves_logits("n_ubatch_used")
    for name in ("devices", "quantprobe_version", "equivalence_margin", "margin", "settings_changed"):
        assert not moves_logits(name)
    assert moves_logits("a setting of a later version")
    assert not set(SETTINGS) & set(FACTS)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"n_ctx": 3}, "n_ctx is 3; expected a whole number of at least 4"),
        ({"n_ctx": "512"}, "n_ctx is '512'; expected a whole number"),
        ({"n_batch": 0}, "n_batch is 0"),
        ({"n_ubatch": True}, "n_ubatch is True"),
        ({"n_threads": 0}, "n_threads is 0"),
        ({"n_parallel": 257}, "n_parallel is 257; expected a whole number from 1 to 256"),
        ({"n_gpu_layers": -2}, "n_gpu_layers is -2; expected a number of layers or 'all'"),
        ({"tensor_split": (0.0, 0.0)}, "one of them above 0"),
        ({"tensor_split": ["3", "1"]}, "expected numbers of at least 0"),
        ({"tensor_split": (1.0, float("nan"))}, "expected numbers of at least 0"),
        ({"override_tensor": ("exps",)}, "expected REGEX=DEVICE"),
        ({"override_tensor": ["exps=CPU"]}, "expected REGEX=DEVICE"),
        ({"n_cpu_moe": -1}, "n_cpu_moe is -1; expected a whole number of at least 0"),
        ({"flash_attn": 1}, "flash_attn is 1; expected on or off"),
        ({"type_k": "q8_1"}, "type_k is 'q8_1'; expected one of f32, f16, bf16"),
        ({"type_v": "q8_0", "flash_attn": False}, r"a quantized V cache \(q8_0\) needs --flash-attn on"),
    ],
)
def test_values_that_a_setting_does_not_take(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Settings(**values)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("n_ctx", "1024", 1024),
        ("n_gpu_layers", "ALL", -1),
        ("n_gpu_layers", "0", 0),
        ("tensor_split", "3/1", (3.0, 1.0)),
        ("override_tensor", "exps=CPU,output=CUDA0", ("exps=CPU", "output=CUDA0")),
        ("rpc", "box:50052,10.0.0.2:50052", ("box:50052", "10.0.0.2:50052")),
        ("rpc", "none", ()),
        ("flash_attn", "off", False),
        ("type_k", "iq4_nl", "iq4_nl"),
    ],
)
def test_text_becomes_a_value(name: str, text: str, value: object) -> None:
    assert SETTINGS[name].read(text) == value


@pytest.mark.parametrize(
    ("name", "text"),
    [("n_ctx", "3"), ("n_ctx", "x"), ("n_parallel", "300"), ("n_gpu_layers", "-2"), ("n_gpu_layers", "many"),
     ("tensor_split", "3,x"), ("tensor_split", "0,0"), ("tensor_split", ""),
     ("override_tensor", "exps"), ("override_tensor", "a=CPU,=CPU"), ("override_tensor", "a="),
     ("rpc", "box"), ("rpc", "box:0"), ("rpc", "box:x"), ("rpc", "a:1,,b:2"), ("rpc", "http://box:1"),
     ("flash_attn", "yes"), ("type_v", "F16")],
)  # fmt: skip
def test_text_that_is_no_value_says_what_was_expected(name: str, text: str) -> None:
    with pytest.raises(ValueError, match=SETTINGS[name].kind.expected.replace("'", ".")):
        SETTINGS[name].read(text)


def test_recorded_settings_come_back() -> None:
    settings = Settings(n_ctx=64, n_threads=3, tensor_split=(3.0, 1.0), flash_attn=False, use_mmap=False, n_parallel=4)
    recorded = json.loads(json.dumps(settings.to_dict()))
    assert recorded["tensor_split"] == [3.0, 1.0]
    assert Settings.of({**recorded, "backend": "CPU", "texts": {}}) == settings
    assert Settings.of({"n_ctx": 64}) == Settings(n_ctx=64)


@pytest.mark.parametrize(
    ("recorded", "margin"),
    [
        ({"equivalence_margin": 0.02, "margin": 0.5}, 0.02),
        ({"margin": 0.005}, 0.005),
        ({}, None),
        ({"margin": None}, None),
    ],
)
def test_the_margin_of_a_run(recorded: dict[str, Any], margin: float | None) -> None:
    assert margin_of(recorded) == margin
