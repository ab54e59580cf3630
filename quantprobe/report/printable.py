"""Text that others wrote (names of quants and tasks, questions), made safe to show."""

from __future__ import annotations

import unicodedata

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_KEPT = {"\n", "\t", "\N{ZERO WIDTH JOINER}", "\N{ZERO WIDTH NON-JOINER}"}


def printable(text: str) -> str:
    """`text` with a replacement character for each control, bidirectional override and lone surrogate.

    A terminal obeys the first, readers are misled by the second, and UTF-8 cannot hold the third. Line ends, tabs and
    the joiners that scripts need stay.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        letter if letter in _KEPT or unicodedata.category(letter) not in ("Cc", "Cf", "Cs") else REPLACEMENT
        for letter in text
    )
