"""`results.json` as records: validated once, here, so that everything after may trust it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from quantprobe.errors import FileFormatError, InputError
from quantprobe.names import safe_name
from quantprobe.run.json_node import Node
from quantprobe.stats.estimates import Estimate

FORMAT_VERSION = 1
COUNTS = ("drops", "leapfrogs", "wrong_to_other_wrong", "n_items", "n_invalid")
NUMBERS = frozenset(
    [
        "ppl",
        "ppl_base",
        "ln_ppl_ratio",
        "kld_mean",
        "kld_median",
        "kld_p90",
        "kld_p95",
        "kld_p99",
        "kld_p999",
        "kld_max",
        "kld_geomean",
        "kld_reverse_mean",
        "jsd_mean",
        "tv_mean",
        "top_k_overlap",
        "same_top",
        "delta_p_mean",
        "delta_p_rms",
        "token_drops",
        "token_leapfrogs",
        "n_rows",
        "n_nonfinite",
        "acc",
        "acc_base",
        "acc_norm",
        "volume",
        "net",
        "direction_index",
        "margin_shift",
        "gold_prob_shift",
        "mcnemar_p",
        "holm_p",
        "margin",
        "mde",
    ]
).union(COUNTS)
"""Entries that must be numbers; any other entry may be, and is left alone if it is something else."""
_DEFAULT_LEVEL = 0.95


@dataclass(frozen=True)
class ModelRecord:
    """The base of a run. `size_bytes` and `bpw` are None where the run does not know them."""

    name: str
    path: str
    sha256: str
    size_bytes: int | None
    bpw: float | None
    architecture: str
    n_vocab: int | None
    tokenizer_sha256: str


@dataclass(frozen=True)
class TextRecord:
    """One text's fidelity of one quant; `values` has every number of the entry under its own name.

    A plain number is an Estimate without uncertainty; null is an Estimate whose value is None.
    """

    name: str
    values: Mapping[str, Estimate]
    run: Path
    rows_file: Path
    """Where the per-row arrays lie, if the run kept them."""


@dataclass(frozen=True)
class TaskRecord:
    """One task's answers of one quant; `counts` has drops, leapfrogs, wrong_to_other_wrong, n_items, n_invalid."""

    name: str
    rule: str
    verdict: str | None
    values: Mapping[str, Estimate]
    counts: Mapping[str, int]
    run: Path
    items_file: Path
    """Where the per-item table lies, if the run kept it."""


@dataclass(frozen=True)
class QuantRecord:
    """One quant of a run, with what was measured on it."""

    name: str
    path: str
    sha256: str
    size_bytes: int | None
    bpw: float | None
    file_type: str
    imatrix: Mapping[str, Any] | None
    texts: Mapping[str, TextRecord]
    tasks: Mapping[str, TaskRecord]
    run: Path


@dataclass(frozen=True)
class RunRecord:
    """One `results.json`."""

    run: Path
    base: ModelRecord
    settings: Mapping[str, Any]
    null_control: Mapping[str, Any] | None
    floors: Mapping[str, float]
    """Mean KLD of the base against its own capture, by text (nats); what is not above it is not interpreted."""
    quants: tuple[QuantRecord, ...]


def read_results(run: Path) -> RunRecord:
    """Read and check `RUN/results.json` (or the file itself).

    Raises
    ------
    InputError
        There is no such file.
    FileFormatError
        It is not JSON, not of this format version, lacks a key, or a value has the wrong type; names the place.
    """
    file = run if run.is_file() else run / "results.json"
    folder = file.parent
    root = Node(file, "", _load_json(file))
    version = root.get("format_version")
    if version.value != FORMAT_VERSION:
        raise version.fail(f"{FORMAT_VERSION}, the only version that this quantprobe reads")
    null_control = root.get_or("null_control", None)
    return RunRecord(
        run=folder,
        base=_model(root.get("base")),
        settings=root.get("settings").mapping(),
        null_control=None if null_control.value is None else null_control.mapping(),
        floors=_floors(null_control),
        quants=tuple(_quant(node, folder) for node in root.get("quants").items()),
    )


def _floors(null_control: Node) -> dict[str, float]:
    if null_control.value is None:
        return {}
    texts = null_control.get_or("texts", {})
    klds = {text: _estimate(texts.get(text).get("kld_mean"), 0).value for text in texts.mapping()}
    return {text: kld for text, kld in klds.items() if kld is not None}


