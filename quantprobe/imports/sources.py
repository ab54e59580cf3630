"""Files of other programs, read as what they measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from quantprobe.errors import InputError
from quantprobe.gguf.model import ModelIdentity
from quantprobe.imports.build import Import, ImportedText
from quantprobe.imports.community_csv import read_community_csv
from quantprobe.imports.llama_logs import LOG, read_kld_log, read_task_answers
from quantprobe.imports.pairing import pair_files, tell_apart
from quantprobe.imports.plain import read_answers


@dataclass(frozen=True)
class NamedFile:
    """A file, and the name of the quant that it is about; None: the file's own."""

    name: str | None
    path: Path


def read_answer_files(
    base: Path,
    quants: Sequence[NamedFile],
    task: str | None = None,
    metric: str | None = None,
    filter_name: str | None = None,
    grouping: str | None = None,
) -> Import:
    """The answers of a base and its quants to one task, of any form that `read_answers` knows.

    `task` names the task, by default as the base's file. `grouping` says what the groups of its items are, where that
    is not to be what the form of the files says. Raises what `read_answers` and `pair_files` raise.
    """
    names = tell_apart([quant.path for quant in quants])
    named = [quant.name or name for quant, name in zip(quants, names, strict=True)]
    base_file = read_answers(base, metric, filter_name)
    files = [read_answers(quant.path, metric, filter_name) for quant in quants]
    paired = pair_files(task or base.stem, base_file, list(zip(named, files, strict=True)))
    return Import(
        base=ModelIdentity(name=base.stem),
        quants=tuple(ModelIdentity(name=name) for name in named),
        tasks=(replace(paired, grouping=grouping or paired.grouping),),
    )


def read_logs(
    logs: Sequence[NamedFile], base_name: str, text: str | None, task: str | None, base_log: Path | None = None
) -> Import:
    """Logs of llama-perplexity, all of the same text (`--kl-divergence`) or all of the same task.

    `base_log` is the base's own log of the task; without it a task has an accuracy but no drops, leapfrogs or verdict.
    Raises InputError unless exactly one of `text` and `task` is given, and whatever the readers raise.
    """
    if (text is None) == (task is None):
        raise InputError("name the text or the task that the logs are of: one of the two, and only one")
    if base_log is not None and task is None:
        raise InputError("--base-log is a log of a task; name the task with --task")
    named = [(log.name or _without_suffix(log.path), log.path) for log in logs]
    base, quants = ModelIdentity(name=base_name), tuple(ModelIdentity(name=name) for name, _ in named)
    if text is not None:
        summaries = {name: read_kld_log(path).summary for name, path in named}
        return Import(base, quants, texts=(ImportedText(text, LOG, summaries),))
    assert task is not None
    base_file = None if base_log is None else read_task_answers(base_log, task)
    files = [(name, read_task_answers(path, task)) for name, path in named]
    return Import(base, quants, tasks=(pair_files(task, base_file, files),) if files else ())


def read_tables(tables: Sequence[Path], base_name: str, text: str | None) -> Import:
    """Published CSV files, all of quants measured on `text`. Raises what `read_community_csv` raises."""
    if text is None:
        raise InputError("a CSV is imported by itself, with --text naming what it was measured on")
    models = [model for table in tables for model in read_community_csv(table)]
    return Import(
        base=ModelIdentity(name=base_name),
        quants=tuple(model.quant for model in models),
        texts=(ImportedText(text, "published CSV", {model.quant.name: model.summary for model in models}),),
    )


def _without_suffix(path: Path) -> str:
    return path.name.removesuffix(".log").removesuffix(".txt").removesuffix(".stdout")
