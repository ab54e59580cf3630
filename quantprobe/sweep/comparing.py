"""Compares quants with a capture, block by block; only metrics are kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from quantprobe.capture.probe_files import Probe
from quantprobe.capture.store import Capture
from quantprobe.engine.base_rows import BaseRows, open_base_rows
from quantprobe.engine.devices import head_device
from quantprobe.engine.model import Model
from quantprobe.engine.plan_choices import n_naive_tokens
from quantprobe.engine.runner import n_probe_tokens, probe_blocks
from quantprobe.errors import MismatchError
from quantprobe.gguf.model import ModelIdentity, ModelInfo
from quantprobe.metrics.answers import Answers, pool_answers
from quantprobe.probes.items import Question
from quantprobe.probes.rules import RULES
from quantprobe.probes.task import count_cases
from quantprobe.probes.text import TextProbe
from quantprobe.run.compare import require_comparable, setting_differences
from quantprobe.run.folder import RunFolder
from quantprobe.run.items import write_items
from quantprobe.run.questions import write_task_questions
from quantprobe.run.results import NullControl, Quant, Results, TaskFacts
from quantprobe.settings import EQUIVALENCE_MARGIN, Settings, moves_logits
from quantprobe.stats.llama_summary import LlamaStatistics, summarise_llama
from quantprobe.stats.summary import TextSummary
from quantprobe.stats.summary_tasks import TaskSummary, summarise_task
from quantprobe.stats.verdicts import correct_over_quants
from quantprobe.sweep.inputs import Progress, check_names, identify, load_model, read_measurable
from quantprobe.sweep.measured import MeasuredTask, MeasuredText
from quantprobe.sweep.recorded import digest, record_settings

METRICS_VERSION = 1
"""Raised when a row metric changes its meaning: rows measured before are then measured again."""


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
) -> Outcome:
    """Decode every quant over the probes of a capture and compare, row by row.

    `margin` is the equivalence margin: the smallest change of accuracy that matters, a fraction, fixed beforehand.
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
        progress.note(f"compared under other settings than the capture: {change}")
    infos = [identify(info, progress) for info in read_quants(quants, capture.meta.base)]
    comparing = _Comparing(capture, settings, RunFolder(run), progress, base_model, llama_compat, margin)
    write_questions(capture, RunFolder(run))
    measured = correct_tasks([comparing.compare(info) for info in infos])
    results = Results(
        base=capture.meta.base,
        settings={
            **captured, **recorded, "llama_compat": llama_compat, "settings_changed": changed,
            "equivalence_margin": margin,
        },
        null_control=null_control(capture),
        tasks=task_facts(capture),
        quants=measured,
    )  # fmt: skip
    return Outcome(results, comparing.llama)


def null_control(capture: Capture) -> NullControl:
    """What the capture found when it compared the base with itself; None for a probe where it could not be run."""
    entries: dict[str, dict[str, Any]] = {"text": {}, "task": {}}
    for entry in capture.meta.probes:
        entries[entry.kind][entry.name] = entry.null_control
    return msgspec.convert({"texts": entries["text"], "tasks": entries["task"]}, NullControl)


def task_facts(capture: Capture) -> dict[str, TaskFacts]:
    """What the capture knows of each of its tasks."""
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
            )
    return facts


def correct_tasks(quants: Sequence[Quant]) -> tuple[Quant, ...]:
    """Verdicts over all quants: their p values are corrected together, task by task, and over the pooled tasks."""
    corrected = [dict(quant.tasks) for quant in quants]
    for name in dict.fromkeys(name for quant in quants for name in quant.tasks):
        having = [number for number, quant in enumerate(quants) if name in quant.tasks]
        summaries = correct_over_quants([quants[number].tasks[name] for number in having])
        for number, summary in zip(having, summaries, strict=True):
            corrected[number][name] = summary
    pooled = iter(correct_over_quants([quant.pooled for quant in quants if quant.pooled is not None]))
    return tuple(
        replace(quant, tasks=tasks, pooled=None if quant.pooled is None else next(pooled))
        for quant, tasks in zip(quants, corrected, strict=True)
    )


def write_questions(capture: Capture, run: RunFolder) -> None:
    """The questions of every task of a capture, as people read them."""
    for entry in capture.meta.probes:
        if entry.kind == "task":
            items = capture.task_probe(entry.name).items
            questions = [Question(item.id, item.group, item.prompt, item.choices, item.gold) for item in items]
            write_task_questions(run, entry.name, questions)


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


