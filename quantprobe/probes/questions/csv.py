"""CSV question files: MMLU (one file, or a folder of subjects) and TruthfulQA (mc1)."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterator
from pathlib import Path

from quantprobe.errors import FileFormatError
from quantprobe.probes.items import Question
from quantprobe.probes.questions.entries import LETTERS, BadItemError, Entry

TRUTHFULQA_COLUMNS = ("Category", "Question", "Best Answer", "Incorrect Answers")


def csv_rows(path: Path, text: str) -> Iterator[tuple[int, list[str]]]:
    """The rows that are not blank, each with the line it begins at.

    Raises `FileFormatError` where the csv module gives up (a NUL, a field above its size limit).
    """
    reader = csv.reader(io.StringIO(text, newline=""))
    line = 1
    try:
        for row in reader:
            if any(field.strip() for field in row):
                yield line, row
            line = reader.line_num + 1
    except csv.Error as error:
        raise FileFormatError(f"{path}, line {line}: not CSV ({error})") from error


def subject_of(path: Path) -> str:
    """The subject that the name of an MMLU file tells, without the split: `anatomy_test.csv` is `anatomy`."""
    for split in ("_test", "_dev", "_val"):
        if path.stem.endswith(split):
            return path.stem[: -len(split)]
    return path.stem


def is_mmlu_header(row: list[str]) -> bool:
    return len(row) >= 4 and row[0].strip().lower() == "question" and row[-1].strip().lower() == "answer"


def read_mmlu(path: Path, text: str, group: str) -> Iterator[Entry]:
    """`question,choice,...,answer`; the answer is a letter or, in files with a header, an index from 0.

    Choices are stripped of blanks at their ends; lm-evaluation-harness strips the question only, and
    the published data has none.
    """
    has_header = False
    number = 0
    for line, row in csv_rows(path, text):
        if not number and not has_header and is_mmlu_header(row):
            has_header = True
            continue
        number += 1
        where = f"line {line}"
        try:
            yield Entry(where, _mmlu_question(row, has_header, group, f"{group}/{number}" if group else str(number)))
        except BadItemError as error:
            yield Entry(where, None, str(error))


def _mmlu_question(row: list[str], has_header: bool, group: str, number: str) -> Question:
    if len(row) < 4:
        raise BadItemError(f"{len(row)} columns; expected question, at least two choices, answer")
    answer = row[-1].strip()
    choices = tuple(choice.strip() for choice in row[1:-1])
    if len(answer) == 1 and answer.upper() in LETTERS:
        gold = LETTERS.index(answer.upper())
    elif has_header and answer.isascii() and answer.isdigit() and len(answer) <= 9:
        gold = int(answer)
    else:
        expected = "a letter or an index from 0" if has_header else "a letter (A, B, ...)"
        raise BadItemError(f"the answer in the last column is {answer[:40]!r}; expected {expected}")
    return Question(id=number, group=group, prompt=row[0].strip(), choices=choices, gold=gold)


def read_truthfulqa(path: Path, text: str) -> Iterator[Entry]:
    """TruthfulQA's CSV as mc1: the best answer among the incorrect ones.

    The best answer would always stand first, so the choices are put in an order that is the same
    everywhere and always: by the SHA-256 of question and choice. lm-evaluation-harness keeps it first;
    scores do not depend on the order, except that ties go to the first choice.
    Empty and repeated answers between the `;` of the file are left out.
    """
    rows = csv_rows(path, text)
    _, header = next(rows)
    missing = [column for column in TRUTHFULQA_COLUMNS if column not in header]
    if missing:
        raise FileFormatError(f"{path}, line 1: a TruthfulQA file needs the columns {', '.join(missing)}")
    for number, (line, row) in enumerate(rows, start=1):
        where = f"line {line}"
        if len(row) != len(header):
            yield Entry(where, None, f"{len(row)} columns; the header has {len(header)}")
            continue
        fields = dict(zip(header, row, strict=True))
        question, best = fields["Question"].strip(), fields["Best Answer"].strip()
        wrong = [answer.strip() for answer in fields["Incorrect Answers"].split(";")]
        choices = _hash_ordered(question, {best, *(answer for answer in wrong if answer)})
        yield Entry(where, Question(str(number), fields["Category"].strip(), question, choices, choices.index(best)))


def _hash_ordered(question: str, choices: set[str]) -> tuple[str, ...]:
    return tuple(sorted(choices, key=lambda choice: hashlib.sha256(f"{question}\n{choice}".encode()).hexdigest()))
