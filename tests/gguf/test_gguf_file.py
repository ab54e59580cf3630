"""What a model is, from metadata: identity, digests, parts, output matrix, refusals."""

from __future__ import annotations

import hashlib
import shutil
import time
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_gguf import ARCHS, truncate, write_embedding_model, write_tiny

from quantprobe.errors import FileFormatError, InputError, QuantprobeError
from quantprobe.gguf.model import (
    HeadSource,
    ImatrixInfo,
    hash_model,
    read_head_source,
    read_model_info,
    require_measurable,
    split_paths,
)
from quantprobe.gguf.parts import hash_files

ADD_EOS = "tokenizer.ggml.add_eos_token"


def head_matrix(head: HeadSource) -> np.ndarray:
    """The matrix `[n_vocab, n_embd]` float32 that a HeadSource points at."""
    data = np.fromfile(head.path, dtype=np.uint8, count=head.n_bytes, offset=head.offset)
    rows = data.reshape(head.n_vocab, head.n_bytes // head.n_vocab)
    return gguf.quants.dequantize(rows, GGMLQuantizationType(head.type_id))


def tensor_of(path: Path, name: str) -> np.ndarray:
    """The tensor as gguf's own reader gives it."""
    tensor = next(t for t in gguf.GGUFReader(path).tensors if t.name == name)
    return gguf.quants.dequantize(np.asarray(tensor.data), tensor.tensor_type)


def test_model_info(tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "Some Model.Q8_0.gguf", n_vocab=1031, chat_template="{{ é }}", weight_type="Q8_0")
    info = read_model_info(path)
    assert (info.path, info.name, info.architecture, info.file_type) == (path, "Some Model.Q8_0", "llama", "Q8_0")
    assert (info.n_vocab, info.n_embd, info.n_layer, info.n_ctx_train) == (1031, 64, 2, 4096)
    assert info.size_bytes == path.stat().st_size
    assert (info.chat_template, info.imatrix, info.sha256, info.refusal) == ("{{ é }}", None, "", None)
    tensors = gguf.GGUFReader(path).tensors
    assert info.n_params == sum(t.n_elements for t in tensors)
    assert info.bpw == 8 * sum(int(t.n_bytes) for t in tensors) / info.n_params
    require_measurable(info)


@pytest.mark.parametrize("arch", ARCHS)
def test_every_architecture(tmp_path: Path, arch: str) -> None:
    info = read_model_info(write_tiny(tmp_path / "m.gguf", arch=arch, vocab="bpe", n_layer=1))
    assert (info.architecture, info.n_vocab, info.bpw, info.refusal) == (arch, 259, 32.0, None)
    head = read_head_source(info.path)
    assert head.tensor == ("token_embd.weight" if ARCHS[arch].always_tied else "output.weight")
    np.testing.assert_array_equal(head_matrix(head), tensor_of(info.path, head.tensor))


@pytest.mark.model
def test_real_model(smollm2: Path) -> None:
    info = read_model_info(smollm2)
    assert (info.name, info.file_type, info.n_vocab) == ("SmolLM2-135M-Instruct.Q4_1", "Q4_1", 49152)
    assert (info.n_params, info.n_layer, info.n_embd, info.n_ctx_train) == (134_515_008, 30, 576, 8192)
    head = read_head_source(smollm2)
    assert (head.tensor, head.type_name, head.n_bytes) == ("token_embd.weight", "Q8_0", 49152 * 576 // 32 * 34)
    assert head.path == smollm2 and head.scale is head.softcap is head.bias is None
    assert info.chat_template is not None and "<|im_start|>" in info.chat_template


def test_large_vocabulary_is_read_quickly(tmp_path: Path) -> None:
    """gguf.GGUFReader takes 100 times the time of this on the same file."""
    path = write_tiny(tmp_path / "m.gguf", vocab="bpe", n_vocab=50_000, n_embd=16, n_layer=1, tied=True)
    start = time.perf_counter()
    assert read_model_info(path).n_vocab == 50_000
    assert time.perf_counter() - start < 0.5


@pytest.mark.parametrize(
    ("extra", "file_type"),
    [
        ({"general.file_type": 15}, "Q4_K_M"),
        ({"general.file_type": 0}, "F32"),
        ({"general.file_type": 1024 + 30}, "IQ4_XS"),
        ({"general.file_type": 41}, "Q2_0"),
        ({"general.file_type": None}, "Q8_0"),
        ({"general.file_type": 999}, "Q8_0"),
        ({"general.file_type": "Q4_K_M"}, "Q8_0"),
    ],
)
def test_file_type(tmp_path: Path, extra: dict[str, Any], file_type: str) -> None:
    """llama.cpp's name, or the type of most weights (here Q8_0, beside F32 norms) where none is known."""
    path = write_tiny(tmp_path / "m.gguf", weight_type="Q8_0", n_layer=1, extra=extra)
    assert read_model_info(path).file_type == file_type


def test_imatrix(tmp_path: Path) -> None:
    keys = {"file": "imatrix.gguf", "dataset": "calibration v3.txt", "entries_count": 14, "chunks_count": 120}
    extra = {f"quantize.imatrix.{key}": value for key, value in keys.items()}
    info = read_model_info(write_tiny(tmp_path / "m.gguf", extra=extra))
    assert info.imatrix == ImatrixInfo("imatrix.gguf", "calibration v3.txt", 14, 120)
    partial = read_model_info(write_tiny(tmp_path / "p.gguf", extra={"quantize.imatrix.chunks_count": 3}))
    assert partial.imatrix == ImatrixInfo(None, None, None, 3)


def digest(path: Path, **arguments: Any) -> str:
    return read_model_info(write_tiny(path, n_layer=1, **arguments)).tokenizer_sha256


@pytest.mark.parametrize("vocab", ["spm", "bpe"])
@pytest.mark.parametrize(
    "arguments",
    [
        {"weight_type": "Q8_0"},
        {"seed": 5, "noise": 0.1, "arch": "mamba"},
        {"chat_template": "{{ fixed }}"},
        {"tied": True, "n_embd": 32},
        {"split": 3},
        {"extra": {"tokenizer.ggml.padding_token_id": 7, "tokenizer.ggml.eos_token_id": 3}},
    ],
)
def test_tokenizer_digest_of_one_tokenizer(tmp_path: Path, vocab: str, arguments: dict[str, Any]) -> None:
    """Requantizing, another template and repaired end or padding ids leave text -> ids as it is."""
    assert digest(tmp_path / "q.gguf", vocab=vocab, **arguments) == digest(tmp_path / "base.gguf", vocab=vocab)


@pytest.mark.parametrize(
    "extra",
    [
        {"tokenizer.ggml.pre": "llama-bpe"},
        {"tokenizer.ggml.add_bos_token": None},
        {"tokenizer.ggml.bos_token_id": 5, "tokenizer.ggml.add_bos_token": True},
        {"tokenizer.ggml.add_space_prefix": False},
        {"tokenizer.ggml.merges": ["t e"]},
        {"tokenizer.ggml.token_type": [1] * 259},
        {"tokenizer.ggml.tokens": [f"t{i}" for i in range(259)]},
        {ADD_EOS: True},
    ],
)
@pytest.mark.parametrize("vocab", ["spm", "bpe"])
def test_tokenizer_digest_of_another_tokenizer(tmp_path: Path, vocab: str, extra: dict[str, Any]) -> None:
    assert digest(tmp_path / "q.gguf", vocab=vocab, extra=extra) != digest(tmp_path / "base.gguf", vocab=vocab)


def test_scores_count_where_the_tokenizer_uses_them(tmp_path: Path) -> None:
    scores = {"tokenizer.ggml.scores": [0.5] * 259}
    assert digest(tmp_path / "q.gguf", extra=scores) != digest(tmp_path / "b.gguf")
    assert digest(tmp_path / "q.gguf", vocab="bpe", extra=scores) == digest(tmp_path / "b.gguf", vocab="bpe")


def test_bos_counts_where_it_may_be_added(tmp_path: Path) -> None:
    bos = {"tokenizer.ggml.bos_token_id": 257}
    assert digest(tmp_path / "q.gguf", extra=bos) != digest(tmp_path / "b.gguf")
    assert digest(tmp_path / "q.gguf", vocab="bpe", extra=bos) == digest(tmp_path / "b.gguf", vocab="bpe")


@pytest.mark.parametrize("n_vocab", [260, 1031])
def test_tokenizer_digest_sees_the_vocabulary_size(tmp_path: Path, n_vocab: int) -> None:
    assert digest(tmp_path / "q.gguf", n_vocab=n_vocab) != digest(tmp_path / "b.gguf")


def test_vocabulary_size_without_tokens(tmp_path: Path) -> None:
    no_tokens = {"tokenizer.ggml.tokens": None}
    info = read_model_info(write_tiny(tmp_path / "m.gguf", extra=no_tokens))
    assert info.n_vocab == 259 and info.refusal is not None and "no vocabulary" in info.refusal
    bare = write_tiny(tmp_path / "m.gguf", extra=no_tokens | {"llama.vocab_size": None})
    assert read_model_info(bare).n_vocab == 259


def test_hashes(tmp_path: Path) -> None:
    one, two = tmp_path / "é 1.bin", tmp_path / "2.bin"
    one.write_bytes(b"a" * (9 << 20))
    two.write_bytes(b"bc")
    seen: list[int] = []
    whole = b"a" * (9 << 20) + b"bc"
    assert hash_files([one, two], seen.append) == hashlib.sha256(whole).hexdigest()
    assert seen == [8 << 20, 1 << 20, 2]
    assert hash_files([one]) == hashlib.sha256(one.read_bytes()).hexdigest()
    with pytest.raises(InputError, match=r"cannot read .*absent"):
        hash_files([tmp_path / "absent"])


def test_hash_model_covers_all_parts(tmp_path: Path) -> None:
    info = read_model_info(write_tiny(tmp_path / "m.gguf", split=3))
    parts = [tmp_path / f"m-0000{i}-of-00003.gguf" for i in (1, 2, 3)]
    expected = hashlib.sha256(b"".join(part.read_bytes() for part in parts)).hexdigest()
    assert hash_model(info).sha256 == expected
    assert info.sha256 == "" and hash_model(info).n_params == info.n_params


def test_split_model_is_the_whole_model(tmp_path: Path) -> None:
    whole = write_tiny(tmp_path / "whole.gguf", vocab="bpe", head_bias=True, arch="qwen2")
    folder = tmp_path / "ä folder"
    folder.mkdir()
    first = write_tiny(folder / "ein Modell-ü.gguf", vocab="bpe", head_bias=True, arch="qwen2", split=4)
    assert first.name == "ein Modell-ü-00001-of-00004.gguf"
    assert split_paths(first) == sorted(folder.iterdir()) and split_paths(whole) == [whole]
    a, b = read_model_info(whole), read_model_info(first)
    assert b.name == "ein Modell-ü" and b.path == first
    assert (a.n_params, a.bpw, a.n_vocab, a.tokenizer_sha256) == (b.n_params, b.bpw, b.n_vocab, b.tokenizer_sha256)
    assert b.size_bytes == sum(part.stat().st_size for part in folder.iterdir())
    np.testing.assert_array_equal(head_matrix(read_head_source(whole)), head_matrix(read_head_source(first)))


def test_head_in_a_later_part(tmp_path: Path) -> None:
    """token_embd comes first and output third: with as many parts as tensors, part 3 holds the head."""
    first = write_tiny(tmp_path / "m.gguf", n_layer=1, split=12)
    head = read_head_source(first)
    assert head.path.name == "m-00003-of-00012.gguf"
    np.testing.assert_array_equal(head_matrix(head), tensor_of(head.path, "output.weight"))
    tied = write_tiny(tmp_path / "t.gguf", n_layer=1, tied=True, split=2)
    assert read_head_source(tied).tensor == "token_embd.weight"


def test_split_errors(tmp_path: Path) -> None:
    first = write_tiny(tmp_path / "m.gguf", split=3)
    second, third = first.with_name("m-00002-of-00003.gguf"), first.with_name("m-00003-of-00003.gguf")
    with pytest.raises(FileFormatError, match=r"part 2 of 3; give the first part, m-00001-of-00003\.gguf"):
        read_model_info(second)
    renamed = Path(shutil.copy(first, tmp_path / "renamed.gguf"))
    with pytest.raises(FileFormatError, match=r"name is not NAME-00001-of-00003\.gguf"):
        split_paths(renamed)
    original = third.read_bytes()
    shutil.copy(second, third)
    with pytest.raises(FileFormatError, match="says it is part 1, expected 2"):
        read_model_info(first)
    truncate(third, -64)
    with pytest.raises(FileFormatError, match=r"m-00003-of-00003\.gguf is truncated"):
        read_head_source(first)
    third.unlink()
    with pytest.raises(FileFormatError, match=r"m-00003-of-00003\.gguf is missing"):
        read_model_info(first)
    second.unlink()
    with pytest.raises(FileFormatError, match=r"m-00002-of-00003\.gguf, m-00003-of-00003\.gguf are missing"):
        split_paths(first)
    third.write_bytes(original)


def test_parts_of_two_models(tmp_path: Path) -> None:
    first = write_tiny(tmp_path / "m.gguf", split=2)
    (tmp_path / "other").mkdir()
    other = write_tiny(tmp_path / "other" / "m.gguf", split=2, n_layer=3)
    name = "m-00002-of-00002.gguf"
    shutil.copy(other.with_name(name), first.with_name(name))
    with pytest.raises(FileFormatError, match="not of one model"):
        read_model_info(first)


@pytest.mark.parametrize(
    ("arch", "scale", "softcap"),
    [("llama", None, None), ("gemma2", None, 5.0), ("command-r", 0.25, None), ("granite", 4.0, None)],
)
def test_what_is_applied_to_the_logits(tmp_path: Path, arch: str, scale: float | None, softcap: float | None) -> None:
    head = read_head_source(write_tiny(tmp_path / "m.gguf", arch=arch, n_layer=1))
    assert (head.scale, head.softcap, head.bias) == (scale, softcap, None)


@pytest.mark.parametrize("head_type", ["F32", "F16", "BF16", "Q8_0"])
@pytest.mark.parametrize("tied", [False, True])
def test_head_types(tmp_path: Path, head_type: str, tied: bool) -> None:
    path = write_tiny(tmp_path / "m.gguf", n_vocab=1031, weight_type="F16", head_type=head_type, tied=tied, n_layer=1)
    head = read_head_source(path)
    assert (head.type_name, head.n_embd, head.n_vocab) == (head_type, 64, 1031)
    np.testing.assert_array_equal(head_matrix(head), tensor_of(path, head.tensor))


def test_head_bias(tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "m.gguf", arch="qwen2", vocab="bpe", head_bias=True)
    bias = read_head_source(path).bias
    assert bias is not None and bias.dtype == np.float32
    np.testing.assert_array_equal(bias, tensor_of(path, "output.bias"))


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"add_eos": True}, "add_eos_token is true"),
        ({"extra": {"llama.attention.causal": False}}, "not causal"),
        ({"extra": {"llama.pooling_type": 1}}, r"llama\.pooling_type is mean"),
        ({"extra": {"llama.pooling_type": 4}}, r"llama\.pooling_type is rank"),
    ],
)
def test_refusals(tmp_path: Path, arguments: dict[str, Any], reason: str) -> None:
    info = read_model_info(write_tiny(tmp_path / "m.gguf", **arguments))
    with pytest.raises(InputError, match=rf"m\.gguf cannot be measured: .*{reason}"):
        require_measurable(info)


