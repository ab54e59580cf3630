"""A small tokenizer that knows special tokens: words with the space before them, and every other character."""

from __future__ import annotations

import re

import numpy as np

from quantprobe.arrays import Int32Array


class ChatVocabulary:
    """Tokens by their texts, numbered as they come up; `ends` and `special` are control tokens."""

    def __init__(self, bos: str, ends: tuple[str, ...], special: tuple[str, ...], strips: bool = False) -> None:
        self._numbers: dict[str, int] = {}
        self._control = {self._number(text) for text in (*ends, *special)}
        self._ends = {self._number(text) for text in ends}
        self.bos = self._number(bos) if bos else None
        known = "|".join(re.escape(text) for text in sorted((*ends, *special), key=len, reverse=True))
        self._special = re.compile(f"({known})" + (r"\s*" if strips else ""))

    def _number(self, text: str) -> int:
        return self._numbers.setdefault(text, len(self._numbers))

    def tokenize(self, text: str, add_special: bool, parse_special: bool) -> Int32Array:
        tokens = [self.bos] if add_special and self.bos is not None else []
        parts = self._special.split(text) if parse_special else [text]
        for place, part in enumerate(parts):
            pieces = [part] if place % 2 else re.findall(r" ?\w+|\s+(?=\s)|\s|.", part)
            tokens += [self._number(piece) for piece in pieces]
        return np.array(tokens, dtype=np.int32)

    def piece_bytes(self, token: int) -> bytes:
        return next(text for text, number in self._numbers.items() if number == token).encode("utf-8")

    def is_control(self, token: int) -> bool:
        return token in self._control

    def ends_generation(self, token: int) -> bool:
        return token in self._ends
