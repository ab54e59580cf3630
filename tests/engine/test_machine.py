"""Which devices compute, and what is recorded of them and of the build."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from quantprobe.engine import machine
from quantprobe.engine.devices import Device, list_devices
from quantprobe.engine.machine import describe_machine, feature_sets, used_devices
from quantprobe.settings import MACHINE, Settings, moves_logits
from quantprobe.sweep.recorded import record_settings


def device(name: str, description: str, kind: str, backend: str) -> Device:
    return Device(0, name, description, kind, backend, 0, 0)


CPU = device("CPU", "Xeon", "CPU", "CPU")
BLAS = device("BLAS", "OpenBLAS", "ACCEL", "BLAS")
SMALL, SECOND = (device(f"CUDA{i}", "RTX 3060", "GPU", "CUDA") for i in (0, 1))
LARGE = device("CUDA2", "H200", "GPU", "CUDA")
INTEGRATED = device("Vulkan0", "UHD 770", "IGPU", "Vulkan")
REMOTE = device("RPC0", "10.0.0.1:50052", "GPU", "RPC")


@pytest.mark.parametrize(
    ("seen", "settings", "used"),
    [
        ([SMALL, BLAS, CPU], Settings(n_gpu_layers=0), [BLAS, CPU]),
        ([SMALL, BLAS, CPU], Settings(), [SMALL, BLAS, CPU]),
        ([SMALL, INTEGRATED, CPU], Settings(n_gpu_layers=3), [SMALL, CPU]),
        ([INTEGRATED, CPU], Settings(), [INTEGRATED, CPU]),
        ([SMALL, LARGE, CPU], Settings(tensor_split=(0.0, 1.0)), [LARGE, CPU]),
        ([SMALL, LARGE, CPU], Settings(tensor_split=(3.0,)), [SMALL, CPU]),
        ([INTEGRATED, REMOTE, CPU], Settings(), [REMOTE, INTEGRATED, CPU]),
        ([CPU], Settings(), [CPU]),
    ],
)
def test_devices_that_compute(seen: Sequence[Device], settings: Settings, used: Sequence[Device]) -> None:
    assert used_devices(seen, settings) == list(used)


def test_one_gpu_alone_where_nothing_is_split(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_split_mode", lambda settings: "none")
    assert used_devices([SMALL, LARGE, CPU], Settings(main_gpu=1)) == [LARGE, CPU]


@pytest.mark.parametrize(
    ("mode", "seen", "shares", "split"),
    [
        ("layer", [SMALL, CPU], (), "none"),
        ("layer", [SMALL, SECOND, CPU], (3.0, 1.0), "none"),
        ("layer", [SMALL, LARGE, CPU], (3.0, 1.0), "layer over 2, 3:1"),
        ("layer", [SMALL, LARGE, CPU], (), "layer over 2, by free memory"),
        ("row", [SMALL, SECOND, CPU], (), "row over 2, by free memory"),
        ("none", [SMALL, LARGE, CPU], (), "none"),
    ],
)
def test_the_split_is_told_where_it_moves_logits(
    mode: str, seen: list[Device], shares: tuple[float, ...], split: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "_split_mode", lambda settings: mode)
    monkeypatch.setattr(machine, "list_devices", lambda: seen)
    assert describe_machine(Settings(tensor_split=shares)).split_used == split


def test_what_is_told_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "list_devices", lambda: [SMALL, SECOND, CPU])
    monkeypatch.setattr(
        machine, "system_info", lambda: "CUDA : ARCHS = 860 | FORCE_MMQ = 1 | CPU : FMA = 1 | AVX2 = 1 | "
    )
    found = describe_machine(Settings())
    assert found.devices == ("CUDA0: RTX 3060", "CUDA1: RTX 3060", "CPU: Xeon")
    assert found.devices_used == ("RTX 3060", "CPU")
    assert (found.cpu_features, found.gpu_features) == ("AVX2 FMA", "CUDA: ARCHS=860 FORCE_MMQ")
    without = describe_machine(Settings(n_gpu_layers=0))
    assert (without.devices, without.devices_used) == (("CPU: Xeon",), ("CPU",))
    assert (without.backend, without.gpu_features) == ("CPU", "none")


@pytest.mark.parametrize(
    ("line", "features"),
    [
        ("CPU : SSE3 = 1 | AVX = 1 | OPENMP = 1 | ", {"CPU": "AVX SSE3"}),
        ("CPU : AVX = 1 | SSE3 = 1 | REPACK = 0 | ", {"CPU": "AVX SSE3"}),
        (
            "MTL : EMBED_LIBRARY = 1 | CPU : NEON = 1 | SVE_CNT = 16 | ",
            {"MTL": "EMBED_LIBRARY", "CPU": "NEON SVE_CNT=16"},
        ),
        ("AVX = 1 | AVX2 = 0 | FMA = 1 |", {"CPU": "AVX FMA"}),
        ("", {}),
    ],
)
def test_features_whatever_their_order(line: str, features: dict[str, str]) -> None:
    assert feature_sets(line) == features


def test_the_record_of_this_machine_has_every_fact() -> None:
    recorded = record_settings(Settings(n_gpu_layers=0))
    assert set(MACHINE) <= set(recorded) and all(moves_logits(name) for name in MACHINE)
    assert recorded["cpu_features"] and "CPU" in recorded["devices_used"]
    assert len(recorded["devices"]) == len([d for d in list_devices() if d.kind in ("CPU", "ACCEL")])
    assert record_settings(Settings(n_threads=3)) | {"n_threads": 1} == record_settings(Settings(n_threads=1))


def test_flash_attention_is_what_the_context_made_of_it() -> None:
    assert record_settings(Settings())["flash_attn_used"] is None
    assert record_settings(Settings(), flash_attn_used=False)["flash_attn_used"] is False
    assert record_settings(Settings(flash_attn=False))["flash_attn_used"] is False
