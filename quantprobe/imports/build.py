"""Measurements made elsewhere, as a run: logs of llama-perplexity and published CSV become a `results.json`."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from quantprobe.arrays import BoolArray
from quantprobe.errors import InputError, MismatchError
from quantprobe.imports.community_csv import CsvModel
from quantprobe.imports.llama_logs import read_kld_log, read_task_log
from quantprobe.run.cohort import Cohort
from quantprobe.run.items import COLUMNS
from quantprobe.run.results import FORMAT_VERSION
from quantprobe.stats.design import as_design
from quantprobe.stats.estimates import Estimate, fraction_estimate
from quantprobe.stats.paired import PairedChange, compare_paired
from quantprobe.stats.sign_flips import ChangeTable
from quantprobe.stats.verdicts import Judged, judge

LEVEL = 0.95


@dataclass(frozen=True)
class ImportedQuant:
    """What somebody else measured on one quant."""

    name: str
    texts: Mapping[str, Mapping[str, Estimate]] = field(default_factory=dict)
    n_rows: Mapping[str, int | None] = field(default_factory=dict)
    answers: Mapping[str, BoolArray] = field(default_factory=dict)
    """Per task which items were right, in the order in which the tool ran them: `[n_items]`."""
    path: str = ""
    size_bytes: int | None = None
    bpw: float | None = None


@dataclass(frozen=True)
class ImportedRun:
    """A `results.json` and the item tables beside it, not yet written."""

    results: Mapping[str, Any]
    items: Mapping[tuple[str, str], str]
    """CSV text by (quant, task), for `RUN/items/QUANT/TASK.csv`."""


def import_logs(logs: Sequence[tuple[str, Path]], text: str | None, task: str | None) -> list[ImportedQuant]:
    """Read (quant, log) pairs, all of the same text (`--kl-divergence`) or all of the same task.

    Raises InputError unless exactly one of `text` and `task` is given, and whatever the readers raise.
    """
    if (text is None) == (task is None):
        raise InputError("name the text or the task that the logs are of: one of the two, and only one")
    quants = []
    for name, file in logs:
        if text is not None:
            log = read_kld_log(file)
            quants.append(ImportedQuant(name, texts={text: log.values}, n_rows={text: log.n_rows}))
        elif task is not None:
            quants.append(ImportedQuant(name, answers={task: read_task_log(file).correct}))
    return quants


def import_csv(models: Sequence[CsvModel], text: str) -> list[ImportedQuant]:
    """The lines of a published CSV as quants measured on `text`."""
    return [
        ImportedQuant(
            name=model.name,
            texts={text: model.values},
            n_rows={text: None},
            path=model.path,
            size_bytes=model.size_bytes,
            bpw=model.bpw,
        )
        for model in models
    ]


def build_run(
    quants: Sequence[ImportedQuant],
    base_name: str,
    base_answers: Mapping[str, BoolArray],
    source: str,
    like: Cohort | None = None,
    margin: float = 0.01,
) -> ImportedRun:
    """Make a run of imported quants that `study`, `report` and `diff` read like any other.

    Parameters
    ----------
    base_answers
        The base's own answers to the tasks; without them a task has an accuracy but no drops, leapfrogs or verdict.
    source
        What measured it, kept in the settings of each text and task (`measured_by`).
    like
        A cohort that the importer vouches has the same base and settings: both are taken from it, and size and
        SHA-256 of the quants that it knows by name, so that the two can be studied together.
    margin
        The change of accuracy, as a fraction, that is called equivalent.

    Raises
    ------
    InputError
        No quant, or a name that occurs twice.
    MismatchError
        Base and quant answered different numbers of items of a task.
    """
    names = [quant.name for quant in quants]
    if not names or len(set(names)) != len(names):
        raise InputError("each quant needs a name of its own" if names else "nothing to import")
    texts = list(dict.fromkeys(text for quant in quants for text in quant.texts))
    tasks = list(dict.fromkeys(task for quant in quants for task in quant.answers))
    entries = {task: _task_entries(task, quants, base_answers.get(task), margin) for task in tasks}
    settings = dict(like.settings) if like else {}
    for kind, probes in (("texts", texts), ("tasks", tasks)):
        known = settings.get(kind)
        measured = {probe: {"measured_by": source} for probe in probes}
        settings[kind] = {**(known if isinstance(known, Mapping) else {}), **measured}
    results = {
        "format_version": FORMAT_VERSION,
        "base": _base(base_name, like),
        "settings": settings,
        "null_control": None,
        "quants": [
            _quant_entry(quant, like, {task: entries[task].get(quant.name) for task in tasks}) for quant in quants
        ],
        "study": None,
    }
    items = {
        (quant.name, task): _items_csv(task, base_answers[task], answers)
        for quant in quants
        for task, answers in quant.answers.items()
        if task in base_answers
    }
    return ImportedRun(results, items)


def _base(name: str, like: Cohort | None) -> dict[str, Any]:
    if like is not None:
        base = like.base
        return {
            "name": base.name, "path": base.path, "sha256": base.sha256, "size_bytes": base.size_bytes, "bpw": base.bpw,
            "architecture": base.architecture, "n_vocab": base.n_vocab, "tokenizer_sha256": base.tokenizer_sha256,
        }  # fmt: skip
    unknown = {"path": "", "sha256": "", "size_bytes": None, "bpw": None, "architecture": "", "n_vocab": None}
    return {"name": name, **unknown, "tokenizer_sha256": ""}


def _quant_entry(quant: ImportedQuant, like: Cohort | None, tasks: Mapping[str, Any]) -> dict[str, Any]:
    twin = next((known for known in like.quants if known.name == quant.name), None) if like else None
    texts = {name: _text_entry(values, quant.n_rows.get(name)) for name, values in quant.texts.items()}
    return {
        "name": quant.name,
        "path": quant.path or (twin.path if twin else ""),
        "sha256": twin.sha256 if twin else "",
        "size_bytes": twin.size_bytes if twin else quant.size_bytes,
        "bpw": twin.bpw if twin else quant.bpw,
        "file_type": twin.file_type if twin else "",
        "imatrix": dict(twin.imatrix) if twin and twin.imatrix else None,
        "texts": texts,
        "tasks": {name: entry for name, entry in tasks.items() if entry is not None},
    }


def _text_entry(values: Mapping[str, Estimate], n_rows: int | None) -> dict[str, Any]:
    plain = ("kld_median", "kld_p90", "kld_p95", "kld_p99", "kld_p999", "kld_max")
    entry: dict[str, Any] = {key: e.value if key in plain else e.to_dict() for key, e in values.items()}
    return {**entry, "n_rows": n_rows, "n_nonfinite": None}


def _task_entries(
    task: str, quants: Sequence[ImportedQuant], base: BoolArray | None, margin: float
) -> dict[str, dict[str, Any]]:
    measured = {quant.name: quant.answers[task] for quant in quants if task in quant.answers}
    if base is None:
        return {name: _accuracy_alone(answers) for name, answers in measured.items()}
    changes = {}
    for name, answers in measured.items():
        if len(answers) != len(base):
            raise MismatchError(
                f"{name} answered {len(answers)} items of {task} and the base {len(base)}; run both over the same items"
            )
        changes[name] = compare_paired(base, answers, np.arange(len(base)), LEVEL)
    if not changes:
        return {}
    values = np.array([measured[name].astype(np.float64) - base for name in changes])
    judged = judge({task: ChangeTable(values, as_design(np.arange(len(base))))}, margin, LEVEL).first
    return {
        name: _task_entry(measured[name], base, change, one, margin)
        for (name, change), one in zip(changes.items(), judged, strict=True)
        if one is not None
    }


def _accuracy_alone(answers: BoolArray) -> dict[str, Any]:
    accuracy = fraction_estimate(answers, np.arange(len(answers)), LEVEL)
    counts = {"drops": None, "leapfrogs": None, "n_items": len(answers), "verdict": None}
    return {"rule": "tokens", "acc": accuracy.to_dict(), **counts}


def _task_entry(
    answers: BoolArray, base: BoolArray, change: PairedChange, judged: Judged, margin: float
) -> dict[str, Any]:
    alone = np.arange(len(answers))
    flips = change.drops + change.leapfrogs
    return {
        "rule": "tokens",
        "acc": fraction_estimate(answers, alone, LEVEL).to_dict(),
        "acc_base": fraction_estimate(base, alone, LEVEL).to_dict(),
        "drops": change.drops,
        "leapfrogs": change.leapfrogs,
        "volume": change.volume.to_dict(),
        "net": judged.net.to_dict(),
        "direction_index": (change.leapfrogs - change.drops) / flips if flips else None,
        "mcnemar_p": change.mcnemar_p,
        "adjusted_p": judged.adjusted_p,
        "alpha_star": judged.alpha_star,
        "verdict": judged.verdict,
        "sentence": judged.sentence,
        "margin": margin,
        "mde": judged.mde,
        "n_items": len(answers),
        "n_invalid": None,
    }


def _items_csv(task: str, base: BoolArray, answers: BoolArray) -> str:
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for number, (before, after) in enumerate(zip(base.tolist(), answers.tolist(), strict=True), 1):
        writer.writerow({"id": f"{task}-{number}", "base_correct": int(before), "quant_correct": int(after)})
    return out.getvalue()
