"""Addresses of clusters, options of encryption, and what is said where something is missing."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from road_cases import fail

from quantprobe.cluster import place
from quantprobe.cluster.place import ClusterPlace, Tls, check_address, open_client
from quantprobe.cluster.serve import serve
from quantprobe.errors import ClusterError, InputError


@pytest.mark.parametrize(
    ("address", "host"),
    [("tcp://10.0.0.1:8786", "10.0.0.1"), ("ws://big.local:1", "big.local"), ("[::1]:8786", "[::1]"), ("a:9", "a")],
)
def test_addresses(address: str, host: str) -> None:
    assert check_address(address, Tls()) == host
    assert ClusterPlace(address).n_local == 0
    assert ClusterPlace(address).worker_threads is None


@pytest.mark.parametrize("address", ["", "10.0.0.1", "http://a:1", "tcp://a:0", "tcp://a:65536", "tcp://a b:1", "a:b"])
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(InputError, match="is no address of a scheduler"):
        ClusterPlace(address)


@pytest.mark.parametrize("address", ["local:0", "local:", "local:x", "local:-1"])
def test_what_is_no_number_of_workers(address: str) -> None:
    with pytest.raises(InputError, match="expected local:N"):
        ClusterPlace(address)


def test_local_workers_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(place, "usable_cores", lambda: 16)
    assert ClusterPlace("local:4").worker_threads == 4
    assert ClusterPlace("local:40").worker_threads == 1


def test_certificates_come_together(tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    file.write_text("")
    with pytest.raises(InputError, match="belong together"):
        Tls(ca_file=file)
    with pytest.raises(InputError, match=r"key\.pem does not exist"):
        Tls(file, file, tmp_path / "key.pem")
    assert Tls().security() is None


def test_encrypted_addresses_and_certificates_go_together(tmp_path: Path) -> None:
    file = tmp_path / "x.pem"
    file.write_text("")
    tls = Tls(file, file, file)
    assert check_address("tls://a:1", tls) == "a"
    with pytest.raises(InputError, match="give --tls-ca-file"):
        ClusterPlace("tls://a:1")
    for address in ("tcp://a:1", "a:1"):
        with pytest.raises(InputError, match="give the scheduler's tls:// address"):
            ClusterPlace(address, "", tls)


def test_dask_gets_the_certificates(tmp_path: Path) -> None:
    file = tmp_path / "x.pem"
    file.write_text("")
    security = Tls(file, file, file).security()
    assert security.require_encryption
    assert security.tls_ca_file == security.tls_worker_key == str(file)


def test_without_dask_the_command_that_installs_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(place.importlib, "import_module", missing)
    with pytest.raises(InputError, match=r'pip install "gguf-quantprobe\[cluster\]"'):
        place.load_library()


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def test_no_scheduler_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(place, "CONNECT_SECONDS", 0.3)
    with (
        pytest.raises(ClusterError, match="no scheduler answers"),
        open_client(ClusterPlace(f"tcp://127.0.0.1:{free_port()}")),
    ):
        pass


def test_a_worker_does_not_listen_beyond_loopback_unasked(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--host ADDRESS"):
        serve("tcp://10.0.0.1:8786", [], None, None, None, Tls(), print)
    with pytest.raises(InputError, match="is no folder"):
        serve("tcp://127.0.0.1:8786", [tmp_path / "none"], None, None, None, Tls(), print)


def test_options_that_belong_to_a_cluster(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("words")
    common = ["sweep", "base.gguf", "q.gguf", "--text", tmp_path / "t.txt"]
    assert "belong to --cluster" in fail(*common, "--share", "/x")
    assert "belong to --cluster" in fail(*common, "--allow", "backend")
