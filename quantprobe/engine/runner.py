"""Runs a plan: steps in, blocks of rows out."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass

from quantprobe.arrays import Float32Array, Int64Array
from quantprobe.engine.abi import last_errors
from quantprobe.engine.model import Context, Model
from quantprobe.engine.plan import Geometry, Step, llama_perplexity_geometry, plan_windows, window_geometry
from quantprobe.engine.plan_choices import choice_geometry, plan_choices
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
    """`[n_rows, n_vocab]` float32."""
    hidden: Float32Array | None
    """`[n_rows, n_embd]` float32, the input of the output matrix; None if it was not collected."""
    n_tokens: int
    """Tokens decoded since the last block."""


def run_blocks(context: Context, steps: Iterable[Step]) -> Generator[Block, None, None]:
    """Decode step by step; steps without rows give no block, their tokens count into the next one.

    The GIL is released while llama.cpp computes. Raises `EngineError` when a decode fails.
    """
    n_tokens = 0
    for step in steps:
        _prepare(context, step)
        decode(context, step)
        n_tokens += len(step.tokens)
        if len(step.row_ids) == 0:
            continue
        yield Block(step.row_ids, context.decoder.logits(), _hidden(context, len(step.row_ids)), n_tokens)
        n_tokens = 0


def decode(context: Context, step: Step) -> None:
    """One call of llama.cpp; raises `EngineError` with its own words when it fails."""
    try:
        status = context.decoder.decode(step.tokens, step.pos, step.seq, step.n_seq, step.output)
    except RuntimeError as error:  # an assertion of ggml, see native/abort_guard.hpp
        reason: str = str(error)
    else:
        if status == 0:
            return
        reason = f"{_DECODE_ERRORS.get(status, f'code {status}')} ({last_errors()})"
    raise EngineError(
        f"llama.cpp could not decode a batch of {len(step.tokens)} tokens with {context.model.info.path.name}: {reason}"
    )


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


def _hidden(context: Context, n_rows: int) -> Float32Array | None:
    """The hidden rows of the batch, None where this architecture's graph does not give one per row."""
    if context.collector is None or context.collector.error is not None:
        return None
    rows: Float32Array = context.collector.rows()
    return rows if len(rows) == n_rows else None


def probe_blocks(
    model: Model, probe: TextProbe | TaskProbe, hidden: bool = False, llama_geometry: bool = False
) -> Generator[Block, None, None]:
    """Every row of a probe, block by block, in a context made for it and closed at the end.

    Close the generator before the model if it is left early: llama.cpp frees a context through its model.

    `llama_geometry` packs the windows of a text as llama-perplexity does.
    """
    if isinstance(probe, TaskProbe):
        geometry, steps = _plan_task(model, probe)
    elif llama_geometry:
        geometry = llama_perplexity_geometry(probe, model.settings)
        steps = plan_windows(probe, geometry)
    else:
        geometry = window_geometry(probe, model.settings, model.n_vocab)
        steps = plan_windows(probe, geometry)
    with Context(model, geometry, hidden) as context:
        yield from run_blocks(context, steps)


def n_probe_tokens(model: Model, probe: TextProbe | TaskProbe) -> int:
    """Tokens that `probe_blocks` decodes: the total of a progress bar."""
    if isinstance(probe, TextProbe):
        return int(probe.tokens.size)
    return sum(len(step.tokens) for step in _plan_task(model, probe)[1])


def _plan_task(model: Model, probe: TaskProbe) -> tuple[Geometry, Iterator[Step]]:
    like_llama = model.settings.n_parallel is not None
    if like_llama and model.is_recurrent:
        raise InputError(
            f"{model.info.path.name} ({model.info.architecture}) is a recurrent or hybrid model, which cannot decode "
            "tasks in the batches of llama-perplexity; leave out --parallel"
        )
    geometry = choice_geometry(probe, model.settings, model.n_vocab)
    return geometry, plan_choices(probe, geometry, model.is_recurrent, like_llama)
