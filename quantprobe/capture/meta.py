"""What a capture says about itself: its base, its settings, its probes, the place of the output matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from quantprobe.gguf.model import ModelIdentity
from quantprobe.run.compare import OF_TEXTS, PROBES, setting_differences

FORMAT_VERSION = 1
JsonValue: TypeAlias = "bool | int | float | str | Sequence[JsonValue] | Mapping[str, JsonValue] | None"

OF_PROBES = frozenset((*PROBES, *OF_TEXTS))
"""Settings that say what was captured, not how."""

HEADER_WORDS = 4
"""Words of 16 bits before the codes of a row of log-probabilities."""

ROW_DTYPES: Mapping[str, np.dtype[Any]] = {
    "float16": np.dtype("<f2"),
    "bfloat16": np.dtype("<u2"),  # the upper half of a float32; NumPy has no such type
    "float32": np.dtype("<f4"),
    "uint16": np.dtype("<u2"),
}
"""Row types by name, and how their elements lie on disk."""

KINDS: Mapping[str, tuple[str, ...]] = {
    "hidden": ("float16", "bfloat16", "float32"),
    "logprobs": ("uint16",),
    "llama_kld": ("uint16",),
}
"""What the rows of a capture can be, and the row types of each."""


@dataclass(frozen=True)
class FileEntry:
    """One file of the capture's folder."""

    name: str
    n_bytes: int
    sha256: str


@dataclass(frozen=True)
class HeadReference:
    """The output matrix that turns hidden rows into logits, by digest and place.

    `sha256` and `bias` are filled when the head is entered into the capture.
    """

    tensor: str
    type_name: str
    shape: tuple[int, ...]
    path: str
    """The GGUF that holds the matrix at `offset`, `n_bytes` long."""
    offset: int
    n_bytes: int
    scale: float | None
    softcap: float | None
    post: str
    """Name of the processing after the product, as the self-check of the capture chose it."""
    embedded: bool
    """Whether the bytes are copied into the capture, so that it needs no GGUF."""
    sha256: str = ""
    bias: FileEntry | None = None
    device: str | None = None
    """llama.cpp's name of the device on which the product gave the base's logits back; None in older captures."""
    row_dtype: str = ""
    """The type of rows that the self-check chose; empty in captures made before this was kept."""
    exact: bool = False
    """Whether the product gave the logits of the self-check bit for bit."""


@dataclass(frozen=True)
class ProbeEntry:
    """One probe and its rows, `[n_rows, row_width]` of `row_dtype`."""

    name: str
    kind: str
    """`text` or `task`."""
    sha256: str
    """The probe's own digest (`TextProbe.sha256`, `TaskProbe.sha256`)."""
    n_rows: int
    row_dtype: str
    row_width: int
    probe: FileEntry
    rows: FileEntry
    null_control: JsonValue = None
    n_tokens: int = 0
    """Tokens that were decoded to have these rows; 0 where nobody told (an imported base file)."""
    source: str = ""
    """Digest of the text or questions that the probe was made from; empty where nobody told."""


@dataclass(frozen=True)
class CaptureMeta:
    """Everything in a capture but its arrays."""

    format_version: int
    kind: str
    base: ModelIdentity
    settings: Mapping[str, JsonValue]
    """Everything that can change a number; two runs are comparable only where they are equal. `texts` and `tasks` are
    the sources of the probes by name."""
    head: HeadReference | None
    probes: tuple[ProbeEntry, ...]

    @property
    def n_vocab(self) -> int:
        """Tokens of the base's vocabulary; a capture always knows."""
        return self.base.n_vocab or 0

    def files(self) -> list[tuple[str, FileEntry]]:
        """Every file of the capture with the words that name it in an error."""
        files = []
        for entry in self.probes:
            files += [(f"tokens of {entry.name!r}", entry.probe), (f"rows of {entry.name!r}", entry.rows)]
        if self.head is not None and self.head.embedded:
            files.append(("output matrix", FileEntry("head.bin", self.head.n_bytes, self.head.sha256)))
        if self.head is not None and self.head.bias is not None:
            files.append(("output bias", self.head.bias))
        return files

    def fits(self, other: CaptureMeta) -> bool:
        """Whether the rows of both would be the same: the same base and the same settings that move logits.

        What was captured (`texts`, `tasks` and how they were cut) is each probe's own matter.
        """
        return self.base.sha256 == other.base.sha256 and not self.differences(other)

    def differences(self, other: CaptureMeta) -> list[str]:
        """Names of the settings that move logits and differ, sorted; what only one of both knows is not among them."""
        found = setting_differences(self.settings, other.settings)
        return sorted({each.name.split(".")[0] for each in found if each.moves_logits} - OF_PROBES)


def record_width(n_vocab: int) -> int:
    """Words of 16 bits in one record of llama.cpp's base file: `2 * ((n_vocab + 1) // 2) + 4`."""
    return 2 * ((n_vocab + 1) // 2) + 4


def find_row_fault(kind: str, row_dtype: str, row_width: int, n_vocab: int) -> str | None:
    """Why rows of this type and width cannot belong to a capture of `kind`; None if they can."""
    if row_dtype not in KINDS[kind]:
        return f"{kind} rows cannot be {row_dtype}; expected {' or '.join(KINDS[kind])}"
    if kind == "hidden":
        return None if row_width > 0 else f"rows of width {row_width} hold nothing"
    expected = n_vocab + HEADER_WORDS if kind == "logprobs" else record_width(n_vocab)
    if row_width != expected:
        return f"{kind} rows of {n_vocab} tokens are {expected} words wide, not {row_width}"
    return None
