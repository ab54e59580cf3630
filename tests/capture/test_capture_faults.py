"""Every write, sync, rename and deletion of a capture fails once: the old capture or the new one is there."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import numpy as np
import pytest
from capture_cases import BASE, N_VOCAB, SETTINGS, fill, make_capture, make_head, make_rows, make_task, make_text
from faults import ERRORS, Fault, Faults

from quantprobe.capture import Capture, CaptureWriter
from quantprobe.errors import QuantprobeError


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


@pytest.mark.parametrize("fault", ERRORS)
@pytest.mark.parametrize("job", ["new", "extended"])
def test_a_fault_anywhere_leaves_the_old_or_the_new(
    tmp_path_factory: pytest.TempPathFactory, job: str, fault: str
) -> None:
    work = make_new if job == "new" else extend
    faults = Faults()

    def prepare() -> Path:
        folder = tmp_path_factory.mktemp("fault")
        make_head(folder, True)
        if job == "extended":
            make_capture(folder)
        return folder

    folder = prepare()
    old = state(folder)
    with faults.failing(0):
        work(folder)
    n_points, new = faults.n_calls, state(folder)
    assert n_points >= 30
    for point in range(1, n_points + 1):
        folder = prepare()
        with faults.failing(point, ERRORS[fault]), contextlib.suppress(Fault, QuantprobeError):
            work(folder)
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
