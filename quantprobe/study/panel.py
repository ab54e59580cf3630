"""A cohort as arrays over quants: what every question of the study starts from."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import numpy as np

from quantprobe.arrays import BoolArray, FloatArray, Int64Array
from quantprobe.probes.grouping import UNGROUPED
from quantprobe.run.cohort import Cohort
from quantprobe.run.floor import is_at_floor
from quantprobe.run.items import PairedAnswers
from quantprobe.run.results import Quant
from quantprobe.stats.design import ItemDesign, item_design
from quantprobe.study.fidelity import Variable, direction_variables, fidelity_variables, number, task_number

MAX_INVALID = 0.1
"""A quant with a larger share of invalid items is left out item by item, so that the others keep their items."""


@dataclass(frozen=True)
class TaskScores:
    """What `results.json` says about each task: `[n_tasks, n_quants]` float64, NaN where a quant lacks the task."""

    names: tuple[str, ...]
    acc: FloatArray
    acc_norm: FloatArray
    acc_base: FloatArray
    drops: FloatArray
    leapfrogs: FloatArray
    n_items: FloatArray
    chance: FloatArray
    """`[n_tasks]`, accuracy of guessing; NaN where the number of choices is unknown."""


@dataclass(frozen=True)
class TaskAnswers:
    """One task item by item, over the items that are valid in the base and in all of its quants."""

    name: str
    quants: Int64Array
    """Which quants of the panel have answers, `[n_rows]`; the rows of the arrays below."""
    design: ItemDesign
    base_correct: BoolArray
    """`[n_rows, n_items]`, as are `correct` and `kld` (nats; NaN where unknown)."""
    correct: BoolArray
    kld: FloatArray

    @property
    def clusters(self) -> Int64Array:
        """`[n_items]`, the cluster of each item."""
        return self.design.clusters


@dataclass(frozen=True)
class TextWindows:
    """One text's KLD window by window, over the windows that all of its quants have."""

    name: str
    quants: Int64Array
    kld_sums: FloatArray
    """`[n_rows, n_windows]`, nats."""
    counts: FloatArray
    """`[n_windows]`, rows in each window."""


@dataclass(frozen=True)
class Panel:
    """Everything that is known about a cohort, as arrays; `remarks` says what is missing and what that prevents."""

    names: tuple[str, ...]
    sizes: FloatArray
    """`[n_quants]` bytes, NaN where unknown."""
    fidelity: tuple[Variable, ...]
    direction: tuple[Variable, ...]
    scores: TaskScores
    tasks: tuple[TaskAnswers, ...]
    texts: tuple[TextWindows, ...]
    remarks: tuple[str, ...]
    families: tuple[str, ...] = ()
    """How each quant was made, where known: `imatrix` or `no imatrix`; () for one family."""
    digests: tuple[str, ...] = ()
    """What tells each quant's content apart (`Quant.content`), "" where unknown; () where none is known."""
    bpw: FloatArray = field(default_factory=lambda: np.zeros(0))
    """`[n_quants]` bits per weight, NaN where unknown; empty where none is known."""

    @property
    def n_quants(self) -> int:
        return len(self.names)

    @property
    def family_codes(self) -> Int64Array:
        """The family of each quant as a number, `[n_quants]`."""
        numbers = {name: i for i, name in enumerate(dict.fromkeys(self.families))}
        return np.array([numbers[name] for name in self.families] or [0] * self.n_quants, np.int64)


def read_panel(cohort: Cohort) -> Panel:
    """Gather a cohort's numbers and, where the files are there, its items and rows."""
    remarks = _floor_remarks(cohort)
    found = {task: _read_answers(cohort, task, remarks) for task in cohort.tasks}
    texts = [_read_windows(cohort, text, remarks) for text in cohort.texts]
    tasks = [_common_answers(cohort, task, found[task], remarks) for task in cohort.tasks]
    return Panel(
        names=tuple(quant.name for quant in cohort.quants),
        sizes=np.array([number(quant.size_bytes) for quant in cohort.quants]),
        fidelity=fidelity_variables(cohort),
        direction=direction_variables(cohort),
        scores=_scores(cohort, found, remarks),
        tasks=tuple(task for task in tasks if task is not None),
        texts=tuple(text for text in texts if text is not None),
        remarks=tuple(remarks),
        families=tuple(_family(quant) for quant in cohort.quants),
        digests=tuple(quant.content for quant in cohort.quants),
        bpw=np.array([number(quant.bpw) for quant in cohort.quants]),
    )


def _family(quant: Quant) -> str:
    return "no imatrix" if quant.imatrix is None else "imatrix"


def _floor_remarks(cohort: Cohort) -> list[str]:
    """Which quants moved no further than the base itself does when it is run twice (the null control)."""
    remarks: list[str] = []
    for text in cohort.texts:
        floor = cohort.floor(text)
        at_floor = [q.name for q in cohort.quants if text in q.texts and is_at_floor(q.texts[text].kld_mean, floor)]
        if at_floor:
            remarks.append(
                f"{_list(at_floor)}: mean KLD on {text} is at the instrument's floor ({floor:.2g} nats, the base "
                "against itself); nothing should be read into differences there."
            )
    return remarks


