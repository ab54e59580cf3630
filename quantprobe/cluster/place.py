"""Where a cluster is, and the one place that opens a connection to it."""

from __future__ import annotations

import contextlib
import importlib
import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from quantprobe.errors import ClusterError, InputError
from quantprobe.limits import usable_cores

INSTALL = 'pip install "gguf-quantprobe[cluster]"'
LOOPBACK = "127.0.0.1"
CONNECT_SECONDS = 20
_LOCAL = re.compile(r"local:(\d{1,4})")
_ADDRESS = re.compile(r"(?:(?P<scheme>[a-z]+)://)?(?P<host>\[[0-9a-fA-F:]+\]|[^\s:/\[\]]+):(?P<port>\d{1,5})")
_ENCRYPTED = ("tls", "wss")
_SCHEMES = ("tcp", "ws", *_ENCRYPTED)


@dataclass(frozen=True)
class Tls:
    """Dask's own options for encrypted connections: files in PEM form. Raises `InputError` for a file that is not there
    and for a part without the others."""

    ca_file: Path | None = None
    cert: Path | None = None
    key: Path | None = None

    def __post_init__(self) -> None:
        given = [path for path in (self.ca_file, self.cert, self.key) if path is not None]
        if given and len(given) != 3:
            raise InputError("--tls-ca-file, --tls-cert and --tls-key belong together; give all three")
        for path in given:
            if not path.is_file():
                raise InputError(f"{path} does not exist; give a certificate or key in PEM form")

    def security(self) -> Any:
        """What Dask takes; None where nothing is asked for."""
        if self.ca_file is None:
            return None
        files = {"tls_ca_file": str(self.ca_file)}
        for role in ("client", "scheduler", "worker"):
            files |= {f"tls_{role}_cert": str(self.cert), f"tls_{role}_key": str(self.key)}
        return load_library().Security(require_encryption=True, **files)


@dataclass(frozen=True)
class ClusterPlace:
    """A scheduler's address (`tcp://HOST:PORT`, `tls://HOST:PORT`) or `local:N` for N workers on this machine.

    `share` is a folder that every worker can read, as an address that fsspec knows; "" for none. Raises `InputError`
    for anything else.
    """

    address: str
    share: str = ""
    tls: Tls = Tls()

    def __post_init__(self) -> None:
        if self.address.startswith("local:"):
            if not self.n_local:
                raise InputError(f"--cluster {self.address}: expected local:N with N of at least 1")
        else:
            check_address(self.address, self.tls)

    @property
    def n_local(self) -> int:
        """Workers to start here; 0 where a scheduler is there already."""
        match = _LOCAL.fullmatch(self.address)
        return int(match[1]) if match else 0

    @property
    def worker_threads(self) -> int | None:
        """Threads of each worker where nobody says: those of this machine are shared out; others decide themselves."""
        return max(1, usable_cores() // self.n_local) if self.n_local else None


def check_address(address: str, tls: Tls) -> str:
    """The host of a scheduler's address. Raises `InputError` for what is none, and where it does not go with `tls`."""
    match = _ADDRESS.fullmatch(address)
    if match is None or match["scheme"] not in (None, *_SCHEMES) or not 0 < int(match["port"]) < 1 << 16:
        raise InputError(
            f"{address!r} is no address of a scheduler; expected tcp://HOST:PORT, as `dask scheduler` prints it, "
            "or local:N"
        )
    is_encrypted = match["scheme"] in _ENCRYPTED
    if is_encrypted and tls.ca_file is None:
        raise InputError(
            f"{address} is encrypted; give --tls-ca-file, --tls-cert and --tls-key, as its scheduler has them"
        )
    if tls.ca_file is not None and not is_encrypted:
        raise InputError(f"certificates are given and {address} is not encrypted; give the scheduler's tls:// address")
    return match["host"]


def load_library() -> ModuleType:
    """`distributed`. Raises `InputError` with the command that installs it."""
    try:
        return importlib.import_module("distributed")
    except ImportError as error:
        raise InputError(
            f"a cluster needs dask.distributed, which cannot be imported here ({error}); install it with: {INSTALL}"
        ) from error


@contextmanager
def open_client(place: ClusterPlace, env: Mapping[str, str] | None = None) -> Iterator[Any]:
    """A client of the cluster; workers of `local:N` live as long as it does.

    Nothing listens beyond loopback: `local:N` is bound to it, and a client listens nowhere. `env` are variables of
    local workers. Raises `ClusterError` where there is no scheduler.
    """
    distributed = load_library()
    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # what went wrong is told once, by our own errors
    with contextlib.ExitStack() as stack:
        address: Any = place.address
        if place.n_local:
            address = stack.enter_context(
                distributed.LocalCluster(
                    n_workers=place.n_local,
                    threads_per_worker=1,
                    host=LOOPBACK,
                    dashboard_address=None,
                    memory_limit=None,  # mapped models count as memory, and Dask would stop the worker
                    silence_logs=logging.CRITICAL,
                    env=dict(env or {}),
                )
            )
        try:
            client = distributed.Client(address, timeout=CONNECT_SECONDS, security=place.tls.security())
        except (OSError, TimeoutError, ValueError) as error:
            raise ClusterError(
                f"no scheduler answers at {place.address} ({str(error).splitlines()[0]}); "
                "start one with `dask scheduler`, then `quantprobe worker ADDRESS` on each machine"
            ) from error
        yield stack.enter_context(client)
