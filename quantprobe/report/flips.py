"""Questions whose answer changed between a base and a quant, with their text where the run kept it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from quantprobe.errors import InputError
from quantprobe.metrics.answers import UNKNOWN
from quantprobe.metrics.direction import DROP, LEAPFROG, OTHER_WRONG, ChangedItem, list_changes
from quantprobe.run.cohort import Cohort
from quantprobe.run.json_text import Json, plain
from quantprobe.run.questions import read_task_questions
from quantprobe.run.results import Quant


@dataclass(frozen=True)
class Flip:
    """One changed item; prompt and choices are empty where the run kept no text (imported answers)."""

    item: ChangedItem
    base_margin: float | None
    """log P(right) - log P(best wrong) in nats; None where unknown."""
    quant_margin: float | None
    prompt: str
    choices: tuple[str, ...]


@dataclass(frozen=True)
class TaskFlips:
    """The changed items of one task, biggest margin shift first."""

    task: str
    n_items: int
    """Items that both models answered."""
    n_invalid: int
    """Items without an answer of one of them; they can have no flip."""
    flips: tuple[Flip, ...]

    def to_dict(self, limit: int | None = None) -> dict[str, Json]:
        """The counts, and one flat object for each of the first `limit` items, for `--json`."""
        items = [plain({**asdict(flip.item), **_details(flip)}) for flip in self.flips[:limit]]
        counts = {"n_items": self.n_items, "n_invalid": self.n_invalid, "n_changed": len(self.flips)}
        return {"task": self.task, **counts, "items": items}


def find_quant(cohort: Cohort, wanted: str) -> Quant:
    """The quant that `wanted` names: its name, its file, or a part that no other name contains.

    Raises `InputError` if none or several fit.
    """
    names = [quant.name for quant in cohort.quants]
    found = [name for name in names if name in (wanted, Path(wanted).name.removesuffix(".gguf"))]
    found = found or [name for name in names if wanted.casefold() in name.casefold()]
    if len(found) != 1:
        which = f"{wanted!r} fits {', '.join(found)}" if found else f"there is no quant {wanted!r}"
        raise InputError(f"{which} in {cohort.runs[0].path}; its quants are {', '.join(names)}")
    return cohort.quant(found[0])


def find_flips(cohort: Cohort, quant: Quant, task: str | None = None, group: str | None = None) -> list[TaskFlips]:
    """The changed items of one quant: on all its tasks or on `task`, of all groups or of `group`.

    Raises `InputError` for a task or group that the run does not have, and where it kept no answers.
    """
    run = cohort.runs[0].path
    if not quant.tasks or (task is not None and task not in quant.tasks):
        wanted = f"no task {task!r}" if quant.tasks else "no tasks"
        raise InputError(f"{run} has {wanted} for {quant.name}; it has {', '.join(quant.tasks) or 'texts only'}")
    found = [read_flips(cohort, quant.name, name, group) for name in ([task] if task else quant.tasks)]
    if group is not None:
        found = [one for one in found if one.n_items + one.n_invalid]
        if not found:
            raise InputError(f"no item of {task or 'any task'} in {run} is in a group {group!r}")
    return found


def read_flips(cohort: Cohort, quant: str, task: str, group: str | None = None) -> TaskFlips:
    """The changed items of one quant on one task, or on one group of it."""
    if not cohort.has_items(quant, task):
        raise InputError(
            f"{cohort.items_files[quant, task]} does not exist: of {quant} on {task} the run kept only the counts"
        )
    pair = cohort.items(quant, task)
    questions = next((found for run in cohort.runs if (found := read_task_questions(run, task))), {})
    valid = pair.base.valid & pair.quant.valid
    inside = [group is None or one == group for one in pair.base.groups]
    places = {name: place for place, name in enumerate(pair.base.ids)}
    flips = []
    for item in list_changes(pair.base, pair.quant):
        place, question = places[item.id], questions.get(item.id)
        if inside[place]:
            flips.append(
                Flip(
                    item=item,
                    base_margin=_known(float(pair.base.margin[place])),
                    quant_margin=_known(float(pair.quant.margin[place])),
                    prompt=question.prompt if question else "",
                    choices=question.choices if question else (),
                )
            )
    n_items = int(valid[inside].sum())
    return TaskFlips(task, n_items, sum(inside) - n_items, tuple(flips))


def count_kinds(flips: TaskFlips) -> str:
    """How many answers changed, and how, in words."""
    kinds = [flip.item.kind for flip in flips.flips]
    invalid = f"; {flips.n_invalid:,} without an answer" if flips.n_invalid else ""
    return (
        f"{flips.task}: {len(kinds):,} of {flips.n_items:,} answers changed: {kinds.count(DROP):,} drops, "
        f"{kinds.count(LEAPFROG):,} leapfrogs, {kinds.count(OTHER_WRONG):,} wrong to other wrong{invalid}"
    )


def format_flip(flip: Flip) -> str:
    """One changed item as people read it: what happened, the prompt, and who chose what."""
    item = flip.item
    group = f"  [{item.group}]" if item.group else ""
    return "\n".join([f"{item.kind.upper()}  {item.id}{group}{_format_margins(flip)}", *_format_question(flip)])


def _details(flip: Flip) -> dict[str, float | str | Sequence[str] | None]:
    margins = {"base_margin": flip.base_margin, "quant_margin": flip.quant_margin}
    return {**margins, "prompt": flip.prompt, "choices": flip.choices}


def _format_margins(flip: Flip) -> str:
    item, words = flip.item, ""
    if flip.base_margin is not None and flip.quant_margin is not None and item.margin_shift is not None:
        words = f"  margin {flip.base_margin:+.3f} to {flip.quant_margin:+.3f} nats ({item.margin_shift:+.3f})"
    return words + (f"  KLD {item.kld:.3g}" if item.kld is not None else "")


def _format_question(flip: Flip) -> list[str]:
    item = flip.item
    chosen = (("right", item.gold), ("base", item.base_pred), ("quant", item.quant_pred))
    if not flip.choices:
        known = [f"{who} {place}" for who, place in chosen if place != UNKNOWN]
        return [f"    choices by number: {', '.join(known)}"] if known else []
    lines = [f"    {line}" for line in flip.prompt.splitlines()]
    for place, choice in enumerate(flip.choices):
        who = ", ".join(name for name, number in chosen if number == place)
        lines.append(f"    {who:>18} | {' '.join(choice.split())}")
    return lines


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None
