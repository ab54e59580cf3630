"""Tasks: from question files to probes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from quantprobe.engine.model import Model
from quantprobe.gguf.model import ModelInfo
from quantprobe.probes.chat import chat_renderer
from quantprobe.probes.grouping import check_grouping
from quantprobe.probes.items import Question, TaskProbe
from quantprobe.probes.prompts import PromptedQuestion, prompt_questions
from quantprobe.probes.questions.recognise import QuestionFile, read_questions
from quantprobe.probes.questions.selection import hellaswag_selection, multiple_choice_selection
from quantprobe.probes.rules import check_rule, default_rule, find_rule
from quantprobe.probes.task import task_probe
from quantprobe.probes.templates import find_template
from quantprobe.sweep.inputs import Inputs, Progress, TaskInput


@dataclass(frozen=True)
class ReadTask:
    """A question file in memory and the digest of everything that shapes its probe."""

    given: TaskInput
    file: QuestionFile
    rule: str
    sha256: str
    """No part of it is the grouping, which changes errors but no row: another one needs no new capture."""

    @property
    def grouping(self) -> str:
        """What the groups are: as it was asked for, else as the file says."""
        return self.given.grouping or self.file.grouping


def read_tasks(inputs: Inputs, progress: Progress) -> list[ReadTask]:
    """All question files, read before any model is loaded; items left out are told."""
    tasks = []
    for given in inputs.tasks:
        if given.grouping is not None:
            check_grouping(given.grouping)
        file = _read_file(given)
        for message in file.bad:
            progress.note(f"{given.name}: left out, {message}")
        questions = _select(file, given.n_items)
        template = find_template(given.template, file.format)
        rule = given.rule or default_rule(template, questions)
        if inputs.llama_compat:
            rule = find_rule(rule).compat or rule
        # what a template, rule or number of examples cannot do shows here, before minutes of loading
        resolved, prompted = prompt_questions(questions, template, given.few_shot, file.dev)
        for question in prompted:
            check_rule(question, rule)
        sha256 = _digest(given, rule, file.n_bad, resolved.name, prompted)
        tasks.append(ReadTask(given, replace(file, questions=questions), rule, sha256))
    return tasks


def _digest(given: TaskInput, rule: str, n_bad: int, template: str, prompted: Sequence[PromptedQuestion]) -> str:
    """Digest of all that the tokens of a task depend on but the tokenizer, which the base's own digest covers.

    With a chat template the texts around the prompts come from the base's file too.
    """
    shape = [rule, template, given.chat_template, n_bad]
    content = [asdict(question) for question in prompted]
    return hashlib.sha256(json.dumps([shape, content]).encode()).hexdigest()


def _read_file(given: TaskInput) -> QuestionFile:
    """The questions of a task, with the examples of its own file where one is given."""
    file = read_questions(given.path, given.format, given.skip_bad)
    if given.few_shot_file is None:
        return file
    examples = read_questions(given.few_shot_file, skip_bad=given.skip_bad)
    return replace(file, dev=examples.questions, bad=file.bad + examples.bad)


def check_chat(task: ReadTask, info: ModelInfo) -> None:
    """Raises `InputError` if a task asks for a chat template and the model has none that can be used."""
    if task.given.chat_template:
        chat_renderer(info.chat_template, info.path.name)


def _select(file: QuestionFile, n_items: int | None) -> tuple[Question, ...]:
    """At most `n_items` questions, drawn as llama-perplexity draws them: the same on every machine."""
    questions = file.questions
    if n_items is None or n_items >= len(questions):
        return questions
    select = hellaswag_selection if file.format == "hellaswag-text" else multiple_choice_selection
    return tuple(questions[number] for number in select(len(questions), n_items))


def prompt_task(model: Model, task: ReadTask) -> tuple[str, tuple[PromptedQuestion, ...]]:
    """The template's name for the results, and the texts of a task's questions for this model."""
    given = task.given
    template = find_template(given.template, task.file.format)
    chat = None
    if given.chat_template:
        chat = chat_renderer(model.info.chat_template, model.info.path.name, model.bos_text, model.eos_text)
    template, prompted = prompt_questions(
        task.file.questions, template, given.few_shot, task.file.dev, chat, model.bos_text
    )
    return template.name, prompted


def make_task_probe(model: Model, task: ReadTask, progress: Progress) -> TaskProbe:
    """The probe of a task under the model's tokenizer; questions longer than its training context are left out."""
    template, prompted = prompt_task(model, task)
    n_ctx = model.info.n_ctx_train or model.settings.n_ctx
    progress.start(f"tokenize {task.given.name}", None, "question")
    try:
        probe, left_out = task_probe(task.given.name, prompted, model.tokenize, task.rule, template, n_ctx)
    finally:
        progress.finish()
    if left_out:
        longest = max(one.n_tokens for one in left_out)
        progress.note(
            f"{task.given.name}: {len(left_out)} of {len(prompted)} questions are longer than the model's context "
            f"of {n_ctx} tokens (the longest has {longest}) and are left out"
        )
    return replace(probe, n_left_out=probe.n_left_out + task.file.n_bad, grouping=task.grouping)
