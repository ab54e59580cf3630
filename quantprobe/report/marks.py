"""How verdicts and quants look wherever they are drawn: one palette, one set of shapes, one Pareto rule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from quantprobe.arrays import BoolArray, FloatArray


@dataclass(frozen=True)
class Mark:
    """The look of one verdict. Colour never stands alone: every verdict has a shape of its own."""

    sign: str
    """The shape as a character, for text and tables."""
    css: str
    """The shape's name, which is the class and the variable of the page's style sheet."""
    marker: str
    """Matplotlib's marker of that shape."""
    light: str
    """Colour on white, contrast 4.5 or more; `dark` on the page's dark ground."""
    dark: str


MARKS: Mapping[str, Mark] = {
    "worse": Mark("▼", "worse", "v", "#b04500", "#f0a070"),
    "better": Mark("▲", "better", "^", "#0b6b48", "#6cd3a6"),
    "equivalent": Mark("■", "equivalent", "s", "#1b5a9e", "#8bbcf5"),
    "not inferior": Mark("◆", "not-inferior", "D", "#0a6c74", "#6fd0d8"),
    "not separable": Mark("○", "not-separable", "o", "#59636e", "#a9b3be"),
}
NO_MARK = Mark("×", "no-verdict", "x", "#59636e", "#a9b3be")
"""A quant without a verdict: no task was measured, or another program gave none."""


def mark_of(verdict: str | None) -> Mark:
    """The mark of a verdict; `NO_MARK` for none or for a word that is not known here."""
    return MARKS.get(verdict or "", NO_MARK)


def pareto_members(sizes: FloatArray, distances: FloatArray) -> BoolArray:
    """Which of `[n]` quants no other beats: none is at most as large and at most as far, and better in one of the two.

    NaN (an unknown size or distance) is never a member. Equal quants are members together.
    """
    member = np.zeros(len(sizes), np.bool_)
    best, best_size = np.inf, -np.inf
    for index in np.lexsort((distances, sizes)):
        if not (np.isfinite(sizes[index]) and np.isfinite(distances[index])):
            continue
        if distances[index] < best or (distances[index] == best and sizes[index] == best_size):
            member[index] = True
            best, best_size = distances[index], sizes[index]
    return member
