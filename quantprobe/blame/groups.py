"""Groups of tensors: what is restored together."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from quantprobe.errors import InputError
from quantprobe.gguf.hybrid import ModelPair, Unit
from quantprobe.gguf.roles import OTHER, ROLES, merged_role
from quantprobe.gguf.tensors import layer_ranges, place_of

ROLE, LAYER, ROLE_DEPTH, TENSOR = "role", "layer", "role,depth", "tensor"
WAYS_TO_GROUP = (ROLE, LAYER, ROLE_DEPTH, TENSOR)
DEFAULT_PARTS = 3
REST = "the rest"
OUTSIDE = "outside the layers"


@dataclass(frozen=True)
class Group:
    """Units that are restored together, in the order of the files."""

    name: str
    units: tuple[Unit, ...]

    @property
    def names(self) -> frozenset[str]:
        """The names of its units."""
        return frozenset(unit.name for unit in self.units)

    @property
    def extra_bytes(self) -> int:
        """Bytes that its restoration costs."""
        return sum(unit.extra_bytes for unit in self.units)


def make_groups(pair: ModelPair, by: Sequence[str], n_parts: int = DEFAULT_PARTS) -> tuple[Group, ...]:
    """The differing units of a pair in groups.

    `by` is one of `WAYS_TO_GROUP`, or patterns that are searched in the tensors' names: the first that fits decides,
    and what none fits is "the rest". `n_parts` is how many parts of about the same number of layers `layer` and
    `role,depth` make. Raises `InputError` where nothing differs, or a pattern is none or fits nothing.
    """
    units = pair.differing
    if not units:
        raise InputError(
            f"{pair.base.name} and {pair.quant.name} have the same tensors, byte for byte; there is nothing to blame"
        )
    if len(by) == 1 and by[0] in WAYS_TO_GROUP:
        names = [_name(unit, by[0], pair.quant.info.n_layer, n_parts) for unit in units]
    else:
        names = _by_patterns(units, by)
    found: dict[str, list[Unit]] = {}
    for unit, name in zip(units, names, strict=True):
        found.setdefault(name, []).append(unit)
    order = {name: i for i, name in enumerate((*ROLES, OTHER))}

    def place(name: str) -> tuple[int, int]:
        layer = place_of(found[name][0].name).layer
        return (order.get(merged_role(found[name][0].name), 0) if by[0] == ROLE else 0, -1 if layer is None else layer)

    names = list(found) if by[0] in (TENSOR,) or by[0] not in WAYS_TO_GROUP else sorted(found, key=place)
    return tuple(Group(name, tuple(found[name])) for name in names)


def _name(unit: Unit, by: str, n_layer: int, n_parts: int) -> str:
    role, layer = merged_role(unit.name), place_of(unit.name).layer
    if by == TENSOR:
        return unit.name
    if by == ROLE:
        return role
    depth = None if layer is None else _depth(layer, n_layer, n_parts)
    if by == LAYER:
        return OUTSIDE if depth is None else f"layers {depth}" if "-" in depth else f"layer {depth}"
    return role if depth is None else f"{role} {depth}"


def _depth(layer: int, n_layer: int, n_parts: int) -> str:
    """The layers of the part that holds a layer, as `10-19`."""
    n_parts = min(n_parts, n_layer)
    part = layer * n_parts // n_layer
    return layer_ranges([each for each in range(n_layer) if each * n_parts // n_layer == part])


def _by_patterns(units: Sequence[Unit], patterns: Sequence[str]) -> list[str]:
    compiled = []
    for pattern in patterns:
        if pattern in WAYS_TO_GROUP:
            raise InputError(f"--by {pattern} stands alone; give it without patterns")
        try:
            compiled.append(re.compile(pattern))
        except re.error as error:
            raise InputError(
                f"--by {pattern}: neither one of {', '.join(WAYS_TO_GROUP)} nor a regular expression ({error})"
            ) from error
    names = [
        next(
            (each.pattern for each in compiled if any(each.search(tensor.name) for tensor in unit.quant)),
            REST,
        )
        for unit in units
    ]
    for pattern in patterns:
        if pattern not in names:
            raise InputError(
                f"--by {pattern}: it fits no tensor that differs, or an earlier pattern takes all that it fits; "
                f"tensors that differ are such as {', '.join(unit.quant[0].name for unit in units[:3])}"
            )
    return names
