"""Gives jobs to workers: each worker has one, those of one model follow each other, and what fails is tried elsewhere.

Dask moves a job whose worker died to another by itself. What is decided here is which job a free worker gets, because
Dask does not know that loading a model costs minutes, and keeps thousands of waiting jobs in the scheduler's memory.
"""

from __future__ import annotations

import queue
import statistics
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from quantprobe.errors import ClusterError, QuantprobeError

POLL_SECONDS = 1.0
MAX_TRIES = 3
"""How often a job may fail, on different workers where there are several, before it is given up."""
MAX_ROUNDS = 8
"""How often a worker may ask for files before it measures."""
MAX_TOLD = 3
"""Jobs that the final error names."""
STRAGGLES = 4.0
"""A job that takes so many times what others took for as many tokens is told..."""
STRAGGLES_SECONDS = 30.0
"""...if it took at least as long."""

Prepare = Callable[[], None]
"""What must be done before a job can be asked for again, such as sending files; runs in a thread of its own."""


@dataclass(eq=False)
class Work:
    """One job, and how it went so far."""

    name: str
    """For people: `Q4_K_M on wiki`."""
    payload: Any
    group: str
    """Jobs of one group use the same model: they go to the same worker as long as every worker has something to do."""
    n_units: int = 1
    """Tokens."""
    is_together: bool = False
    """Whether the jobs of the group never run on two workers at a time."""
    failed_on: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    rounds: int = 0


@dataclass
class _Slot:
    """A job on a worker."""

    work: Work
    future: Any
    began: float
    told: bool = False


