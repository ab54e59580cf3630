"""Options of commands that can measure on other machines."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from quantprobe.cli.shared.options import PathType
from quantprobe.errors import InputError

if TYPE_CHECKING:
    from quantprobe.cluster import ClusterPlace, Crew

Command = TypeVar("Command", bound=Callable[..., Any])

_TLS = ("tls_ca_file", "tls_cert", "tls_key")


def tls_options(command: Command) -> Command:
    """Dask's options for encrypted connections; the command gets `tls`."""

    @functools.wraps(command)
    def with_tls(*args: Any, **kwargs: Any) -> Any:
        from quantprobe.cluster.place import Tls

        files: list[Path | None] = [kwargs.pop(name) for name in _TLS]
        return command(*args, tls=Tls(*files), **kwargs)

    for name, text in zip(
        reversed(_TLS),
        ("Private key of --tls-cert.", "Certificate of this process.", "Certificates that sign those of the cluster."),
        strict=True,
    ):
        option = click.option(f"--{name.replace('_', '-')}", name, type=PathType(), help=f"{text}  [PEM]")
        option(with_tls)
    return with_tls  # type: ignore[return-value]


def cluster_options(command: Command) -> Command:
    """`--cluster` and what belongs to it; the command gets `cluster`, None where it is not asked for."""

    @functools.wraps(command)
    def with_cluster(*args: Any, cluster: str | None, share: str, tls: Any, **kwargs: Any) -> Any:
        place = None
        if cluster is not None:
            from quantprobe.cluster.place import ClusterPlace

            place = ClusterPlace(cluster, share, tls)
        elif share or tls.ca_file is not None or kwargs["allow"]:
            raise InputError("--share, --allow and --tls-... belong to --cluster; give the scheduler's address")
        return command(*args, cluster=place, **kwargs)

    add_tls = tls_options(with_cluster)
    click.option(
        "--allow",
        multiple=True,
        metavar="NAME",
        help="With --cluster: a fact (cpu_features, backend, ...) in which workers may differ from this machine; else "
        "workers that compute other logits are not used.",
    )(add_tls)
    click.option(
        "--share",
        default="",
        metavar="URL",
        help="Folder that all workers can read: a path, or any address of fsspec (s3://..., sftp://...). What a worker "
        "lacks is put there once; without it, files go over the cluster's own connections.",
    )(add_tls)
    click.option(
        "--cluster",
        metavar="ADDRESS",
        help="Measure on the workers of this Dask scheduler (tcp://HOST:PORT), or local:N for N workers here. "
        "Needs quantprobe worker on each machine.",
    )(add_tls)
    return add_tls  # type: ignore[return-value]


def require_for_cluster(decodes_all: bool, keeps_files: bool) -> None:
    """Raise `InputError` for what only one machine can do."""
    if not decodes_all:
        raise InputError("--decide chooses each question by the answers before it, on one machine; leave out --cluster")
    if not keeps_files:
        raise InputError("--types with --keep none makes quants where they are measured; leave out --cluster")


def crew_of(place: ClusterPlace | None, base: Path, allow: Sequence[str]) -> Crew | None:
    """The workers of a cluster; None without one."""
    if place is None:
        return None
    from quantprobe.cluster import Crew

    return Crew(place, base, allow)
