"""Tiny random GGUF models that llama.cpp loads and decodes: the architectures of `tiny_archs`, two vocabularies.

Weights depend on `seed` and the tensor's name alone, so two files that differ in weight type, vocabulary layout,
splitting or metadata hold the same model, and `noise` makes a "quant" of it.
"""

from __future__ import annotations

import itertools
import os
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type
from gguf import LlamaFileType, TokenType
from numpy.typing import NDArray
from tiny_archs import ARCHS, Keys, Shapes, Size, norms

LETTERS = "etaoinshrdlucmfwypvbgkjqxz"


def grams(space: str) -> Iterator[str]:
    """Pieces, shortest first, each one letter longer than an earlier one; a space only at the front."""
    for length in itertools.count(1):
        for letters in itertools.product(space + LETTERS, *[LETTERS] * (length - 1)):
            yield "".join(letters)


def spm_vocabulary(n_vocab: int) -> Keys:
    """SentencePiece: 3 special tokens, 256 bytes, then pieces; BOS is added."""
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    n_pieces = n_vocab - 3 - len(bytes_)
    if n_pieces < 0:
        raise ValueError("an SPM vocabulary needs at least 259 tokens")
    types = [TokenType.UNKNOWN, TokenType.CONTROL, TokenType.CONTROL]
    types += [TokenType.BYTE] * len(bytes_) + [TokenType.NORMAL] * n_pieces
    return {
        "model": "llama",
        "pre": "default",
        "tokens": ["<unk>", "<s>", "</s>", *bytes_, *itertools.islice(grams("\u2581"), n_pieces)],
        "scores": [0.0] * 259 + [-float(i) for i in range(n_pieces)],
        "token_type": [int(kind) for kind in types],
        "bos_token_id": 1,
        "eos_token_id": 2,
        "unknown_token_id": 0,
        "add_bos_token": True,
    }


def byte_alphabet() -> list[str]:
    """GPT-2's printable stand-in of each byte, in byte order."""
    kept = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    spare = itertools.count(256)
    return [chr(byte) if byte in kept else chr(next(spare)) for byte in range(256)]


def bpe_vocabulary(n_vocab: int) -> Keys:
    """GPT-2 style: 256 bytes, 3 control tokens, then merged pieces; no BOS."""
    alphabet = byte_alphabet()
    n_pieces = n_vocab - 259
    if n_pieces < 0:
        raise ValueError("a BPE vocabulary needs at least 259 tokens")
    longer = (piece for piece in grams(alphabet[ord(" ")]) if len(piece) > 1)
    pieces = list(itertools.islice(longer, n_pieces))
    types = [TokenType.NORMAL] * 256 + [TokenType.CONTROL] * 3 + [TokenType.NORMAL] * n_pieces
    return {
        "model": "gpt2",
        "pre": "gpt-2",
        "tokens": [*alphabet, "<|endoftext|>", "<|im_start|>", "<|im_end|>", *pieces],
        "token_type": [int(kind) for kind in types],
        "merges": [f"{piece[:-1]} {piece[-1]}" for piece in pieces] or ["e t"],
        "eos_token_id": 258,
        "padding_token_id": 256,
        "add_bos_token": False,
    }


VOCABULARIES: Mapping[str, Callable[[int], Keys]] = {"spm": spm_vocabulary, "bpe": bpe_vocabulary}

FILE_TYPES = {
    "F32": LlamaFileType.ALL_F32,
    "F16": LlamaFileType.MOSTLY_F16,
    "BF16": LlamaFileType.MOSTLY_BF16,
    "Q4_0": LlamaFileType.MOSTLY_Q4_0,
    "Q4_1": LlamaFileType.MOSTLY_Q4_1,
    "Q5_0": LlamaFileType.MOSTLY_Q5_0,
    "Q8_0": LlamaFileType.MOSTLY_Q8_0,
}


def weights(name: str, shape: tuple[int, ...], seed: int, noise: float) -> NDArray[np.float32]:
    """The tensor `name`: random, scaled so that activations stay near 1 and logits spread over a few nats."""
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    values = rng.standard_normal(shape, dtype=np.float32)
    if "norm" in name or name.endswith("ssm_d"):
        values = 1 + np.float32(0.1) * values
    elif name.endswith("ssm_a"):  # decay rates: negative
        values = -np.exp(np.float32(0.5) * values)
    elif name.endswith(".bias"):
        values *= np.float32(0.1)
    else:
        gain = 3.0 if name in ("output.weight", "token_embd.weight") else 1.0
        values *= np.float32(gain / np.sqrt(shape[-1]))
    if noise:
        other = np.random.default_rng([seed, zlib.crc32(name.encode()), 1]).standard_normal(shape, dtype=np.float32)
        values *= 1 + np.float32(noise) * other
    return values


def stored_type(name: str, shape: tuple[int, ...], weight_type: str, head_type: str | None) -> Type:
    """Only matrices that llama.cpp quantizes take the asked type; norms, routers and ssm parameters stay F32."""
    if name in ("output.weight", "token_embd.weight"):
        return Type[head_type or weight_type]
    kept = len(shape) < 2 or any(
        part in name for part in ("norm", "ssm_conv1d", "ssm_a", "ssm_d", "ssm_x", "gate_inp", "bias", "lerp")
    )
    fits = shape[-1] % gguf.GGML_QUANT_SIZES[Type[weight_type]][0] == 0
    if kept:
        return Type.F32
    return Type[weight_type] if fits else Type.F16  # llama-quantize's own fallback


