"""What a recipe will make of a model, from llama.cpp's own dry run: types, size, fallbacks, and what cannot work."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

from quantprobe.engine.dry_run import PlannedType, dry_run
from quantprobe.engine.recipe import WEIGHT_TYPES, Recipe, check_recipe
from quantprobe.errors import EngineError, InputError
from quantprobe.gguf.header import TENSOR_TYPES, Header, Tensor
from quantprobe.gguf.parts import read_parts
from quantprobe.imatrix.file import read_imatrix
from quantprobe.imatrix.matrix import Imatrix

ALIGNMENT = 32
"""llama_model_quantize pads every tensor to this, whatever the source does."""

EMBEDDINGS = ("token_embd.weight", "per_layer_token_embd.weight")
_EXEMPT = (*EMBEDDINGS, "output.weight")
"""llama.cpp makes these without an importance matrix whatever their type."""
_NEED_IMATRIX = {"IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS"}
_ABORT_WITHOUT = {"IQ1_S", "IQ2_XXS", "IQ2_XS"}
"""ggml_quantize_chunk ends the process if it has no weights for these."""
_UNQUANTIZED = {"F32", "F16", "BF16"}


@dataclass(frozen=True)
class PlannedTensor:
    """One tensor of the file to be made; types by ggml's names in capitals, `shape` in ggml's order."""

    name: str
    shape: tuple[int, ...]
    source_type: str
    target_type: str
    wanted_type: str | None
    """What the recipe wanted before the row length forced `target_type`; None where nothing was forced."""

    @property
    def n_elements(self) -> int:
        return prod(self.shape)

    @property
    def n_bytes(self) -> int:
        """Bytes of the tensor in the new file, without padding."""
        _, per_block, block_bytes = TENSOR_TYPES[_ID_OF[self.target_type]]
        return self.n_elements // per_block * block_bytes

    @property
    def is_changed(self) -> bool:
        return self.source_type != self.target_type


_ID_OF = {name: number for number, (name, _, _) in TENSOR_TYPES.items()}


@dataclass(frozen=True)
class QuantPlan:
    """A file to be made. Sizes are those of llama.cpp's dry run; the file's is exact to the metadata added (1 kB)."""

    recipe: Recipe
    tensors: tuple[PlannedTensor, ...]
    header_bytes: int
    unweighted: tuple[str, ...]
    """Quantized tensors that the importance matrix has nothing for, without the embeddings, for which none has."""

    @property
    def size_bytes(self) -> int:
        """Predicted size of the file."""
        return self.header_bytes + sum(-(-tensor.n_bytes // ALIGNMENT) * ALIGNMENT for tensor in self.tensors)

    @property
    def bpw(self) -> float:
        """Bits per weight: 8 x tensor bytes / elements."""
        return 8 * sum(t.n_bytes for t in self.tensors) / max(sum(t.n_elements for t in self.tensors), 1)

    @property
    def n_bytes_needed(self) -> int:
        """Memory for it: itself, and the largest tensor as float32 and in its new type (at most 8 GiB)."""
        largest = max((4 * t.n_elements + t.n_bytes for t in self.tensors if t.is_changed), default=0)
        return min(largest, 8 << 30) + _PROCESS_BYTES

    def fallbacks(self) -> Mapping[tuple[str, str], int]:
        """How many tensors took another type than the recipe's because their rows do not fit: (wanted, taken)."""
        return Counter((t.wanted_type, t.target_type) for t in self.tensors if t.wanted_type is not None)


_PROCESS_BYTES = 250_000_000
"""Python, NumPy and llama.cpp themselves: 130 MB measured, and room for an importance matrix."""


def plan_quants(source: Path, recipes: Sequence[Recipe]) -> list[QuantPlan]:
    """What each recipe will make of `source`, from one child process that writes nothing.

    Raises `InputError` for what cannot be made, with the reason, before any time is spent on it: an unknown type, a
    type without the importance matrix that it needs, entries that do not fit the model, a row length that the type of
    the output or the embeddings cannot have, a pattern that fits no tensor, a source that is quantized already.
    """
    for recipe in recipes:
        check_recipe(source, recipe)
    parts = read_parts(source)
    table = {name: tensor for part in parts for name, tensor in part.tensors.items()}
    for recipe in recipes:
        _check_rows(source, table, recipe)
        _check_patterns(source, table, recipe)
    planned = dry_run(source, [recipe.job(source, None, None) for recipe in recipes])
    matrices = {path: read_imatrix(path) for path in {r.imatrix for r in recipes if r.imatrix is not None}}
    plans = [_plan(parts, table, recipe, types, matrices) for recipe, types in zip(recipes, planned, strict=True)]
    for plan in plans:
        _check_plan(source, plan, matrices)
    return plans


