"""Answers made elsewhere, as their files tell them: one record per item, before anything is compared."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantprobe.errors import FileFormatError
from quantprobe.probes.grouping import UNGROUPED


@dataclass(frozen=True)
class AnswerRecord:
    """One answered item."""

    id: str
    group: str
    """Subject, source, or the question that several epochs repeat; empty where there is none."""
    prediction: str | None
    """What was answered, as text (the index of the choice where choices were scored); None: not told."""
    correct: bool | None
    """None: not told, which counts as invalid."""
    norm_correct: bool | None = None
    """lm-evaluation-harness's acc_norm of the item."""
    gold: int | None = None
    logprobs: tuple[float, ...] = ()
    """Summed log-likelihood of each choice in nats, only where its maximum agrees with `correct`."""
    digest: str = ""
    """Digest of the question as the file gives it; two files with different ones asked different questions."""


@dataclass(frozen=True)
class AnswerFile:
    """All answers of one file."""

    path: Path
    kind: str
    """`lm-eval`, `inspect`, `jsonl`, `csv` or `llama-perplexity log`."""
    metric: str
    """What decided correctness: `acc`, `exact_match`, a scorer's name, or `correct`."""
    records: tuple[AnswerRecord, ...]
    grouping: str = UNGROUPED
    """What the groups of the records are (`quantprobe.stats.design`)."""


def parse_json(text: str | bytes, place: str) -> Any:
    """A JSON value; `FileFormatError` that names the place if it is none."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise FileFormatError(f"{place}: the JSON is nested too deeply") from error
    except UnicodeDecodeError as error:
        raise FileFormatError(f"{place}: not UTF-8 (byte 0x{error.object[error.start]:02x})") from error
    except ValueError as error:
        raise FileFormatError(f"{place}: not valid JSON ({error}); the file is damaged or cut off") from error


def parse_correct(value: object, place: str, name: str) -> bool | None:
    """True or False from a bool, 0 or 1, or their spellings; None from null, NaN or an empty text.

    Raises `FileFormatError` for anything else, such as a partial score of 0.5: direction needs right or wrong.
    """
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, (bool, int, float)) and value in (0, 1):
        return bool(value)
    if isinstance(value, str) and value.strip().lower() in ("0", "0.0", "false", "1", "1.0", "true"):
        return value.strip().lower() in ("1", "1.0", "true")
    raise FileFormatError(f"{place}: {name} is {value!r}; 0, 1, true or false was expected (right or wrong, no parts)")


def parse_id(value: object, place: str, name: str) -> str:
    """An id as text, from a text or a whole number."""
    if isinstance(value, bool) or not isinstance(value, (str, int)) or value == "":
        raise FileFormatError(f"{place}: {name} is {value!r}; a text or a whole number was expected")
    return parse_text(str(value), place, name)


def parse_text(value: str, place: str, name: str) -> str:
    """A text that UTF-8 can hold: JSON may carry half of a surrogate pair, which no file can."""
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise FileFormatError(f"{place}: {name} has half of a surrogate pair, which is no character")
    return value


def check_unique(records: list[AnswerRecord], path: Path) -> None:
    """Raises `FileFormatError` for no records or for an id that is there twice."""
    if not records:
        raise FileFormatError(f"{path} has no answers")
    seen: set[str] = set()
    for record in records:
        if record.id in seen:
            n_twice = len(records) - len({other.id for other in records})
            raise FileFormatError(
                f"{path}: the id {record.id!r} is there twice ({n_twice} repeated in all); "
                "keep one answer per item, or give each repetition an id of its own"
            )
        seen.add(record.id)
