"""A capture that is interrupted, resumed, out of space or wrongly fed."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from capture_cases import (
    BASE,
    N_VOCAB,
    SETTINGS,
    fill,
    flip_byte,
    make_capture,
    make_head,
    make_rows,
    make_task,
    make_text,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from quantprobe.capture import Capture, CaptureWriter, RowWriter
from quantprobe.errors import FileFormatError, InputError, MismatchError


def start(folder: Path, kind: str = "hidden", **changes: Any) -> CaptureWriter:
    return CaptureWriter.create(folder / "a.qpc", BASE, {**SETTINGS, **changes}, kind)


def begin(folder: Path) -> RowWriter:
    return start(folder).begin(make_text(), "float16", 8)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def ids(*values: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.array(values, dtype=np.int64)


@settings(max_examples=25, deadline=None)
@given(order=st.permutations(range(21)), cuts=st.lists(st.integers(0, 21), max_size=5))
def test_rows_may_come_in_any_order(
    tmp_path_factory: pytest.TempPathFactory, order: list[int], cuts: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("order")
    probe, expected = make_text(), make_rows(make_text())
    with start(folder) as writer:
        rows = writer.begin(probe, "float16", 8)
        for part in np.split(np.array(order, dtype=np.int64), sorted(cuts)):
            rows.write(part, expected[part])
        rows.finish()
        capture = writer.finish(make_head(folder, embedded=True))
    capture.verify()
    np.testing.assert_array_equal(capture.rows("wiki"), expected)


def test_rows_of_a_sliced_array(tmp_path: Path) -> None:
    wide = np.repeat(make_rows(make_text()), 2, axis=1)[:, ::2]
    with start(tmp_path) as writer:
        rows = writer.begin(make_text(), "float16", 8)
        rows.write(np.arange(21), wide)
        rows.finish()
        np.testing.assert_array_equal(writer.finish(make_head(tmp_path, True)).rows("wiki"), make_rows(make_text()))


def test_missing_rows_are_named(tmp_path: Path) -> None:
    rows = begin(tmp_path)
    rows.write(ids(0, 1, 3), np.zeros((3, 8), np.float16))
    with pytest.raises(MismatchError, match="18 of 21 rows never came, the first is 2"):
        rows.finish()
    rows.abandon()


@pytest.mark.parametrize("second", [(4, 5), (5, 4), (7, 7), (8, 7, 8)])
def test_row_that_comes_twice(tmp_path: Path, second: tuple[int, ...]) -> None:
    rows = begin(tmp_path)
    rows.write(ids(2, 4), np.zeros((2, 8), np.float16))
    with pytest.raises(MismatchError, match=r"row \d came twice"):
        rows.write(ids(*second), np.zeros((len(second), 8), np.float16))
    rows.abandon()


@pytest.mark.parametrize(
    ("row_ids", "shape", "dtype"),
    [
        ((0, 21), (2, 8), np.float16),
        ((-1, 0), (2, 8), np.float16),
        ((0, 1), (3, 8), np.float16),
        ((0, 1), (2, 9), np.float16),
        ((0, 1), (16,), np.float16),
        ((0, 1), (2, 8), np.float32),
        ((0, 1), (2, 8), np.uint16),
    ],
)
def test_wrong_rows_are_refused(tmp_path: Path, row_ids: tuple[int, ...], shape: tuple[int, ...], dtype: Any) -> None:
    rows = begin(tmp_path)
    with pytest.raises(MismatchError, match="probe 'wiki': row"):
        rows.write(ids(*row_ids), np.zeros(shape, dtype))
    rows.abandon()


def test_begin_refuses_what_does_not_fit_the_kind(tmp_path: Path) -> None:
    with start(tmp_path) as writer:
        with pytest.raises(MismatchError, match="hidden rows cannot be uint16"):
            writer.begin(make_text(), "uint16", 8)
        with pytest.raises(InputError, match="no scored position"):
            writer.begin(make_task(n_items=0), "float16", 8)
        fill(writer, make_text())
        with pytest.raises(MismatchError, match="two probes are named 'wiki'"):
            writer.begin(make_text(), "float16", 8)
    with start(tmp_path, "logprobs") as writer, pytest.raises(MismatchError, match="304 words wide, not 300"):
        writer.begin(make_text(), "uint16", N_VOCAB)
    with start(tmp_path, "llama_kld") as writer, pytest.raises(MismatchError, match="304 words wide, not 303"):
        writer.begin(make_text(), "uint16", N_VOCAB + 3)
    with pytest.raises(InputError, match="cannot be of kind 'dump'"):
        start(tmp_path, "dump")


def test_finish_refuses_what_is_not_whole(tmp_path: Path) -> None:
    with start(tmp_path) as writer:
        with pytest.raises(InputError, match="nothing was captured"):
            writer.finish(make_head(tmp_path, True))
        fill(writer, make_text())
        with pytest.raises(MismatchError, match="needs a head"):
            writer.finish()
        writer.begin(make_task(), "float16", 8)
        with pytest.raises(MismatchError, match="'arc' was begun and not finished"):
            writer.finish(make_head(tmp_path, True))
    assert not (tmp_path / "a.qpc").exists()


@pytest.mark.parametrize(
    ("base", "changes", "kind", "words"),
    [
        (replace(BASE, sha256="c" * 64), {}, "hidden", "another base;"),
        (BASE, {"n_ctx": 32, "new": 1}, "hidden", "another n_ctx, new;"),
        (BASE, {}, "logprobs", "another kind;"),
    ],
)
def test_a_capture_of_something_else_is_not_touched(
    tmp_path: Path, base: Any, changes: dict[str, Any], kind: str, words: str
) -> None:
    capture = make_capture(tmp_path)
    before = contents(capture.path)
    with pytest.raises(MismatchError, match=words):
        CaptureWriter.create(capture.path, base, {**SETTINGS, **changes}, kind)
    assert contents(capture.path) == before


@pytest.mark.parametrize("content", [None, "notes.txt"])
def test_a_folder_that_is_no_capture_is_not_touched(tmp_path: Path, content: str | None) -> None:
    folder = tmp_path / "a.qpc"
    folder.mkdir()
    if content is not None:
        (folder / content).write_text("mine", encoding="utf-8")
    with pytest.raises(FileFormatError, match=r"meta\.json is missing"):
        start(tmp_path)
    assert [path.name for path in folder.iterdir()] == ([] if content is None else [content])


def interrupt(folder: Path) -> None:
    """Ctrl-C in the middle of the second probe."""
    with pytest.raises(KeyboardInterrupt), start(folder) as writer:
        fill(writer, make_text())
        rows = writer.begin(make_task(), "float16", 8)
        rows.write(ids(0, 1), np.zeros((2, 8), np.float16))
        raise KeyboardInterrupt
    assert not (folder / "a.qpc").exists()


def test_interrupted_capture_continues(tmp_path: Path) -> None:
    interrupt(tmp_path)
    with start(tmp_path) as writer:
        assert writer.kept == ("wiki",)
        assert writer.reuse(make_text())
        assert not writer.reuse(make_task())
        fill(writer, make_task())
        capture = writer.finish(make_head(tmp_path, True), np.arange(N_VOCAB, dtype=np.float32))
    assert not (tmp_path / "a.qpc.partial").exists()
    assert capture.sha256 == make_capture(tmp_path).sha256  # as if never interrupted, bit for bit
    np.testing.assert_array_equal(capture.rows("wiki"), make_rows(make_text()))


def test_killed_process_loses_only_the_probe_under_way(tmp_path: Path) -> None:
    script = """
