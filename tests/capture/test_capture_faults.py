"""Every write, sync, rename and deletion of a capture fails once: the old capture or the new one is there."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from capture_cases import BASE, N_VOCAB, SETTINGS, fill, make_capture, make_head, make_rows, make_task, make_text

from quantprobe.capture import Capture, CaptureWriter
from quantprobe.errors import QuantprobeError

CALLS: dict[str, tuple[Any, str]] = {
    "open": (Path, "open"),
    "sync": (os, "fsync"),
    "rename": (Path, "replace"),
    "delete": (Path, "unlink"),
    "make folder": (Path, "mkdir"),
}


SYNC = os.fsync


class Fault(BaseException):
    """A process that ends here."""


class Faults:
    """Counts the calls that change the disk, and lets one of them fail or be the last."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.n_calls = 0
        self.at: int | None = None
        self.error: Callable[[], BaseException] = Fault
        for owner, name in CALLS.values():
            monkeypatch.setattr(owner, name, self._counted(getattr(owner, name)))

    def _counted(self, original: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            reads = "rb" in (*arguments, *options.values()) or (original.__name__ == "open" and len(arguments) < 2)
            if not reads and self.at is not None:
                self.n_calls += 1
                if self.n_calls == self.at:
                    raise self.error()
            # what a sync does shows only when power fails, and it takes most of the time
            return None if original is SYNC else original(*arguments, **options)

        return call

    def start(self, at: int) -> None:
        self.n_calls, self.at = 0, at


def make_new(folder: Path) -> Capture:
    """A new capture of a text and a task, with a checkpoint in the middle of the second."""
    with CaptureWriter.create(folder / "base.qpc", BASE, SETTINGS, "hidden") as writer:
        writer.store_head(make_head(folder, True), np.arange(N_VOCAB, dtype=np.float32))
        if not writer.reuse(make_text()):
            fill(writer, make_text())
        if not writer.reuse(make_task()):
            fill_in_two(writer)
        return writer.finish()


def fill_in_two(writer: CaptureWriter) -> None:
    probe = make_task()
    rows = writer.begin(probe, "float16", 8, {"seen": np.zeros(1)})
    ids = np.arange(probe.n_rows, dtype=np.int64)
    for part in np.array_split(ids, 2):
        missing = part[~rows.done[part]]
        rows.write(missing, make_rows(probe)[missing])
        if rows.entry is None and len(missing):
            rows.checkpoint({"seen": np.ones(1)})
    rows.finish({"kld_max": 0.0})


def extend(folder: Path) -> Capture:
    """A changed text in place of the old, and one more."""
    with CaptureWriter.create(folder / "base.qpc", BASE, SETTINGS, "hidden") as writer:
        for probe in (make_text(seed=4), make_text("more", seed=5)):
            if not writer.reuse(probe):
                fill(writer, probe)
        return writer.finish()


def state(folder: Path) -> list[str] | None:
    """The digests of the probes of a capture that is whole; None if there is none."""
    if not (folder / "base.qpc").exists():
        return None
    capture = Capture.open(folder / "base.qpc")
    capture.verify()
    return [entry.sha256 for entry in capture.meta.probes]


ERRORS: dict[str, Callable[[], BaseException]] = {
    "killed": Fault,
    "no space": lambda: OSError(errno.ENOSPC, "No space left on device"),
    "input/output": lambda: OSError(errno.EIO, "Input/output error"),
    "forbidden": lambda: PermissionError(errno.EACCES, "Permission denied"),
}


@pytest.mark.parametrize("fault", ERRORS)
@pytest.mark.parametrize("job", ["new", "extended"])
def test_a_fault_anywhere_leaves_the_old_or_the_new(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, job: str, fault: str
) -> None:
    work = make_new if job == "new" else extend
    faults = Faults(monkeypatch)

    def prepare() -> Path:
        folder = tmp_path_factory.mktemp("fault")
        make_head(folder, True)
        if job == "extended":
            make_capture(folder)
        return folder

    folder = prepare()
    old = state(folder)
    faults.start(-1)
    work(folder)
    n_points, new = faults.n_calls, state(folder)
    print(f"{n_points} points")
    assert n_points >= 30
    for point in range(1, n_points + 1):
        faults.at = None
        folder = prepare()
        faults.error = ERRORS[fault]
        faults.start(point)
        with contextlib.suppress(Fault, QuantprobeError):
            work(folder)
        faults.at = None
        assert state(folder) in (old, new), point
        finished = work(folder)
        finished.verify()
        assert state(folder) == new, point
        named = {"meta.json", *(file.name for _, file in finished.meta.files())}
        assert {path.name for path in finished.path.iterdir()} == named, point


def test_a_reader_that_opened_the_old_one_finds_its_files(tmp_path: Path) -> None:
    """Until the new meta.json is on disk; what it did not read by then it is told to be gone."""
    old = make_capture(tmp_path)
    deleted: list[bool] = []
    original = Path.unlink

    def unlink(self: Path, missing_ok: bool = False) -> None:
        if self.name == "00-wiki.rows":
            deleted.append(make_text(seed=4).sha256() in (state(tmp_path) or []))
        original(self, missing_ok)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "unlink", unlink)
        rows = old.rows("wiki")
        extend(tmp_path)
    assert deleted == [True]
    np.testing.assert_array_equal(old.rows("arc"), make_rows(make_task()))
    if os.name != "nt":
        np.testing.assert_array_equal(rows, make_rows(make_text()))
