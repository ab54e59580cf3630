"""What the command and its workers tell each other: plain records, the same on both sides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from quantprobe.hub.choosing import Choice


@dataclass(frozen=True)
class Part:
    """One file of a worker's store, `FOLDER/NAME`: a part of a model or of a capture."""

    folder: str
    """`models/SHA256` or `captures/SHA256`."""
    name: str
    n_bytes: int
    sha256: str = ""
    """Of this file; "" where only the digest of the whole model is known, which is then checked."""


@dataclass(frozen=True)
class ModelRef:
    """A model by its content, and where the command sees it."""

    name: str
    """Of the line in the results."""
    sha256: str
    """Of the bytes of all files; "" for a model of the hub that nobody has read yet."""
    files: tuple[tuple[str, int], ...]
    """Path and bytes of each part."""

    @property
    def folder(self) -> str:
        """Where a worker keeps its own copy."""
        return f"models/{self.sha256}"

    def parts(self, names: tuple[str, ...]) -> tuple[Part, ...]:
        """The files as parts of a store; `names` are theirs."""
        own = self.sha256 if len(self.files) == 1 else ""
        return tuple(Part(self.folder, name, size, own) for name, (_, size) in zip(names, self.files, strict=True))


@dataclass(frozen=True)
class CaptureRef:
    """A capture by its content: all of `meta.json`, and where the command sees the folder."""

    path: str
    sha256: str
    meta: bytes

    @property
    def folder(self) -> str:
        """Where a worker keeps what it has of it."""
        return f"captures/{self.sha256}"


@dataclass(frozen=True)
class Job:
    """One quant on one text or task."""

    capture: CaptureRef
    model: ModelRef
    probe: str
    settings: Mapping[str, Any]
    """As `Settings.to_dict` gives them, with the cache types of the line."""
    llama_compat: bool
    precision: float | None
    base: ModelRef
    share: str = ""
    n_sharing: int = 1
    """Workers in the memory of one machine, as far as the command knows."""
    on_demand: Choice | None = None
    """A model of the hub that the worker fetches, and deletes when it goes on to another."""


@dataclass(frozen=True)
class Lacks:
    """The answer of a worker that needs files first."""

    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Measured:
    """The answer of a worker that has measured: the file of rows, as it lies in a run's folder."""

    rows: bytes
    sha256: str
    seconds: float
    quant: Mapping[str, Any] | None = None
    """Of a model of the hub, what is recorded of it."""


@dataclass(frozen=True)
class Request:
    """What workers are asked before they get work."""

    settings: Mapping[str, Any]
    models: tuple[ModelRef, ...]


@dataclass(frozen=True)
class Advert:
    """What a worker has."""

    version: str
    """Of quantprobe."""
    facts: Mapping[str, Any]
    """Everything recorded of its settings and machine that can move a logit."""
    holds: tuple[str, ...]
    """`sha256` of the models of the request that lie there, by name and size."""
    host: str
    memory_bytes: int
    """Free now."""
    devices: tuple[str, ...]
    error: str = ""
    """Why it cannot measure; "" where it can."""
