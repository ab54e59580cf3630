"""The engine on tiny models of every kind: exact captures, llama.cpp's own logits, plans that keep their limits."""

from __future__ import annotations

import itertools
from dataclasses import asdict
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from road_cases import Quiet, write_letters
from tiny_archs import ARCHS, SLIDING
from tiny_gguf import write_tiny

from quantprobe.engine import abi
from quantprobe.engine.model import Context, Model
from quantprobe.engine.plan import (
    BLOCK_BYTES,
    LLAMA_MAX_SEQ,
    Geometry,
    Step,
    llama_perplexity_geometry,
    plan_windows,
    window_geometry,
)
from quantprobe.engine.runner import probe_blocks, run_blocks
from quantprobe.errors import EngineError, IncompatibleError, InputError, QuantprobeError
from quantprobe.gguf.model import HeadSource, read_head_source, read_model_info
from quantprobe.probes.text import TextProbe
from quantprobe.settings import MASK_CELLS, MIN_BATCH, Settings
from quantprobe.sweep import Inputs, TextInput, base_decode, capture_base, compare_quants

SMALL = Settings(n_ctx=32, n_threads=1)


def make_probe(n_windows: int, n_ctx: int, n_vocab: int = 259, bos: int | None = None, seed: int = 0) -> TextProbe:
    rng = np.random.default_rng(seed)
    return TextProbe("t", rng.integers(3, n_vocab, (n_windows, n_ctx), dtype=np.int32), bos)


def all_logits(path: Path, probe: TextProbe, chosen: Settings) -> np.ndarray[Any, Any]:
    with Model(read_model_info(path), chosen) as model:
        blocks = [block.logits.copy() for block in probe_blocks(model, probe)]
    return np.concatenate(blocks)


