"""Question files: which form a file has, its questions, and what is wrong with the others."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from quantprobe.errors import FileFormatError, InputError
from quantprobe.probes.grouping import STRATA, UNGROUPED
from quantprobe.probes.items import Question
from quantprobe.probes.questions.csv import (
    TRUTHFULQA_COLUMNS,
    csv_rows,
    is_mmlu_header,
    read_mmlu,
    read_truthfulqa,
    subject_of,
)
from quantprobe.probes.questions.entries import Entry, check_question, decode_text, read_bytes
from quantprobe.probes.questions.jsonl import SHAPES, find_shape, read_jsonl, take_grouping
from quantprobe.probes.questions.llama import (
    looks_like_multiple_choice,
    read_hellaswag_text,
    read_multiple_choice,
    read_winogrande_csv,
)
from quantprobe.probes.templates import FORMATS

TEXT_READERS: dict[str, Callable[[Path, str], Iterator[Entry]]] = {
    "mmlu-csv": lambda path, text: read_mmlu(path, text, subject_of(path)),
    "truthfulqa-csv": read_truthfulqa,
    "hellaswag-text": read_hellaswag_text,
    "winogrande-csv": read_winogrande_csv,
}
BINARY, FOLDER = "multiple-choice-binary", "mmlu-folder"


@dataclass(frozen=True)
class QuestionFile:
    """The questions of one file or folder."""

    path: Path
    questions: tuple[Question, ...]
    format: str
    """One of `FORMATS`."""
    bad: tuple[str, ...]
    """What was wrong with each item that was left out, with file and line."""
    grouping: str = UNGROUPED
    """What the questions' groups are, one of `quantprobe.probes.grouping.GROUPINGS`."""
    dev: tuple[Question, ...] = ()
    """Few-shot examples that came along: the `dev` part of an MMLU folder."""

    @property
    def n_bad(self) -> int:
        return len(self.bad)


def read_questions(path: Path, format: str | None = None, skip_bad: bool = False) -> QuestionFile:
    """Read a question file; without `format` its form is recognised by content.

    An item is bad if its text or answer cannot be read, its answer index is out of range, a choice is
    empty, it has fewer than two choices, or its id was used before. The first bad item is a
    `FileFormatError` that names file and line; with `skip_bad` all of them are left out and listed in `bad`.
    Identical choices are no error: `quantprobe.metrics.scores` counts them.

    Raises `InputError` for an unreadable path or unknown format, `FileFormatError` for a file that is
    damaged, not UTF-8, of no known form, or without a single good question.
    """
    if format is not None and format not in FORMATS:
        raise InputError(f"unknown task format {format!r}; known are {', '.join(FORMATS)}")
    if path.is_dir():
        return _read_folder(path, format, skip_bad)
    if format == FOLDER:
        raise InputError(f"{path} is not a folder, as the task format {FOLDER} asks for")
    data = read_bytes(path)
    if format == BINARY or (format is None and looks_like_multiple_choice(data)):
        return _collect(path, BINARY, ((path, entry) for entry in read_multiple_choice(path, data)), skip_bad)
    text = decode_text(path, data)
    format = format or recognise_text(path, text)
    grouping, text = _take_grouping(path, text) if format == "native" else (grouping_of(format), text)
    entries = read_jsonl(text, format) if format in SHAPES else TEXT_READERS[format](path, text)
    found = replace(_collect(path, format, ((path, entry) for entry in entries), skip_bad), grouping=grouping)
    # SUBJECT.csv of MMLU's test folder brings the examples that lie beside it.
    dev = path.parent.resolve().parent / "dev" / path.name
    if format != "mmlu-csv" or path.parent.resolve().name != "test" or not dev.is_file():
        return found
    return _with_dev(found, [dev], skip_bad)


def grouping_of(format: str) -> str:
    """What the groups of a format are, unless the file says so itself: MMLU's subjects are strata.

    The groups of the others are no design: labels that some file happens to have (HellaSwag's activities, TruthfulQA's
    categories), or none.
    """
    return STRATA if format.startswith("mmlu-") else UNGROUPED


