"""What to look at in a table, in words: only what its numbers carry."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from quantprobe.report.numbers import format_estimate, format_plain
from quantprobe.report.results_view import ModelRow, ResultsView, TextNumbers, short_names
from quantprobe.report.tables.texts import is_below_floor
from quantprobe.stats.estimates import Estimate

Row = tuple[ModelRow, TextNumbers]


def highlights(view: ResultsView, text: str) -> list[str]:
    """Sentences on one text's quants, most general first; none where no quant stands above the floor."""
    floor = view.floor(text)
    rows = [row for row in view.measured(text) if _kld(row) > 0 and not is_below_floor(row[1], floor)]
    names = short_names([model.name for model, _ in rows], view.base.name)
    rows = [(replace(model, name=name), numbers) for name, (model, numbers) in zip(names, rows, strict=True)]
    rows.sort(key=_kld)
    if not rows:
        return ["No quant stands above the instrument's floor on this text; nothing can be said about their order."]
    found = [_range(rows), *_step(rows), *_unordered(rows), *_dominated(rows), *_hidden_from_ppl(rows, floor or 0.0)]
    return [*found, "KLD is distance. Whether answers became better or worse is a question of its own."]


def _kld(row: Row) -> float:
    return row[1].kld_mean.value or 0.0


def _size(row: Row) -> float:
    """Bytes; NaN, of which nothing can be said, where unknown."""
    return math.nan if row[0].size_bytes is None else row[0].size_bytes


def _range(rows: Sequence[Row]) -> str:
    (near, near_numbers), (far, far_numbers) = rows[0], rows[-1]
    if len(rows) == 1:
        return f"{near.name} has a mean KLD of {format_estimate(near_numbers.kld_mean)} nats."
    return (
        f"Nearest to the base is {near.name} (KLD {format_estimate(near_numbers.kld_mean)}, same top token in "
        f"{format_estimate(near_numbers.same_top, 100)} %); farthest is {far.name} "
        f"(KLD {format_estimate(far_numbers.kld_mean)}, {format_estimate(far_numbers.same_top, 100)} %)."
    )


def _step(rows: Sequence[Row]) -> list[str]:
    """The step down in size that costs most, between neighbours in KLD that the intervals tell apart."""
    steps = [(a, b) for a, b in pairwise(rows) if _size(b) < _size(a) and not _overlap(a, b)]
    if not steps:
        return []
    a, b = max(steps, key=lambda step: _kld(step[1]) / _kld(step[0]))
    saved = 1 - _size(b) / _size(a)
    return [
        f"The dearest step is from {a[0].name} to {b[0].name}: {format_plain(_kld(b) / _kld(a), digits=2)} times "
        f"the KLD for {saved:.0%} less size."
    ]


def _unordered(rows: Sequence[Row]) -> list[str]:
    """Neighbours whose intervals overlap. The same tokens serve both, so this errs on the careful side."""
    pairs = [f"{a[0].name} and {b[0].name}" for a, b in pairwise(rows) if _overlap(a, b)]
    if not pairs:
        return []
    return [f"Not told apart by these intervals: {'; '.join(pairs)}. More --chunks would narrow them."]


def _overlap(a: Row, b: Row) -> bool:
    high, low = a[1].kld_mean.high, b[1].kld_mean.low
    return high is None or low is None or high >= low


def _dominated(rows: Sequence[Row]) -> list[str]:
    """Quants for which another is both clearly closer and no larger."""
    sentences = []
    for i, (model, _) in enumerate(rows):
        better = [other for other in rows[:i] if _size(other) <= _size(rows[i]) and not _overlap(other, rows[i])]
        if better:
            sentences.append(f"{better[0][0].name} is closer to the base than {model.name} and no larger.")
    return sentences


def _hidden_from_ppl(rows: Sequence[Row], floor: float) -> list[str]:
    """Quants that surely moved, and whose perplexity does not show it."""
    names = [model.name for model, numbers in rows if _moved(numbers, floor) and _holds_zero(numbers.ln_ppl_ratio)]
    if not names:
        return []
    return [
        f"Perplexity alone would not tell {', '.join(names)} from the base (the interval of its change holds 0); KLD "
        "does: gains and losses on single tokens cancel in perplexity and not in KLD."
    ]


def _moved(numbers: TextNumbers, floor: float) -> bool:
    return numbers.kld_mean.low is not None and numbers.kld_mean.low > floor


def _holds_zero(estimate: Estimate) -> bool:
    return estimate.low is not None and estimate.high is not None and estimate.low <= 0 <= estimate.high
