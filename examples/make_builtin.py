"""Write the built-in questions: `python examples/make_builtin.py`.

The facts, words and sentences come from `builtin_tables.txt`; arithmetic and sequences are generated.
The result is the same on every machine, because `RandomState` gives the same numbers everywhere.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from quantprobe.probes.grouping import STRATA
from quantprobe.probes.items import Question
from quantprobe.probes.questions.builtin import BUILTIN_NAME
from quantprobe.probes.questions.jsonl import write_native

HERE = Path(__file__).parent
OUT = HERE.parent / "quantprobe" / "probes" / "questions" / "data" / f"{BUILTIN_NAME}.jsonl"
N_WRONG = 3
DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
MONTHS = [
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
]  # fmt: skip
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


class Draft(NamedTuple):
    """A question before its choices are put in order."""

    group: str
    prompt: str
    right: str
    wrong: tuple[str, ...]


def make_questions() -> list[Question]:
    """All built-in questions; each place of the right answer is as frequent as the others within a group."""
    random = np.random.RandomState(7)
    drafts = [*_read_tables(HERE / "builtin_tables.txt", random), *_arithmetic(random), *_sequences(random)]
    questions: list[Question] = []
    for group in dict.fromkeys(draft.group for draft in drafts):
        members = [draft for draft in drafts if draft.group == group]
        places = random.permutation(np.arange(len(members)) % (N_WRONG + 1)).tolist()
        for number, (draft, gold) in enumerate(zip(members, places, strict=True), start=1):
            choices = (*draft.wrong[:gold], draft.right, *draft.wrong[gold:])
            questions.append(Question(f"{group.replace(' ', '-')}-{number:03d}", group, draft.prompt, choices, gold))
    return questions


def _read_tables(path: Path, random: np.random.RandomState) -> Iterator[Draft]:
    sections: dict[str, list[str]] = {}
    for line in path.read_text(encoding="utf-8").split("\n"):
        if line.startswith("["):
            lines = sections.setdefault(line, [])
        elif line and not line.startswith("#"):
            lines.append(line)
    for heading, lines in sections.items():
        group, _, pattern = heading[1:].partition("]")
        if pattern:
            yield from _table(group, pattern.strip(), lines, random)
            continue
        for line in lines:
            prompt, right, wrong = line.split("=")
            yield Draft(group, prompt, right, tuple(wrong.split("|")))


def _table(group: str, pattern: str, lines: Sequence[str], random: np.random.RandomState) -> Iterator[Draft]:
    rows = [[entry.split("=") for entry in line.split("; ")] for line in lines]
    if pattern.endswith(" *"):
        rows = [[entry] for row in rows for entry in row]
    for row in rows:
        own = {value for _, value in row}
        others = sorted({value for other in rows for _, value in other} - own)
        for key, right in row:
            yield Draft(group, pattern.removesuffix(" *").format(key), right, _pick(others, random))


def _pick(values: Sequence[str], random: np.random.RandomState) -> tuple[str, ...]:
    return tuple(values[i] for i in random.permutation(len(values))[:N_WRONG])


def _arithmetic(random: np.random.RandomState) -> Iterator[Draft]:
    """Wrong results are near: off by one, two or ten, which is where a slip would lead."""
    seen: set[str] = set()
    for group in ("addition", "subtraction", "multiplication", "division"):
        while sum(prompt.startswith(group) for prompt in seen) < 25:
            a, b = (int(value) for value in random.randint(3, 13 if group in ("multiplication", "division") else 90, 2))
            if group == "addition":
                prompt, right = f"{a} + {b} =", a + b
            elif group == "subtraction":
                prompt, right = f"{a + b} - {b} =", a
            elif group == "multiplication":
                prompt, right = f"{a} x {b} =", a * b
            else:
                prompt, right = f"{a * b} / {b} =", a
            if group + prompt in seen:
                continue
            seen.add(group + prompt)
            near = [str(right + step) for step in (-10, -2, -1, 1, 2, 10) if right + step > 0]
            yield Draft(group, prompt, str(right), _pick(near, random))


def _sequences(random: np.random.RandomState) -> Iterator[Draft]:
    for step in (2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 15, 25):
        first = int(random.randint(1, 20))
        terms = [str(first + i * step) for i in range(6)]
        wrong = [str(first + 5 * step + off) for off in (-step + 1, -1, 1, step)]
        yield Draft("sequences", _row(terms[:5]), terms[5], _pick(sorted(set(wrong) - {terms[5]}), random))
    for first, ratio in ((1, 2), (3, 2), (5, 2), (1, 3), (2, 3), (1, 10), (7, 10), (1, 4)):
        terms = [str(first * ratio**i) for i in range(6)]
        wrong = [str(first * ratio**5 + off) for off in (-first * ratio**4, first, first * ratio**4)]
        yield Draft("sequences", _row(terms[:5]), terms[5], tuple(wrong))
    for names in (DAYS, MONTHS):
        for i in range(len(names)):
            turned = names[i:] + names[:i]
            yield Draft("calendar", _row(turned[:3]), turned[3], _pick(turned[4:], random))
    for start in range(0, 12, 2):
        terms = list(LETTERS[start : start + 12 : 2])
        yield Draft("letters", _row(terms[:4]), terms[4], (LETTERS[start + 7], LETTERS[start + 9], terms[5]))


def _row(terms: Sequence[str]) -> str:
    return ", ".join(terms) + ","


def main() -> None:
    questions = make_questions()
    write_native(OUT, questions, STRATA)
    sys.stdout.write(f"{len(questions)} questions in {len({q.group for q in questions})} groups: {OUT}\n")


if __name__ == "__main__":
    main()
