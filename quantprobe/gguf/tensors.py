"""The tensors of a model by role and layer: which type each has, and what the types cost."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

from quantprobe.gguf.header import Header, Tensor
from quantprobe.gguf.model import ModelInfo, model_info
from quantprobe.gguf.parts import read_parts

TOKEN_EMBEDDINGS = ("token_embd.weight", "per_layer_token_embd.weight")
"""Tables of which a token uses one row; llama-quantize treats them alike (`tensor_name_match_token_embd`)."""
FLOAT_TYPES = ("F32", "F16", "BF16", "F64")
_BLOCK = re.compile(r"blk\.(\d+)\.(.+)")


@dataclass(frozen=True)
class Place:
    """What a tensor's name says: the layer (None outside the layers) and the role in it, without `.weight`."""

    layer: int | None
    role: str


def place_of(name: str) -> Place:
    """`blk.3.attn_q.weight` is `attn_q` of layer 3; a bias keeps its ending, `attn_q.bias`."""
    match = _BLOCK.fullmatch(name)
    layer, rest = (int(match[1]), match[2]) if match else (None, name)
    return Place(layer, rest.removesuffix(".weight"))


@dataclass(frozen=True)
class PlacedTensor:
    """One tensor of a model: the file that holds it, and its place."""

    path: Path
    tensor: Tensor
    place: Place

    @property
    def name(self) -> str:
        return self.tensor.name

    @property
    def type_name(self) -> str:
        return self.tensor.type_name

    @property
    def row_length(self) -> int:
        """Elements of a row, the unit of quantization."""
        return self.tensor.shape[0] if self.tensor.shape else 1

    @property
    def n_rows(self) -> int:
        return prod(self.tensor.shape[1:])

    @property
    def bits(self) -> float:
        """Bits per weight; 0 for a tensor without elements."""
        return 8 * self.tensor.n_bytes / self.tensor.n_elements if self.tensor.n_elements else 0.0


@dataclass(frozen=True)
class Inventory:
    """A model's metadata and all of its tensors, in the order of the files."""

    info: ModelInfo
    parts: tuple[Header, ...]
    tensors: tuple[PlacedTensor, ...]

    @property
    def name(self) -> str:
        return self.info.name

    @property
    def first(self) -> Header:
        """The header of the first part, which has the metadata."""
        return self.parts[0]

    def by_name(self) -> Mapping[str, PlacedTensor]:
        return {tensor.name: tensor for tensor in self.tensors}

    @property
    def bpw_without_embeddings(self) -> float | None:
        """Bits per weight of all tensors but the token embeddings; None if there are no others.

        A tied embedding is the output matrix too, and is left out all the same.
        """
        return bits_per_weight(each for each in self.tensors if each.name not in TOKEN_EMBEDDINGS)


def read_inventory(path: Path) -> Inventory:
    """Read the headers of all parts of a model. Raises what `read_model_info` raises."""
    return make_inventory(path, read_parts(path))


def make_inventory(path: Path, parts: Sequence[Header]) -> Inventory:
    """The inventory of headers that were read already."""
    tensors = [PlacedTensor(part.path, each, place_of(each.name)) for part in parts for each in part.tensors.values()]
    return Inventory(model_info(path, parts), tuple(parts), tuple(tensors))


def bits_per_weight(tensors: Iterable[PlacedTensor]) -> float | None:
    """8 x bytes / elements over some tensors; None where they have no elements."""
    chosen = list(tensors)
    n = sum(each.tensor.n_elements for each in chosen)
    return 8 * sum(each.tensor.n_bytes for each in chosen) / n if n else None


@dataclass(frozen=True)
class RoleSummary:
    """All tensors of one role."""

    role: str
    n_tensors: int
    n_params: int
    n_bytes: int
    bits: float
    types: tuple[tuple[str, int], ...]
    """Type and number of tensors, the most frequent first."""


def summarise_roles(tensors: Sequence[PlacedTensor]) -> tuple[RoleSummary, ...]:
    """Roles in the order of their bytes, largest first."""
    found: dict[str, list[PlacedTensor]] = {}
    for each in tensors:
        found.setdefault(each.place.role, []).append(each)
    rows = [
        RoleSummary(
            role=role,
            n_tensors=len(group),
            n_params=sum(each.tensor.n_elements for each in group),
            n_bytes=sum(each.tensor.n_bytes for each in group),
            bits=bits_per_weight(group) or 0.0,
            types=tuple(Counter(each.type_name for each in group).most_common()),
        )
        for role, group in found.items()
    ]
    return tuple(sorted(rows, key=lambda row: (-row.n_bytes, row.role)))


@dataclass(frozen=True)
class LayerGroup:
    """Layers whose tensors have the same types."""

    layers: tuple[int, ...]
    types: Mapping[str, str]
    """Type by role."""
    bits: float


def group_layers(tensors: Sequence[PlacedTensor]) -> tuple[LayerGroup, ...]:
    """The layers by what their tensors are made of, in the order of their first layers.

    One-dimensional tensors (norms, biases) are left out: they are never quantized.
    """
    layers: dict[int, dict[str, PlacedTensor]] = {}
    for each in tensors:
        if each.place.layer is not None and len(each.tensor.shape) > 1:
            layers.setdefault(each.place.layer, {})[each.place.role] = each
    groups: dict[tuple[tuple[str, str], ...], list[int]] = {}
    for layer, roles in sorted(layers.items()):
        groups.setdefault(tuple(sorted((role, each.type_name) for role, each in roles.items())), []).append(layer)
    return tuple(
        LayerGroup(tuple(members), dict(key), bits_per_weight(layers[members[0]].values()) or 0.0)
        for key, members in groups.items()
    )


def layer_ranges(layers: Sequence[int]) -> str:
    """`0-2, 5, 8-9` for ascending numbers."""
    spans: list[list[int]] = []
    for layer in layers:
        if spans and spans[-1][-1] == layer - 1:
            spans[-1][1:] = [layer]
        else:
            spans.append([layer])
    return ", ".join("-".join(map(str, span)) for span in spans)
