"""What llama-perplexity printed: logs of `--kl-divergence`, `--hellaswag`, `--multiple-choice`, `--winogrande`."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from quantprobe.arrays import BoolArray, FloatArray
from quantprobe.errors import FileFormatError, InputError
from quantprobe.imports.records import AnswerFile, AnswerRecord
from quantprobe.metrics.quantities import text_quantity
from quantprobe.stats.estimates import Estimate
from quantprobe.stats.summary import TextSummary

LEVEL = 0.95
LOG = "llama-perplexity log"


@dataclass(frozen=True)
class Statistic:
    """A line of llama-perplexity's final statistics."""

    name: str
    """Member of `TextSummary`."""
    scale: float = 1.0
    """What to multiply the printed number by."""
    has_error: bool = True
    """Whether a standard error is printed beside it."""

    @property
    def unit(self) -> str:
        return text_quantity(self.name).unit


STATISTICS: Mapping[str, Statistic] = {
    "Mean PPL(Q)": Statistic("ppl"),
    "Mean PPL(base)": Statistic("ppl_base"),
    "Mean ln(PPL(Q)/PPL(base))": Statistic("ln_ppl_ratio"),
    "Mean KLD": Statistic("kld_mean"),
    "Maximum KLD": Statistic("kld_max", has_error=False),
    "99.9% KLD": Statistic("kld_p999", has_error=False),
    "99.0% KLD": Statistic("kld_p99", has_error=False),
    "95.0% KLD": Statistic("kld_p95", has_error=False),
    "90.0% KLD": Statistic("kld_p90", has_error=False),
    "Median KLD": Statistic("kld_median", has_error=False),
    "Mean Δp": Statistic("delta_p_mean", 0.01),
    "RMS Δp": Statistic("delta_p_rms", 0.01),
    "Same top p": Statistic("same_top", 0.01),
}
"""By llama-perplexity's label, in the order of published tables."""

MAX_LINE = 400
"""Characters of a line that is looked at: the longest that llama-perplexity prints has 150, and the patterns take time
with the square of it."""
_NUMBER = r"([+-]?(?:\d+(?:\.\d*)?(?:[eE][+-]?\d+)?|nan|inf))"
_PM = r"\s*(?:±|\+/-|Â±|\ufffd+)\s*"
_CHUNK = re.compile(rf"^\s*(\d+)\s+{_NUMBER}" + rf"{_PM}{_NUMBER}\s*%?\s+{_NUMBER}" * 4 + rf"{_PM}{_NUMBER}\s*%?\s*$")
_FINAL = re.compile(rf"^(.{{4,40}}?)\s*:\s*{_NUMBER}%?(?:{_PM}{_NUMBER})?\s*%?\s*$")
_TASK = re.compile(r"^(\d+)\t(\d+\.\d+)%?(?:\t(.*))?$")


@dataclass(frozen=True)
class KldLog:
    """The final statistics of one `--kl-divergence` run, in the units of `results.json`."""

    file: Path
    summary: TextSummary
    """Its `n_rows` is None where the log does not determine it."""
    n_chunks: int


def read_kld_log(file: Path) -> KldLog:
    """Read what `llama-perplexity --kl-divergence` wrote to stdout (or to stdout and stderr together).

    Values are those of the final statistics. Printed errors take every token as independent. Where the progress
    table allows it (five chunks or more, and rounding to five decimals is not the larger part of their spread)
    the mean KLD and the mean log ratio get the standard error of the chunks' own means instead, as everywhere
    else here; `n_clusters` is the number of chunks then and the number of rows otherwise.

    The number of rows is not printed; it follows from the first chunks, because `Same top p` p has the printed
    error sqrt(p (1 - p) / (n - 1)).

    Raises
    ------
    InputError
        The file cannot be read.
    FileFormatError
        No such log, two runs in one file, or a run that ended before its final statistics; names file and line.
    """
    lines = _read_lines(file)
    chunks = _chunk_table(file, lines)
    printed = _final_statistics(lines)
    missing = [label for label in ("Mean KLD", "Median KLD", "Same top p") if label not in printed]
    if missing:
        raise FileFormatError(
            f"{file}:{len(lines)}: the log ends after chunk {len(chunks)} without {', '.join(missing)}; the run was "
            "cut short or scored fewer than 100 tokens. Its progress lines are not a result; run it again"
        )
    n_rows = _count_rows(chunks)
    values = {
        statistic.name: _printed_estimate(*printed[label], statistic, n_rows)
        for label, statistic in STATISTICS.items()
        if label in printed
    }
    for key, column in (("ln_ppl_ratio", 2), ("kld_mean", 4)):
        if key in values:
            values[key] = _by_chunk(values[key], chunks[:, column])
    return KldLog(file, summarise_printed(values, n_rows), len(chunks))


def summarise_printed(values: Mapping[str, Estimate], n_rows: int | None) -> TextSummary:
    """Printed statistics, by their names here, as the summary of a text; the mean KLD must be among them."""
    plain = {statistic.name for statistic in STATISTICS.values() if not statistic.has_error}
    members: dict[str, Any] = {name: each.value if name in plain else each for name, each in values.items()}
    return TextSummary(**members, n_rows=n_rows)


def read_task_answers(file: Path, task: str) -> AnswerFile:
    """A log of answers (`read_task_log`) as records; items are numbered in the order in which they were run."""
    correct = read_task_log(file).tolist()
    records = (AnswerRecord(f"{task}-{n}", "", None, right) for n, right in enumerate(correct, 1))
    return AnswerFile(file, LOG, "tokens", tuple(records))


