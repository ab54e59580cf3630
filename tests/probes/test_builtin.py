"""The questions that come with the package: many, unique, balanced, right."""

from __future__ import annotations

import runpy
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from quantprobe.probes.grouping import STRATA
from quantprobe.probes.questions.builtin import BUILTIN_NAME, builtin_questions
from quantprobe.probes.questions.recognise import QuestionFile

ROOT = Path(__file__).parents[2]
PACKAGED = ROOT / "quantprobe" / "probes" / "questions" / "data" / f"{BUILTIN_NAME}.jsonl"
SINGULAR, PLURAL = {"is", "was", "has"}, {"are", "were", "have"}


@pytest.fixture(scope="module")
def found() -> QuestionFile:
    return builtin_questions()


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "examples" / "make_builtin.py"))


def test_they_are_many_unique_and_of_many_kinds(found: QuestionFile) -> None:
    assert (found.format, found.n_bad, found.grouping) == ("native", 0, STRATA)
    assert len(found.questions) >= 3000
    assert len({question.prompt for question in found.questions}) == len(found.questions)
    kinds = Counter(question.group for question in found.questions)
    assert len(kinds) >= 8 and "" not in kinds
    assert max(kinds.values()) <= 0.2 * len(found.questions)


def test_every_place_of_the_right_answer_is_equally_frequent(found: QuestionFile) -> None:
    places: dict[tuple[str, int], Counter[int]] = {}
    for question in found.questions:
        n = len(question.choices)
        assert 2 <= n <= 5 and len({choice.casefold() for choice in question.choices}) == n
        places.setdefault((question.group, n), Counter())[question.gold] += 1
    for (_, n), counts in places.items():
        assert max(counts.values()) - min(counts[i] for i in range(n)) <= 1


def test_they_are_short(found: QuestionFile) -> None:
    """Each is decoded on laptops: 4 to 5 characters are a token."""
    lengths = [len(question.prompt) + sum(map(len, question.choices)) for question in found.questions]
    assert sum(lengths) / len(lengths) < 60 and max(lengths) < 110


def test_products_and_agreement_are_right(found: QuestionFile) -> None:
    n_products = n_agreements = 0
    for question in found.questions:
        right = question.choices[question.gold]
        words = question.prompt.split(" ")
        if words[1:2] == ["x"]:
            product = int(words[0]) * int(words[2])
            assert [int(choice) == product for choice in question.choices].index(True) == question.gold
            n_products += 1
        if question.group == "agreement":
            assert right in (PLURAL if words[1].endswith("s") else SINGULAR)
            assert not {*question.choices} - {right} & (PLURAL if words[1].endswith("s") else SINGULAR)
            n_agreements += 1
    assert n_products >= 40 and n_agreements >= 100


def test_a_wrong_answer_is_never_right_elsewhere_for_the_same_key(script: dict[str, Any]) -> None:
    """No table gives a key two values, and none has a wrong answer that another line gives the key."""
    tables = ROOT / "examples" / "builtin_tables.txt"
    answers: dict[tuple[str, str], set[str]] = {}
    for _, pattern, lines in script["_sections"](tables):
        for line in lines if pattern and not pattern.endswith("=") else ():
            for key, value in script["_entries"](line):
                answers.setdefault((pattern, key), set()).add(value)
    assert len(answers) > 2000 and all(len(values) == 1 for values in answers.values())


def test_the_packaged_file_is_what_the_script_writes(script: dict[str, Any], tmp_path: Path) -> None:
    script["write_questions"](tmp_path / "made.jsonl", script["make_questions"]())
    assert (tmp_path / "made.jsonl").read_bytes() == PACKAGED.read_bytes()