def log_softmax(logits: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def plain_logits(path: Path, probe: TextProbe) -> np.ndarray[Any, Any]:
    """The scored rows as a program without any packing gets them: window after window, one sequence, all logits."""
    llama = llama_cpp.Llama(
        str(path), n_ctx=probe.n_ctx, logits_all=True, verbose=False, n_threads=1, flash_attn=True, seed=0
    )
    rows = []
    try:
        for window in probe.decoded():
            llama.reset()
            llama.eval(window.tolist())
            rows.append(np.array(llama.scores[probe.first : probe.n_ctx - 1], dtype=np.float32))
    finally:
        llama.close()
    return np.concatenate(rows)


def sweep_once(folder: Path, base: Path, chosen: Settings, **options: Any) -> tuple[Any, Any, Quiet]:
    """Capture a model and compare it with its own capture."""
    text = TextInput("t", write_letters(folder / "t.txt", 10 * chosen.n_ctx + 3))
    quiet = Quiet()
    capture = capture_base(base, Inputs((text,)), chosen, folder / "b.qpc", quiet, **options)
    result = compare_quants(folder / "b.qpc", [base], chosen, folder / "run", quiet)
    return capture, result.results.quants[0].texts["t"], quiet


def assert_exact(capture: Any, summary: Any) -> None:
    [entry] = capture.meta.probes
    for found in (entry.null_control, asdict(summary)):
        assert found["n_nonfinite"] == 0
        assert found["kld_max"] == found["kld_mean"]["value"] == 0.0
        assert found["same_top"]["value"] == 1.0


HEAD_TYPES = ["F32", "F16", "BF16", "Q8_0"]
CASES = sorted({("llama", kind) for kind in HEAD_TYPES} | set(zip(ARCHS, itertools.cycle(HEAD_TYPES), strict=False)))


@pytest.mark.parametrize(("arch", "head_type"), CASES)
def test_hidden_capture_is_bit_identical(tmp_path: Path, arch: str, head_type: str) -> None:
    vocab = "bpe" if head_type in ("F16", "Q8_0") else "spm"
    base = write_tiny(tmp_path / "b.gguf", arch, vocab, n_vocab=263, head_type=head_type)
    capture, summary, _ = sweep_once(tmp_path, base, SMALL)
    assert capture.meta.kind == "hidden"
    compact = {"F16": "float16", "BF16": "bfloat16"}.get(head_type, "float32")
    assert capture.meta.probes[0].row_dtype == compact
    assert_exact(capture, summary)


@pytest.mark.parametrize("head_type", ["F32", "F16", "BF16", "Q8_0"])
@pytest.mark.parametrize(("n_ctx", "n_windows", "n_last"), [(4, 65, 1), (5, 65, 2), (130, 4, 64), (1026, 2, 1)])
def test_every_window_length_is_exact(tmp_path: Path, n_ctx: int, n_windows: int, n_last: int, head_type: str) -> None:
    """Also lengths whose last batch has one row: ggml multiplies a single row by another kernel."""
    base = write_tiny(tmp_path / "b.gguf", vocab="bpe", n_vocab=263, n_embd=256, n_layer=1, head_type=head_type)
    chosen = Settings(n_ctx=n_ctx, n_threads=1)
    probe = make_probe(n_windows, n_ctx)
    assert len(list(plan_windows(probe, window_geometry(probe, chosen, 263)))[-1].row_ids) == n_last
    text = TextInput("t", write_letters(tmp_path / "t.txt", n_windows * n_ctx))
    capture = capture_base(base, Inputs((text,)), chosen, tmp_path / "b.qpc", Quiet())
    result = compare_quants(tmp_path / "b.qpc", [base], chosen, tmp_path / "run", Quiet())
    assert capture.meta.probes[0].n_rows == probe.n_rows
    assert_exact(capture, result.results.quants[0].texts["t"])


def test_output_bias_is_exact(tmp_path: Path) -> None:
    base = write_tiny(tmp_path / "b.gguf", "qwen2", head_bias=True, head_type="F16")
    capture, summary, _ = sweep_once(tmp_path, base, SMALL)
    assert (capture.meta.kind, capture.head_bias() is not None) == ("hidden", True)
    assert_exact(capture, summary)


HIDDEN_FACTS = {
    "scale": ("granite", {}, {"scale": None}),
    "bias": ("qwen2", {"head_bias": True}, {"bias": None}),
    "softcap": ("gemma2", {}, {"softcap": None}),
}


@pytest.mark.parametrize("fact", HIDDEN_FACTS)
def test_unknown_head_falls_back_to_logprobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fact: str) -> None:
    """What an architecture does to its logits without the file saying so is noticed, never guessed."""
    arch, options, lost = HIDDEN_FACTS[fact]
    base = write_tiny(tmp_path / "b.gguf", arch, **options)

    def read_without(path: Path) -> HeadSource:
        source = read_head_source(path)
        return HeadSource(**{**vars(source), **lost})

    monkeypatch.setattr(base_decode, "read_head_source", read_without)
    capture, summary, quiet = sweep_once(tmp_path, base, SMALL)
    assert capture.meta.kind == "logprobs" and capture.meta.head is None
    assert any("16-bit log-probabilities" in note for note in quiet.notes)
    # 16 bits over a range of some 20 nats leave steps of 3e-4 nats, so a KLD near their square
    assert 0 < summary.kld_max < 1e-6
    assert capture.meta.probes[0].null_control["kld_max"] == summary.kld_max

    with pytest.raises(QuantprobeError, match="--kind logprobs"):
        inputs = Inputs((TextInput("t", tmp_path / "t.txt"),))
        capture_base(base, inputs, SMALL, tmp_path / "other.qpc", Quiet(), kind="hidden")
    assert not (tmp_path / "other.qpc").exists()


def test_architecture_default_softcap_falls_back(tmp_path: Path) -> None:
    """Gemma-2 caps logits at 30 where its file does not say so."""
    base = write_tiny(tmp_path / "b.gguf", "gemma2", extra={"gemma2.final_logit_softcapping": None})
    capture, summary, _ = sweep_once(tmp_path, base, SMALL)
    assert capture.meta.kind == "logprobs"
    assert summary.kld_max < 1e-6


WINDOWED = {arch: {"extra": {f"{arch}.attention.sliding_window": 8}} for arch in SLIDING}


