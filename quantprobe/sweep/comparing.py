"""Compares quants with a capture, block by block; only metrics are kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from quantprobe.capture.store import Capture
from quantprobe.checks.before_sweep import file_findings
from quantprobe.engine.plan_choices import n_naive_tokens
from quantprobe.errors import MismatchError
from quantprobe.gguf.model import ModelIdentity, ModelInfo
from quantprobe.probes.items import Question
from quantprobe.probes.task import count_cases
from quantprobe.run.compare import require_comparable, setting_differences
from quantprobe.run.folder import RunFolder
from quantprobe.run.judging import judge_decided, judge_quants
from quantprobe.run.questions import write_task_questions
from quantprobe.run.results import NullControl, Results, TaskFacts
from quantprobe.settings import EQUIVALENCE_MARGIN, Settings
from quantprobe.stats.llama_summary import LlamaStatistics
from quantprobe.stats.sequential import StopRule
from quantprobe.sweep.deciding import Budget, DecidePlan
from quantprobe.sweep.inputs import Progress, check_names, identify, read_measurable
from quantprobe.sweep.measuring import Measuring
from quantprobe.sweep.recorded import record_settings

LEVEL = 0.95
"""At which all intervals of the net change hold together."""


@dataclass(frozen=True)
class Outcome:
    """What a sweep found: the content of `results.json`, and what is only printed."""

    results: Results
    llama: Mapping[tuple[str, str], LlamaStatistics]
    """By quant and text, the statistics in llama-perplexity's own arithmetic; only where asked for."""


def compare_quants(
    capture_path: Path,
    quants: Sequence[Path],
    settings: Settings,
    run: Path,
    progress: Progress,
    *,
    base_model: Path | None = None,
    allow: Sequence[str] = (),
    llama_compat: bool = False,
    margin: float = EQUIVALENCE_MARGIN,
    groupings: Mapping[str, str] | None = None,
    decide: Budget | None = None,
    precision: float | None = None,
) -> Outcome:
    """Decode every quant over the probes of a capture and compare, row by row.

    `margin` is the equivalence margin: the smallest change of accuracy that matters, a fraction, fixed beforehand.
    `groupings` says, by task, what the groups of its questions are, where that is not to be read from the capture.
    With `decide` each quant decodes a sample of the questions until its verdict is settled or that budget is spent;
    with `precision` windows of a text are decoded until the relative error of the mean KLD is as small.
    Rows already measured (same base rows, probe, quant content and settings) are read from `run`. Settings that move
    logits and differ from the capture's are refused unless `allow` names them. Raises `MismatchError` for those and
    for a quant with another tokenizer.
    """
    capture = Capture.open(capture_path)
    recorded = record_settings(settings)
    captured = capture.meta.settings
    # an imported file does not know most of its settings
    known = {key: value for key, value in recorded.items() if key in captured}
    differences = require_comparable(
        setting_differences({key: captured[key] for key in known}, known), allow, "the capture and this comparison"
    )
    changed = [str(each) for each in differences if each.moves_logits]
    for change in changed:
        progress.note(f"compared under settings that differ from the capture's: {change}")
    infos = [identify(info, progress) for info in read_quants(quants, capture.meta.base)]
    findings = check_files(infos, capture, base_model, progress)
    tasks = task_facts(capture, groupings or {})
    plan = None
    if decide is not None:
        plan = DecidePlan(StopRule(alpha=(1 - LEVEL) / len(infos), margin=margin), decide)
    groups = {name: facts.grouping for name, facts in tasks.items()}
    comparing = Measuring(
        capture, settings, RunFolder(run), progress, base_model, llama_compat, plan, groups, precision
    )
    write_questions(capture, RunFolder(run), tasks)
    comparing.plan(infos)
    unjudged = [comparing.compare(info) for info in infos]
    answered = comparing.answered(tasks)
    if comparing.decisions:
        measured = judge_decided(unjudged, answered, comparing.decisions, margin, LEVEL)
    else:
        measured = judge_quants(unjudged, answered, margin, LEVEL)
    results = Results(
        base=capture.meta.base,
        settings={
            **captured, **recorded, "llama_compat": llama_compat, "settings_changed": changed,
            "equivalence_margin": margin, "decide": decide is not None, "precision": precision,
        },
        null_control=null_control(capture),
        tasks=tasks,
        quants=tuple(replace(quant, findings=findings.get(quant.name, quant.findings)) for quant in measured),
    )  # fmt: skip
    return Outcome(results, comparing.llama)


