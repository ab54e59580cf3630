"""Two runs of the same cohort: what moved beyond the noise, and which settings could have moved it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy import special

from quantprobe.arrays import BoolArray, FloatArray, Int64Array
from quantprobe.errors import InputError, MismatchError
from quantprobe.metrics.answers import Answers
from quantprobe.probes.grouping import UNGROUPED
from quantprobe.run.cohort import Cohort, read_cohort
from quantprobe.run.compare import Difference, setting_differences
from quantprobe.run.items import PairedAnswers
from quantprobe.run.json_text import plain
from quantprobe.run.results import Quant
from quantprobe.stats.clusters import cluster_mean
from quantprobe.stats.design import item_design
from quantprobe.stats.estimates import Estimate
from quantprobe.stats.paired import compare_paired, holm

BY_ROWS, BY_ITEMS, UNPAIRED = "paired by rows", "paired by items", "independent"


@dataclass(frozen=True)
class Shift:
    """What changed from run A to run B for one quant in one measure: mean KLD (nats), accuracy, margin (nats)."""

    quant: str
    probe: str
    """Name of the text or task."""
    measure: str
    """`kld_mean`, `acc` or `margin`."""
    change: Estimate
    """B - A."""
    p: float | None
    """Two-sided; None where the error is unknown."""
    holm_p: float | None
    """Corrected over every shift of the comparison."""
    how: str
    """Paired by rows, paired by items, or independent (wider)."""
    floor: float
    """What the instrument shows where nothing changed, in the unit of the measure; smaller changes are not read."""

    @property
    def moved(self) -> bool:
        """Clear of zero after correction, and above the floor."""
        clear = self.holm_p is not None and self.holm_p <= 1 - self.change.level
        return clear and self.change.value is not None and abs(self.change.value) > self.floor


@dataclass(frozen=True)
class RunDiff:
    """All shifts between two runs, and everything else in which they differ."""

    a: Path
    b: Path
    settings: tuple[Difference, ...]
    """Every recorded setting that differs, those of probes that only one of the runs has left out."""
    other_files: tuple[str, ...]
    """Quants whose files differ (SHA-256)."""
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    base_flips: tuple[tuple[str, int, int], ...]
    """(task, items whose correctness differs between the two bases' own answers, items): instrument noise on items."""
    shifts: tuple[Shift, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, the sentences among them; a number that does not exist is None."""
        shifts = [{**plain(shift), "moved": shift.moved} for shift in self.shifts]
        return {**plain(self), "shifts": shifts, "sentences": list(self.sentences())}

    def sentences(self) -> tuple[str, ...]:
        """The comparison in words, most important first."""
        return tuple(_sentences(self))


def diff_runs(a: Path, b: Path, level: float = 0.95) -> RunDiff:
    """Compare two runs quant by quant (matched by name), text by text, task by task.

    Texts: the mean difference of the rows' KLD, clustered by window, where both runs kept rows of the same windows;
    else the difference of two independent means. Tasks: exact McNemar between the quant's answers in A and in B over
    the items of the same id (cluster-robust where items come in groups), and the mean difference of its margins.
    Holm's correction goes over all of them together.

    Raises
    ------
    MismatchError
        The bases differ: KLD from different bases cannot be subtracted.
    InputError
        The runs have no quant in common.
    """
    left, right = read_cohort([a]), read_cohort([b])
    if left.base.sha256 and right.base.sha256 and left.base.sha256 != right.base.sha256:
        raise MismatchError(
            f"{a} measured against {left.base.name} (sha256 {left.base.sha256[:12]}) and {b} against {right.base.name} "
            f"(sha256 {right.base.sha256[:12]}); runs are compared against one base"
        )
    names = [quant.name for quant in left.quants if any(other.name == quant.name for other in right.quants)]
    if not names:
        raise InputError(
            f"{a} and {b} have no quant in common ({', '.join(q.name for q in left.quants)}; "
            f"{', '.join(q.name for q in right.quants)}); quants are matched by name"
        )
    found = [shift for name in names for shift in _quant_shifts(left, right, name, level)]
    known = {i: shift.p for i, shift in enumerate(found) if shift.p is not None}
    for i, p in zip(known, holm(list(known.values())), strict=True):
        found[i] = replace(found[i], holm_p=float(p))
    return RunDiff(
        a=a,
        b=b,
        settings=setting_differences(left.settings, right.settings),
        other_files=tuple(n for n in names if left.quant(n).sha256 != right.quant(n).sha256),
        only_a=tuple(q.name for q in left.quants if q.name not in names),
        only_b=tuple(q.name for q in right.quants if q.name not in names),
        base_flips=tuple(_base_flips(left, right, names)),
        shifts=tuple(found),
    )


def _quant_shifts(a: Cohort, b: Cohort, name: str, level: float) -> Iterator[Shift]:
    left, right = a.quant(name), b.quant(name)
    for text in left.texts:
        if text in right.texts:
            yield _text_shift(a, b, left, right, text, level)
    for task in left.tasks:
        if task in right.tasks:
            yield from _task_shifts(a, b, left, right, task, level)


def _text_shift(a: Cohort, b: Cohort, left: Quant, right: Quant, text: str, level: float) -> Shift:
    floor = max(a.floor(text) or 0.0, b.floor(text) or 0.0)
    rows = _paired_rows(a, b, left.name, text)
    if rows is None:
        change, p = _unpaired(left.texts[text].kld_mean, right.texts[text].kld_mean, level)
        return Shift(left.name, text, "kld_mean", change, p, None, UNPAIRED, floor)
    mean = cluster_mean(*rows)
    return Shift(left.name, text, "kld_mean", mean.estimate("nats", level), mean.p_value, None, BY_ROWS, floor)


def _paired_rows(a: Cohort, b: Cohort, quant: str, text: str) -> tuple[FloatArray, Int64Array] | None:
    """KLD in B minus KLD in A of the rows finite in both, and their windows; None where rows cannot be matched."""
    if not (a.has_rows(quant, text) and b.has_rows(quant, text)):
        return None
    left, right = a.rows(quant, text, ()), b.rows(quant, text, ())
    if not np.array_equal(left["windows"], right["windows"]):
        return None
    difference = np.asarray(right["kld"], np.float64) - np.asarray(left["kld"], np.float64)
    finite = np.isfinite(difference)
    if not finite.any():
        return None
    return difference[finite], np.asarray(left["windows"], np.int64)[finite]


def _task_shifts(a: Cohort, b: Cohort, left: Quant, right: Quant, task: str, level: float) -> Iterator[Shift]:
    pair = _items_of_both(a, b, left.name, task)
    matched = None if pair is None else _match(pair[0].quant, pair[1].quant)
    if pair is None or matched is None:
        change, p = _unpaired(left.tasks[task].acc, right.tasks[task].acc, level)
        yield Shift(left.name, task, "acc", change, p, None, UNPAIRED, 0.0)
        return
    (before, after), (rows_a, rows_b) = (one.quant for one in pair), matched
    facts = a.tasks_facts.get(task)
    grouping = facts.grouping if facts else UNGROUPED
    clusters = item_design([before.groups[i] for i in rows_a], grouping).clusters
    flips = compare_paired(before.correct[rows_a], after.correct[rows_b], clusters, level)
    yield Shift(left.name, task, "acc", flips.net, flips.p, None, BY_ITEMS, 0.0)
    margins = after.margin[rows_b] - before.margin[rows_a]
    finite = np.isfinite(margins)
    if finite.sum() >= 2:
        mean = cluster_mean(margins[finite], clusters[finite])
        yield Shift(left.name, task, "margin", mean.estimate("nats", level), mean.p_value, None, BY_ITEMS, 0.0)


def _items_of_both(a: Cohort, b: Cohort, quant: str, task: str) -> tuple[PairedAnswers, PairedAnswers] | None:
    if not (a.has_items(quant, task) and b.has_items(quant, task)):
        return None
    return a.items(quant, task), b.items(quant, task)


def _match(left: Answers, right: Answers) -> tuple[Int64Array, Int64Array] | None:
    """The places in each of the items that are valid in both, in the same order; None where there is no such item."""
    where = {item: i for i, item in enumerate(right.ids) if right.valid[i]}
    places = [(i, where[item]) for i, item in enumerate(left.ids) if left.valid[i] and item in where]
    if not places:
        return None
    rows_a, rows_b = np.array(places, np.int64).T
    return rows_a, rows_b


def _base_flips(a: Cohort, b: Cohort, names: Sequence[str]) -> Iterator[tuple[str, int, int]]:
    for task in a.tasks:
        for name in names:
            if task not in a.quant(name).tasks or task not in b.quant(name).tasks:
                continue
            pair = _items_of_both(a, b, name, task)
            matched = None if pair is None else _match(pair[0].base, pair[1].base)
            if pair is not None and matched is not None:
                flips: BoolArray = pair[0].base.correct[matched[0]] != pair[1].base.correct[matched[1]]
                yield task, int(flips.sum()), len(flips)
                break


def _unpaired(a: Estimate, b: Estimate, level: float) -> tuple[Estimate, float | None]:
    """B - A of two independent estimates; without an error, and without a p, where one of them has none."""
    n, clusters = min(a.n, b.n), min(a.n_clusters, b.n_clusters)
    if a.value is None or b.value is None:
        return Estimate(None, None, None, None, level, n, clusters, a.unit), None
    value = b.value - a.value
    if a.stderr is None or b.stderr is None:
        return Estimate(value, None, None, None, level, n, clusters, a.unit), None
    stderr = math.hypot(a.stderr, b.stderr)
    half = float(special.ndtri((1 + level) / 2)) * stderr
    p = float(2 * special.ndtr(-abs(value) / stderr)) if stderr else (1.0 if value == 0 else None)
    return Estimate(value, stderr, value - half, value + half, level, n, clusters, a.unit), p


def _sentences(diff: RunDiff) -> Iterator[str]:
    moved = [shift for shift in diff.shifts if shift.moved]
    tested = sum(shift.p is not None for shift in diff.shifts)
    if not moved:
        yield (
            f"Nothing moved beyond the noise: none of {tested} comparisons is clear of zero after Holm's correction. "
            "That is no proof that nothing changed; the intervals say how much could have."
        )
    else:
        yield f"{len(moved)} of {tested} comparisons moved beyond the noise (Holm, {moved[0].change.level:.0%})."
    yield from (_shift_sentence(shift) for shift in moved)
    yield from _settings_sentences(diff.settings)
    if diff.other_files:
        yield f"Other files under the same name (SHA-256 differs): {', '.join(diff.other_files)}."
    for task, flips, n in diff.base_flips:
        if flips:
            yield (
                f"The base's own answers to {task} differ on {flips} of {n} items between the runs: that much "
                "comes from the settings, not from the quants."
            )
    for side, names in (("A", diff.only_a), ("B", diff.only_b)):
        if names:
            yield f"Only in {side}, not compared: {', '.join(names)}."
    unpaired = sum(shift.how == UNPAIRED for shift in diff.shifts)
    if unpaired:
        yield (
            f"{unpaired} of {len(diff.shifts)} comparisons could not be paired (no rows or items in both runs, or "
            "of other windows) and take the two numbers as independent; their intervals are wider than need be."
        )


def _settings_sentences(settings: Sequence[Difference]) -> Iterator[str]:
    if not settings:
        yield "All recorded settings are the same."
    for words, moving in (("that move logits", True), ("that move no logits", False)):
        found = [
            f"{each.name} {each.a} -> {each.b}" for each in settings if each.is_known and each.moves_logits == moving
        ]
        if found:
            yield f"Settings {words} and differ: {'; '.join(found)}."
    unknown = [each.name for each in settings if not each.is_known]
    if unknown:
        yield f"Known of one run only, so they may differ: {', '.join(unknown)}."


def _shift_sentence(shift: Shift) -> str:
    change = shift.change
    scale, unit, what = {
        "kld_mean": (1.0, "nats", "mean KLD"),
        "acc": (100.0, "pp", "accuracy"),
        "margin": (1.0, "nats", "margin of the right answer"),
    }[shift.measure]
    assert change.value is not None
    better = (change.value < 0) == (shift.measure == "kld_mean")
    interval = (
        ""
        if change.low is None or change.high is None
        else (f" ({change.level:.0%} interval {change.low * scale:+.3g} to {change.high * scale:+.3g})")
    )
    return (
        f"{shift.quant} on {shift.probe}: {what} {change.value * scale:+.3g} {unit}{interval}, "
        f"{'better' if better else 'worse'} in B; {shift.how}, Holm p {shift.holm_p:.2g}."
    )
