"""What runs on a worker: it says what it has, takes files, and measures one quant on one text or task at a time."""

from __future__ import annotations

import hashlib
import socket
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import quantprobe
from quantprobe.checks.before_sweep import file_findings
from quantprobe.cluster.messages import Advert, Job, Lacks, Measured, Part, Request
from quantprobe.cluster.workplace import Missing, Workplace
from quantprobe.errors import FileFormatError, InputError, QuantprobeError
from quantprobe.gguf.model import ModelInfo
from quantprobe.gguf.parts import model_name
from quantprobe.limits import available_bytes
from quantprobe.locks import locked
from quantprobe.probes.text import TextProbe
from quantprobe.run.folder import RunFolder
from quantprobe.run.json_text import plain
from quantprobe.run.results import Quant
from quantprobe.settings import Settings, moves_logits
from quantprobe.sweep.inputs import identify, read_measurable
from quantprobe.sweep.machine_floor import Comparison, decode_block
from quantprobe.sweep.measuring import Measuring
from quantprobe.sweep.recorded import record_settings

ROUNDS = 4
"""Files come in rounds: those of the capture, then those of the model."""


def workplace_of(worker: Any) -> Workplace:
    """The workplace of a Dask worker, made when it is first needed."""
    found = vars(worker).get("_quantprobe_workplace")
    if found is None:
        found = vars(worker)["_quantprobe_workplace"] = Workplace(worker)
    assert isinstance(found, Workplace)
    return found


def version(dask_worker: Any = None) -> str:
    """quantprobe's version, asked before anything else: messages of another may differ."""
    return quantprobe.__version__


def advertise(request: Request, dask_worker: Any = None) -> Advert:
    """What this worker has. Called in Dask's own thread (`Client.run`)."""
    workplace = workplace_of(dask_worker)
    facts: Mapping[str, Any] = {}
    devices: tuple[str, ...] = ()
    error = ""
    try:
        recorded = record_settings(Settings.of(dict(request.settings)))
        facts = plain({name: value for name, value in recorded.items() if moves_logits(name)})
        devices = tuple(recorded["devices"])
    except (QuantprobeError, OSError, ImportError) as failure:
        error = str(failure)
    return Advert(
        version=quantprobe.__version__,
        facts=facts,
        holds=tuple(model.sha256 for model in request.models if workplace.holds(model)),
        host=socket.gethostname(),
        memory_bytes=available_bytes(),
        devices=devices,
        error=error,
    )


def received(part: Part, dask_worker: Any = None) -> int:
    """Bytes of a part that came before."""
    return workplace_of(dask_worker).store.received(part)


def receive(part: Part, offset: int, data: bytes, dask_worker: Any = None) -> None:
    """Take the next piece of a part; after the last one its digest is checked."""
    store = workplace_of(dask_worker).store
    if data or not part.n_bytes:
        store.append(part, offset, data)
    if offset + len(data) == part.n_bytes:
        store.finish(part)


def measure(job: Job) -> Measured | Lacks:
    """Measure one quant on one probe. Runs in a thread of the worker; a second job waits for the first."""
    workplace = workplace_of(_worker())
    with workplace.lock:
        for _ in range(ROUNDS):
            try:
                return _measure(workplace, job)
            except Missing as missing:
                left = tuple(
                    part for part in missing.parts if not (job.share and workplace.store.pull(part, job.share))
                )
                if left:
                    return Lacks(left)
        raise FileFormatError(f"{job.share} holds other files than those of {job.model.name}; empty it and start again")


def _measure(workplace: Workplace, job: Job) -> Measured:
    settings = Settings.of(dict(job.settings)).with_threads()
    measuring = workplace.measuring(job, settings)
    if job.on_demand is None:
        info = workplace.model(job.model)
    else:
        info = replace(identify(read_measurable(workplace.lend(job)), workplace.progress), name=job.model.name)
    probe = measuring.probe(job.probe)
    began = time.monotonic()
    with locked(measuring.run.lock(f"{info.name} {job.probe}"), lambda: None):
        with workplace.loaded(info, measuring.settings) as model:
            if isinstance(probe, TextProbe):
                measuring.text(model, probe)
            else:
                measuring.task(model, probe)
        rows = measuring.rows_path(info.identity(), probe).read_bytes()
    quant = None if job.on_demand is None else _recorded(info, job, measuring)
    return Measured(rows, hashlib.sha256(rows).hexdigest(), time.monotonic() - began, quant)


def _recorded(info: ModelInfo, job: Job, measuring: Measuring) -> Mapping[str, Any]:
    """What is recorded of a model that the command never sees."""
    findings = file_findings(info, measuring.capture.meta.base)
    own = replace(info.identity(), name=model_name(info.path))
    found: Mapping[str, Any] = plain(Quant(**vars(own), imatrix=info.imatrix, findings=findings))
    return found


def give_back(dask_worker: Any = None) -> None:
    """Close the model in use, and delete it if it came from the hub: nobody may ask for more in days.

    Not while a job runs, which cannot be stopped: to wait for it here would stop Dask's own thread, and whoever calls.
    """
    workplace = workplace_of(dask_worker)
    if workplace.lock.acquire(blocking=False):
        try:
            workplace.unload()
            workplace.give_back()
        finally:
            workplace.lock.release()


def floor(job: Job) -> tuple[float, int] | Lacks:
    """Mean KLD of the base, decoded here, to its captured rows, nats, and on how many rows: one block of one probe.

    Raises `InputError` if the base does not lie here: it is too large to be sent for a check.
    """
    workplace = workplace_of(_worker())
    with workplace.lock:
        try:
            base = workplace.model(job.base)
            capture = workplace.capture(job.capture, job.probe, job.base).only([job.probe])
        except Missing as missing:
            if any(part.folder == job.base.folder for part in missing.parts):
                raise InputError(f"the base {job.base.name} does not lie there") from missing
            return Lacks(missing.parts)
        workplace.unload()
        settings = Settings.of(dict(job.settings))
        here = Comparison(capture, settings, RunFolder(workplace.store.folder), base.path, False, workplace.progress)
        _, klds = decode_block(here, base)
        return float(klds.mean()), len(klds)


def _worker() -> Any:
    from distributed import get_worker

    return get_worker()
