"""Windows of their own lengths: every row once and in order, the bits of a window decoded by itself, exact captures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tiny_gguf import write_tiny

from quantprobe.engine.model import Model
from quantprobe.engine.plan import Geometry
from quantprobe.engine.plan_conversations import conversation_geometry, plan_conversations
from quantprobe.engine.runner import n_probe_tokens, probe_blocks
from quantprobe.gguf.model import read_model_info
from quantprobe.probes.text import TextProbe, ragged_probe
from quantprobe.settings import MIN_BATCH, Settings


def make_probe(lengths: Sequence[int], share: float = 0.4, seed: int = 0) -> TextProbe:
    """Random tokens, `share` of them scored, and the last of each window."""
    rng = np.random.default_rng(seed)
    shape = len(lengths), max(lengths)
    scored = rng.random(shape) < share
    tokens = rng.integers(3, 259, shape, dtype=np.int32)
    windows = [tokens[i, :length] for i, length in enumerate(lengths)]
    masks = [np.append(scored[i, : length - 2], [True, False]) for i, length in enumerate(lengths)]
    return ragged_probe("chats", windows, masks, ("",) * len(lengths), "assistant")


def check_plan(probe: TextProbe, geometry: Geometry) -> None:
    assert probe.own is not None
    lengths, windows = probe.lengths(), probe.windows()
    positions = np.nonzero(probe.own.scored)[1]
    next_row, n_tokens = 0, 0
    seen: dict[int, int] = {}
    for step in plan_conversations(probe, geometry):
        seen = {} if step.clear else seen
        n_tokens += len(step.tokens)
        assert (2 if geometry.n_batch > 1 else 1) <= len(step.tokens) <= geometry.n_batch
        assert len(step.row_ids) == np.count_nonzero(step.output) <= geometry.n_outputs
        assert step.row_ids.tolist() == list(range(next_row, next_row + len(step.row_ids)))
        at = np.flatnonzero(step.output)
        assert np.array_equal(step.pos[at], positions[step.row_ids])
        assert np.array_equal(step.tokens[at], probe.tokens[windows[step.row_ids], step.pos[at]])
        assert np.all(np.diff(step.seq) >= 0) and step.seq.max() < geometry.n_seq
        for seq in np.unique(step.seq).tolist():
            pos = step.pos[step.seq == seq]
            assert pos.tolist() == list(range(seen.get(seq, 0), int(pos[-1]) + 1))
            seen[seq] = int(pos[-1]) + 1
        assert len(step.tokens) <= geometry.n_ctx
        next_row += len(step.row_ids)
    assert next_row == probe.n_rows
    assert n_tokens == int(lengths.sum()) == probe.n_tokens


@settings(max_examples=100, deadline=None)
@given(
    lengths=st.lists(st.one_of(st.integers(2, 30), st.integers(2, 900)), min_size=1, max_size=30),
    n_ubatch=st.one_of(st.integers(MIN_BATCH, 40), st.integers(MIN_BATCH, 1000)),
    n_vocab=st.integers(259, 262_144),
    alone=st.booleans(),
    share=st.sampled_from([0.0, 0.4, 1.0]),
)
@example(lengths=[2, 2], n_ubatch=MIN_BATCH, n_vocab=259, alone=False, share=1.0)
@example(lengths=[513, 1025, 2], n_ubatch=512, n_vocab=262_144, alone=False, share=1.0)
def test_plans(lengths: list[int], n_ubatch: int, n_vocab: int, alone: bool, share: float) -> None:
    probe = make_probe(lengths, share)
    geometry = conversation_geometry(probe, Settings(n_ctx=1000, n_ubatch=n_ubatch), n_vocab, alone)
    assert geometry.n_seq == 1 or (geometry.unified and not alone)
    check_plan(probe, geometry)


def logits_of(path: Path, probe: TextProbe, chosen: Settings, done: Any = None) -> tuple[list[int], Any]:
    with Model(read_model_info(path), chosen) as model:
        blocks = [(block.row_ids, block.logits.copy()) for block in probe_blocks(model, probe, done=done)]
        assert n_probe_tokens(model, probe) == probe.n_tokens
    return np.concatenate([ids for ids, _ in blocks]).tolist(), np.concatenate([logits for _, logits in blocks])


def log_softmax(logits: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


@pytest.mark.parametrize("arch", ["llama", "gemma2", "mamba", "falcon-h1"])
def test_rows_are_those_of_a_window_by_itself(tmp_path: Path, arch: str) -> None:
    """Packed with others or in pieces, up to the rounding of other kernels: weights of F32 leave little of that."""
    path = write_tiny(tmp_path / "m.gguf", arch)
    probe = make_probe([7, 30, 2, 150, 12, 61])
    chosen = Settings(n_ctx=200, n_ubatch=64, n_threads=1, type_k="f32", type_v="f32", flash_attn=False)
    ids, together = logits_of(path, probe, chosen)
    assert ids == list(range(probe.n_rows))
    alone = [logits_of(path, probe.subset(np.array([i]))[0], chosen)[1] for i in range(probe.n_windows)]
    assert np.abs(log_softmax(together) - log_softmax(np.concatenate(alone))).max() < 1e-4


def test_a_part_has_the_bits_of_the_whole(tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "m.gguf", weight_type="Q8_0")
    probe = make_probe([7, 30, 2, 150, 12, 61])
    chosen = Settings(n_ctx=200, n_ubatch=64, n_threads=1)
    _, whole = logits_of(path, probe, chosen)
    done = np.zeros(probe.n_rows, np.bool_)
    done[: probe.n_rows // 2] = True
    ids, part = logits_of(path, probe, chosen, done)
    assert set(np.flatnonzero(~done).tolist()) <= set(ids) and len(ids) < probe.n_rows
    assert np.array_equal(part, whole[ids])
