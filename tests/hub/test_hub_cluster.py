"""Models of the hub are fetched by the workers that measure them, and deleted there."""

from __future__ import annotations

from pathlib import Path

import pytest
from hub_server import Hub
from road_cases import results, succeed
from tiny_gguf import write_tiny

distributed = pytest.importorskip("distributed", reason="dask.distributed is not installed")
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")  # Dask's own sockets


def test_workers_fetch_and_delete(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUANTPROBE_SCRATCH", str(tmp_path / "scratch"))
    made = tmp_path / "made"
    made.mkdir()
    base = write_tiny(tmp_path / "tiny-F32.gguf")
    for kind, split in (("Q8_0", 0), ("Q4_0", 2), ("Q5_0", 0)):
        write_tiny(made / f"tiny-{kind}.gguf", weight_type=kind, split=split)
    hub.repository("me/tiny-GGUF", {path.name: path.read_bytes() for path in sorted(made.iterdir())})
    (tmp_path / "t.txt").write_text("letters and " * 40)
    common = [base, "hf://me/tiny-GGUF", "--keep", "none", "-c", 32, "-t", 1, "--text", tmp_path / "t.txt"]
    succeed("sweep", *common, "-o", tmp_path / "alone")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=False, protocol="tcp", host="127.0.0.1", dashboard_address=None,
        silence_logs=50,
    ) as cluster:  # fmt: skip
        done = succeed("sweep", *common, "-o", tmp_path / "many", "--cluster", cluster.scheduler_address)
    assert "fetched one at a time" in done.stderr
    assert results(tmp_path / "many")["quants"] == results(tmp_path / "alone")["quants"]
    assert not list((tmp_path / "cache").rglob("*.gguf"))
    succeed("sweep", *common, "-o", tmp_path / "many", "--cluster", "tcp://127.0.0.1:1")  # nothing is left to ask for
