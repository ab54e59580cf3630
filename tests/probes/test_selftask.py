"""Questions made from a text."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from question_helpers import SHARED

from quantprobe.errors import InputError
from quantprobe.probes.questions.jsonl import write_native
from quantprobe.probes.questions.recognise import read_questions
from quantprobe.probes.questions.selftask import HARDNESS, SelfTaskSettings, make_task

SMALL = SelfTaskSettings(n_items=60, context_chars=80, choice_chars=24)


def prose(n_words: int = 4000, spaced: bool = True) -> str:
    random = np.random.RandomState(5)
    letters = "abcdefghijklmnop" if spaced else "天地玄黄宇宙洪荒日月盈昃辰宿列张寒来暑往秋收冬藏"
    words = ["".join(letters[i] for i in random.randint(0, len(letters), random.randint(2, 9))) for _ in range(400)]
    chosen = [words[int(i)] for i in random.zipf(1.4, n_words) % 400]
    return (" " if spaced else "").join(chosen)


@pytest.mark.parametrize("hardness", HARDNESS)
@pytest.mark.parametrize("spaced", [True, False])
def test_the_right_choice_is_how_the_text_goes_on(hardness: str, spaced: bool) -> None:
    text = prose(spaced=spaced)
    settings = replace(SMALL, hardness=hardness)
    task = make_task(text, settings)
    assert len(task) == 60
    assert len({question.id for question in task}) == 60
    for question in task:
        right = question.choices[question.gold]
        assert question.prompt + question.delimiter + right in text
        assert question.delimiter == (" " if spaced else "")
        assert 40 <= len(question.prompt) <= 80
        assert len({choice.casefold() for choice in question.choices}) == 4
        for choice in question.choices:
            assert choice in text
            assert abs(len(choice) - len(right)) <= 3
            assert question.prompt + question.delimiter + choice not in text or choice == right
    assert max(Counter(question.gold for question in task).values()) < 30
    assert len({question.group for question in task}) == 10


def test_the_same_seed_gives_the_same_task() -> None:
    text = prose()
    task = make_task(text, SMALL)
    assert make_task(text.replace("\n", "\r\n"), SMALL) == task
    assert make_task(text, replace(SMALL, seed=2)) != task
    assert make_task(text, replace(SMALL, hardness="far")) != task


def test_near_and_shared_do_what_they_say() -> None:
    """Each block of the text has words of its own, so a passage tells where it comes from."""
    text = " ".join(f"w{block}x{i % 37}y{(i * i) % 11}" for block in range(40) for i in range(120))
    settings = replace(SMALL, context_chars=100)
    distances = {}
    for hardness in HARDNESS:
        task = make_task(text, replace(settings, hardness=hardness))
        gaps = [
            abs(text.find(choice) - text.find(question.choices[question.gold]))
            for question in task
            for choice in question.choices
        ]
        distances[hardness] = float(np.mean(gaps))
    assert distances["near"] < 1000 < distances["far"]
    assert distances["shared"] < distances["far"] / 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hardness": "hard"}, "unknown hardness 'hard'; known are far, near, shared"),
        ({"n_items": 0}, "0 items of 4 choices"),
        ({"n_choices": 1}, "60 items of 1 choices"),
        ({"n_choices": 27}, "2 to 26 choices"),
        ({"choice_chars": 3}, "choices of 3 characters"),
        ({"context_chars": 10}, "a context of 10"),
        ({"n_items": 10_000}, "items of the 10000 that were asked for"),
    ],
)
def test_impossible_settings(change: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_task(prose(1000), replace(SMALL, **change))  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["", " ", "one two three", "\n" * 500, "x" * 500, "a " * 500])
def test_texts_without_questions(text: str) -> None:
    with pytest.raises(InputError, match="the text gives 0 items"):
        make_task(text, SMALL)


def test_a_task_is_a_question_file(tmp_path: Path) -> None:
    task = make_task(prose(spaced=False), SMALL)
    write_native(tmp_path / "t.jsonl", task)
    assert read_questions(tmp_path / "t.jsonl").questions == task


@pytest.mark.parametrize("name", ["wiki.txt", "code.txt"])
def test_real_texts_give_thousands(name: str) -> None:
    path = SHARED / "data" / "text" / name
    if not path.exists():
        pytest.skip(f"{name} is not here: the folder of real texts is missing")
    task = make_task(path.read_text(encoding="utf-8")[:400_000], SelfTaskSettings(n_items=2000))
    shares = Counter(question.gold for question in task)
    assert len(task) == 2000
    assert all(420 < shares[i] < 580 for i in range(4))