def test_encoder_is_refused(tmp_path: Path) -> None:
    info = read_model_info(write_embedding_model(tmp_path / "bert.gguf"))
    assert info.refusal is not None and "embedding model (architecture bert)" in info.refusal


def test_decoder_with_pooling_none_is_measured(tmp_path: Path) -> None:
    extra = {"llama.pooling_type": 0, "llama.attention.causal": True}
    info = read_model_info(write_tiny(tmp_path / "m.gguf", extra=extra))
    require_measurable(info)
    assert info.refusal is None


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"general.type": "adapter"}, "GGUF file of type 'adapter', expected a language model"),
        ({"general.type": "imatrix"}, "type 'imatrix'"),
        ({"general.architecture": "clip"}, "type 'mmproj'"),
        ({"general.architecture": 5}, "names no general.architecture"),
        ({"llama.context_length": None}, "context_length is missing, expected a whole number"),
        ({"llama.block_count": "two"}, "block_count is 'two', expected a whole number"),
    ],
)
def test_not_a_model(tmp_path: Path, extra: dict[str, Any], message: str) -> None:
    path = write_tiny(tmp_path / "m.gguf", extra=extra)
    with pytest.raises(FileFormatError, match=message):
        read_model_info(path)


def write_tensors(path: Path, tensors: dict[str, np.ndarray]) -> Path:
    writer = gguf.GGUFWriter(path, "llama")
    for key in ("context_length", "embedding_length", "block_count"):
        writer.add_uint32(f"llama.{key}", 1)
    for name, values in tensors.items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({}, "holds no weights"),
        ({"other.weight": np.ones((2, 2), np.float32)}, "neither output.weight nor token_embd.weight"),
        ({"output.weight": np.ones(4, np.float32)}, r"shape \(4,\), expected \(n_embd, n_vocab\)"),
    ],
)
def test_models_without_a_head(tmp_path: Path, tensors: dict[str, np.ndarray], message: str) -> None:
    path = write_tensors(tmp_path / "m.gguf", tensors)
    with pytest.raises(FileFormatError, match=message):
        read_model_info(path)


