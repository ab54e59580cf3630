"""Remembered digests: taken only for the very same files, and no folder, process or damage can make them wrong."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from quantprobe.gguf import digests
from quantprobe.gguf.digests import OFF, content_digest
from quantprobe.gguf.parts import hash_files

OLD = time.time() - 3600


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.delenv(OFF, raising=False)
    monkeypatch.setattr(digests, "cache_folder", lambda: folder)
    monkeypatch.setattr(digests, "_is_settled", lambda paths, now: True)
    return folder


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[list[Path]]:
    """Every call that reads bytes."""
    seen: list[list[Path]] = []

    def counted(paths: list[Path], on_bytes: Callable[[int], None] | None = None) -> str:
        seen.append(list(paths))
        return hash_files(paths, on_bytes)

    monkeypatch.setattr(digests, "hash_files", counted)
    return seen


def make(path: Path, data: bytes = b"weights") -> Path:
    path.write_bytes(data)
    return path


def test_the_second_start_reads_nothing_and_tells_the_same_progress(
    tmp_path: Path, cache: Path, reads: list[list[Path]]
) -> None:
    parts = [make(tmp_path / "a"), make(tmp_path / "b", b"more")]
    first, second = [], []
    digest = content_digest(parts, first.append)
    assert content_digest(parts, second.append) == digest == hash_files(parts)
    assert len(reads) == 1 and sum(first) == sum(second) == 11
    assert not list(cache.glob("*.partial"))


@pytest.mark.parametrize("change", ["bytes", "size", "replaced", "mtime", "other part"])
def test_whatever_a_write_changes_is_read_again(
    change: str, tmp_path: Path, cache: Path, reads: list[list[Path]]
) -> None:
    path, other = make(tmp_path / "a"), make(tmp_path / "b")
    content_digest([path])
    if change == "bytes":
        at = path.stat()
        path.write_bytes(b"WEIGHTS")
        os.utime(path, ns=(at.st_atime_ns, at.st_mtime_ns + 1))
    elif change == "size":
        path.write_bytes(b"weights and more")
    elif change == "replaced":
        at = path.stat()
        os.utime(make(tmp_path / "new", b"WEIGHTS"), ns=(at.st_atime_ns, at.st_mtime_ns))
        (tmp_path / "new").replace(path)
    elif change == "mtime":
        os.utime(path, (OLD, OLD))
    paths = [path, other] if change == "other part" else [path]
    assert content_digest(paths) == hash_files(paths) and len(reads) == 2


def test_a_young_file_is_not_remembered(
    tmp_path: Path, cache: Path, reads: list[list[Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    monkeypatch.delenv(OFF, raising=False)
    monkeypatch.setattr(digests, "cache_folder", lambda: cache)
    path = make(tmp_path / "a")
    content_digest([path])
    assert not cache.exists()
    os.utime(path, (time.time() + 3600,) * 2)
    monkeypatch.setattr(digests.time, "time", lambda: time.mktime(time.localtime()) + 60)
    content_digest([path])
    assert not cache.exists(), "a time in the future tells nothing"
    os.utime(path, (OLD, OLD))
    content_digest([path])
    assert len(list(cache.glob("*.json"))) == 1


def test_a_file_that_changes_while_it_is_read_is_not_remembered(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make(tmp_path / "a")

    def changing(paths: list[Path], on_bytes: Callable[[int], None] | None = None) -> str:
        digest = hash_files(paths, on_bytes)
        path.write_bytes(b"changed since")
        return digest

    monkeypatch.setattr(digests, "hash_files", changing)
    content_digest([path])
    assert not cache.exists()


@pytest.mark.parametrize(
    "damage",
    [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000, b'{"files": [], "sha256": "0"}', b'{"sha256": 1}'],
    ids=["empty", "cut", "list", "no text", "deep", "other files", "no digest"],
)
def test_a_damaged_entry_is_made_anew(damage: bytes, tmp_path: Path, cache: Path, reads: list[list[Path]]) -> None:
    path = make(tmp_path / "a")
    content_digest([path])
    [entry] = cache.glob("*.json")
    entry.write_bytes(damage)
    assert content_digest([path]) == hash_files([path]) and len(reads) == 2
    content_digest([path])
    assert len(reads) == 2


def test_a_digest_that_is_none_is_not_believed(tmp_path: Path, cache: Path) -> None:
    path = make(tmp_path / "a")
    digest = content_digest([path])
    [entry] = cache.glob("*.json")
    entry.write_text(entry.read_text(encoding="utf-8").replace(digest, "../" + digest[3:]), encoding="utf-8")
    assert content_digest([path]) == digest


def test_distrust_reads_every_byte(
    tmp_path: Path, cache: Path, reads: list[list[Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make(tmp_path / "a")
    content_digest([path])
    monkeypatch.setenv(OFF, "1")
    content_digest([path])
    assert len(reads) == 2
    monkeypatch.setenv(OFF, "0")
    content_digest([path])
    assert len(reads) == 2


def test_a_cache_that_cannot_be_written_costs_only_time(tmp_path: Path, cache: Path) -> None:
    cache.write_text("a file where the folder should be", encoding="utf-8")
    path = make(tmp_path / "a")
    assert content_digest([path]) == content_digest([path]) == hash_files([path])


def test_without_a_home_there_is_no_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(OFF, raising=False)
    monkeypatch.setattr(digests.platformdirs, "user_cache_path", lambda *_, **__: Path("~/.cache/quantprobe"))
    assert digests.cache_folder() is None
    path = make(tmp_path / "a")
    os.utime(path, (OLD, OLD))
    assert content_digest([path]) == hash_files([path])


WRITER = """
import sys, time
from pathlib import Path
from quantprobe.gguf import digests
digests.cache_folder = lambda: Path(sys.argv[1])
digests._is_settled = lambda paths, now: True
entry = None
for i in range(200):
    digests._write(Path(sys.argv[1]) / "one.json", [["p", i]], f"{i:064x}")
    found = (Path(sys.argv[1]) / "one.json").read_text()
    assert found.endswith("}"), found
"""


def test_several_processes_write_one_entry(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    command = [sys.executable, "-c", WRITER, str(folder)]
    both = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    assert [(each.communicate(timeout=60)[1], each.returncode) for each in both] == [("", 0)] * 2
    assert [path.name for path in folder.iterdir()] == ["one.json"]
