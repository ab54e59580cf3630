"""What a GGUF model is, from its metadata alone: identity, size, tokenizer digest, output matrix."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType

from quantprobe.arrays import Float32Array
from quantprobe.errors import FileFormatError, InputError
from quantprobe.gguf.digests import content_digest
from quantprobe.gguf.file_types import file_type_of
from quantprobe.gguf.header import ArrayField, Header, Tensor
from quantprobe.gguf.parts import find_tensor, model_name, read_parts, read_span, split_paths
from quantprobe.gguf.source import hub_source

__all__ = [
    "HeadSource",
    "ImatrixInfo",
    "ModelIdentity",
    "ModelInfo",
    "hash_model",
    "read_head_source",
    "read_model_info",
    "require_measurable",
    "split_paths",
]

# What decides which ids a text becomes and which token a row's column stands for. Left out on purpose: the chat
# template, and ids that tokenizing a text never uses (eos, eot, padding, fim), because re-uploads often fix them.
TOKENIZER_KEYS = (
    "model",
    "pre",
    "tokens",
    "token_type",
    "scores",
    "merges",
    "unknown_token_id",
    "bos_token_id",
    "add_bos_token",
    "add_eos_token",
    "add_sep_token",
    "add_space_prefix",
    "remove_extra_whitespaces",
    "precompiled_charsmap",
    "normalizer.lowercase",
    "normalizer.strip_accents",
)
SCORED_TOKENIZERS = {"llama", "t5", "plamo2"}  # those that choose pieces by score; BPE goes by its merges alone

NOT_DECODERS: Mapping[str, str] = {
    "bert": "an embedding model",
    "modern-bert": "an embedding model",
    "neo-bert": "an embedding model",
    "nomic-bert": "an embedding model",
    "nomic-bert-moe": "an embedding model",
    "jina-bert-v2": "an embedding model",
    "jina-bert-v3": "an embedding model",
    "eurobert": "an embedding model",
    "gemma-embedding": "an embedding model",
    "llama-embed": "an embedding model",
    "t5encoder": "an embedding model",
    "t5": "an encoder-decoder model",
    "wavtokenizer-dec": "an audio decoder",
    "dream": "a diffusion model",
    "llada": "a diffusion model",
    "llada-moe": "a diffusion model",
    "rnd1": "a diffusion model",
    "eagle3": "a draft model",
    "dflash": "a draft model",
    "gemma4-assistant": "a draft model",
}


@dataclass(frozen=True)
class ImatrixInfo:
    """The importance matrix that llama-quantize recorded in the file; None for what it did not record."""

    file: str | None = None
    dataset: str | None = None
    entries_count: int | None = None
    chunks_count: int | None = None


@dataclass(frozen=True, kw_only=True)
class ModelIdentity:
    """Which model something was measured on, as captures and runs record it; empty or None where nobody told.

    `sha256` (of the bytes of all parts) identifies the content; `name` and `path` may change.
    """

    name: str
    path: str = ""
    sha256: str = ""
    size_bytes: int | None = None
    bpw: float | None = None
    file_type: str = ""
    architecture: str = ""
    n_vocab: int | None = None
    tokenizer_sha256: str = ""
    source: str = ""
    """Where on the hub the file came from, `hf://OWNER/REPO@COMMIT/FILE`; empty if from elsewhere."""

    @property
    def size_gb(self) -> float | None:
        """Size in GB, 10^9 bytes."""
        return None if self.size_bytes is None else self.size_bytes / 1e9

    @property
    def size_gib(self) -> float | None:
        """Size in GiB, 2^30 bytes."""
        return None if self.size_bytes is None else self.size_bytes / 2**30


@dataclass(frozen=True)
class ModelInfo:
    """A model's metadata; nothing is loaded.

    `name` is the file's name without `.gguf` and without the split suffix, so it tells quants of one model apart.
    `size_bytes` sums the files of all parts, `n_params` the elements of all tensors, and `bpw` is bits per weight,
    8 x tensor bytes / n_params. `file_type` is llama.cpp's name ("Q4_K_M"), or the type of most weights
    where the file does not say. `n_vocab` is the length of the token list (of the output's rows without one).
    `sha256` covers the bytes of all parts in order and is "" until `hash_model` fills it.
    `refusal` says why next-token predictions cannot be measured; None where they can.
    """

    path: Path
    name: str
    architecture: str
    file_type: str
    n_vocab: int
    n_ctx_train: int
    n_embd: int
    n_layer: int
    size_bytes: int
    n_params: int
    bpw: float
    tokenizer_sha256: str
    chat_template: str | None
    imatrix: ImatrixInfo | None
    sha256: str = ""
    refusal: str | None = None
    n_positions: int | None = None
    """Tokens for which the model has learned positions (GPT-2 and its like); None where it computes them."""

    def identity(self) -> ModelIdentity:
        """What is recorded of this model."""
        return ModelIdentity(
            name=self.name,
            # the file's own name stays: the hub's cache links it to a file that is named by its digest
            path=str(self.path.parent.resolve() / self.path.name),
            sha256=self.sha256,
            size_bytes=self.size_bytes,
            bpw=self.bpw,
            file_type=self.file_type,
            architecture=self.architecture,
            n_vocab=self.n_vocab,
            tokenizer_sha256=self.tokenizer_sha256,
            source=hub_source(self.path),
        )


@dataclass(frozen=True, eq=False)  # no comparison: arrays have no single truth value
class HeadSource:
    """Where the output matrix lies, and what the file says is applied to its product.

    The matrix is `[n_vocab, n_embd]` in rows of ggml type `type_id`, `n_bytes` from byte `offset` of `path` (the part
    that holds it). `scale` is `{arch}.logit_scale` as written: Command-R, Cohere2 and Grok multiply the logits by it,
    the Granite family divides by it, MiniCPM applies it before the product. `softcap` is
    `{arch}.final_logit_softcapping`: logits become softcap x tanh(logits / softcap). Both are None where absent;
    some architectures have defaults of their own (Gemma-2: 30). `bias` is `output.bias`, `[n_vocab]` float32.
    """

    path: Path
    tensor: str
    type_name: str
    type_id: int
    n_embd: int
    n_vocab: int
    offset: int
    n_bytes: int
    scale: float | None
    softcap: float | None
    bias: Float32Array | None


def read_model_info(path: Path) -> ModelInfo:
    """The metadata of a model, read from the headers of all its parts; `path` is the file or the first part.

    Raises `InputError` if a file cannot be read, and `FileFormatError` if one is damaged, truncated, not a model
    (adapter, importance matrix, vocabulary alone), lacks a part, or is not the first part.
    """
    return model_info(path, read_parts(path))


def model_info(path: Path, parts: Sequence[Header]) -> ModelInfo:
    """The metadata of a model whose headers were read; see `read_model_info`."""
    first = parts[0]
    architecture = require_model(first)
    tensors = [tensor for part in parts for tensor in part.tensors.values()]
    n_params = sum(tensor.n_elements for tensor in tensors)
    if n_params == 0:
        raise FileFormatError(f"{path} holds no weights (a vocabulary alone?); give a model")
    return ModelInfo(
        path=path,
        name=model_name(path),
        architecture=architecture,
        file_type=file_type_name(first, tensors),
        n_vocab=vocabulary_size(parts, architecture),
        n_ctx_train=required_integer(first, f"{architecture}.context_length"),
        n_embd=required_integer(first, f"{architecture}.embedding_length"),
        n_layer=required_integer(first, f"{architecture}.block_count"),
        size_bytes=sum(part.size_bytes for part in parts),
        n_params=n_params,
        bpw=8 * sum(tensor.n_bytes for tensor in tensors) / n_params,
        tokenizer_sha256=tokenizer_digest(first),
        chat_template=first.text("tokenizer.chat_template"),
        imatrix=imatrix_info(first),
        refusal=find_refusal(first, architecture),
        n_positions=next((tensor.shape[-1] for tensor in tensors if tensor.name == "position_embd.weight"), None),
    )


def require_measurable(info: ModelInfo) -> None:
    """Raise `InputError` if the model has no next-token predictions to measure."""
    if info.refusal:
        raise InputError(f"{info.path} cannot be measured: {info.refusal}")


def hash_model(info: ModelInfo, on_bytes: Callable[[int], None] | None = None) -> ModelInfo:
    """The same information with `sha256` filled from the contents of all parts; see `content_digest`."""
    return replace(info, sha256=content_digest(split_paths(info.path), on_bytes))


def require_model(header: Header) -> str:
    """The architecture; raises `FileFormatError` for GGUF files of other kinds."""
    architecture = header.text("general.architecture")
    kind = "mmproj" if architecture == "clip" else header.text("general.type") or "model"
    if kind != "model":
        raise FileFormatError(f"{header.path} is a GGUF file of type {kind!r}, expected a language model")
    if not architecture:
        raise FileFormatError(f"{header.path} names no general.architecture, so it is not a model")
    return architecture


def required_integer(header: Header, key: str) -> int:
    value = header.integer(key)
    if value is None:
        found = repr(header.metadata[key]) if key in header.metadata else "missing"
        raise FileFormatError(f"{header.path}: {key} is {found}, expected a whole number; convert the model again")
    return value


def vocabulary_size(parts: Sequence[Header], architecture: str) -> int:
    first = parts[0]
    tokens = first.metadata.get("tokenizer.ggml.tokens")
    if isinstance(tokens, ArrayField):
        return tokens.n
    size = first.integer(f"{architecture}.vocab_size")
    return size if size is not None else find_head(parts)[1].shape[1]


def file_type_name(first: Header, tensors: Sequence[Tensor]) -> str:
    """llama.cpp's name of the file type, or the type of most weights where the file names none that is known."""
    number = first.integer("general.file_type")
    name = None if number is None else file_type_of(number)
    if name is not None:
        return name
    weights: dict[str, int] = {}
    for tensor in tensors:
        weights[tensor.type_name] = weights.get(tensor.type_name, 0) + tensor.n_elements
    return max(weights, key=lambda name: weights[name])


def imatrix_info(header: Header) -> ImatrixInfo | None:
    keys = [f"quantize.imatrix.{name}" for name in ("file", "dataset", "entries_count", "chunks_count")]
    if not any(key in header.metadata for key in keys):
        return None
    file, dataset, entries, chunks = keys
    return ImatrixInfo(header.text(file), header.text(dataset), header.integer(entries), header.integer(chunks))


def find_refusal(header: Header, architecture: str) -> str | None:
    """Why llama-perplexity's method does not apply to this model; None if it does."""
    if architecture in NOT_DECODERS:
        return f"it is {NOT_DECODERS[architecture]} (architecture {architecture}), which predicts no next token"
    if header.metadata.get(f"{architecture}.attention.causal") is False:
        return f"its attention is not causal ({architecture}.attention.causal is false), so no next token is predicted"
    pooling = header.integer(f"{architecture}.pooling_type")
    if pooling in (1, 2, 3, 4):
        name = gguf.PoolingType(pooling).name.lower()
        return f"it is an embedding or ranking model ({architecture}.pooling_type is {name})"
    if not isinstance(header.metadata.get("tokenizer.ggml.tokens"), ArrayField):
        return "it has no vocabulary (tokenizer.ggml.tokens is missing), so text cannot be tokenized"
    if header.metadata.get("tokenizer.ggml.add_eos_token") is True:
        return (
            "its vocabulary ends every text with EOS (tokenizer.ggml.add_eos_token is true), on which llama-perplexity "
            "stops too; a copy of the file with that key set to false can be measured"
        )
    return None


def tokenizer_digest(header: Header) -> str:
    """SHA-256 of what turns text into ids and ids into columns; the same for every quantization of one conversion.

    Scores count only for tokenizers that choose pieces by score, and the BOS id only unless BOS is declared not to
    be added: converters write both or neither, to no effect. Integers are compared by value, whatever their width;
    arrays by their bytes.
    """
    idle = set() if header.text("tokenizer.ggml.model") in SCORED_TOKENIZERS else {"scores"}
    if header.metadata.get("tokenizer.ggml.add_bos_token") is False:
        idle.add("bos_token_id")
    digest = hashlib.sha256()
    for name in TOKENIZER_KEYS:
        value = header.metadata.get(f"tokenizer.ggml.{name}")
        if value is None or name in idle:
            continue
        if isinstance(value, ArrayField):
            digest.update(f"{name} {value.kind} {value.n} ".encode())
            digest.update(read_span(header.path, value.start, value.stop - value.start))
        else:
            digest.update(f"{name} {value!r}\n".encode())
    return digest.hexdigest()


def read_head_source(path: Path) -> HeadSource:
    """Find the output matrix of a model, in whichever part it lies: `output.weight`, or the tied `token_embd.weight`.

    Raises what `read_model_info` raises, and `FileFormatError` if there is neither matrix or its shape is wrong.
    """
    parts = read_parts(path)
    architecture = require_model(parts[0])
    part, head = find_head(parts)
    n_embd, n_vocab = head.shape
    return HeadSource(
        path=part.path,
        tensor=head.name,
        type_name=head.type_name,
        type_id=head.type_id,
        n_embd=n_embd,
        n_vocab=n_vocab,
        offset=head.offset,
        n_bytes=head.n_bytes,
        scale=parts[0].number(f"{architecture}.logit_scale"),
        softcap=parts[0].number(f"{architecture}.final_logit_softcapping"),
        bias=read_bias(parts, n_vocab),
    )


def find_head(parts: Sequence[Header]) -> tuple[Header, Tensor]:
    """The part and the tensor of the output matrix, `[n_embd, n_vocab]` in ggml's order."""
    found = find_tensor(parts, "output.weight") or find_tensor(parts, "token_embd.weight")
    if found is None:
        raise FileFormatError(f"{parts[0].path} has neither output.weight nor token_embd.weight, so it has no logits")
    if len(found[1].shape) != 2:
        raise FileFormatError(
            f"{found[0].path}: {found[1].name} has the shape {found[1].shape}, expected (n_embd, n_vocab)"
        )
    return found


def read_bias(parts: Sequence[Header], n_vocab: int) -> Float32Array | None:
    found = find_tensor(parts, "output.bias")
    if found is None:
        return None
    part, tensor = found
    if tensor.shape != (n_vocab,) or tensor.type_name not in ("F32", "F16", "BF16"):
        raise FileFormatError(
            f"{part.path}: output.bias is {tensor.type_name} of shape {tensor.shape}, "
            f"expected F32, F16 or BF16 of shape ({n_vocab},)"
        )
    data = np.frombuffer(read_span(part.path, tensor.offset, tensor.n_bytes), dtype=np.uint8)
    bias: Float32Array = gguf.quants.dequantize(data, GGMLQuantizationType(tensor.type_id))
    return np.ascontiguousarray(bias, dtype=np.float32)
