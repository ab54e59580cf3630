"""What a model would be given for a question: the exact text, the tokens, and which of them each rule scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from quantprobe.engine.model import Model
from quantprobe.errors import InputError
from quantprobe.gguf.model import read_model_info, require_measurable
from quantprobe.metrics.scores import scored_positions
from quantprobe.probes.items import ChoiceItem
from quantprobe.probes.prompts import PromptedQuestion
from quantprobe.probes.rules import RULES
from quantprobe.probes.task import choice_item
from quantprobe.settings import Settings
from quantprobe.sweep.inputs import Inputs, Progress, TaskInput
from quantprobe.sweep.tasks import ReadTask, check_chat, prompt_task, read_tasks


@dataclass(frozen=True)
class ShownToken:
    """One token of a choice's sequence."""

    id: int
    piece: str
    """Its text; special tokens by their names, bytes that are no text as U+FFFD."""
    rules: tuple[str, ...]
    """The rules that score it."""


@dataclass(frozen=True)
class ShownChoice:
    """One choice: the text behind the context, and its tokens behind the shared ones."""

    text: str
    tokens: tuple[ShownToken, ...]


@dataclass(frozen=True)
class ShownItem:
    """One question as a model gets it."""

    id: str
    group: str
    gold: int
    template: str
    rule: str
    n_tokens: int
    """Length of the longest sequence that is decoded."""
    context: str
    """Everything before the choices, few-shot examples and chat format included."""
    shared: tuple[ShownToken, ...]
    """Tokens that all choices begin with; those that a rule scores belong to a choice that begins inside them."""
    choices: tuple[ShownChoice, ...]


def show_items(gguf: Path, given: TaskInput, ids: Sequence[str], progress: Progress) -> list[ShownItem]:
    """The questions `ids` of a task (none: the first) under a model's tokenizer; no weights are read.

    Raises `InputError` for an unknown id.
    """
    [task] = read_tasks(Inputs(texts=(), tasks=(given,)), progress)
    wanted = _choose(task, ids)
    info = read_model_info(gguf)
    require_measurable(info)
    check_chat(task, info)
    with Model(info, Settings(n_gpu_layers=0), vocab_only=True) as model:
        template, prompted = prompt_task(model, wanted)
        return [_show(model, one, wanted.rule, template) for one in prompted]


def _choose(task: ReadTask, ids: Sequence[str]) -> ReadTask:
    questions = {question.id: question for question in task.file.questions}
    missing = [one for one in ids if one not in questions]
    if missing:
        known = ", ".join(list(questions)[:3])
        raise InputError(
            f"{task.given.path} has no question {missing[0]!r}; it has {len(questions):,}, the first ids are {known}"
        )
    chosen = tuple(questions[one] for one in ids) or task.file.questions[:1]
    return replace(task, file=replace(task.file, questions=chosen))


def _show(model: Model, prompted: PromptedQuestion, rule: str, template: str) -> ShownItem:
    item = choice_item(prompted, model.tokenize, rule)
    rules = _rules_of(prompted, rule)
    scored = [[set(scored_positions(item, choice, one).tolist()) for one in rules] for choice in range(item.n_choices)]

    def show(choice: int, begin: int, end: int) -> tuple[ShownToken, ...]:
        tokens = item.sequence(choice).tolist()
        return tuple(
            ShownToken(
                tokens[place],
                model.piece(tokens[place]),
                tuple(one for one, places in zip(rules, scored[choice], strict=True) if place in places),
            )
            for place in range(begin, end)
        )

    n_prefix = len(item.prefix)
    return ShownItem(
        id=item.id,
        group=item.group,
        gold=item.gold,
        template=template,
        rule=rule,
        n_tokens=item.n_tokens,
        context=prompted.context,
        shared=show(_earliest(item), 0, n_prefix),
        choices=tuple(
            ShownChoice(text, show(choice, n_prefix, len(item.sequence(choice))))
            for choice, text in enumerate(prompted.continuations)
        ),
    )


def _earliest(item: ChoiceItem) -> int:
    return item.starts.index(min(item.starts))


def _rules_of(prompted: PromptedQuestion, own: str) -> tuple[str, ...]:
    """The rules that are made for such a question, a slip only where it is the task's own rule."""
    fitting = [rule for rule in RULES.values() if rule.style == prompted.style and rule.need.met(prompted)]
    return tuple(rule.name for rule in fitting if rule.name == own or not rule.slip)
