"""The per-item and per-row files of a run, as columns."""

from __future__ import annotations

import csv
import json
import math
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from quantprobe.arrays import BoolArray, FloatArray, Int64Array
from quantprobe.errors import FileFormatError, InputError
from quantprobe.run.items import COLUMNS

_T = TypeVar("_T")


@dataclass(frozen=True)
class ItemTable:
    """One quant's answers to one task: columns of length `n_items`, in the file's order.

    An empty number is NaN in the float columns and -1 in the integer ones. Log-probabilities stay as they are
    in the file, JSON lists, because few readers need them; `logprobs` parses them.
    """

    id: tuple[str, ...]
    group: tuple[str, ...]
    gold: Int64Array
    base_pred: Int64Array
    quant_pred: Int64Array
    base_correct: BoolArray
    quant_correct: BoolArray
    base_margin: FloatArray
    quant_margin: FloatArray
    base_gold_prob: FloatArray
    quant_gold_prob: FloatArray
    kld: FloatArray
    n_rows: Int64Array
    base_logprobs: tuple[str, ...]
    quant_logprobs: tuple[str, ...]

    @property
    def n_items(self) -> int:
        return len(self.id)

    def n_choices(self) -> Int64Array:
        """Choices of each item, `[n_items]`; 0 where the file has no log-probabilities."""
        lists = [base or quant for base, quant in zip(self.base_logprobs, self.quant_logprobs, strict=True)]
        return np.array([text.count(",") + 1 if text not in ("", "[]") else 0 for text in lists], np.int64)

    def logprobs(self, side: str) -> list[list[float] | None]:
        """One list of log-probabilities per item, of `side` "base" or "quant"; None where the file has none."""
        return [json.loads(text) if text else None for text in getattr(self, f"{side}_logprobs")]


def read_items(file: Path) -> ItemTable:
    """Read `RUN/items/QUANT/TASK.csv`.

    Raises InputError if the file is not there, FileFormatError (with the line) if a column is missing, a value is
    no number, a line is short, or an id occurs twice.
    """
    try:
        with file.open(encoding="utf-8", newline="") as stream:
            reader = csv.reader(stream)
            header = next(reader, [])
            lines = list(reader)
    except FileNotFoundError as error:
        raise InputError(f"{file} does not exist; the sweep writes it, or leave item-level questions out") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise FileFormatError(f"{file} cannot be read as CSV: {error}") from error
    missing = [name for name in COLUMNS if name not in header]
    if missing:
        raise FileFormatError(
            f"{file}:1: columns {', '.join(missing)} are missing; found {', '.join(header) or 'none'}"
        )
    for number, line in enumerate(lines, 2):
        if len(line) != len(header):
            raise FileFormatError(f"{file}:{number}: {len(line)} values, expected {len(header)} as in the header")
    columns = dict(zip(header, zip(*lines, strict=True) if lines else [()] * len(header), strict=True))
    _check_ids(file, columns["id"])
    integers = {name: _integers(file, name, columns[name]) for name in ("gold", "base_pred", "quant_pred", "n_rows")}
    flags = {name: _flags(file, name, columns[name]) for name in ("base_correct", "quant_correct")}
    floats = {name: _floats(file, name, columns[name]) for name in COLUMNS[7:12]}
    texts = {name: tuple(columns[name]) for name in ("id", "group", "base_logprobs", "quant_logprobs")}
    every: dict[str, Any] = {**texts, **integers, **flags, **floats}
    return ItemTable(**every)


def read_rows(file: Path, names: Sequence[str] | None = None) -> Mapping[str, NDArray[Any]]:
    """Read `RUN/rows/QUANT/TEXT.npz`: one array `[n_rows]` per row metric, and `windows`.

    With `names`, only those arrays that the file has, and always `kld` and `windows`.

    Raises InputError if the file is not there, FileFormatError if it is damaged, holds pickled objects, or its
    arrays differ in length.
    """
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            wanted = archive.files if names is None else {"kld", "windows", *names} & set(archive.files)
            # a single value is a label (the sweep's `key` of the measurement), no row metric
            arrays = {name: array for name in wanted if (array := archive[name]).ndim}
    except FileNotFoundError as error:
        raise InputError(f"{file} does not exist; the sweep writes it, or leave row-level questions out") from error
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, AttributeError, TypeError) as error:
        raise FileFormatError(f"{file} is not an .npz of plain arrays ({error}); run the sweep again") from error
    missing = [name for name in ("kld", "windows") if name not in arrays]
    if missing:
        raise FileFormatError(f"{file}: arrays {', '.join(missing)} are missing; found {', '.join(arrays) or 'none'}")
    shapes = {array.shape for array in arrays.values()}
    if len(shapes) != 1 or len(next(iter(shapes))) != 1:
        raise FileFormatError(f"{file}: arrays have the shapes {sorted(shapes)}, expected one length for all")
    return arrays


def _check_ids(file: Path, ids: Sequence[str]) -> None:
    seen: set[str] = set()
    for number, item in enumerate(ids, 2):
        if item in seen:
            raise FileFormatError(f"{file}:{number}: the id {item!r} occurs twice; items are paired by id")
        seen.add(item)


def _floats(file: Path, name: str, column: Sequence[str]) -> FloatArray:
    values = np.array(_parse(file, name, column, lambda text: float(text) if text else math.nan, "a number or empty"))
    values[np.isinf(values)] = np.nan  # a choice of probability 0 has no finite margin
    return values


def _integers(file: Path, name: str, column: Sequence[str]) -> Int64Array:
    parsed = _parse(file, name, column, lambda text: int(text) if text else -1, "a whole number or empty")
    return np.array(parsed, np.int64)


def _flags(file: Path, name: str, column: Sequence[str]) -> BoolArray:
    return np.array(_parse(file, name, column, lambda text: bool(("0", "1").index(text)), "0 or 1"), np.bool_)


def _parse(file: Path, name: str, column: Sequence[str], parse: Callable[[str], _T], expected: str) -> list[_T]:
    values: list[_T] = []
    try:
        values.extend(map(parse, column))
    except ValueError:
        raise FileFormatError(
            f"{file}:{len(values) + 2}: {name} is {column[len(values)]!r}, expected {expected}"
        ) from None
    return values
