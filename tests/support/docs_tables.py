"""The tables of docs/formats.md and the JSON Schema, as the program defines them. As a script, brings both in step."""

from __future__ import annotations

import ast
import inspect
import itertools
import json
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any

from quantprobe.capture.meta import CaptureMeta, FileEntry, HeadReference, ProbeEntry
from quantprobe.gguf.model import ImatrixInfo, ModelIdentity
from quantprobe.metrics.quantities import ROW_QUANTITIES, TASK_QUANTITIES, TEXT_QUANTITIES
from quantprobe.metrics.rows import ROW_DTYPE
from quantprobe.run.blame import Blame, BlameGroup, BlameRun, Departure, Disagreement, Effect, GroupEffects
from quantprobe.run.items import COLUMN_MEANINGS
from quantprobe.run.results import (
    CalibrationOverlap,
    Drawn,
    MachineFloor,
    NullControl,
    NullTask,
    NullText,
    Quant,
    QuantFiles,
    Results,
    TaskFacts,
    TextFacts,
    results_schema,
)
from quantprobe.stats.estimates import Estimate
from quantprobe.stats.summary import TextSummary
from quantprobe.stats.summary_groups import GroupSummary
from quantprobe.stats.summary_tasks import TaskSummary

DOCS = Path(__file__).parents[2] / "docs"
PAGE = DOCS / "formats.md"
SCHEMA = DOCS / "results.schema.json"

RESULTS_RECORDS = (
    *(
        Results,
        ModelIdentity,
        NullControl,
        NullText,
        NullTask,
        MachineFloor,
        TextFacts,
        CalibrationOverlap,
        TaskFacts,
        Quant,
        ImatrixInfo,
        Drawn,
        QuantFiles,
    ),
    *(Estimate, TextSummary, TaskSummary, GroupSummary),
)
BLAME_RECORDS = (Blame, BlameGroup, GroupEffects, Effect, Departure, Disagreement, BlameRun)
CAPTURE_RECORDS = (CaptureMeta, ProbeEntry, FileEntry, HeadReference)

QUANTITIES: Mapping[type[Any], Mapping[str, Any]] = {
    TextSummary: {quantity.name: quantity for quantity in TEXT_QUANTITIES},
    TaskSummary: {quantity.name: quantity for quantity in TASK_QUANTITIES},
}
QUANTITIES = {**QUANTITIES, GroupSummary: QUANTITIES[TaskSummary]}

