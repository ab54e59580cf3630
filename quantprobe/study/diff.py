"""Two runs of the same cohort: what moved beyond the noise, and which settings could have moved it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from quantprobe.arrays import BoolArray, FloatArray, Int64Array
from quantprobe.errors import InputError, MismatchError
from quantprobe.run.cohort import Cohort, ItemTable, QuantRecord, read_cohort
from quantprobe.stats.clusters import cluster_mean, item_clusters
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
    settings: tuple[tuple[str, str, str], ...]
    """(name, value in A, value in B) of every setting that differs; `not set` where a run lacks it."""
    other_files: tuple[str, ...]
    """Quants whose files differ (SHA-256)."""
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    base_flips: tuple[tuple[str, int, int], ...]
    """(task, items whose correctness differs between the two bases' own answers, items): instrument noise on items."""
    shifts: tuple[Shift, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, the sentences among them; a number that does not exist is None."""
        shifts = [{**vars(shift), "change": shift.change.to_dict(), "moved": shift.moved} for shift in self.shifts]
        return {**vars(self), "a": str(self.a), "b": str(self.b), "shifts": shifts, "sentences": self.sentences()}

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
        settings=tuple(_setting_differences(left.settings, right.settings)),
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


def _text_shift(a: Cohort, b: Cohort, left: QuantRecord, right: QuantRecord, text: str, level: float) -> Shift:
    floor = max(_floor(a, text), _floor(b, text))
    rows = _paired_rows(left.texts[text].rows_file, right.texts[text].rows_file, a, b, left.name, text)
    if rows is None:
        change, p = _unpaired(left.texts[text].values["kld_mean"], right.texts[text].values["kld_mean"], level)
        return Shift(left.name, text, "kld_mean", change, p, None, UNPAIRED, floor)
    mean = cluster_mean(*rows)
    return Shift(left.name, text, "kld_mean", mean.estimate("nats", level), mean.p_value, None, BY_ROWS, floor)


def _paired_rows(
    file_a: Path, file_b: Path, a: Cohort, b: Cohort, quant: str, text: str
) -> tuple[FloatArray, Int64Array] | None:
    """KLD in B minus KLD in A of the rows finite in both, and their windows; None where rows cannot be matched."""
    if not (file_a.exists() and file_b.exists()):
        return None
    left, right = a.rows(quant, text), b.rows(quant, text)
    if not np.array_equal(left["windows"], right["windows"]):
        return None
    difference = np.asarray(right["kld"], np.float64) - np.asarray(left["kld"], np.float64)
    finite = np.isfinite(difference)
    if not finite.any():
        return None
    return difference[finite], np.asarray(left["windows"], np.int64)[finite]


def _task_shifts(
    a: Cohort, b: Cohort, left: QuantRecord, right: QuantRecord, task: str, level: float
) -> Iterator[Shift]:
    pair = _paired_items(a, b, left.name, task)
    if pair is None:
        change, p = _unpaired(left.tasks[task].values["acc"], right.tasks[task].values["acc"], level)
        yield Shift(left.name, task, "acc", change, p, None, UNPAIRED, 0.0)
        return
    (table_a, rows_a), (table_b, rows_b) = pair
    groups = [table_a.group[i] for i in rows_a]
    clusters = item_clusters(groups)
    flips = compare_paired(table_a.quant_correct[rows_a], table_b.quant_correct[rows_b], clusters, level)
    yield Shift(left.name, task, "acc", flips.net, flips.p, None, BY_ITEMS, 0.0)
    margins = table_b.quant_margin[rows_b] - table_a.quant_margin[rows_a]
    finite = np.isfinite(margins)
    if finite.sum() >= 2:
        mean = cluster_mean(margins[finite], clusters[finite])
        yield Shift(left.name, task, "margin", mean.estimate("nats", level), mean.p_value, None, BY_ITEMS, 0.0)


def _paired_items(
    a: Cohort, b: Cohort, quant: str, task: str
) -> tuple[tuple[ItemTable, Int64Array], tuple[ItemTable, Int64Array]] | None:
    """Both tables and, in each, the places of the items that both have, in the same order."""
    if not all(cohort.quant(quant).tasks[task].items_file.exists() for cohort in (a, b)):
        return None
    left, right = a.items(quant, task), b.items(quant, task)
    where = {item: i for i, item in enumerate(right.id)}
    places = [(i, where[item]) for i, item in enumerate(left.id) if item in where]
    if not places:
        return None
    rows_a, rows_b = np.array(places, np.int64).T
    return (left, rows_a), (right, rows_b)


def _base_flips(a: Cohort, b: Cohort, names: Sequence[str]) -> Iterator[tuple[str, int, int]]:
    for task in a.tasks:
        for name in names:
            if task not in a.quant(name).tasks or task not in b.quant(name).tasks:
                continue
            pair = _paired_items(a, b, name, task)
            if pair is not None:
                (left, rows_a), (right, rows_b) = pair
                flips: BoolArray = left.base_correct[rows_a] != right.base_correct[rows_b]
                yield task, int(flips.sum()), len(rows_a)
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
    half = float(stats.norm.ppf((1 + level) / 2)) * stderr
    p = float(2 * stats.norm.sf(abs(value) / stderr)) if stderr else (1.0 if value == 0 else None)
    return Estimate(value, stderr, value - half, value + half, level, n, clusters, a.unit), p


def _floor(cohort: Cohort, text: str) -> float:
    entry = (((cohort.null_control or {}).get("texts") or {}).get(text) or {}).get("kld_mean")
    ends = [entry.get(key) for key in ("value", "low", "high")] if isinstance(entry, Mapping) else [entry]
    return max((abs(float(end)) for end in ends if end is not None), default=0.0)


def _setting_differences(
    a: Mapping[str, Any], b: Mapping[str, Any], prefix: str = ""
) -> Iterator[tuple[str, str, str]]:
    for key in dict.fromkeys([*a, *b]):
        left, right = a.get(key, "not set"), b.get(key, "not set")
        if isinstance(left, Mapping) and isinstance(right, Mapping):
            yield from _setting_differences(left, right, f"{prefix}{key}.")
        elif left != right:
            yield f"{prefix}{key}", str(left), str(right)


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
    if diff.settings:
        yield "Settings that differ: " + "; ".join(f"{k} {a} -> {b}" for k, a, b in diff.settings) + "."
    else:
        yield "All recorded settings are the same."
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
