"""Other machines that hold a part of a model: `--rpc`, through llama.cpp's own RPC backend, where it was built."""

from __future__ import annotations

import socket

from quantprobe import _native
from quantprobe.engine.failures import engine_errors
from quantprobe.engine.library import version_text
from quantprobe.errors import InputError
from quantprobe.settings import Settings

TIMEOUT_SECONDS = 5.0
"""For a server to take a connection."""
_connected: set[str] = set()
"""Of this process: llama.cpp keeps the devices of a server to its end."""


def connect_servers(settings: Settings) -> None:
    """Add the devices of the servers of `settings.rpc` to llama.cpp's; nothing for those that are there already.

    Without layers on a GPU no server takes part. Raises `InputError`, before anything is loaded, where this llama.cpp
    has no RPC backend and for a server that cannot be reached, and `EngineError` where another program answers:
    llama.cpp itself would end the process.
    """
    new = [address for address in settings.rpc if address not in _connected]
    if not new or settings.n_gpu_layers == 0:
        return
    if not _native.has_backend("RPC"):
        raise InputError(
            f"--rpc {','.join(settings.rpc)}: {version_text()} was built without its RPC backend; rebuild it with "
            '-DGGML_RPC=on in CMAKE_ARGS (CMAKE_ARGS="-DGGML_RPC=on" python -m pip install --no-cache-dir '
            "--force-reinstall --no-deps llama-cpp-python), or give --rpc none"
        )
    for address in new:
        _require_open(address)
    for address in new:
        with engine_errors(f"--rpc {address}: llama.cpp cannot use this server"):
            _native.add_rpc_server(address)
        _connected.add(address)


def _require_open(address: str) -> None:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), TIMEOUT_SECONDS).close()
    except OSError as error:
        raise InputError(
            f"--rpc {address}: nothing takes a connection there ({error}); start llama.cpp's rpc-server on that "
            f"machine (rpc-server --host 0.0.0.0 --port {port}), or give --rpc none"
        ) from error
