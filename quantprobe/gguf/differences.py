"""What two models differ in beside their weights: metadata, tokenizer token by token, chat templates, tensor lists."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from gguf.constants import GGUFValueType

from quantprobe.errors import FileFormatError
from quantprobe.gguf.header import SCALARS, U64, ArrayField, Header, Value
from quantprobe.gguf.parts import read_span
from quantprobe.gguf.tensors import PlacedTensor

TOKENIZER = "tokenizer."
TEMPLATE = "tokenizer.chat_template"
MISSING = "missing"
_LISTS = ("tokens", "scores", "token_type", "merges")
"""Arrays of the tokenizer that are compared element by element."""
_OF_THE_FILE = ("general.file_type", "general.quantization_version", "general.alignment", "quantize.", "split.")
"""Keys that a quant has of its own."""
SHORT = 60


@dataclass(frozen=True)
class KeyDifference:
    """One metadata key: both values as text, `missing` where there is none."""

    key: str
    base: str
    quant: str


@dataclass(frozen=True)
class TokenDifference:
    """One element of a tokenizer's list: the token (or merge) number, which list, and both values."""

    number: int
    what: str
    base: str
    quant: str


@dataclass(frozen=True)
class ListDifference:
    """One list of the tokenizer: its lengths, how many elements differ, and the first of those."""

    what: str
    n_base: int
    n_quant: int
    n_different: int
    first: tuple[TokenDifference, ...]


@dataclass(frozen=True)
class TensorDifference:
    """A tensor that only one of two models has, or that has another shape: `missing`, `extra` or `reshaped`."""

    name: str
    kind: str
    base: str
    quant: str


def compare_tensors(base: Sequence[PlacedTensor], quant: Sequence[PlacedTensor]) -> tuple[TensorDifference, ...]:
    """Tensors of the base that the quant lacks, those that it has besides, and those of another shape."""
    ours, theirs = {each.name: each for each in quant}, {each.name: each for each in base}
    found = [TensorDifference(name, "missing", _shape(each), "") for name, each in theirs.items() if name not in ours]
    found += [TensorDifference(name, "extra", "", _shape(each)) for name, each in ours.items() if name not in theirs]
    for name, each in ours.items():
        if name in theirs and _trimmed(each.tensor.shape) != _trimmed(theirs[name].tensor.shape):
            found.append(TensorDifference(name, "reshaped", _shape(theirs[name]), _shape(each)))
    return tuple(found)