def _load_json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(f"{file} does not exist; give the folder that a sweep wrote its results.json to") from error
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise FileFormatError(f"{file} is not JSON ({error}); it may be truncated, run the sweep again") from error


def _model(node: Node) -> ModelRecord:
    return ModelRecord(
        name=node.get("name").text(),
        path=node.get_or("path", "").text(),
        sha256=node.get("sha256").text(),
        size_bytes=node.get("size_bytes").count(),
        bpw=node.get_or("bpw", None).number(),
        architecture=node.get_or("architecture", "").text(),
        n_vocab=node.get_or("n_vocab", None).count(),
        tokenizer_sha256=node.get_or("tokenizer_sha256", "").text(),
    )


def _quant(node: Node, run: Path) -> QuantRecord:
    name = node.get("name").text()
    imatrix = node.get_or("imatrix", None)
    files = node.get_or("files", {})
    texts, tasks = node.get_or("texts", {}), node.get_or("tasks", {})
    return QuantRecord(
        name=name,
        path=node.get_or("path", "").text(),
        sha256=node.get("sha256").text(),
        size_bytes=node.get("size_bytes").count(),
        bpw=node.get_or("bpw", None).number(),
        file_type=node.get_or("file_type", "").text(),
        imatrix=None if imatrix.value is None else imatrix.mapping(),
        texts={
            text: _text(texts.get(text), text, run, _file(files.get_or("texts", {}), text, run, "rows", name, ".npz"))
            for text in texts.mapping()
        },
        tasks={
            task: _task(tasks.get(task), task, run, _file(files.get_or("tasks", {}), task, run, "items", name, ".csv"))
            for task in tasks.mapping()
        },
        run=run,
    )


def _file(files: Node, name: str, run: Path, kind: str, quant: str, suffix: str) -> Path:
    """The file the run names, or the one its names lead to; never outside the run's folder."""
    if name not in files.mapping():
        return run / kind / safe_name(quant) / (safe_name(name) + suffix)
    node = files.get(name)
    relative = PurePosixPath(node.text())
    if relative.is_absolute() or ".." in relative.parts or ":" in node.text() or "\\" in node.text():
        raise node.fail("a path inside the run's folder, with forward slashes")
    return run / relative


def _text(node: Node, name: str, run: Path, rows_file: Path) -> TextRecord:
    for key in ("kld_mean", "n_rows"):
        node.get(key)
    return TextRecord(name, _values(node, node.get("n_rows").count() or 0), run, rows_file)


def _task(node: Node, name: str, run: Path, items_file: Path) -> TaskRecord:
    node.get("acc")
    counts = {key: node.get(key).count() for key in ("drops", "leapfrogs", "n_items")}
    counts |= {key: node.get_or(key, None).count() for key in COUNTS if key not in counts}
    verdict = node.get_or("verdict", None)
    return TaskRecord(
        name=name,
        rule=node.get("rule").text(),
        verdict=None if verdict.value is None else verdict.text(),
        values=_values(node, counts["n_items"] or 0),
        counts={key: value for key, value in counts.items() if value is not None},
        run=run,
        items_file=items_file,
    )


def _values(node: Node, n: int) -> dict[str, Estimate]:
    return {key: _estimate(node.get(key), n) for key, value in node.mapping().items() if _is_number(key, value)}


def _is_number(key: str, value: Any) -> bool:
    if key in NUMBERS or value is None:
        return True
    return (
        "value" in value if isinstance(value, dict) else isinstance(value, int | float) and not isinstance(value, bool)
    )


def _estimate(node: Node, n: int) -> Estimate:
    if not isinstance(node.value, dict):
        return Estimate(node.number(), None, None, None, _DEFAULT_LEVEL, n, 0, "")
    stderr, low, high, level = (node.get_or(key, None).number() for key in ("stderr", "low", "high", "level"))
    return Estimate(
        value=node.get("value").number(),
        stderr=stderr,
        low=low,
        high=high,
        level=_DEFAULT_LEVEL if level is None else level,
        n=node.get_or("n", n).count() or 0,
        n_clusters=node.get_or("n_clusters", 0).count() or 0,
        unit=node.get_or("unit", "").text(),
    )
