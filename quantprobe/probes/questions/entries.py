"""What the readers of question files share: one entry per item, and the text of a file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from quantprobe.errors import FileFormatError, InputError
from quantprobe.probes.items import Question

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True)
class Entry:
    """One item of a file: a question, or what is wrong with it (then `question` is None)."""

    where: str
    """`line 12` or `task 12`, for messages."""
    question: Question | None
    problem: str = ""


class BadItemError(Exception):
    """Inside a reader: this item cannot be used, the ones after it can."""


def check_question(question: Question) -> str:
    """What makes a question unusable, or an empty string."""
    if not question.prompt.strip() and not question.suffix.strip():
        return "the prompt is empty"
    if len(question.choices) < 2:
        return f"{len(question.choices)} choice; a question needs at least two"
    for index, choice in enumerate(question.choices):
        if not choice.strip():
            return f"choice {index} is empty"
    if not 0 <= question.gold < len(question.choices):
        return f"the answer index is {question.gold}, but there are {len(question.choices)} choices (0 is the first)"
    return ""


def read_bytes(path: Path) -> bytes:
    """The content of a file; raises `InputError` if it cannot be read, `FileFormatError` if it is empty."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read the question file {path}: {error.strerror or error}") from error
    if not data.strip():
        raise FileFormatError(f"{path} is empty; a question file needs at least one question")
    return data


def decode_text(path: Path, data: bytes) -> str:
    """UTF-8 text with `\\n` line ends: a byte order mark and the `\\r` of `\\r\\n` are taken away.

    llama-perplexity keeps `\\r` as part of the text; here a file means the same on every system.
    Raises `FileFormatError` with the line of the first byte that is not UTF-8.
    """
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise FileFormatError(f"{path} is UTF-16 (its first two bytes say so); save it as UTF-8")
    try:
        return data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        # `error.start` counts from behind the byte order mark, so lines are counted in the same bytes.
        line = error.object[: error.start].count(b"\n") + 1
        raise FileFormatError(
            f"{path}, line {line}: byte 0x{error.object[error.start]:02x} is not UTF-8; convert the file to UTF-8"
        ) from error


def native_line(question: Question) -> str:
    """One line of the native form (`quantprobe.probes.questions.jsonl`), without the line end."""
    record: dict[str, object] = {
        "id": question.id,
        "group": question.group,
        "prompt": question.prompt,
        "choices": list(question.choices),
        "answer": question.gold,
    }
    if question.suffix:
        record["suffix"] = question.suffix
    if question.delimiter != " ":
        record["delimiter"] = question.delimiter
    return json.dumps(record, ensure_ascii=False)
