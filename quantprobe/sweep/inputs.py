"""What the user gives: texts and tasks, and how progress is told."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Lock
from typing import Protocol

from quantprobe.engine.model import Model
from quantprobe.errors import InputError
from quantprobe.gguf.model import ModelInfo, hash_model, read_model_info, require_measurable
from quantprobe.probes.chat import ChatTemplate
from quantprobe.probes.chats import chat_probe, cut_words
from quantprobe.probes.conversations import Conversation, is_chats, read_conversations
from quantprobe.probes.scores import ASSISTANT
from quantprobe.probes.text import TextProbe, read_text, text_probe
from quantprobe.settings import Settings

MAX_READERS = 4
"""Files hashed at a time: more cores than that outrun the disk."""


class Progress(Protocol):
    """Where a long job tells how far it is; one label at a time."""

    def plan(self, n_jobs: int, n_tokens: int) -> None:
        """What the whole run has still to decode: models times probes, and their tokens."""

    def start(self, label: str, total: int | None, unit: str) -> None: ...
    def advance(self, n: int = 1) -> None: ...
    def finish(self) -> None: ...
    def note(self, message: str) -> None: ...


class _Silent:
    """Tells nobody."""

    def plan(self, n_jobs: int, n_tokens: int) -> None:
        """Nothing."""

    def start(self, label: str, total: int | None, unit: str) -> None:
        """Nothing."""

    def advance(self, n: int = 1) -> None:
        """Nothing."""

    def finish(self) -> None:
        """Nothing."""

    def note(self, message: str) -> None:
        """Nothing."""


SILENT: Progress = _Silent()


@dataclass(frozen=True)
class TextInput:
    """One text file and the name that results give it."""

    name: str
    path: Path


@dataclass(frozen=True)
class TaskInput:
    """One question file and the name that results give it."""

    name: str
    path: Path
    format: str | None = None
    template: str | None = None
    """Name of the prompt template; None: the one of the format."""
    rule: str | None = None
    """Scoring rule that decides correctness; None: the one of the template."""
    few_shot: int = 0
    few_shot_file: Path | None = None
    """Question file that the examples come from; None: the dev part that lies with the questions."""
    chat_template: bool = False
    """Whether prompts go through the model's own chat template."""
    n_items: int | None = None
    """Most questions taken, drawn as llama-perplexity draws them; None: all."""
    skip_bad: bool = False
    grouping: str | None = None
    """What the questions' groups are (`quantprobe.probes.grouping`); None: what the file or its format says."""


@dataclass(frozen=True)
class Inputs:
    """Everything to measure on."""

    texts: tuple[TextInput, ...]
    tasks: tuple[TaskInput, ...] = ()
    n_chunks: int | None = None
    """Most windows of each text; None: all."""
    parse_special: bool = False
    """Whether special tokens written in a text (chat templates) become tokens."""
    score_from: int | None = None
    """First scored position of a window of plain text; None: the middle."""
    score: str = ASSISTANT
    """Whose tokens count in files of chats, one of `quantprobe.probes.scores.SCORES`."""
    llama_compat: bool = False
    """Whether known slips of llama-perplexity are reproduced (Winogrande's second choice)."""

    def __post_init__(self) -> None:
        if not self.texts and not self.tasks:
            raise InputError("nothing to measure on; give a text with --text FILE or questions with --task FILE")
        names = [text.name for text in self.texts] + [task.name for task in self.tasks]
        for name in names:
            if not name or names.count(name) > 1:
                raise InputError(f"two inputs are named {name!r}; name them apart: --text NAME=FILE, --task NAME=FILE")


@dataclass(frozen=True)
class ReadText:
    """A text in memory and the digest of what was read."""

    name: str
    text: str
    sha256: str
    conversations: tuple[Conversation, ...] = ()
    """Of a file of chats; none: plain text."""


def read_texts(inputs: Inputs) -> list[ReadText]:
    """All texts, read before any model is loaded, so that a wrong path costs no time."""
    return [_read_text(given) for given in inputs.texts]


