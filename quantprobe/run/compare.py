"""Whether measurements may be compared: the one rule, for captures, for runs and for every command."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from quantprobe.errors import MismatchError
from quantprobe.settings import moves_logits

PROBES = ("texts", "tasks")
"""Settings that describe one probe each: two runs may have measured other probes, but not one probe differently."""
OF_TEXTS = ("n_chunks", "parse_special")
"""Settings that say how texts were cut and read: they do not matter where two runs share no text."""
NOT_SET = "not set"


@dataclass(frozen=True)
class Difference:
    """A setting that differs; a nested one is named with dots (`texts.wiki`)."""

    name: str
    a: Any
    b: Any
    moves_logits: bool

    def __str__(self) -> str:
        return f"{self.name} is {self.a} and {self.b}"


def setting_differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> tuple[Difference, ...]:
    """Everything in which two recorded settings differ, by name; probes that only one of them has are left out."""
    left, right = flatten_settings(a), flatten_settings(b)
    found = []
    for key in sorted(left.keys() | right.keys()):
        x, y = left.get(key, NOT_SET), right.get(key, NOT_SET)
        if x != y and not _is_other_probe(key, left, right):
            found.append(Difference(".".join(key), x, y, moves_logits(key[0])))
    return tuple(found)


def require_comparable(differences: Iterable[Difference], allow: Sequence[str], what: str) -> tuple[Difference, ...]:
    """Refuse differences that move logits, unless each is allowed by its name (or that of the setting it is part of).

    Returns the differences that stay, to be told. Raises `MismatchError`, which names all that are not allowed;
    `what` says between what they were found.
    """
    kept = tuple(differences)
    refused = [each for each in kept if each.moves_logits and not _is_allowed(each.name, allow)]
    if refused:
        options = " ".join(f"--allow {each.name}" for each in refused)
        raise MismatchError(
            f"{what} differ in settings that move logits by as much as a good quant does "
            f"({'; '.join(map(str, refused))}); measure under the same settings, or compare all the same with {options}"
        )
    return kept


def flatten_settings(settings: Mapping[str, Any], prefix: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """Nested settings by path (`("texts", "wiki")`), in their order."""
    flat: dict[tuple[str, ...], Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten_settings(value, (*prefix, key))
        else:
            flat[(*prefix, key)] = value
    return flat


def _is_allowed(name: str, allow: Sequence[str]) -> bool:
    parts = name.split(".")
    return any(".".join(parts[:depth]) in allow for depth in range(1, len(parts) + 1))


def _is_other_probe(
    key: tuple[str, ...], left: Mapping[tuple[str, ...], Any], right: Mapping[tuple[str, ...], Any]
) -> bool:
    """Whether `key` belongs to a probe (`texts`, NAME, ...) that only one of the two runs measured."""
    if key[0] in OF_TEXTS:
        return not {name[:2] for name in left if name[0] == "texts"} & {name[:2] for name in right}
    if key[0] not in PROBES:
        return False
    return len(key) == 1 or not all(any(name[:2] == key[:2] for name in side) for side in (left, right))