def _check_rows(source: Path, table: Mapping[str, Tensor], recipe: Recipe) -> None:
    """llama.cpp applies no fallback to types named for these tensors: it would abort."""
    given = {"output.weight": recipe.output_tensor_type} | dict.fromkeys(EMBEDDINGS, recipe.token_embedding_type)
    for name, kind in given.items():
        if kind is None or name not in table:
            continue
        _, per_block, _ = TENSOR_TYPES[WEIGHT_TYPES[kind.upper()]]
        row = table[name].shape[0]
        if row % per_block:
            raise InputError(
                f"{name} of {source.name} has rows of {row}, and {kind.upper()} takes multiples of {per_block}; "
                "choose a type with blocks of 32, such as Q8_0"
            )


def _check_patterns(source: Path, table: Mapping[str, Tensor], recipe: Recipe) -> None:
    for pattern, _ in recipe.tensor_types:
        try:
            fits = "[[:" in pattern or any(re.search(pattern, name) for name in table)
        except re.error as error:
            raise InputError(f"--tensor-type {pattern}: not a regular expression ({error})") from error
        if not fits:
            raise InputError(
                f"--tensor-type {pattern}: no tensor of {source.name} has a name that it fits; "
                f"the names are such as {', '.join(list(table)[:3])}"
            )


def _plan(
    parts: Sequence[Header],
    table: Mapping[str, Tensor],
    recipe: Recipe,
    types: Mapping[str, PlannedType],
    matrices: Mapping[Path, Imatrix],
) -> QuantPlan:
    if set(types) != set(table):
        raise EngineError(
            f"llama.cpp's dry run of {parts[0].path.name} named {len(types)} tensors and the file has {len(table)}; "
            "this version of llama.cpp is not understood, leave out --dry-run and report it"
        )
    tensors = tuple(
        PlannedTensor(
            name,
            tensor.shape,
            tensor.type_name,
            types[name].type_name,
            types[name].wanted if types[name].is_forced else None,
        )
        for name, tensor in table.items()
    )
    known = set() if recipe.imatrix is None else set(matrices[recipe.imatrix].entries)
    unweighted = [
        t.name
        for t in tensors
        if t.is_changed and t.target_type not in _UNQUANTIZED and t.name not in known and t.name not in _EXEMPT
    ]
    header_bytes = sum(min((t.offset for t in part.tensors.values()), default=0) for part in parts)
    return QuantPlan(recipe, tensors, header_bytes, tuple(unweighted) if recipe.imatrix is not None else ())


def _check_plan(source: Path, plan: QuantPlan, matrices: Mapping[Path, Imatrix]) -> None:
    recipe, kind = plan.recipe, plan.recipe.kind
    entries = {} if recipe.imatrix is None else matrices[recipe.imatrix].entries
    for tensor in plan.tensors:
        if not tensor.is_changed:
            continue
        if tensor.source_type not in _UNQUANTIZED and not recipe.allow_requantize:
            raise InputError(
                f"{source.name} is quantized already ({tensor.name} is {tensor.source_type}); give the F16, BF16 or "
                "F32 model, or allow the loss with --allow-requantize"
            )
        entry = entries.get(tensor.name)
        expected = tensor.shape[0] * prod(tensor.shape[2:])
        if entry is not None and entry.sums.size != expected and tensor.name not in EMBEDDINGS:
            raise InputError(
                f"the importance matrix {recipe.imatrix} has {entry.sums.size} values for {tensor.name}, and "
                f"{source.name} needs {expected}; it was collected on another model"
            )
        if entry is None and _needs_weights(tensor, kind.name):
            where = "has nothing for it" if recipe.imatrix else "is missing"
            raise InputError(
                f"{kind.name} makes {tensor.name} {tensor.target_type}, which needs an importance matrix, and that "
                f"{where}; collect one (quantprobe imatrix collect; output.weight with --process-output) or give this "
                "tensor another type with --tensor-type, --output-tensor-type or --token-embedding-type"
            )


def _needs_weights(tensor: PlannedTensor, file_type: str) -> bool:
    if tensor.name in _EXEMPT:
        return tensor.target_type in _ABORT_WITHOUT
    return tensor.target_type in _NEED_IMATRIX or (tensor.target_type == "Q2_K" and file_type == "Q2_K_S")
