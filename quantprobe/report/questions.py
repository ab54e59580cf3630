"""The text of a run's questions: `RUN/tasks/TASK.jsonl`, in the native form, which a sweep writes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from quantprobe.names import safe_name
from quantprobe.probes.items import Question
from quantprobe.probes.questions import recognise as task_files


def read_questions(run: Path, task: str) -> Mapping[str, Question]:
    """The questions of `task` by id; empty if the run has none (imported results).

    Raises `FileFormatError`, with the line, where the file is damaged.
    """
    file = run / "tasks" / f"{safe_name(task)}.jsonl"
    if not file.exists():
        return {}
    return {question.id: question for question in task_files.read_questions(file, format="native").questions}
