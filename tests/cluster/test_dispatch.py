"""Which worker gets which job, and what happens to jobs that fail, move or hang; no process is started."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from quantprobe.cluster import dispatch
from quantprobe.cluster.dispatch import Dispatcher, Work
from quantprobe.errors import ClusterError, MismatchError


class Future:
    """Ends when it is told to, or at once."""

    def __init__(self, address: str, payload: Any) -> None:
        self.address = address
        self.payload = payload
        self.status = "pending"
        self._result: Any = None
        self._callbacks: list[Callable[[Any], None]] = []

    def add_done_callback(self, function: Callable[[Any], None]) -> None:
        self._callbacks.append(function)
        if self.status != "pending":
            function(self)

    def end(self, result: Any, status: str = "finished") -> None:
        self._result, self.status = result, status
        for function in self._callbacks:
            function(self)

    def result(self) -> Any:
        return self._result

    def exception(self) -> Any:
        return self._result


class Client:
    """Workers that do a job at once: `behave(address, payload)` gives the result, or raises it."""

    status = "running"

    def __init__(self, workers: list[str], behave: Callable[[str, Any], Any]) -> None:
        self.workers = workers
        self.behave = behave
        self.done: list[tuple[str, Any]] = []
        self.waiting: list[Future] = []

    def nthreads(self) -> dict[str, int]:
        return dict.fromkeys(self.workers, 1)

    def submit(self, _run: Any, payload: Any, workers: list[str], **_more: Any) -> Future:
        future = Future(workers[0], payload)
        self.done.append((workers[0], payload))
        try:
            result = self.behave(workers[0], payload)
        except Exception as error:
            future.end(error, "error")
            return future
        if result is None:
            self.waiting.append(future)
        else:
            future.end(result)
        return future

    def gather(self, futures: list[Future]) -> list[Any]:
        return [future.result() for future in futures]

    def cancel(self, _futures: Any, force: bool) -> None:
        self.cancelled = True


class Outcome:
    def __init__(self, client: Client, **options: Any) -> None:
        self.notes: list[str] = []
        self.answers: list[tuple[str, str, Any]] = []
        self.dispatcher = Dispatcher(
            client, len, options.get("answer", self._answer), options.get("accepts", lambda _: True),
            options.get("holds", lambda _: ()), self.notes.append,
        )  # fmt: skip

    def _answer(self, work: Work, worker: str, result: Any) -> None:
        self.answers.append((work.name, worker, result))


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "POLL_SECONDS", 0.01)


def works(groups: str, n_probes: int = 2) -> list[Work]:
    return [Work(f"{group}{n}", f"{group}{n}", group) for group in groups for n in range(n_probes)]


def test_jobs_of_a_model_stay_together() -> None:
    client = Client(["w1", "w2"], lambda worker, payload: payload)
    outcome = Outcome(client)
    outcome.dispatcher.run_all(works("abcd"))
    of = {payload[0]: {worker for worker, p in client.done if p[0] == payload[0]} for _, payload in client.done}
    assert all(len(workers) == 1 for workers in of.values())
    assert sorted(name for name, _, _ in outcome.answers) == sorted(work.name for work in works("abcd"))


def test_a_model_goes_where_its_file_is() -> None:
    client = Client(["w1", "w2"], lambda worker, payload: payload)
    holds = {"w1": ("d",), "w2": ("c",)}
    Outcome(client, holds=holds.__getitem__).dispatcher.run_all(works("abcd", 1))
    assert client.done[:2] == [("w1", "d0"), ("w2", "c0")]


def test_workers_without_models_of_their_own_share_the_last() -> None:
    client = Client(["w1", "w2"], lambda worker, payload: payload)
    Outcome(client).dispatcher.run_all(works("a", 6))
    assert {worker for worker, _ in client.done} == {"w1", "w2"}


def test_a_job_that_fails_is_tried_on_another_worker() -> None:
    def behave(worker: str, payload: str) -> str:
        if worker == "w1" and payload == "a0":
            raise OSError("disk full")
        return payload

    client = Client(["w1", "w2"], behave)
    outcome = Outcome(client)
    outcome.dispatcher.run_all(works("ab", 3))
    assert not outcome.dispatcher.failed
    assert [worker for worker, payload in client.done if payload == "a0"] == ["w1", "w2"]
    assert any("disk full" in note for note in outcome.notes)


def test_a_job_that_always_fails_is_given_up_and_the_others_done() -> None:
    def behave(worker: str, payload: str) -> str:
        if payload == "b1":
            raise MismatchError("it is another model")
        return payload

    client = Client(["w1", "w2"], behave)
    outcome = Outcome(client)
    outcome.dispatcher.run_all(works("abc"))
    assert [work.name for work in outcome.dispatcher.failed] == ["b1"]
    assert outcome.dispatcher.failed[0].errors == ["it is another model"] * dispatch.MAX_TRIES
    assert len(outcome.answers) == 5


def test_one_worker_alone_may_try_again() -> None:
    failures = iter([True, False])

    def behave(worker: str, payload: str) -> str:
        if next(failures, False):
            raise OSError("lost")
        return payload

    outcome = Outcome(Client(["w1"], behave))
    outcome.dispatcher.run_all(works("a", 2))
    assert not outcome.dispatcher.failed


def test_files_are_sent_and_the_same_worker_asked_again() -> None:
    sent: list[str] = []
    client = Client(["w1", "w2"], lambda worker, payload: "done" if worker in sent else "lacks")

    def answer(work: Work, worker: str, result: Any) -> Callable[[], None] | None:
        return None if result == "done" else lambda: sent.append(worker)

    Outcome(client, answer=answer).dispatcher.run_all(works("ab", 1))
    assert sorted(sent) == ["w1", "w2"]
    assert client.done[2:] in ([("w1", "a0"), ("w2", "b0")], [("w2", "b0"), ("w1", "a0")])


def test_a_worker_that_never_has_enough_is_given_up() -> None:
    client = Client(["w1"], lambda worker, payload: "lacks")
    outcome = Outcome(client, answer=lambda work, worker, result: lambda: None)
    outcome.dispatcher.run_all(works("a", 1))
    assert "asked for files" in outcome.dispatcher.failed[0].errors[-1]


def test_the_job_of_a_worker_that_died_ends_elsewhere() -> None:
    client = Client(["w1", "w2"], lambda worker, payload: None if payload == "a0" else payload)
    outcome = Outcome(client)

    def end_after_death(work: Work, worker: str, result: Any) -> None:
        outcome.answers.append((work.name, worker, result))
        if len(outcome.answers) == 1:
            client.workers = ["w2"]

    outcome.dispatcher._answer = end_after_death
    original = outcome.dispatcher._look_for_workers

    def look() -> None:
        original()
        if "w1" not in outcome.dispatcher._workers and client.waiting:
            client.waiting.pop().end("a0")  # Dask gave it to w2

    outcome.dispatcher._look_for_workers = look  # type: ignore[method-assign]
    outcome.dispatcher.run_all(works("ab", 2))
    assert sorted(name for name, _, _ in outcome.answers) == ["a0", "a1", "b0", "b1"]
    assert any("w1 is gone" in note for note in outcome.notes)


def test_a_job_that_hangs_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "STRAGGLES_SECONDS", 0.02)
    client = Client(["w1", "w2"], lambda worker, payload: None if payload == "a0" else payload)
    outcome = Outcome(client)

    def note(text: str) -> None:
        outcome.notes.append(text)
        client.waiting.pop().end("a0")

    outcome.dispatcher._note = note
    outcome.dispatcher.run_all(works("ab"))
    assert len(outcome.notes) == 1
    assert "a0 runs for" in outcome.notes[0]
    assert "w1" in outcome.notes[0]


def test_a_scheduler_that_is_gone_ends_the_work() -> None:
    client = Client(["w1"], lambda worker, payload: None)

    def gone() -> dict[str, int]:
        raise OSError("connection refused")

    outcome = Outcome(client)
    outcome.dispatcher._look_for_workers()
    client.nthreads = gone  # type: ignore[method-assign]
    with pytest.raises(ClusterError, match=r"does not answer any more \(connection refused\)"):
        outcome.dispatcher.run_all(works("a"))
    assert client.cancelled


def test_a_connection_that_broke_ends_the_work() -> None:
    client = Client(["w1"], lambda worker, payload: None)
    client.status = "connecting"
    with pytest.raises(ClusterError, match="the connection broke"):
        Outcome(client).dispatcher.run_all(works("a"))


def test_a_cancelled_job_means_that_the_scheduler_is_gone() -> None:
    client = Client(["w1"], lambda worker, payload: None)
    outcome = Outcome(client)
    original = outcome.dispatcher._hand_out

    def hand_out() -> None:
        original()
        client.waiting.pop().end(None, "cancelled")

    outcome.dispatcher._hand_out = hand_out  # type: ignore[method-assign]
    with pytest.raises(ClusterError, match="a0 was cancelled"):
        outcome.dispatcher.run_all(works("a"))


def test_without_a_worker_that_fits_the_work_ends() -> None:
    outcome = Outcome(Client(["w1"], lambda worker, payload: payload), accepts=lambda _: False)
    with pytest.raises(ClusterError, match="no worker of the cluster can be used"):
        outcome.dispatcher.run_all(works("a"))


def test_without_any_worker_it_waits() -> None:
    client = Client([], lambda worker, payload: payload)
    outcome = Outcome(client)

    def note(text: str) -> None:
        outcome.notes.append(text)
        client.workers = ["w1"]

    outcome.dispatcher._note = note
    outcome.dispatcher.run_all(works("a"))
    assert outcome.notes == ["there is no worker; waiting for one (quantprobe worker ADDRESS)"]
    assert len(outcome.answers) == 2


def test_jobs_that_belong_together_never_run_on_two_workers() -> None:
    client = Client(["w1", "w2"], lambda worker, payload: payload)
    given = works("a", 6)
    for work in given:
        work.is_together = True
    Outcome(client).dispatcher.run_all(given)
    assert {worker for worker, _ in client.done} == {"w1"}


def test_a_job_that_lacks_files_waits_for_the_job_that_was_given_meanwhile() -> None:
    """The second job of a model lacks the rows of its text; the third is under way by then."""
    asked: list[str] = []

    def behave(worker: str, payload: str) -> str:
        asked.append(payload)
        return "lacks" if payload == "a1" and asked.count("a1") == 1 else "done"

    def answer(work: Work, worker: str, result: Any) -> Callable[[], None] | None:
        return (lambda: None) if result == "lacks" else None

    outcome = Outcome(Client(["w1"], behave), answer=answer)
    outcome.dispatcher.run_all(works("a", 4))
    assert sorted(asked) == ["a0", "a1", "a1", "a2", "a3"]
    assert not outcome.dispatcher.failed