import os, sys
from pathlib import Path
sys.path[:0] = sys.argv[2:]
from capture_cases import *
writer = CaptureWriter.create(Path(sys.argv[1]) / "a.qpc", BASE, SETTINGS, "hidden")
fill(writer, make_text())
writer.begin(make_task(), "float16", 8).write(np.arange(3), make_rows(make_task())[:3])
os._exit(9)
"""
    support = Path(__file__).parents[1] / "support"
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path), str(support)], check=False)
    assert done.returncode == 9
    with start(tmp_path) as writer:
        assert writer.reuse(make_text())
        assert not writer.reuse(make_task())


def test_kept_rows_are_used_only_for_the_very_same_probe(tmp_path: Path) -> None:
    interrupt(tmp_path)
    with start(tmp_path) as writer:
        assert not writer.reuse(make_text(seed=1))
        assert not writer.reuse(replace(make_text(), bos=None))
        assert not writer.reuse(make_text("other"))
        assert writer.reuse(make_text())


def test_probe_with_another_gold_is_another_probe(tmp_path: Path) -> None:
    """Its rows would fit, but the stored gold would be the old one."""
    with start(tmp_path) as writer:
        fill(writer, make_task(gold=1))
    with start(tmp_path) as writer:
        assert make_task(gold=2).sha256() == make_task(gold=1).sha256()
        assert not writer.reuse(make_task(gold=2))


@pytest.mark.parametrize("file", ["00-wiki.rows", "00-wiki.probe"])
@pytest.mark.parametrize("change", ["flipped", "cut", "removed"])
def test_damaged_kept_rows_are_made_again(tmp_path: Path, file: str, change: str) -> None:
    interrupt(tmp_path)
    path = tmp_path / "a.qpc.partial" / file
    if change == "flipped":
        flip_byte(path, 10)
    elif change == "cut":
        path.write_bytes(path.read_bytes()[:-1])
    else:
        path.unlink()
    with start(tmp_path) as writer:
        assert not writer.reuse(make_text())
        fill(writer, make_text())
        writer.finish(make_head(tmp_path, True)).verify()


@pytest.mark.parametrize("change", ["settings", "kind", "base", "meta", "garbage"])
def test_unfinished_capture_that_does_not_fit_is_discarded(tmp_path: Path, change: str) -> None:
    interrupt(tmp_path)
    meta = tmp_path / "a.qpc.partial" / "meta.json"
    base = replace(BASE, sha256="c" * 64) if change == "base" else BASE
    wanted = {**SETTINGS, "n_ctx": 32} if change == "settings" else SETTINGS
    if change == "meta":
        flip_byte(meta, 100)
    if change == "garbage":
        meta.unlink()
    kind = "logprobs" if change == "kind" else "hidden"
    with CaptureWriter.create(tmp_path / "a.qpc", base, wanted, kind) as writer:
        assert writer.kept == ()
        assert not writer.reuse(make_text())
    assert [file.name for file in (tmp_path / "a.qpc.partial").iterdir()] == ["meta.json"]


def test_moved_base_and_tuple_settings_still_fit(tmp_path: Path) -> None:
    interrupt(tmp_path)
    moved = replace(BASE, path="elsewhere/renamed.gguf", name="renamed")
    with CaptureWriter.create(tmp_path / "a.qpc", moved, {**SETTINGS, "devices": ("CPU",)}, "hidden") as writer:
        assert writer.reuse(make_text())
        assert writer.finish(make_head(tmp_path, True)).meta.base == moved


def test_finished_probes_stay_though_the_next_run_wants_others(tmp_path: Path) -> None:
    with start(tmp_path) as writer:
        fill(writer, make_text("old"))
        fill(writer, make_text("damaged"))
        fill(writer, make_text("wanted"))
    flip_byte(tmp_path / "a.qpc.partial" / "01-damaged.rows", 5)
    with start(tmp_path) as writer:
        assert writer.reuse(make_text("wanted"))
        fill(writer, make_text("new"))
        capture = writer.finish(make_head(tmp_path, False))
    assert [entry.name for entry in capture.meta.probes] == ["old", "wanted", "new"]
    capture.verify()
    files = {file.name.partition("-")[2] for file in capture.path.iterdir() if "-" in file.name}
    assert files == {f"{name}.{suffix}" for name in ("old", "wanted", "new") for suffix in ("rows", "probe")}


def test_probe_begun_again_replaces_itself(tmp_path: Path) -> None:
    with start(tmp_path) as writer:
        writer.begin(make_text(), "float16", 8).write(ids(3), np.ones((1, 8), np.float16))
        fill(writer, make_text())
        np.testing.assert_array_equal(writer.finish(make_head(tmp_path, True)).rows("wiki"), make_rows(make_text()))


def test_failed_rename_keeps_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_path = Path.replace

    def refuse(self: Path, target: Path) -> Path:
        if self.is_dir():
            raise PermissionError(errno.EACCES, "Permission denied")
        return replace_path(self, target)

    with start(tmp_path) as writer:
        fill(writer, make_text())
        monkeypatch.setattr(Path, "replace", refuse)
        with pytest.raises(InputError, match="Permission denied; choose a folder where you may write"):
            writer.finish(make_head(tmp_path, True))
    monkeypatch.undo()
    with start(tmp_path) as writer:
        assert writer.reuse(make_text())
        writer.finish(make_head(tmp_path, True)).verify()


class FullDisk:
    """A file on a disk that is full after `n_left` more writes."""

    def __init__(self, file: Any, n_left: int) -> None:
        self.file, self.n_left = file, n_left

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def write(self, data: Any) -> int:
        if self.n_left == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.n_left -= 1
        return int(self.file.write(data))


def test_full_disk_is_an_error_and_keeps_finished_probes(tmp_path: Path) -> None:
    with (
        pytest.raises(InputError, match=r"01-arc\.rows: No space left on device; free some space"),
        start(tmp_path) as writer,
    ):
        fill(writer, make_text())
        rows = writer.begin(make_task(), "float16", 8)
        rows._file = FullDisk(rows._file, 1)  # type: ignore[assignment]
        rows.write(ids(0), np.zeros((1, 8), np.float16))
        rows.write(ids(1), np.zeros((1, 8), np.float16))
    assert not (tmp_path / "a.qpc").exists()
    with start(tmp_path) as writer:
        assert writer.reuse(make_text())


def test_too_little_space_is_said_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with start(tmp_path) as writer:
        monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 100))  # type: ignore[attr-defined]
        with pytest.raises(InputError, match=r"'wiki' need 0\.00 GB .* free some space"):
            writer.begin(make_text(), "float16", 8)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root on Linux")
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip(f"cannot mount a small disk: {mounted.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_disk_that_is_really_full(small_disk: Path) -> None:
    probe = make_text("big", n_windows=100)
    with start(small_disk) as writer:
        fill(writer, make_text())
        rows = writer.begin(probe, "float16", 100)  # 140 kB, and there is room for it yet
        (small_disk / "other").write_bytes(b"\0" * 150_000)
        with pytest.raises(InputError, match=r"No space left on device; free some space"):
            for row in range(probe.n_rows):
                rows.write(ids(row), np.ones((1, 100), np.float16))
            rows.finish()
    with start(small_disk) as writer:
        assert writer.reuse(make_text())
        with pytest.raises(InputError, match="GB free; free some space"):
            writer.begin(probe, "float16", 100)
    (small_disk / "other").unlink()
    with start(small_disk) as writer:
        assert writer.reuse(make_text())
        fill(writer, probe, width=20)
        writer.finish(make_head(small_disk, True)).verify()


def test_full_disk_while_the_head_is_copied(small_disk: Path, tmp_path: Path) -> None:
    big = tmp_path / "big.gguf"
    big.write_bytes(b"\1" * 400_000)
    head = replace(make_head(tmp_path, True), path=str(big), offset=0, n_bytes=400_000)
    with start(small_disk) as writer:
        fill(writer, make_text())
        with pytest.raises(InputError, match=r"head\.bin: No space left on device"):
            writer.finish(head)
    assert not (small_disk / "a.qpc").exists()
    with start(small_disk) as writer:
        assert writer.reuse(make_text())
        writer.finish(replace(head, embedded=False)).verify()


def test_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(InputError, match="cannot write"):
        CaptureWriter.create(tmp_path / "file" / "a.qpc", BASE, SETTINGS, "hidden")
    (tmp_path / "a.qpc.partial").write_text("x", encoding="utf-8")
    with pytest.raises(InputError, match="cannot write"):
        start(tmp_path)


def test_gguf_that_ends_before_the_head(tmp_path: Path) -> None:
    head = replace(make_head(tmp_path, True), offset=2000)
    with start(tmp_path) as writer:
        fill(writer, make_text())
        with pytest.raises(Exception, match=r"base\.gguf ends 729 bytes before the 777 expected from byte 2000"):
            writer.finish(head)
    assert not (tmp_path / "a.qpc").exists()


def test_capture_is_found_again_through_its_digest(tmp_path: Path) -> None:
    """The digest names the content: the same work gives the same, another row another."""
    for name in ("one", "two", "three"):
        (tmp_path / name).mkdir()
    one, two = make_capture(tmp_path / "one", True), make_capture(tmp_path / "two", True)
    assert one.meta.probes == two.meta.probes
    assert one.sha256 != two.sha256  # the head lies at another path
    assert Capture.open(one.path).sha256 == one.sha256
