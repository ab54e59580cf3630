"""What a sweep found, as `results.json` is written from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from quantprobe.capture.meta import BaseIdentity
from quantprobe.gguf.model import ModelInfo
from quantprobe.stats.llama_summary import LlamaStatistics
from quantprobe.stats.summary import TextSummary
from quantprobe.stats.summary_tasks import TaskSummary


@dataclass(frozen=True)
class NullControl:
    """The base against its own capture, by text and task: the instrument's floor.

    A value is a summary in its `results.json` form; None where it could not be run (an imported base file).
    """

    texts: Mapping[str, Mapping[str, Any] | None]
    tasks: Mapping[str, Mapping[str, Any] | None] = field(default_factory=dict)


@dataclass(frozen=True)
class TaskFacts:
    """What holds for a task whatever the quant."""

    rule: str
    template: str
    n_items: int
    n_left_out: int
    """Questions longer than the context, or broken and skipped on request."""
    n_identical: int
    """Items with two choices of the same tokens: they tie, and the first is the prediction."""
    n_token_prefix: int
    """Items with a choice whose tokens begin another's."""
    n_empty_prefix: int
    """Items whose choices have no first token in common and no BOS before them."""
    n_tokens_decoded: int
    """Tokens that one model decodes, shared beginnings once."""
    n_tokens_naive: int
    """Tokens that it would decode if every choice of every question were run by itself."""


@dataclass(frozen=True)
class QuantResult:
    """One quant against the base."""

    info: ModelInfo
    texts: Mapping[str, TextSummary]
    tasks: Mapping[str, TaskSummary] = field(default_factory=dict)
    llama: Mapping[str, LlamaStatistics] = field(default_factory=dict)
    """By text, the statistics in llama-perplexity's own arithmetic; only where asked for."""
    pooled: TaskSummary | None = None
    """All questions of all tasks as one; None where there are not several tasks."""


@dataclass(frozen=True)
class SweepResult:
    """A base and its quants."""

    base: BaseIdentity
    settings: Mapping[str, Any]
    null_control: NullControl
    quants: tuple[QuantResult, ...]
    tasks: Mapping[str, TaskFacts] = field(default_factory=dict)
