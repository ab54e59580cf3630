"""What a model file is made of, and how it differs from its base, as tables and lines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, TypeAlias

from quantprobe.gguf.tensors import LayerGroup, RoleSummary, layer_ranges
from quantprobe.gguf.weights import WeightError
from quantprobe.report.numbers import format_plain, format_size
from quantprobe.report.tables.cells import Column, Field, Table, count_cell, make_table, plain_cell, text_cell

if TYPE_CHECKING:
    from quantprobe.checks.inspection import Comparison, Deviation, Inspection
    from quantprobe.gguf.differences import KeyDifference

SHOWN = 10
"""Lines of a list without --details."""
Part: TypeAlias = "Table | str"


def overview_table(models: Sequence[Inspection]) -> Table:
    """One line per model."""
    fields: tuple[Field[Inspection], ...] = (
        Field(Column("Model"), lambda each: text_cell(each.info.name)),
        Field(Column("Architecture", priority=4), lambda each: text_cell(each.info.architecture)),
        Field(Column("File type"), lambda each: text_cell(each.info.file_type)),
        Field(Column("Parameters", "10^9", priority=3), lambda each: plain_cell(each.info.n_params / 1e9)),
        Field(Column("Size", "GB"), lambda each: plain_cell(each.info.size_bytes / 1e9)),
        Field(Column("Size", "GiB", priority=2), lambda each: plain_cell(each.info.size_bytes / 2**30)),
        Field(Column("Bits", "per weight"), lambda each: plain_cell(each.info.bpw)),
        Field(Column("Bits", "without emb.", priority=2), lambda each: plain_cell(each.bpw_without_embeddings)),
        Field(Column("Fallback", "tensors", priority=3), lambda each: count_cell(_n_fallbacks(each))),
        Field(Column("Parts", priority=5), lambda each: count_cell(len(each.parts))),
        Field(Column("Tokenizer", priority=6), lambda each: text_cell(each.info.tokenizer_sha256[:8])),
        Field(Column("Template", priority=6), lambda each: text_cell(_template(each))),
    )
    return make_table("models", "Models", fields, models)


def _n_fallbacks(model: Inspection) -> int | None:
    return None if model.deviations is None else len(model.deviations)


def _template(model: Inspection) -> str:
    return model.templates.get("tokenizer.chat_template", "none")[:8]


def describe_model(model: Inspection, details: bool = False) -> Iterator[Part]:
    """A model's facts, tables and differences."""
    yield from _facts(model)
    yield ""
    yield roles_table(model.roles)
    if model.layers:
        yield ""
        yield layers_table(model.layers)
    yield ""
    yield from _deviations(model, details)
    if model.comparison is not None:
        yield ""
        yield from describe_comparison(model.comparison, details)


def _facts(model: Inspection) -> Iterator[str]:
    info = model.info
    yield f"{info.name}: {info.architecture}, {info.file_type}, {info.n_params:,} parameters, {info.n_layer} layers"
    without = format_plain(model.bpw_without_embeddings)
    bits = f"{format_plain(info.bpw)} bits per weight ({without} without embeddings)"
    yield f"size       {format_size(info.size_bytes)}, {bits}"
    yield f"context    {info.n_ctx_train:,} tokens; vocabulary {info.n_vocab:,}, digest {info.tokenizer_sha256[:16]}"
    if not model.templates:
        yield "template   none"
    for key, digest in model.templates.items():
        yield f"template   {key}, digest {digest[:16]}"
    if info.imatrix is None:
        yield "imatrix    not recorded in the file"
    else:
        found = info.imatrix
        yield f"imatrix    {found.file}, {found.entries_count} tensors, {found.chunks_count} chunks of {found.dataset}"
    if len(model.parts) > 1:
        yield f"parts      {', '.join(f'{part.name} ({format_size(part.size_bytes)})' for part in model.parts)}"


def roles_table(roles: Sequence[RoleSummary]) -> Table:
    """Tensors by role, the largest part of the file first."""
    total = sum(role.n_bytes for role in roles) or 1
    fields: tuple[Field[RoleSummary], ...] = (
        Field(Column("Role"), lambda role: text_cell(role.role)),
        Field(Column("Tensors", priority=2), lambda role: count_cell(role.n_tensors)),
        Field(Column("Size", "MB"), lambda role: plain_cell(role.n_bytes / 1e6)),
        Field(Column("Share", "%", priority=3), lambda role: plain_cell(100 * role.n_bytes / total)),
        Field(Column("Bits", "per weight"), lambda role: plain_cell(role.bits)),
        Field(Column("Types"), lambda role: text_cell(_type_counts(role))),
    )
    return make_table("roles", "Tensors by role", fields, roles)


