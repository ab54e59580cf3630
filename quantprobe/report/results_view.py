"""results.json as tables and plots see it: typed, and checked once, here."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from quantprobe.errors import FileFormatError
from quantprobe.report.task_numbers import TaskFacts, TaskNumbers, read_facts, read_task
from quantprobe.run.results_file import FORMAT_VERSION
from quantprobe.stats.estimates import Estimate

ESTIMATES = ("ppl", "ppl_base", "ln_ppl_ratio", "kld_mean", "same_top", "delta_p_mean", "delta_p_rms")
QUANTILES = ("kld_median", "kld_p90", "kld_p95", "kld_p99", "kld_p999", "kld_max")
POOLED = "all tasks pooled"
"""Name of the table of all tasks together."""
COUNTS = ("token_drops", "token_leapfrogs", "n_rows", "n_nonfinite")


@dataclass(frozen=True)
class TextNumbers:
    """What one quant did on one text; units as in results.json (nats, fractions, counts)."""

    ppl: Estimate
    ppl_base: Estimate
    ln_ppl_ratio: Estimate
    kld_mean: Estimate
    same_top: Estimate
    delta_p_mean: Estimate
    delta_p_rms: Estimate
    kld_median: float | None
    kld_p90: float | None
    kld_p95: float | None
    kld_p99: float | None
    kld_p999: float | None
    kld_max: float | None
    token_drops: int
    token_leapfrogs: int
    n_rows: int
    n_nonfinite: int


@dataclass(frozen=True)
class NullText:
    """The base against its own capture on one text: the instrument's floor."""

    kld_mean: Estimate
    kld_max: float | None
    same_top: Estimate

    @property
    def floor(self) -> float:
        """Mean KLD in nats that this instrument shows where there is none; at or below it nothing is read.

        The far end of the interval, or the value where there is no interval.
        """
        ends = (self.kld_mean.low, self.kld_mean.high, self.kld_mean.value)
        return max((abs(end) for end in ends if end is not None), default=0.0)


@dataclass(frozen=True)
class ModelRow:
    """Identity of the base or of a quant."""

    name: str
    path: str
    sha256: str
    size_bytes: int | None
    """None where nobody told (imported answers)."""
    bpw: float | None
    file_type: str

    @property
    def size_gb(self) -> float | None:
        """Size in GB, 10^9 bytes."""
        return None if self.size_bytes is None else self.size_bytes / 1e9

    @property
    def size_gib(self) -> float | None:
        """Size in GiB, 2^30 bytes."""
        return None if self.size_bytes is None else self.size_bytes / 2**30


@dataclass(frozen=True)
class QuantRow:
    """One quant: identity, and numbers by text and by task."""

    model: ModelRow
    texts: Mapping[str, TextNumbers]
    tasks: Mapping[str, TaskNumbers] = field(default_factory=dict)


@dataclass(frozen=True)
class ResultsView:
    """The part of results.json that tables and plots use."""

    base: ModelRow
    settings: Mapping[str, Any]
    null_texts: Mapping[str, NullText]
    quants: tuple[QuantRow, ...]
    null_flips: Mapping[str, int] = field(default_factory=dict)
    """By task, answers that changed between the base and its own capture; only where a null control was run."""
    facts: Mapping[str, TaskFacts] = field(default_factory=dict)
    """By task, what holds for every quant; empty where the file does not tell."""

    @property
    def text_names(self) -> tuple[str, ...]:
        """Names of the texts, in the order of the first quant that has them."""
        return tuple(dict.fromkeys(name for quant in self.quants for name in quant.texts))

    def measured(self, text: str) -> list[tuple[ModelRow, TextNumbers]]:
        """The quants that have this text, in file order."""
        return [(quant.model, quant.texts[text]) for quant in self.quants if text in quant.texts]

    @property
    def task_names(self) -> tuple[str, ...]:
        """Names of the tasks, in the order of the first quant that has them."""
        return tuple(dict.fromkeys(name for quant in self.quants for name in quant.tasks))

    def answered(self, task: str) -> list[tuple[ModelRow, TaskNumbers]]:
        """The quants that have this task, in file order."""
        return [(quant.model, quant.tasks[task]) for quant in self.quants if task in quant.tasks]

    def floor(self, text: str) -> float | None:
        """Floor of the mean KLD on this text, in nats; None where no null control was written."""
        null = self.null_texts.get(text)
        return null.floor if null else None


