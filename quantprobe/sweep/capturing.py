"""Captures the base: decode once, keep what gives its rows back, check that it does."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantprobe.arrays import Float32Array
from quantprobe.capture.logprobs import HEADER_WORDS, encode_logprobs
from quantprobe.capture.meta import HeadReference
from quantprobe.capture.probe_files import Probe
from quantprobe.capture.store import Capture
from quantprobe.capture.writer import CaptureWriter
from quantprobe.engine.base_rows import BaseRows
from quantprobe.engine.devices import list_devices
from quantprobe.engine.head import Head, HeadFit, fit_head, pack_rows
from quantprobe.engine.model import Model
from quantprobe.engine.placement import output_devices
from quantprobe.engine.plan import block_rows
from quantprobe.engine.runner import Block, n_probe_tokens, probe_blocks
from quantprobe.errors import InputError, QuantprobeError
from quantprobe.gguf.model import HeadSource, ModelInfo, read_head_source
from quantprobe.probes.text import TextProbe
from quantprobe.settings import Settings
from quantprobe.sweep.inputs import (
    Inputs,
    Progress,
    ReadText,
    identify,
    load_model,
    make_text_probe,
    read_measurable,
    read_texts,
)
from quantprobe.sweep.measured import MeasuredTask, MeasuredText
from quantprobe.sweep.recorded import record_settings
from quantprobe.sweep.tasks import ReadTask, check_chat, make_task_probe, read_tasks

FIT_ROWS = 128
"""Rows on which the way back from hidden rows to logits is found; the null control then checks it."""

CHECK_EVERY = 8
"""Where that way is bit-identical, the null control of a task takes one block in so many: every block would be a tenth
of the decode, and a difference can only come from the shape of a block. Texts, and heads that round, are checked whole.
"""


@dataclass(frozen=True)
class Prepared:
    """Inputs and base, read and identified, before any model is loaded: a wrong path costs no time."""

    info: ModelInfo
    inputs: Inputs
    settings: Settings
    texts: tuple[ReadText, ...]
    tasks: tuple[ReadTask, ...]

    def recorded(self) -> dict[str, Any]:
        """Recorded settings and the inputs by content: what a capture must match to be taken for done."""
        return {
            **record_settings(self.settings),
            "texts": {text.name: text.sha256 for text in self.texts},
            "n_chunks": self.inputs.n_chunks,
            "parse_special": self.inputs.parse_special,
            "tasks": {task.given.name: task.sha256 for task in self.tasks},
        }


def prepare(base: Path, inputs: Inputs, settings: Settings, progress: Progress) -> Prepared:
    """Read texts, questions and the base's identity."""
    info = read_measurable(base)
    texts, tasks = read_texts(inputs), read_tasks(inputs, progress)
    for task in tasks:
        check_chat(task, info)
    return Prepared(identify(info, progress), inputs, settings, tuple(texts), tuple(tasks))


def capture_base(
    base: Path,
    inputs: Inputs,
    settings: Settings,
    out: Path,
    progress: Progress,
    *,
    kind: str | None = None,
    embed_head: bool = False,
) -> Capture:
    """Decode the base over all inputs and write the capture `out`.

    A finished capture of the same base, settings and inputs is returned as it is; an unfinished one is continued.
    `kind` forces `hidden` or `logprobs`; by default the self-check decides. `embed_head` copies the output matrix into
    the capture, so that it can be compared where the base is not at hand.
    """
    return capture_prepared(prepare(base, inputs, settings, progress), out, progress, kind=kind, embed_head=embed_head)


def capture_prepared(
    prepared: Prepared,
    out: Path,
    progress: Progress,
    *,
    kind: str | None = None,
    embed_head: bool = False,
    n_quants: int = 0,
) -> Capture:
    """`capture_base` of inputs that are read already; `n_quants` are compared afterwards in the same run."""
    info, recorded = prepared.info, prepared.recorded()
    done = find_capture(out, info, recorded, kind, embed_head)
    if done is not None:
        progress.note(f"{out} already holds this capture; using it")
        return done
    with load_model(info, prepared.settings, progress) as model:
        recorded["flash_attn_used"] = model.flash_attn_used  # only a loaded model tells
        probes: list[Probe] = [make_text_probe(model, text, prepared.inputs) for text in prepared.texts]
        probes += [make_task_probe(model, task, progress) for task in prepared.tasks]
        with closing(_Capturing(model, info, probes, kind, embed_head, progress)) as capturing:
            return capturing.write(out, recorded, progress, n_quants)


def find_capture(
    out: Path, info: ModelInfo, recorded: Mapping[str, Any], kind: str | None, embed_head: bool
) -> Capture | None:
    """The finished capture at `out` if it is the one that would be made; None if there is none.

    Raises `InputError` if another capture lies there: it is never overwritten.
    """
    if not out.exists():
        return None
    capture = Capture.open(out)
    head = capture.meta.head
    told = {"flash_attn_used": None}  # known when the model is loaded, and decided by what is compared here
    same_inputs = capture.meta.base.sha256 == info.sha256 and {**capture.meta.settings, **told} == {**recorded, **told}
    same_form = kind in (None, capture.meta.kind) and (not embed_head or head is None or head.embedded)
    if same_inputs and same_form:
        return capture
    raise InputError(
        f"{out} is a capture of another base, text, setting or form; delete it or give another --out "
        "(nothing was changed)"
    )


