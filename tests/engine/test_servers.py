"""`--rpc`: what is told before anything is loaded, where servers or llama.cpp's backend for them are missing."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_gguf import write_tiny

from quantprobe import _native
from quantprobe.engine import servers
from quantprobe.engine.machine import describe_machine
from quantprobe.engine.model import Model
from quantprobe.engine.servers import connect_servers
from quantprobe.errors import EngineError, InputError
from quantprobe.gguf.model import read_model_info
from quantprobe.settings import Settings


@pytest.fixture
def added(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """llama.cpp with an RPC backend that takes every server, as far as it is asked."""
    found: list[str] = []
    monkeypatch.setattr(servers, "_connected", set())
    monkeypatch.setattr(_native, "has_backend", lambda name: name == "RPC")
    monkeypatch.setattr(_native, "add_rpc_server", found.append)
    return found


@pytest.fixture
def port() -> Iterator[int]:
    """Of a server that takes connections."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.mark.skipif(_native.has_backend("RPC"), reason="this llama.cpp has the RPC backend")
def test_a_llama_cpp_without_the_backend(tmp_path: Path) -> None:
    settings = Settings(rpc=("localhost:50052",), n_threads=1)
    with pytest.raises(InputError, match=r"built without its RPC backend; rebuild it with -DGGML_RPC=on"):
        Model(read_model_info(write_tiny(tmp_path / "m.gguf")), settings)
    with pytest.raises(InputError, match="built without its RPC backend"):
        describe_machine(settings)
    with pytest.raises(RuntimeError, match="built without its RPC backend"):
        _native.add_rpc_server("localhost:50052")
    connect_servers(Settings(rpc=("localhost:50052",), n_gpu_layers=0))  # no server takes part


def test_servers_are_added_once_and_in_order(added: list[str], port: int) -> None:
    addresses = (f"localhost:{port}", f"127.0.0.1:{port}")
    connect_servers(Settings(rpc=addresses[:1]))
    connect_servers(Settings(rpc=addresses))
    assert added == list(addresses)


def test_a_server_that_is_not_there_is_told_before_any_is_used(added: list[str], port: int) -> None:
    missing = closed_port()
    with pytest.raises(InputError, match=f"--rpc 127.0.0.1:{missing}: nothing takes a connection there"):
        connect_servers(Settings(rpc=(f"127.0.0.1:{port}", f"127.0.0.1:{missing}")))
    assert added == []
    with pytest.raises(InputError, match=r"--rpc no\.such\.host\.invalid:50052: nothing takes a connection"):
        connect_servers(Settings(rpc=("no.such.host.invalid:50052",)))


def test_what_llama_cpp_says_of_a_server(added: list[str], port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(address: str) -> None:
        raise RuntimeError("RPC handshake failed")

    monkeypatch.setattr(_native, "add_rpc_server", refuse)
    with pytest.raises(EngineError, match=r"llama\.cpp cannot use this server: RPC handshake failed"):
        connect_servers(Settings(rpc=(f"127.0.0.1:{port}",)))
