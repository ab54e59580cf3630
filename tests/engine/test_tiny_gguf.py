"""The tiny models are real: llama.cpp loads, decodes and quantizes them, and agrees with what their headers say."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_gguf import ARCHS, write_embedding_model, write_tiny

from quantprobe.gguf.model import read_head_source, read_model_info

llama_cpp = pytest.importorskip("llama_cpp")


@contextmanager
def loaded(path: Path) -> Iterator[Any]:
    model = llama_cpp.Llama(str(path), logits_all=True, verbose=False, n_ctx=64, n_threads=1)
    try:
        yield model
    finally:
        model.close()


def log_probs(path: Path, tokens: list[int]) -> np.ndarray:
    with loaded(path) as model:
        model.eval(tokens)
        logits = np.array(model.scores[: len(tokens)], dtype=np.float64)
    assert np.isfinite(logits).all()
    logits -= logits.max(axis=1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def mean_kld(base: np.ndarray, quant: np.ndarray) -> float:
    return float((np.exp(base) * (base - quant)).sum(axis=1).mean())


CASES: list[dict[str, Any]] = [
    *[{"arch": arch, "vocab": vocab, "n_layer": ARCHS[arch].n_least} for arch in ARCHS for vocab in ("spm", "bpe")],
    {"n_vocab": 1031, "weight_type": "F16", "head_type": "BF16"},
    {"weight_type": "BF16", "tied": True, "n_vocab": 400},
    {"weight_type": "Q8_0", "split": 3},
    {"weight_type": "F16", "head_type": "Q8_0", "arch": "falcon-h1"},
    {"arch": "qwen2", "vocab": "bpe", "head_bias": True, "chat_template": "{{ messages }}"},
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(str(value) for value in case.values()))
def test_llama_cpp_loads_and_agrees(tmp_path: Path, case: dict[str, Any]) -> None:
    path = write_tiny(tmp_path / "m é.gguf", **case)
    info = read_model_info(path)
    with loaded(path) as llama:
        model, vocab = llama.model, llama_cpp.llama_model_get_vocab(llama.model)
        assert llama_cpp.llama_model_n_params(model) == info.n_params
        assert llama_cpp.llama_model_size(model) == round(info.bpw * info.n_params / 8)
        assert llama_cpp.llama_model_n_ctx_train(model) == info.n_ctx_train
        assert llama_cpp.llama_model_n_embd(model) == info.n_embd
        assert llama_cpp.llama_model_n_layer(model) == info.n_layer
        assert llama_cpp.llama_vocab_n_tokens(vocab) == info.n_vocab == read_head_source(path).n_vocab
        assert llama_cpp.llama_vocab_get_add_bos(vocab) == (case.get("vocab", "spm") == "spm")
        assert not llama_cpp.llama_vocab_get_add_eos(vocab)
        text = "the rain in Spain, é".encode()
        tokens = llama.tokenize(text)
        spaced = llama.detokenize(tokens).replace("\u2581".encode(), b" ")  # bytes alone have no piece for a space
        assert spaced.strip() == text
    assert np.ptp(log_probs(path, tokens[:16])) > 2  # not uniform


@pytest.mark.parametrize("arch", ARCHS)
def test_noise_makes_a_quant(tmp_path: Path, arch: str) -> None:
    """The same seed is the same model in any weight type; noise moves it, more noise further."""
    tokens = list(range(3, 19))
    base = log_probs(write_tiny(tmp_path / "base.gguf", arch=arch), tokens)
    moved = [log_probs(write_tiny(tmp_path / "q.gguf", arch=arch, noise=noise), tokens) for noise in (0.01, 0.2)]
    f16 = log_probs(write_tiny(tmp_path / "q.gguf", arch=arch, weight_type="F16"), tokens)
    assert 0 < mean_kld(base, f16) < mean_kld(base, moved[0]) < mean_kld(base, moved[1])


def test_quantized_by_llama_cpp(tmp_path: Path) -> None:
    """A k-quant that llama.cpp makes keeps the tokenizer digest and is named by its file type."""
    base = write_tiny(tmp_path / "base.gguf", n_embd=256, weight_type="F16", n_vocab=300, chat_template="x")
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.nthread = llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_M, 1
    out = tmp_path / "q.gguf"
    assert llama_cpp.llama_model_quantize(str(base).encode(), str(out).encode(), ctypes.byref(params)) == 0
    before, after = read_model_info(base), read_model_info(out)
    assert (after.file_type, after.n_params, after.chat_template) == ("Q4_K_M", before.n_params, "x")
    assert after.tokenizer_sha256 == before.tokenizer_sha256
    assert 4 < after.bpw < 7 < before.bpw
    assert read_head_source(out).type_name == "Q6_K"
    assert 0 < mean_kld(log_probs(base, list(range(3, 19))), log_probs(out, list(range(3, 19)))) < 1


def test_add_eos_is_what_llama_cpp_sees(tmp_path: Path) -> None:
    with loaded(write_tiny(tmp_path / "m.gguf", add_eos=True)) as llama:
        assert llama_cpp.llama_vocab_get_add_eos(llama_cpp.llama_model_get_vocab(llama.model))


def test_embedding_model_loads(tmp_path: Path) -> None:
    model = llama_cpp.Llama(str(write_embedding_model(tmp_path / "bert.gguf")), embedding=True, verbose=False, n_ctx=64)
    assert np.isfinite(model.embed("hello")).all()
    model.close()
