"""The verdicts of a run, one line per quant, the recommended one first."""

from __future__ import annotations

import math

from quantprobe.report.answer import Standing, answer_of, margin_of, n_questions, standings
from quantprobe.report.marks import mark_of
from quantprobe.report.numbers import format_plain, format_points
from quantprobe.run.cohort import Cohort
from quantprobe.stats.paired import BETTER, EQUIVALENT, NOT_INFERIOR, NOT_SEPARABLE, WORSE
from quantprobe.stats.power import round_up

ORDER = (EQUIVALENT, BETTER, NOT_INFERIOR, NOT_SEPARABLE, WORSE)
"""What comes after the recommended quant."""


def verdict_lines(cohort: Cohort) -> list[str]:
    """A title and a line per quant, over the questions of all tasks; empty where no quant has a verdict."""
    stood = [standing for standing in standings(cohort, None) if standing.verdict is not None]
    if not stood:
        return []
    take, margin = answer_of(cohort, None).take, format_points(margin_of(cohort, None))
    best = None if take is None else take.name
    stood.sort(key=lambda s: (s.name != best, _rank(s.verdict), s.size_bytes or math.inf))
    width = max(len(standing.label) for standing in stood)
    lines = [f"Verdicts over {n_questions(cohort):,} questions, margin ±{margin}:"]
    for standing in stood:
        words = _describe(standing)
        if standing.name == best:
            words = f"{standing.verdict}: take this one, the smallest shown to lose no more than {margin}"
        lines.append(f"  {mark_of(standing.verdict).sign} {standing.label:<{width}}  {words}")
    return lines


def _describe(standing: Standing) -> str:
    """A verdict in a few words, with what the tables do not say."""
    where = f" on {standing.on}" if standing.on else ""
    if standing.verdict == NOT_SEPARABLE and standing.more:
        return f"{NOT_SEPARABLE}{where}; about {round_up(standing.more):,} more questions would settle it"
    change = standing.change
    if standing.verdict in (WORSE, BETTER) and change is not None and (change.low or 0.0) * (change.high or 0.0) > 0:
        low, high = sorted(abs(end) for end in (change.low, change.high) if end is not None)
        return f"{standing.verdict}{where} by {format_plain(low, 100, 2)} to {format_plain(high, 100, 2)} points"
    return f"{standing.verdict}{where}"


def _rank(verdict: str | None) -> int:
    return ORDER.index(verdict) if verdict in ORDER else len(ORDER)
