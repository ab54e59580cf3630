"""`recipe --verify`: the recipe's quant beside a standard one of its size, on what the blame never saw."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from quantprobe.blame.choice import DISTANCE
from quantprobe.blame.recipe import Mix
from quantprobe.capture.store import Capture
from quantprobe.engine.model import Model
from quantprobe.engine.quantize_plan import plan_quants
from quantprobe.errors import InputError, QuantprobeError
from quantprobe.gguf.file_types import FILE_TYPES
from quantprobe.imatrix.overlap import WORTH_A_WARNING, overlap
from quantprobe.run.blame import GOLD_PROB, KLD, MARGIN, NET, Blame
from quantprobe.run.cohort import Cohort, read_cohort
from quantprobe.run.folder import RunFolder
from quantprobe.run.json_text import plain, write_json
from quantprobe.run.questions import read_task_questions
from quantprobe.settings import Settings
from quantprobe.stats.clusters import cluster_mean
from quantprobe.stats.design import ItemDesign, as_design, item_design, pool_designs
from quantprobe.stats.estimates import Estimate
from quantprobe.sweep.inputs import Inputs, Progress, make_text_probe, read_measurable, read_texts
from quantprobe.sweep.job import sweep
from quantprobe.sweep.ladder import Order, make_quants
from quantprobe.sweep.tasks import read_tasks

BETTER, WORSE, UNTOLD = "better", "worse", "cannot be told"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class Versus:
    """The recipe against a standard quant in one measure, larger being better for the recipe."""

    measure: str
    difference: Estimate
    """KLD of the standard less the recipe's; else the recipe's less the standard's."""

    @property
    def verdict(self) -> str:
        low, high = self.difference.low, self.difference.high
        if low is None or high is None:
            return UNTOLD
        return BETTER if low > 0 else WORSE if high < 0 else UNTOLD


@dataclass(frozen=True)
class Verified:
    """A recipe, made and measured."""

    recipe: str
    recipe_bytes: int
    standard: str
    standard_bytes: int
    objective: str
    measures: tuple[Versus, ...]

    def verdict(self) -> str:
        """What the measure that the recipe was made for says: KLD for distance, the margin for answers."""
        wanted = KLD if self.objective == DISTANCE else MARGIN
        found = [each for each in self.measures if each.measure == wanted]
        return found[0].verdict if found else UNTOLD

    def to_dict(self) -> dict[str, Any]:
        """Plain values for `recipe.json`."""
        measures = {each.measure: {"difference": plain(each.difference), "verdict": each.verdict} for each in
                    self.measures}  # fmt: skip
        return {"format_version": FORMAT_VERSION, **plain(self), "measures": measures, "verdict": self.verdict()}


def require_held_out(
    blame: Blame, run: RunFolder, inputs: Inputs, base: Path, settings: Settings, progress: Progress
) -> None:
    """Raise `InputError` if a text or a question of `inputs` is one that the blame was made on.

    Texts are compared by digest, and token by token with the windows that the blame decoded: 1 % in common runs of 13
    tokens is too much. Questions are compared by prompt and choices.
    """
    tasks = read_tasks(inputs, progress)
    used = {
        (question.prompt, question.choices)
        for name in blame.tasks
        for question in read_task_questions(run, name).values()
    }
    for task in tasks:
        if task.sha256 in blame.tasks.values():
            raise InputError(f"the blame was made on the questions {task.given.name}; verify on others")
        common = [each for each in task.file.questions if (each.prompt, each.choices) in used]
        if common:
            raise InputError(
                f"{len(common)} questions of {task.given.name} are among those of the blame, the first {common[0].id}; "
                "verify on questions that it never saw"
            )
    _require_other_texts(blame, run, inputs, base, settings)


def _require_other_texts(blame: Blame, run: RunFolder, inputs: Inputs, base: Path, settings: Settings) -> None:
    seen = _seen_tokens(blame, run)
    texts = read_texts(inputs)
    if not texts:
        return
    with Model(read_measurable(base), settings, vocab_only=True) as model:
        for text in texts:
            tokens = make_text_probe(model, text, inputs).tokens.ravel().tolist()
            share = max((overlap(one, tokens).share for one in seen), default=0.0)
            if text.sha256 in blame.texts.values() or share > WORTH_A_WARNING:
                raise InputError(
                    f"{share:.0%} of the text {text.name} is in the windows of the blame; verify on another text"
                )


def _seen_tokens(blame: Blame, run: RunFolder) -> Iterator[list[int]]:
    for path in sorted(run.path.glob("base-*.qpc")):
        try:
            capture = Capture.open(path)
        except QuantprobeError:  # what is damaged was not used in this state
            continue
        for entry in capture.meta.probes:
            if entry.kind == "text" and blame.texts.get(entry.name) == entry.source:
                yield capture.text_probe(entry.name).tokens.ravel().tolist()