class _Capturing:
    """One base being captured."""

    def __init__(
        self,
        model: Model,
        info: ModelInfo,
        probes: Sequence[Probe],
        kind: str | None,
        embed_head: bool,
        progress: Progress,
    ) -> None:
        self.model = model
        self.info = info
        self.probes = probes
        self.embed_head = embed_head
        self.source = read_head_source(info.path)
        self.progress = progress
        self.n_rows = block_rows(model.n_vocab, model.settings.n_ubatch_used)
        self.n_threads = model.settings.n_threads or 1
        self._begun: tuple[Block, Generator[Block, None, None]] | None = None
        self.asked_for = kind
        self.fit = None if kind == "logprobs" else self._find_fit(kind == "hidden")
        self.kind = "logprobs" if self.fit is None else "hidden"
        fit = self.fit
        head = None if fit is None else Head.of(self.source, fit.post, fit.device, self.n_threads, self.n_rows)
        self.base_rows = BaseRows(self.kind, model.n_vocab, head)
        self.check_every = CHECK_EVERY if self.fit is not None and self.fit.exact else 1

    def _find_fit(self, required: bool) -> HeadFit | None:
        """Whether and how this model's logits come back from its hidden rows, measured on the first block.

        If they do, the capture goes on from that block.
        """
        fit = None
        blocks = probe_blocks(self.model, self.probes[0], hidden=True)
        block = next(blocks, None)
        if block is not None and block.hidden is not None and block.hidden.shape[1] == self.source.n_embd:
            n = min(FIT_ROWS, len(block.row_ids))
            devices = output_devices(list_devices(), self.model.settings, self.info.n_layer, self.model.output_device)
            fit = fit_head(
                self.source,
                devices,
                self.n_threads,
                block.hidden[:n],
                block.logits[:n],
                self.n_rows,
                self.progress.note,
            )
        if fit is not None and block is not None:
            self._begun = block, blocks
            return fit
        blocks.close()
        if required:
            raise QuantprobeError(
                f"the logits of {self.info.name} ({self.info.architecture}) cannot be had back from its hidden rows; "
                "leave out --kind, or use --kind logprobs"
            )
        return None

    def _blocks(self, probe: Probe) -> Generator[Block, None, None]:
        """Blocks of a probe; those of the first one are begun already."""
        begun, self._begun = self._begun, None
        if begun is not None and probe is self.probes[0]:
            with closing(begun[1]):
                yield begun[0]
                yield from begun[1]
            return
        if begun is not None:  # the first probe was captured by an earlier run
            begun[1].close()
        with closing(probe_blocks(self.model, probe, hidden=self.fit is not None)) as blocks:
            yield from blocks

    def close(self) -> None:
        """Free the context that the self-check opened, if nothing was captured from it."""
        if self._begun is not None:
            self._begun[1].close()
            self._begun = None

    def write(self, out: Path, recorded: Mapping[str, Any], progress: Progress, n_quants: int) -> Capture:
        if self.fit is None and self.asked_for is None:
            progress.note(
                f"{self.info.name}: its logits cannot be had back from hidden rows on this machine; "
                "keeping 16-bit log-probabilities instead"
            )
        n_tokens = [n_probe_tokens(self.model, probe) for probe in self.probes]
        with CaptureWriter.create(out, self.info.identity(), recorded, self.kind) as writer:
            for number, probe in enumerate(self.probes):
                if writer.reuse(probe):
                    progress.note(f"{probe.name}: already captured; keeping it")
                    continue
                n_jobs = len(self.probes) - number + n_quants * len(self.probes)
                progress.plan(n_jobs, sum(n_tokens[number:]) + n_quants * sum(n_tokens))
                self._write_probe(writer, probe, n_tokens[number], progress)
            head, bias = self._head_reference()
            return writer.finish(head, bias)

    def _write_probe(self, writer: CaptureWriter, probe: Probe, n_planned: int, progress: Progress) -> None:
        null = MeasuredText(probe) if isinstance(probe, TextProbe) else MeasuredTask(probe)
        row_dtype = "uint16" if self.fit is None else self.fit.row_dtype
        width = self.model.n_vocab + HEADER_WORDS if self.fit is None else self.source.n_embd
        row_writer = writer.begin(probe, row_dtype, width)
        progress.start(f"capture {self.info.name} on {probe.name}", n_planned, "tok")
        n_tokens = 0
        try:
            with closing(self._blocks(probe)) as blocks:
                for number, block in enumerate(blocks):
                    stored = self._stored(block, row_dtype)
                    row_writer.write(block.row_ids, stored)
                    if isinstance(null, MeasuredTask) and number % self.check_every:
                        null.add_unchecked(block)
                    else:
                        null.add(block, self.base_rows, stored, row_dtype)
                    progress.advance(block.n_tokens)
                    n_tokens += block.n_tokens
        finally:
            progress.finish()
        row_writer.finish(null.null_control(), n_tokens)

    def _stored(self, block: Block, row_dtype: str) -> Any:
        if self.fit is None:
            return encode_logprobs(block.logits)
        if block.hidden is None:
            raise QuantprobeError(
                f"{self.info.name} gave hidden rows for its first rows and none later; use --kind logprobs"
            )
        return pack_rows(block.hidden, row_dtype)

    def _head_reference(self) -> tuple[HeadReference | None, Float32Array | None]:
        if self.fit is None:
            return None, None
        return head_reference(self.source, self.fit, self.embed_head), self.source.bias


def head_reference(source: HeadSource, fit: HeadFit, embedded: bool) -> HeadReference:
    """Where the output matrix lies and what follows its product."""
    return HeadReference(
        tensor=source.tensor,
        type_name=source.type_name,
        shape=(source.n_vocab, source.n_embd),
        path=str(source.path.resolve()),
        offset=source.offset,
        n_bytes=source.n_bytes,
        scale=None if fit.post.scale == 1.0 else fit.post.scale,
        softcap=fit.post.softcap or None,
        post=fit.post.name,
        embedded=embedded,
        device=fit.device.name,
    )
