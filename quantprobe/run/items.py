"""`RUN/items/QUANT/TASK.csv`: one line per question, the whole input of the study at item level.

Other programs may write these files too. Columns are found by name (further columns are ignored); an empty cell is
unknown. A line whose `base_correct` or `quant_correct` is empty is an invalid item of that side.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from quantprobe.errors import FileFormatError, InputError
from quantprobe.files import write_whole
from quantprobe.metrics.answers import UNKNOWN, Answers, check_same_items

COLUMNS = (
    "id",
    "group",
    "gold",
    "base_pred",
    "quant_pred",
    "base_correct",
    "quant_correct",
    "base_margin",
    "quant_margin",
    "base_gold_prob",
    "quant_gold_prob",
    "kld",
    "n_rows",
    "base_logprobs",
    "quant_logprobs",
)


@dataclass(frozen=True, eq=False)
class PairedAnswers:
    """The answers of a base and of one quant to the same items; the KLD is the quant's."""

    base: Answers
    quant: Answers


def write_items(path: Path, base: Answers, quant: Answers) -> None:
    """Write the answers of base and quant side by side: UTF-8, `\\n`, floats to their last digit, and atomic.

    Raises `MismatchError` unless both answered the same items, `InputError` if the file cannot be written.
    """
    check_same_items(base, quant)
    out = io.StringIO(newline="")
    # Before Python 3.13 the module leaves a carriage return unquoted when lines end with a line feed.
    bare = any("\r" in text for text in (*base.ids, *base.groups))
    writer = csv.writer(out, lineterminator="\n", quoting=csv.QUOTE_ALL if bare else csv.QUOTE_MINIMAL)
    writer.writerow(COLUMNS)
    writer.writerows(_format_item(base, quant, i) for i in range(base.n_items))
    try:
        data = out.getvalue().encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(f"cannot write {path}: an id or group has a character that UTF-8 lacks ({error})") from error
    write_whole(path, data)


def read_items(path: Path) -> PairedAnswers:
    """Read what `write_items` or another program wrote; what was written comes back equal.

    Raises `FileFormatError` that names the file and the line for a missing column, a line that is too short, a
    number that is none, a duplicate id, or values that contradict each other.
    """
    lines = list(_read_lines(path))
    if not lines:
        raise FileFormatError(f"{path} has a header and no items; run the task again")
    return PairedAnswers(base=_collect(lines, "base"), quant=_collect(lines, "quant"))


@dataclass(frozen=True)
class _Side:
    pred: int
    correct: bool | None
    margin: float
    gold_prob: float
    logprobs: tuple[float, ...]


@dataclass(frozen=True)
class _Item:
    id: str
    group: str
    gold: int
    n_rows: int
    kld: float
    base: _Side
    quant: _Side


class _Line:
    """The cells of one line by name; every complaint names file, line and column."""

    def __init__(self, path: Path, number: int, cells: dict[str, str]) -> None:
        self.path, self.number, self.cells = path, number, cells

    def fault(self, message: str) -> FileFormatError:
        return FileFormatError(f"{self.path}, line {self.number}: {message}")

    def integer(self, name: str) -> int:
        """An index, or -1 where the cell is empty."""
        text = self.cells[name]
        if not text:
            return UNKNOWN
        if not (text.isascii() and text.isdigit() and len(text) < 10):
            raise self.fault(f"{name} is {text!r}; a whole number from 0 or an empty cell was expected")
        return int(text)

    def number_of(self, name: str, low: float = -math.inf, high: float = math.inf) -> float:
        """A finite number within [low, high], or NaN where the cell is empty."""
        text = self.cells[name]
        if not text:
            return math.nan
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and low <= value <= high):
            limits = "" if math.isinf(high) and math.isinf(low) else f" from {low:g} to {high:g}"
            raise self.fault(f"{name} is {text!r}; a finite number{limits} or an empty cell was expected")
        return value

    def flag(self, name: str) -> bool | None:
        text = self.cells[name]
        if text not in ("", "0", "1"):
            raise self.fault(f"{name} is {text!r}; 0, 1 or an empty cell was expected")
        return text == "1" if text else None

    def numbers(self, name: str) -> tuple[float, ...]:
        """A JSON list of numbers; null is NaN."""
        text = self.cells[name]
        if not text:
            return ()
        try:
            values = json.loads(text, parse_constant=lambda constant: constant)
        except (ValueError, RecursionError):
            values = None
        if not isinstance(values, list) or not all(_is_number(value) for value in values):
            raise self.fault(f"{name} is no JSON list of numbers: {text[:60]!r}")
        return tuple(math.nan if value is None else float(value) for value in values)


def _is_number(value: object) -> bool:
    if value is None:
        return True
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300