def short_names(names: Sequence[str], base: str) -> list[str]:
    """Names without the words (up to a `-`, `.` or `_`) that all of them and the base begin with."""
    start = 0
    for i, letters in enumerate(zip(*names, base, strict=False)):
        if len(set(letters)) > 1:
            break
        start = i + 1 if letters[0] in "-._" else start
    return [name[start:] or name for name in names]


def read_results(path: Path) -> ResultsView:
    """Read results.json. Raises `FileFormatError` if it is not one, or of another format version."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise FileFormatError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise FileFormatError(f"{path} is not JSON ({error}); run the sweep again to write it anew") from error
    return parse_results(document, str(path))


def parse_results(document: Any, where: str = "results.json") -> ResultsView:
    """The view of a loaded document; `where` names it in errors (`FileFormatError`)."""
    if not isinstance(document, dict) or "format_version" not in document:
        raise FileFormatError(f"{where} is not a results file of quantprobe: it has no format_version")
    if document["format_version"] != FORMAT_VERSION:
        raise FileFormatError(
            f"{where} has format version {document['format_version']} and this quantprobe reads {FORMAT_VERSION}"
        )
    try:
        return ResultsView(
            base=_model(document["base"]),
            settings=dict(document["settings"]),
            null_texts={
                name: _null(entry) for name, entry in document["null_control"]["texts"].items() if entry is not None
            },
            quants=tuple(
                QuantRow(
                    _model(quant),
                    {name: _text(entry) for name, entry in quant["texts"].items()},
                    _tasks(quant),
                )
                for quant in document["quants"]
            ),
            null_flips={
                name: int(entry["drops"]) + int(entry["leapfrogs"])
                for name, entry in document["null_control"].get("tasks", {}).items()
                if entry is not None
            },
            facts={name: read_facts(entry) for name, entry in document.get("tasks", {}).items()},
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise FileFormatError(
            f"{where} does not have the form of a results file: {type(error).__name__} {error}"
        ) from error


def _model(entry: Mapping[str, Any]) -> ModelRow:
    return ModelRow(
        name=str(entry["name"]),
        path=str(entry["path"]),
        sha256=str(entry["sha256"]),
        size_bytes=None if entry["size_bytes"] is None else int(entry["size_bytes"]),
        bpw=_number(entry["bpw"]),
        file_type=str(entry.get("file_type", "")),
    )


def _tasks(quant: Mapping[str, Any]) -> dict[str, TaskNumbers]:
    """The tasks of a quant, and behind them all of them pooled, where the file has that."""
    tasks = {name: read_task(entry) for name, entry in quant.get("tasks", {}).items()}
    return tasks | ({POOLED: read_task(quant["pooled"])} if quant.get("pooled") else {})


def _text(entry: Mapping[str, Any]) -> TextNumbers:
    values: dict[str, Any] = {key: Estimate(**entry[key]) for key in ESTIMATES}
    values |= {key: _number(entry[key]) for key in QUANTILES}
    values |= {key: int(entry[key]) for key in COUNTS}
    return TextNumbers(**values)


def _null(entry: Mapping[str, Any]) -> NullText:
    return NullText(Estimate(**entry["kld_mean"]), _number(entry["kld_max"]), Estimate(**entry["same_top"]))


def _number(value: Any) -> float | None:
    return None if value is None else float(value)
