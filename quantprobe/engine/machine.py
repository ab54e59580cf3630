"""What a measurement depends on beside its settings: the build, the features of the CPU, the devices that computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from quantprobe.engine import library
from quantprobe.engine.devices import Device, list_devices, system_info
from quantprobe.engine.servers import connect_servers
from quantprobe.settings import Settings

_HARMLESS = {"OPENMP"}
"""How threads wait for each other, not what they compute."""
_GPUS = ("GPU", "IGPU")


@dataclass(frozen=True)
class Machine:
    """The facts of `settings.MACHINE` that are known before a model is loaded."""

    llama_cpp_version: str
    llama_cpp_commit: str | None
    backend: str
    """Backends with a device, joined by `+`; `CPU` where no layer is offloaded."""
    cpu_features: str
    gpu_features: str
    """Of the backends of the GPUs that are used; `none` where none is."""
    devices: tuple[str, ...]
    """Name and description of each device that is used, as llama.cpp writes them."""
    devices_used: tuple[str, ...]
    """What computes, each kind once: descriptions, and `CPU` for every processor."""
    split_used: str
    """How layers or matrices lie on several GPUs, `none` where that moves no logit."""
    overrides_used: str
    """Which tensors lie elsewhere than their layers, `none` where no GPU is used: all lie on the CPU then."""


def describe_machine(settings: Settings) -> Machine:
    """This machine, and the servers of `--rpc`, as a model under these settings uses it; see `connect_servers`."""
    connect_servers(settings)
    seen = list_devices()
    used = used_devices(seen, settings)
    gpus = [device for device in used if device.kind in _GPUS]
    features = feature_sets(system_info())
    return Machine(
        llama_cpp_version=library.llama_cpp_version(),
        llama_cpp_commit=library.llama_cpp_commit(),
        backend="CPU" if settings.n_gpu_layers == 0 else "+".join(dict.fromkeys(device.backend for device in seen)),
        cpu_features=features.get("CPU", ""),
        gpu_features="; ".join(
            f"{backend}: {features[backend]}"
            for backend in dict.fromkeys(device.backend for device in gpus)
            if features.get(backend)
        )
        or "none",
        devices=tuple(f"{device.name}: {device.description}" for device in used),
        devices_used=tuple(dict.fromkeys(_kind_of(device) for device in used)),
        split_used=_split(gpus, settings),
        overrides_used=_overrides(used, settings) if gpus else "none",
    )


def used_devices(seen: Sequence[Device], settings: Settings) -> list[Device]:
    """The devices among `seen` that a model computes on, in llama.cpp's order.

    As llama_prepare_model_devices and llama_context choose: GPUs, integrated ones only where there is no other, without
    those that --tensor-split gives nothing; the CPU and accelerators such as BLAS take part always.
    """
    always = [device for device in seen if device.kind in ("CPU", "ACCEL")]
    if settings.n_gpu_layers == 0:
        return always
    servers = [device for device in seen if device.kind == "GPU" and device.backend == "RPC"]
    gpus = [device for device in seen if device.kind == "GPU" and device.backend != "RPC"]
    gpus = servers + (gpus or [device for device in seen if device.kind == "IGPU"])
    if _split_mode(settings) == "none":
        gpus = gpus[settings.main_gpu : settings.main_gpu + 1]
    elif settings.tensor_split:
        gpus = [gpu for gpu, share in zip(gpus, settings.tensor_split, strict=False) if share > 0]
    return gpus + always


def feature_sets(line: str) -> Mapping[str, str]:
    """By backend, what `llama_print_system_info` tells: `AVX2 FMA SVE_CNT=16`, sorted, without what is switched off.

    A line of older libraries names no backend: it is the CPU's.
    """
    found: dict[str, set[str]] = {}
    backend = "CPU"
    for entry in line.split("|"):
        name, _, value = (part.strip() for part in entry.rpartition("="))
        if " : " in name:
            backend, name = (part.strip() for part in name.split(" : ", 1))
        if name and name not in _HARMLESS and value != "0":
            found.setdefault(backend, set()).add(name if value == "1" else f"{name}={value}")
    return {backend: " ".join(sorted(names)) for backend, names in found.items()}


def _kind_of(device: Device) -> str:
    """CPUs of the same features run the same code, whatever their names; a GPU's name decides its kernels."""
    return device.kind if device.kind == "CPU" else device.description


def _split(gpus: Sequence[Device], settings: Settings) -> str:
    """A layer is the same on each of several equal GPUs; a matrix that is cut is summed in another order."""
    mode = _split_mode(settings)
    alike = len({_kind_of(gpu) for gpu in gpus}) <= 1
    if len(gpus) < 2 or (mode == "layer" and alike):
        return "none"
    shares = ":".join(f"{share:g}" for share in settings.tensor_split) or "by free memory"
    return f"{mode} over {len(gpus)}, {shares}"


def _overrides(used: Sequence[Device], settings: Settings) -> str:
    """The rules in the order in which they count, a device by what computes there: equal GPUs are one."""
    kinds = {device.name: _kind_of(device) for device in used}
    rules = [rule.partition("=") for rule in settings.override_tensor]
    found = [f"{pattern}={kinds.get(device, device)}" for pattern, _, device in rules]
    if settings.n_cpu_moe:
        found.append(f"experts of the first {settings.n_cpu_moe} layers=CPU")
    return "; ".join(found) or "none"


def _split_mode(settings: Settings) -> str:
    return str(getattr(settings, "split_mode", "layer"))
