"""A cohort: the quants of one base, gathered from one or more runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from quantprobe.errors import InputError, MismatchError
from quantprobe.gguf.model import ModelIdentity
from quantprobe.run.compare import Difference, require_comparable, setting_differences
from quantprobe.run.floor import text_floor
from quantprobe.run.folder import RunFolder
from quantprobe.run.items import PairedAnswers, read_items
from quantprobe.run.results import (
    CalibrationOverlap,
    MachineFloor,
    NullControl,
    Quant,
    Results,
    TaskFacts,
    TextFacts,
    read_results,
)
from quantprobe.run.rows import read_rows


@dataclass(frozen=True)
class Cohort:
    """Quants of one base under settings that may be compared; items and rows are read when asked for."""

    base: ModelIdentity
    settings: Mapping[str, Any]
    quants: tuple[Quant, ...]
    null_control: NullControl | None
    tasks_facts: Mapping[str, TaskFacts]
    """By task, what holds for every quant; empty where no run tells."""
    runs: tuple[RunFolder, ...]
    texts_facts: Mapping[str, TextFacts] = field(default_factory=dict)
    """By text of conversations, what holds for every quant."""
    differences: tuple[Difference, ...] = ()
    """Settings in which the runs differ, those that were allowed and those that move no logits."""
    machine_floors: tuple[MachineFloor, ...] = ()
    """Of the runs that were made on another machine than their capture."""
    overlaps: tuple[CalibrationOverlap, ...] = ()
    """Of texts and tasks with calibration texts, as far as the runs know."""
    rows_files: Mapping[tuple[str, str], Path] = field(default_factory=dict)
    """By quant and text, where the row metrics lie if the run kept them."""
    items_files: Mapping[tuple[str, str], Path] = field(default_factory=dict)
    """By quant and task, where the answers lie if the run kept them."""

    @property
    def texts(self) -> tuple[str, ...]:
        """Names of all texts, in the order in which they first occur."""
        return tuple(dict.fromkeys(name for quant in self.quants for name in quant.texts))

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of all tasks, in the order in which they first occur."""
        return tuple(dict.fromkeys(name for quant in self.quants for name in quant.tasks))

    def own_lines(self) -> Cohort:
        """The same without lines of cache types that are not the run's, where there are others: files are judged and
        recommended by what their weights do."""
        own = tuple(quant for quant in self.quants if not quant.variant)
        return replace(self, quants=own) if own else self

    def quant(self, name: str) -> Quant:
        for quant in self.quants:
            if quant.name == name:
                return quant
        raise InputError(f"no quant {name!r} in this cohort; it has {', '.join(q.name for q in self.quants)}")

    def floor(self, text: str) -> float | None:
        """Mean KLD (nats) of the base against itself on a text; None where no null control was run.

        Where a run was made on another machine than its capture, at least what was measured there.
        """
        floors = [floor.kld_mean for floor in self.machine_floors]
        floors.append(None if self.null_control is None else text_floor(self.null_control.texts.get(text)))
        return max((floor for floor in floors if floor is not None), default=None)

    def has_items(self, quant: str, task: str) -> bool:
        """Whether the run of this quant kept its answers to the task."""
        return (quant, task) in self.items_files and self.items_files[quant, task].is_file()

    def has_rows(self, quant: str, text: str) -> bool:
        """Whether the run of this quant kept its row metrics on the text."""
        return (quant, text) in self.rows_files and self.rows_files[quant, text].is_file()

    def items(self, quant: str, task: str) -> PairedAnswers:
        """The answers of base and quant to `task`. Raises InputError where there are none."""
        if task not in self.quant(quant).tasks:
            raise InputError(f"{quant} was not measured on the task {task!r}; the cohort has {', '.join(self.tasks)}")
        return read_items(self.items_files[quant, task])

    def rows(self, quant: str, text: str, names: Sequence[str] | None = None) -> Mapping[str, NDArray[Any]]:
        """Row metrics of `quant` on `text` (all, or `names`), `[n_rows]` each. Raises InputError if there are none."""
        if text not in self.quant(quant).texts:
            raise InputError(f"{quant} was not measured on the text {text!r}; the cohort has {', '.join(self.texts)}")
        return read_rows(self.rows_files[quant, text], names)


