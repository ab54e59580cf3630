"""`recipe`: a mix of types under a size limit, from what a blame measured."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from quantprobe.blame.choice import ANSWERS, Choice, Option, choose
from quantprobe.engine.quantize_plan import ALIGNMENT, QuantPlan, plan_quants
from quantprobe.engine.recipe import Recipe
from quantprobe.engine.type_errors import MEASURABLE, row_bytes, squared_error
from quantprobe.errors import InputError, MismatchError
from quantprobe.gguf.file_types import FILE_TYPES
from quantprobe.gguf.tensors import TOKEN_EMBEDDINGS, Inventory, PlacedTensor, place_of, read_inventory
from quantprobe.gguf.weights import dequantize_rows
from quantprobe.run.blame import Blame, BlameGroup
from quantprobe.sweep.inputs import Progress, identify, read_measurable

SAMPLED_TENSORS, SAMPLED_ROWS = 9, 24
"""Of each group, what types are tried on."""
_TRIES = 8


@dataclass(frozen=True)
class Mix:
    """A type for every group, and the file that comes out."""

    groups: tuple[str, ...]
    choice: Choice
    plan: QuantPlan
    objective: str

    @property
    def recipe(self) -> Recipe:
        return self.plan.recipe

    def options(self) -> list[str]:
        """The options that llama-quantize and our `quantize` take."""
        recipe = self.recipe
        words = [word for pattern, kind in recipe.tensor_types for word in ("--tensor-type", f"{pattern}={kind}")]
        for name, kind in (
            ("--token-embedding-type", recipe.token_embedding_type),
            ("--output-tensor-type", recipe.output_tensor_type),
        ):
            words += [] if kind is None else [name, kind]
        return words

    def commands(self, base: Path) -> tuple[str, str]:
        """What makes the quant: with quantprobe, and with llama-quantize."""
        kind = self.recipe.kind.name
        options = shlex.join(self.options())
        imatrix = "" if self.recipe.imatrix is None else f" --imatrix {shlex.quote(str(self.recipe.imatrix))}"
        file = shlex.quote(str(base))
        return (
            f"quantprobe quantize {file} --types {kind} {options}{imatrix} --out quants",
            f"llama-quantize{imatrix} {options} {file} recipe.gguf {kind}",
        )


def make_mix(
    blame: Blame,
    base: Path,
    size: int,
    objective: str = ANSWERS,
    progress: Progress | None = None,
    types: Sequence[str] = MEASURABLE,
    imatrix: Path | None = None,
) -> Mix:
    """The best mix of `types` whose file is at most `size` bytes, by the model of `choice`.

    The sizes are those of llama.cpp's dry run. Raises `MismatchError` where `base` is not the blame's, `InputError`
    where nothing fits.
    """
    info = read_measurable(base)
    if progress is not None:
        info = identify(info, progress)
        if blame.base.sha256 and info.sha256 != blame.base.sha256:
            raise MismatchError(f"{base} is not the base of this blame, {blame.base.name}; give that one with --base")
    model = read_inventory(base)
    tensors = model.by_name()
    missing = [name for group in blame.groups for name in group.tensors if name not in tensors]
    if missing:
        raise MismatchError(f"{base} has no tensor {missing[0]}; give the base of the blame with --base")
    tried = [_options(group, tensors, types) for group in blame.groups]
    errors = [_measured_error(group, tensors) for group in blame.groups]
    limit = size - _fixed_bytes(model, blame)
    for _ in range(_TRIES):
        choice = choose(blame, tried, errors, limit, objective)
        recipe = _recipe(blame, model, choice, imatrix)
        [plan] = plan_quants(base, [recipe])
        _require_types(plan, blame, choice)
        if plan.size_bytes <= size:
            return Mix(tuple(group.name for group in blame.groups), choice, plan, objective)
        limit -= plan.size_bytes - size
    raise InputError(f"no mix came out at {size / 1e9:.3f} GB or less; give a larger --size")


def _fixed_bytes(model: Inventory, blame: Blame) -> int:
    """Header, and the tensors of no group: they stay as the base has them, or are smaller."""
    grouped = {name for group in blame.groups for name in group.tensors}
    return min((each.tensor.offset for each in model.tensors), default=0) + sum(
        _padded(each.tensor.n_bytes) for each in model.tensors if each.name not in grouped
    )


def _padded(n_bytes: int) -> int:
    return -(-n_bytes // ALIGNMENT) * ALIGNMENT


def _options(group: BlameGroup, tensors: Mapping[str, PlacedTensor], types: Sequence[str]) -> list[Option]:
    """What each type would take and lose; types that the rows of a tensor do not fit are left out."""
    members = [tensors[name] for name in group.tensors]
    found = []
    for name in types:
        widths = [row_bytes(name, each.row_length) for each in members]
        if None in widths:
            continue
        n_bytes = sum(_padded(each.n_rows * (width or 0)) for each, width in zip(members, widths, strict=True))
        found.append(Option(name, n_bytes, _error(members, name)))
    if not found:
        raise InputError(f"none of the types {', '.join(types)} fits the rows of {group.name}; name others in --types")
    return found


def _error(members: Sequence[PlacedTensor], type_name: str) -> float:
    """Relative error of a type over sampled rows of some of the tensors, each weighed by its elements."""
    places = np.unique(np.linspace(0, len(members) - 1, SAMPLED_TENSORS).astype(int))
    lost = norm = 0.0
    for each in (members[place] for place in places):
        values = _sample(each)
        weight = each.tensor.n_elements / values.size
        lost += weight * squared_error(values, type_name)
        norm += weight * float((values.astype(np.float64) ** 2).sum())
    return (lost / norm) ** 0.5 if norm else 0.0


def _sample(tensor: PlacedTensor) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    n = min(tensor.n_rows, SAMPLED_ROWS)
    starts = np.unique(np.linspace(0, tensor.n_rows - 1, n).astype(int))
    return np.concatenate([dequantize_rows(tensor, int(start), 1) for start in starts])


def _measured_error(group: BlameGroup, tensors: Mapping[str, PlacedTensor]) -> float:
    """The quant's weight error as the blame measured it, else that of its types."""
    if group.weight_error:
        return group.weight_error
    known = [name for name in group.quant_types if name in MEASURABLE]
    if not known:
        raise InputError(
            f"the weight error of {group.name} is not known and cannot be taken from {', '.join(group.quant_types)}; "
            "run quantprobe blame again"
        )
    return max(_error([tensors[name] for name in group.tensors], known[0]), 1e-9)