def _read_lines(path: Path) -> Iterator[_Item]:
    seen: dict[str, int] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = next(reader, [])
            _check_header(path, header)
            for row in reader:
                if not row:
                    continue
                if len(row) != len(header):
                    raise FileFormatError(
                        f"{path}, line {reader.line_num}: {len(row)} cells where the header has {len(header)}; "
                        "the file is damaged or cut off"
                    )
                item = _parse_item(_Line(path, reader.line_num, dict(zip(header, row, strict=True))))
                if item.id in seen:
                    raise FileFormatError(
                        f"{path}, line {reader.line_num}: the id {item.id!r} is already on line {seen[item.id]}"
                    )
                seen[item.id] = reader.line_num
                yield item
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise FileFormatError(f"{path} is not UTF-8 (byte 0x{error.object[error.start]:02x})") from error
    except csv.Error as error:
        raise FileFormatError(f"{path}, line {reader.line_num}: {error}; the file is damaged") from error


def _check_header(path: Path, header: list[str]) -> None:
    missing = [name for name in COLUMNS if name not in header]
    if missing:
        raise FileFormatError(f"{path}, line 1: no column {missing[0]!r}; expected {','.join(COLUMNS)}")
    if len(set(header)) != len(header):
        raise FileFormatError(f"{path}, line 1: a column is there twice; expected {','.join(COLUMNS)}")


def _parse_item(line: _Line) -> _Item:
    if not line.cells["id"]:
        raise line.fault("the id is empty; every item needs its own")
    item = _Item(
        id=line.cells["id"],
        group=line.cells["group"],
        gold=line.integer("gold"),
        n_rows=max(line.integer("n_rows"), 0),
        kld=line.number_of("kld"),
        base=_parse_side(line, "base"),
        quant=_parse_side(line, "quant"),
    )
    if len(item.base.logprobs) != len(item.quant.logprobs):
        raise line.fault(
            f"{len(item.base.logprobs)} base_logprobs and {len(item.quant.logprobs)} quant_logprobs; expected as many"
        )
    for name, side in (("base", item.base), ("quant", item.quant)):
        n_choices = len(side.logprobs)
        if n_choices and max(item.gold, side.pred) >= n_choices:
            raise line.fault(f"gold {item.gold} or {name}_pred {side.pred} is outside the {n_choices} choices")
        told = UNKNOWN not in (item.gold, side.pred) and side.correct is not None
        if told and n_choices and side.correct != (item.gold == side.pred):
            raise line.fault(f"{name}_correct contradicts gold {item.gold} and {name}_pred {side.pred}")
    return item


def _parse_side(line: _Line, name: str) -> _Side:
    return _Side(
        pred=line.integer(f"{name}_pred"),
        correct=line.flag(f"{name}_correct"),
        margin=line.number_of(f"{name}_margin"),
        gold_prob=line.number_of(f"{name}_gold_prob", 0.0, 1.0),
        logprobs=line.numbers(f"{name}_logprobs"),
    )


def _collect(items: list[_Item], name: str) -> Answers:
    sides = [item.base if name == "base" else item.quant for item in items]
    n_choices = np.array([len(side.logprobs) for side in sides], dtype=np.int32)
    logprobs = np.full((len(items), int(n_choices.max())), np.nan)
    for i, side in enumerate(sides):
        logprobs[i, : len(side.logprobs)] = side.logprobs
    klds = np.array([item.kld for item in items], dtype=np.float64)
    return Answers(
        ids=tuple(item.id for item in items),
        groups=tuple(item.group for item in items),
        gold=np.array([item.gold for item in items], dtype=np.int32),
        pred=np.array([side.pred for side in sides], dtype=np.int32),
        correct=np.array([side.correct is True for side in sides], dtype=np.bool_),
        valid=np.array([side.correct is not None for side in sides], dtype=np.bool_),
        margin=np.array([side.margin for side in sides], dtype=np.float64),
        gold_prob=np.array([side.gold_prob for side in sides], dtype=np.float64),
        logprobs=logprobs,
        n_choices=n_choices,
        n_rows=np.array([item.n_rows for item in items], dtype=np.int32),
        kld=klds if name == "quant" and np.isfinite(klds).any() else None,
    )


def _format_item(base: Answers, quant: Answers, i: int) -> list[str]:
    return [
        base.ids[i],
        base.groups[i],
        _index(int(base.gold[i])),
        _index(int(base.pred[i])),
        _index(int(quant.pred[i])),
        str(int(base.correct[i])) if base.valid[i] else "",
        str(int(quant.correct[i])) if quant.valid[i] else "",
        _number(base.margin[i]),
        _number(quant.margin[i]),
        _number(base.gold_prob[i]),
        _number(quant.gold_prob[i]),
        "" if quant.kld is None else _number(quant.kld[i]),
        str(int(quant.n_rows[i])),
        _list(base, i),
        _list(quant, i),
    ]


def _index(value: int) -> str:
    return "" if value == UNKNOWN else str(value)


def _number(value: float) -> str:
    return repr(float(value)) if math.isfinite(value) else ""


def _list(answers: Answers, i: int) -> str:
    values = answers.logprobs[i, : answers.n_choices[i]].tolist()
    return json.dumps([value if math.isfinite(value) else None for value in values]) if values else ""