def test_bias_of_the_wrong_length(tmp_path: Path) -> None:
    path = write_tensors(
        tmp_path / "m.gguf", {"output.weight": np.ones((3, 2), np.float32), "output.bias": np.ones(4, np.float32)}
    )
    with pytest.raises(FileFormatError, match=r"output\.bias is F32 of shape \(4,\), expected .* \(3,\)"):
        read_head_source(path)


@pytest.fixture(scope="module")
def tiny_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = write_tiny(tmp_path_factory.mktemp("gguf") / "m.gguf", arch="qwen2", n_embd=32, n_layer=1, head_bias=True)
    return path.read_bytes()


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_mutated_files_never_give_a_traceback(
    tiny_bytes: bytes, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Whatever four bytes change: an explained error, or numbers that fit the file."""
    content = bytearray(tiny_bytes)
    for at in data.draw(st.lists(st.integers(4, 14_000), min_size=1, max_size=4)):
        content[at] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "mutated.gguf"
    path.write_bytes(content)
    try:
        info, head = read_model_info(path), read_head_source(path)
    except QuantprobeError as error:
        assert len(str(error)) > 20
        return
    assert info.size_bytes == len(content) and 0 < info.bpw <= 64 and info.n_params > 0
    assert 0 <= head.offset <= len(content) - head.n_bytes
