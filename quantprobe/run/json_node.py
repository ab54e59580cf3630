"""Reading JSON values of a known type, with complaints that name the place."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantprobe.errors import FileFormatError


@dataclass(frozen=True)
class Node:
    """A JSON value and where it stands, so that every complaint can name its place."""

    file: Path
    where: str
    value: Any

    def fail(self, expected: str) -> FileFormatError:
        found = type(self.value).__name__ if isinstance(self.value, dict | list) else repr(self.value)
        return FileFormatError(
            f"{self.file}: {self.where or 'the whole file'} is {found}, expected {expected}; "
            "run the sweep again, or correct the program that wrote the file"
        )

    def get(self, key: str) -> Node:
        if key not in self.mapping():
            raise FileFormatError(
                f"{self.file}: {self.at(key)} is missing; a number that does not exist is written as null"
            )
        return Node(self.file, self.at(key), self.value[key])

    def get_or(self, key: str, default: Any) -> Node:
        return Node(self.file, self.at(key), self.mapping().get(key, default))

    def at(self, key: str) -> str:
        return f"{self.where}.{key}" if self.where else key

    def mapping(self) -> dict[str, Any]:
        if not isinstance(self.value, dict):
            raise self.fail("an object")
        return self.value

    def items(self) -> list[Node]:
        if not isinstance(self.value, list):
            raise self.fail("a list")
        return [Node(self.file, f"{self.where}[{i}]", value) for i, value in enumerate(self.value)]

    def text(self) -> str:
        if not isinstance(self.value, str):
            raise self.fail("a string")
        return self.value

    def number(self) -> float | None:
        if self.value is None:
            return None
        if isinstance(self.value, bool) or not isinstance(self.value, int | float) or not math.isfinite(self.value):
            raise self.fail("a finite number or null")
        return float(self.value)

    def count(self) -> int | None:
        number = self.number()
        if number is not None and (number < 0 or number != int(number)):
            raise self.fail("a count (0, 1, 2, ...) or null")
        return None if number is None else int(number)