MEANINGS: Mapping[str, str] = {
    "Results.format_version": "this format's version",
    "Results.base": "the model that the quants are compared with",
    "Results.settings": "everything that can change a number, by name (docs/cli.md); nested by text and task: what was "
    "measured on",
    "Results.null_control": "null where the base could not be run again",
    "Results.tasks": "what holds for a task whatever the quant, by name",
    "Results.quants": "in the order of the tables",
    "ModelIdentity.name": "identifies the model within the run; the file's name without `.gguf`",
    "ModelIdentity.path": "where the file was",
    "ModelIdentity.sha256": "of the bytes of all parts; runs are merged by it",
    "ModelIdentity.size_bytes": "of all parts",
    "ModelIdentity.bpw": "bits per weight",
    "ModelIdentity.file_type": "llama.cpp's name of the file type",
    "ModelIdentity.architecture": "`general.architecture`",
    "ModelIdentity.n_vocab": "tokens of the vocabulary",
    "ModelIdentity.tokenizer_sha256": "digest of what turns text into tokens",
    "ModelIdentity.source": "where on the hub it came from, `hf://OWNER/REPO@COMMIT/FILE`; left out if from elsewhere",
    "NullControl.texts": "by text",
    "NullControl.tasks": "by task",
    "NullText.kld_mean": "mean KLD (nats) of the base against itself",
    "NullText.kld_max": "nats",
    "NullText.same_top": "rows with the same most probable token",
    "NullTask.drops": "answers that were right the first time and wrong the second",
    "NullTask.leapfrogs": "the reverse",
    "NullTask.n_rows": "rows that were compared",
    "NullTask.kld_max": "nats",
    "CalibrationOverlap.n": "length of a run that counts",
    "MachineFloor.n_rows": "rows that were compared",
    "MachineFloor.kld_max": "as well",
    "TaskFacts.rule": "scoring rule (docs/metrics.md), or the metric of another program",
    "TextFacts.n_turns": "of the assistant's, cut off",
    "TaskFacts.template": "what made the prompts",
    "TaskFacts.n_items": "questions",
    "Quant.imatrix": "the importance matrix that the file names",
    "Quant.texts": "by text",
    "Quant.tasks": "by task",
    "Quant.pooled": "all questions of all tasks as one",
    "Drawn.seed": "of the draw",
    "Quant.files": "only where files do not have their usual names; left out otherwise",
    "ImatrixInfo.file": "its file",
    "ImatrixInfo.dataset": "what it was computed from",
    "ImatrixInfo.entries_count": "tensors in it",
    "ImatrixInfo.chunks_count": "windows that it was computed over",
    "QuantFiles.texts": "row file by text",
    "QuantFiles.tasks": "items file by task",
    "Estimate.value": "null: the number does not exist",
    "Estimate.stderr": "standard error; null: too few clusters, or nobody told",
    "Estimate.low": "lower end of the interval",
    "Estimate.high": "upper end of the interval",
    "Estimate.level": "coverage that the interval aims at",
    "Estimate.n": "rows or questions",
    "Estimate.n_clusters": "windows or groups that count as independent",
    "Estimate.unit": "as in docs/metrics.md",
    "TaskSummary.rule": "as in `tasks`",
    "TaskSummary.template": "as in `tasks`",
    "TaskSummary.verdict": "`worse`, `better`, `equivalent` or `not separable`",
    "TaskSummary.sentence": "the verdict in words",
    "Blame.format_version": "this format's version",
    "Blame.base": "the model that tensors are restored from",
    "Blame.quant": "the model that they are restored in",
    "Blame.by": "what the groups were made by: `role`, `layer`, `role,depth`, `tensor`, or patterns",
    "Blame.n_parts": "parts of the layers that `layer` and `role,depth` make",
    "Blame.design": "`single`, `hadamard` or `foldover`",
    "Blame.ways": "`restored`, `alone`, or `averaged`",
    "Blame.groups": "in the order of the files",
    "Blame.effects": "of every group in every way",
    "Blame.departures": "tests whether effects add up",
    "Blame.disagreements": "pairs of groups, the clearest first",
    "Blame.sentences": "what was found, in words",
    "Blame.runs": "base, quant and hybrids; the last two are the quant and the base",
    "BlameGroup.name": "unique",
    "BlameGroup.base_bytes": "of its tensors in the base",
    "BlameGroup.quant_bytes": "of its tensors in the quant",
    "BlameGroup.quant_types": "as well, in the quant",
    "GroupEffects.group": "name of the group",
    "GroupEffects.way": "`restored`, `alone` or `averaged`",
    "Departure.name": "which contrast",
    "Departure.measure": "`kld`, `net`, `margin` or `gold_prob`",
    "Departure.value": "0 where effects add up",
    "Disagreement.way": "as in effects",
    "Disagreement.more_distance": "name of a group",
    "Disagreement.more_answers": "name of a group",
    "FileEntry.name": "in the capture's folder",
    "FileEntry.n_bytes": "its size",
    "FileEntry.sha256": "of its bytes",
    "ProbeEntry.name": "unique in the capture",
    "ProbeEntry.n_rows": "scored positions",
    "ProbeEntry.row_dtype": "`float16`, `bfloat16`, `float32` or `uint16`",
    "ProbeEntry.row_width": "elements of a row",
    "ProbeEntry.probe": "`NN-name.probe`",
    "ProbeEntry.rows": "`NN-name.rows`",
    "ProbeEntry.null_control": "as in results.json",
    "HeadReference.tensor": "`output.weight`, or `token_embd.weight` where it is tied",
    "HeadReference.type_name": "ggml type",
    "HeadReference.shape": "`[n_vocab, n_embd]`",
    "HeadReference.offset": "where the matrix begins in the GGUF",
    "HeadReference.n_bytes": "how long it is",
    "HeadReference.scale": "factor on the logits",
    "HeadReference.softcap": "soft cap of the logits",
    "HeadReference.sha256": "of the matrix",
    "HeadReference.bias": "`head_bias.bin`",
    "CaptureMeta.format_version": "this format's version",
    "CaptureMeta.kind": "`hidden`, `logprobs` or `llama_kld`",
    "CaptureMeta.base": "as in results.json, nothing left out",
    "CaptureMeta.head": "null where rows are log-probabilities",
    "CaptureMeta.probes": "in the order in which they were captured",
}
"""Of members that have no docstring and are no declared quantity."""


def table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in (titles, ["---"] * len(titles), *rows))


