"""What this process may use of the machine: a container's limits are lower than what the machine has."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import psutil

_CGROUPS = Path("/sys/fs/cgroup")


def usable_cores() -> int:
    """Physical cores that this process may use, at least 1 (llama.cpp's own default counts physical cores too).

    The least of three: the machine's, those that the process is bound to, and what a control group of Linux (a
    container's `--cpus`, a batch system's share) gives of processor time, rounded up.
    """
    bound: int = psutil.cpu_count() or 1
    if hasattr(psutil.Process, "cpu_affinity"):
        bound = len(psutil.Process().cpu_affinity())
    physical: int = psutil.cpu_count(logical=False) or bound
    share = math.ceil(min(_quotas(), default=float(bound)))
    return max(1, min(physical, bound, share))


def available_bytes() -> int:
    """Memory that can be had without swapping, within the process's control group."""
    free: int = psutil.virtual_memory().available
    return max(0, min([free, *_free_in_groups()]))


def _quotas() -> Iterator[float]:
    """Processors' worth of time, of each group of this process that has a limit."""
    for folder in _groups(""):
        words = _read(folder / "cpu.max").split()
        if len(words) == 2 and words[0].isdigit() and int(words[1]):
            yield int(words[0]) / int(words[1])
    for folder in _groups("cpu"):
        quota, period = _read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")
        if quota.isdigit() and period.isdigit() and int(period):
            yield int(quota) / int(period)


def _free_in_groups() -> Iterator[int]:
    for controller, most, used in (
        ("", "memory.max", "memory.current"),
        ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        for folder in _groups(controller):
            limit, now = _read(folder / most), _read(folder / used)
            if limit.isdigit() and now.isdigit():
                yield int(limit) - int(now)


def _groups(controller: str) -> Iterator[Path]:
    """The group of this process and those above it: of the second kind (no controller), or of the first."""
    for line in _read(Path("/proc/self/cgroup")).splitlines():
        _, names, path = (*line.split(":", 2), "", "")[:3]
        if controller not in names.split(","):
            continue
        root = _CGROUPS / controller
        folder = root / path.strip("/")
        # in a container the path is often the host's, and its own group lies at the root
        yield from (folder, *folder.parents[: len(folder.parts) - len(root.parts)])


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""
