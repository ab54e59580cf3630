"""A Dask worker that fits quantprobe: one job at a time, no memory limit of Dask's, started anew if it dies."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from quantprobe.cluster.place import CONNECT_SECONDS, LOOPBACK, Tls, check_address, load_library
from quantprobe.cluster.store import MODELS, SCRATCH
from quantprobe.errors import ClusterError, InputError

_HERE = {LOOPBACK, "localhost", "[::1]", "::1"}


def serve(
    address: str,
    models: Sequence[Path],
    scratch: Path | None,
    host: str | None,
    name: str | None,
    tls: Tls,
    on_note: Callable[[str], None],
) -> None:
    """Work for the scheduler at `address` until it or the user ends it.

    The worker listens on `host`, on loopback where that is None. Raises `InputError` for a scheduler on another machine
    without `host`, and for a folder that is not there; `ClusterError` if there is no scheduler.
    """
    scheduler_host = check_address(address, tls)
    if host is None and scheduler_host not in _HERE:
        raise InputError(
            f"the scheduler is on another machine ({scheduler_host}), which must reach this worker; "
            "say on which address of this machine it listens: --host ADDRESS"
        )
    for folder in models:
        if not folder.is_dir():
            raise InputError(f"--models {folder} is no folder; give one with GGUF files")
    os.environ.setdefault("DASK_LOGGING__DISTRIBUTED", "error")  # of the process that measures; read when Dask starts
    env = {MODELS: os.pathsep.join(str(folder.absolute()) for folder in models)}
    if scratch is not None:
        env[SCRATCH] = str(scratch.absolute())
    distributed = load_library()
    logging.getLogger("distributed").setLevel(logging.ERROR)

    async def run() -> None:
        nanny = distributed.Nanny(
            address,
            nthreads=1,
            host=host or LOOPBACK,
            name=name,
            memory_limit=None,  # mapped models count as memory, and Dask would stop the worker
            security=tls.security(),
            env=env,
            death_timeout=CONNECT_SECONDS,
        )
        async with nanny:
            on_note(f"working for {address} at {nanny.worker_address}; Ctrl-C ends it")
            await nanny.finished()
        on_note("the scheduler ended")

    try:
        asyncio.run(run())
    except (OSError, TimeoutError) as error:
        raise ClusterError(
            f"no scheduler answers at {address} ({str(error).splitlines()[0] if str(error) else 'no answer in time'}); "
            "start one with `dask scheduler`"
        ) from error