def read_task_log(file: Path) -> BoolArray:
    """Which tasks were right, `[n_items]`, of a log of `--hellaswag`, `--multiple-choice` or `--winogrande`.

    Only the running accuracy is printed; whether task i was right follows from its change, exactly: with 8 decimals
    (HellaSwag, multiple choice) and with 4 (Winogrande) the count of right answers is never between two integers
    for fewer than a million and ten thousand tasks.

    Raises
    ------
    FileFormatError
        No task lines, numbers that do not run 1, 2, 3, ..., or an accuracy that no count of right answers gives.
    """
    rows = [(n, match) for n, line in enumerate(_read_lines(file), 1) if (match := _TASK.match(line))]
    if not rows:
        raise FileFormatError(
            f"{file}: no line `number TAB accuracy` was found; expected the output of llama-perplexity with "
            "--hellaswag, --multiple-choice or --winogrande"
        )
    correct: list[bool] = []
    count = 0
    for line, match in rows:
        if int(match[1]) != len(correct) + 1:
            raise FileFormatError(
                f"{file}:{line}: task {match[1]}, expected {len(correct) + 1}; "
                "lines are missing, or two runs are in one file"
            )
        exact = float(match[2]) / 100 * int(match[1])
        step = round(exact) - count
        tolerance = 0.51 * 10.0 ** -(2 + len(match[2].partition(".")[2])) * int(match[1]) + 1e-6
        if step not in (0, 1) or abs(exact - round(exact)) > min(tolerance, 0.49):
            raise FileFormatError(
                f"{file}:{line}: accuracy {match[2]} % after {match[1]} tasks is {exact:.4f} right answers, "
                f"expected {count} or {count + 1}"
            )
        correct.append(bool(step))
        count += step
    return np.array(correct, np.bool_)


def _read_lines(file: Path) -> list[str]:
    try:
        data = file.read_bytes()
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}") from error
    wide = data.startswith((b"\xff\xfe", b"\xfe\xff"))  # PowerShell's > writes UTF-16
    lines = data.decode("utf-16" if wide else "utf-8-sig", errors="replace").splitlines()
    return [line if len(line) <= MAX_LINE else "" for line in lines]


def _chunk_table(file: Path, lines: Sequence[str]) -> FloatArray:
    """The progress table: `[n_chunks, 10]` float64, value and error of ppl, ln ratio, kld, rms delta p, same top."""
    rows: list[list[float]] = []
    for number, line in enumerate(lines, 1):
        match = _CHUNK.match(line)
        if match is None:
            continue
        if int(match[1]) != len(rows) + 1:
            raise FileFormatError(
                f"{file}:{number}: chunk {match[1]}, expected {len(rows) + 1}; "
                "lines are missing, or two runs are in one file"
            )
        rows.append([float(text) for text in match.groups()[1:]])
    if not rows:
        raise FileFormatError(
            f"{file}: no progress line was found (`chunk PPL ln(PPL(Q)/PPL(base)) ...`); "
            "expected the output of llama-perplexity --kl-divergence"
        )
    return np.array(rows)


def _final_statistics(lines: Sequence[str]) -> dict[str, tuple[float, float | None]]:
    found: dict[str, tuple[float, float | None]] = {}
    for line in lines:
        match = _FINAL.match(line.strip())
        if match is None:
            continue
        label = re.sub(r"\s+", " ", match[1]).strip()
        label = re.sub(r" [^\sA-Za-z]{1,4}p$", " Δp", label)  # a delta in the wrong encoding
        found[label] = (float(match[2]), None if match[3] is None else float(match[3]))
    return found


def _count_rows(chunks: FloatArray) -> int | None:
    """Rows of all chunks, from the first whose error of `Same top p` is printed finely enough."""
    for chunk, (share, error) in enumerate(chunks[:, 8:10] / 100, 1):
        if not (0 < share < 1 and error > 0):
            continue
        rows = (1 + share * (1 - share) / error**2) / chunk
        doubt = rows * (2 * 5e-6 / error + 5e-6 / min(share, 1 - share))
        if doubt < 0.4 and abs(rows - round(rows)) <= doubt + 0.01:
            return int(rows + 0.5) * len(chunks)
    return None


def _printed_estimate(value: float, error: float | None, statistic: Statistic, n_rows: int | None) -> Estimate:
    n, scale, unit = n_rows or 0, statistic.scale, statistic.unit
    if not math.isfinite(value):
        return Estimate(None, None, None, None, LEVEL, n, n, unit)
    value *= scale
    if error is None or not math.isfinite(error):
        return Estimate(value, None, None, None, LEVEL, n, n, unit)
    half = float(stats.norm.ppf((1 + LEVEL) / 2)) * error * scale
    return Estimate(value, error * scale, value - half, value + half, LEVEL, n, n, unit)


def _by_chunk(estimate: Estimate, running: FloatArray) -> Estimate:
    """`estimate` with the error of the means of single chunks, from the running means `[n_chunks]` (5 decimals)."""
    n = len(running)
    if n < 5 or estimate.value is None or not np.isfinite(running).all():
        return estimate
    totals = running * np.arange(1, n + 1)
    means = np.diff(totals, prepend=0.0)
    weights = np.arange(1, n + 1) ** 2.0 + np.arange(n) ** 2.0
    rounding = float(weights.mean()) * 1e-10 / 12
    variance = float(means.var(ddof=1)) - rounding
    if variance <= rounding:
        return estimate
    stderr = math.sqrt(variance / n)
    half = float(stats.t.ppf((1 + LEVEL) / 2, n - 1)) * stderr
    return Estimate(
        estimate.value, stderr, estimate.value - half, estimate.value + half, LEVEL, estimate.n, n, estimate.unit
    )
