"""`results.json` as records: the one schema, its reader and its writer.

`docs/formats.md` describes the file for other programs. Members that are not listed here are ignored. A plain number
where an estimate is expected is an estimate without uncertainty.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from quantprobe.errors import FileFormatError, InputError
from quantprobe.gguf.model import ImatrixInfo, ModelIdentity
from quantprobe.names import is_safe_path
from quantprobe.run.folder import RunFolder
from quantprobe.run.json_text import plain, write_json
from quantprobe.stats.estimates import Estimate
from quantprobe.stats.summary import CategorySummary, TextSummary
from quantprobe.stats.summary_tasks import TaskSummary

FORMAT_VERSION = 1
"""Raised when a reader of the version before would misread the file; new members alone do not raise it."""

MAX_NUMBER, MAX_DIGITS = 1e300, 19
"""Bounds of what is believed: differences of such numbers are still finite, and counts fit 64 bits."""

_Record = TypeVar("_Record")


@dataclass(frozen=True, kw_only=True)
class NullText:
    """The base against its own capture on one text: `kld_mean.n` rows were finite and compared."""

    kld_mean: Estimate
    kld_max: float | None = None
    same_top: Estimate | None = None


@dataclass(frozen=True, kw_only=True)
class NullTask:
    """The base against its own capture on one task: answers that changed, over `n_rows` rows that were compared."""

    drops: int
    leapfrogs: int
    n_rows: int | None = None
    kld_max: float | None = None


@dataclass(frozen=True, kw_only=True)
class NullControl:
    """The base against its own capture: the instrument's floor. None where it could not be run."""

    texts: Mapping[str, NullText | None] = field(default_factory=dict)
    tasks: Mapping[str, NullTask | None] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class MachineFloor:
    """The base decoded on the comparison's machine against the rows that the capture brought from another, one block.

    It holds what machine, build and, where others were allowed, settings move together: no quant's number means
    anything below it.
    """

    probe: str
    """The text or task that the block is of."""
    n_rows: int
    kld_mean: float | None
    """Nats; null where a row is not finite."""
    kld_max: float | None
    differences: tuple[str, ...] = ()
    """In which facts the machines differ; empty where the capture does not tell enough of its own."""
    key: str = ""
    """Digest of the capture, this machine and the settings: the same comparison takes the numbers from here."""


@dataclass(frozen=True, kw_only=True)
class TaskFacts:
    """What holds for a task whatever the quant."""

    rule: str
    template: str = ""
    n_items: int = 0
    n_left_out: int = 0
    """Questions longer than the context, or broken and skipped on request."""
    n_identical: int = 0
    """Items with two choices of the same tokens: they tie, and the first is the prediction."""
    n_token_prefix: int = 0
    """Items with a choice whose tokens begin another's."""
    n_empty_prefix: int = 0
    """Items whose choices have no first token in common and no BOS before them."""
    n_tokens_decoded: int = 0
    """Tokens that one model decodes, shared beginnings once; 0 where nobody told."""
    n_tokens_naive: int = 0
    """Tokens that it would decode if every choice of every question were run by itself."""
    grouping: str = "none"
    """What the groups of its items are: `strata`, `clusters` or `none` (`quantprobe.stats.design`)."""


@dataclass(frozen=True, kw_only=True)
class TextFacts:
    """What holds for a text of conversations whatever the quant."""

    score: str
    """Whose tokens are scored, `assistant` or `all`."""
    n_read: int = 0
    """Conversations that were read."""
    n_shortened: int = 0
    """Conversations longer than a window, which lost turns of the assistant's at their end, `n_turns` in all."""
    n_turns: int = 0
    n_left_out: int = 0
    """Conversations of which nothing is left."""
    longest: int = 0
    """Tokens of the longest conversation."""


@dataclass(frozen=True, kw_only=True)
class CalibrationOverlap:
    """How much of a text or task stands in a calibration text too, in runs of `n` words or more."""

    dataset: str
    """Name of the calibration text's file; quants whose `imatrix.dataset` has this name were calibrated on it."""
    probe: str
    """The text or task."""
    n: int
    n_words: int
    """Words of the text or task as it was measured."""
    n_covered: int
    """Those in a common run of words."""
    example: str = ""
    """The first common run."""
    calibration_sha256: str = ""
    """Digest of the calibration text. The numbers hold while both digests do."""
    probe_sha256: str = ""
    """Digest of what was measured, that of the capture's probe."""

    @property
    def share(self) -> float:
        """A fraction; 0 of an empty text."""
        return self.n_covered / self.n_words if self.n_words else 0.0


