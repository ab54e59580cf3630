"""The digest of a task changes with every byte of a prompt, so that nothing stale is taken for done."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from quantprobe.sweep.inputs import SILENT, Inputs, TaskInput
from quantprobe.sweep.tasks import read_tasks

ROW = {"id": "1", "prompt": "Two and two make", "choices": ["four", "five"], "answer": 0}


def digest(path: Path, rows: list[dict[str, Any]], **given: Any) -> str:
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n", encoding="utf-8")
    [task] = read_tasks(Inputs(texts=(), tasks=(TaskInput("t", path, **given),)), SILENT)
    return task.sha256


def test_the_same_questions_have_the_same_digest(tmp_path: Path) -> None:
    assert digest(tmp_path / "a.jsonl", [ROW]) == digest(tmp_path / "b.jsonl", [ROW])


@pytest.mark.parametrize(
    ("row", "given"),
    [
        ({"delimiter": "\n"}, {}),
        ({"delimiter": ": "}, {}),
        ({"prompt": "Two and two  make"}, {}),
        ({"choices": ["four", "five "]}, {}),
        ({"suffix": "."}, {}),
        ({"answer": 1}, {}),
        ({}, {"template": "question"}),
        ({}, {"template": "letters"}),
        ({}, {"rule": "sum"}),
        ({}, {"chat_template": True}),
    ],
    ids=str,
)
def test_whatever_a_model_sees_changes_it(tmp_path: Path, row: dict[str, Any], given: dict[str, Any]) -> None:
    assert digest(tmp_path / "a.jsonl", [ROW]) != digest(tmp_path / "b.jsonl", [{**ROW, **row}], **given)
