"""Compares quants with a capture, block by block; only metrics are kept."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

import quantprobe
from quantprobe.capture.store import Capture
from quantprobe.checks.before_sweep import file_findings
from quantprobe.engine.plan_choices import n_naive_tokens
from quantprobe.errors import MismatchError
from quantprobe.gguf.model import ModelIdentity, ModelInfo
from quantprobe.locks import locked
from quantprobe.probes.items import Question
from quantprobe.probes.task import count_cases
from quantprobe.run.folder import RunFolder
from quantprobe.run.questions import write_task_questions
from quantprobe.run.results import (
    CalibrationOverlap,
    MachineFloor,
    NullControl,
    Quant,
    Results,
    TaskFacts,
    TextFacts,
    write_results,
)
from quantprobe.settings import EQUIVALENCE_MARGIN, Settings
from quantprobe.stats.llama_summary import LlamaStatistics
from quantprobe.sweep.calibration import find_overlaps
from quantprobe.sweep.deciding import Budget, DecidePlan
from quantprobe.sweep.inputs import Progress, check_names, identify_all, read_measurable
from quantprobe.sweep.judged import judge_all, stop_rule
from quantprobe.sweep.keeping import earlier_results, with_earlier
from quantprobe.sweep.lines import OWN, Line, Variant, lines_of, measure_lines, plan_lines
from quantprobe.sweep.machine_floor import Comparison, find_base, require_same_settings
from quantprobe.sweep.making import Findings, OnDemand, Supply, Workers, with_findings
from quantprobe.sweep.measuring import Measuring
from quantprobe.sweep.recorded import record_settings


@dataclass(frozen=True)
class Outcome:
    """What a sweep found: the content of `results.json`, and what is only printed."""

    results: Results
    llama: Mapping[tuple[str, str], LlamaStatistics]
    """By quant and text, the statistics in llama-perplexity's own arithmetic; only where asked for."""


def compare_quants(
    source: Path | Capture,
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
    probes: Sequence[str] | None = None,
    replaces: bool = False,
    variants: Sequence[Variant] = (OWN,),
    supplies: Sequence[Supply[Any]] = (),
    calibration: Sequence[Path] = (),
    workers: Workers | None = None,
) -> Outcome:
    """Decode every quant over the probes of a capture, open or by its path, compare row by row, write `results.json`.

    `probes` names the texts and tasks to measure (None: all). `margin` is the equivalence margin: the smallest change
    of accuracy that matters, a fraction, fixed beforehand. `groupings` says, by task, what the groups of its questions
    are, where that is not to be read from the capture. With `decide` each quant decodes a sample of the questions until
    its verdict is settled or that budget is spent; with `precision` windows of a text are decoded until the relative
    error of the mean KLD is as small.

    Each of `variants` makes a line of its own of every file, and of the base all but the run's own. The quants of
    `supplies` are made or fetched when they are needed, and deleted when they have been measured. `calibration` are
    texts that quants were calibrated on (`sweep.calibration`). `workers` are other machines that measure first.

    Rows already measured (same base rows, probe, quant content and settings) are read from `run`. Several processes may
    work on one run: each quant is measured by one of them. What earlier calls measured and still fits stays in
    `results.json`, judged anew beside the new; `replaces` keeps what this call names alone.

    Settings that move logits and differ from the capture's are refused unless `allow` names them. Raises
    `MismatchError` for those and for a quant with another tokenizer.
    """
    capture = source if isinstance(source, Capture) else Capture.open(source)
    # what the base's context made of flash attention holds for the quants
    recorded = record_settings(settings, capture.meta.settings.get("flash_attn_used"))
    folder = RunFolder(run)
    like_llama = llama_compat and capture.meta.kind == "llama_kld"
    here = Comparison(capture, settings, folder, base_model, like_llama, progress)
    floor, changed = require_same_settings(here, recorded, allow)
    measuring = Measuring(capture, settings, folder, progress, base_model, llama_compat, precision, probes)
    before = earlier_results(measuring)
    earlier = None if replaces else before
    told = {} if earlier is None else {name: one.grouping for name, one in earlier.tasks.items()}
    facts = task_facts(capture, {**told, **(groupings or {})})

    def lines_of_files(files: Sequence[Path]) -> tuple[list[Line], Findings]:
        infos = identify_all(read_quants(files, capture.meta.base), progress)
        findings = check_files(infos, capture, base_model, progress, earlier)
        return [line for info in infos for line in lines_of(info, variants)], findings

    lines, findings = lines_of_files(quants)
    lines = [*base_lines(here, variants), *lines]
    demands = [OnDemand(supply, measuring, variants, before, decide is not None) for supply in supplies]
    plan_lines(measuring, lines, sum(demand.n_lines_left for demand in demands), decide is not None)
    names = {line.info.name for line in lines} | {quant.name for quant in (earlier.quants if earlier else ())}
    names = names.union(*(demand.names for demand in demands))
    plan = None if decide is None else DecidePlan(stop_rule(len(names), margin), decide)
    of_tasks = {name: one.grouping for name, one in facts.items()}
    if workers is not None:
        changed += workers.measure(measuring, lines, demands)
    measured = with_findings(measure_lines(measuring, lines, plan, of_tasks), findings)
    for demand in demands:
        measured += demand.measure(plan, of_tasks, lines_of_files)
    measuring.forget_logits()
    any_info = lines[0].info if lines or not supplies else read_measurable(supplies[0].base)
    recorded |= {
        "llama_compat": llama_compat, "settings_changed": changed, "equivalence_margin": margin, "precision": precision,
    }  # fmt: skip
    with locked(folder.results_lock, lambda: progress.note(f"another process is writing {folder.results}; waiting")):
        # read again: another process may have added to it
        earlier = None if replaces else earlier_results(measuring, notes=False)
        if earlier is not None:
            measured = with_earlier(measuring, measured, earlier.quants, any_info)
        recorded["row_metrics_used"] = "device" if measuring.row_metrics_used else "kernels"
        overlaps = () if before is None else before.overlaps
        results = _results(capture, judge_all(measured, facts, margin), facts, recorded, floor, calibration, overlaps)
        write_questions(capture, folder, results.tasks)
        write_results(results, folder)
    llama = {(one.quant.name, text): found for one in measured for text, found in one.llama.items()}
    return Outcome(results, llama)