def _recipe(blame: Blame, model: Inventory, choice: Choice, imatrix: Path | None) -> Recipe:
    """The patterns; the file type is that of most weights, for what the file says of itself."""
    of_tensor = {
        name: option.type_name
        for group, option in zip(blame.groups, choice.options, strict=True)
        for name in group.tensors
    }
    tied = "output.weight" not in model.by_name()
    embedding = next((of_tensor[name] for name in TOKEN_EMBEDDINGS if name in of_tensor), None)
    return Recipe(
        file_type=_file_type(blame, of_tensor, model),
        imatrix=imatrix,
        tensor_types=tuple(_patterns(of_tensor)),
        token_embedding_type=None if embedding is None else embedding.lower(),
        output_tensor_type=_lower(embedding if tied else of_tensor.get("output.weight")),
    )


def _lower(name: str | None) -> str | None:
    return None if name is None else name.lower()


def _file_type(blame: Blame, of_tensor: Mapping[str, str], model: Inventory) -> str:
    sizes: Counter[str] = Counter()
    tensors = model.by_name()
    for name, kind in of_tensor.items():
        sizes[kind] += tensors[name].tensor.n_elements
    most = sizes.most_common(1)[0][0]
    names = (most, f"{most}_M", f"{most}_S", blame.quant.file_type, "Q8_0")
    return next(name for name in names if name in FILE_TYPES and FILE_TYPES[name].can_make)


def _patterns(of_tensor: Mapping[str, str]) -> list[tuple[str, str]]:
    """One pattern for the layers of a role that share a type; embeddings and output have options of their own."""
    layers: dict[tuple[str, str], list[int]] = {}
    for name, kind in of_tensor.items():
        layer = place_of(name).layer
        if layer is not None:
            layers.setdefault((name.split(".", 2)[2], kind), []).append(layer)
    every = {role: sum(len(found) for (other, _), found in layers.items() if other == role) for role, _ in layers}
    return [
        (_pattern(role, numbers, len(numbers) == every[role]), kind.lower())
        for (role, kind), numbers in sorted(layers.items())
    ]


def _pattern(role: str, layers: Sequence[int], is_whole: bool) -> str:
    ending = re.escape(role)
    return rf"^blk\.[0-9]+\.{ending}$" if is_whole else rf"^blk\.({'|'.join(map(str, sorted(layers)))})\.{ending}$"


def _require_types(plan: QuantPlan, blame: Blame, choice: Choice) -> None:
    """llama.cpp must make what was chosen, or the size and the model mean nothing."""
    made = {tensor.name: tensor.target_type for tensor in plan.tensors}
    for group, option in zip(blame.groups, choice.options, strict=True):
        for name in group.tensors:
            if made[name] != option.type_name:
                raise InputError(
                    f"llama.cpp would make {name} {made[name]}, not {option.type_name}; leave that type out (--types)"
                )
