"""Gates of a policy on what a run measured: fidelity by text, direction by task."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from quantprobe.checks.outcome import FAIL, UNCHECKED, Check, passed
from quantprobe.checks.policy import Policy, TaskGates, TextGates
from quantprobe.gguf.model import ModelInfo
from quantprobe.run.results import Quant, Results
from quantprobe.stats.estimates import Estimate
from quantprobe.stats.paired import BETTER, EQUIVALENT, NOT_INFERIOR, WORSE
from quantprobe.stats.summary import TextSummary
from quantprobe.stats.summary_tasks import TaskSummary

RUN = "run"


@dataclass(frozen=True)
class _Limit:
    """One number against its limit."""

    what: str
    value: float | None
    bound: float | None
    """The unfavourable end of the interval; the value itself where there is none."""
    limit: float
    is_maximum: bool

    def check(self, name: str) -> Check:
        relation = "at most" if self.is_maximum else "at least"
        if self.value is None or self.bound is None:
            return Check(name, UNCHECKED, f"{self.what} was not measured, expected {relation} {self.limit:g}")
        holds = self.bound <= self.limit if self.is_maximum else self.bound >= self.limit
        end = "" if self.bound == self.value else f" ({'up to' if self.is_maximum else 'down to'} {self.bound:.4g})"
        found = f"{self.what} is {self.value:.4g}{end}, {relation} {self.limit:g}"
        return passed(name, f"{found} as asked") if holds else Check(name, FAIL, f"{found} was asked")


def check_gates(info: ModelInfo, results: Results, policy: Policy) -> tuple[Check, ...]:
    """Every gate on what the run measured of a file whose content digest is known.

    The run must have measured this very content; of results without digests (imported ones) the name decides.
    """
    whole = [each for each in results.quants if not each.variant]  # other cache types say nothing about the file
    quant = next((each for each in whole if each.sha256 == info.sha256 and info.sha256), None)
    if quant is None:
        quant = next((each for each in whole if each.name == info.name), None)
        if quant is None:
            known = ", ".join(each.name for each in results.quants)
            return (Check(RUN, UNCHECKED, f"the run did not measure {info.name}; it has {known}; sweep it first"),)
        if quant.sha256 and quant.sha256 != info.sha256:
            digests = f"SHA-256 {quant.sha256[:8]}, this one has {info.sha256[:8]}"
            reason = f"the run measured another file of this name ({digests}); sweep again"
            return (Check(RUN, FAIL, reason),)
    found = passed(RUN, f"measured as {quant.name}, {len(quant.texts)} texts and {len(quant.tasks)} tasks")
    return (found, *_text_checks(quant, policy), *_task_checks(quant, policy))


def _text_checks(quant: Quant, policy: Policy) -> Iterator[Check]:
    for name in policy.text:
        if name not in quant.texts:
            yield Check(f"text {name}", UNCHECKED, f"the run has no text {name}; it has {', '.join(quant.texts)}")
    for name, summary in quant.texts.items():
        for limit in _text_limits(summary, policy.of_text(name)):
            yield limit.check(f"text {name}: {limit.what}")


def _text_limits(text: TextSummary, gates: TextGates) -> Iterator[_Limit]:
    for what, estimate, limit in (
        ("mean KLD", text.kld_mean, gates.max_kld_mean),
        ("PPL ratio", text.ppl_ratio, gates.max_ppl_ratio),
    ):
        if limit is not None:
            yield _Limit(what, _value(estimate), _high(estimate), limit, is_maximum=True)
    for what, value, limit in (
        ("median KLD", text.kld_median, gates.max_kld_median),
        ("99% KLD", text.kld_p99, gates.max_kld_p99),
        ("99.9% KLD", text.kld_p999, gates.max_kld_p999),
        ("rows not finite", text.n_nonfinite, gates.max_nonfinite),
    ):
        if limit is not None:
            yield _Limit(what, value, value, limit, is_maximum=True)
    if gates.min_same_top is not None:
        yield _Limit("same top", _value(text.same_top), _low(text.same_top), gates.min_same_top, is_maximum=False)


def _task_checks(quant: Quant, policy: Policy) -> Iterator[Check]:
    for name in policy.task:
        if name not in quant.tasks:
            yield Check(f"task {name}", UNCHECKED, f"the run has no task {name}; it has {', '.join(quant.tasks)}")
    tasks = dict(quant.tasks) | ({} if quant.pooled is None else {"all tasks": quant.pooled})
    for name, summary in tasks.items():
        yield from _direction(f"task {name}" if name in quant.tasks else name, summary, policy.of_task(name))


def _direction(name: str, task: TaskSummary, gates: TaskGates) -> Iterator[Check]:
    if gates.not_worse:
        yield _verdict(f"{name}: not worse", task, task.verdict != WORSE)
    if gates.equivalent:
        yield _verdict(f"{name}: equivalent", task, task.verdict in (EQUIVALENT, BETTER, NOT_INFERIOR))
    if gates.non_inferior is not None:
        what = "net change"
        low = _low(task.net, needs_interval=True)
        yield _Limit(what, _value(task.net), low, -gates.non_inferior, is_maximum=False).check(f"{name}: {what}")
    if gates.max_volume is not None:
        limit = _Limit("volume", _value(task.volume), _high(task.volume), gates.max_volume, is_maximum=True)
        yield limit.check(f"{name}: volume")
    if gates.min_items is not None:
        yield _Limit("items", task.n_items, task.n_items, gates.min_items, is_maximum=False).check(f"{name}: items")


def _verdict(name: str, task: TaskSummary, holds: bool) -> Check:
    if task.verdict is None:
        return Check(name, UNCHECKED, "there is no verdict; the base's answers are not known")
    reason = task.sentence or task.verdict
    return passed(name, reason) if holds else Check(name, FAIL, reason)


def _value(estimate: Estimate | None) -> float | None:
    return None if estimate is None else estimate.value


def _high(estimate: Estimate | None) -> float | None:
    return None if estimate is None else estimate.high if estimate.high is not None else estimate.value


def _low(estimate: Estimate | None, needs_interval: bool = False) -> float | None:
    if estimate is None or (needs_interval and estimate.low is None):
        return None
    return estimate.low if estimate.low is not None else estimate.value
