"""What a blame will do and cost, from the files alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from quantprobe.arrays import BoolArray
from quantprobe.blame.groups import DEFAULT_PARTS, ROLE, Group, make_groups
from quantprobe.engine.model import Model
from quantprobe.engine.plan_choices import n_naive_tokens
from quantprobe.gguf.hybrid import ModelPair, pair_models
from quantprobe.gguf.tensors import PlacedTensor, read_inventory
from quantprobe.gguf.weights import compare_weights, is_weight
from quantprobe.run.blame import BlameGroup
from quantprobe.settings import Settings
from quantprobe.stats.two_level import (
    FOLDOVER,
    HADAMARD,
    RESTORED,
    SINGLE,
    Design,
    foldover_design,
    hadamard_design,
    single_design,
)
from quantprobe.sweep.inputs import Inputs, Progress, identify_all, make_text_probe, read_measurable, read_texts
from quantprobe.sweep.tasks import make_task_probe, read_tasks

AUTO = "auto"
DESIGNS = (AUTO, SINGLE, HADAMARD, FOLDOVER)
SAMPLED_ROWS = 64
"""Rows of a tensor that its weight error is taken from."""


@dataclass(frozen=True)
class Plan:
    """Which groups, and which design."""

    by: tuple[str, ...] = (ROLE,)
    n_parts: int = DEFAULT_PARTS
    design: str = AUTO
    way: str = RESTORED
    """Of one group at a time: `restored`, `alone` or `both`."""
    seconds: float | None = None
    """What the hybrids may take; None: as long as it takes."""


@dataclass(frozen=True)
class Prospect:
    """What a blame will cost, known before anything is decoded."""

    pair: ModelPair
    groups: tuple[Group, ...]
    design: Design

    @property
    def largest_bytes(self) -> int:
        """Disk that the largest hybrid takes."""
        rows = [row for row in self.design.runs if row.any() and not row.all()]
        return max((self.pair.data_bytes(_restored(self.groups, row)) for row in rows), default=0)


def _restored(groups: Sequence[Group], row: BoolArray) -> frozenset[str]:
    return frozenset().union(*(group.names for group, on in zip(groups, row, strict=True) if on))


def plan_blame(base: Path, quant: Path, plan: Plan, progress: Progress) -> Prospect:
    """Groups and design, from the files alone."""
    pair = open_pair(base, quant, progress)
    groups = make_groups(pair, plan.by, plan.n_parts)
    return Prospect(pair, groups, candidates(plan, len(groups))[0])


def candidates(plan: Plan, n_groups: int) -> list[Design]:
    """Designs that may be used, the best first; without a budget the first is.

    One or two groups are measured one at a time: a Hadamard design of 4 runs has nothing to share.
    """
    single = single_design(n_groups, plan.way)
    if plan.design == SINGLE or n_groups < 3:
        return [single]
    if plan.design == HADAMARD:
        return [hadamard_design(n_groups)]
    if plan.design == FOLDOVER:
        return [foldover_design(n_groups)]
    if plan.way != RESTORED:
        return [single]
    if plan.seconds is None:
        return [hadamard_design(n_groups)]
    return [foldover_design(n_groups), hadamard_design(n_groups), single]


@dataclass(frozen=True)
class Cost:
    """What a blame costs beside capturing the base and measuring the quant."""

    design: str
    n_hybrids: int
    n_tokens: int
    """That each hybrid decodes; of tasks at most, as choices share what they begin with."""
    disk_bytes: int
    """Of the largest hybrid; there is one at a time."""

    def sentence(self) -> str:
        """The cost in words."""
        return (
            f"{self.n_hybrids} hybrids ({self.design} design) of at most {self.n_tokens:,} tokens each, one at a time: "
            f"as long as measuring the quant {self.n_hybrids} times, {self.disk_bytes / 1e9:.2f} GB of disk"
        )


def cost_of(prospect: Prospect, inputs: Inputs, settings: Settings, progress: Progress) -> Cost:
    """The cost, with the tokens counted by the quant's tokenizer."""
    with Model(prospect.pair.quant.info, settings, vocab_only=True) as model:
        n = sum(make_text_probe(model, text, inputs, progress).n_tokens for text in read_texts(inputs))
        n += sum(n_naive_tokens(make_task_probe(model, task, progress)) for task in read_tasks(inputs, progress))
    return Cost(prospect.design.kind, prospect.design.n_hybrids, n, prospect.largest_bytes)


def open_pair(base: Path, quant: Path, progress: Progress) -> ModelPair:
    """Base and quant with their digests, unit by unit. Raises `MismatchError` where one is not a quant of the other."""
    infos = identify_all([read_measurable(base), read_measurable(quant)], progress)
    sides = [replace(read_inventory(info.path), info=info) for info in infos]
    progress.start("compare tensors", None, "B")
    try:
        return pair_models(sides[0], sides[1], progress.advance)
    finally:
        progress.finish()


def group_records(groups: Sequence[Group]) -> tuple[BlameGroup, ...]:
    """Groups as `blame.json` keeps them."""
    return tuple(
        BlameGroup(
            name=group.name,
            tensors=tuple(each.name for unit in group.units for each in unit.quant),
            base_bytes=sum(each.tensor.n_bytes for unit in group.units for each in unit.base),
            quant_bytes=sum(each.tensor.n_bytes for unit in group.units for each in unit.quant),
            base_types=Counter(each.type_name for unit in group.units for each in unit.base),
            quant_types=Counter(each.type_name for unit in group.units for each in unit.quant),
            weight_error=_weight_error(group),
        )
        for group in groups
    )


def _weight_error(group: Group) -> float | None:
    """The error of the group's tensors, each weighed by its elements."""
    pairs: list[tuple[PlacedTensor, PlacedTensor]] = []
    for unit in group.units:
        of_base = {each.name: each for each in unit.base}
        pairs += [
            (each, of_base[each.name])
            for each in unit.quant
            if each.name in of_base and is_weight(each) and is_weight(of_base[each.name])
        ]
    errors = [
        (each.relative, pair[0].tensor.n_elements)
        for each, pair in zip(compare_weights(pairs, max_rows=SAMPLED_ROWS), pairs, strict=True)
    ]
    known = [(error**2, n) for error, n in errors if error is not None]
    n = sum(n for _, n in known)
    return float(np.sqrt(sum(square * n for square, n in known) / n)) if n else None
