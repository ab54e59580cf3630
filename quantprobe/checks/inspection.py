"""What a model file is made of, and how it differs from its base: all that `inspect` shows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from quantprobe.arrays import Float32Array
from quantprobe.engine.dry_run import PlannedType, read_mixture
from quantprobe.errors import EngineError
from quantprobe.gguf.differences import (
    TEMPLATE,
    KeyDifference,
    ListDifference,
    TensorDifference,
    compare_metadata,
    compare_templates,
    compare_tensors,
    compare_token_lists,
    compare_tokenizer_keys,
    text_digest,
)
from quantprobe.gguf.model import ModelInfo
from quantprobe.gguf.tensors import (
    FLOAT_TYPES,
    Inventory,
    LayerGroup,
    PlacedTensor,
    RoleSummary,
    group_layers,
    read_inventory,
    summarise_roles,
)
from quantprobe.gguf.weights import WeightError, compare_weights, is_weight, largest_first

ROW_LENGTH, OTHER = "row length", "another type"
"""Why a tensor has not the type of its mixture: its rows do not fit the blocks, or somebody chose another."""


@dataclass(frozen=True)
class PartFacts:
    """One file of a model."""

    name: str
    size_bytes: int
    n_tensors: int


@dataclass(frozen=True)
class TensorFacts:
    """One tensor: its place, type and cost."""

    name: str
    layer: int | None
    role: str
    type_name: str
    shape: tuple[int, ...]
    n_bytes: int
    bits: float


@dataclass(frozen=True)
class Deviation:
    """A tensor whose type is not the one that llama-quantize's mixture has for it."""

    name: str
    found: str
    wanted: str
    recipe: str
    """What llama-quantize gives it: `wanted`, or the replacement where the row length does not fit."""
    row_length: int
    reason: str


@dataclass(frozen=True)
class Comparison:
    """What differs from the base."""

    base: str
    tensors: tuple[TensorDifference, ...]
    token_lists: tuple[ListDifference, ...]
    tokenizer_keys: tuple[KeyDifference, ...]
    templates: tuple[KeyDifference, ...]
    metadata: tuple[KeyDifference, ...]
    weights: tuple[WeightError, ...]
    """Largest first; of tensors with the same shape."""


@dataclass(frozen=True)
class Inspection:
    """All that `inspect` finds in one model."""

    info: ModelInfo
    bpw_without_embeddings: float | None
    parts: tuple[PartFacts, ...]
    templates: Mapping[str, str]
    """SHA-256 of each chat template by its key."""
    roles: tuple[RoleSummary, ...]
    layers: tuple[LayerGroup, ...]
    deviations: tuple[Deviation, ...] | None
    """None where the mixture is not known; `mixture_note` says why."""
    mixture_note: str
    comparison: Comparison | None
    tensors: tuple[TensorFacts, ...]


def inspect_model(
    path: Path,
    base: Inventory | None = None,
    importance: Mapping[str, Float32Array] | None = None,
    on_elements: Callable[[int], None] | None = None,
) -> Inspection:
    """Inspect one model; with a base, compare it with that, reading all weights of both.

    Raises what `read_inventory` raises, and `MismatchError` for an importance matrix of another model.
    """
    model = read_inventory(path)
    deviations, note = find_deviations(model)
    return Inspection(
        info=model.info,
        bpw_without_embeddings=model.bpw_without_embeddings,
        parts=tuple(PartFacts(part.path.name, part.size_bytes, len(part.tensors)) for part in model.parts),
        templates={
            key: text_digest(value)
            for key, value in model.first.metadata.items()
            if key.startswith(TEMPLATE) and isinstance(value, str)
        },
        roles=summarise_roles(model.tensors),
        layers=group_layers(model.tensors),
        deviations=deviations,
        mixture_note=note,
        comparison=None if base is None else compare_models(base, model, importance, on_elements),
        tensors=tuple(map(tensor_facts, model.tensors)),
    )


def tensor_facts(each: PlacedTensor) -> TensorFacts:
    """What is told of one tensor."""
    place, tensor = each.place, each.tensor
    return TensorFacts(each.name, place.layer, place.role, each.type_name, tensor.shape, tensor.n_bytes, each.bits)


def find_deviations(model: Inventory) -> tuple[tuple[Deviation, ...] | None, str]:
    """Tensors without the type that llama-quantize's mixture has for them, and why nothing is known where None."""
    file_type = model.info.file_type
    if file_type in FLOAT_TYPES:
        return (), f"a file of type {file_type} is not quantized"
    if model.first.integer("general.file_type") is None:
        return None, "the file does not say which file type it is (general.file_type)"
    try:
        mixture = read_mixture(model.info.path, file_type, model.info.imatrix is not None)
    except EngineError as error:
        return None, str(error)
    if mixture is None:
        return None, f"llama-quantize does not make files of type {file_type}"
    return deviations_of(model.tensors, mixture), ""


def deviations_of(tensors: Sequence[PlacedTensor], mixture: Mapping[str, PlannedType]) -> tuple[Deviation, ...]:
    """What differs from a mixture, in the order of the file."""
    found = []
    for each in tensors:
        entry = mixture.get(each.name)
        if entry is None or each.type_name == entry.wanted:
            continue
        reason = ROW_LENGTH if each.type_name == entry.type_name else OTHER
        found.append(Deviation(each.name, each.type_name, entry.wanted, entry.type_name, each.row_length, reason))
    return tuple(found)


def compare_models(
    base: Inventory,
    model: Inventory,
    importance: Mapping[str, Float32Array] | None = None,
    on_elements: Callable[[int], None] | None = None,
    max_rows: int | None = None,
) -> Comparison:
    """Everything in which a model differs from its base; see `compare_weights` for the last two arguments."""
    differing = compare_tensors(base.tensors, model.tensors)
    skipped, theirs = {each.name for each in differing}, base.by_name()
    pairs = [
        (each, theirs[each.name])
        for each in model.tensors
        if each.name not in skipped and is_weight(each) and is_weight(theirs[each.name])
    ]
    return Comparison(
        base=base.name,
        tensors=differing,
        token_lists=compare_token_lists(base.first, model.first),
        tokenizer_keys=compare_tokenizer_keys(base.first, model.first),
        templates=compare_templates(base.first, model.first),
        metadata=compare_metadata(base.first, model.first),
        weights=largest_first(compare_weights(pairs, importance, max_rows, on_elements=on_elements)),
    )