class _Comparing:
    """Quants against one capture."""

    def __init__(
        self,
        capture: Capture,
        settings: Settings,
        run: RunFolder,
        progress: Progress,
        base_model: Path | None,
        llama_compat: bool,
        margin: float,
    ) -> None:
        self.capture = capture
        self.settings = settings.with_threads()
        self.run = run
        self.progress = progress
        self.base_model = base_model
        self.llama_compat = llama_compat
        self.margin = margin
        # rows of our own captures were made with our own batches; only llama.cpp's file fits llama.cpp's
        self.llama_geometry = llama_compat and capture.meta.kind == "llama_kld"
        self.probes: list[Probe] = [
            capture.text_probe(entry.name) if entry.kind == "text" else capture.task_probe(entry.name)
            for entry in capture.meta.probes
        ]
        self.llama: dict[tuple[str, str], LlamaStatistics] = {}
        self._base_rows: BaseRows | None = None

    def base_rows(self, info: ModelInfo) -> BaseRows:
        """Opened at the first quant that needs it: a finished run needs no output matrix."""
        if self._base_rows is None:
            device = head_device(self.settings.n_gpu_layers, info.n_layer)
            self._base_rows = open_base_rows(self.capture, device, self.settings.n_threads or 1, self.base_model)
        return self._base_rows

    def compare(self, info: ModelInfo) -> Quant:
        """Measure one quant on every probe; what an earlier run measured is read."""
        texts: dict[str, TextSummary] = {}
        tasks: dict[str, TaskSummary] = {}
        answers: dict[str, tuple[Answers, Answers]] = {}
        model: Model | None = None
        try:
            for probe in self.probes:
                measured = self._empty(probe)
                path, key = self._rows_path(info, probe), self._rows_key(info, probe)
                if not measured.load(path, key):
                    model = model or load_model(info, self.settings, self.progress)
                    self._run(model, probe, measured)
                    measured.save(path, key)
                if isinstance(measured, MeasuredTask):
                    answers[probe.name] = measured.answers()
                    tasks[probe.name] = self._summarise_task(info, measured, *answers[probe.name])
                    continue
                texts[probe.name] = measured.summary()
                if self.llama_compat:
                    self.llama[info.name, probe.name] = summarise_llama(measured.rows)
        finally:
            if model is not None:
                model.close()
        return Quant(
            **vars(info.identity()), imatrix=info.imatrix, texts=texts, tasks=tasks, pooled=self._pool(answers)
        )

    def _empty(self, probe: Probe) -> MeasuredText | MeasuredTask:
        return MeasuredText(probe, self.llama_compat) if isinstance(probe, TextProbe) else MeasuredTask(probe)

    def _pool(self, answers: Mapping[str, tuple[Answers, Answers]]) -> TaskSummary | None:
        """All questions of all tasks as one table; None where there are not several tasks."""
        if len(answers) < 2:
            return None
        base = pool_answers({name: pair[0] for name, pair in answers.items()})
        quant = pool_answers({name: pair[1] for name, pair in answers.items()})
        # the tasks have their groups already
        return replace(summarise_task(base, quant, self.margin, rule="each task's own"), by_group={})

    def _summarise_task(self, info: ModelInfo, measured: MeasuredTask, base: Answers, quant: Answers) -> TaskSummary:
        probe = measured.probe
        write_items(self.run.items(info.name, probe.name), base, quant)
        norm = RULES[probe.rule].norm
        return summarise_task(
            base,
            quant,
            self.margin,
            rule=probe.rule,
            template=probe.template,
            n_left_out=probe.n_left_out,
            norm=None if norm is None else measured.answers(norm),
        )

    def _rows_path(self, info: ModelInfo, probe: Probe) -> Path:
        kind = self.run.rows if isinstance(probe, TextProbe) else self.run.task_rows
        return kind(info.name, probe.name)

    def _rows_key(self, info: ModelInfo, probe: Probe) -> str:
        """Digest of everything that the rows depend on."""
        recorded = record_settings(self.settings)
        entry = self.capture.entry(probe.name)
        return digest(
            {
                "metrics_version": METRICS_VERSION,
                "base": self.capture.meta.base.sha256,  # two bases may differ in the output matrix alone
                "base_rows": entry.rows.sha256,
                "kind": self.capture.meta.kind,
                "probe": entry.probe.sha256,
                "quant": info.sha256,
                "settings": {key: value for key, value in recorded.items() if moves_logits(key)},
                "llama_compat": self.llama_compat,
                "llama_batch": self.settings.n_batch if self.llama_geometry else None,
            }
        )

    def _run(self, model: Model, probe: Probe, measured: MeasuredText | MeasuredTask) -> None:
        base_rows = self.base_rows(model.info)
        stored = self.capture.rows(probe.name)
        row_dtype = self.capture.entry(probe.name).row_dtype
        self.progress.start(f"compare {model.info.name} on {probe.name}", n_probe_tokens(model, probe), "tok")
        try:
            with closing(probe_blocks(model, probe, llama_geometry=self.llama_geometry)) as blocks:
                for block in blocks:
                    measured.add(block, base_rows, stored[block.row_ids], row_dtype)
                    self.progress.advance(block.n_tokens)
        finally:
            self.progress.finish()
