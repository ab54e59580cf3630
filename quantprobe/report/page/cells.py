"""What a page is made of: cells, columns and tables that know how to be read and how to be sorted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from quantprobe.report.numbers import MISSING, format_estimate, format_plain
from quantprobe.run.cohort import QuantRecord
from quantprobe.stats.estimates import Estimate

VERDICT_SIGNS = {"worse": "▼", "better": "▲", "equivalent": "■", "not separable": "○"}
"""Shape beside the word, as in the plots: never colour alone."""


@dataclass(frozen=True)
class Cell:
    """One cell: what is read, and what it is sorted by (None sorts last in both directions)."""

    text: str
    sort: float | str | None
    kind: str = ""
    """CSS class: a verdict's, or empty."""


@dataclass(frozen=True)
class Column:
    """One column; `group` names the text or task it belongs to, empty for those that are always shown."""

    title: str
    unit: str
    group: str = ""


@dataclass(frozen=True)
class DataTable:
    """A sortable table; the first cell of each row is its header."""

    id: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]

    @property
    def groups(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(column.group for column in self.columns if column.group))


def estimate_cell(estimate: Estimate | None, scale: float = 1.0) -> Cell:
    """`value ± stderr`."""
    if estimate is None or estimate.value is None:
        return Cell(MISSING, None)
    return Cell(format_estimate(estimate, scale), estimate.value)


def interval_cell(estimate: Estimate | None, scale: float = 1.0) -> Cell:
    """`value [low, high]`, signed; the sign is always written because the direction is the point."""
    if estimate is None or estimate.value is None:
        return Cell(MISSING, None)
    return Cell(format_interval(estimate, scale), estimate.value)


def plain_cell(value: float | None, scale: float = 1.0) -> Cell:
    """A number without an error, such as a quantile or a count."""
    return Cell(format_plain(value, scale), value)


def count_cell(value: int | None) -> Cell:
    return Cell(MISSING if value is None else f"{value:,}", value)


def verdict_cell(verdict: str | None) -> Cell:
    if verdict is None:
        return Cell(MISSING, None)
    sign = VERDICT_SIGNS.get(verdict, "")
    return Cell(f"{sign} {verdict}".strip(), verdict, verdict.replace(" ", "-") if sign else "")


def size_cell(quant: QuantRecord) -> Cell:
    size = quant.size_bytes
    return Cell(MISSING if size is None else format_plain(size / 1e9), size)


def format_interval(estimate: Estimate, scale: float = 1.0) -> str:
    """`+1.2 [-0.3, +2.7]`: as many decimals as the interval's width leaves two digits for."""
    assert estimate.value is not None
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value * scale:+.2f} [no interval]"
    width = (estimate.high - estimate.low) * scale
    decimals = 2 if width <= 0 else min(max(1 - math.floor(math.log10(width)), 0), 7)
    low, value, high = (f"{number * scale:+.{decimals}f}" for number in (estimate.low, estimate.value, estimate.high))
    return f"{value} [{low}, {high}]"


def short_names(names: Sequence[str]) -> list[str]:
    """`names` without the beginning that all share, cut at a `-`, `.`, `_` or space: `Model-7B-Q4_K_M` -> `Q4_K_M`."""
    if len(names) < 2:
        return list(names)
    first, last = min(names), max(names)
    same = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    cut = max(first.rfind(mark, 0, same) for mark in "-. /") + 1
    return [name[cut:] or name for name in names]


def join_words(words: Sequence[str]) -> str:
    """`a, b and c`; `none` for no words."""
    if not words:
        return "none"
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
