"""Write the built-in questions: `python examples/make_builtin.py`.

Facts, words and phrases come from `builtin_tables.txt`; agreement and multiplication are generated.
What looks random is the order of SHA-256 digests: the result is the same on every machine, and a new entry changes few
other questions.
"""

from __future__ import annotations

import hashlib
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from quantprobe.probes.grouping import STRATA
from quantprobe.probes.items import Question
from quantprobe.probes.questions.builtin import BUILTIN_NAME
from quantprobe.probes.questions.jsonl import write_native

T = TypeVar("T")

HERE = Path(__file__).parent
OUT = HERE.parent / "quantprobe" / "probes" / "questions" / "data" / f"{BUILTIN_NAME}.jsonl"
N_WRONG = 3
MODES = "*+!="

PEOPLE = (
    "boy", "girl", "teacher", "doctor", "farmer", "driver", "lawyer", "singer", "pilot", "actor", "student", "nurse",
    "guard", "author", "waiter", "dancer", "judge", "soldier", "baker", "sailor",
)  # fmt: skip
THINGS = (
    "key", "picture", "box", "letter", "report", "car", "house", "ship", "window", "door", "knife", "plate", "river",
    "bridge", "tower", "road", "tree", "garden", "book", "cup",
)  # fmt: skip
IRREGULAR = {
    "knife": "knives", "box": "boxes", "man": "men", "woman": "women", "wife": "wives", "waitress": "waitresses",
    "princess": "princesses", "actress": "actresses",
}  # fmt: skip
NEXT_TO = ("near", "behind", "by", "beside")
VERBS = (("is", "are"), ("was", "were"), ("has", "have"))
PAIRS = (("boy", "girl"), ("man", "woman"), ("king", "queen"), ("prince", "princess"), ("waiter", "waitress"),
         ("actor", "actress"), ("uncle", "aunt"), ("husband", "wife"), ("father", "mother"), ("son", "daughter"),
         ("grandfather", "grandmother"), ("brother", "sister"))  # fmt: skip
REFLEXIVES = ("himself", "herself", "themselves", "itself")


class Draft(NamedTuple):
    """A question before its choices are put in order."""

    kind: str
    prompt: str
    right: str
    wrong: tuple[str, ...]


def make_questions() -> list[Question]:
    """All built-in questions; within a kind, each place of the right answer is as frequent as the others."""
    drafts = [*_read_tables(HERE / "builtin_tables.txt"), *_agreement(), *_reflexives(), *_products()]
    _check(drafts)
    questions: list[Question] = []
    for kind in dict.fromkeys(draft.kind for draft in drafts):
        members = [draft for draft in drafts if draft.kind == kind]
        for number, (draft, gold) in enumerate(zip(members, _places(members), strict=True), start=1):
            choices = (*draft.wrong[:gold], draft.right, *draft.wrong[gold:])
            questions.append(Question(f"{kind.replace(' ', '-')}-{number:03d}", kind, draft.prompt, choices, gold))
    return questions


def _places(drafts: Sequence[Draft]) -> list[int]:
    """The place of each right answer: balanced over the questions of as many choices."""
    turns: Counter[int] = Counter()
    places: dict[str, int] = {}
    for prompt, n_wrong in _shuffled({draft.prompt: len(draft.wrong) for draft in drafts}.items(), "places"):
        places[prompt] = turns[n_wrong] % (n_wrong + 1)
        turns[n_wrong] += 1
    return [places[draft.prompt] for draft in drafts]


def _shuffled(values: Iterable[T], salt: str) -> list[T]:
    """The values in an order that nobody chose, always the same for the same salt."""
    return sorted(values, key=lambda value: hashlib.sha256(f"{salt}\n{value}".encode()).digest())


def _check(drafts: Sequence[Draft]) -> None:
    prompts: set[str] = set()
    for draft in drafts:
        choices = {draft.right, *draft.wrong}
        if draft.prompt in prompts or len(choices) != 1 + len(draft.wrong) or len(choices) < 2:
            raise ValueError(f"asked twice, or with a choice given twice: {draft}")
        prompts.add(draft.prompt)


def _read_tables(path: Path) -> Iterator[Draft]:
    for kind, pattern, lines in _sections(path):
        mode = pattern[-1:] if pattern[-1:] in MODES else ""
        patterns = pattern.removesuffix(mode).strip().split(" / ")
        if not pattern:
            yield from (Draft(kind, *_split_answers(prompt, rest)) for prompt, rest in (_entry(line) for line in lines))
            continue
        rows = [_entries(line) for line in lines]
        if mode == "=":
            yield from (
                Draft(kind, *_split_answers(patterns[0].format(key), rest)) for row in rows for key, rest in row
            )
            continue
        yield from _table(kind, patterns[0], mode, rows)
        for back in patterns[1:]:
            yield from _table(kind, back, mode, [[(value, key) for key, value in row] for row in rows])


