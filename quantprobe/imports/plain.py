"""Import answers made elsewhere: lm-evaluation-harness, inspect_ai, and plain JSONL or CSV, recognised by content."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from quantprobe.errors import FileFormatError, InputError
from quantprobe.imports.inspect_ai import is_inspect_log, read_inspect_archive, read_inspect_log
from quantprobe.imports.lm_eval import read_lm_eval
from quantprobe.imports.records import (
    AnswerFile,
    AnswerRecord,
    check_unique,
    parse_correct,
    parse_id,
    parse_json,
    parse_text,
)
from quantprobe.probes.grouping import UNGROUPED

_ID_NAMES = ("item_id", "id")


def read_answers(path: Path, metric: str | None = None, filter_name: str | None = None) -> AnswerFile:
    """Read the answers of one model to one task.

    * lm-evaluation-harness `samples_*.jsonl` (has `doc_id`): `metric` is by default acc, else exact_match;
      where the file holds several filters, `filter_name` chooses one;
    * inspect_ai logs, `.json` or `.eval` (a zip): `metric` chooses the scorer where there are several;
    * plain JSONL or CSV with `item_id` (or `id`), `correct`, and optionally `prediction` and `group`; groups count as
      clusters, questions of one source.

    Raises `FileFormatError` that names file and line for a damaged file, a duplicate id or an unknown form, and
    `InputError` for a file that cannot be read, or a metric or filter that is not in it.
    """
    try:
        with path.open("rb") as file:
            head = file.read(4096)
        if head.startswith(b"PK\x03\x04"):
            return _checked(read_inspect_archive(path, metric))
        first = head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
        if first == b"{" or first == b"[":
            return _checked(_read_json(path, metric, filter_name))
        return _checked(AnswerFile(path, "csv", "correct", tuple(_read_csv(path)), UNGROUPED))
    except OSError as error:
        raise InputError(f"cannot read the answers {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise FileFormatError(f"{path} is not UTF-8 (byte 0x{error.object[error.start]:02x})") from error


def _checked(file: AnswerFile) -> AnswerFile:
    check_unique(list(file.records), file.path)
    return file


def _read_json(path: Path, metric: str | None, filter_name: str | None) -> AnswerFile:
    rows: Iterator[tuple[str, dict[str, Any]]]
    if _is_one_value(path):
        content = parse_json(path.read_text(encoding="utf-8-sig"), str(path))
        if is_inspect_log(content):
            return read_inspect_log(path, content, metric)
        entries = content if isinstance(content, list) else [content]
        places = [f"{path}, entry {i}" for i in range(1, len(entries) + 1)]
        rows = ((place, _as_object(entry, place)) for place, entry in zip(places, entries, strict=True))
    else:
        rows = _read_lines(path)
    first = next(rows, None)
    if first is None:
        raise FileFormatError(f"{path} has no answers")
    rows = chain([first], rows)
    if "doc_id" in first[1]:
        return read_lm_eval(path, rows, metric, filter_name)
    return AnswerFile(path, "jsonl", "correct", tuple(_plain_record(place, row) for place, row in rows), UNGROUPED)


def _is_one_value(path: Path) -> bool:
    """Whether the file is one JSON value (a list, an indented object, a log) and not one object per line."""
    with path.open(encoding="utf-8-sig") as file:
        line = next((line for line in file if line.strip()), "")
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return True
    return isinstance(value, list) or is_inspect_log(value)


def _read_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                place = f"{path}, line {number}"
                yield place, _as_object(parse_json(line, place), place)


def _as_object(value: object, place: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise FileFormatError(f"{place}: a JSON object with item_id and correct was expected, not {str(value)[:40]!r}")
    return value


def _read_csv(path: Path) -> Iterator[AnswerRecord]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        try:
            header = [name.strip() for name in next(reader, [])]
            if "correct" not in header or not any(name in header for name in _ID_NAMES):
                raise FileFormatError(
                    f"{path} is no file of answers: expected lm-evaluation-harness samples, an inspect_ai log, or "
                    "JSONL or CSV with item_id and correct (and optionally prediction and group)"
                )
            for row in reader:
                if not row:
                    continue
                place = f"{path}, line {reader.line_num}"
                if len(row) != len(header):
                    raise FileFormatError(f"{place}: {len(row)} cells where the header has {len(header)}")
                yield _plain_record(place, dict(zip(header, row, strict=True)))
        except csv.Error as error:
            raise FileFormatError(f"{path}, line {reader.line_num}: {error}") from error


def _plain_record(place: str, row: dict[str, Any]) -> AnswerRecord:
    name = next((name for name in _ID_NAMES if name in row), None)
    if name is None or "correct" not in row:
        raise FileFormatError(f"{place}: item_id and correct were expected; found {', '.join(sorted(row))[:80]}")
    prediction, group = row.get("prediction"), row.get("group")
    return AnswerRecord(
        id=parse_id(row[name], place, name),
        group="" if group is None else parse_text(str(group), place, "group"),
        prediction=None if prediction in (None, "") else str(prediction),
        correct=parse_correct(row["correct"], place, "correct"),
    )
