"""Names of quants as tables, plots and sentences show them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from quantprobe.report.printable import printable
from quantprobe.run.cohort import Cohort

MARKS = "-._ /"


@dataclass(frozen=True)
class ShortNames:
    """Names without `start`, the beginning that all of them share and a title says once; on one line, safe to show."""

    start: str

    def __call__(self, name: str) -> str:
        return " ".join(printable(name.removeprefix(self.start) or name).split())

    @property
    def note(self) -> str:
        """`, names without "Model-7B-"`; empty where nothing is taken off."""
        return f', names without "{self.start}"' if self.start else ""


WHOLE = ShortNames("")


def cohort_names(cohort: Cohort) -> ShortNames:
    """What the quants of a cohort are called."""
    return ShortNames(shared_start([quant.name for quant in cohort.quants], cohort.base.name))


def shared_start(names: Sequence[str], base: str = "") -> str:
    """What all of `names` (and the base, if given) begin with, cut behind a mark; empty for a single name."""
    known = [*names, base] if base else list(names)
    start = 0
    for i, letters in enumerate(zip(*known, strict=False)):
        if len(set(letters)) > 1:
            break
        start = i + 1 if letters[0] in MARKS else start
    return known[0][:start] if len(known) > 1 else ""


def join_words(words: Sequence[str], most: int = 5) -> str:
    """`a, b and c`; `none` for no words; with more than `most`, `a, b, c, d, e and 3 more`."""
    if not words:
        return "none"
    shown = list(words[:most])
    if len(words) > most:
        return f"{', '.join(shown)} and {len(words) - most} more"
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"