def read_cohort(runs: Sequence[Path], allow: Sequence[str] = ()) -> Cohort:
    """Read runs and merge them: same base, settings that may be compared, each quant once.

    A quant that occurs in several runs (same SHA-256) gets the texts and tasks of all; what was measured twice is
    taken from the first run. Two different files of the same name are told apart by their run: `NAME@RUN`.

    Parameters
    ----------
    runs
        Folders with a `results.json`, or such files.
    allow
        Settings, by name (`backend`, or `texts.wiki` for a nested one), in which the runs may differ although they
        move logits.

    Raises
    ------
    MismatchError
        Another base, or a setting that moves logits differs and is not allowed to; the message names all of them.
    FileFormatError, InputError
        As `read_results`.
    """
    if not runs:
        raise InputError("no run given; name the folder of at least one run")
    folders = tuple(RunFolder.of(Path(run)) for run in runs)
    results = [read_results(folder.results) for folder in folders]
    return merge_runs(folders, results, allow)


def merge_runs(folders: Sequence[RunFolder], results: Sequence[Results], allow: Sequence[str] = ()) -> Cohort:
    """`read_cohort` of runs that are read already."""
    differences: list[Difference] = []
    for folder, other in zip(folders[1:], results[1:], strict=True):
        _require_same_base(folders[0], results[0], folder, other)
        found = setting_differences(results[0].settings, other.settings)
        differences += require_comparable(found, allow, f"{folders[0].path} and {folder.path}")
    settings: dict[str, Any] = {}
    facts: dict[str, TaskFacts] = {}
    of_texts: dict[str, TextFacts] = {}
    for one in reversed(results):
        settings |= one.settings
        facts |= one.tasks
        of_texts |= one.texts
    quants, rows_files, items_files = _merge_quants(folders, results)
    return Cohort(
        base=results[0].base,
        settings=settings,
        quants=quants,
        null_control=_merge_controls([one.null_control for one in results if one.null_control is not None]),
        tasks_facts=facts,
        runs=tuple(folders),
        texts_facts=of_texts,
        differences=tuple(dict.fromkeys(differences)),
        machine_floors=tuple(dict.fromkeys(one.machine_floor for one in results if one.machine_floor is not None)),
        overlaps=tuple({(one.dataset, one.probe): one for run in reversed(results) for one in run.overlaps}.values()),
        rows_files=rows_files,
        items_files=items_files,
    )


_Files = dict[tuple[str, str], Path]


def _merge_quants(folders: Sequence[RunFolder], results: Sequence[Results]) -> tuple[tuple[Quant, ...], _Files, _Files]:
    merged: dict[str, Quant] = {}
    rows: dict[str, dict[str, Path]] = {}
    items: dict[str, dict[str, Path]] = {}
    names: dict[str, str] = {}
    for folder, one in zip(folders, results, strict=True):
        for quant in one.quants:
            key = quant.content or f"name {quant.name}"
            known = merged.get(key)
            if known is None:
                names[key] = _unique_name(quant.name, folder, set(names.values()))
                merged[key] = replace(quant, name=names[key])
            else:  # the first run's measurement stays
                merged[key] = replace(
                    known, texts={**quant.texts, **known.texts}, tasks={**quant.tasks, **known.tasks}, pooled=None
                )
            rows[key] = {**_rows_of(folder, quant), **rows.get(key, {})}
            items[key] = {**_items_of(folder, quant), **items.get(key, {})}
    return (
        tuple(merged.values()),
        {(names[key], text): path for key, paths in rows.items() for text, path in paths.items()},
        {(names[key], task): path for key, paths in items.items() for task, path in paths.items()},
    )


def _rows_of(folder: RunFolder, quant: Quant) -> dict[str, Path]:
    named = quant.files.texts
    return {t: folder.inside(named[t]) if t in named else folder.rows(quant.name, t) for t in quant.texts}


def _items_of(folder: RunFolder, quant: Quant) -> dict[str, Path]:
    named = quant.files.tasks
    return {t: folder.inside(named[t]) if t in named else folder.items(quant.name, t) for t in quant.tasks}


def _unique_name(name: str, folder: RunFolder, taken: set[str]) -> str:
    unique = name if name not in taken else f"{name}@{folder.name}"
    while unique in taken:
        unique += "'"
    return unique


def _merge_controls(controls: Sequence[NullControl]) -> NullControl | None:
    if not controls:
        return None
    texts = {name: null for control in reversed(controls) for name, null in control.texts.items()}
    tasks = {name: null for control in reversed(controls) for name, null in control.tasks.items()}
    return NullControl(texts=texts, tasks=tasks)


def _require_same_base(first: RunFolder, a: Results, second: RunFolder, b: Results) -> None:
    same = a.base.sha256 == b.base.sha256 and (a.base.sha256 or a.base.name == b.base.name)
    if not same:
        raise MismatchError(
            f"{first.path} and {second.path} have different bases, {a.base.name} ({a.base.sha256[:12]}) and "
            f"{b.base.name} ({b.base.sha256[:12]}); a cohort is measured against one base, and imported results join "
            "one with --like RUN"
        )
