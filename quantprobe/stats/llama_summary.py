"""The statistics that `llama-perplexity --kl-divergence` prints, in the tool's own arithmetic.

For comparing with published numbers. Its uncertainties treat the tokens of a window as independent, so they are too
small; `summary.py` gives the ones to judge by. Source: llama.cpp, tools/perplexity/perplexity.cpp.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quantprobe.arrays import Float32Array
from quantprobe.errors import InputError

MIN_ROWS = 100
"""The tool prints nothing for fewer tokens."""

_KLD_PERCENTILES = (0.999, 0.99, 0.95, 0.9, 0.5, 0.1, 0.05, 0.01, 0.001)
_DELTA_P_PERCENTILES = (0.999, 0.99, 0.95, 0.9, 0.75, 0.5, 0.25, 0.1, 0.05, 0.01, 0.001)


@dataclass(frozen=True)
class LlamaLine:
    """One printed line: `value` and `uncertainty` in the printed unit (percent where `text` shows %)."""

    label: str
    """As printed, runs of blanks made one."""
    value: float
    uncertainty: float | None
    text: str


@dataclass(frozen=True)
class LlamaStatistics:
    """What the tool prints after its last chunk, three blocks of lines."""

    perplexity: tuple[LlamaLine, ...]
    divergence: tuple[LlamaLine, ...]
    probability: tuple[LlamaLine, ...]
    n_rows: int
    n_nonfinite: int
    """Rows left out; the tool would have averaged them in."""

    def values(self) -> dict[str, tuple[float, float | None]]:
        """Label to (value, uncertainty)."""
        lines = self.perplexity + self.divergence + self.probability
        return {line.label: (line.value, line.uncertainty) for line in lines}

    def format(self) -> str:
        """The tool's text."""
        blocks = (
            ("Perplexity statistics", self.perplexity),
            ("KL divergence statistics", self.divergence),
            ("Token probability statistics", self.probability),
        )
        return "\n".join(
            "".join(f"{line}\n" for line in (f"====== {title} ======", *(line.text for line in lines)))
            for title, lines in blocks
        )


def summarise_llama(rows: NDArray[np.void]) -> LlamaStatistics:
    """The tool's final statistics of `[n_rows]` of `ROW_DTYPE`.

    Made for rows of `llama_row_metrics(..., compat=True)`, whose fields hold the tool's own float32 values; other rows
    are rounded to float32 first, as the tool's would be. Sums run in NumPy's order, the tool's in that of its threads;
    the printed digits do not show it. The uncertainty of ln(PPL ratio) is NaN where rounding makes its variance
    negative (equal models), as in the tool, which prints `-nan`.

    Raises
    ------
    InputError
        Fewer than `MIN_ROWS` finite rows.
    """
    finite = rows["finite"]
    n_nonfinite = int(np.count_nonzero(~finite))
    rows = rows[finite]
    if len(rows) < MIN_ROWS:
        raise InputError(
            f"{len(rows)} measured rows; llama.cpp's statistics need {MIN_ROWS}. Give a longer text or more chunks"
        )
    return LlamaStatistics(
        _perplexity_lines(rows), _divergence_lines(rows), _probability_lines(rows), len(rows), n_nonfinite
    )


def _perplexity_lines(rows: NDArray[np.void]) -> tuple[LlamaLine, ...]:
    n = len(rows)
    nll, nll_base = rows["nll"].astype(np.float32), rows["nll_base"].astype(np.float32)
    mean, error = _mean_and_uncertainty(_total(nll), _total(nll * nll), n)
    mean_base, error_base = _mean_and_uncertainty(_total(nll_base), _total(nll_base * nll_base), n)
    covariance = (_total(nll * nll_base) / n - mean * mean_base) / (n - 1)
    ppl, ppl_base, ratio = math.exp(mean), math.exp(mean_base), math.exp(mean - mean_base)
    ppl_error, ppl_base_error = ppl * error, ppl_base * error_base
    ratio_error = _root(error**2 + error_base**2 - 2.0 * covariance)
    difference_error = _root(ppl_error**2 + ppl_base_error**2 - 2.0 * ppl * ppl_base * covariance)
    product = error * error_base
    correlation = 100.0 * (covariance / product if product > 0.0 else math.nan)
    return (
        _nats_line("Mean PPL(Q)", 30, ppl, ppl_error),
        _nats_line("Mean PPL(base)", 30, ppl_base, ppl_base_error),
        LlamaLine(
            "Cor(ln(PPL(Q)), ln(PPL(base)))", correlation, None, f"Cor(ln(PPL(Q)), ln(PPL(base))): {correlation:6.2f}%"
        ),
        _nats_line("Mean ln(PPL(Q)/PPL(base))", 30, mean - mean_base, ratio_error),
        _nats_line("Mean PPL(Q)/PPL(base)", 30, ratio, ratio * ratio_error),
        _nats_line("Mean PPL(Q)-PPL(base)", 30, ppl - ppl_base, difference_error),
    )


