"""The lines of a run: every quant under the run's settings, and again under cache types chosen for a line alone."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from quantprobe.capture.probe_files import Probe
from quantprobe.errors import InputError
from quantprobe.gguf.model import ModelInfo
from quantprobe.locks import locked, try_lock
from quantprobe.settings import Settings
from quantprobe.sweep.deciding import DecidePlan
from quantprobe.sweep.measuring import Measuring
from quantprobe.sweep.quants import UnjudgedQuant, measure_quant

Variant = Mapping[str, str]
"""Settings of one line that differ from the run's, `type_k` and `type_v`; empty for the run's own."""
OWN: Variant = {}


@dataclass(frozen=True, eq=False)
class Line:
    """One line: a model, and the cache types that were chosen for it. `info.name` is the line's name."""

    info: ModelInfo
    variant: Variant


def cache_variants(settings: Settings, types_k: Sequence[str], types_v: Sequence[str]) -> tuple[Variant, ...]:
    """Every combination of the types as what it changes of `settings`; the settings' own comes first.

    Raises `InputError` for a type given twice, and for a quantized V cache without flash attention.
    """
    for flag, types in (("--cache-type-k", types_k), ("--cache-type-v", types_v)):
        for name in types:
            if types.count(name) > 1:
                raise InputError(f"{flag} {name} is given twice; each type makes a line of its own")
    found: dict[tuple[tuple[str, str], ...], Variant] = {(): OWN}
    for type_k, type_v in itertools.product(types_k or [settings.type_k], types_v or [settings.type_v]):
        of_line = {"type_k": type_k, "type_v": type_v}
        variant = {name: kind for name, kind in of_line.items() if kind != getattr(settings, name)}
        settings.changed(variant)  # refuses what llama.cpp cannot do
        found[tuple(variant.items())] = variant
    return tuple(found.values())


def line_name(name: str, variant: Variant) -> str:
    """The quant's name, and in brackets the cache types that are not the run's: `Q4_K_M [k q8_0]`."""
    if not variant:
        return name
    kinds = set(variant.values())
    words = [f"{key[-1]} {kind}" for key, kind in variant.items()]
    return f"{name} [{f'kv {kinds.pop()}' if len(variant) == 2 and len(kinds) == 1 else ', '.join(words)}]"


def lines_of(info: ModelInfo, variants: Sequence[Variant]) -> list[Line]:
    """The lines of one file."""
    return [Line(replace(info, name=line_name(info.name, variant)), variant) for variant in variants]


def plan_lines(measuring: Measuring, lines: Sequence[Line], n_unmade: int, in_part: bool) -> None:
    """Tell what is to be decoded, and what an earlier run has measured already.

    `n_unmade` more lines are of files that are still to be made. `in_part`: whether a part of a task's questions may be
    enough.
    """
    left: list[Probe] = n_unmade * list(measuring.probes)
    of_lines = [measuring.under(line.variant).left(line.info.identity(), in_part) for line in lines]
    measuring.n_lines_left = n_unmade + sum(bool(probes) for probes in of_lines)
    left += [probe for probes in of_lines for probe in probes]
    n_every = (len(lines) + n_unmade) * len(measuring.probes)
    if left:
        measuring.progress.plan(len(left), sum(measuring.n_tokens(probe) for probe in left))
    if len(left) < n_every:
        n_done = n_every - len(left)
        measuring.progress.note(f"{n_done} of {n_every} measurements are already in {measuring.run.path}; using them")


def measure_lines(
    measuring: Measuring, lines: Sequence[Line], decide: DecidePlan | None, groupings: Mapping[str, str]
) -> list[UnjudgedQuant]:
    """Measure lines in their order, but those that another process is measuring after the others.

    Such a line is waited for; what the other process measured is then read, and only what it left is decoded.
    """
    found: dict[str, UnjudgedQuant] = {}

    def measure(line: Line) -> None:
        one = measure_quant(measuring.under(line.variant), line.info, decide, groupings)
        found[line.info.name] = replace(one, quant=replace(one.quant, variant=line.variant))

    while left := [line for line in lines if line.info.name not in found]:
        n_before = len(found)
        for line in left:
            held = try_lock(measuring.run.lock(line.info.name))
            if held is not None:
                with held:
                    measure(line)
        if len(found) == n_before:
            names = ", ".join(line.info.name for line in left)

            def tell(names: str = names) -> None:
                measuring.progress.note(f"another process is measuring {names}; waiting for it")

            with locked(measuring.run.lock(left[0].info.name), tell):
                measure(left[0])
    return [found[line.info.name] for line in lines]
