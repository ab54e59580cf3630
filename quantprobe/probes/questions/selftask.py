"""Multiple choice from any text: which of these passages really comes next?"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from quantprobe.arrays import Int64Array
from quantprobe.errors import InputError
from quantprobe.probes.items import Question

HARDNESS = ("far", "near", "shared")
TRIES = 200
"""Places looked at for the wrong choices of one item before the item is given up."""
POOL = 32
"""Places that `shared` chooses from."""


@dataclass(frozen=True)
class SelfTaskSettings:
    """What makes a task from a text; the same text and settings give the same task everywhere."""

    n_items: int = 1000
    n_choices: int = 4
    context_chars: int = 400
    """At most so much text before the place of the question."""
    choice_chars: int = 48
    """About so long is a choice; the wrong ones are within a tenth (at least 3 characters) of the right one."""
    hardness: str = "near"
    """Where the wrong choices come from: `far` (anywhere else), `near` (neighbouring passages, so the same
    subject), `shared` (of 32 passages, half of them near, those that share the most with the question:
    words in common, weighted by -ln of their share of the text's words)."""
    seed: int = 1


@dataclass(frozen=True, eq=False)
class _Places:
    """Where a text can be cut."""

    text: str
    spaced: bool
    """Words with spaces between; else (Chinese, Japanese, Thai, ...) any character may begin a choice."""
    seams: Int64Array
    """Ends of prompts."""
    ends: Int64Array
    """Ends of choices."""
    weights: dict[str, float]
    """-ln of each word's share of the text: what sharing it is worth."""

    def passage(self, seam: int, length: int) -> str:
        """The text behind a seam, cut at the end that comes closest to a length."""
        start = seam + 1 if self.spaced else seam
        near = int(np.searchsorted(self.ends, start + length))
        options = [int(end) for end in self.ends[max(near - 1, 0) : near + 1] if end > start]
        return self.text[start : min(options, key=lambda end: abs(end - start - length))] if options else ""


def make_task(text: str, settings: SelfTaskSettings = SelfTaskSettings()) -> tuple[Question, ...]:
    """Questions whose right answer is how the text goes on, in the order of the text.

    A place is asked at most once and the right choices of two items never overlap. The group of an
    item is the part of the text it comes from (10 to 100 equal parts): neighbouring items share context, so
    the part is the cluster of the uncertainty. A wrong choice is never preceded in the text by the three
    words before the question, does not overlap the question's own passage, and no two choices are equal
    but for case and white space.

    Raises `InputError` for impossible settings, or if the text gives fewer than `n_items` items.
    """
    _check(settings)
    text = text.replace("\r\n", "\n")
    places = _find_places(text)
    random = np.random.RandomState(settings.seed)
    made: list[tuple[int, Question]] = []
    for seam in random.permutation(_spread(places, settings)).tolist():
        if len(made) == settings.n_items:
            break
        question = _question(places, seam, settings, random)
        if question is not None:
            made.append((seam, question))
    if len(made) < settings.n_items:
        raise InputError(
            f"the text gives {len(made)} items of the {settings.n_items} that were asked for; "
            "give a longer text, fewer items, or a shorter context"
        )
    return _numbered(sorted(made, key=lambda one: one[0]), len(text))


def _check(settings: SelfTaskSettings) -> None:
    if settings.hardness not in HARDNESS:
        raise InputError(f"unknown hardness {settings.hardness!r}; known are {', '.join(HARDNESS)}")
    if settings.n_items < 1 or not 2 <= settings.n_choices <= 26:
        raise InputError(
            f"{settings.n_items} items of {settings.n_choices} choices cannot be made; "
            "at least one item and 2 to 26 choices are needed"
        )
    if settings.choice_chars < 4 or settings.context_chars < settings.choice_chars:
        raise InputError(
            f"a context of {settings.context_chars} and choices of {settings.choice_chars} characters cannot be made; "
            "a choice needs at least 4, and the context at least as much as a choice"
        )


def _find_places(text: str) -> _Places:
    """A spaced text is cut at single spaces, so that every choice follows after one space."""
    spaces = np.array([match.start() for match in re.finditer(r"(?<=\S) (?=\S)", text)], dtype=np.int64)
    # English has a space every 6 characters, German every 7, code every 10; Chinese hardly any.
    if len(spaces) * 40 >= len(text):
        ends = np.array([match.start() for match in re.finditer(r"(?<=\S)(?=\s|$)", text)], dtype=np.int64)
        return _Places(text, True, spaces, ends, _weights(text, True))
    cuts = np.array([i for i in range(1, len(text)) if _splits(text, i)], dtype=np.int64)
    return _Places(text, False, cuts, cuts, _weights(text, False))


def _splits(text: str, i: int) -> bool:
    """Whether two characters can be parted: no space beside the cut, no mark or joiner behind it."""
    if text[i - 1].isspace() or text[i].isspace():
        return False
    joined = "\u200d" in (text[i - 1], text[i]) or unicodedata.category(text[i]) in ("Mn", "Mc", "Me")
    return not joined


def _spread(places: _Places, settings: SelfTaskSettings) -> Int64Array:
    """Seams with a whole context before them, so far apart that right choices cannot overlap."""
    kept: list[int] = []
    next_free = settings.context_chars
    for seam in places.seams.tolist():
        if seam >= next_free:
            kept.append(seam)
            next_free = seam + 2 * settings.choice_chars
    return np.array(kept, dtype=np.int64)


def _question(places: _Places, seam: int, settings: SelfTaskSettings, random: np.random.RandomState) -> Question | None:
    right = places.passage(seam, settings.choice_chars)
    if not _usable(right) or not settings.choice_chars / 2 <= len(right) < 2 * settings.choice_chars:
        return None
    prompt = _prompt(places, seam, settings.context_chars)
    wrong = _wrong_choices(places, seam, prompt, right, settings, random)
    if len(wrong) < settings.n_choices - 1:
        return None
    gold = int(random.randint(settings.n_choices))
    choices = (*wrong[:gold], right, *wrong[gold:])
    return Question("", "", prompt, choices, gold, delimiter=" " if places.spaced else "")


def _usable(passage: str) -> bool:
    """A passage of one paragraph with something to read in it."""
    return "\n\n" not in passage and any(char.isalnum() for char in passage)


def _prompt(places: _Places, seam: int, length: int) -> str:
    start = seam - length
    if places.spaced:
        # Begin with a whole word, if there is one.
        first_space = places.text.find(" ", max(start - 1, 0), seam - length // 2)
        start = start if first_space < 0 else first_space + 1
    return places.text[start:seam].lstrip()


def _wrong_choices(
    places: _Places, seam: int, prompt: str, right: str, settings: SelfTaskSettings, random: np.random.RandomState
) -> list[str]:
    wanted = settings.n_choices - 1
    found: list[str] = []
    taken = {_folded(right)}
    before = _last_words(places, seam)
    for other in _candidates(places, seam, settings, random):
        passage = places.passage(other, len(right))
        fits = abs(len(passage) - len(right)) <= max(3, len(right) // 10)
        if fits and _usable(passage) and _folded(passage) not in taken and _last_words(places, other) != before:
            found.append(passage)
            taken.add(_folded(passage))
        if len(found) == (POOL if settings.hardness == "shared" else wanted):
            break
    if settings.hardness != "shared":
        return found
    words = set(_words(prompt + " " + right, places.spaced))
    shares = [
        math.fsum(places.weights.get(word, 0.0) for word in words & set(_words(passage, places.spaced)))
        for passage in found
    ]
    best = sorted(range(len(found)), key=lambda i: (-shares[i], i))[:wanted]
    return [found[i] for i in best]


def _candidates(places: _Places, seam: int, settings: SelfTaskSettings, random: np.random.RandomState) -> Iterator[int]:
    """Random seams outside the question's own passage; `near` within ten contexts of it, `shared` every other one."""
    reach = 10 * settings.context_chars
    low, high = (int(i) for i in np.searchsorted(places.seams, [seam - reach, seam + reach]))
    draws = random.randint(low, high, TRIES)
    if settings.hardness == "far":
        draws = random.randint(0, len(places.seams), TRIES)
    elif settings.hardness == "shared":
        draws[::2] = random.randint(0, len(places.seams), len(draws[::2]))
    own_low, own_high = seam - settings.context_chars - 2 * settings.choice_chars, seam + 2 * settings.choice_chars
    for draw in draws.tolist():
        other = int(places.seams[draw])
        if not own_low < other < own_high:
            yield other


def _last_words(places: _Places, seam: int) -> list[str]:
    before = places.text[max(seam - 60, 0) : seam]
    return before.split()[-3:] if places.spaced else list(before[-3:])


def _folded(passage: str) -> str:
    return " ".join(passage.casefold().split())


def _words(passage: str, spaced: bool) -> list[str]:
    """What two passages can share: words, or characters where words have no spaces."""
    return re.findall(r"\w+", passage.casefold()) if spaced else list(passage)


def _weights(text: str, spaced: bool) -> dict[str, float]:
    counts = Counter(_words(text, spaced))
    total = counts.total()
    return {word: -math.log(count / total) for word, count in counts.items()}


def _numbered(made: list[tuple[int, Question]], n_chars: int) -> tuple[Question, ...]:
    n_parts = min(100, max(10, len(made) // 10))
    return tuple(
        Question(
            id=f"{number:05d}",
            group=f"part{seam * n_parts // n_chars + 1:03d}",
            prompt=question.prompt,
            choices=question.choices,
            gold=question.gold,
            delimiter=question.delimiter,
        )
        for number, (seam, question) in enumerate(made, start=1)
    )
