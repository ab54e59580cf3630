"""`blame.json` as records: what each group of tensors costs, in distance and in answers.

`docs/formats.md` describes the file for other programs. Members that are not listed here are ignored.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from quantprobe.errors import FileFormatError, InputError
from quantprobe.gguf.model import ModelIdentity
from quantprobe.run.folder import RunFolder
from quantprobe.run.json_text import plain, write_json
from quantprobe.stats.estimates import Estimate

FORMAT_VERSION = 1
"""Raised when a reader of the version before would misread the file; new members alone do not raise it."""

KLD, NET, MARGIN, GOLD_PROB = "kld", "net", "margin", "gold_prob"
MEASURES = (KLD, MARGIN, NET, GOLD_PROB)
"""Mean KLD, nats; shift of the margin, nats; change of accuracy, a fraction; shift of the gold choice's probability."""


@dataclass(frozen=True, kw_only=True)
class BlameGroup:
    """Tensors that were restored together."""

    name: str
    tensors: tuple[str, ...]
    """Names as in the quant."""
    base_bytes: int
    quant_bytes: int
    base_types: Mapping[str, int]
    """How many tensors have each type."""
    quant_types: Mapping[str, int]
    weight_error: float | None = None
    """sqrt(sum (q - b)^2 / sum b^2) over sampled rows of its tensors; null where it could not be read."""

    @property
    def extra_bytes(self) -> int:
        """Bytes that its restoration costs."""
        return self.base_bytes - self.quant_bytes


@dataclass(frozen=True, kw_only=True)
class Effect:
    """What restoring a group gives back in one measure; the interval holds for all groups together."""

    given_back: Estimate
    """Positive where the quant comes nearer to the base (kld), or gets more right (the others)."""
    p: float | None = None
    """Of no effect, corrected over the groups."""
    share: float | None = None
    """Of what restoring everything gives back; null where that is 0."""
    per_mb: float | None = None
    """For each 10^6 bytes that the restoration costs; null where it costs none."""


@dataclass(frozen=True, kw_only=True)
class GroupEffects:
    """One group restored, in one way: `restored` into the quant, `alone` against the base, or `averaged`."""

    group: str
    way: str
    measures: Mapping[str, Effect]
    """By measure, one of `kld`, `net`, `margin`, `gold_prob`; those that were measured."""


@dataclass(frozen=True, kw_only=True)
class Departure:
    """A contrast that is 0 where effects of groups add up."""

    name: str
    measure: str
    value: Estimate
    p: float | None = None
    """Corrected over all contrasts of the measure and kind."""


@dataclass(frozen=True, kw_only=True)
class Disagreement:
    """One group gives back more distance and less margin than another, both beyond noise."""

    way: str
    more_distance: str
    more_answers: str
    distance: Estimate
    """Distance that the first gives back more than the second; corrected over all pairs of groups."""
    answers: Estimate
    """Margin that the second gives back more than the first, likewise."""


@dataclass(frozen=True, kw_only=True)
class BlameRun:
    """One run of the design and its means."""

    restored: tuple[str, ...]
    """Names of the groups that are the base's."""
    sha256: str
    """Of a hybrid, the digest of the base's, the quant's and the names of the restored tensors."""
    means: Mapping[str, float | None]
    """`kld` and `margin` in nats, `acc` and `gold_prob` from 0 to 1; not shifts."""


@dataclass(frozen=True, kw_only=True)
class Blame:
    """One `blame.json`."""

    format_version: int = FORMAT_VERSION
    base: ModelIdentity
    quant: ModelIdentity
    by: tuple[str, ...]
    n_parts: int
    design: str
    ways: tuple[str, ...]
    groups: tuple[BlameGroup, ...]
    distance_on: str
    """`texts`, or `tasks` where no text was given."""
    texts: Mapping[str, str] = field(default_factory=dict)
    """Digest of each text, as it was cut."""
    tasks: Mapping[str, str] = field(default_factory=dict)
    """Digest of each task's prompts."""
    total: Mapping[str, Estimate] = field(default_factory=dict)
    """By measure, what restoring everything gives back; an interval of its own."""
    effects: tuple[GroupEffects, ...] = ()
    departures: tuple[Departure, ...] = ()
    interactions: tuple[Departure, ...] = ()
    """Products of two groups beyond noise; `name` holds pairs of groups that the design cannot tell apart."""
    n_interactions: int = 0
    """Products that were tested, for each measure."""
    disagreements: tuple[Disagreement, ...] = ()
    sentences: tuple[str, ...] = ()
    runs: tuple[BlameRun, ...] = ()

    def group(self, name: str) -> BlameGroup:
        return next(group for group in self.groups if group.name == name)

    def of_way(self, way: str) -> tuple[GroupEffects, ...]:
        """The effects of one way, in the order of the groups."""
        return tuple(each for each in self.effects if each.way == way)

    @property
    def measures(self) -> tuple[str, ...]:
        """Those that were measured, in the order of `MEASURES`."""
        return tuple(name for name in MEASURES if name in self.total)


def write_blame(blame: Blame, run: RunFolder) -> None:
    """Write `blame.json`, whole or not at all."""
    write_json(plain(blame), run.blame)


def has_blame(run: RunFolder) -> bool:
    """Whether the run has blame results."""
    return run.blame.is_file()


def read_blame(run: RunFolder) -> Blame:
    """Read and check `RUN/blame.json`.

    Raises `InputError` if there is none, `FileFormatError` if it is no JSON, of another version or misses a member.
    """
    path = run.blame
    try:
        document: Any = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(f"{path} does not exist; quantprobe blame writes it into its run folder") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise FileFormatError(f"{path} is not JSON ({error}); run quantprobe blame again") from error
    version = document.get("format_version") if isinstance(document, dict) else None
    if version != FORMAT_VERSION:
        raise FileFormatError(
            f"{path}: format_version is {version!r}, expected {FORMAT_VERSION}; run quantprobe blame again"
        )
    try:
        blame = msgspec.convert(document, Blame, strict=True)
    except (msgspec.ValidationError, RecursionError) as error:
        raise FileFormatError(f"{path}: {error}; run quantprobe blame again") from error
    known = {group.name for group in blame.groups}
    if unknown := {each.group for each in blame.effects} - known:
        raise FileFormatError(f"{path}: effects of {sorted(unknown)[0]!r}, which is no group of it")
    return blame
