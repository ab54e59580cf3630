"""Names of quants as tables and plots show them."""

from __future__ import annotations

from collections.abc import Sequence

MARKS = "-._ /"


def short_names(names: Sequence[str], base: str = "") -> list[str]:
    """`names` without the beginning that all of them (and the base, if given) share, cut behind a mark.

    `Model-7B-Q4_K_M`, `Model-7B-Q8_0` -> `Q4_K_M`, `Q8_0`. A single name without a base stays whole.
    """
    known = [*names, base] if base else list(names)
    if len(known) < 2:
        return list(names)
    start = 0
    for i, letters in enumerate(zip(*known, strict=False)):
        if len(set(letters)) > 1:
            break
        start = i + 1 if letters[0] in MARKS else start
    return [name[start:] or name for name in names]


def join_words(words: Sequence[str], most: int = 5) -> str:
    """`a, b and c`; `none` for no words; with more than `most`, `a, b, c, d, e and 3 more`."""
    if not words:
        return "none"
    shown = list(words[:most])
    if len(words) > most:
        return f"{', '.join(shown)} and {len(words) - most} more"
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"
