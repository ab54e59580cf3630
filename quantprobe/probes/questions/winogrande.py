"""Which tokens llama-perplexity scores in a Winogrande task, and its known slip."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from quantprobe.arrays import Int32Array
from quantprobe.probes.items import ChoiceItem

MIN_REMAINDER = 3
"""With more tokens than this behind the common prefix, in both choices, the choice itself is not scored."""


@dataclass(frozen=True)
class WinograndeSpans:
    """The scored tokens of both choices, as half-open ranges of indices in their sequences."""

    skip: bool
    """The choice words are skipped: only the text behind them is scored."""
    spans: tuple[tuple[int, int], tuple[int, int]]


def winogrande_spans(item: ChoiceItem) -> WinograndeSpans:
    """What llama-perplexity `--winogrande` scores of an item with two choices.

    Scoring begins behind the choice if more than three tokens follow the common prefix in both
    sequences, else behind the common prefix; the last token (mostly the full stop) is left out unless
    it is the only one. A choice's score is the mean over its span; an empty span has no score. A
    token without a predecessor (no BOS, nothing in common) is not scored.
    """
    n_prefix = len(item.prefix)
    remainders = [len(item.branches[choice]) for choice in (0, 1)]
    skip = min(remainders) > MIN_REMAINDER
    return WinograndeSpans(skip, (_span(item, 0, skip, n_prefix), _span(item, 1, skip, n_prefix)))


def _span(item: ChoiceItem, choice: int, skip: bool, n_prefix: int) -> tuple[int, int]:
    length = n_prefix + len(item.branches[choice])
    first = item.starts[choice] if skip else n_prefix
    end = length - 1 if length - first > 1 else length
    return max(first, 1), end


def slip_branch(item: ChoiceItem) -> Int32Array | None:
    """The branch whose last row the original reads by mistake; None where it reads the right row.

    Where the choice words are not skipped, the first term of choice 2 comes from the last row of
    choice 1 (a FIXME in llama.cpp's source) instead of the common prefix's: it is
    log P(first token of choice 2 | the whole of choice 1). So the branch is choice 1 followed by that token.
    """
    if winogrande_spans(item).skip or not len(item.prefix) or not len(item.branches[1]):
        return None
    return np.concatenate([item.branches[0], item.branches[1][:1]])
