"""Locks between processes."""

from __future__ import annotations

import errno
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from quantprobe import locks
from quantprobe.errors import InputError
from quantprobe.locks import locked, try_lock

HOLDER = """
import sys
from pathlib import Path
from quantprobe.locks import locked
with locked(Path(sys.argv[1]), lambda: print("waits", flush=True)):
    print("holds", flush=True)
    sys.stdin.read()
"""


@contextmanager
def other_process(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that takes the lock and holds it until its standard input ends."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process
        process.kill()


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_a_lock_is_for_one_process_and_ends_with_it(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "lock"
    with other_process(path) as holder:
        assert said(holder) == "holds"
        assert try_lock(path) is None
        holder.kill()
        waited: list[str] = []
        with locked(path, lambda: waited.append("")):  # the system releases what a killed process held
            assert path.is_file() and len(waited) <= 1
    free = try_lock(path)
    assert free is not None
    with free:
        assert try_lock(path) is None
    again = try_lock(path)
    assert again is not None
    with again:
        pass


def test_a_waiting_process_says_so_and_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    mine = ExitStack()
    mine.enter_context(locked(path, lambda: None))
    with other_process(path) as waiting:
        assert said(waiting) == "waits"
        time.sleep(0.05)
        assert waiting.poll() is None
        mine.close()
        assert said(waiting) == "holds"
        assert try_lock(path) is None


def test_an_error_inside_releases_the_lock(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="inside"), locked(tmp_path / "lock", lambda: None):
        raise ValueError("inside")
    with locked(tmp_path / "lock", lambda: pytest.fail("still held")):
        pass


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(InputError, match=r"cannot write .*lock: .*; check the disk, or choose another folder"):
        try_lock(tmp_path / "file" / "lock")
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="cannot write"), locked(tmp_path / "folder", lambda: None):
        pass


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (errno.EROFS, "choose a folder where you may write"),
        (errno.ENOSPC, "free some space"),
        (errno.ENOSYS, "is on a file system without file locks"),
        (errno.ENOLCK, "is on a file system without file locks"),
    ],
)
def test_disks_that_refuse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, words: str) -> None:
    def refuse(self: object, *args: object, **options: object) -> None:
        raise OSError(code, "refused")

    monkeypatch.setattr(locks.FileLock, "acquire", refuse)
    with pytest.raises(InputError, match=words):
        try_lock(tmp_path / "lock")


@pytest.mark.skipif(sys.platform == "win32", reason="flock is the lock of Unix")
def test_a_file_system_without_flock_gets_no_marker_in_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    def missing(*args: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", missing)
    with pytest.raises(InputError, match="without file locks"):
        try_lock(tmp_path / "lock")
