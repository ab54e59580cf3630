"""Captures the base: decode once, keep what gives its rows back, check that it does."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from quantprobe.capture.meta import FORMAT_VERSION, CaptureMeta
from quantprobe.capture.probe_files import Probe
from quantprobe.capture.store import Capture
from quantprobe.capture.writer import find_unfinished, lock_file, require_fit
from quantprobe.engine.model import Model
from quantprobe.errors import InputError
from quantprobe.locks import locked
from quantprobe.settings import Settings
from quantprobe.sweep.base_decode import BaseDecode, Jobs
from quantprobe.sweep.inputs import Inputs, Progress, load_model, make_text_probe
from quantprobe.sweep.prepared import Prepared, prepare
from quantprobe.sweep.tasks import make_task_probe


def capture_base(
    base: Path,
    inputs: Inputs,
    settings: Settings,
    out: Path,
    progress: Progress,
    *,
    kind: str | None = None,
    embed_head: bool = False,
) -> Capture:
    """Decode the base over all inputs and write the capture `out`, or add to it what it does not have yet.

    An unfinished capture is continued. `kind` forces `hidden` or `logprobs`; by default the self-check decides.
    `embed_head` copies the output matrix into the capture, so that it can be compared where the base is not at hand.
    Raises `MismatchError` if `out` is of another base or settings, `InputError` if it has another text or task of the
    same name; nothing is changed then.
    """
    return capture_prepared(prepare(base, inputs, settings, progress), out, progress, kind=kind, embed_head=embed_head)


def capture_prepared(
    prepared: Prepared,
    out: Path,
    progress: Progress,
    *,
    kind: str | None = None,
    embed_head: bool = False,
    n_quants: int = 0,
    replaces: bool = False,
) -> Capture:
    """`capture_base` of inputs that are read already; `n_quants` are compared afterwards in the same run.

    With `replaces` a text or task that changed takes the place of the one of the same name. One process at a time
    writes a capture; another waits and then uses what is there.
    """
    wanted = Wanted(prepared, out, kind, embed_head, replaces)
    done = wanted.find()
    if done is None:
        with locked(lock_file(out), lambda: progress.note(f"another process is writing {out}; waiting for it")):
            done = wanted.find()
            if done is None:
                return _capture(wanted, progress, n_quants)
    progress.note(f"{out} already holds this capture; using it")
    return done


@dataclass(frozen=True)
class Wanted:
    """A capture as it is asked for."""

    prepared: Prepared
    out: Path
    kind: str | None
    embed_head: bool
    replaces: bool

    def find(self) -> Capture | None:
        """The capture, if it is there and has everything.

        Raises `MismatchError` if another capture lies there, `InputError` if a probe of it would have to be replaced.
        """
        if not self.out.exists():
            return None
        capture = Capture.open(self.out)
        require_fit(self.out, capture.meta, self.meta(self.kind or capture.meta.kind))
        changed = self.changed(capture.meta)
        if changed and not self.replaces:
            raise InputError(
                f"{self.out} has another {changed[0]!r} than this one; name it apart (--text NAME=FILE, "
                "--task NAME=FILE), or choose another --out (nothing was changed)"
            )
        head = capture.meta.head
        embeds = self.embed_head and head is not None and not head.embedded
        return None if embeds or self.missing(capture.meta) else capture

    def meta(self, kind: str) -> CaptureMeta:
        """What it would say about itself, without probes."""
        return CaptureMeta(
            FORMAT_VERSION, kind, self.prepared.info.identity(), self.prepared.recorded(), head=None, probes=()
        )

    def missing(self, meta: CaptureMeta | None) -> list[str]:
        """Names of the probes that are not there, or that changed."""
        there = {entry.name: entry.source for entry in meta.probes} if meta is not None else {}
        return [name for name, source in self.prepared.sources().items() if there.get(name) != source]

    def found(self, meta: CaptureMeta) -> list[str]:
        """Names of the probes that are there."""
        missing = self.missing(meta)
        return [name for name in self.prepared.sources() if name not in missing]

    def changed(self, meta: CaptureMeta) -> list[str]:
        """Names of the probes that are there with other content."""
        there = {entry.name for entry in meta.probes}
        return [name for name in self.missing(meta) if name in there]

    def begun(self) -> CaptureMeta | None:
        """What is there of it: the finished capture, or an unfinished one."""
        if self.out.exists():
            return Capture.open(self.out).meta
        kinds = ("hidden", "logprobs") if self.kind is None else (self.kind,)
        found = (find_unfinished(self.out, self.meta(kind)) for kind in kinds)
        return next((meta for meta in found if meta is not None), None)


def _capture(wanted: Wanted, progress: Progress, n_quants: int) -> Capture:
    """Decode what is missing; the lock is held."""
    begun = wanted.begun()
    finished = begun if wanted.out.exists() else None
    for name in [] if finished is None else wanted.changed(finished):
        progress.note(f"{name} has changed; {wanted.out} gets the new one in place of the old")
    with load_model(wanted.prepared.info, wanted.prepared.settings, progress) as model:
        if begun is not None:
            model.require_flash_attn(begun.settings.get("flash_attn_used"))
        recorded = {**wanted.prepared.recorded(), "flash_attn_used": model.flash_attn_used}  # only a loaded model tells
        probes = _make_probes(model, wanted, finished, progress)
        with closing(BaseDecode(model, wanted.prepared.info, probes, wanted.kind, begun, progress)) as decode:
            there = [entry for entry in finished.probes if entry.name in wanted.found(finished)] if finished else []
            jobs = Jobs(n_quants, len(there), sum(entry.n_tokens for entry in there))
            return decode.write(wanted.out, recorded, wanted.embed_head, jobs)


def _make_probes(model: Model, wanted: Wanted, finished: CaptureMeta | None, progress: Progress) -> list[Probe]:
    prepared, missing = wanted.prepared, wanted.missing(finished)
    probes: list[Probe] = [
        make_text_probe(model, text, prepared.inputs, progress) for text in prepared.texts if text.name in missing
    ]
    probes += [make_task_probe(model, task, progress) for task in prepared.tasks if task.given.name in missing]
    return probes
