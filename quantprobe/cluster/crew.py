"""A sweep's measurements on the workers of a cluster; what they find is put into the run's folder."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from quantprobe.capture.meta_file import META_FILE
from quantprobe.capture.probe_files import Probe
from quantprobe.cluster.dispatch import Dispatcher, Prepare, Work, describe_failures
from quantprobe.cluster.kinds import Kinds
from quantprobe.cluster.messages import CaptureRef, Job, Lacks, Measured, ModelRef
from quantprobe.cluster.place import ClusterPlace, open_client
from quantprobe.cluster.sending import Sender, Source
from quantprobe.cluster.store import SCRATCH
from quantprobe.cluster.worker import give_back, measure
from quantprobe.cluster.workplace import TOPIC
from quantprobe.errors import ClusterError, FileFormatError, MismatchError
from quantprobe.files import write_whole
from quantprobe.gguf.model import ModelIdentity
from quantprobe.gguf.parts import model_name, split_paths
from quantprobe.locks import try_lock
from quantprobe.run.results import Quant
from quantprobe.run.rows import read_arrays
from quantprobe.sweep.lines import Line, line_name
from quantprobe.sweep.making import OnDemand
from quantprobe.sweep.measuring import Measuring


class Crew:
    """The workers of a cluster, as a sweep uses them (`sweep.making.Workers`).

    `allow` names facts of machines that may differ from this one's: what workers of another kind measure is used then.
    """

    def __init__(self, place: ClusterPlace, base: Path, allow: Sequence[str] = ()) -> None:
        self._place = place
        self._base = base
        self._allow = tuple(allow)

    def measure(self, measuring: Measuring, lines: Sequence[Line], demands: Sequence[OnDemand]) -> list[str]:
        """Have everything measured that the run's folder lacks, and give the differences of workers that were allowed.

        Everything that a worker measured is in the folder as soon as it came. Raises `ClusterError` if the cluster is
        lost, or jobs failed on several workers; the same call then goes on.
        """
        with ExitStack() as held:
            mine = [line for line in lines if _lock(held, measuring.run.lock(line.info.name))]
            jobs = _Jobs(measuring, self._place, self._base)
            works = [work for line in mine for work in jobs.of_line(line)]
            for demand in demands:
                orders = [order for order in demand.left() if _lock(held, demand.supply.lock(order))]
                works += [work for order in orders for work in jobs.of_order(demand, order)]
            if not works:
                return []
            scratch = measuring.run.path.resolve() / "cluster"
            with open_client(self._place, {SCRATCH: str(scratch)}) as client:
                differences = _Shift(client, measuring, jobs, self._place, self._allow).work(works)
            shutil.rmtree(scratch, ignore_errors=True)  # all of it is in the run
            return differences


def _lock(held: ExitStack, path: Path) -> bool:
    """Take a lock for the time of the work; another process that has it measures that quant."""
    lock = try_lock(path)
    if lock is not None:
        held.enter_context(lock)
    return lock is not None


class _Jobs:
    """What is left to do, as messages."""

    def __init__(self, measuring: Measuring, place: ClusterPlace, base: Path) -> None:
        self._measuring = measuring
        self._place = place
        capture = measuring.capture
        self.capture = CaptureRef(str(capture.path.resolve()), capture.sha256, (capture.path / META_FILE).read_bytes())
        paths = split_paths(base)
        self.base = _reference(capture.meta.base.name, capture.meta.base.sha256, paths)
        self.orders: dict[str, tuple[OnDemand, Any, int]] = {}
        """By group, the demand, the order, and how many of its jobs are left."""
        self.models: dict[str, ModelRef] = {}
        self.lines: dict[str, tuple[Measuring, ModelIdentity | None]] = {}

    def of_line(self, line: Line) -> list[Work]:
        """A job for each probe that is left of a line."""
        own = self._measuring.under(line.variant)
        model = _reference(line.info.name, line.info.sha256, split_paths(line.info.path))
        self.models[line.info.sha256] = model
        self.lines[line.info.name] = (own, line.info.identity())
        left = own.left(line.info.identity(), False)
        return [self._work(own, model, probe, line.info.sha256, None) for probe in left]

    def of_order(self, demand: OnDemand, order: Any) -> list[Work]:
        """The jobs of a model that a worker fetches itself."""
        works = []
        for variant in demand.variants:
            own = self._measuring.under(variant)
            name = line_name(order.name, variant)
            model = ModelRef(name, "", ())
            self.lines[name] = (own, None)
            works += [self._work(own, model, probe, order.address, order) for probe in own.probes]
        self.orders[order.address] = (demand, order, len(works))
        return works

    def _work(self, own: Measuring, model: ModelRef, probe: Probe, group: str, order: Any) -> Work:
        settings = {**own.settings.to_dict(), "n_threads": own.given_threads or self._place.worker_threads}
        job = Job(
            capture=self.capture,
            model=model,
            probe=probe.name,
            settings=settings,
            llama_compat=own.llama_compat,
            precision=own.precision,
            base=self.base,
            share=self._place.share,
            n_sharing=self._place.n_local or 1,
            on_demand=order,
        )
        # a model of the hub is deleted by the worker that fetched it, so no other may be reading it
        return Work(f"{model.name} on {probe.name}", job, group, own.n_tokens(probe), is_together=order is not None)


def _reference(name: str, sha256: str, paths: Sequence[Path]) -> ModelRef:
    return ModelRef(name, sha256, tuple((str(path.absolute()), path.stat().st_size) for path in paths))


class _Shift:
    """One piece of work with a connected client."""

    def __init__(
        self, client: Any, measuring: Measuring, jobs: _Jobs, place: ClusterPlace, allow: Sequence[str]
    ) -> None:
        self._client = client
        self._measuring = measuring
        self._jobs = jobs
        self._progress = measuring.progress
        self._sender = Sender(client, place.share, self._progress.note)
        self._sender.know_capture(jobs.capture.folder, measuring.capture, Path(jobs.base.files[0][0]))
        for model in jobs.models.values():
            for part, (path, _) in zip(
                model.parts(tuple(Path(p).name for p, _ in model.files)), model.files, strict=True
            ):
                self._sender.know(part, Source(Path(path)))
        self._kinds = Kinds(client, measuring, jobs.models, allow, self._sender)
        self._n_done = self._n_works = 0

    def work(self, works: Sequence[Work]) -> list[str]:
        """Everything; gives the differences between machines that were allowed."""
        self._n_works = len(works)
        self._kinds.floor_job = works[0].payload
        self._client.subscribe_topic(TOPIC, self._heard)
        dispatcher = Dispatcher(
            self._client, measure, self._answer, self._kinds.accept, self._kinds.holds, self._progress.note
        )
        n_tokens = sum(work.n_units for work in works)
        self._progress.start(f"measure {len(works)} jobs on the cluster", n_tokens, "tok")
        try:
            dispatcher.run_all(works)
        except ClusterError as error:
            raise ClusterError(f"{error}; {self._kept()}") from error
        finally:
            self._progress.finish()
            if self._client.status == "running":
                with contextlib.suppress(Exception):  # whoever is gone has nothing to give back
                    self._client.run(give_back)
        if dispatcher.failed:
            raise ClusterError(f"given up: {describe_failures(dispatcher.failed)}; {self._kept()}")
        return self._kinds.differences

    def _kept(self) -> str:
        done = f"{self._n_done} of {self._n_works} measurements are"
        return f"{done} in {self._measuring.run.path}; run the same command again to go on"

    def _heard(self, event: tuple[Any, Mapping[str, Any]]) -> None:
        """A worker tells how far it is (in Dask's thread)."""
        _, told = event
        if "note" in told:
            self._progress.note(f"{told['worker']}: {told['note']}")
        else:
            self._progress.advance(int(told["tokens"]))

    def _answer(self, work: Work, worker: str, result: Measured | Lacks) -> Prepare | None:
        """Put what a worker measured into the run. Raises `FileFormatError` or `MismatchError` if it does not fit."""
        if isinstance(result, Lacks):
            return partial(self._sender.send, worker, result.parts)
        job: Job = work.payload
        if hashlib.sha256(result.rows).hexdigest() != result.sha256:
            raise FileFormatError(f"the rows of {work.name} came damaged")
        own, identity = self._jobs.lines[job.model.name]
        quant = identity or self._identity(result, job)
        probe = own.probe(job.probe)
        path = own.rows_path(quant, probe)
        arriving = path.with_name(f"{path.name}.arriving")
        write_whole(arriving, result.rows)
        if read_arrays(arriving, own.accepted_keys(quant, probe), ()) is None:
            arriving.unlink()
            raise MismatchError(f"the rows of {work.name} were measured on another file, capture or kind of machine")
        arriving.replace(path)
        self._n_done += 1
        self._count()
        if result.quant is not None:
            self._finish_order(work.group, result.quant)
        return None

    def _identity(self, result: Measured, job: Job) -> ModelIdentity:
        """A model of the hub is what its worker read of it."""
        quant = msgspec.convert(result.quant, Quant)
        return replace(quant, name=job.model.name)

    def _finish_order(self, group: str, told: Mapping[str, Any]) -> None:
        """Record a model of the hub once all of it is measured."""
        demand, order, n_left = self._jobs.orders[group]
        self._jobs.orders[group] = (demand, order, n_left - 1)
        if n_left == 1:
            quant = msgspec.convert(told, Quant)
            demand.supply.remember(order, replace(quant, name=model_name(Path(order.name)), variant={}))

    def _count(self) -> None:
        """One job of the whole run is done; the bar of the stage begins anew with what is left."""
        self._progress.finish()
        left = self._n_works - self._n_done
        if left:
            self._progress.start(f"{self._n_done} of {self._n_works} measured on the cluster", None, "tok")
