"""From questions to the exact texts that are scored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from quantprobe.errors import InputError
from quantprobe.probes.items import Question
from quantprobe.probes.questions.entries import LETTERS
from quantprobe.probes.templates import Template


@dataclass(frozen=True)
class PromptedQuestion:
    """One question as the texts that are scored: choice c is `context + continuations[c]`."""

    id: str
    group: str
    gold: int
    context: str
    """Everything before the choice, few-shot examples included."""
    continuations: tuple[str, ...]
    """For each choice what follows the context: delimiter, choice, suffix."""
    answers: tuple[str, ...]
    """For each choice its text without delimiter and suffix (a letter in letter style): what lengths count."""
    suffix: str
    """What ends every continuation behind the choice (Winogrande), and is scored in the choice's stead."""
    add_special: bool
    """Whether the tokenizer adds what the model wants at the start (BOS)."""
    parse_special: bool
    """Whether text such as `<|im_start|>` is read as the token of that name."""
    style: str
    question: str = ""
    """The question's own text, without template and examples, for people to read."""
    choices: tuple[str, ...] = ()
    """The choices' own texts."""


def prompt_questions(
    questions: Sequence[Question],
    template: Template,
    n_shots: int = 0,
    dev: Sequence[Question] = (),
    chat: Callable[[str], str] | None = None,
    bos: str = "",
) -> tuple[Template, tuple[PromptedQuestion, ...]]:
    """The texts of all questions, and the template with the name that the results record.

    The first `n_shots` questions of `dev` with the question's own group are put before it, solved;
    where `dev` knows no groups at all, the first ones of all. A question never sees itself.
    `chat` turns a user message into the model's chat format (`quantprobe.probes.chat.chat_renderer`);
    the whole context, few-shot examples included, is then one user message and the choice follows the
    generation prompt without a delimiter, as in lm-evaluation-harness. If that text begins with `bos`,
    the tokenizer is not asked to add another.

    Raises `InputError` if there are too few examples, or the template does not suit a question.
    """
    if n_shots < 0:
        raise InputError(f"--few-shot {n_shots}: the number of examples cannot be negative")
    prompted = []
    for question in questions:
        _check_fit(template, question)
        shots = _choose_shots(question, n_shots, dev)
        one = _prompt_question(question, template, shots)
        prompted.append(one if chat is None else _chatted(one, question, chat, bos))
    name = template.name + (f"+{n_shots}shot" if n_shots else "") + ("+chat" if chat else "")
    return replace(template, name=name), tuple(prompted)


def _check_fit(template: Template, question: Question) -> None:
    if question.suffix and template.body != "{prompt}":
        raise InputError(
            f"question {question.id} has text behind the choice; the template {template.name!r} has no place for it, "
            "use 'plain'"
        )
    if template.style == "letter" and len(question.choices) > len(LETTERS):
        raise InputError(
            f"question {question.id} has {len(question.choices)} choices and there are {len(LETTERS)} letters; "
            "use a cloze template such as 'question'"
        )


def _choose_shots(question: Question, n_shots: int, dev: Sequence[Question]) -> list[Question]:
    if n_shots == 0:
        return []
    grouped = any(example.group for example in dev)
    own = [
        example
        for example in dev
        if (not grouped or not question.group or example.group == question.group)
        and (example.prompt, example.choices, example.suffix) != (question.prompt, question.choices, question.suffix)
    ]
    if len(own) < n_shots:
        of = f" of the group {question.group!r}" if grouped and question.group else ""
        raise InputError(
            f"--few-shot {n_shots} needs as many examples for question {question.id}, but there are {len(own)}{of}; "
            "give a folder with a dev part, or a file of examples"
        )
    return own[:n_shots]


def _prompt_question(question: Question, template: Template, shots: Sequence[Question]) -> PromptedQuestion:
    header = template.header.replace("{group}", question.group.replace("_", " ")) if question.group else ""
    solved = "".join(_context(shot, template) + _continuations(shot, template)[shot.gold] + "\n\n" for shot in shots)
    return PromptedQuestion(
        id=question.id,
        group=question.group,
        gold=question.gold,
        context=header + solved + _context(question, template),
        continuations=_continuations(question, template),
        answers=_answers(question, template),
        suffix=question.suffix,
        add_special=True,
        parse_special=False,
        style=template.style,
        question=question.prompt,
        choices=question.choices,
    )


def _context(question: Question, template: Template) -> str:
    lines = "".join(f"{letter}. {choice}\n" for letter, choice in zip(LETTERS, question.choices, strict=False))
    # One pass over the template, so that braces in the question's own text stay what they are.
    before, _, after = template.body.partition("{prompt}")
    return before + question.prompt + after.replace("{choices}", lines)


def _answers(question: Question, template: Template) -> tuple[str, ...]:
    return tuple(LETTERS[: len(question.choices)]) if template.style == "letter" else question.choices


def _continuations(question: Question, template: Template) -> tuple[str, ...]:
    delimiter = " " if template.style == "letter" or template.body != "{prompt}" else question.delimiter
    return tuple(delimiter + answer + question.suffix for answer in _answers(question, template))


def _chatted(one: PromptedQuestion, question: Question, chat: Callable[[str], str], bos: str) -> PromptedQuestion:
    if question.suffix:
        raise InputError(f"question {question.id} has text behind the choice, which no chat format can hold")
    context = chat(one.context)
    return replace(
        one,
        context=context,
        continuations=one.answers,
        # llama.cpp does the same: the BOS stands in the rendered text, or the tokenizer adds it.
        add_special=not (bos and context.startswith(bos)),
        parse_special=True,
    )
