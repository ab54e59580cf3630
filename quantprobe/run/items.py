"""`RUN/items/QUANT/TASK.csv`: one line per question, the whole input of the study at item level.

Other programs may write these files too. Columns are found by name (further columns are ignored); an empty cell is
unknown. A line whose `base_correct` or `quant_correct` is empty is an invalid item of that side.

A file is read column by column, which takes about 5 microseconds a line; only a column that does not parse is
gone through cell by cell, to name the line.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from quantprobe.arrays import BoolArray, FloatArray, Int32Array
from quantprobe.errors import FileFormatError, InputError
from quantprobe.files import write_whole
from quantprobe.metrics.answers import UNKNOWN, Answers, check_same_items
from quantprobe.run.csv_cells import format_csv, read_csv_text

COLUMN_MEANINGS = {
    "id": "identifies the question; unique within the file, never empty",
    "group": "subject or source of the question; empty where it has none",
    "gold": "number of the right choice, from 0",
    "base_pred": "number of the choice that the base answered, from 0",
    "quant_pred": "likewise of the quant",
    "base_correct": "1 or 0; empty: the item is invalid in the base (a log-probability was not finite)",
    "quant_correct": "likewise of the quant",
    "base_margin": "ln P(right) - ln P(best wrong) of the base, nats",
    "quant_margin": "likewise of the quant",
    "base_gold_prob": "share of the right choice in the probability of all choices, 0 to 1",
    "quant_gold_prob": "likewise of the quant",
    "kld": "mean KL(base || quant) of the question's rows, nats",
    "n_rows": "rows of logits that the question was scored on",
    "base_logprobs": "JSON list, one number (nats) per choice under the task's rule; null: not finite",
    "quant_logprobs": "likewise of the quant, for as many choices",
}
COLUMNS = tuple(COLUMN_MEANINGS)
SAMPLE_MEANINGS = {
    "decoded": "1 or 0: whether the quant decoded the question; without this column it decoded all",
    "decode_probability": "probability with which the question was drawn to be decoded, above 0, at most 1",
}
"""Columns of a quant that decoded a sample of the questions (`--decide`)."""


@dataclass(frozen=True, eq=False)
class Sample:
    """Which items a quant decoded, and with which probabilities they were drawn; `[n_items]` both."""

    decoded: BoolArray
    probability: FloatArray


@dataclass(frozen=True, eq=False)
class PairedAnswers:
    """The answers of a base and of one quant to the same items, in the same order; the KLD is the quant's.

    With a `sample` the quant decoded some of the items only, chosen for what they tell: the others are not valid, and
    plain counts over the valid ones say nothing about all (`stats.sampling`).
    """

    base: Answers
    quant: Answers
    sample: Sample | None = None

    @property
    def valid(self) -> BoolArray:
        """Items valid in both, `[n_items]`: those that every count is made of."""
        return self.base.valid & self.quant.valid


def write_items(path: Path, base: Answers, quant: Answers, sample: Sample | None = None) -> None:
    """Write the answers of base and quant side by side: UTF-8, `\\n`, floats to their last digit, and atomic.

    Raises `MismatchError` unless both answered the same items, `InputError` if the file cannot be written.
    """
    check_same_items(base, quant)
    header = COLUMNS if sample is None else (*COLUMNS, *SAMPLE_MEANINGS)
    text = format_csv([header, *(_format_item(base, quant, i) + _format_draw(sample, i) for i in range(base.n_items))])
    try:
        data = text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(f"cannot write {path}: an id or group has a character that UTF-8 lacks ({error})") from error
    write_whole(path, data)


def read_items(path: Path) -> PairedAnswers:
    """Read what `write_items` or another program wrote; what was written comes back equal.

    Raises `FileFormatError` that names the file and the line for a missing column, a line that is too short, a
    number that is none, a duplicate id, or values that contradict each other; `InputError` for a file that is not
    there or cannot be read.
    """
    table = _read_table(path)
    ids, groups, gold = table.ids(), table.texts("group"), table.integers("gold")
    n_rows = np.maximum(table.integers("n_rows"), 0)
    klds = table.numbers("kld")
    sides = {name: _Side(table, name) for name in ("base", "quant")}
    _check_sides(table, gold, sides)
    base, quant = (
        side.answers(ids, groups, gold, n_rows, None if name == "base" else klds) for name, side in sides.items()
    )
    return PairedAnswers(base, quant, _sample_of(table))


def _sample_of(table: _Table) -> Sample | None:
    if not all(table.has(name) for name in SAMPLE_MEANINGS):
        return None
    decoded, told = table.flags("decoded")
    probability = table.numbers("decode_probability", 0.0, 1.0)
    for row in np.flatnonzero(~told | ~(probability > 0)).tolist():
        raise table.fault(row, "decoded or decode_probability is empty or 0; every question needs a chance above 0")
    return Sample(decoded, probability)


class _Table:
    """The cells of a file by column; every complaint names file, line and column."""

    def __init__(self, path: Path, header: Sequence[str], rows: Sequence[Sequence[str]], lines: Sequence[int]) -> None:
        self.path, self.lines = path, lines
        self._columns = dict(zip(header, zip(*rows, strict=True), strict=True))

    def has(self, name: str) -> bool:
        return name in self._columns

    def cells(self, name: str) -> tuple[str, ...]:
        return self._columns[name]

    def texts(self, name: str) -> tuple[str, ...]:
        """Cells that hold text, as it was before `csv_text`."""
        return tuple(map(read_csv_text, self.cells(name)))

    def fault(self, row: int, message: str) -> FileFormatError:
        return FileFormatError(f"{self.path}, line {self.lines[row]}: {message}")

    def reject(self, name: str, is_good: Callable[[str], bool], expected: str) -> FileFormatError:
        """The complaint about the first cell of a column that is not good."""
        cells = self.cells(name)
        row = next(i for i, cell in enumerate(cells) if cell and not is_good(cell))
        return self.fault(row, f"{name} is {cells[row][:60]!r}; {expected} or an empty cell was expected")

    def ids(self) -> tuple[str, ...]:
        ids = self.texts("id")
        if len(set(ids)) == len(ids) and all(ids):
            return ids
        seen: dict[str, int] = {}
        for row, item in enumerate(ids):
            if not item:
                raise self.fault(row, "the id is empty; every item needs its own")
            if item in seen:
                raise self.fault(row, f"the id {item!r} is already on line {self.lines[seen[item]]}")
            seen[item] = row
        return ids

    def integers(self, name: str) -> Int32Array:
        """Indices, -1 where the cell is empty."""
        cells = self.cells(name)
        if not _is_index("".join(cells) or "0", math.inf) or max(map(len, cells)) > 9:
            raise self.reject(name, _is_index, "a whole number from 0")
        return np.array([int(cell) if cell else UNKNOWN for cell in cells], np.int32)

    def numbers(self, name: str, low: float = -math.inf, high: float = math.inf) -> FloatArray:
        """Finite numbers within [low, high], NaN where the cell is empty."""
        cells = self.cells(name)
        try:
            values = np.array([float(cell) if cell else math.nan for cell in cells])
            n_good = int((np.isfinite(values) & (values >= low) & (values <= high)).sum())
        except ValueError:
            n_good = -1
        if n_good != sum(map(bool, cells)):
            limits = "" if math.isinf(high) and math.isinf(low) else f" from {low:g} to {high:g}"
            raise self.reject(name, lambda cell: _is_number(cell, low, high), f"a finite number{limits}")
        return values

    def flags(self, name: str) -> tuple[BoolArray, BoolArray]:
        """Which cells are 1, and which are told at all."""
        cells = self.cells(name)
        if not set(cells) <= {"", "0", "1"}:
            raise self.reject(name, lambda cell: cell in ("0", "1"), "0, 1")
        return np.array([cell == "1" for cell in cells]), np.array([bool(cell) for cell in cells])

    def lists(self, name: str) -> list[list[float | None]]:
        """JSON lists of numbers, empty where the cell is; null is None."""
        cells = [cell or "[]" for cell in self.cells(name)]
        text = "\n".join(cells)
        try:
            found = _LISTS.decode_lines(text)
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            found = []
        if len(found) == len(cells) and text.count("\n") == len(cells) - 1:
            return found
        for row, cell in enumerate(cells):
            if not _is_list(cell):
                raise self.fault(row, f"{name} is no JSON list of numbers: {cell[:60]!r}")
        return [_LISTS.decode(cell) for cell in cells]  # a line end within a cell


_LISTS = msgspec.json.Decoder(list[float | None])


def _is_index(cell: str, longest: float = 9) -> bool:
    return cell.isascii() and cell.isdigit() and len(cell) <= longest


def _is_number(cell: str, low: float, high: float) -> bool:
    try:
        value = float(cell)
    except ValueError:
        return False
    return math.isfinite(value) and low <= value <= high


def _is_list(cell: str) -> bool:
    try:
        _LISTS.decode(cell)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return False
    return True


class _Side:
    """What one of the two models answered."""

    def __init__(self, table: _Table, name: str) -> None:
        self.name = name
        self.pred = table.integers(f"{name}_pred")
        self.correct, self.told = table.flags(f"{name}_correct")
        self.margin = table.numbers(f"{name}_margin")
        self.gold_prob = table.numbers(f"{name}_gold_prob", 0.0, 1.0)
        lists = table.lists(f"{name}_logprobs")
        self.n_choices = np.array([len(one) for one in lists], np.int32)
        self.logprobs = np.full((len(lists), int(self.n_choices.max())), np.nan)
        inside = np.arange(self.logprobs.shape[1]) < self.n_choices[:, None]
        self.logprobs[inside] = np.array([value for one in lists for value in one], np.float64)

    def answers(
        self,
        ids: tuple[str, ...],
        groups: tuple[str, ...],
        gold: Int32Array,
        n_rows: Int32Array,
        klds: FloatArray | None,
    ) -> Answers:
        return Answers(
            ids=ids,
            groups=groups,
            gold=gold,
            pred=self.pred,
            correct=self.correct,
            valid=self.told,
            margin=self.margin,
            gold_prob=self.gold_prob,
            logprobs=self.logprobs,
            n_choices=self.n_choices,
            n_rows=n_rows,
            kld=klds if klds is not None and np.isfinite(klds).any() else None,
        )


def _check_sides(table: _Table, gold: Int32Array, sides: dict[str, _Side]) -> None:
    base, quant = sides["base"].n_choices, sides["quant"].n_choices
    for row in np.flatnonzero(base != quant).tolist():
        raise table.fault(row, f"{base[row]} base_logprobs and {quant[row]} quant_logprobs; expected as many")
    for name, side in sides.items():
        outside = (side.n_choices > 0) & (np.maximum(gold, side.pred) >= side.n_choices)
        for row in np.flatnonzero(outside).tolist():
            raise table.fault(
                row, f"gold {gold[row]} or {name}_pred {side.pred[row]} is outside the {side.n_choices[row]} choices"
            )
        told = (side.n_choices > 0) & (gold != UNKNOWN) & (side.pred != UNKNOWN) & side.told
        for row in np.flatnonzero(told & (side.correct != (gold == side.pred))).tolist():
            raise table.fault(row, f"{name}_correct contradicts gold {gold[row]} and {name}_pred {side.pred[row]}")


def _read_table(path: Path) -> _Table:
    rows: list[list[str]] = []
    lines: list[int] = []
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
                rows.append(row)
                lines.append(reader.line_num)
    except OSError as error:
        raise InputError(
            f"cannot read {path}: {error.strerror or error}; a sweep writes it, a results.json alone has no items"
        ) from error
    except UnicodeDecodeError as error:
        raise FileFormatError(f"{path} is not UTF-8 (byte 0x{error.object[error.start]:02x})") from error
    except csv.Error as error:
        raise FileFormatError(f"{path}, line {reader.line_num}: {error}; the file is damaged") from error
    if not rows:
        raise FileFormatError(f"{path} has a header and no items; run the task again")
    return _Table(path, header, rows, lines)


def _check_header(path: Path, header: Sequence[str]) -> None:
    missing = [name for name in COLUMNS if name not in header]
    if missing:
        raise FileFormatError(f"{path}, line 1: no column {missing[0]!r}; expected {','.join(COLUMNS)}")
    if len(set(header)) != len(header):
        raise FileFormatError(f"{path}, line 1: a column is there twice; expected {','.join(COLUMNS)}")


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


def _format_draw(sample: Sample | None, i: int) -> list[str]:
    return [] if sample is None else [str(int(sample.decoded[i])), repr(float(sample.probability[i]))]


def _index(value: int) -> str:
    return "" if value == UNKNOWN else str(value)


def _number(value: float) -> str:
    return repr(float(value)) if math.isfinite(value) else ""


def _list(answers: Answers, i: int) -> str:
    values = answers.logprobs[i, : answers.n_choices[i]].tolist()
    return json.dumps([value if math.isfinite(value) else None for value in values]) if values else ""
