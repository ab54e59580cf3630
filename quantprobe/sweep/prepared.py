"""Inputs and base of a capture, read and identified before any model is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantprobe.capture.meta import OF_PROBES
from quantprobe.gguf.model import ModelInfo
from quantprobe.probes.text import SECOND_HALF, check_score_from
from quantprobe.settings import Settings, moves_logits
from quantprobe.sweep.inputs import Inputs, Progress, ReadText, chat_template, identify, read_measurable, read_texts
from quantprobe.sweep.recorded import digest, record_settings
from quantprobe.sweep.tasks import ReadTask, check_chat, read_tasks


@dataclass(frozen=True)
class Prepared:
    """Inputs and base, read and identified, before any model is loaded: a wrong path costs no time."""

    info: ModelInfo
    inputs: Inputs
    settings: Settings
    texts: tuple[ReadText, ...]
    tasks: tuple[ReadTask, ...]

    def sources(self) -> dict[str, str]:
        """Digest by name of all that a probe is made from, but for the tokenizer and the settings.

        A probe whose source is the same is in the capture already, and no model is needed to know it.
        """
        return {**self._text_sources(), **self._task_sources()}

    def _text_sources(self) -> dict[str, str]:
        cut = {"n_chunks": self.inputs.n_chunks, "parse_special": self.inputs.parse_special}
        if self._score_from is not None:
            cut["score_from"] = self._score_from
        whole = cut == {"n_chunks": None, "parse_special": False}
        found = {text.name: text.sha256 if whole else digest({"text": text.sha256, **cut}) for text in self.texts}
        # with the template, which the base's digest covers, the score says what a conversation is measured on
        chats = {
            text.name: digest({"chats": text.sha256, "n_chunks": self.inputs.n_chunks, "score": self.inputs.score})
            for text in self.texts
            if text.conversations
        }
        return found | chats

    @property
    def _score_from(self) -> int | None:
        return check_score_from(self.inputs.score_from, self.settings.n_ctx)

    def _task_sources(self) -> dict[str, str]:
        return {task.given.name: task.sha256 for task in self.tasks}

    def recorded(self) -> dict[str, Any]:
        """Recorded settings, and the inputs by content."""
        return {
            **record_settings(self.settings),
            "texts": self._text_sources(),
            "n_chunks": self.inputs.n_chunks,
            "parse_special": self.inputs.parse_special,
            "score_from": SECOND_HALF if self._score_from is None else self._score_from,
            "tasks": self._task_sources(),
            **({"score": self.inputs.score} if any(text.conversations for text in self.texts) else {}),
        }

    def key(self, kind: str | None) -> str:
        """Digest of what all probes of a capture have in common: the base, and the settings that move logits."""
        recorded: Mapping[str, Any] = self.recorded()
        settings = {name: recorded[name] for name in recorded if moves_logits(name) and name not in OF_PROBES}
        return digest({"base": self.info.sha256, "kind": kind, "settings": settings})


def prepare(base: Path, inputs: Inputs, settings: Settings, progress: Progress) -> Prepared:
    """Read texts, questions and the base's identity."""
    check_score_from(inputs.score_from, settings.n_ctx)
    info = read_measurable(base)
    texts, tasks = read_texts(inputs), read_tasks(inputs, progress)
    for task in tasks:
        check_chat(task, info)
    for text in texts:
        if text.conversations:
            chat_template(text, info)
    return Prepared(identify(info, progress), inputs, settings, tuple(texts), tuple(tasks))
