"""A cohort: the quants of one base, gathered from one or more runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from quantprobe.errors import InputError, MismatchError
from quantprobe.run.results import ModelRecord, QuantRecord, RunRecord, TaskRecord, TextRecord, read_results
from quantprobe.run.tables import ItemTable, read_items, read_rows

__all__ = ["Cohort", "ItemTable", "ModelRecord", "QuantRecord", "TaskRecord", "TextRecord", "read_cohort"]

PROBE_SETTINGS = ("texts", "tasks", "probes")
"""Settings that describe one probe each: runs may have measured different probes, but not the same one differently."""


@dataclass(frozen=True)
class Cohort:
    """Quants of one base under one set of settings; per-item and per-row files are read when asked for."""

    base: ModelRecord
    settings: Mapping[str, Any]
    quants: tuple[QuantRecord, ...]
    null_control: Mapping[str, Any] | None
    floors: Mapping[str, float]
    """Mean KLD of the base against itself, by text (nats): the instrument's floor."""
    runs: tuple[Path, ...]

    @property
    def texts(self) -> tuple[str, ...]:
        """Names of all texts, in the order in which they first occur."""
        return tuple(dict.fromkeys(name for quant in self.quants for name in quant.texts))

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of all tasks, in the order in which they first occur."""
        return tuple(dict.fromkeys(name for quant in self.quants for name in quant.tasks))

    def quant(self, name: str) -> QuantRecord:
        for quant in self.quants:
            if quant.name == name:
                return quant
        raise InputError(f"no quant {name!r} in this cohort; it has {', '.join(q.name for q in self.quants)}")

    def items(self, quant: str, task: str) -> ItemTable:
        """The answers of `quant` to `task`, one row per question. Raises InputError where there are none."""
        record = self.quant(quant).tasks.get(task)
        if record is None:
            raise InputError(f"{quant} was not measured on the task {task!r}; the cohort has {', '.join(self.tasks)}")
        return read_items(record.items_file)

    def rows(self, quant: str, text: str, names: Sequence[str] | None = None) -> Mapping[str, NDArray[Any]]:
        """Row metrics of `quant` on `text` (all, or `names`), `[n_rows]` each. Raises InputError if there are none."""
        record = self.quant(quant).texts.get(text)
        if record is None:
            raise InputError(f"{quant} was not measured on the text {text!r}; the cohort has {', '.join(self.texts)}")
        return read_rows(record.rows_file, names)


def read_cohort(runs: Sequence[Path], allow: Sequence[str] = ()) -> Cohort:
    """Read runs and merge them: same base, same settings, each quant once.

    A quant that occurs in several runs (same SHA-256) gets the texts and tasks of all; what was measured twice is
    taken from the first run. Two different files of the same name are told apart by their run: `NAME@RUN`.

    Parameters
    ----------
    runs
        Folders with a `results.json`, or such files.
    allow
        Settings, by name (`backend`, or `texts.wiki` for a nested one), in which the runs may differ.

    Raises
    ------
    MismatchError
        Another base, or a setting that differs and is not allowed to; the message names all of them.
    FileFormatError, InputError
        As `read_results`.
    """
    if not runs:
        raise InputError("no run given; a study needs the folder of at least one sweep")
    records = [read_results(Path(run)) for run in runs]
    first = records[0]
    for other in records[1:]:
        _check_same(first, other, allow)
    settings: dict[str, Any] = {}
    for record in reversed(records):
        settings |= record.settings
    controls = [record.null_control for record in records if record.null_control is not None]
    return Cohort(
        base=first.base,
        settings=settings,
        quants=_merge_quants(records),
        null_control=_merge_controls(controls) if controls else None,
        floors={text: kld for record in reversed(records) for text, kld in record.floors.items()},
        runs=tuple(record.run for record in records),
    )


def _merge_quants(records: Sequence[RunRecord]) -> tuple[QuantRecord, ...]:
    merged: dict[str, QuantRecord] = {}
    for quant in (quant for record in records for quant in record.quants):
        key = quant.sha256 or f"name {quant.name}"
        known = merged.get(key)
        if known is None:
            merged[key] = quant
        else:  # the first run's measurement stays
            texts = {**quant.texts, **known.texts}
            merged[key] = replace(known, texts=texts, tasks={**quant.tasks, **known.tasks})
    names: set[str] = set()
    unique: list[QuantRecord] = []
    for quant in merged.values():
        name = quant.name if quant.name not in names else f"{quant.name}@{quant.run.name}"
        while name in names:
            name += "'"
        names.add(name)
        unique.append(replace(quant, name=name))
    return tuple(unique)


def _merge_controls(controls: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for control in reversed(controls):
        for key, value in control.items():
            merged[key] = {**merged.get(key, {}), **value} if isinstance(value, dict) else value
    return merged


def _check_same(first: RunRecord, other: RunRecord, allow: Sequence[str]) -> None:
    if first.base.sha256 != other.base.sha256:
        raise MismatchError(
            f"{first.run} and {other.run} have different bases, {first.base.name} ({first.base.sha256[:12]}) and "
            f"{other.base.name} ({other.base.sha256[:12]}); a cohort is measured against one base"
        )
    left, right = _flatten(first.settings), _flatten(other.settings)
    differing = [
        f"{'.'.join(key)} is {left.get(key, 'not set')} and {right.get(key, 'not set')}"
        for key in sorted(left.keys() | right.keys())
        if left.get(key) != right.get(key) and not _is_allowed(key, allow) and not _is_other_probe(key, left, right)
    ]
    if differing:
        raise MismatchError(
            f"{first.run} and {other.run} were measured under different settings, so their numbers cannot be compared: "
            f"{'; '.join(differing)}. Measure again under the same settings, or allow each difference by its name"
        )


def _flatten(settings: Mapping[str, Any], prefix: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    flat: dict[tuple[str, ...], Any] = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            flat |= _flatten(value, (*prefix, key))
        else:
            flat[(*prefix, key)] = value
    return flat


def _is_allowed(key: tuple[str, ...], allow: Sequence[str]) -> bool:
    return any(".".join(key[:depth]) in allow for depth in range(1, len(key) + 1))


def _is_other_probe(
    key: tuple[str, ...], left: Mapping[tuple[str, ...], Any], right: Mapping[tuple[str, ...], Any]
) -> bool:
    """Whether `key` belongs to a probe (`texts`, NAME, ...) that only one of the two runs measured."""
    if key[0] not in PROBE_SETTINGS:
        return False
    return not all(any(name[:2] == key[:2] for name in side) for side in (left, right))