def _sections(path: Path) -> list[tuple[str, str, list[str]]]:
    sections: list[tuple[str, str, list[str]]] = []
    unfinished = ""
    for line in path.read_text(encoding="utf-8").split("\n"):
        if line.startswith("["):
            kind, _, pattern = line[1:].partition("]")
            sections.append((kind, pattern.strip(), []))
        elif line and not line.startswith("#"):
            line = f"{unfinished} {line}".strip()
            unfinished = line if line.endswith((";", ",")) else ""
            if not unfinished:
                sections[-1][2].append(line)
    return sections


def _entries(line: str) -> list[tuple[str, str]]:
    entries: list[tuple[str, str]] = []
    for part in line.split("; "):
        value, several, keys = part.partition(" < ")
        entries += [(key, value) for key in keys.split(", ")] if several else [_entry(part)]
    return entries


def _entry(text: str) -> tuple[str, str]:
    key, value = text.split("=", 1)
    return key, value


def _split_answers(prompt: str, answers: str) -> tuple[str, str, tuple[str, ...]]:
    right, *wrong = answers.replace("=", "|").split("|")
    return prompt, right, tuple(wrong)


def _table(kind: str, pattern: str, mode: str, rows: Sequence[Sequence[tuple[str, str]]]) -> Iterator[Draft]:
    every = [value for row in rows for _, value in row]
    for row in rows:
        own = [value for _, value in row]
        for key, right in row:
            prompt = pattern.format(key)
            prompt = prompt[0].upper() + prompt[1:]
            pool = {"": [value for value in every if value not in own], "+": own}.get(mode, every)
            wrong = _shuffled({*pool} - {right}, prompt)
            if mode == "!":
                wrong.sort(key=lambda value: value[0].lower() != key[0].lower())
            yield Draft(kind, prompt, right, tuple(wrong[:N_WRONG]))


def _plural(noun: str) -> str:
    return IRREGULAR.get(noun, f"{noun}s")


def _agreement() -> Iterator[Draft]:
    """The verb agrees with the first noun; the one beside it has the other number."""

    def draft(prompt: str, plural: bool, number: int) -> Draft:
        one, many = VERBS[number % len(VERBS)]
        return Draft("agreement", prompt, many if plural else one, (one if plural else many,))

    nouns = (*PEOPLE, *THINGS)
    for i, noun in enumerate(nouns):
        first, second = nouns[(i * 7 + 11) % len(nouns)], nouns[(i * 3 + 5) % len(nouns)]
        yield draft(f"The {noun} {NEXT_TO[i % 4]} the {_plural(first)}", False, i)
        yield draft(f"The {_plural(noun)} {NEXT_TO[(i + 1) % 4]} the {second}", True, i)
    for i, noun in enumerate(nouns):
        first, second = PEOPLE[(i * 3 + 7) % len(PEOPLE)], PEOPLE[(i * 7 + 2) % len(PEOPLE)]
        verb = (("saw", "helped", "knew", "met") if noun in PEOPLE else ("saw", "wanted", "found", "liked"))[i % 4]
        yield draft(f"The {noun} that the {_plural(first)} {verb}", False, i)
        yield draft(f"The {_plural(noun)} that the {second} {verb}", True, i + 1)


def _reflexives() -> Iterator[Draft]:
    """The pronoun agrees with the noun before the verb; another of the other sex or number stands before."""
    for i, (he, she) in enumerate(PAIRS):
        verb = ("hurt", "saw", "blamed", "helped", "introduced", "taught")[i % 6]
        for subject, other, right in (
            (he, _plural(she), "himself"),
            (he, she, "himself"),
            (she, _plural(he), "herself"),
            (she, he, "herself"),
            (_plural(he), she, "themselves"),
            (_plural(she), he, "themselves"),
        ):
            wrong = tuple(pronoun for pronoun in REFLEXIVES if pronoun != right)
            yield Draft("reflexives", f"Near the {other}, the {subject} {verb}", right, wrong)


def _products() -> Iterator[Draft]:
    """Wrong products are those of a neighbouring row or column, which is where a slip leads."""
    for a in range(3, 10):
        for b in range(a, 13):
            prompt = f"{a} x {b} ="
            near = {str(a * b + step) for step in (a, -a, b, -b, 1, 2, -1)}
            yield Draft("numbers", prompt, str(a * b), tuple(_shuffled(near, prompt)[:N_WRONG]))


def write_questions(path: Path, questions: Iterable[Question]) -> None:
    """Write the file that the package holds; its groups are kinds of question."""
    write_native(path, questions, STRATA)


def main() -> None:
    questions = make_questions()
    write_questions(OUT, questions)
    sys.stdout.write(f"{len(questions)} questions of {len({q.group for q in questions})} kinds: {OUT}\n")


if __name__ == "__main__":
    main()
