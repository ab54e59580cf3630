"""llama-perplexity's known slip in Winogrande tasks."""

from __future__ import annotations

import numpy as np

from quantprobe.arrays import Int32Array
from quantprobe.probes.items import ChoiceItem
from quantprobe.probes.rules import skips_choice


def slip_branch(item: ChoiceItem) -> Int32Array | None:
    """The branch whose last row the original reads by mistake; None where it reads the right row.

    Where the choice words are not skipped, the first term of choice 2 comes from the last row of
    choice 1 (a FIXME in llama.cpp's source) instead of the common prefix's: it is
    log P(first token of choice 2 | the whole of choice 1). So the branch is choice 1 followed by that token.
    """
    if skips_choice(item) or not len(item.prefix) or not len(item.branches[1]):
        return None
    return np.concatenate([item.branches[0], item.branches[1][:1]])
