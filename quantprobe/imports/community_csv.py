"""The CSV that quant authors publish: one line per model, llama-perplexity's statistics as columns."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from quantprobe.errors import FileFormatError, InputError
from quantprobe.gguf.model import ModelIdentity
from quantprobe.imports.llama_logs import LEVEL, STATISTICS, summarise_printed
from quantprobe.run.csv_cells import read_csv_text
from quantprobe.stats.estimates import Estimate
from quantprobe.stats.summary import TextSummary

Z95 = 1.959963984540054
MAX_SIZE = 2.0**63


@dataclass(frozen=True)
class CsvModel:
    """One line: a quant and its fidelity on one text, in the units of `results.json`."""

    quant: ModelIdentity
    """Size from `file_size_gib` where that is given, else from `file_size_gb` as 10^9 bytes; as rounded there."""
    summary: TextSummary


def read_community_csv(file: Path) -> list[CsvModel]:
    """Read the table; columns that are not known (scraped log lines, fit parameters) are left alone.

    `NAME_std` is the printed standard error, which takes tokens as independent. Δp and `Same top p` are in percent.

    Raises
    ------
    InputError
        The file cannot be read.
    FileFormatError
        No `model_name` or `Mean KLD_mean` column, no line, a model named twice, or a value that is no number.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise FileFormatError(f"{file} is not UTF-8 ({error}); save it as CSV UTF-8") from error
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}") from error
    reader = csv.DictReader(io.StringIO(text, newline=""))
    try:
        columns, rows = reader.fieldnames or [], [(reader.line_num, row) for row in reader]
    except csv.Error as error:
        raise FileFormatError(f"{file}:{reader.line_num}: not CSV ({error})") from error
    absent = [name for name in ("model_name", "Mean KLD_mean") if name not in columns]
    if absent:
        raise FileFormatError(f"{file}:1: no column {' or '.join(absent)}; found {', '.join(columns) or 'nothing'}")
    models = [_model(f"{file}:{line}", row) for line, row in rows]
    names = [model.quant.name for model in models]
    if not names or len(set(names)) != len(names):
        raise FileFormatError(f"{file}: {'a model is named twice' if names else 'the table has no line'}")
    return models


def _model(where: str, row: Mapping[str, str | None]) -> CsvModel:
    gib, gb = _number(where, row, "file_size_gib"), _number(where, row, "file_size_gb")
    size = gib * 2**30 if gib is not None else None if gb is None else gb * 1e9
    if size is not None and not 0 <= size < MAX_SIZE:
        raise FileFormatError(f"{where}: a file of {size:g} bytes; expected a size in GB or GiB")
    values: dict[str, Estimate] = {}
    for label, statistic in STATISTICS.items():
        value = _number(where, row, f"{label}_mean" if statistic.has_error else label)
        error = _number(where, row, f"{label}_std")
        if value is None:
            continue
        value *= statistic.scale
        half = None if error is None else error * statistic.scale * Z95
        values[statistic.name] = Estimate(
            value=value,
            stderr=None if error is None else error * statistic.scale,
            low=None if half is None else value - half,
            high=None if half is None else value + half,
            level=LEVEL,
            n=0,
            n_clusters=0,
            unit=statistic.unit,
        )
    if "kld_mean" not in values:
        raise FileFormatError(f"{where}: Mean KLD_mean is empty; a line without it says nothing about fidelity")
    name = read_csv_text((row.get("model_name") or "").strip())
    if not name:
        raise FileFormatError(f"{where}: model_name is empty")
    quant = ModelIdentity(
        name=name,
        path=read_csv_text(row.get("file_path") or ""),
        size_bytes=None if size is None else round(size),
        bpw=_number(where, row, "bpw"),
    )
    return CsvModel(quant, summarise_printed(values, None))


def _number(where: str, row: Mapping[str, str | None], column: str) -> float | None:
    text = (row.get(column) or "").strip().rstrip("%").strip()
    if not text or text.lower().lstrip("+-") in ("nan", "none", "n/a"):
        return None
    try:
        value = float(text)
    except ValueError:
        raise FileFormatError(f"{where}: {column} is {text!r}, expected a number or nothing") from None
    if not math.isfinite(value):
        raise FileFormatError(f"{where}: {column} is {text!r}, expected a finite number or nothing")
    return value
