"""All checks of files, in the order in which a fault is cheapest to find."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from quantprobe.capture.store import Capture
from quantprobe.checks.decoding import DECODE, PLAUSIBLE, BaseDecode, check_decode, open_base_decode
from quantprobe.checks.gates import check_gates
from quantprobe.checks.inspection import OTHER, ROW_LENGTH, find_deviations
from quantprobe.checks.outcome import FAIL, WARN, Check, FileReport, listed, passed, skipped
from quantprobe.checks.policy import DEFAULT, Policy
from quantprobe.checks.subject import Subject, check_structure
from quantprobe.checks.tokens import (
    check_chat_template,
    check_metadata,
    check_special_tokens,
    check_tensors,
    check_tokenizer,
)
from quantprobe.checks.values import check_values, check_weights
from quantprobe.errors import InputError
from quantprobe.gguf.model import ModelIdentity, hash_model
from quantprobe.gguf.tensors import FLOAT_TYPES, Inventory
from quantprobe.run.results import Results
from quantprobe.settings import Settings

TYPES = "types"
CHEAP: tuple[Callable[[Subject], Check], ...] = (
    check_metadata,
    check_tensors,
    check_tokenizer,
    check_special_tokens,
    check_chat_template,
)
"""Checks of headers alone."""


@dataclass(frozen=True)
class Task:
    """What to validate against."""

    base: Inventory | None = None
    capture: Path | None = None
    capture_base: ModelIdentity | None = None
    """What the capture says of its base."""
    run: Results | None = None
    policy: Policy | None = None
    settings: Settings = field(default_factory=Settings)
    decode: bool = True

    def __post_init__(self) -> None:
        if self.policy is not None and self.policy.needs_run and self.run is None:
            raise InputError("the policy has gates on texts or tasks, which need a run; give --run RUN")


def captured_base(path: Path) -> ModelIdentity:
    """What a capture says of its base. Raises what opening it raises."""
    return Capture.open(path).meta.base


class Stages(Protocol):
    """Where a long validation tells how far it is."""

    def start(self, label: str, total: int | None, unit: str) -> None: ...
    def advance(self, n: int = 1) -> None: ...
    def finish(self) -> None: ...


def validate_files(paths: Sequence[Path], task: Task, stages: Stages) -> tuple[FileReport, ...]:
    """Every check of every file; the base is decoded once for all.

    Raises `InputError` where a file cannot be read at all, and what opening a capture raises.
    """
    base_path = None if task.base is None else task.base.info.path
    if not task.decode:
        return tuple(validate_file(path, task, None, stages) for path in paths)
    stages.start("decode the base", None, "")
    with open_base_decode(base_path, task.capture, task.settings) as reference:
        stages.finish()
        return tuple(validate_file(path, task, reference, stages) for path in paths)


def validate_file(path: Path, task: Task, reference: BaseDecode | None, stages: Stages) -> FileReport:
    """Every check of one file. Checks that a failure has made pointless are left out."""
    begin = time.perf_counter()
    structure = check_structure(path)
    checks = [replace(structure.check, seconds=time.perf_counter() - begin)]
    if structure.model is None:
        return FileReport(path, path.name.removesuffix(".gguf"), tuple(checks))
    subject = Subject(path, structure.model, task.base, task.capture_base)
    for check in (*CHEAP, check_types):
        checks += _timed(lambda check=check: (check(subject),))  # type: ignore[misc]
    stages.start(f"scan {subject.model.name}", subject.model.info.size_bytes, "B")
    checks += _timed(lambda: check_values(subject, stages.advance))
    stages.finish()
    checks += _timed(lambda: (check_weights(subject),))
    refusal = subject.model.info.refusal
    if reference is not None and refusal:
        checks += (skipped(DECODE, refusal), skipped(PLAUSIBLE, refusal))
    elif reference is not None:
        stages.start(f"decode {subject.model.name}", None, "")
        checks += _timed(lambda: check_decode(path, reference))
        stages.finish()
    checks += _gates(subject, task, stages)
    return FileReport(path, subject.model.name, _softened(checks, task.policy))


def _timed(check: Callable[[], Sequence[Check]]) -> list[Check]:
    """The checks of one call, their time on the first."""
    begin = time.perf_counter()
    first, *others = check()
    return [replace(first, seconds=time.perf_counter() - begin), *others]


def _gates(subject: Subject, task: Task, stages: Stages) -> Sequence[Check]:
    if task.run is None:
        return ()
    stages.start(f"hash {subject.model.name}", subject.model.info.size_bytes, "B")
    info = hash_model(subject.model.info, stages.advance)
    stages.finish()
    return check_gates(info, task.run, task.policy or DEFAULT)


def _softened(checks: Sequence[Check], policy: Policy | None) -> tuple[Check, ...]:
    """Failures that the policy wants as warnings."""
    soft = () if policy is None else policy.files.warn_only
    return tuple(
        replace(check, status=WARN, reason=f"{check.reason} (a warning by the policy)")
        if check.status == FAIL and check.name in soft
        else check
        for check in checks
    )


def check_types(subject: Subject) -> Check:
    """The types against llama-quantize's mixture for the file type: fallbacks are told, floats left over are odd."""
    deviations, note = find_deviations(subject.model)
    if deviations is None:
        return skipped(TYPES, note)
    if not deviations:
        return passed(TYPES, note or f"every tensor has the type of the mixture {subject.model.info.file_type}")
    fallbacks = [each for each in deviations if each.reason == ROW_LENGTH]
    others = [each for each in deviations if each.reason == OTHER]
    floats = [each for each in others if each.found in FLOAT_TYPES and each.wanted not in FLOAT_TYPES]
    told = []
    if fallbacks:
        lengths = sorted({each.row_length for each in fallbacks})
        told.append(f"{len(fallbacks)} fallbacks (rows of {', '.join(map(str, lengths))} do not fit the blocks)")
    if others:
        told.append(f"{len(others)} of other types than the mixture {subject.model.info.file_type} has")
    details = tuple(f"{each.name}: {each.found} instead of {each.wanted} ({each.reason})" for each in deviations)
    if floats:
        names = listed([f"{each.name} ({each.found})" for each in floats])
        reason = f"{len(floats)} tensors are not quantized that the mixture quantizes: {names}; was this wanted?"
        return Check(TYPES, WARN, reason, details)
    return Check(TYPES, "pass", "; ".join(told), details)