@pytest.mark.parametrize(("arch", "vocab"), list(zip(ARCHS, itertools.cycle(["spm", "bpe"]), strict=False)))
def test_logits_are_those_of_a_plain_llama(tmp_path: Path, arch: str, vocab: str) -> None:
    """Packing windows moves no token by more than 0.02 nats.

    Not bit-identical: the packed batch is cut into other matrix shapes (other kernels and summation orders), and the
    KV cache rounds to float16. A mixed-up position, window or recurrent state moves these logits by whole nats.
    """
    path = write_tiny(tmp_path / "m.gguf", arch, vocab, **WINDOWED.get(arch, {}))
    probe = make_probe(5, 32, bos=1 if vocab == "spm" else None)
    ours, plain = log_softmax(all_logits(path, probe, SMALL)), log_softmax(plain_logits(path, probe))
    rows, targets = np.arange(probe.n_rows), probe.targets()
    assert np.abs(ours[rows, targets] - plain[rows, targets]).max() < 2e-2
    assert np.abs(ours - plain).max() < 0.1
    other = log_softmax(plain_logits(path, make_probe(5, 32, bos=probe.bos, seed=1)))
    assert np.abs(ours - other).max() > 1


def test_sliding_window_is_short_enough_to_matter(tmp_path: Path) -> None:
    probe = make_probe(2, 32)
    wide = write_tiny(tmp_path / "wide.gguf", "gemma2")
    narrow = write_tiny(tmp_path / "narrow.gguf", "gemma2", **WINDOWED["gemma2"])
    assert np.abs(all_logits(wide, probe, SMALL) - all_logits(narrow, probe, SMALL)).max() > 0.01


@pytest.mark.parametrize("arch", ["llama", "olmoe", "mamba", "falcon-h1"])
def test_packed_windows_agree_with_one_per_batch(tmp_path: Path, arch: str) -> None:
    path = write_tiny(tmp_path / "m.gguf", arch, n_vocab=1031)
    probe = make_probe(20, 32, n_vocab=1031, bos=1)
    packed, single = SMALL, Settings(n_ctx=32, n_ubatch=32, n_threads=1)
    assert window_geometry(probe, packed, 1031).n_seq == 16
    assert window_geometry(probe, single, 1031).n_seq == 1
    ours = log_softmax(all_logits(path, probe, packed))
    assert np.abs(ours - log_softmax(all_logits(path, probe, single))).max() < 0.1


def test_long_windows_are_cut_without_a_seam(tmp_path: Path) -> None:
    """A window of several micro-batches, against the same window in one."""
    path = write_tiny(tmp_path / "m.gguf", "falcon-h1")
    probe = make_probe(2, 200)
    whole = all_logits(path, probe, Settings(n_ctx=200, n_threads=1))
    cut = all_logits(path, probe, Settings(n_ctx=200, n_ubatch=48, n_threads=1))
    assert np.abs(log_softmax(whole) - log_softmax(cut)).max() < 0.1


def check_plan(probe: TextProbe, geometry: Geometry) -> None:
    """Every row once and in order, each sequence from its beginning without a gap, no batch over the limits."""
    tokens = probe.decoded()
    next_pos: dict[int, int] = {}
    next_row = 0
    for step in plan_windows(probe, geometry):
        next_pos = {} if step.clear else next_pos
        n_tokens, n_rows = len(step.tokens), len(step.row_ids)
        assert 0 < n_tokens <= geometry.n_batch
        assert n_rows == np.count_nonzero(step.output) <= geometry.n_outputs
        assert np.array_equal(step.row_ids, np.arange(next_row, next_row + n_rows))
        next_row += n_rows
        assert 0 <= step.seq.min() <= step.seq.max() < geometry.n_seq
        windows = step.row_ids // probe.rows_per_window
        scored = np.flatnonzero(step.output)
        assert np.array_equal(step.pos[scored], probe.first + step.row_ids % probe.rows_per_window)
        assert np.array_equal(step.tokens[scored], tokens[windows, step.pos[scored]])
        for seq in np.unique(step.seq):
            pos = step.pos[step.seq == seq]
            assert np.array_equal(pos, np.arange(next_pos.get(int(seq), 0), pos[-1] + 1))
            next_pos[int(seq)] = int(pos[-1]) + 1
            assert pos[-1] < geometry.n_ctx
    assert next_row == probe.n_rows


