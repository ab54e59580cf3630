"""What one worker keeps between jobs: its store, the models that it has found, the capture and the model in use."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from quantprobe.capture.meta import FileEntry
from quantprobe.capture.meta_file import META_FILE, load_meta
from quantprobe.capture.store import Capture
from quantprobe.cluster.messages import CaptureRef, Job, ModelRef, Part
from quantprobe.cluster.store import MODELS, Store
from quantprobe.errors import QuantprobeError
from quantprobe.files import write_whole
from quantprobe.gguf.model import ModelInfo
from quantprobe.run.folder import RunFolder
from quantprobe.settings import Settings
from quantprobe.sweep.inputs import Progress, identify, read_measurable
from quantprobe.sweep.measuring import LazyModel, Measuring

TOPIC = "quantprobe"
"""Where workers tell how far they are: `{"worker": ADDRESS, "tokens": N}` or `{"worker": ADDRESS, "note": TEXT}`."""
TELL_SECONDS = 0.5


class Missing(Exception):
    """Files that must come before the job can begin."""

    def __init__(self, parts: tuple[Part, ...]) -> None:
        super().__init__(parts)
        self.parts = parts


class Telling:
    """Progress of a worker, as events that the command listens to."""

    def __init__(self, worker: Any) -> None:
        self._worker = worker
        self._decodes = False
        self._n_new = 0
        self._told = time.monotonic()

    def plan(self, n_jobs: int, n_tokens: int) -> None:
        """Nothing: the command knows."""

    def start(self, label: str, total: int | None, unit: str) -> None:
        self._decodes = unit == "tok"

    def advance(self, n: int = 1) -> None:
        if self._decodes:
            self._n_new += n
            if time.monotonic() - self._told > TELL_SECONDS:
                self.finish()

    def finish(self) -> None:
        if self._n_new:
            self._worker.log_event(TOPIC, {"worker": self._worker.address, "tokens": self._n_new})
        self._n_new, self._told = 0, time.monotonic()

    def note(self, message: str) -> None:
        self._worker.log_event(TOPIC, {"worker": self._worker.address, "note": message})


class Workplace:
    """What one worker keeps between jobs: its store, the models that it has found, the capture and model in use."""

    def __init__(self, worker: Any) -> None:
        self.store = Store.of_worker(worker.address)
        self.folders = [Path(folder) for folder in os.environ.get(MODELS, "").split(os.pathsep) if folder]
        self.progress: Progress = Telling(worker)
        self.lock = threading.Lock()
        """One job at a time, however many threads the worker has: llama.cpp uses them all."""
        self._found: dict[str, ModelInfo] = {}
        self._captures: dict[str, Capture] = {}
        self._measuring: tuple[object, Measuring] | None = None
        self._model: tuple[object, LazyModel] | None = None
        self._lent: tuple[str, Path, ExitStack] | None = None

    def model(self, wanted: ModelRef) -> ModelInfo:
        """A model by its content, wherever it lies here. Raises `Missing`."""
        if wanted.sha256 not in self._found:
            for path in self._places(wanted):
                info = identify(read_measurable(path), self.progress)
                if info.sha256 == wanted.sha256:
                    self._found[wanted.sha256] = info
                    break
            else:
                raise Missing(self._parts(wanted))
        return replace(self._found[wanted.sha256], name=wanted.name)

    def holds(self, wanted: ModelRef) -> bool:
        """Whether a model lies here by names and sizes; its content is not read."""
        return next(self._places(wanted), None) is not None

    def _places(self, wanted: ModelRef) -> Iterator[Path]:
        """First files of whatever may be the model."""
        files = [(Path(path), size) for path, size in wanted.files]
        for folder in (None, *self.folders, self.store.folder.joinpath(*wanted.folder.split("/"))):
            here = [(path if folder is None else folder / path.name, size) for path, size in files]
            if here and all(path.is_file() and path.stat().st_size == size for path, size in here):
                yield here[0][0]

    def _parts(self, wanted: ModelRef) -> tuple[Part, ...]:
        parts = wanted.parts(tuple(Path(path).name for path, _ in wanted.files))
        lacking = tuple(part for part in parts if not self.store.has(part))
        if not lacking:  # all came, and their content is another model's
            for part in parts:
                self.store.drop(part)
        return lacking or parts

    def capture(self, ref: CaptureRef, probe: str, base: ModelRef) -> Capture:
        """The capture with all that one probe needs: where the command sees it, else in the store. Raises `Missing`."""
        shared = self._shared_capture(ref)
        if shared is not None:
            return shared
        folder = self.store.folder.joinpath(*ref.folder.split("/"))
        if not (folder / META_FILE).is_file():
            write_whole(folder / META_FILE, ref.meta)
        meta, sha256 = load_meta(folder)
        if meta.head is not None:
            meta = replace(meta, head=replace(meta.head, embedded=True))
        parts = capture_parts(ref, meta.files(), probe, Capture(folder, meta, sha256))
        lacking = tuple(part for part in parts if not self.store.has(part))
        if lacking:
            raise Missing(lacking)
        return self._captures.setdefault(sha256, Capture(folder, meta, sha256))

    def _shared_capture(self, ref: CaptureRef) -> Capture | None:
        """The very capture at the command's own path, with its output matrix; None if this machine does not see it."""
        known = self._captures.get(ref.path)
        if known is not None and known.sha256 == ref.sha256:
            return known
        path = Path(ref.path)
        try:
            capture = Capture.open(path) if (path / META_FILE).is_file() else None
        except QuantprobeError:
            return None
        if capture is None or capture.sha256 != ref.sha256:
            return None
        head = capture.meta.head
        if head is not None and not head.embedded and not Path(head.path).is_file():
            return None
        return self._captures.setdefault(ref.path, capture)

    def measuring(self, job: Job, settings: Settings) -> Measuring:
        """The same for all jobs of one capture under the same settings: the base's logits stay from one to the next."""
        key = (job.capture.sha256, repr(sorted(job.settings.items())), job.llama_compat, job.precision)
        if self._measuring is None or self._measuring[0] != key:
            self._measuring = None
            capture = self.capture(job.capture, job.probe, job.base)
            run = RunFolder(self.store.folder / "runs" / job.capture.sha256[:16])
            made = Measuring(
                capture, settings, run, self.progress, None, job.llama_compat, job.precision, names=[job.probe]
            )
            made.n_lines_left = 2  # the base's logits are kept: another quant is likely
            made.n_sharing = job.n_sharing
            self._measuring = (key, made)
        else:
            self.capture(job.capture, job.probe, job.base)  # another probe may need files
        return self._measuring[1]

    @contextmanager
    def loaded(self, info: ModelInfo, settings: Settings) -> Iterator[LazyModel]:
        """The model, which stays loaded until another is asked for; not if the block fails."""
        key = (info.sha256, settings)
        if self._model is None or self._model[0] != key:
            self.unload()
            self._model = (key, LazyModel(info, settings, self.progress))
        try:
            yield self._model[1]
        except BaseException:
            self.unload()
            raise

    def unload(self) -> None:
        """Close the model in use."""
        if self._model is not None:
            model, self._model = self._model[1], None
            model.__exit__()

    def lend(self, job: Job) -> Path:
        """The file of a model of the hub, fetched now unless it is the one in use; that goes first."""
        from quantprobe.hub.supply import HubSupply

        choice = job.on_demand
        assert choice is not None
        if self._lent is None or self._lent[0] != choice.address:
            self.unload()
            self.give_back()
            stack = ExitStack()
            supply = HubSupply(Path(job.base.files[0][0]), RunFolder(self.store.folder), [choice], self.progress)
            path = stack.enter_context(supply.lend(choice))
            self._lent = (choice.address, path, stack)
        return self._lent[1]

    def give_back(self) -> None:
        """Delete the model of the hub that was in use."""
        if self._lent is not None:
            lent, self._lent = self._lent, None
            lent[2].close()


def capture_parts(
    ref: CaptureRef, files: list[tuple[str, FileEntry]], probe: str, capture: Capture
) -> tuple[Part, ...]:
    """The files of a capture that one probe needs: its tokens and rows, and the output matrix."""
    entry = capture.entry(probe)
    wanted = {entry.probe.name, entry.rows.name, "head.bin", "head_bias.bin"}
    return tuple(Part(ref.folder, file.name, file.n_bytes, file.sha256) for _, file in files if file.name in wanted)
