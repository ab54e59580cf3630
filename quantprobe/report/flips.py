"""Items whose answer changed between a base and a quant, with their text, from the files of a run."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from quantprobe.errors import InputError
from quantprobe.metrics.answers import UNKNOWN
from quantprobe.metrics.direction import DROP, LEAPFROG, OTHER_WRONG, ChangedItem, list_changes
from quantprobe.names import safe_name
from quantprobe.probes.items import Question
from quantprobe.probes.questions.recognise import read_questions
from quantprobe.report.results_view import POOLED, read_results
from quantprobe.run.items import read_items
from quantprobe.run.results_file import Json, plain


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
    flips: tuple[Flip, ...]

    def to_dict(self) -> dict[str, Json]:
        """One flat object per item, for `--json`."""
        items: list[Json] = [
            plain(
                {
                    **asdict(flip.item),
                    "base_margin": flip.base_margin,
                    "quant_margin": flip.quant_margin,
                    "prompt": flip.prompt,
                    "choices": flip.choices,
                }
            )
            for flip in self.flips
        ]
        return {"task": self.task, "n_items": self.n_items, "n_changed": len(items), "items": items}


def find_quant(run: Path, wanted: str) -> tuple[str, tuple[str, ...]]:
    """The quant's name and its tasks in a run; `wanted` is its name, its file, or a part that only one name holds.

    Raises `InputError` if none or several fit, and what `read_results` raises.
    """
    quants = read_results(run / "results.json").quants
    tasks = {quant.model.name: tuple(task for task in quant.tasks if task != POOLED) for quant in quants}
    found = [name for name in tasks if name in (wanted, Path(wanted).name.removesuffix(".gguf"))]
    found = found or [name for name in tasks if wanted.casefold() in name.casefold()]
    if len(found) != 1:
        which = f"{wanted!r} fits {', '.join(found)}" if found else f"there is no quant {wanted!r}"
        raise InputError(f"{which} in {run}; its quants are {', '.join(tasks)}")
    return found[0], tasks[found[0]]


def read_flips(run: Path, quant: str, task: str, group: str | None = None) -> TaskFlips:
    """The changed items of one quant on one task, or on one group of it, from `RUN/items` and `RUN/tasks`."""
    pair = read_items(run / "items" / safe_name(quant) / f"{safe_name(task)}.csv")
    places = {name: place for place, name in enumerate(pair.base.ids)}
    n_items = len(places) if group is None else pair.base.groups.count(group)
    questions = _read_texts(run / "tasks" / f"{safe_name(task)}.jsonl")
    flips = []
    for item in list_changes(pair.base, pair.quant):
        if group is not None and item.group != group:
            continue
        place, question = places[item.id], questions.get(item.id)
        flips.append(
            Flip(
                item=item,
                base_margin=_known(pair.base.margin[place]),
                quant_margin=_known(pair.quant.margin[place]),
                prompt=question.prompt if question else "",
                choices=question.choices if question else (),
            )
        )
    return TaskFlips(task, n_items, tuple(flips))


def count_kinds(flips: TaskFlips) -> str:
    """How many answers changed, and how, in words."""
    kinds = [flip.item.kind for flip in flips.flips]
    return (
        f"{flips.task}: {len(kinds):,} of {flips.n_items:,} answers changed: {kinds.count(DROP):,} drops, "
        f"{kinds.count(LEAPFROG):,} leapfrogs, {kinds.count(OTHER_WRONG):,} wrong to other wrong"
    )


def format_flip(flip: Flip) -> str:
    """One changed item as people read it: what happened, the prompt, and who chose what."""
    item = flip.item
    group = f"  [{item.group}]" if item.group else ""
    return "\n".join([f"{item.kind.upper()}  {item.id}{group}{_format_margins(flip)}", *_format_question(flip)])


def _format_margins(flip: Flip) -> str:
    item, words = flip.item, ""
    if flip.base_margin is not None and flip.quant_margin is not None and item.margin_shift is not None:
        words = f"  margin {flip.base_margin:+.3f} to {flip.quant_margin:+.3f} nats ({item.margin_shift:+.3f})"
    return words + (f"  KLD {item.kld:.3g}" if item.kld is not None else "")


def _format_question(flip: Flip) -> list[str]:
    item = flip.item
    if not flip.choices:
        told = [("right", item.gold), ("base", item.base_pred), ("quant", item.quant_pred)]
        known = [f"{who} {place}" for who, place in told if place != UNKNOWN]
        return [f"    choices by number: {', '.join(known)}"] if known else []
    lines = [f"    {line}" for line in flip.prompt.splitlines()]
    for place, choice in enumerate(flip.choices):
        who = [name for name, chosen in (("right", item.gold), ("base", item.base_pred), ("quant", item.quant_pred))
               if chosen == place]  # fmt: skip
        lines.append(f"    {', '.join(who):>12} | {' '.join(choice.split())}")
    return lines


def _read_texts(path: Path) -> dict[str, Question]:
    if not path.is_file():
        return {}
    return {question.id: question for question in read_questions(path, "native").questions}


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
