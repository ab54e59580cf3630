"""Whether a text that is measured on was also calibrated on: the share of its words in common n-grams."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from quantprobe.arrays import BoolArray

N_GRAM = 13
"""Words in a row: the length by which contamination has been counted since GPT-3 (Brown et al. 2020, appendix C)."""
WORTH_A_WARNING = 0.01

_LONE = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORDS = re.compile(rf"[{_LONE}]|[^\W{_LONE}]+")
"""Japanese and Chinese are written without spaces: there each character is a word."""


@dataclass(frozen=True)
class Overlap:
    """How much of a text is covered by n-grams that another text has too."""

    n: int
    n_words: int
    """Words, or tokens, of the text that is measured on."""
    n_covered: int
    """Those within a common n-gram."""
    example: str
    """The first common n-gram, as words; empty for none."""

    @property
    def share(self) -> float:
        """`n_covered / n_words`, 0 for an empty text."""
        return self.n_covered / self.n_words if self.n_words else 0.0


def words_of(text: str) -> list[str]:
    """Words in lower case, without marks and punctuation."""
    return _WORDS.findall(text.casefold())


def text_overlap(calibration: str, evaluation: str, n: int = N_GRAM) -> Overlap:
    """The overlap of two texts in words; case, punctuation and spaces do not count."""
    return overlap(words_of(calibration), words_of(evaluation), n)


def dataset_overlap(dataset: str | None, evaluation: str, n: int = N_GRAM) -> Overlap | None:
    """The overlap with the text that an importance matrix names, None where that is not known.

    A matrix keeps the path of its text and nothing of its content; on another machine there is no such file.
    """
    if not dataset:
        return None
    try:
        calibration = Path(dataset).read_text(encoding="utf-8", errors="replace")
    except (OSError, ValueError):
        return None
    return text_overlap(calibration, evaluation, n)


def overlap(calibration: Sequence[object], evaluation: Sequence[object], n: int = N_GRAM) -> Overlap:
    """The overlap of two sequences of words or tokens; sequences shorter than `n` have none.

    N-grams are compared by 64-bit hashes: of 10^8 against 10^6 n-grams, a pair meets by chance once in 10^5 texts.
    """
    numbers: dict[object, int] = {}
    known, asked = (
        np.fromiter((numbers.setdefault(word, len(numbers)) for word in words), dtype=np.int64, count=len(words))
        for words in (calibration, evaluation)
    )
    common = np.isin(_hashes(asked, n), _hashes(known, n))
    covered = _covered(common, len(evaluation), n)
    first = int(np.argmax(common)) if common.any() else -1
    example = " ".join(str(word) for word in evaluation[first : first + n]) if first >= 0 else ""
    return Overlap(n, len(evaluation), int(covered.sum()), example)


def _hashes(numbers: NDArray[np.int64], n: int) -> NDArray[np.uint64]:
    """A hash of each n-gram, `[len - n + 1]`: fixed random words multiplied and added modulo 2^64."""
    if len(numbers) < n:
        return np.zeros(0, dtype=np.uint64)
    rng = np.random.default_rng(0)
    factors = rng.integers(0, 2**63, size=n, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    scrambled = _scramble(numbers.astype(np.uint64))
    total = np.zeros(len(numbers) - n + 1, dtype=np.uint64)
    for i, factor in enumerate(factors):
        total += scrambled[i : i + len(total)] * factor
    return total


def _scramble(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's finaliser: consecutive numbers become unrelated ones."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _covered(common: BoolArray, n_words: int, n: int) -> BoolArray:
    """Which words lie within a common n-gram."""
    steps = np.zeros(n_words + 1, dtype=np.int64)
    starts = np.flatnonzero(common)
    np.add.at(steps, starts, 1)
    np.add.at(steps, starts + n, -1)
    return np.cumsum(steps[:-1]) > 0
