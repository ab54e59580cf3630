"""Which tensors lie elsewhere than llama.cpp would put them: `--override-tensor` and `--n-cpu-moe`.

As llama-cli's options of these names (common/arg.cpp): the first rule that a tensor's name matches counts, those of
`--override-tensor` before those of `--n-cpu-moe`. llama.cpp passes over a rule that matches nothing; here it is
refused, since the run would be recorded with a placement that it does not have.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

from quantprobe import _native
from quantprobe.engine.devices import Device, list_devices
from quantprobe.engine.machine import used_devices
from quantprobe.errors import InputError
from quantprobe.gguf.model import ModelInfo
from quantprobe.gguf.parts import read_parts
from quantprobe.settings import Settings

EXPERTS = r"\.ffn_(up|down|gate|gate_up)_(ch|)exps"
"""llama.cpp's LLM_FFN_EXPS_REGEX (common/common.h)."""
OUTPUTS = ("output.weight", "token_embd.weight")
"""The output matrix: the first of these that a model has."""


class _Rule(ctypes.Structure):
    """llama_model_tensor_buft_override."""

    _fields_ = (("pattern", ctypes.c_char_p), ("buffer_type", ctypes.c_void_p))


@dataclass(frozen=True)
class Overrides:
    """The rules of one model, checked."""

    rules: ctypes.Array[_Rule] | None
    """What `llama_model_params.tensor_buft_overrides` points to, ended by an empty rule; None without rules."""
    output_device: str | None = None
    """The device that a rule gives the output matrix; None where none does."""


def tensor_overrides(info: ModelInfo, settings: Settings) -> Overrides:
    """The rules of `settings` for a model, in llama.cpp's form.

    Raises `InputError` for an expression that std::regex does not take, for a device that the model does not use
    (ggml would abort), and for a rule that matches no tensor of the model.
    """
    if not settings.override_tensor and not settings.n_cpu_moe:
        return Overrides(None)
    names = [name for part in read_parts(info.path) for name in part.tensors]
    places = _places(used_devices(list_devices(), settings))
    written = [_parse(rule, places, info, names) for rule in settings.override_tensor]
    written += _expert_rules(settings.n_cpu_moe, places, info, names)
    rules = (_Rule * (len(written) + 1))()
    for rule, (pattern, (_, buffer_type)) in zip(rules, written, strict=False):
        rule.pattern, rule.buffer_type = pattern.encode("utf-8"), buffer_type
    output = next(name for name in OUTPUTS if name in names)
    devices = [device for pattern, (device, _) in written if _native.matches(pattern, [output])[0]]
    return Overrides(rules, devices[0] if devices else None)


_Place = tuple[str, int]
"""A device's name and the address of its buffer type."""


def _places(used: Sequence[Device]) -> dict[str, _Place]:
    """By the names that llama.cpp's option takes, those of buffer types, and by the devices' own."""
    types = _native.buffer_types()
    found: dict[str, _Place] = {}
    for device in sorted(used, key=lambda each: each.kind == "ACCEL"):  # an accelerator's memory is the CPU's
        name, address = types[device.index]
        if address:
            for key in (name, device.name):
                found.setdefault(key, (device.name, address))
    return found


def _parse(rule: str, places: dict[str, _Place], info: ModelInfo, names: list[str]) -> tuple[str, _Place]:
    pattern, _, device = rule.partition("=")
    try:
        matched = any(_native.matches(pattern, names))
    except ValueError as error:
        raise InputError(
            f"--override-tensor {rule}: {pattern!r} is not a regular expression ({error}); a comma ends a rule"
        ) from error
    if device not in places:
        raise InputError(
            f"--override-tensor {rule}: the model does not use a device {device}; it uses {', '.join(places)}"
        )
    if not matched:
        raise InputError(
            f"--override-tensor {rule}: {pattern!r} matches no tensor of {info.path.name}, whose names are like "
            f"{', '.join(names[-3:])}"
        )
    return pattern, places[device]


def _expert_rules(n: int, places: dict[str, _Place], info: ModelInfo, names: list[str]) -> list[tuple[str, _Place]]:
    patterns = [rf"blk\.{layer}{EXPERTS}" for layer in range(min(n, info.n_layer))]
    if n and not any(any(_native.matches(pattern, names)) for pattern in patterns):
        raise InputError(
            f"--n-cpu-moe {n}: the first {n} layers of {info.path.name} have no experts "
            f"({info.architecture}, {info.n_layer} layers); leave it out"
        )
    return [(pattern, places["CPU"]) for pattern in patterns]
