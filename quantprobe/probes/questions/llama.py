"""The three question files of llama-perplexity, read and written.

Source: `tools/perplexity` of llama.cpp. Differences are named at each function.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

from quantprobe.errors import FileFormatError, InputError
from quantprobe.files import write_whole
from quantprobe.probes.items import Question
from quantprobe.probes.questions.entries import Entry

MAX_ANSWERS = 100
"""llama-perplexity refuses a multiple-choice task with more answers."""


def read_hellaswag_text(path: Path, text: str) -> Iterator[Entry]:
    """Six lines per task: context, index of the right ending (0 to 3), four endings.

    Differences: `\\r` before a line end is removed; the index must be a plain number.
    Raises `FileFormatError` when the number of lines is not a multiple of 6: nothing after the
    missing line could be trusted.
    """
    lines = text.removesuffix("\n").split("\n")
    while lines and not lines[-1].strip() and len(lines) % 6:
        lines.pop()
    if len(lines) % 6:
        raise FileFormatError(
            f"{path} has {len(lines)} lines; HellaSwag's text form has 6 per task, and no blank lines"
        )
    for start in range(0, len(lines), 6):
        prompt, gold, *endings = lines[start : start + 6]
        where = f"line {start + 2}"
        if not re.fullmatch(r"\s*[0-9]{1,9}\s*", gold):
            yield Entry(where, None, f"the index of the right ending is {gold[:40]!r}; expected 0 to 3")
            continue
        yield Entry(f"line {start + 1}", Question(str(start // 6 + 1), "", prompt, tuple(endings), int(gold)))


def write_hellaswag_text(path: Path, questions: Sequence[Question]) -> None:
    """Write questions with four choices in HellaSwag's text form (one final newline).

    Raises `InputError` for a question that the form cannot hold.
    """
    lines: list[str] = []
    for question in questions:
        _refuse_joined(path, question)
        fields = [question.prompt, str(question.gold), *question.choices]
        if len(question.choices) != 4:
            raise InputError(
                f"{path}: question {question.id} has {len(question.choices)} choices; HellaSwag's form holds 4"
            )
        _refuse_line_ends(path, question, fields)
        lines.extend(fields)
    write_whole(path, ("\n".join(lines) + "\n").encode("utf-8"))


def read_winogrande_csv(path: Path, text: str) -> Iterator[Entry]:
    """`index,sentence,choice1,choice2,answer` with the first `_` of the sentence as the blank.

    llama-perplexity's own rules, not CSV's: the first four commas outside double quotes separate; a
    sentence that begins with a quote loses its first and last character and keeps doubled quotes;
    the other fields are taken as they are. Differences: the last row counts even without a line end
    (llama-perplexity drops it), blank lines and a header are skipped, and a row that it would skip
    with a message on stderr is a bad item.
    """
    number = 0
    for line_number, line in enumerate(text.split("\n"), start=1):
        fields = _split_four(line)
        if not line.strip() or (line_number == 1 and fields and fields[-1].strip().lower() == "answer"):
            continue
        number += 1
        where = f"line {line_number}"
        if fields is None:
            yield Entry(where, None, "fewer than 5 fields; expected index,sentence,choice1,choice2,answer")
            continue
        _, sentence, first, second, answer = fields
        if sentence.startswith('"'):
            sentence = sentence[1:-1]
        if "_" not in sentence:
            yield Entry(where, None, "the sentence has no blank ('_')")
        elif answer.strip() not in ("1", "2"):
            yield Entry(where, None, f"the answer is {answer.strip()[:40]!r}; expected 1 or 2")
        else:
            prompt, suffix = sentence.split("_", 1)
            gold = int(answer) - 1
            yield Entry(where, Question(str(number), "", prompt, (first, second), gold, suffix, ""))


def _split_four(line: str) -> list[str] | None:
    """Cut at the first four commas outside double quotes; None if there are fewer."""
    cuts: list[int] = []
    quoted = False
    for index, char in enumerate(line):
        if char == '"':
            quoted = not quoted
        elif char == "," and not quoted:
            cuts.append(index)
            if len(cuts) == 4:
                break
    if len(cuts) < 4:
        return None
    edges = [-1, *cuts, len(line)]
    return [line[a + 1 : b] for a, b in pairwise(edges)]


def write_winogrande_csv(path: Path, questions: Sequence[Question]) -> None:
    """Write Winogrande questions, with the blank line at the end without which llama-perplexity loses the last row.

    Raises `InputError` for a question that the form cannot hold (checked by reading the row back).
    """
    lines: list[str] = []
    for index, question in enumerate(questions):
        sentence = f"{question.prompt}_{question.suffix}"
        _refuse_line_ends(path, question, [sentence, *question.choices])
        if "," in sentence or sentence.startswith('"'):
            sentence = f'"{sentence}"'
        line = ",".join([str(index), sentence, *question.choices, str(question.gold + 1)])
        back = [entry.question for entry in read_winogrande_csv(path, line)]
        if not back or back[0] is None or _content(back[0]) != _content(question):
            raise InputError(
                f"{path}: question {question.id} cannot be written as Winogrande CSV; the form holds two choices "
                "without commas or quotes and a sentence whose quotes enclose its commas"
            )
        lines.append(line)
    write_whole(path, ("\n".join(lines) + "\n\n").encode("utf-8"))


def _content(question: Question) -> tuple[object, ...]:
    return question.prompt, question.choices, question.gold, question.suffix, question.delimiter


def looks_like_multiple_choice(data: bytes) -> bool:
    """A table of offsets whose first one points right behind the table."""
    if len(data) < 8:
        return False
    n_tasks, first = struct.unpack_from("<II", data)
    return bool(n_tasks > 0 and first == 4 + 4 * n_tasks and first <= len(data))


def read_multiple_choice(path: Path, data: bytes) -> Iterator[Entry]:
    """The binary multiple-choice file; `mc2` is read over.

    Every length is compared with what is left of the file before it is used, so a damaged file costs
    no memory. Differences: the table of offsets is not followed but checked, and a task whose `mc1`
    has no or several right answers is a bad item.
    Raises `FileFormatError` with the task and the byte offset.
    """
    if len(data) < 4:
        raise FileFormatError(f"{path} has {len(data)} bytes; a multiple-choice file begins with a count of 4 bytes")
    (n_tasks,) = struct.unpack_from("<I", data)
    if not 0 < n_tasks <= (len(data) - 4) // 4:
        raise FileFormatError(f"{path} claims {n_tasks} tasks, which its {len(data)} bytes cannot hold")
    cursor = _Cursor(path, data, 4 + 4 * n_tasks)
    for number in range(1, n_tasks + 1):
        cursor.task = number
        (offset,) = struct.unpack_from("<I", data, 4 * number)
        if offset != cursor.offset:
            raise FileFormatError(
                f"{path}, task {number}: it begins at byte {cursor.offset}, but the table of offsets says {offset}"
            )
        prompt = cursor.read_string()
        choices, labels = cursor.read_answers()
        cursor.read_answers()
        where = f"task {number}"
        if labels.count(1) != 1 or labels.count(0) != len(labels) - 1:
            yield Entry(where, None, f"the labels are {labels[:10]}; expected one 1 and otherwise 0")
            continue
        yield Entry(where, Question(str(number), "", prompt, tuple(choices), labels.index(1)))


class _Cursor:
    """A place in the bytes of a multiple-choice file."""

    def __init__(self, path: Path, data: bytes, offset: int) -> None:
        self.path, self.data, self.offset, self.task = path, data, offset, 0

    def read_string(self) -> str:
        (length,) = struct.unpack("<I", self._take(4, "a length"))
        at = self.offset
        try:
            return self._take(length, "a text").decode("utf-8")
        except UnicodeDecodeError as error:
            raise FileFormatError(
                f"{self.path}, task {self.task}: the text at byte {at + error.start} is not UTF-8"
            ) from error

    def read_answers(self) -> tuple[list[str], list[int]]:
        (n_answers,) = struct.unpack("<I", self._take(4, "a count"))
        if n_answers > MAX_ANSWERS:
            raise FileFormatError(
                f"{self.path}, task {self.task}: {n_answers} answers at byte {self.offset - 4}; the form allows "
                f"{MAX_ANSWERS}, so the file is damaged"
            )
        texts = [self.read_string() for _ in range(n_answers)]
        return texts, list(struct.unpack(f"<{n_answers}i", self._take(4 * n_answers, "the labels")))

    def _take(self, length: int, what: str) -> bytes:
        left = len(self.data) - self.offset
        if length > left:
            raise FileFormatError(
                f"{self.path}, task {self.task}: {what} of {length} bytes is expected at byte {self.offset}, "
                f"but only {left} are left; the file is damaged or cut off"
            )
        self.offset += length
        return self.data[self.offset - length : self.offset]


def write_multiple_choice(path: Path, questions: Sequence[Question]) -> None:
    """Write the binary multiple-choice file, with an empty `mc2` for each task.

    llama-perplexity scores `prompt + " " + choice`: give prompts that already hold everything else
    (`Question: ...\\nAnswer:`). Raises `InputError` for a question that the form cannot hold.
    """
    blocks: list[bytes] = []
    for question in questions:
        _refuse_joined(path, question)
        if len(question.choices) > MAX_ANSWERS:
            raise InputError(
                f"{path}: question {question.id} has {len(question.choices)} choices; the form holds {MAX_ANSWERS}"
            )
        labels = [int(index == question.gold) for index in range(len(question.choices))]
        count = struct.pack("<I", len(labels))
        texts = b"".join(_pack_string(text) for text in question.choices)
        blocks.append(
            _pack_string(question.prompt) + count + texts + struct.pack(f"<{len(labels)}i", *labels) + b"\0\0\0\0"
        )
    offset, table = 4 + 4 * len(blocks), []
    for block in blocks:
        table.append(offset)
        offset += len(block)
    if offset >= 2**32:
        raise InputError(f"{path}: {offset} bytes; the form's offsets have 32 bits. Write fewer questions")
    write_whole(path, struct.pack(f"<{1 + len(table)}I", len(table), *table) + b"".join(blocks))


def _pack_string(text: str) -> bytes:
    data = text.encode("utf-8")
    return struct.pack("<I", len(data)) + data


def _refuse_joined(path: Path, question: Question) -> None:
    if question.suffix or question.delimiter != " ":
        raise InputError(
            f"{path}: question {question.id} has a suffix or a delimiter of its own; the form puts one space between "
            "prompt and choice and nothing behind it"
        )


def _refuse_line_ends(path: Path, question: Question, fields: Sequence[str]) -> None:
    if any("\n" in field or "\r" in field for field in fields):
        raise InputError(f"{path}: question {question.id} holds a line end, which the form cannot")
