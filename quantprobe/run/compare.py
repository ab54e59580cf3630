"""Whether measurements may be compared: the one rule, for captures, for runs and for every command."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from quantprobe.errors import MismatchError
from quantprobe.probes.text import SECOND_HALF
from quantprobe.settings import MACHINE, moves_logits

PROBES = ("texts", "tasks")
"""Settings that describe one probe each: two runs may have measured other probes, but not one probe differently."""
OF_TEXTS = ("n_chunks", "parse_special", "score_from")
"""Settings that say how texts were cut and read: they do not matter where two runs share no text."""
FEATURES = ("cpu_features", "gpu_features")
"""Facts that are long lists of words, of which most are equal."""
NOT_SET = "not set"
NOT_KNOWN = "not known"
MAY_BE_UNKNOWN = {*MACHINE, "split_mode"}
"""What older and imported records do not tell; nobody could choose how to split a model when they were made."""


@dataclass(frozen=True)
class Difference:
    """A setting that differs; a nested one is named with dots (`texts.wiki`)."""

    name: str
    a: Any
    b: Any
    moves_logits: bool

    @property
    def is_known(self) -> bool:
        """Whether both sides tell: a fact of the machine that only one of them holds may differ or not."""
        return NOT_KNOWN not in (self.a, self.b)

    @property
    def is_of_machine(self) -> bool:
        return self.name.split(".")[0] in MACHINE

    def __str__(self) -> str:
        if self.name in FEATURES and self.is_known:
            a, b = set(str(self.a).split()), set(str(self.b).split())
            return f"{self.name} differ: {_listed(a - b)} in the first alone, {_listed(b - a)} in the second"
        return f"{self.name} is {self.a} and {self.b}"


def setting_differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> tuple[Difference, ...]:
    """Everything in which two recorded settings differ, by name; probes that only one of them has are left out.

    A fact of the machine that one side does not tell is `NOT_KNOWN` there and no reason to refuse. Where neither knows
    llama.cpp's commit, although both looked for it, the version of llama-cpp-python stands for it.
    """
    left, right = flatten_settings(a), flatten_settings(b)
    found = []
    for key in sorted(left.keys() | right.keys()):
        x, y = _value(left, key), _value(right, key)
        if x != y and not _is_other_probe(key, left, right) and not _follows(key, left, right):
            moving = moves_logits(key[0]) or (key == ("llama_cpp_python_version",) and _stands_for_commit(left, right))
            found.append(Difference(".".join(key), x, y, moving and NOT_KNOWN not in (x, y)))
    return tuple(found)


def _follows(key: tuple[str, ...], left: Mapping[tuple[str, ...], Any], right: Mapping[tuple[str, ...], Any]) -> bool:
    """Whether a fact differs because a setting does: what was asked for is told, and allowed, once."""
    return key == ("flash_attn_used",) and left.get(("flash_attn",)) != right.get(("flash_attn",))


def _listed(words: set[str]) -> str:
    return " ".join(sorted(words)) or "nothing"


def _value(flat: Mapping[tuple[str, ...], Any], key: tuple[str, ...]) -> Any:
    value = flat.get(key, SECOND_HALF if key == ("score_from",) else NOT_SET)  # what records without it mean
    return NOT_KNOWN if key[0] in MAY_BE_UNKNOWN and value in (NOT_SET, None, "unknown") else value


def _stands_for_commit(left: Mapping[tuple[str, ...], Any], right: Mapping[tuple[str, ...], Any]) -> bool:
    commit = ("llama_cpp_commit",)
    return all(commit in side and side[commit] is None for side in (left, right))


def require_comparable(
    differences: Iterable[Difference], allow: Sequence[str], what: str, measured: str = ""
) -> tuple[Difference, ...]:
    """Refuse differences that move logits, unless each is allowed by its name (or that of the setting it is part of).

    Returns the differences that stay, to be told. Raises `MismatchError`, which names all that are not allowed;
    `what` says between what they were found, `measured` is a clause on how much they change, where that is known.
    """
    kept = tuple(differences)
    refused = refused_differences(kept, allow)
    if refused:
        options = " ".join(f"--allow {each.name}" for each in refused)
        names = "; ".join(map(str, refused))
        how_much = f"({names}); {measured}" if measured else f"by as much as a good quant does ({names})"
        raise MismatchError(
            f"{what} differ in settings that move logits {how_much}; measure under the same settings, "
            f"or compare all the same with {options}"
        )
    return kept


def refused_differences(differences: Iterable[Difference], allow: Sequence[str]) -> list[Difference]:
    """Those that move logits and are not allowed."""
    return [each for each in differences if each.moves_logits and not _is_allowed(each.name, allow)]


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