def _results(
    capture: Capture,
    quants: Sequence[Quant],
    facts: Mapping[str, TaskFacts],
    recorded: Mapping[str, Any],
    floor: MachineFloor | None,
    calibration: Sequence[Path],
    overlaps: Sequence[CalibrationOverlap],
) -> Results:
    """The record of judged quants, with what the capture knows of the texts and tasks that they were measured on."""
    used = {name for quant in quants for name in (*quant.texts, *quant.tasks)}
    captured = capture.only([entry.name for entry in capture.meta.probes if entry.name in used]).meta.settings
    return Results(
        base=capture.meta.base,
        settings={**captured, **recorded, "decide": any(quant.drawn for quant in quants)},
        null_control=null_control(capture, used),
        machine_floor=floor,
        texts=text_facts(capture, used),
        overlaps=find_overlaps(capture, list(used), quants, calibration, overlaps),
        tasks={name: one for name, one in facts.items() if name in used},
        quants=tuple(quants),
    )


def base_lines(here: Comparison, variants: Sequence[Variant]) -> list[Line]:
    """The base itself under every cache type but the run's own: what the cache costs alone.

    None, with a note, where the base is not at hand.
    """
    others = [variant for variant in variants if variant]
    info = find_base(here) if others else None
    if others and info is None:
        here.progress.note("the base's file is not at hand, so what the cache types cost alone is not measured")
    return [] if info is None else lines_of(info, others)


def check_files(
    infos: Sequence[ModelInfo],
    capture: Capture,
    base_model: Path | None,
    progress: Progress,
    earlier: Results | None = None,
) -> Findings:
    """What is odd or broken about the files; said at once, and kept beside the numbers.

    What this version found `earlier` in a file of the same content, beside the same base, is taken from there.
    """
    known = {}
    if earlier is not None and earlier.settings.get("quantprobe_version") == quantprobe.__version__:
        known = {quant.sha256: quant.findings for quant in earlier.quants if quant.sha256}
    findings = {}
    for info in infos:
        found = known.get(info.sha256)
        if found is None:
            found = file_findings(info, capture.meta.base, base_model)
        findings[info.identity().path] = found
        for finding in found:
            progress.note(f"{info.name}: {finding}")
    return findings


def null_control(capture: Capture, names: Container[str]) -> NullControl:
    """What the capture found when it compared the base with itself; None for a probe where it could not be run."""
    entries: dict[str, dict[str, Any]] = {"text": {}, "task": {}}
    for entry in capture.meta.probes:
        if entry.name in names:
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


def text_facts(capture: Capture, names: Container[str]) -> dict[str, TextFacts]:
    """What the capture knows of those of its texts that are conversations."""
    probes = [capture.text_probe(e.name) for e in capture.meta.probes if e.kind == "text" and e.name in names]
    return {one.name: TextFacts(score=one.own.score, **vars(one.own.cut)) for one in probes if one.own is not None}


def write_questions(capture: Capture, run: RunFolder, tasks: Mapping[str, TaskFacts]) -> None:
    """The questions of tasks, as people read them."""
    for name, facts in tasks.items():
        items = capture.task_probe(name).items
        questions = [Question(item.id, item.group, item.prompt, item.choices, item.gold) for item in items]
        write_task_questions(run, name, questions, facts.grouping)


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