def _read_text(given: TextInput) -> ReadText:
    text = read_text(given.path)
    sha256 = hashlib.sha256(text.encode("utf-8")).hexdigest()
    if is_chats(given.path, text):
        return ReadText(given.name, text, sha256, read_conversations(given.path, text))
    return ReadText(given.name, text, sha256)


def chat_template(text: ReadText, info: ModelInfo, bos: str = "", eos: str = "") -> ChatTemplate:
    """The template that writes a file of chats. Raises `InputError` if the model has none that can be used."""
    return ChatTemplate(
        info.chat_template, info.path.name, bos, eos, f"{text.name!r} is a file of chats: give plain text"
    )


def make_text_probe(model: Model, text: ReadText, inputs: Inputs, progress: Progress = SILENT) -> TextProbe:
    """The windows of one text under the model's tokenizer, as llama-perplexity makes them; of chats, conversations."""
    if text.conversations:
        return _make_chat_probe(model, text, inputs, progress)
    tokens = model.tokenize(text.text, add_special=True, parse_special=inputs.parse_special)
    return text_probe(text.name, tokens, model.settings.n_ctx, inputs.n_chunks, model.bos, inputs.score_from)


def _make_chat_probe(model: Model, text: ReadText, inputs: Inputs, progress: Progress) -> TextProbe:
    template = chat_template(text, model.info, model.bos_text, model.eos_text)
    n_ctx = model.settings.n_ctx
    progress.start(f"tokenize {text.name}", None, "conversation")
    try:
        probe = chat_probe(text.name, text.conversations, template, model, n_ctx, inputs.n_chunks, inputs.score)
    finally:
        progress.finish()
    if probe.own is not None and (words := cut_words(probe.own.cut, n_ctx)):
        progress.note(f"{text.name}: {words}; --ctx-size sets the limit")
    return probe


def read_measurable(path: Path) -> ModelInfo:
    """Metadata of a model that can be measured; its content is not read."""
    info = read_model_info(path)
    require_measurable(info)
    return info


def identify(info: ModelInfo, progress: Progress) -> ModelInfo:
    """The same with the content's digest."""
    progress.start(f"hash {info.name}", info.size_bytes, "B")
    try:
        return hash_model(info, progress.advance)
    finally:
        progress.finish()


def identify_all(infos: Sequence[ModelInfo], progress: Progress) -> list[ModelInfo]:
    """The same models with the digests of their contents, several read at a time: SHA-256 runs without the GIL."""
    n_readers = min(len(infos), os.cpu_count() or 1, MAX_READERS)
    if n_readers < 2:
        return [identify(info, progress) for info in infos]
    progress.start(f"hash {len(infos)} models", sum(info.size_bytes for info in infos), "B")
    stopped, one_at_a_time = Event(), Lock()

    def advance(n: int) -> None:
        if stopped.is_set():
            raise KeyboardInterrupt
        with one_at_a_time:
            progress.advance(n)

    with ThreadPoolExecutor(n_readers) as pool:
        try:
            return list(pool.map(lambda info: hash_model(info, advance), infos))
        except BaseException:
            stopped.set()  # leaving waits for what runs, which may have minutes to go
            raise
        finally:
            progress.finish()


def load_model(info: ModelInfo, settings: Settings, progress: Progress) -> Model:
    """Load with a progress bar; tells if llama.cpp leaves out the flash attention that was asked for."""
    shown = 0

    def report(fraction: float) -> None:
        nonlocal shown
        percent = int(100 * fraction)
        if percent > shown:
            progress.advance(percent - shown)
            shown = percent

    progress.start(f"load {info.name}", 100, "%")
    try:
        model = Model(info, settings, report)
    finally:
        progress.finish()
    if settings.flash_attn and model.flash_attn_used is False:
        progress.note(f"{info.name}: computed without flash attention; llama.cpp has no kernel for it on this device")
    return model


def check_names(infos: Sequence[ModelInfo]) -> None:
    """Two quants with one name would share their files."""
    names = [info.name for info in infos]
    for info in infos:
        if names.count(info.name) > 1:
            same = [str(other.path) for other in infos if other.name == info.name]
            raise InputError(f"several quants are named {info.name!r} ({', '.join(same)}); rename the files")