@dataclass(frozen=True, kw_only=True)
class QuantFiles:
    """Files of a quant, relative to the run's folder, where they do not have their usual names."""

    texts: Mapping[str, str] = field(default_factory=dict)
    tasks: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """What the draw of a quant's questions depended on (`--decide`): enough to judge it again beside other quants."""

    tasks: tuple[str, ...]
    """Decided together, in this order."""
    shares: tuple[float, ...]
    """Expected share of the questions at each look."""
    kld: float | None = None
    """The quant's mean KLD on texts in nats, from which the chance of a flip was estimated."""
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Quant(ModelIdentity):
    """One quant and its numbers by text and by task; `pooled` are all questions of all tasks as one."""

    imatrix: ImatrixInfo | None = None
    texts: Mapping[str, TextSummary] = field(default_factory=dict)
    tasks: Mapping[str, TaskSummary] = field(default_factory=dict)
    pooled: TaskSummary | None = None
    drawn: Drawn | None = None
    """Of a quant that decoded a sample of the questions."""
    files: QuantFiles = field(default_factory=QuantFiles)
    variant: Mapping[str, str] = field(default_factory=dict)
    """Settings that were chosen for this line alone (`type_k`, `type_v`), in place of the run's; left out if none."""
    findings: tuple[str, ...] = ()
    """What the checks of the file found odd or broken before it was measured, a sentence each; left out if nothing."""

    @property
    def content(self) -> str:
        """What was measured: the digest of the file, and the settings of this line alone; "" without a digest."""
        own = [f" {key}={value}" for key, value in sorted(self.variant.items())]
        return "".join([self.sha256, *own]) if self.sha256 else ""


@dataclass(frozen=True, kw_only=True)
class Results:
    """One `results.json`."""

    format_version: int = FORMAT_VERSION
    base: ModelIdentity
    settings: Mapping[str, Any]
    null_control: NullControl | None = None
    machine_floor: MachineFloor | None = None
    """None where the quants were measured on the machine of the capture, or without the base."""
    texts: Mapping[str, TextFacts] = field(default_factory=dict)
    """Of texts that are conversations."""
    overlaps: tuple[CalibrationOverlap, ...] = ()
    """Of calibration texts that were at hand; left out if none was."""
    tasks: Mapping[str, TaskFacts] = field(default_factory=dict)
    quants: tuple[Quant, ...]


def write_results(results: Results, run: RunFolder) -> None:
    """Write `results.json`, whole or not at all."""
    write_json(results_document(results), run.results)


def results_document(results: Results) -> dict[str, Any]:
    """The content of `results.json` as plain JSON values; a number that does not exist is null."""
    document: dict[str, Any] = plain(results)
    for name in ("texts", "overlaps"):
        if not document[name]:
            del document[name]
    if document["machine_floor"] is None:
        del document["machine_floor"]
    for model in (document["base"], *document["quants"]):
        if not model["source"]:
            del model["source"]
    for quant in document["quants"]:
        if quant["files"] == {"texts": {}, "tasks": {}}:
            del quant["files"]
        if quant["drawn"] is None:
            del quant["drawn"]
        for text in quant["texts"].values():
            if not text["by_category"]:
                del text["by_category"]
        for name in ("variant", "findings"):
            if not quant[name]:
                del quant[name]
    return document


def read_results(path: Path) -> Results:
    """Read and check `RUN/results.json` (or the file itself).

    Raises
    ------
    InputError
        There is no such file.
    FileFormatError
        It is not JSON, not of this format version, lacks a member, or a value has the wrong type; names the place.
    """
    file = path if path.is_file() else path / "results.json"
    try:
        document = json.loads(
            file.read_text(encoding="utf-8"), parse_constant=_refuse_constant, parse_float=_float, parse_int=_int
        )
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(f"{file} does not exist; give the folder that holds a run's results.json") from error
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise FileFormatError(f"{file} is not JSON ({error}); it may be truncated, run the sweep again") from error
    return parse_results(document, str(file))


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON; a number that does not exist is null")


