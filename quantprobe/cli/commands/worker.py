"""quantprobe worker: lend this machine to sweeps that run elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from quantprobe.cli.shared.cluster_options import tls_options
from quantprobe.cli.shared.options import PathType

if TYPE_CHECKING:
    from quantprobe.cluster.place import Tls


@click.command()
@click.argument("address")
@click.option(
    "--models",
    type=PathType(),
    multiple=True,
    metavar="FOLDER",
    help="Folder with models that lie on this machine; may be given more than once.",
)
@click.option(
    "--scratch",
    type=PathType(),
    help="Folder for files that are sent here and for work in progress.  [default: quantprobe's cache]",
)
@click.option(
    "--host",
    help="This machine's own address, on which the scheduler reaches the worker.  [default: 127.0.0.1, for a "
    "scheduler on this machine]",
)
@click.option("--name", help="What the scheduler calls this worker.  [default: its address]")
@tls_options
def worker(
    address: str, models: Sequence[Path], scratch: Path | None, host: str | None, name: str | None, tls: Tls
) -> None:
    """Measure for sweeps on other machines, until Ctrl-C.

    ADDRESS is that of a Dask scheduler, as `dask scheduler` prints it; `quantprobe sweep --cluster ADDRESS` uses all
    workers of it. Start one worker for each GPU, or one for a machine without. Whoever reaches the scheduler can run
    code on its workers: keep it in a network that you trust, or use the --tls options.

    \b
    Examples:
      dask scheduler --host 127.0.0.1
      quantprobe worker tcp://127.0.0.1:8786 --models /data/gguf
      quantprobe worker tcp://10.0.0.1:8786 --host 10.0.0.2 --models /data/gguf
    """
    from quantprobe.cli.shared.progress import open_progress
    from quantprobe.cluster.serve import serve

    with open_progress() as progress:
        serve(address, models, scratch, host, name, tls, progress.note)