def _scores(cohort: Cohort, found: dict[str, dict[int, PairedAnswers]], remarks: list[str]) -> TaskScores:
    def value(name: str) -> FloatArray:
        rows = [[task_number(quant, task, name) for quant in cohort.quants] for task in cohort.tasks]
        return np.array(rows, np.float64).reshape(len(cohort.tasks), len(cohort.quants))

    for task in cohort.tasks:
        without = [quant.name for quant in cohort.quants if task not in quant.tasks]
        if without:
            remarks.append(
                f"{_list(without)} {'was' if len(without) == 1 else 'were'} not measured on {task}: "
                f"left out of {task} and of everything pooled over tasks."
            )
    return TaskScores(
        names=cohort.tasks,
        acc=value("acc"), acc_norm=value("acc_norm"), acc_base=value("acc_base"),
        drops=value("drops"), leapfrogs=value("leapfrogs"), n_items=value("n_items"),
        chance=np.array([_chance(found[task]) for task in cohort.tasks]),
    )  # fmt: skip


def _chance(found: dict[int, PairedAnswers]) -> float:
    for answers in found.values():
        n_choices = answers.base.n_choices
        if (n_choices > 1).all():
            return float((1 / n_choices).mean())
    return np.nan


def _read_answers(cohort: Cohort, task: str, remarks: list[str]) -> dict[int, PairedAnswers]:
    """The answers of each quant that has an item file, by its place in the cohort."""
    having = [(index, quant.name) for index, quant in enumerate(cohort.quants) if task in quant.tasks]
    found = {index: cohort.items(name, task) for index, name in having if cohort.has_items(name, task)}
    sampled = [index for index, pair in found.items() if pair.sample is not None]
    broken = [i for i, pair in found.items() if i not in sampled and pair.valid.mean() < 1 - MAX_INVALID]
    for why, names in (
        (f"No item file of {task} for", [name for index, name in having if index not in found]),
        (f"More than {MAX_INVALID:.0%} of the items of {task} are invalid in", [cohort.quants[i].name for i in broken]),
        (f"A sample of {task} alone was decoded by", [cohort.quants[i].name for i in sampled]),
    ):
        if names:
            remarks.append(
                f"{why} {_list(names)}: reliability, groups, frontiers and item-level questions leave "
                f"{'it' if len(names) == 1 else 'them'} out."
            )
    return {index: pair for index, pair in found.items() if index not in (*broken, *sampled)}


def _common_answers(
    cohort: Cohort, task: str, found: dict[int, PairedAnswers], remarks: list[str]
) -> TaskAnswers | None:
    if not found:
        return None
    pairs = list(found.values())
    first = pairs[0].base
    common = set(first.ids).intersection(*(itertools.compress(pair.base.ids, pair.valid) for pair in pairs))
    ids = [item for item in first.ids if item in common]
    longest = max(pair.base.n_items for pair in pairs)
    if len(ids) < longest:
        remarks.append(
            f"{task}: {longest - len(ids)} of {longest} items are not in every file, or invalid in one, and are left "
            "out."
        )
    if not ids:
        return None
    orders = [_order(pair.base.ids, ids) for pair in pairs]
    aligned = list(zip(pairs, orders, strict=True))
    base = np.array([pair.base.correct[order] for pair, order in aligned])
    if (base != base[0]).any():
        remarks.append(f"{task}: the base's answers differ between files; each quant is paired with its own.")
    facts = cohort.tasks_facts.get(task)
    return TaskAnswers(
        name=task,
        quants=np.array(list(found), np.int64),
        design=item_design([first.groups[i] for i in orders[0]], facts.grouping if facts else UNGROUPED),
        base_correct=base,
        correct=np.array([pair.quant.correct[order] for pair, order in aligned]),
        kld=np.array([_klds(pair)[order] for pair, order in aligned]),
    )


def _klds(pair: PairedAnswers) -> FloatArray:
    return np.full(pair.quant.n_items, np.nan) if pair.quant.kld is None else pair.quant.kld


def _order(found: tuple[str, ...], ids: list[str]) -> Int64Array:
    places = {item: place for place, item in enumerate(found)}
    return np.array([places[item] for item in ids], np.int64)


def _read_windows(cohort: Cohort, text: str, remarks: list[str]) -> TextWindows | None:
    means: dict[int, dict[int, float]] = {}
    counts: dict[int, int] = {}
    missing: list[str] = []
    for index, quant in enumerate(cohort.quants):
        if text not in quant.texts:
            continue
        if not cohort.has_rows(quant.name, text):
            missing.append(quant.name)
            continue
        rows = cohort.rows(quant.name, text, ())
        kld, windows = np.asarray(rows["kld"], np.float64), rows["windows"]
        finite = np.isfinite(kld)
        numbers, codes = np.unique(windows, return_inverse=True)
        n_finite = np.bincount(codes, weights=finite, minlength=len(numbers))
        sums = np.bincount(codes, weights=np.where(finite, kld, 0.0), minlength=len(numbers))
        means[index] = {int(w): s / n for w, s, n in zip(numbers, sums, n_finite, strict=True) if n}
        counts |= {int(w): int(n) for w, n in zip(numbers, np.bincount(codes), strict=True)}
    if missing:
        remarks.append(f"No row file of {text} for {_list(missing)}: the reliability of KLD is computed without.")
    common = sorted(set.intersection(*(set(m) for m in means.values()))) if means else []
    if len(common) < 2:
        return None
    n_rows = np.array([counts[w] for w in common], np.float64)
    kld_sums = np.array([[m[w] for w in common] for m in means.values()]) * n_rows
    return TextWindows(text, np.array(list(means), np.int64), kld_sums, n_rows)


def _list(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