def check_files(
    infos: Sequence[ModelInfo], capture: Capture, base_model: Path | None, progress: Progress
) -> dict[str, tuple[str, ...]]:
    """What is odd or broken about the files, by quant; said at once, and kept beside the numbers."""
    findings = {info.name: file_findings(info, capture.meta.base, base_model) for info in infos}
    for name, found in findings.items():
        for finding in found:
            progress.note(f"{name}: {finding}")
    return findings


def null_control(capture: Capture) -> NullControl:
    """What the capture found when it compared the base with itself; None for a probe where it could not be run."""
    entries: dict[str, dict[str, Any]] = {"text": {}, "task": {}}
    for entry in capture.meta.probes:
        entries[entry.kind][entry.name] = entry.null_control
    return msgspec.convert({"texts": entries["text"], "tasks": entries["task"]}, NullControl)


def task_facts(capture: Capture, groupings: Mapping[str, str]) -> dict[str, TaskFacts]:
    """What the capture knows of each of its tasks; `groupings` goes before what it says of groups."""
    facts = {}
    for entry in capture.meta.probes:
        if entry.kind == "task":
            probe = capture.task_probe(entry.name)
            cases = count_cases(probe)
            facts[entry.name] = TaskFacts(
                rule=probe.rule,
                template=probe.template,
                n_items=len(probe.items),
                n_left_out=probe.n_left_out,
                n_identical=cases.n_identical,
                n_token_prefix=cases.n_token_prefix,
                n_empty_prefix=cases.n_empty_prefix,
                n_tokens_decoded=entry.n_tokens,
                n_tokens_naive=n_naive_tokens(probe),
                grouping=groupings.get(entry.name, probe.grouping),
            )
    return facts


def write_questions(capture: Capture, run: RunFolder, tasks: Mapping[str, TaskFacts]) -> None:
    """The questions of every task of a capture, as people read them."""
    for entry in capture.meta.probes:
        if entry.kind == "task":
            items = capture.task_probe(entry.name).items
            questions = [Question(item.id, item.group, item.prompt, item.choices, item.gold) for item in items]
            write_task_questions(run, entry.name, questions, tasks[entry.name].grouping)


def captured_settings(capture_path: Path, changes: Mapping[str, Any]) -> Settings:
    """The settings that a capture was made with, and `changes` over them.

    The window length is the capture's own. Threads are this machine's, as the captured number need not fit it.
    """
    captured: Mapping[str, Any] = Capture.open(capture_path).meta.settings
    return Settings.of({**captured, "n_threads": None, **changes})


def read_quants(quants: Sequence[Path], base: ModelIdentity | ModelInfo) -> list[ModelInfo]:
    """The metadata of all quants, refused before any time is spent if one of them cannot be compared with the base."""
    infos = [read_measurable(path) for path in quants]
    check_names(infos)
    for info in infos:
        require_same_tokenizer(base, info)
    return infos


def require_same_tokenizer(base: ModelIdentity | ModelInfo, info: ModelInfo) -> None:
    """Rows can be compared only if both models mean the same token by the same number."""
    if info.n_vocab != base.n_vocab:
        raise MismatchError(
            f"{info.path.name} has {info.n_vocab} tokens and the base {base.name} has {base.n_vocab}, "
            "so their rows cannot be compared; is it a quant of this base?"
        )
    if base.tokenizer_sha256 and info.tokenizer_sha256 != base.tokenizer_sha256:
        raise MismatchError(
            f"{info.path.name} and the base {base.name} have different tokenizers (same size, other content), "
            "so their rows cannot be compared; convert both with the same tokenizer"
        )
