"""A container's limits are found in both kinds of control groups, and nothing where there are none."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from quantprobe import limits


class Groups:
    """Control groups as files, with the process in the one that `line` names."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.lines: list[str] = []
        original = limits._read
        patch.setattr(limits, "_CGROUPS", folder)
        patch.setattr(
            limits, "_read", lambda p: "\n".join(self.lines) if p == Path("/proc/self/cgroup") else original(p)
        )
        patch.setattr(psutil, "cpu_count", lambda logical=True: 64)
        patch.setattr(psutil.Process, "cpu_affinity", lambda self: list(range(48)), raising=False)

    def write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="ascii")


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Groups:
    return Groups(tmp_path, monkeypatch)


def test_without_groups_the_machine_is_the_limit(groups: Groups) -> None:
    assert limits.usable_cores() == 48
    assert 0 < limits.available_bytes() <= psutil.virtual_memory().total


@pytest.mark.parametrize(
    ("text", "cores"), [("150000 100000\n", 2), ("max 100000\n", 48), ("20000 100000", 1), ("junk", 48), ("0 0", 48)]
)
def test_the_second_kind(groups: Groups, text: str, cores: int) -> None:
    """The tightest of the group and those above it; a container's own lies at the root."""
    groups.lines = ["0::/a/b"]
    groups.write("a/cpu.max", text)
    assert limits.usable_cores() == cores
    groups.write("cpu.max", "100000 100000")
    assert limits.usable_cores() == 1


def test_the_first_kind(groups: Groups) -> None:
    groups.lines = ["4:cpu,cpuacct:/docker/x", "3:memory:/docker/x", "no line of a group"]
    groups.write("cpu/cpu.cfs_quota_us", "300000\n")
    groups.write("cpu/cpu.cfs_period_us", "100000\n")
    groups.write("memory/docker/x/memory.limit_in_bytes", "1000000\n")
    groups.write("memory/docker/x/memory.usage_in_bytes", "400000\n")
    assert limits.usable_cores() == 3
    assert limits.available_bytes() == 600_000
    groups.write("memory/docker/x/memory.usage_in_bytes", "2000000\n")
    assert limits.available_bytes() == 0