@settings(max_examples=150, deadline=None)
@given(
    n_ctx=st.one_of(st.integers(4, 80), st.integers(4, 5000)),
    n_windows=st.integers(1, 70),
    n_batch=st.integers(MIN_BATCH, 5000),
    n_ubatch=st.integers(MIN_BATCH, 5000),
    n_vocab=st.integers(259, 262_144),
)
@example(n_ctx=131_072, n_windows=2, n_batch=2048, n_ubatch=512, n_vocab=262_144)
@example(n_ctx=131_072, n_windows=1, n_batch=2048, n_ubatch=512, n_vocab=259)
@example(n_ctx=513, n_windows=3, n_batch=4, n_ubatch=4, n_vocab=151_936)
@example(n_ctx=1025, n_windows=3, n_batch=2048, n_ubatch=512, n_vocab=259)
@example(n_ctx=4, n_windows=65, n_batch=2048, n_ubatch=512, n_vocab=259)
def test_plans_keep_their_promises(n_ctx: int, n_windows: int, n_batch: int, n_ubatch: int, n_vocab: int) -> None:
    n_windows = max(1, min(n_windows, 60_000 // n_ctx, 300 * n_batch // n_ctx))
    probe = make_probe(n_windows, n_ctx, n_vocab, bos=1)
    chosen = Settings(n_ctx=n_ctx, n_batch=n_batch, n_ubatch=n_ubatch)
    ours = window_geometry(probe, chosen, n_vocab)
    assert ours.n_batch <= min(n_batch, n_ubatch) and ours.n_ubatch == ours.n_batch
    assert ours.n_ubatch * n_ctx <= MASK_CELLS or ours.n_ubatch <= 32
    assert ours.n_ubatch == min(n_batch, n_ubatch) or n_ctx > 6000
    assert 4 * n_vocab * ours.n_outputs <= max(BLOCK_BYTES, 4 * n_vocab * 64)
    check_plan(probe, ours)
    assert all(len(step.tokens) > 1 for step in plan_windows(probe, ours))
    try:
        theirs = llama_perplexity_geometry(probe, chosen)
    except InputError as error:
        assert "a single token last" in str(error) and 1 in (
            n_ctx % n_ubatch,
            n_batch % n_ubatch,
            n_ctx % n_batch % n_ubatch,
        )
        return
    assert theirs.n_seq <= LLAMA_MAX_SEQ
    check_plan(probe, theirs)


def test_micro_batches_of_long_contexts_are_bounded() -> None:
    used = {n_ctx: Settings(n_ctx=n_ctx).n_ubatch_used for n_ctx in (512, 16_384, 65_536, 100_000, 131_072, 1 << 20)}
    assert used == {512: 512, 16_384: 512, 65_536: 512, 100_000: 320, 131_072: 256, 1 << 20: 32}


def test_layout_fault_names_field_and_numbers() -> None:
    compiled = [(name, value + 8 * (name == "pos")) for name, value in abi._native.batch_layout()]
    with pytest.raises(IncompatibleError, match=r"llama_batch\.pos: quantprobe was built for 32, .* has 24"):
        abi.check_layout(compiled, abi.llama.llama_batch, "llama_batch")
    with pytest.raises(IncompatibleError, match="has None"):
        abi.check_layout([("no_such_field", 0)], abi.llama.llama_batch, "llama_batch")
    abi.check_layout(abi._native.batch_layout(), abi.llama.llama_batch, "llama_batch")


GEOMETRY = Geometry(n_ctx=32, n_seq=2, n_batch=64, n_ubatch=64, n_outputs=8, unified=False)


def call(n: int = 1, token: int = 5, pos: int = 0, seq: int = 0, n_output: int = 1, n_seq: int = 1) -> tuple[Any, ...]:
    output = np.zeros(n, np.int8)
    output[:n_output] = 1
    positions = np.arange(pos, pos + n, dtype=np.int32)
    return np.full(n, token, np.int32), positions, np.full(n, seq, np.int32), np.full(n, n_seq, np.int32), output


WRONG_CALLS = {
    "no tokens": (call(0), "a batch of 0 tokens"),
    "too many tokens": (call(65), "a batch of 65 tokens; n_batch is 64"),
    "token too high": (call(token=259), "token 259 is outside the vocabulary of 259"),
    "negative token": (call(token=-1), "token -1"),
    "negative position": (call(pos=-1), "position -1"),
    "sequence too high": (call(seq=2), "sequence 2; n_seq_max is 2"),
    "negative sequence": (call(seq=-1), "sequence -1"),
    "too many rows": (call(9, n_output=9), "9 rows are asked for; n_outputs_max is 8"),
    "no sequence": (call(n_seq=0), "0 sequences from 0 on"),
    "sequences too high": (call(seq=1, n_seq=2), "2 sequences from 1 on; n_seq_max is 2"),
    "sequences overflow": (call(seq=1, n_seq=2**31 - 1), "n_seq_max is 2"),
    "ragged arrays": ((*call(2)[:4], np.ones(3, np.int8)), "different lengths"),
}


def test_decoder_checks_what_llama_cpp_would_abort_on(tmp_path: Path) -> None:
    info = read_model_info(write_tiny(tmp_path / "m.gguf"))
    with Model(info, SMALL) as model, Context(model, GEOMETRY) as context:
        decoder = context.decoder
        for arrays, message in WRONG_CALLS.values():
            with pytest.raises(ValueError, match=message):
                decoder.decode(*arrays)
        for source, target in ((0, 2), (2, 0), (-1, 0)):
            with pytest.raises(ValueError, match="n_seq_max is 2"):
                decoder.seq_cp(source, target)
        with pytest.raises(ValueError, match="n_seq_max is 2"):
            decoder.seq_rm(7)
        assert decoder.decode(*call(4, n_output=3)) == 0
        assert decoder.logits().shape == (3, 259)


@pytest.mark.parametrize("arch", ["llama", "falcon-h1"])
@pytest.mark.parametrize("pos", [40, 7])
def test_refused_batch_is_an_engine_error(tmp_path: Path, arch: str, pos: int) -> None:
    """A gap before the position: llama.cpp refuses the batch, and says why."""
    tokens, _, seq, n_seq, output = call(4)
    steps = [
        Step(tokens, np.arange(4, dtype=np.int32), seq, n_seq, output, np.zeros(1, np.int64), clear=True),
        Step(tokens, np.arange(pos, pos + 4, dtype=np.int32), seq, n_seq, output, np.ones(1, np.int64)),
    ]
    info = read_model_info(write_tiny(tmp_path / "m é.gguf", arch))
    with Model(info, SMALL) as model, Context(model, GEOMETRY) as context:
        blocks = run_blocks(context, steps)
        next(blocks)
        with pytest.raises(EngineError, match=r"could not decode a batch of 4 tokens with m é\.gguf"):
            next(blocks)


def test_head_product_checks_its_arguments(tmp_path: Path) -> None:
    source = read_head_source(write_tiny(tmp_path / "m.gguf"))
    matrix = np.zeros(source.n_bytes, np.uint8)

    def make(**changes: Any) -> Any:
        known = {
            "type": 0, "n_embd": 64, "n_vocab": 259, "matrix": matrix, "bias": None, "scale": 1.0, "softcap": 0.0,
            "device": 0, "n_threads": 1, "n_rows_max": 3,
        }  # fmt: skip
        return abi._native.HeadProduct(**{**known, **changes})

    with pytest.raises(ValueError, match="its shape needs"):
        make(matrix=matrix[:-1])
    with pytest.raises(ValueError, match="no device 99"):
        make(device=99)
    with pytest.raises(ValueError, match="does not fit the vocabulary"):
        make(bias=np.zeros(3, np.float32))
    head = make()
    with pytest.raises(ValueError, match="63 columns"):
        head.compute(np.zeros((2, 63), np.float32))
    with pytest.raises(ValueError, match="at least one row"):
        head.compute(np.zeros((0, 64), np.float32))
    assert head.compute(np.ones((3, 64), np.float32)).shape == (3, 259)