def _divergence_lines(rows: NDArray[np.void]) -> tuple[LlamaLine, ...]:
    kld = rows["kld"]
    mean, error = _mean_and_uncertainty(_total(kld), _total(kld * kld), len(kld))
    ordered = np.sort(kld.astype(np.float32))
    return (
        _nats_line("Mean    KLD", 11, mean, error),
        _nats_line("Maximum KLD", 11, float(ordered[-1])),
        *(_nats_line(f"{_rank(f)} KLD", 11, _percentile(ordered, f)) for f in _KLD_PERCENTILES),
        _nats_line("Minimum KLD", 11, float(ordered[0])),
    )


def _probability_lines(rows: NDArray[np.void]) -> tuple[LlamaLine, ...]:
    n = len(rows)
    delta = rows["delta_p"].astype(np.float32)
    square = delta * delta
    sum_square = _total(square)
    mean, error = _mean_and_uncertainty(_total(delta), sum_square, n)
    mean_square, square_error = _mean_and_uncertainty(sum_square, _total(square.astype(np.float64) ** 2), n)
    rms = math.sqrt(mean_square)
    rms_error = 0.5 / rms * square_error if rms > 0.0 else math.nan
    same = np.count_nonzero(rows["same_top"]) / n
    ordered = np.sort(delta)
    return (
        _percent_line("Mean    Δp", mean, error),
        _percent_line("Maximum Δp", float(ordered[-1])),
        *(_percent_line(f"{_rank(f)} Δp", _percentile(ordered, f)) for f in _DELTA_P_PERCENTILES),
        _percent_line("Minimum Δp", float(ordered[0])),
        _percent_line("RMS Δp    ", rms, rms_error),
        _percent_line("Same top p", same, math.sqrt(same * (1.0 - same) / (n - 1))),
    )


def _total(values: NDArray[np.floating]) -> float:
    return float(np.sum(values, dtype=np.float64))


def _mean_and_uncertainty(total: float, total_of_squares: float, n: int) -> tuple[float, float]:
    mean = total / n
    variance = total_of_squares / n - mean * mean
    return mean, math.sqrt(variance / (n - 1)) if variance > 0.0 else 0.0


def _root(square: float) -> float:
    return math.sqrt(square) if square >= 0.0 else math.nan


def _percentile(ordered: Float32Array, fraction: float) -> float:
    """Type 7 with the position itself in float32; the median apart, as in the tool."""
    n = len(ordered)
    half, one = np.float32(0.5), np.float32(1.0)
    if fraction == 0.5:
        return float(ordered[n // 2] if n % 2 else half * (ordered[n // 2 - 1] + ordered[n // 2]))
    position = np.float32(fraction) * np.float32(n - 1)
    index = int(position)
    weight = position - np.float32(index)
    return float((one - weight) * ordered[index] + weight * ordered[min(index + 1, n - 1)])


def _rank(fraction: float) -> str:
    return "Median " if fraction == 0.5 else f"{100.0 * fraction:4.1f}%  "


def _nats_line(label: str, width: int, value: float, uncertainty: float | None = None) -> LlamaLine:
    tail = "" if uncertainty is None else f" ± {uncertainty:10.6f}"
    return LlamaLine(" ".join(label.split()), value, uncertainty, f"{label:<{width}}: {value:10.6f}{tail}")


def _percent_line(label: str, fraction: float, uncertainty: float | None = None) -> LlamaLine:
    value = 100.0 * fraction
    text = f"{label}: {value:6.3f}%"
    if uncertainty is not None:
        uncertainty *= 100.0
        text = f"{label}: {value:6.3f} ± {uncertainty:5.3f} %"
    return LlamaLine(" ".join(label.split()), value, uncertainty, text)