def _take_grouping(path: Path, text: str) -> tuple[str, str]:
    try:
        return take_grouping(text)
    except InputError as error:
        raise FileFormatError(f"{path}, line 1: {error}") from error


def recognise_text(path: Path, text: str) -> str:
    """The format of a question file's text; raises `FileFormatError` if it is none of `FORMATS`."""
    lines = text.lstrip("\n").split("\n", 2)
    if lines[0].lstrip().startswith("{"):
        shape = find_shape(lines[0])
        if shape is None:
            raise FileFormatError(f"{path}, line 1: {_describe_object(lines[0])}")
        return shape
    if lines[0].lstrip().startswith("["):
        raise FileFormatError(f"{path}, line 1: a JSON list; write one JSON object per line (JSONL)")
    if len(lines) > 2 and lines[1].strip().isascii() and lines[1].strip().isdigit():
        return "hellaswag-text"
    row = next(csv_rows(path, text), (1, [""]))[1]
    if all(column in row for column in TRUTHFULQA_COLUMNS):
        return "truthfulqa-csv"
    if is_mmlu_header(row) or (len(row) >= 4 and row[-1].strip() in set("ABCDEFGHIJ")):
        return "mmlu-csv"
    if len(row) == 5 and ("_" in row[1] or row[-1].strip().lower() == "answer"):
        return "winogrande-csv"
    raise FileFormatError(
        f"{path}: not a question file that is known; the forms are {', '.join(FORMATS)} (name one with --task-format)"
    )


def _describe_object(line: str) -> str:
    known = "prompt/choices/answer, question/choices/answer, query/choices/gold, ctx/endings/label"
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return f"not one JSON object per line; a question has the keys {known}"
    return f"the keys {', '.join(record)} are those of no known question form, such as {known}"


def _read_folder(path: Path, format: str | None, skip_bad: bool) -> QuestionFile:
    """A folder of MMLU subjects: `test/SUBJECT.csv` and `dev/SUBJECT.csv`, or the CSV files alone."""
    if format not in (None, FOLDER):
        raise InputError(f"{path} is a folder; the task format {format} is one of files")
    test = path / "test" if (path / "test").is_dir() else path
    files = sorted(test.glob("*.csv"))
    if not files:
        raise InputError(f"{path} holds no CSV files; an MMLU folder has test/SUBJECT.csv and dev/SUBJECT.csv")
    questions = replace(_collect(path, FOLDER, _folder_entries(files), skip_bad), grouping=grouping_of(FOLDER))
    dev_files = sorted((path / "dev").glob("*.csv"))
    return _with_dev(questions, dev_files, skip_bad) if dev_files else questions


def _with_dev(found: QuestionFile, dev_files: list[Path], skip_bad: bool) -> QuestionFile:
    dev = _collect(dev_files[0].parent, found.format, _folder_entries(dev_files), skip_bad)
    return replace(found, bad=found.bad + dev.bad, dev=dev.questions)


def _folder_entries(files: Iterable[Path]) -> Iterator[tuple[Path, Entry]]:
    return chain.from_iterable(
        ((file, entry) for entry in read_mmlu(file, decode_text(file, read_bytes(file)), subject_of(file)))
        for file in files
    )


def _collect(path: Path, format: str, entries: Iterable[tuple[Path, Entry]], skip_bad: bool) -> QuestionFile:
    good: dict[str, Question] = {}
    bad: list[str] = []
    for file, entry in entries:
        problem = entry.problem if entry.question is None else check_question(entry.question)
        if entry.question is not None and not problem and entry.question.id in good:
            problem = f"the id {entry.question.id!r} was used before"
        if not problem and entry.question is not None:
            good[entry.question.id] = entry.question
            continue
        bad.append(f"{file}, {entry.where}: {problem}")
        if not skip_bad:
            raise FileFormatError(f"{bad[0]}; correct it, or leave bad items out with --skip-bad")
    if not good:
        raise FileFormatError(f"{path}: no usable question" + (f"; the first problem: {bad[0]}" if bad else ""))
    return QuestionFile(path, tuple(good.values()), format, tuple(bad))
