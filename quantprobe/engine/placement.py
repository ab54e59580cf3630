"""Where llama.cpp puts a model: its rules (`llama_prepare_model_devices`, `load_tensors`) as arithmetic over devices.

The base's output matrix is multiplied again on the device where llama.cpp has it: another one may round otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from quantprobe.engine.devices import Device
from quantprobe.settings import Settings


def model_devices(devices: Sequence[Device], settings: Settings) -> tuple[Device, ...]:
    """The devices that the layers of a model are shared out to, in llama.cpp's order; none: all lie on the CPU.

    RPC servers come first, then GPUs; integrated GPUs, of one backend, only where there is no other. Without a split
    it is `main_gpu` of these alone. llama.cpp also leaves out a second device with the bus address of an earlier one
    (one card under two backends), which is not known here: `output_devices` therefore gives several.
    """
    if settings.n_gpu_layers == 0:
        return ()
    gpus = [device for device in devices if device.kind == "GPU"]
    found = sorted(gpus, key=lambda device: device.backend != "RPC")
    if all(device.backend == "RPC" for device in gpus):
        integrated = [device for device in devices if device.kind == "IGPU"]
        found += [device for device in integrated if device.backend == integrated[0].backend]
    if settings.split_mode == "none":
        return tuple(found[settings.main_gpu : settings.main_gpu + 1])
    return tuple(found)


def output_devices(
    devices: Sequence[Device], settings: Settings, n_layer: int, told: str | None = None
) -> tuple[Device, ...]:
    """The devices where the output matrix may lie, the likeliest first, the CPU last.

    `told` is the name that llama.cpp gave at loading (`Model.output_device`). By rule the output is layer `n_layer` of
    `n_layer + 1`: it lies on the CPU unless all are offloaded, else on the device whose part of the split it falls
    into. Without `tensor_split` the parts are the free memory at loading, which is another one afterwards.
    """
    cpu = next(device for device in devices if device.kind == "CPU")
    used = model_devices(devices, settings)
    likely = [device for device in devices if device.name == told]
    if used and (settings.n_gpu_layers < 0 or settings.n_gpu_layers > n_layer):
        likely += [used[_output_part(_shares(used, cpu, settings.tensor_split), settings.n_gpu_layers, n_layer)], *used]
    return tuple(dict.fromkeys((*likely, cpu)))


def _shares(used: Sequence[Device], cpu: Device, tensor_split: Sequence[float]) -> list[float]:
    given = [*tensor_split, *[0.0] * len(used)][: len(used)]
    if any(given):
        return given
    # a device that tells no memory is taken to have the CPU's
    return [float((cpu if device.memory_total == 0 else device).memory_free) for device in used]


def _output_part(shares: Sequence[float], n_gpu_layers: int, n_layer: int) -> int:
    """The number of the device that the output falls to; in float32, as llama.cpp computes it."""
    ends = np.cumsum(shares, dtype=np.float32)
    if not ends[-1] > 0:
        return 0
    n_offloaded = n_layer + 1 if n_gpu_layers < 0 else min(n_gpu_layers, n_layer + 1)
    position = np.float32(n_offloaded - 1) / np.float32(n_offloaded)
    return min(int(np.searchsorted(ends / ends[-1], position, side="right")), len(shares) - 1)