def make_files(
    mix: Mix, base: Path, folder: Path, against: Path | None, progress: Progress, imatrix: Path | None
) -> tuple[Path, Path]:
    """The recipe's quant, and the standard one: `against`, or the largest standard type no larger than the recipe."""
    orders = [Order("recipe.gguf", mix.recipe)]
    if against is None:
        orders.append(_standard(mix, base, imatrix))
    made = make_quants(base, folder, orders, progress)
    return made[0].files[0], made[-1].files[0] if against is None else against


def _standard(mix: Mix, base: Path, imatrix: Path | None) -> Order:
    kinds = [kind for kind in FILE_TYPES.values() if kind.can_make and not (kind.needs_imatrix and imatrix is None)]
    kinds = [kind for kind in kinds if kind.name not in ("F32", "BF16", "MXFP4_MOE", "TQ1_0", "TQ2_0", "Q1_0", "Q2_0")]
    recipes = [
        replace(mix.recipe, file_type=kind.name, tensor_types=(), output_tensor_type=None, token_embedding_type=None)
        for kind in kinds
    ]
    plans = [plan for plan in plan_quants(base, recipes) if plan.size_bytes <= mix.plan.size_bytes * 1.005]
    if not plans:
        raise InputError("no standard type is as small as the recipe; name a quant to compare with (--against)")
    best = max(plans, key=lambda plan: plan.size_bytes)
    return Order(f"standard-{best.recipe.kind.name}.gguf", best.recipe)


def verify(
    mix: Mix, base: Path, files: tuple[Path, Path], inputs: Inputs, settings: Settings, run: Path, progress: Progress
) -> Verified:
    """Measure both quants against the base in `run`; write `recipe.json` there."""
    sweep(base, list(files), inputs, settings, run, progress)
    cohort = read_cohort([run])
    infos = [read_measurable(file) for file in files]
    names = [info.name for info in infos]
    found = Verified(
        recipe=names[0],
        recipe_bytes=infos[0].size_bytes,
        standard=names[1],
        standard_bytes=infos[1].size_bytes,
        objective=mix.objective,
        measures=tuple(compare(cohort, names[0], names[1])),
    )
    types = {group: option.type_name for group, option in zip(mix.groups, mix.choice.options, strict=True)}
    document = {**found.to_dict(), "types": types, "options": mix.options(), "commands": list(mix.commands(base))}
    write_json(document, run / "recipe.json")
    return found


def compare(cohort: Cohort, recipe: str, standard: str) -> Iterator[Versus]:
    """Paired differences over all rows of all texts and all items of all tasks."""
    rows = [[cohort.rows(name, text, ()) for name in (standard, recipe)] for text in cohort.texts]
    if rows:
        klds = np.concatenate([pair[0]["kld"] - pair[1]["kld"] for pair in rows])
        yield _versus(KLD, klds, pool_designs([as_design(pair[0]["windows"]) for pair in rows]), "nats")
    if cohort.tasks:
        yield from _compare_answers(cohort, recipe, standard)


def _compare_answers(cohort: Cohort, recipe: str, standard: str) -> Iterator[Versus]:
    pairs = [[cohort.items(name, task).quant for name in (recipe, standard)] for task in cohort.tasks]
    groupings = [cohort.tasks_facts[task].grouping if task in cohort.tasks_facts else "none" for task in cohort.tasks]
    design = pool_designs(
        [item_design(pair[0].groups, grouping) for pair, grouping in zip(pairs, groupings, strict=True)]
    )
    values: Mapping[str, Sequence[Any]] = {
        NET: [a.correct.astype(float) - b.correct for a, b in pairs],
        MARGIN: [a.margin - b.margin for a, b in pairs],
        GOLD_PROB: [a.gold_prob - b.gold_prob for a, b in pairs],
    }
    units = {NET: "fraction", MARGIN: "nats", GOLD_PROB: "probability"}
    valid = np.concatenate([a.valid & b.valid for a, b in pairs])
    for measure, parts in values.items():
        yield _versus(measure, np.where(valid, np.concatenate(list(parts)), np.nan), design, units[measure])


def _versus(measure: str, values: Any, design: ItemDesign, unit: str) -> Versus:
    known = np.isfinite(values)
    if not known.any():
        return Versus(measure, Estimate(None, unit=unit))
    return Versus(measure, cluster_mean(np.asarray(values)[known], design.keep(known)).estimate(unit, 0.95))
