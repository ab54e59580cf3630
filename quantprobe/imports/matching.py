"""Which quant of a measured cohort an imported name means."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import PurePath

from quantprobe.errors import InputError, MismatchError
from quantprobe.gguf.model import ModelIdentity
from quantprobe.run.cohort import Cohort
from quantprobe.run.results import Quant


@dataclass(frozen=True)
class Match:
    """An imported name and the quant that it means; `how` says by what they were matched, or why not."""

    name: str
    quant: Quant | None
    how: str

    def __str__(self) -> str:
        if self.quant is None:
            return f"{self.name}: no quant of the run is matched ({self.how}); imported under its own name"
        digest = f", SHA-256 {self.quant.sha256[:12]}" if self.quant.sha256 else ""
        return f"{self.name} is {self.quant.name}{digest} (by {self.how})"


_Rule = Callable[[str, ModelIdentity], bool]


def match_quants(names: Sequence[str], cohort: Cohort) -> tuple[Match, ...]:
    """The quant of the cohort that each name means: by name, SHA-256 (8 digits or more of it), file, or a part.

    A part counts where it ends at a sign that belongs to no name of a quantization, so that Q2_K is no part of Q2_K_S,
    and where it fits one quant only. Raises `InputError` where two names mean the same quant.
    """
    matches = tuple(_match(name, cohort.quants) for name in names)
    taken: dict[str, str] = {}
    for match in matches:
        if match.quant is not None:
            first = taken.setdefault(match.quant.name, match.name)
            if first != match.name:
                raise InputError(
                    f"{first} and {match.name} are both matched to {match.quant.name}; name them as the run does, with "
                    "QUANT=FILE"
                )
    return matches


def check_base(name: str, cohort: Cohort) -> None:
    """Raises `MismatchError` where the imported base has the name of a quant, not of the cohort's base."""
    candidates = [cohort.base, *cohort.quants]
    found = [model for model in candidates if any(rule(name, model) for _, rule in RULES[:-1])]
    if found and cohort.base not in found:
        raise MismatchError(
            f"the base's answers are named {name}, which is the quant {found[0].name} of the run; its base is "
            f"{cohort.base.name}, and only answers of that model can be compared beside its numbers"
        )


def _match(name: str, quants: Sequence[Quant]) -> Match:
    for how, rule in RULES:
        found = [quant for quant in quants if rule(name, quant)]
        if how == NAME_WITHIN:  # M-Q4 and M-Q4-v2 are both within "run/M-Q4-v2"
            longest = max((len(quant.name) for quant in found), default=0)
            found = [quant for quant in found if len(quant.name) == longest]
        if len(found) == 1:
            return Match(name, found[0], how)
        if found:
            return Match(name, None, f"{', '.join(quant.name for quant in found)} fit alike")
    return Match(name, None, "none of its names fits")


def _has_digest(name: str, model: ModelIdentity) -> bool:
    return re.fullmatch("[0-9a-f]{8,64}", name) is not None and model.sha256.startswith(name)


def _is_file(name: str, model: ModelIdentity) -> bool:
    """Whether the last part of the name is that of the model's file, or of the model."""
    last = PurePath(name).name.removesuffix(".gguf")
    return last in (model.name, re.split(r"[/\\]", model.path)[-1].removesuffix(".gguf"))


def _is_part_of_name(name: str, model: ModelIdentity) -> bool:
    return any(_is_part(part, model.name) for part in re.split(r"[/\\]", name))


def _is_part(part: str, whole: str) -> bool:
    pattern = rf"(?<![a-z0-9]){re.escape(part.casefold())}(?![a-z0-9]|_[a-z0-9])"
    return bool(part) and re.search(pattern, whole.casefold()) is not None


NAME_WITHIN = "the run's name within it"
RULES: tuple[tuple[str, _Rule], ...] = (
    ("name", lambda name, model: name == model.name),
    ("SHA-256", _has_digest),
    ("file", _is_file),
    ("a part of the name", _is_part_of_name),
    (NAME_WITHIN, lambda name, model: _is_part(model.name, name)),
)