def _type_counts(role: RoleSummary) -> str:
    if len(role.types) == 1:
        return role.types[0][0]
    return ", ".join(f"{n} {name}" for name, n in role.types)


def layers_table(layers: Sequence[LayerGroup]) -> Table:
    """Types by layer and role; layers made of the same types share a line."""
    roles = sorted({role for group in layers for role in group.types})
    fields: list[Field[LayerGroup]] = [
        Field(Column("Layers"), lambda group: text_cell(layer_ranges(group.layers))),
        Field(Column("Bits", "per weight"), lambda group: plain_cell(group.bits)),
    ]
    fields += [_role_field(role) for role in roles]
    return make_table("layers", "Types by layer; layers with the same types share a line", fields, layers)


def _role_field(role: str) -> Field[LayerGroup]:
    return Field(Column(role, priority=2), lambda group: text_cell(group.types.get(role, "")))


def _deviations(model: Inspection, details: bool) -> Iterator[str]:
    if model.deviations is None:
        yield f"Whether these are the types of llama-quantize's mixture could not be determined: {model.mixture_note}"
        return
    if not model.deviations:
        yield f"Every tensor has the type of llama-quantize's mixture {model.info.file_type}."
        return
    groups: dict[tuple[str, str, str], list[Deviation]] = {}
    for each in model.deviations:
        groups.setdefault((each.reason, each.wanted, each.found), []).append(each)
    yield f"{len(model.deviations)} tensors have another type than llama-quantize's mixture {model.info.file_type}:"
    for (reason, wanted, found), members in groups.items():
        lengths = ", ".join(f"{length:,}" for length in sorted({each.row_length for each in members}))
        why = f"rows of {lengths} do not fit its blocks" if reason == "row length" else "chosen by whoever made it"
        names = [each.name for each in members]
        yield f"  {len(names)} x {found} instead of {wanted} ({why}): {_some(names, details, 2)}"


def _some(names: Sequence[str], details: bool, n: int) -> str:
    shown = names if details else names[:n]
    return ", ".join(shown) + (", ..." if len(shown) < len(names) else "")


def describe_comparison(found: Comparison, details: bool = False) -> Iterator[Part]:
    """What differs from the base: tensors, tokenizer, template, metadata, and the error of the weights."""
    yield f"Compared with {found.base}:"
    yield from _listed(
        "tensors", [f"{each.kind} {each.name} {_change(each.base, each.quant)}" for each in found.tensors], details
    )
    yield from _tokenizer(found, details)
    yield from _listed("chat template", _keys(found.templates), details)
    yield from _listed("metadata", _keys(found.metadata), details)
    if found.weights:
        yield ""
        yield weights_table(found.weights if details else found.weights[:SHOWN], len(found.weights))


def _tokenizer(found: Comparison, details: bool) -> Iterator[str]:
    lines = _keys(found.tokenizer_keys)
    for each in found.token_lists:
        lengths = "" if each.n_base == each.n_quant else f" ({each.n_base:,} in the base, {each.n_quant:,} here)"
        lines.append(f"{each.n_different:,} of {each.what} differ{lengths}")
        lines += [f"  {one.what}[{one.number}]: {_change(one.base, one.quant)}" for one in each.first]
    yield from _listed("tokenizer", lines, details)


def _keys(differences: Sequence[KeyDifference]) -> list[str]:
    return [f"{each.key}: {_change(each.base, each.quant)}" for each in differences]


def _change(base: str, quant: str) -> str:
    return f"{base} -> {quant}" if base and quant else f"({base or quant})"


def _listed(what: str, lines: Sequence[str], details: bool) -> Iterator[str]:
    if not lines:
        yield f"  {what}: the same"
        return
    yield f"  {what}: differs"
    shown = lines if details else lines[:SHOWN]
    yield from (f"    {line}" for line in shown)
    if len(shown) < len(lines):
        yield f"    ... and {len(lines) - len(shown)} more; --details lists all"


def weights_table(errors: Sequence[WeightError], n_all: int) -> Table:
    """The error of each tensor's weights, largest first."""
    fields: tuple[Field[WeightError], ...] = (
        Field(Column("Tensor"), lambda each: text_cell(each.name)),
        Field(Column("Type"), lambda each: text_cell(each.type_name)),
        Field(Column("Error", "relative RMS"), lambda each: plain_cell(each.relative)),
        Field(Column("Error", "weighted"), lambda each: plain_cell(each.weighted)),
    )
    shown = "largest first" if len(errors) == n_all else f"the {len(errors)} largest of {n_all}"
    return make_table("weights", f"Error of the weights, {shown}", fields, errors)
