"""Multiple-choice probes: questions as texts, and as tokens whose rows score each choice."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import numpy as np

from quantprobe.arrays import Int32Array, Int64Array
from quantprobe.probes.grouping import UNGROUPED


@dataclass(frozen=True)
class Question:
    """One question as text, before any template."""

    id: str
    group: str
    """Kind or source of the question; the file's grouping says which (`quantprobe.probes.grouping`). Empty: none."""
    prompt: str
    choices: tuple[str, ...]
    gold: int
    """Index of the right choice."""
    suffix: str = ""
    """Text that follows every choice (Winogrande); empty: the choice ends the sequence."""
    delimiter: str = " "
    """What stands between a cloze prompt and a choice."""


@dataclass(frozen=True)
class ChoiceItem:
    """One question as tokens.

    Choice c is the sequence `prefix + branches[c]`. Rows of an item, in order: the last
    `n_prefix_rows` positions of the prefix, then for each branch all of its positions but the last.
    So a branch of one token adds no row, and the last token of a choice is never decoded.

    Branches beyond the choices (`len(branches) > n_choices`) score nothing by themselves; they hold rows
    that a rule with `slip` needs (`quantprobe.probes.questions.winogrande`).
    """

    id: str
    group: str
    gold: int
    prefix: Int32Array
    """Tokens that all choices begin with; empty when the model adds no BOS and the first tokens differ."""
    branches: tuple[Int32Array, ...]
    n_prefix_rows: int
    """1; more when a continuation starts inside the common prefix; 0 only when the prefix is empty."""
    starts: tuple[int, ...]
    """For each choice the index, in its whole sequence, of the continuation's first token (lm-eval's split)."""
    n_bytes: tuple[int, ...]
    """For each choice the length of its text in UTF-8 bytes, without the delimiter (lm-eval's acc_bytes)."""
    n_chars: tuple[int, ...]
    """The same in characters: what lm-eval's acc_norm divides by; equal to `n_bytes` for ASCII."""
    prompt: str = ""
    """The question's own text, for people to read; no part of the digest."""
    choices: tuple[str, ...] = ()
    """The text of each choice."""

    @property
    def n_choices(self) -> int:
        return len(self.starts)

    @property
    def n_rows(self) -> int:
        return self.n_prefix_rows + sum(max(len(branch) - 1, 0) for branch in self.branches)

    @property
    def n_tokens(self) -> int:
        """Length of the longest sequence that is decoded; it must fit into the context."""
        return len(self.prefix) + max(max(len(branch) - 1, 0) for branch in self.branches)

    def sequence(self, choice: int) -> Int32Array:
        """The whole sequence of a choice, `[n_tokens]` int32."""
        return np.concatenate([self.prefix, self.branches[choice]])

    def rows_of_targets(self, branch: int, targets: Int64Array) -> Int64Array:
        """The item's rows that predict the tokens at the indices `targets` (1 or more) of a branch's sequence."""
        positions = targets - 1 - len(self.prefix)
        before = sum(max(len(other) - 1, 0) for other in self.branches[:branch])
        rows: Int64Array = self.n_prefix_rows + positions + np.where(positions < 0, 0, before)
        return rows


@dataclass(frozen=True)
class TaskProbe:
    """The items of one task; rows are numbered item by item."""

    name: str
    rule: str
    """The rule that decides correctness, by its name in `quantprobe.probes.rules.RULES`."""
    template: str
    """What made the prompts, named; part of the results."""
    items: tuple[ChoiceItem, ...]
    n_left_out: int = 0
    """Questions that never became items: longer than the context, or broken and skipped on request. No part of the
    digest."""
    grouping: str = UNGROUPED
    """What the items' groups are, one of `quantprobe.probes.grouping.GROUPINGS`. No part of the digest."""

    @property
    def n_rows(self) -> int:
        return sum(item.n_rows for item in self.items)

    def offsets(self) -> list[int]:
        """First row of each item, and the total at the end: `[n_items + 1]`."""
        return [0, *np.cumsum([item.n_rows for item in self.items]).tolist()]

    def subset(self, numbers: Int64Array) -> tuple[TaskProbe, Int64Array]:
        """The probe of the items at `numbers` alone, and for each of its rows the row of this probe, `[n_rows]`."""
        offsets = self.offsets()
        rows = [np.arange(offsets[number], offsets[number + 1], dtype=np.int64) for number in numbers]
        items = tuple(self.items[number] for number in numbers)
        return replace(self, items=items), np.concatenate(rows) if rows else np.empty(0, np.int64)

    def sha256(self) -> str:
        """Digest of everything that the rows depend on."""
        digest = hashlib.sha256()
        for item in self.items:
            digest.update(f"item {item.n_prefix_rows} {len(item.branches)}\n".encode())
            for tokens in (item.prefix, *item.branches):
                digest.update(f"{len(tokens)}\n".encode())
                digest.update(np.ascontiguousarray(tokens, dtype="<i4").tobytes())
        return digest.hexdigest()
