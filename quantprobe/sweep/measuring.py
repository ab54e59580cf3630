"""Measures one quant after the other against a capture."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np

from quantprobe.arrays import Int64Array
from quantprobe.capture.probe_files import Probe
from quantprobe.capture.store import Capture
from quantprobe.engine.base_rows import BaseRows, open_base_rows
from quantprobe.engine.devices import list_devices
from quantprobe.engine.model import Model
from quantprobe.engine.placement import output_devices
from quantprobe.engine.plan import block_rows
from quantprobe.engine.plan_choices import n_naive_tokens
from quantprobe.engine.runner import n_probe_tokens, probe_blocks
from quantprobe.gguf.model import ModelInfo
from quantprobe.metrics.answers import Answers
from quantprobe.probes.items import TaskProbe
from quantprobe.probes.rules import RULES
from quantprobe.probes.text import TextProbe
from quantprobe.run.folder import RunFolder
from quantprobe.run.items import PairedAnswers, Sample, write_items
from quantprobe.run.judging import AnsweredTask
from quantprobe.run.results import Quant, TaskFacts
from quantprobe.run.rows import read_arrays
from quantprobe.settings import Settings, moves_logits
from quantprobe.stats.llama_summary import LlamaStatistics, summarise_llama
from quantprobe.stats.sequential import MIN_WINDOWS, Decision, precision_reached
from quantprobe.stats.summary import TextSummary
from quantprobe.sweep.deciding import DecidePlan, decide_tasks
from quantprobe.sweep.inputs import Progress, load_model
from quantprobe.sweep.measured import MeasuredTask, MeasuredText
from quantprobe.sweep.recorded import digest, record_settings

METRICS_VERSION = 1
"""Raised when a row metric changes its meaning: rows measured before are then measured again."""


def window_stages(n_windows: int, in_stages: bool) -> Iterator[Int64Array]:
    """The windows to have after each stage: half as many again each time, in a random order that is always the same."""
    order = np.random.default_rng(0).permutation(n_windows).astype(np.int64)
    n = MIN_WINDOWS if in_stages else n_windows
    while n < n_windows:
        yield order[:n]
        n += n // 2
    yield order


class LazyModel:
    """A model that is loaded when it is first needed: a finished run loads none."""

    def __init__(self, info: ModelInfo, settings: Settings, progress: Progress) -> None:
        self.info = info
        self._settings = settings
        self._progress = progress
        self._model: Model | None = None

    def get(self) -> Model:
        if self._model is None:
            self._model = load_model(self.info, self._settings, self._progress)
        return self._model

    def __enter__(self) -> LazyModel:
        return self

    def __exit__(self, *error: object) -> None:
        if self._model is not None:
            self._model.close()


class Measuring:
    """Quants against one capture; what an earlier run measured is read from the run's folder."""

    def __init__(
        self,
        capture: Capture,
        settings: Settings,
        run: RunFolder,
        progress: Progress,
        base_model: Path | None,
        llama_compat: bool,
        decide: DecidePlan | None = None,
        groupings: Mapping[str, str] | None = None,
        precision: float | None = None,
    ) -> None:
        self.capture = capture
        self.settings = settings.with_threads()
        self.run = run
        self.progress = progress
        self.base_model = base_model
        self.llama_compat = llama_compat
        # rows of our own captures were made with our own batches; only llama.cpp's file fits llama.cpp's
        self.llama_geometry = llama_compat and capture.meta.kind == "llama_kld"
        self.probes: list[Probe] = [
            capture.text_probe(entry.name) if entry.kind == "text" else capture.task_probe(entry.name)
            for entry in capture.meta.probes
        ]
        self.llama: dict[tuple[str, str], LlamaStatistics] = {}
        self._answers: dict[str, list[tuple[PairedAnswers, tuple[Answers, Answers] | None]]] = defaultdict(list)
        self.decide = decide
        self.precision = precision
        self.groupings = groupings or {}
        self.decisions: list[Decision] = []
        """With `decide`, the verdict of each quant compared so far."""
        self._base_rows: BaseRows | None = None

    def base_rows(self, info: ModelInfo) -> BaseRows:
        """Opened at the first quant that needs it: a finished run needs no output matrix."""
        if self._base_rows is None:
            self._base_rows = open_base_rows(
                self.capture,
                output_devices(list_devices(), self.settings, info.n_layer),
                self.settings.n_threads or 1,
                self.base_model,
                block_rows(self.capture.meta.n_vocab, self.settings.n_ubatch_used),
                self.progress.note,
            )
        return self._base_rows

    def plan(self, infos: Sequence[ModelInfo]) -> None:
        """Tell what is to be decoded, and what an earlier run has measured already."""
        every = [(info, probe) for info in infos for probe in self.probes]
        left = [probe for info, probe in every if not self._is_measured(info, probe)]
        if left:
            self.progress.plan(len(left), sum(self._n_tokens(probe) for probe in left))
        if len(left) < len(every):
            n_done = len(every) - len(left)
            self.progress.note(f"{n_done} of {len(every)} measurements are already in {self.run.path}; using them")

    def _is_measured(self, info: ModelInfo, probe: Probe) -> bool:
        path = self._rows_path(info, probe)
        found = read_arrays(path, self._rows_key(info, probe), (), ("decoded", "windows"))
        if found is None:
            return False
        if isinstance(probe, TextProbe):
            return len(found.get("windows", ())) == probe.n_rows or self.precision is not None
        return self.decide is not None or bool(found["decoded"].all() if "decoded" in found else True)

    def _n_tokens(self, probe: Probe) -> int:
        """Tokens that a model decodes for a probe; at most so many where an imported capture does not tell."""
        n_tokens = self.capture.entry(probe.name).n_tokens
        return n_tokens or (int(probe.tokens.size) if isinstance(probe, TextProbe) else n_naive_tokens(probe))

    def _rows_path(self, info: ModelInfo, probe: Probe) -> Path:
        kind = self.run.rows if isinstance(probe, TextProbe) else self.run.task_rows
        return kind(info.name, probe.name)

    def compare(self, info: ModelInfo) -> Quant:
        """Measure one quant on every probe; what it answered to tasks is kept for `answered`."""
        texts: dict[str, TextSummary] = {}
        with LazyModel(info, self.settings, self.progress) as model:
            for probe in self.probes:
                if isinstance(probe, TextProbe):
                    text = self.text(model, probe)
                    texts[probe.name] = text.summary()
                    if self.llama_compat:
                        self.llama[info.name, probe.name] = summarise_llama(text.rows)
            self._compare_tasks(model, texts)
        return Quant(**vars(info.identity()), imatrix=info.imatrix, texts=texts)

    def _compare_tasks(self, model: LazyModel, texts: Mapping[str, TextSummary]) -> None:
        tasks = {probe.name: probe for probe in self.probes if isinstance(probe, TaskProbe)}
        if self.decide is None or not tasks:
            for name, probe in tasks.items():
                self._answers[name].append(self._answer(model.info, self.task(model, probe)))
            return

        def decode(name: str, wanted: Int64Array) -> tuple[Answers, Answers]:
            return self.task(model, tasks[name], wanted).answers()

        klds = [text.kld_mean.value for text in texts.values() if text.kld_mean.value is not None]
        base = {name: self.base_answers(model, probe) for name, probe in tasks.items()}
        kld = max(0.0, float(np.mean(klds))) if klds else None
        found = decide_tasks(base, self.groupings, kld, self.decide, decode)
        self.decisions.append(found.decision)
        for name, probe in tasks.items():
            measured = self.task(model, probe, np.empty(0, np.int64))
            self._answers[name].append(self._answer(model.info, measured, base[name], found.samples[name]))

    def answered(self, facts: Mapping[str, TaskFacts]) -> dict[str, AnsweredTask]:
        """The answers of all quants compared so far, by task."""
        found = {}
        for probe in self.probes:
            if isinstance(probe, TaskProbe):
                pairs, norms = zip(*self._answers[probe.name], strict=True) if self._answers[probe.name] else ((), ())
                found[probe.name] = AnsweredTask(
                    probe.rule, pairs, norms, probe.template, probe.n_left_out, facts[probe.name].grouping
                )
        return found

    def _answer(
        self, info: ModelInfo, measured: MeasuredTask, base: Answers | None = None, sample: Sample | None = None
    ) -> tuple[PairedAnswers, tuple[Answers, Answers] | None]:
        """A quant's answers under the task's rule, kept as a table, and under that of acc_norm."""
        probe = measured.probe
        answers = measured.answers()
        pair = PairedAnswers(answers[0] if base is None else base, answers[1], sample)
        write_items(self.run.items(info.name, probe.name), pair.base, pair.quant, sample)
        norm = RULES[probe.rule].norm
        return pair, None if norm is None or sample is not None else measured.answers(norm)

    def text(self, model: LazyModel, probe: TextProbe) -> MeasuredText:
        """The rows of a quant on one text; with `precision`, windows in a random order until it is reached."""
        measured = MeasuredText(probe, self.llama_compat)
        path, key = self._rows_path(model.info, probe), self._rows_key(model.info, probe)
        measured.load(path, key)
        for wanted in window_stages(probe.n_windows, self.precision is not None):
            missing = np.intersect1d(measured.missing(), wanted)
            if len(missing):
                part, rows = probe.subset(missing)
                self._decode(model, part, measured, rows)
                measured.decoded[missing] = True
                measured.save(path, key)
            if self.precision is not None and precision_reached(measured.summary().kld_mean, self.precision):
                break
        return measured

    def task(self, model: LazyModel, probe: TaskProbe, wanted: Int64Array | None = None) -> MeasuredTask:
        """The answers of a quant to one task: to the items `wanted` (None: all) and those that are there already."""
        measured = MeasuredTask(probe)
        path, key = self._rows_path(model.info, probe), self._rows_key(model.info, probe)
        measured.load(path, key)
        missing = measured.missing() if wanted is None else np.intersect1d(measured.missing(), wanted)
        if len(missing):
            part, rows = probe.subset(missing)
            self._decode(model, part, measured, rows)
            measured.decoded[missing] = True
            measured.save(path, key)
        return measured

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

    def base_answers(self, model: LazyModel, probe: TaskProbe) -> Answers:
        """The base's answers to every item of a task, from the rows of the capture; kept in the run's folder."""
        entry = self.capture.entry(probe.name)
        path = self.run.task_rows(f"base-{self.capture.meta.base.name}", probe.name)
        key = digest({"base_rows": entry.rows.sha256, "probe": entry.probe.sha256, "metrics": METRICS_VERSION})
        measured = MeasuredTask(probe)
        measured.load(path, key)
        if len(measured.missing()):
            base_rows, stored = self.base_rows(model.info), self.capture.rows(probe.name)
            n_block = block_rows(self.capture.meta.n_vocab, self.settings.n_ubatch_used)
            self.progress.start(f"base answers of {probe.name}", probe.n_rows, "row")
            try:
                for begin in range(0, probe.n_rows, n_block):
                    rows = np.arange(begin, min(begin + n_block, probe.n_rows), dtype=np.int64)
                    measured.add_base(rows, base_rows.logits(stored[rows], entry.row_dtype))
                    self.progress.advance(len(rows))
            finally:
                self.progress.finish()
            measured.decoded[:] = True
            measured.save(path, key)
        return measured.answers()[0]

    def _decode(
        self, model: LazyModel, probe: Probe, measured: MeasuredText | MeasuredTask, rows: Int64Array | None
    ) -> None:
        """Decode a probe and compare its rows; `rows` are their numbers in the captured probe (None: the same)."""
        loaded = model.get()
        of_base = self.capture.meta.settings
        if of_base.get("flash_attn") == self.settings.flash_attn:  # else the difference was allowed by name
            loaded.require_flash_attn(of_base.get("flash_attn_used"))
        base_rows = self.base_rows(model.info)
        stored = self.capture.rows(probe.name)
        row_dtype = self.capture.entry(probe.name).row_dtype
        self.progress.start(f"compare {model.info.name} on {probe.name}", n_probe_tokens(loaded, probe), "tok")
        try:
            with closing(probe_blocks(loaded, probe, llama_geometry=self.llama_geometry)) as blocks:
                for block in blocks:
                    captured = block if rows is None else replace(block, row_ids=rows[block.row_ids])
                    measured.add(captured, base_rows, stored[captured.row_ids], row_dtype)
                    self.progress.advance(block.n_tokens)
        finally:
            self.progress.finish()