def _float(text: str) -> float:
    value = float(text)
    if abs(value) > MAX_NUMBER:
        raise ValueError(f"{text[:30]} is beyond every number of a measurement, {MAX_NUMBER:g}")
    return value


def _int(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise ValueError(f"{text[:30]} has {len(text)} digits, expected at most {MAX_DIGITS}")
    return int(text)


def parse_results(document: Any, where: str = "results.json") -> Results:
    """The records of a loaded document; `where` names it in errors (`FileFormatError`)."""
    version = document.get("format_version") if isinstance(document, dict) else None
    if version != FORMAT_VERSION:
        raise FileFormatError(
            f"{where}: format_version is {version!r}, expected {FORMAT_VERSION}, the only version that this "
            "quantprobe reads; run the sweep again, or correct the program that wrote the file"
        )
    results = _convert(_with_estimates(document, where), Results, where)
    _check_files(results, where)
    return results


def _convert(value: Any, kind: type[_Record], where: str) -> _Record:
    try:
        return msgspec.convert(value, kind, strict=True)
    except (msgspec.ValidationError, RecursionError, UnicodeError) as error:
        raise FileFormatError(
            f"{where}: {error}; a number that does not exist is written as null; run the sweep again, or correct the "
            "program that wrote the file"
        ) from error


def results_schema() -> dict[str, Any]:
    """JSON Schema of `results.json`, generated from the records: `docs/results.schema.json`."""
    schema = msgspec.json.schema(Results)
    for record in schema["$defs"].values():
        record["description"] = " ".join(record.get("description", "").split())
    top = schema["$defs"][Results.__name__]
    top["properties"]["format_version"] = {"const": FORMAT_VERSION}
    top["required"] = ["format_version", *top["required"]]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "results.json", **schema}


def _with_estimates(document: dict[str, Any], where: str) -> dict[str, Any]:
    """A document in which plain numbers stand as estimates, and estimates as numbers, where the records say so.

    Each entry is checked here, where its name is known.
    """
    for i, quant in enumerate(_entries(document.get("quants"))):
        for name, kind in (("texts", TextSummary), ("tasks", TaskSummary)):
            quant[name] = _coerced_all(quant.get(name), kind, f"{where}, quants[{i}].{name}")
        quant["pooled"] = _coerced(quant.get("pooled"), TaskSummary)
    null = document.get("null_control")
    if isinstance(null, dict):
        null["texts"] = _coerced_all(null.get("texts"), NullText, f"{where}, null_control.texts")
    return document


def _coerced_all(entries: Any, kind: type[Any], where: str) -> Any:
    if not isinstance(entries, dict):
        return {} if entries is None else entries
    coerced = {name: _coerced(entry, kind) for name, entry in entries.items()}
    for name, entry in coerced.items():
        if entry is not None:
            _convert(entry, kind, f"{where}.{name}")
    return coerced


def _entries(value: Any) -> list[dict[str, Any]]:
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []


def _coerced(entry: Any, kind: type[Any]) -> Any:
    if not isinstance(entry, dict):
        return entry
    estimates = {each.name: each.type for each in dataclasses.fields(kind) if str(each.type).startswith("Estimate")}
    changed = dict(entry)
    for key, value in entry.items():
        if key in _BY_NAME:
            if isinstance(value, dict) and key == "by_category":
                changed[key] = {name: _coerced(one, CategorySummary) for name, one in value.items()}
        elif key in estimates and isinstance(value, int | float) and not isinstance(value, bool):
            changed[key] = {"value": value}
        elif value is None and estimates.get(key) == "Estimate":  # measured, and there was no number
            changed[key] = {"value": None}
        elif key not in estimates and isinstance(value, dict) and "value" in value:
            changed[key] = value["value"]
    return changed


_BY_NAME = ("by_category", "by_group")
"""Members whose keys are names that others chose."""


def _check_files(results: Results, where: str) -> None:
    for quant in results.quants:
        for relative in (*quant.files.texts.values(), *quant.files.tasks.values()):
            if not is_safe_path(relative):
                raise FileFormatError(
                    f"{where}: the quant {quant.name!r} names the file {relative!r}; expected a path inside the run's "
                    "folder, with forward slashes and of ordinary names"
                )
