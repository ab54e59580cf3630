"""Measures one quant after the other against a capture."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np

from quantprobe.arrays import Int64Array
from quantprobe.capture.probe_files import Probe
from quantprobe.capture.store import Capture
from quantprobe.compiling import use_threads
from quantprobe.engine.base_rows import BaseRows, open_base_rows
from quantprobe.engine.device_rows import DeviceRows
from quantprobe.engine.devices import list_devices
from quantprobe.engine.logit_store import LogitStore
from quantprobe.engine.model import Model
from quantprobe.engine.placement import output_devices
from quantprobe.engine.plan import block_rows
from quantprobe.engine.plan_choices import n_naive_tokens
from quantprobe.engine.runner import n_probe_tokens, probe_blocks
from quantprobe.errors import QuantprobeError
from quantprobe.gguf.model import ModelIdentity, ModelInfo
from quantprobe.locks import locked
from quantprobe.metrics.answers import Answers
from quantprobe.probes.items import TaskProbe
from quantprobe.probes.text import TextProbe
from quantprobe.run.folder import RunFolder
from quantprobe.run.rows import read_arrays
from quantprobe.settings import Settings, moves_logits
from quantprobe.stats.sequential import MIN_WINDOWS, precision_reached
from quantprobe.sweep.inputs import Progress, load_model
from quantprobe.sweep.measured import MeasuredTask, MeasuredText
from quantprobe.sweep.recorded import digest, record_settings
from quantprobe.sweep.unfinished import Unfinished

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
    """Quants against one capture; what an earlier run measured is read from the run's folder.

    `names` are the probes of this run, in their order (None: all that the capture has). Raises `InputError` for a name
    that it does not have.
    """

    device_rows_on_cpu = False
    """Whether the graph of other devices compares on the CPU too, where the kernels are faster."""

    def __init__(
        self,
        capture: Capture,
        settings: Settings,
        run: RunFolder,
        progress: Progress,
        base_model: Path | None = None,
        llama_compat: bool = False,
        precision: float | None = None,
        names: Sequence[str] | None = None,
    ) -> None:
        self.capture = capture
        self.settings = settings.with_threads()
        self.given_threads = settings.n_threads
        """None where nobody asked for a number: another machine then takes its own."""
        self.run = run
        self.progress = progress
        self.base_model = base_model
        self.llama_compat = llama_compat
        # rows of our own captures were made with our own batches; only llama.cpp's file fits llama.cpp's
        self.llama_geometry = llama_compat and capture.meta.kind == "llama_kld"
        self.precision = precision
        self._probes: dict[str, Probe] = {}
        self._base_rows: list[BaseRows] = []  # at most one, which all lines of the results share
        self.row_metrics_used: set[str] = set()
        """`device` once rows were compared on the device of the output layer; of all lines, this run's or kept."""
        self.n_lines_left = 1
        """Lines of the results that are still to be decoded: the base's logits are kept for several."""
        self.n_sharing = 1
        """Processes that keep such logits in the memory of this machine."""
        self.other_machines: list[Mapping[str, object]] = []
        """`facts` of other kinds of machines whose rows are used too, because somebody asked for it."""
        every = [entry.name for entry in capture.meta.probes]
        self.probes = [self.probe(name) for name in (every if names is None else names)]

    def probe(self, name: str) -> Probe:
        """A probe of the capture. Raises `InputError` if it has none of that name."""
        if name not in self._probes:
            is_text = self.capture.entry(name).kind == "text"
            self._probes[name] = self.capture.text_probe(name) if is_text else self.capture.task_probe(name)
        return self._probes[name]

    def names(self, kind: str) -> list[str]:
        """The names of all texts (`text`) or tasks (`task`) that the capture has, of this run or not."""
        return [entry.name for entry in self.capture.meta.probes if entry.kind == kind]

    def base_rows(self, info: ModelInfo) -> BaseRows:
        """Opened at the first quant that needs it: a finished run needs no output matrix."""
        if not self._base_rows:
            opened = open_base_rows(
                self.capture,
                output_devices(list_devices(), self.settings, info.n_layer),
                self.settings.n_threads or 1,
                self.base_model,
                block_rows(self.capture.meta.n_vocab, self.settings.n_ubatch_used),
                self.progress.note,
                LogitStore.within_memory(self.n_sharing) if self.n_lines_left > 1 else None,
            )
            self._base_rows.append(opened)
        return self._base_rows[0]

    def under(self, variant: Mapping[str, str]) -> Measuring:
        """The same with the cache types of one line in place of the run's own."""
        if not variant:
            return self
        other = copy.copy(self)
        other.__dict__.pop("facts", None)
        other.settings = self.settings.changed(variant)
        return other

    def left(self, quant: ModelIdentity, in_part: bool) -> list[Probe]:
        """The probes on which a quant is still to be measured.

        `in_part`: whether a part of a task's questions may be enough.
        """
        return [probe for probe in self.probes if not self._is_measured(quant, probe, in_part)]

    def forget_logits(self) -> None:
        """Give back what the base's logits took, once the last line is measured."""
        self._base_rows.clear()

    def _is_measured(self, quant: ModelIdentity, probe: Probe, in_part: bool) -> bool:
        keys = self.accepted_keys(quant, probe)
        found = read_arrays(self.rows_path(quant, probe), keys, (), ("decoded", "windows"))
        if found is None:
            return False
        if isinstance(probe, TextProbe):
            return len(found.get("windows", ())) == probe.n_rows or self.precision is not None
        return in_part or bool(found["decoded"].all() if "decoded" in found else True)

    def n_tokens(self, probe: Probe) -> int:
        """Tokens that a model decodes for a probe; at most so many where an imported capture does not tell."""
        n_tokens = self.capture.entry(probe.name).n_tokens
        return n_tokens or (probe.n_tokens if isinstance(probe, TextProbe) else n_naive_tokens(probe))

    def rows_path(self, quant: ModelIdentity, probe: Probe) -> Path:
        """Where what was measured of a quant on a probe is kept."""
        kind = self.run.rows if isinstance(probe, TextProbe) else self.run.task_rows
        return kind(quant.name, probe.name)

    def text(self, model: LazyModel, probe: TextProbe) -> MeasuredText:
        """The rows of a quant on one text; with `precision`, windows in a random order until it is reached."""
        measured = self.kept_text(model.info.identity(), probe)
        for wanted in window_stages(probe.n_windows, self.precision is not None):
            self._complete(model, measured, wanted)
            if self.precision is not None and precision_reached(measured.summary().kld_mean, self.precision):
                break
        self._note_metrics(measured)
        return measured

    def task(self, model: LazyModel, probe: TaskProbe, wanted: Int64Array | None = None) -> MeasuredTask:
        """The answers of a quant to one task: to the items `wanted` (None: all) and those that are there already."""
        measured = self.kept_task(model.info.identity(), probe)
        self._complete(model, measured, np.arange(len(probe.items)) if wanted is None else wanted)
        return measured

    def kept_text(self, quant: ModelIdentity, probe: TextProbe) -> MeasuredText:
        """What the run has of a quant on a text; `decoded` says how much."""
        measured = MeasuredText(probe, self.llama_compat)
        measured.load(self.rows_path(quant, probe), self.accepted_keys(quant, probe))
        self._note_metrics(measured)
        return measured

    def _note_metrics(self, measured: MeasuredText) -> None:
        if measured.on_device.any():
            self.row_metrics_used.add("device")

    def kept_task(self, quant: ModelIdentity, probe: TaskProbe) -> MeasuredTask:
        """What the run has of a quant on a task; `decoded` says how much."""
        measured = MeasuredTask(probe)
        measured.load(self.rows_path(quant, probe), self.accepted_keys(quant, probe))
        return measured

    @cached_property
    def facts(self) -> Mapping[str, object]:
        """What is recorded of the settings and this machine that can move a logit."""
        return {key: value for key, value in record_settings(self.settings).items() if moves_logits(key)}

    def accepted_keys(self, quant: ModelIdentity, probe: Probe) -> tuple[str, ...]:
        """The keys of the rows that may be used: measured here, or on another kind of machine that was allowed."""
        return tuple(self.rows_key(quant, probe, facts) for facts in (self.facts, *self._other_facts()))

    def _other_facts(self) -> Iterator[Mapping[str, object]]:
        own = self.settings.to_dict()
        for facts in self.other_machines:
            yield {**facts, **{name: value for name, value in own.items() if name in facts}}

    def rows_key(self, quant: ModelIdentity, probe: Probe, facts: Mapping[str, object] | None = None) -> str:
        """Digest of everything that the rows depend on; `facts` of another machine in place of this one's."""
        entry = self.capture.entry(probe.name)
        return digest(
            {
                "metrics_version": METRICS_VERSION,
                "base": self.capture.meta.base.sha256,  # two bases may differ in the output matrix alone
                "base_rows": entry.rows.sha256,
                "kind": self.capture.meta.kind,
                "probe": entry.probe.sha256,
                "quant": quant.sha256,
                "settings": self.facts if facts is None else facts,
                "llama_compat": self.llama_compat,
                "llama_batch": self.settings.n_batch if self.llama_geometry else None,
            }
        )

    def base_answers(self, info: ModelInfo, probe: TaskProbe) -> Answers:
        """The base's answers to every item of a task, from the rows of the capture; kept in the run's folder.

        `info` is any quant: it tells how many layers the base has.
        """
        entry = self.capture.entry(probe.name)
        name = f"base-{self.capture.meta.base.name}"
        path = self.run.task_rows(name, probe.name)
        key = digest({"base_rows": entry.rows.sha256, "probe": entry.probe.sha256, "metrics": METRICS_VERSION})
        measured = MeasuredTask(probe)
        with locked(self.run.lock(name), lambda: None):
            measured.load(path, key)
            if len(measured.missing()):
                self._answer_base(info, measured)
                measured.save(path, key)
        return measured.answers()[0]

    def _answer_base(self, info: ModelInfo, measured: MeasuredTask) -> None:
        probe = measured.probe
        entry = self.capture.entry(probe.name)
        base_rows, stored = self.base_rows(info), self.capture.rows(probe.name)
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

    def _complete(self, model: LazyModel, measured: MeasuredText | MeasuredTask, wanted: Int64Array) -> None:
        """Decode those of the windows or items `wanted` that are not there, going on from a checkpoint."""
        quant = model.info.identity()
        path, key = self.rows_path(quant, measured.probe), self.rows_key(quant, measured.probe)
        unfinished = Unfinished(path, key, measured)
        begun = unfinished.load()
        if len(begun) and not np.array_equal(begun, np.intersect1d(measured.missing(), wanted)):
            # another part of the probe is asked for, in other batches: what is whole is kept
            measured.keep_whole()
            measured.save(path, key)
            unfinished.remove()
        missing = np.intersect1d(measured.missing(), wanted)
        if len(missing) == 0:
            return
        unfinished.begin(missing)
        try:
            self._decode(model, measured, missing, unfinished)
        except BaseException:
            with contextlib.suppress(QuantprobeError):  # what ended the work is what must be told
                unfinished.save()
            raise
        measured.decoded[missing] = True
        measured.save(path, key)
        unfinished.remove()

    def _decode(
        self, model: LazyModel, measured: MeasuredText | MeasuredTask, part: Int64Array, unfinished: Unfinished
    ) -> None:
        """Decode a part of a probe, without the rows that are there, and compare its rows."""
        loaded = model.get()
        of_base = self.capture.meta.settings
        if of_base.get("flash_attn") == self.settings.flash_attn:  # else the difference was allowed by name
            loaded.require_flash_attn(of_base.get("flash_attn_used"))
        use_threads(self.settings.n_threads or 1)
        base_rows = self.base_rows(model.info)
        name = measured.probe.name
        stored, row_dtype = self.capture.rows(name), self.capture.entry(name).row_dtype
        device_rows = self._device_rows(base_rows, measured)
        probe, rows = measured.probe.subset(part)
        done = measured.there[rows]
        n_tokens = n_probe_tokens(loaded, probe, done, self.llama_geometry)
        self.progress.start(f"compare {model.info.name} on {name}", n_tokens, "tok")
        try:
            with closing(probe_blocks(loaded, probe, False, self.llama_geometry, done, None, device_rows)) as blocks:
                for block in blocks:
                    captured = replace(block, row_ids=rows[block.row_ids])
                    measured.add(captured, base_rows, stored[captured.row_ids], row_dtype, device_rows)
                    unfinished.add(captured.row_ids)
                    self.progress.advance(block.n_tokens)
        finally:
            self.progress.finish()
            if device_rows is not None and device_rows.refusal is not None:
                self.progress.note(f"the CPU compares the rows of {model.info.name}: {device_rows.refusal}")

    def _device_rows(self, base_rows: BaseRows, measured: MeasuredText | MeasuredTask) -> DeviceRows | None:
        """What compares on the output's device: texts, as a task needs log-probabilities of several tokens a row."""
        if isinstance(measured, MeasuredTask):
            return None
        n_rows = block_rows(self.capture.meta.n_vocab, self.settings.n_ubatch_used)
        return base_rows.device_rows(n_rows, self.device_rows_on_cpu, self.progress.note)