class Dispatcher:
    """Runs jobs on the workers of a Dask client.

    `run` is called on the worker with a payload; `answer` here with the job, the worker's address and the result: it
    gives what must be done before the job is asked for again, or None when it is done. `accepts` says whether a worker
    that came may work, `holds` which groups it has the files of.
    """

    def __init__(
        self,
        client: Any,
        run: Callable[[Any], Any],
        answer: Callable[[Work, str, Any], Prepare | None],
        accepts: Callable[[str], bool],
        holds: Callable[[str], Collection[str]],
        on_note: Callable[[str], None],
    ) -> None:
        self._client = client
        self._run = run
        self._answer = answer
        self._accepts = accepts
        self._holds = holds
        self._note = on_note
        self._events: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._pending: dict[str, deque[Work]] = {}
        self._untouched: dict[str, None] = {}
        self._again: deque[Work] = deque()
        self._workers: dict[str, bool] = {}
        self._slots: dict[str, _Slot] = {}
        self._moved: list[_Slot] = []
        """Jobs of workers that are gone; Dask gives them to others."""
        self._sending: list[tuple[str, Work]] = []
        self._ready: dict[str, deque[Work]] = {}
        """By worker, jobs whose files it has got."""
        self._over: list[tuple[_Slot, str, float]] = []
        """Jobs that ended and whose results are not fetched yet, their workers, and the seconds they took."""
        self._known: set[tuple[str, str]] = set()
        """Workers and groups of which a job is done: the next one lacks no file of the model."""
        self._held: set[str] = set()
        """Workers that get no job before the result of their last is known."""
        self._last_group: dict[str, str] = {}
        self._pace: deque[float] = deque(maxlen=64)
        self._polled = 0.0
        self._n_left = 0
        self._told_empty = False
        self.failed: list[Work] = []
        """Jobs that were given up."""

    def run_all(self, works: Sequence[Work]) -> None:
        """Until every job is done or given up. Raises `ClusterError` if the scheduler is lost."""
        for work in works:
            self._pending.setdefault(work.group, deque()).append(work)
        self._untouched = dict.fromkeys(self._pending)
        self._n_left = len(works)
        with ThreadPoolExecutor(max_workers=4, thread_name_prefix="send") as self._senders:
            try:
                while self._n_left:
                    self._look_for_workers()
                    self._hand_out()
                    self._take_events()
            finally:
                if self._client.status == "running":
                    self._client.cancel([slot.future for slot in (*self._slots.values(), *self._moved)], force=True)

    def _take_events(self) -> None:
        try:
            self._events.get(timeout=POLL_SECONDS)()
            while True:
                self._events.get_nowait()()
        except queue.Empty:
            self._tell_stragglers()
        if self._over:
            self._hand_out()  # results take their time to come; nobody waits for that
            self._settle()

    def _look_for_workers(self) -> None:
        """Once a second: who came, and who is gone."""
        if time.monotonic() - self._polled < POLL_SECONDS:
            return
        if self._client.status != "running":  # it would try again for half a minute, and the jobs are lost all the same
            raise self._lost("the connection broke")
        try:
            there = self._client.nthreads()
        except Exception as error:  # whatever the transport raises, the scheduler does not answer
            raise self._lost(error) from error
        self._polled = time.monotonic()
        for address in [each for each in self._workers if each not in there]:
            del self._workers[address]
            self._last_group.pop(address, None)
            self._again.extend(self._ready.pop(address, ()))
            slot = self._slots.pop(address, None)
            if slot is not None:
                self._moved.append(slot)
                self._note(f"worker {address} is gone; {slot.work.name} is measured by another")
        for address in there:
            if address not in self._workers:
                self._workers[address] = self._accepts(address)
        if not there and self._n_left and not self._told_empty:
            self._note("there is no worker; waiting for one (quantprobe worker ADDRESS)")
        self._told_empty = not there

    def _lost(self, error: object) -> ClusterError:
        return ClusterError(f"the scheduler does not answer any more ({str(error) or type(error).__name__})")

    def _hand_out(self) -> None:
        waiting = self._held.union(address for address, _ in self._sending)
        for address, may_work in self._workers.items():
            if may_work and address not in self._slots and address not in waiting:
                work = self._choose(address)
                if work is not None:
                    self._submit(address, work)
        if self._workers and not any(self._workers.values()) and not self._slots and not self._moved:
            raise ClusterError("no worker of the cluster can be used; the notes above say why")

    def _choose(self, address: str) -> Work | None:
        """The next job for a worker: one that failed elsewhere; of its model; of one it holds; of any; of any begun."""
        if self._ready.get(address):
            return self._ready[address].popleft()
        for work in self._again:
            n_others = sum(self._workers.values()) - len(set(work.failed_on) & set(self._workers))
            if address not in work.failed_on or n_others < 1:
                self._again.remove(work)
                return work
        own = self._last_group.get(address, "")
        if self._pending.get(own):
            return self._take(own)
        for group in self._holds(address):
            if group in self._untouched:
                return self._take(group)
        if self._untouched:
            return self._take(next(iter(self._untouched)))
        taken = {self._last_group.get(each) for each in self._workers}
        left = [group for group, works in self._pending.items() if not works[0].is_together or group not in taken]
        return self._take(max(left, key=lambda group: len(self._pending[group]))) if left else None

    def _take(self, group: str) -> Work:
        self._untouched.pop(group, None)
        work = self._pending[group].popleft()
        if not self._pending[group]:
            del self._pending[group]
        return work

    def _submit(self, address: str, work: Work) -> None:
        future = self._client.submit(
            self._run, work.payload, workers=[address], allow_other_workers=True, pure=False, retries=0
        )
        self._slots[address] = _Slot(work, future, time.monotonic())
        self._last_group[address] = work.group
        future.add_done_callback(lambda done: self._events.put(lambda: self._ended(done)))

    def _ended(self, future: Any) -> None:
        """A job ended, where it was sent or where Dask moved it."""
        address = next((each for each, slot in self._slots.items() if slot.future is future), "")
        slot = self._slots.pop(address, None) or next((s for s in self._moved if s.future is future), None)
        if slot is None:
            return
        if slot in self._moved:
            self._moved.remove(slot)
        if future.status not in ("finished", "error"):  # only a scheduler that is gone does that
            raise self._lost(f"{slot.work.name} was {future.status}")
        if (address, slot.work.group) not in self._known:
            self._held.add(address)
        self._over.append((slot, address, time.monotonic() - slot.began))

    def _settle(self) -> None:
        """Fetch the results of all jobs that ended, in one call."""
        over, self._over = self._over, []
        done = [each for each in over if each[0].future.status == "finished"]
        try:
            results = self._client.gather([slot.future for slot, _, _ in done])
        except OSError as error:
            raise self._lost(error) from error
        for (slot, address, seconds), result in zip(done, results, strict=True):
            self._finished(slot.work, address, result, seconds)
        for slot, address, _ in over:
            if slot.future.status == "error":
                self._failed(slot.work, address, slot.future.exception())
            self._held.discard(address)

    def _finished(self, work: Work, address: str, result: Any, seconds: float) -> None:
        try:
            prepare = self._answer(work, address, result)
        except QuantprobeError as error:
            self._failed(work, address, error)
            return
        if prepare is None:
            self._n_left -= 1
            self._known.add((address, work.group))
            self._pace.append(seconds / max(1, work.n_units))
            return
        work.rounds += 1
        if work.rounds > MAX_ROUNDS:
            self._failed(work, address, ClusterError(f"it asked for files {work.rounds} times"))
            return
        if not address:  # Dask moved the job, so who lacks the files is not known: whoever gets it next is asked
            self._again.append(work)
            return
        self._sending.append((address, work))
        sent = self._senders.submit(prepare)
        sent.add_done_callback(lambda done: self._events.put(lambda: self._sent(work, address, done.exception())))

    def _sent(self, work: Work, address: str, error: BaseException | None) -> None:
        self._sending.remove((address, work))
        if error is not None:
            self._failed(work, address, error)
        elif address in self._workers:
            self._ready.setdefault(address, deque()).append(work)
        else:
            self._again.append(work)

    def _failed(self, work: Work, address: str, error: BaseException | None) -> None:
        work.errors.append(str(error) or type(error).__name__)
        work.failed_on.append(address)
        where = address or "a worker"
        if len(work.errors) < MAX_TRIES:
            self._note(f"{work.name} failed on {where} ({work.errors[-1]}); it is tried again")
            self._again.append(work)
            return
        self._note(f"{work.name} failed on {where} ({work.errors[-1]}); it is given up")
        self._n_left -= 1
        self.failed.append(work)

    def _tell_stragglers(self) -> None:
        if not self._pace:
            return
        pace = statistics.median(self._pace)
        for address, slot in self._slots.items():
            seconds = time.monotonic() - slot.began
            usual = pace * max(1, slot.work.n_units)
            if not slot.told and seconds > max(STRAGGLES_SECONDS, STRAGGLES * usual):
                slot.told = True
                self._note(
                    f"{slot.work.name} runs for {seconds:.0f} s on {address}, others took {usual:.0f} s for as much; "
                    "if that worker hangs, end it: another takes its job"
                )


def describe_failures(failed: Sequence[Work]) -> str:
    """A clause for each of the first jobs that were given up, and how many more there are."""
    told = [f"{work.name}: {work.errors[-1]}" for work in failed[:MAX_TOLD]]
    return "; ".join([*told, *([f"and {len(failed) - MAX_TOLD} more"] if len(failed) > MAX_TOLD else [])])
