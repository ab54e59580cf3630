"""Decodes the base: finds what gives its rows back, keeps that of every row, and checks that it does."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from quantprobe.arrays import BoolArray
from quantprobe.capture.meta import HEADER_WORDS, CaptureMeta, HeadReference
from quantprobe.capture.probe_files import Probe
from quantprobe.capture.row_writer import RowWriter
from quantprobe.capture.store import Capture
from quantprobe.capture.writer import CaptureWriter
from quantprobe.compiling import use_threads
from quantprobe.engine.base_rows import BaseRows
from quantprobe.engine.devices import Device, list_devices
from quantprobe.engine.head import Head, HeadFit, Post, fit_head, pack_rows
from quantprobe.engine.model import Model
from quantprobe.engine.placement import output_devices
from quantprobe.engine.plan import block_rows
from quantprobe.engine.runner import Block, n_probe_tokens, probe_blocks
from quantprobe.errors import QuantprobeError
from quantprobe.gguf.model import HeadSource, ModelInfo, read_head_source
from quantprobe.probes.text import TextProbe
from quantprobe.sweep.checkpoint import Clock
from quantprobe.sweep.inputs import Progress
from quantprobe.sweep.measured import MeasuredTask, MeasuredText

FIT_ROWS = 128
"""Rows on which the way back from hidden rows to logits is found; the null control then checks it."""

CHECK_EVERY = 8
"""Where that way is bit-identical, the null control takes one block in so many, and the others are decoded without
logits: a difference can only come from the shape of a block. Where the head rounds, every block is checked."""


@dataclass(frozen=True)
class Jobs:
    """What the same run has to decode besides: `n_quants` over all probes, `n_there` of which are captured already."""

    n_quants: int
    n_there: int
    n_tokens_there: int


class BaseDecode:
    """One base being captured over some probes; `begun` is the capture that they go into, where there is one."""

    def __init__(
        self,
        model: Model,
        info: ModelInfo,
        probes: Sequence[Probe],
        kind: str | None,
        begun: CaptureMeta | None,
        progress: Progress,
    ) -> None:
        self.model = model
        self.info = info
        self.probes = probes
        self.source = read_head_source(info.path)
        self.progress = progress
        self.n_rows = block_rows(model.n_vocab, model.settings.n_ubatch_used)
        self.devices = output_devices(list_devices(), model.settings, info.n_layer, model.output_device)
        self.n_threads = model.settings.n_threads or 1
        use_threads(self.n_threads)
        self.check_every = 1
        self._begun: tuple[Block, Generator[Block, None, None]] | None = None
        self.asked_for = kind or (begun.kind if begun is not None else None)
        known = None if begun is None else known_fit(begun, self.devices)
        fit = None if self.asked_for == "logprobs" else known or self._find_fit(kind == "hidden")
        self.fit = fit
        self.kind = "logprobs" if fit is None else "hidden"
        self.check_every = CHECK_EVERY if fit is not None and fit.exact else 1
        head = None if fit is None else Head.of(self.source, fit.post, fit.device, self.n_threads, self.n_rows)
        self.base_rows = BaseRows(self.kind, model.n_vocab, head)

    def _find_fit(self, required: bool) -> HeadFit | None:
        """Whether and how this model's logits come back from its hidden rows, measured on the first block.

        If they do, the capture goes on from that block.
        """
        fit = None
        blocks = probe_blocks(self.model, self.probes[0], hidden=True, wants_logits=self._is_checked)
        block = next(blocks, None)
        if block is not None and block.hidden is not None and block.hidden.shape[1] == self.source.n_embd:
            n = min(FIT_ROWS, len(block.row_ids))
            fit = fit_head(
                self.source,
                self.devices,
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

    def _is_checked(self, number: int) -> bool:
        """Whether the null control takes the block of this number."""
        return number % self.check_every == 0

    def _blocks(self, probe: Probe, done: BoolArray, n_before: int) -> Generator[Block, None, None]:
        """Blocks of a probe but the `n_before` whose rows are `done`; those of the first probe are begun already."""
        begun, self._begun = self._begun, None
        if begun is not None and probe is self.probes[0] and not done.any():
            with closing(begun[1]):
                yield begun[0]
                yield from begun[1]
            return
        if begun is not None:  # the first probe was captured by an earlier run
            begun[1].close()
        hidden = self.fit is not None
        with closing(
            probe_blocks(
                self.model, probe, hidden, done=done, wants_logits=lambda number: self._is_checked(n_before + number)
            )
        ) as blocks:
            yield from blocks

    def close(self) -> None:
        """Free the context that the self-check opened, if nothing was captured from it."""
        if self._begun is not None:
            self._begun[1].close()
            self._begun = None

    def write(self, out: Path, recorded: Mapping[str, Any], embed_head: bool, jobs: Jobs) -> Capture:
        """Capture all probes that `out` does not have yet."""
        if self.fit is None and self.asked_for is None:
            self.progress.note(
                f"{self.info.name}: its logits cannot be had back from hidden rows on this machine; "
                "keeping 16-bit log-probabilities instead"
            )
        n_tokens = [n_probe_tokens(self.model, probe) for probe in self.probes]
        n_for_quants = jobs.n_quants * (sum(n_tokens) + jobs.n_tokens_there)
        with CaptureWriter.create(out, self.info.identity(), recorded, self.kind) as writer:
            self._enter_head(writer, embed_head)
            for number, probe in enumerate(self.probes):
                if writer.reuse(probe):
                    self.progress.note(f"{probe.name}: already captured; keeping it")
                    continue
                n_jobs = len(self.probes) - number + jobs.n_quants * (len(self.probes) + jobs.n_there)
                self.progress.plan(n_jobs, sum(n_tokens[number:]) + n_for_quants)
                self._write_probe(writer, probe, n_tokens[number])
            return writer.finish()

    def _enter_head(self, writer: CaptureWriter, embed_head: bool) -> None:
        if self.fit is None:
            return
        if writer.extends and writer.head is not None and (writer.head.embedded or not embed_head):
            writer.move_head(self.source.path)
            return
        # in an unfinished capture too: nobody has checked the bytes that were copied
        writer.store_head(head_reference(self.source, self.fit, embed_head), self.source.bias)

    def _write_probe(self, writer: CaptureWriter, probe: Probe, n_tokens: int) -> None:
        null = MeasuredText(probe) if isinstance(probe, TextProbe) else MeasuredTask(probe)
        row_dtype = "uint16" if self.fit is None else self.fit.row_dtype
        width = self.model.n_vocab + HEADER_WORDS if self.fit is None else self.source.n_embd
        rows = writer.begin(probe, row_dtype, width, _state(null))
        for name, values in _state(null).items():
            values[:] = rows.state[name]
        done = rows.done
        if done.any():
            self.progress.note(
                f"{probe.name}: {done.sum():,} of {len(done):,} rows are there already; continuing after them"
            )
        self.progress.start(f"capture {self.info.name} on {probe.name}", n_probe_tokens(self.model, probe, done), "tok")
        try:
            self._decode(probe, done, rows, null)
        except BaseException:
            with contextlib.suppress(QuantprobeError):  # what went wrong before it is the news
                rows.checkpoint(_state(null))
            raise
        finally:
            self.progress.finish()
        rows.finish(null.null_control(), n_tokens)

    def _decode(self, probe: Probe, done: BoolArray, rows: RowWriter, null: MeasuredText | MeasuredTask) -> None:
        clock = Clock()
        row_dtype = "uint16" if self.fit is None else self.fit.row_dtype
        with closing(self._blocks(probe, done, rows.n_blocks)) as blocks:
            for number, block in enumerate(blocks, rows.n_blocks):
                stored = self._stored(block, row_dtype)
                if self._is_checked(number):
                    null.add(block, self.base_rows, stored, row_dtype)
                else:
                    null.add_unchecked(block.row_ids)
                rows.write(block.row_ids, stored)  # last: from here on the block counts
                self.progress.advance(block.n_tokens)
                if clock.is_due():
                    rows.checkpoint(_state(null))

    def _stored(self, block: Block, row_dtype: str) -> Any:
        if self.fit is None:
            from quantprobe.capture.logprobs import encode_logprobs

            return encode_logprobs(block.logits)
        if block.hidden is None:
            raise QuantprobeError(
                f"{self.info.name} gave hidden rows for its first rows and none later; use --kind logprobs"
            )
        return pack_rows(block.hidden, row_dtype)


def _state(null: MeasuredText | MeasuredTask) -> dict[str, NDArray[Any]]:
    """The arrays of a null control, not copied: what a checkpoint keeps of it."""
    if isinstance(null, MeasuredText):
        return {**{name: null.rows[name] for name in null.stored}, "there": null.there}
    return {"base": null.base, "quant": null.quant, "kld": null.kld}


def known_fit(meta: CaptureMeta, devices: Sequence[Device]) -> HeadFit | None:
    """How the rows of a capture give the logits back, as its self-check found on one of `devices`; None if it does not
    say, or on another device."""
    head = meta.head
    row_dtypes = [entry.row_dtype for entry in meta.probes]
    device = next((device for device in devices if head is not None and device.name == head.device), None)
    if head is None or device is None or not (head.row_dtype or row_dtypes):
        return None
    row_dtype = head.row_dtype or row_dtypes[0]
    post = Post(scale=head.scale or 1.0, softcap=head.softcap or 0.0)
    return HeadFit(row_dtype, post, 0.0 if head.exact else float("nan"), head.exact, device)


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
        row_dtype=fit.row_dtype,
        exact=fit.exact,
    )
