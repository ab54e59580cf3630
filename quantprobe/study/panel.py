"""A cohort as arrays over quants: what every question of the study starts from."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from quantprobe.arrays import BoolArray, FloatArray, Int64Array
from quantprobe.errors import InputError
from quantprobe.run.cohort import Cohort
from quantprobe.run.tables import ItemTable
from quantprobe.stats.clusters import item_clusters
from quantprobe.stats.design import ItemDesign
from quantprobe.stats.estimates import Estimate
from quantprobe.study.fidelity import Variable, direction_variables, fidelity_variables, task_number


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
    """One task item by item, over the items that all of its quants answered."""

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
    """How each quant was made, where known (importance matrix or not, quantizer, uploader); () for one family."""
    digests: tuple[str, ...] = ()
    """SHA-256 of each quant's content, "" where unknown; () where none is known."""
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
    tables = {task: _read_tables(cohort, task, remarks) for task in cohort.tasks}
    texts = [_read_windows(cohort, text, remarks) for text in cohort.texts]
    answers = [_answers(cohort, task, tables[task], remarks) for task in cohort.tasks]
    return Panel(
        names=tuple(quant.name for quant in cohort.quants),
        sizes=np.array([_nan(quant.size_bytes) for quant in cohort.quants]),
        fidelity=fidelity_variables(cohort),
        direction=direction_variables(cohort),
        scores=_scores(cohort, tables, remarks),
        tasks=tuple(task for task in answers if task is not None),
        texts=tuple(text for text in texts if text is not None),
        remarks=tuple(remarks),
    )


def _floor_remarks(cohort: Cohort) -> list[str]:
    """Which quants moved no further than the base itself does when it is run twice (the null control)."""
    remarks: list[str] = []
    for text in cohort.texts:
        floor = cohort.floors.get(text)
        if floor is None:
            continue
        at_floor = [
            q.name for q in cohort.quants if text in q.texts and _is_at(q.texts[text].values["kld_mean"], floor)
        ]
        if at_floor:
            remarks.append(
                f"{_list(at_floor)}: mean KLD on {text} is at the instrument's floor ({floor:.2g} nats, the base "
                "against itself); nothing should be read into differences there."
            )
    return remarks


def _is_at(estimate: Estimate, floor: float) -> bool:
    return estimate.value is not None and estimate.value <= floor


def _nan(value: float | None) -> float:
    return np.nan if value is None else float(value)


def _scores(cohort: Cohort, tables: dict[str, dict[int, ItemTable]], remarks: list[str]) -> TaskScores:
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
        chance=np.array([_chance(tables[task]) for task in cohort.tasks]),
    )  # fmt: skip


def _chance(tables: dict[int, ItemTable]) -> float:
    for table in tables.values():
        n_choices = table.n_choices()
        if table.n_items and (n_choices > 1).all():
            return float((1 / n_choices).mean())
    return np.nan


def _read_tables(cohort: Cohort, task: str, remarks: list[str]) -> dict[int, ItemTable]:
    tables: dict[int, ItemTable] = {}
    missing: list[str] = []
    for index, quant in enumerate(cohort.quants):
        if task not in quant.tasks:
            continue
        try:
            tables[index] = cohort.items(quant.name, task)
        except InputError:
            missing.append(quant.name)
    if missing:
        remarks.append(
            f"No item file of {task} for {_list(missing)}: reliability, groups, frontiers and item-level "
            f"questions leave {'it' if len(missing) == 1 else 'them'} out."
        )
    return tables


def _answers(cohort: Cohort, task: str, tables: dict[int, ItemTable], remarks: list[str]) -> TaskAnswers | None:
    if not tables:
        return None
    first = next(iter(tables.values()))
    common = set(first.id).intersection(*(table.id for table in tables.values()))
    ids = [item for item in first.id if item in common]
    longest = max(table.n_items for table in tables.values())
    if len(ids) < longest:
        remarks.append(f"{task}: {longest - len(ids)} of {longest} items are not in every file and are left out.")
    if not ids:
        return None
    orders = [_order(table, ids) for table in tables.values()]
    groups = [first.group[i] for i in orders[0]]
    base = np.array([table.base_correct[order] for table, order in zip(tables.values(), orders, strict=True)])
    if (base != base[0]).any():
        remarks.append(f"{task}: the base's answers differ between files; each quant is paired with its own.")
    return TaskAnswers(
        name=task,
        quants=np.array(list(tables), np.int64),
        design=ItemDesign(np.zeros(len(ids), np.int64), item_clusters(groups)),
        base_correct=base,
        correct=np.array([table.quant_correct[order] for table, order in zip(tables.values(), orders, strict=True)]),
        kld=np.array([table.kld[order] for table, order in zip(tables.values(), orders, strict=True)]),
    )


def _order(table: ItemTable, ids: list[str]) -> Int64Array:
    if list(table.id) == ids:
        return np.arange(len(ids), dtype=np.int64)
    places = {item: place for place, item in enumerate(table.id)}
    return np.array([places[item] for item in ids], np.int64)


def _read_windows(cohort: Cohort, text: str, remarks: list[str]) -> TextWindows | None:
    means: dict[int, dict[int, float]] = {}
    counts: dict[int, int] = {}
    missing: list[str] = []
    for index, quant in enumerate(cohort.quants):
        if text not in quant.texts:
            continue
        try:
            rows = cohort.rows(quant.name, text, ("finite",))
        except InputError:
            missing.append(quant.name)
            continue
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