def add_key(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    """Add a metadata value under the GGUF type that llama.cpp expects for its Python type."""
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)


def write_gguf(path: Path, arch: str, keys: Keys, tensors: Mapping[str, tuple[NDArray[Any], Type]], split: int) -> Path:
    """Write the file, or `split` numbered parts of it; the path of the first part."""
    per_part = -(-len(tensors) // split) if split > 1 else 0
    writer = gguf.GGUFWriter(path, arch, split_max_tensors=per_part)
    for key, value in keys.items():
        add_key(writer, key, value)
    for name, (values, kind) in tensors.items():
        writer.add_tensor(name, values, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.with_name(f"{path.stem}-00001-of-{split:05d}.gguf") if split > 1 else path


def quantized(values: NDArray[np.float32], kind: Type) -> tuple[NDArray[Any], Type]:
    return (values if kind == Type.F32 else gguf.quants.quantize(values, kind)), kind


def write_tiny(
    path: Path,
    arch: str = "llama",
    vocab: str = "spm",
    n_vocab: int = 259,
    n_embd: int = 64,
    n_layer: int = 2,
    weight_type: str = "F32",
    head_type: str | None = None,
    tied: bool = False,
    seed: int = 0,
    noise: float = 0.0,
    split: int = 1,
    add_eos: bool = False,
    chat_template: str | None = None,
    n_ctx_train: int = 4096,
    head_bias: bool = False,
    extra: Keys | None = None,
) -> Path:
    """Write a random model and return its path (its first part's, if split).

    `vocab` is "spm" (BOS added) or "bpe" (no BOS), of at least 259 tokens. `head_type` is the type of the output
    and embedding matrices (default: `weight_type`). `noise` multiplies every weight by 1 + noise x normal.
    `head_bias` adds output.bias (qwen2 alone reads it). `extra` overrides or adds metadata; a value None removes a key.
    Use n_embd=256 where llama.cpp must make k-quants of the file.
    """
    size = Size(n_vocab, n_embd, n_layer)
    table = ARCHS[arch]
    shapes: Shapes = {"token_embd.weight": (n_vocab, n_embd), "output_norm.weight": (n_embd,)}
    if not (tied or table.always_tied):
        shapes["output.weight"] = (n_vocab, n_embd)
    shapes |= table.head(size, n_ctx_train)
    if head_bias:
        shapes["output.bias"] = (n_vocab,)
    for layer in range(n_layer):
        shapes |= {f"blk.{layer}.{name}": shape for name, shape in table.layer_shapes(size, layer).items()}
    tensors = {
        name: quantized(weights(name, shape, seed, noise), stored_type(name, shape, weight_type, head_type))
        for name, shape in shapes.items()
    }
    general = {"context_length": n_ctx_train, "embedding_length": n_embd, "block_count": n_layer, "vocab_size": n_vocab}
    keys = {"general.name": f"tiny {arch}", "general.file_type": int(FILE_TYPES[weight_type])}
    keys |= {f"{arch}.{key}": value for key, value in (general | table.keys(size)).items()}
    keys |= {f"tokenizer.ggml.{key}": value for key, value in VOCABULARIES[vocab](n_vocab).items()}
    keys |= {"tokenizer.ggml.add_eos_token": add_eos, "tokenizer.chat_template": chat_template} | (extra or {})
    keys = {key: value for key, value in keys.items() if value is not None}
    return write_gguf(path, arch, keys, tensors, split)


def write_embedding_model(path: Path, n_embd: int = 64, n_layer: int = 2) -> Path:
    """A BERT encoder with mean pooling: llama.cpp loads it, and it has no next-token logits."""
    size = Size(259, n_embd, n_layer)
    square = (n_embd, n_embd)
    layer: Shapes = {f"attn_{part}.weight": square for part in ("q", "k", "v", "output")}
    layer |= {"ffn_up.weight": (size.n_ff, n_embd), "ffn_down.weight": (n_embd, size.n_ff)}
    layer |= norms(size, *(f"{n}.{p}" for n in ("attn_output_norm", "layer_output_norm") for p in ("weight", "bias")))
    shapes: Shapes = {"token_embd.weight": (259, n_embd), "position_embd.weight": (512, n_embd)}
    shapes |= norms(size, "token_embd_norm.weight", "token_embd_norm.bias")
    shapes |= {f"blk.{i}.{name}": shape for i in range(n_layer) for name, shape in layer.items()}
    tensors = {name: (weights(name, shape, 0, 0.0), Type.F32) for name, shape in shapes.items()}
    dims = {"context_length": 512, "embedding_length": n_embd, "block_count": n_layer, "feed_forward_length": size.n_ff}
    attention = {"attention.head_count": size.n_head, "attention.layer_norm_epsilon": 1e-5, "attention.causal": False}
    keys = {"general.name": "tiny bert", "general.file_type": 0}
    keys |= {f"bert.{key}": value for key, value in (dims | attention | {"pooling_type": 1}).items()}
    keys |= {f"tokenizer.ggml.{key}": value for key, value in spm_vocabulary(259).items()}
    keys["tokenizer.ggml.token_type_count"] = 2
    return write_gguf(path, "bert", keys, tensors, split=1)


def truncate(path: Path, n: int) -> Path:
    """Keep the first `n` bytes of the file (all but the last -n if negative), as an interrupted download does."""
    os.truncate(path, n if n >= 0 else path.stat().st_size + n)
    return path
