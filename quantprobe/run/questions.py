"""`RUN/tasks/TASK.jsonl`: the questions of a task as people read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from quantprobe.probes.items import Question
from quantprobe.probes.questions.jsonl import write_native
from quantprobe.probes.questions.recognise import read_questions
from quantprobe.run.folder import RunFolder


def write_task_questions(run: RunFolder, task: str, questions: Sequence[Question], grouping: str) -> None:
    """Write the questions in the native form, for `flips` and the report."""
    write_native(run.questions(task), questions, grouping)


def read_task_questions(run: RunFolder, task: str) -> Mapping[str, Question]:
    """The questions of `task` by id; empty if the run has none (imported results).

    Raises `FileFormatError`, with the line, where the file is damaged.
    """
    file = run.questions(task)
    if not file.exists():
        return {}
    return {question.id: question for question in read_questions(file, format="native").questions}