def record_table(record: type[Any]) -> str:
    """Every member of a record: its type, what stands for it where it is left out, its unit and meaning."""
    told = _docstrings(record)
    rows = []
    for each in fields(record):
        unit, meaning = _meaning(record, each.name, told)
        rows.append((f"`{each.name}`", _type_words(str(each.type)), _default(each), unit, meaning))
    kept = [column for column in range(5) if column != 3 or any(row[3] for row in rows)]
    if record in CAPTURE_RECORDS:  # nothing may be left out there
        kept.remove(2)
    titles = ("member", "type", "if left out", "unit", "meaning")
    return table([titles[i] for i in kept], [[row[i] for i in kept] for row in rows])


def _meaning(record: type[Any], name: str, told: Mapping[str, str]) -> tuple[str, str]:
    quantity = QUANTITIES.get(record, {}).get(name)
    owner = next(kind.__name__ for kind in record.__mro__ if name in vars(kind).get("__annotations__", {}))
    words = quantity.meaning if quantity else told.get(name) or MEANINGS.get(f"{owner}.{name}")
    if words is None:
        raise ValueError(f"{owner}.{name} has no meaning: give it a docstring, or one in docs_tables.MEANINGS")
    first = words.split(". ")[0].rstrip(".")
    first = first[0].lower() + first[1:] if first[1:2].islower() else first
    return (quantity.unit if quantity else ""), first.replace("||", "‖").replace("|", "\\|")


def _docstrings(record: type[Any]) -> dict[str, str]:
    """What stands below each member in the source of a record and of what it is made of."""
    found: dict[str, str] = {}
    for kind in reversed(record.__mro__[:-1]):
        if kind.__module__.startswith("quantprobe"):
            body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0].body  # type: ignore[attr-defined]
            for member, below in itertools.pairwise(body):
                if isinstance(member, ast.AnnAssign) and isinstance(below, ast.Expr):
                    found[ast.unparse(member.target)] = " ".join(str(ast.literal_eval(below.value)).split())
    return found


WORDS = {
    "str": "text", "int": "whole number", "float": "number", "bool": "true or false", "Any": "anything",
    "Estimate": "estimate", "JsonValue": "anything",
}  # fmt: skip


def _type_words(annotation: str) -> str:
    plain, null = re.sub(r" \| None$", "", annotation), annotation.endswith("| None")
    if mapping := re.fullmatch(r"Mapping\[str, (.*)\]", plain):
        words = f"object of {_type_words(mapping[1])}"
    elif items := re.fullmatch(r"tuple\[(.*), \.\.\.\]", plain):
        words = f"list of {_type_words(items[1])}"
    else:
        words = WORDS.get(plain, f"[{plain}](#{plain.lower()})")
    return f"{words} or null" if null else words


def _default(member: Field[Any]) -> str:
    if member.name == "format_version":
        return "refused"
    if member.default_factory is not MISSING:
        return "empty"
    return "refused" if member.default is MISSING else f"`{json.dumps(member.default)}`"


def columns_table() -> str:
    return table(
        ("column", "meaning"), [(f"`{name}`", words.replace("||", "‖")) for name, words in COLUMN_MEANINGS.items()]
    )


def rows_table() -> str:
    rows = [
        (f"`{each.name}`", str(ROW_DTYPE[each.name]), each.unit, each.meaning.replace("|", "\\|"))
        for each in ROW_QUANTITIES
    ]
    return table(("array", "type", "unit", "meaning"), rows)


def tables() -> dict[str, str]:
    """Every table by its name in the page."""
    records = {
        f"record {kind.__name__}": record_table(kind) for kind in (*RESULTS_RECORDS, *BLAME_RECORDS, *CAPTURE_RECORDS)
    }
    return {**records, "items columns": columns_table(), "row arrays": rows_table()}


def with_tables(text: str) -> str:
    """`text` with what stands between `<!-- NAME -->` and `<!-- end -->` made anew; every table has one place."""
    for name, made in tables().items():
        block = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        places = list(block.finditer(text))
        if len(places) != 1:
            raise ValueError(f"docs/formats.md has {len(places)} places for {name}, expected one")
        text = f"{text[: places[0].start()]}{places[0][1]}{made}\n{places[0][2]}{text[places[0].end() :]}"
    return text


def schema_text() -> str:
    return json.dumps(results_schema(), indent=2, sort_keys=True) + "\n"


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8", newline="\n")
    SCHEMA.write_text(schema_text(), encoding="utf-8", newline="\n")
