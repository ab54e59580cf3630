"""Runs a plan: steps in, blocks of rows out."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass

from quantprobe.arrays import BoolArray, Float32Array, Int64Array
from quantprobe.engine.abi import last_errors
from quantprobe.engine.device_rows import DeviceRows
from quantprobe.engine.failures import engine_errors
from quantprobe.engine.model import Context, Model
from quantprobe.engine.plan import Geometry, Step, llama_perplexity_geometry, plan_windows, window_geometry
from quantprobe.engine.plan_choices import choice_geometry, plan_choices
from quantprobe.engine.plan_conversations import conversation_geometry, plan_conversations
from quantprobe.errors import EngineError, InputError
from quantprobe.probes.items import TaskProbe
from quantprobe.probes.text import TextProbe

_DECODE_ERRORS = {
    1: "the KV cache has no room for the batch",
    2: "the decode was aborted",
    -1: "the batch is not valid",
    -2: "memory for the batch could not be allocated; use a smaller --ubatch-size",
    -3: "the computation failed",
}


@dataclass(frozen=True)
class Block:
    """Rows of one batch. The arrays are views of llama.cpp's buffers: gone at the next block."""

    row_ids: Int64Array
    """`[n_rows]` int64."""
    logits: Float32Array
    """`[n_rows, n_vocab]` float32; no rows where the graph ended before them, or where they stay on the device."""
    hidden: Float32Array | None
    """`[n_rows, n_embd]` float32, the input of the output matrix; None if it was not collected."""
    n_tokens: int
    """Tokens decoded since the last block."""


def run_blocks(
    context: Context,
    steps: Iterable[Step],
    done: BoolArray | None = None,
    wants_logits: Callable[[int], bool] | None = None,
) -> Generator[Block, None, None]:
    """Decode step by step; steps without rows, or with none but `done` ones, give no block, and their tokens count into
    the next one.

    `wants_logits` says, where hidden rows are collected, whether the block of a number, counted from 0, needs logits
    too (None: every one); the graph of the others ends at the hidden rows, which are the same bits.
    The GIL is released while llama.cpp computes. Raises `EngineError` when a decode fails.
    """
    n_tokens = n_blocks = 0
    for step in steps:
        gives_block = len(step.row_ids) > 0 and (done is None or not done[step.row_ids].all())
        whole = context.collector is None or wants_logits is None or (gives_block and wants_logits(n_blocks))
        if context.collector is not None:
            context.collector.end_graph(not whole)
        whole = whole and not context.leaves_logits
        decode(context, step)
        n_tokens += len(step.tokens)
        if not gives_block:
            continue
        logits = context.decoder.logits() if whole else context.decoder.logits()[:0]
        yield Block(step.row_ids, logits, _hidden(context, len(step.row_ids)), n_tokens)
        n_tokens, n_blocks = 0, n_blocks + 1


def decode(context: Context, step: Step) -> None:
    """One call of llama.cpp, after the memory operations of the step. Raises `EngineError` with its own words."""
    info = context.model.info
    if info.n_positions is not None and int(step.pos.max()) >= info.n_positions:
        raise InputError(
            f"{info.path.name} has learned positions for {info.n_positions} tokens; use --ctx-size "
            f"{info.n_positions} or less, and shorter questions"
        )
    failed = f"llama.cpp could not decode a batch of {len(step.tokens)} tokens with {info.path.name}"
    with engine_errors(failed):
        _prepare(context, step)
        status = context.decoder.decode(step.tokens, step.pos, step.seq, step.n_seq, step.output)
        for seq in step.forgets:
            context.decoder.seq_rm(seq)
    if status != 0:
        raise EngineError(f"{failed}: {_DECODE_ERRORS.get(status, f'code {status}')} ({last_errors()})")


def _prepare(context: Context, step: Step) -> None:
    decoder = context.decoder
    if step.clear:
        decoder.clear()
    for seq in step.removes:
        decoder.seq_rm(seq)
    for source, target in step.copies:
        decoder.seq_cp(source, target)
    if context.collector is not None:
        context.collector.clear()
    if context.device_rows is not None:
        context.device_rows.watcher.clear()


def _hidden(context: Context, n_rows: int) -> Float32Array | None:
    """The hidden rows of the batch, None where this architecture's graph does not give one per row."""
    if context.collector is None or context.collector.error is not None:
        return None
    rows: Float32Array = context.collector.rows()
    return rows if len(rows) == n_rows else None


def probe_blocks(
    model: Model,
    probe: TextProbe | TaskProbe,
    hidden: bool = False,
    llama_geometry: bool = False,
    done: BoolArray | None = None,
    wants_logits: Callable[[int], bool] | None = None,
    device_rows: DeviceRows | None = None,
) -> Generator[Block, None, None]:
    """Every row of a probe, block by block, in a context made for it and closed at the end.

    Close the generator before the model if it is left early: llama.cpp frees a context through its model.

    `llama_geometry` packs the windows of a text as llama-perplexity does. `done` (`[n_rows]`) are rows that are there
    already: blocks of such rows alone are not given, and only what the others need is decoded. Plan and context are
    those of the whole probe, so every row has the same bits; a block with one missing row comes whole. `wants_logits`
    is that of `run_blocks`. `device_rows` gets each block where the logits are; once it is proved, blocks have none.
    """
    geometry, steps = _plan(model, probe, llama_geometry, done)
    with Context(model, geometry, hidden, device_rows=device_rows) as context:
        yield from run_blocks(context, steps, done, wants_logits)


def n_probe_tokens(
    model: Model, probe: TextProbe | TaskProbe, done: BoolArray | None = None, llama_geometry: bool = False
) -> int:
    """Tokens that `probe_blocks` decodes: the total of a progress bar."""
    return sum(len(step.tokens) for step in _plan(model, probe, llama_geometry, done)[1])


def _plan(
    model: Model, probe: TextProbe | TaskProbe, llama_geometry: bool, done: BoolArray | None
) -> tuple[Geometry, Iterator[Step]]:
    if isinstance(probe, TaskProbe):
        return _plan_task(model, probe, done)
    if probe.own is not None:
        geometry = conversation_geometry(probe, model.settings, model.n_vocab, model.is_recurrent)
        return geometry, plan_conversations(probe, geometry, done)
    if llama_geometry:
        geometry = llama_perplexity_geometry(probe, model.settings)
    else:
        geometry = window_geometry(probe, model.settings, model.n_vocab)
    return geometry, plan_windows(probe, geometry, done)


def _plan_task(model: Model, probe: TaskProbe, done: BoolArray | None) -> tuple[Geometry, Iterator[Step]]:
    like_llama = model.settings.n_parallel is not None
    if like_llama and model.is_recurrent:
        raise InputError(
            f"{model.info.path.name} ({model.info.architecture}) is a recurrent or hybrid model, which cannot decode "
            "tasks in the batches of llama-perplexity; leave out --parallel"
        )
    geometry = choice_geometry(probe, model.settings, model.n_vocab, model.is_recurrent, model.state_bytes)
    return geometry, plan_choices(probe, geometry, model.is_recurrent, like_llama, done)
