"""Gates of a release, written as TOML: how much fidelity and accuracy a quant may lose.

[texts]                      # every text of the run; [texts.NAME] for one
max_kld_mean = 0.05          # nats
[tasks]                      # every task, and all of them pooled; [tasks.NAME] for one
not_worse = true
non_inferior = 0.01          # a fraction: 0.01 is one percentage point
[files]
warn_only = ["chat template"]
"""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from quantprobe.errors import FileFormatError, InputError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MAX_BYTES = 1 << 20
"""A policy is a page; anything larger is another file."""
_Record = TypeVar("_Record")


@dataclass(frozen=True)
class TextGates:
    """Limits on a text. With an interval, its unfavourable end must keep the limit; None: no limit."""

    max_kld_mean: float | None = None
    """Nats."""
    max_kld_median: float | None = None
    max_kld_p99: float | None = None
    max_kld_p999: float | None = None
    min_same_top: float | None = None
    """A fraction."""
    max_ppl_ratio: float | None = None
    max_nonfinite: int | None = None
    """Rows whose logits are not finite."""


@dataclass(frozen=True)
class TaskGates:
    """Limits on a task."""

    not_worse: bool | None = None
    """The verdict must not be `worse`."""
    non_inferior: float | None = None
    """The lower end of the net change must be above minus this fraction."""
    equivalent: bool | None = None
    """The verdict must be `equivalent`, `better` or `not inferior`."""
    max_volume: float | None = None
    """Share of answers that changed between right and wrong: the upper end."""
    min_items: int | None = None


@dataclass(frozen=True)
class FileGates:
    """What counts of the checks of a file."""

    warn_only: tuple[str, ...] = ()
    """Names of checks whose failure is a warning."""


@dataclass(frozen=True)
class Policy:
    """All gates: for every text and task, and for single ones by name, which go before."""

    texts: TextGates = TextGates()
    tasks: TaskGates = TaskGates()
    files: FileGates = FileGates()
    text: Mapping[str, TextGates] = field(default_factory=dict)
    task: Mapping[str, TaskGates] = field(default_factory=dict)

    @property
    def needs_run(self) -> bool:
        """Whether a gate asks for what only a run tells."""
        return bool(self.text or self.task) or self.texts != TextGates() or self.tasks != TaskGates()

    def of_text(self, name: str) -> TextGates:
        return _merged(self.texts, self.text.get(name))

    def of_task(self, name: str) -> TaskGates:
        return _merged(self.tasks, self.task.get(name))


DEFAULT = Policy(tasks=TaskGates(not_worse=True), texts=TextGates(max_nonfinite=0))
"""Where a run is given and no policy: a quant that is shown to be worse, or gives NaN, fails."""


def _merged(common: _Record, own: _Record | None) -> _Record:
    if own is None:
        return common
    given = {each.name: value for each in dataclasses.fields(own) if (value := getattr(own, each.name)) is not None}  # type: ignore[arg-type]
    return dataclasses.replace(common, **given)  # type: ignore[type-var]


def read_policy(path: Path) -> Policy:
    """Read a policy file.

    Raises `InputError` where it cannot be read, `FileFormatError` where it is not TOML, or has a section, key or value
    that means nothing: a gate that is misspelt must not pass.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise InputError(f"cannot read the policy {path}: {error.strerror or error}") from error
    if len(data) > MAX_BYTES:
        raise FileFormatError(f"the policy {path} has more than {MAX_BYTES:,} bytes, expected a page of TOML")
    try:
        document = tomllib.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise FileFormatError(f"the policy {path} is not TOML: {error}; see docs/release.md for an example") from error
    sections = {"texts", "tasks", "files"}
    _refuse_unknown(set(document), sections, f"{path}", "section")
    texts, text = _section(document.get("texts", {}), TextGates, f"{path}, [texts]")
    tasks, task = _section(document.get("tasks", {}), TaskGates, f"{path}, [tasks]")
    files = _record(document.get("files", {}), FileGates, f"{path}, [files]")
    return Policy(texts, tasks, files, text, task)


def _section(value: Any, kind: type[_Record], where: str) -> tuple[_Record, dict[str, _Record]]:
    """The gates for all, and those of each table inside."""
    if not isinstance(value, dict):
        raise FileFormatError(f"{where} is {value!r}, expected a table")
    own = {key: entry for key, entry in value.items() if not isinstance(entry, dict)}
    named = {key: entry for key, entry in value.items() if isinstance(entry, dict)}
    single = {name: _record(entry, kind, f"{where}, {name}") for name, entry in named.items()}
    return _record(own, kind, where), single


def _record(value: Any, kind: type[_Record], where: str) -> _Record:
    known = {each.name for each in dataclasses.fields(kind)}  # type: ignore[arg-type]
    if isinstance(value, dict):
        _refuse_unknown(set(value), known, where, "gate")
    try:
        record = msgspec.convert(value, kind, strict=True)
    except (msgspec.ValidationError, RecursionError) as error:
        raise FileFormatError(f"{where}: {error}; write numbers and true or false, as in docs/release.md") from error
    for name in known:
        limit = getattr(record, name)
        if isinstance(limit, float) and not 0 <= limit < math.inf:
            raise FileFormatError(f"{where}: {name} is {limit}, expected a number of at least 0")
    return record


def _refuse_unknown(found: set[str], known: set[str], where: str, what: str) -> None:
    unknown = sorted(found - known)
    if unknown:
        raise FileFormatError(f"{where}: unknown {what} {', '.join(unknown)}; known are {', '.join(sorted(known))}")