def _trimmed(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Trailing dimensions of 1 say nothing."""
    while len(shape) > 1 and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def _shape(tensor: PlacedTensor) -> str:
    return f"{tensor.type_name} {' x '.join(map(str, tensor.tensor.shape))}"


def compare_metadata(base: Header, quant: Header) -> tuple[KeyDifference, ...]:
    """Keys that differ, without those of the tokenizer and those that every quant has of its own."""
    left_out = (TOKENIZER, *_OF_THE_FILE)
    return _compare_keys(base, quant, lambda key: not key.startswith(left_out))


def compare_tokenizer_keys(base: Header, quant: Header) -> tuple[KeyDifference, ...]:
    """Single values of the tokenizer that differ, such as ids of special tokens; templates and lists are left out."""
    lists = {f"tokenizer.ggml.{name}" for name in _LISTS}
    return _compare_keys(
        base, quant, lambda key: key.startswith(TOKENIZER) and not key.startswith(TEMPLATE) and key not in lists
    )


def compare_templates(base: Header, quant: Header) -> tuple[KeyDifference, ...]:
    """Chat templates that differ, as digests and lengths."""
    found = []
    for key in sorted(_template_keys(base) | _template_keys(quant)):
        if _content(quant, key) != _content(base, key):
            theirs, ours = base.metadata.get(key), quant.metadata.get(key)
            found.append(KeyDifference(key, describe_template(theirs), describe_template(ours)))
    return tuple(found)


def _template_keys(header: Header) -> set[str]:
    return {key for key in header.metadata if key.startswith(TEMPLATE)}


def describe_template(template: Value | None) -> str:
    """A template's digest and length."""
    if template is None:
        return MISSING
    if not isinstance(template, str):
        return "no text"
    return f"{text_digest(template)[:8]}, {len(template):,} characters"


def text_digest(text: str) -> str:
    """SHA-256 of a text's UTF-8."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def compare_token_lists(base: Header, quant: Header, n_first: int = 20) -> tuple[ListDifference, ...]:
    """The tokenizer's lists that differ, element by element; the first `n_first` differences of each are told."""
    found = []
    for name in _LISTS:
        key = f"tokenizer.ggml.{name}"
        if _content(base, key) == _content(quant, key):
            continue
        left, right = _elements(base, key), _elements(quant, key)
        n = min(len(left), len(right))
        places = [i for i in range(n) if left[i] != right[i]] + list(range(n, max(len(left), len(right))))
        first = [
            TokenDifference(i, name, left[i] if i < len(left) else MISSING, right[i] if i < len(right) else MISSING)
            for i in places[:n_first]
        ]
        found.append(ListDifference(name, len(left), len(right), len(places), tuple(first)))
    return tuple(found)


def read_strings(header: Header, key: str) -> list[bytes]:
    """The strings of an array in metadata; empty where there is no such array."""
    field = header.metadata.get(key)
    if not isinstance(field, ArrayField) or field.kind != GGUFValueType.STRING:
        return []
    data = read_span(header.path, field.start, field.stop - field.start)
    strings, position, unpack = [], 0, U64.unpack_from
    for _ in range(field.n):
        begin = position + 8
        position = begin + unpack(data, position)[0]
        strings.append(data[begin:position])
    if position != len(data):
        raise FileFormatError(f"{header.path} changed while it was read: the strings of {key} have other lengths")
    return strings


def read_numbers(header: Header, key: str) -> list[float | int | bool]:
    """The numbers of an array in metadata; empty where there is no such array."""
    field = header.metadata.get(key)
    if not isinstance(field, ArrayField) or field.kind not in SCALARS:
        return []
    data = read_span(header.path, field.start, field.stop - field.start)
    numbers: list[float | int | bool] = np.frombuffer(data, np.dtype(SCALARS[field.kind].format)).tolist()
    return numbers


def _elements(header: Header, key: str) -> list[str]:
    strings = read_strings(header, key)
    return [_quoted(each.decode("utf-8", "replace")) for each in strings] or list(map(repr, read_numbers(header, key)))


def _quoted(text: str) -> str:
    return repr(text if len(text) <= SHORT else f"{text[:SHORT]}...")


def _compare_keys(base: Header, quant: Header, wanted: Callable[[str], bool]) -> tuple[KeyDifference, ...]:
    keys = [key for key in dict.fromkeys((*base.metadata, *quant.metadata)) if wanted(key)]
    return tuple(
        KeyDifference(key, _describe(base, key), _describe(quant, key))
        for key in keys
        if _content(base, key) != _content(quant, key)
    )


def _content(header: Header, key: str) -> object:
    """What decides whether two values are equal: texts by their bytes, integers by value whatever their width."""
    value = header.metadata.get(key)
    if not isinstance(value, ArrayField):
        return repr(value)
    return read_numbers(header, key) or read_span(header.path, value.start, value.stop - value.start)


def _describe(header: Header, key: str) -> str:
    value = header.metadata.get(key)
    if value is None:
        return MISSING
    if isinstance(value, str):
        return _quoted(value)
    if not isinstance(value, ArrayField):
        return repr(value)
    numbers = read_numbers(header, key)
    if numbers and len(numbers) <= 8:
        return repr(numbers)
    data = read_span(header.path, value.start, value.stop - value.start)
    return f"{value.n:,} elements, {hashlib.sha256(data).hexdigest()[:8]}"
