"""The share of a text that stands in another text too."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from quantprobe.imatrix.overlap import dataset_overlap, overlap, text_overlap, words_of


def brute(a: list[int], b: list[int], n: int) -> int:
    known = {tuple(a[i : i + n]) for i in range(len(a) - n + 1)}
    covered: set[int] = set()
    for i in range(len(b) - n + 1):
        if tuple(b[i : i + n]) in known:
            covered.update(range(i, i + n))
    return len(covered)


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_it_is_the_plain_definition(n: int) -> None:
    rng = np.random.default_rng(n)
    for _ in range(20):
        a, b = (rng.integers(0, 6, size=int(rng.integers(0, 60))).tolist() for _ in range(2))
        found = overlap(a, b, n)
        assert (found.n_covered, found.n_words) == (brute(a, b, n), len(b))


def test_a_passage_is_found_whatever_its_spaces_and_case() -> None:
    passage = "It is a truth universally acknowledged, that a single man in possession of a good fortune"
    evaluation = f"Something of its own before.\n\n  {passage.upper().replace(',', ' --')}. But after it more words."
    found = text_overlap(f"x y z {passage}; and so on", evaluation)
    assert found.n_words == 5 + 16 + 5 and found.n_covered == 16
    assert found.example == "it is a truth universally acknowledged that a single man in possession of"
    assert found.share == 16 / 26


def test_what_is_shorter_than_an_n_gram_has_no_overlap() -> None:
    assert text_overlap("one two three", "one two three").share == 0.0
    assert text_overlap("", "").share == 0.0


def test_scripts_without_spaces_count_characters() -> None:
    assert words_of("人工知能 and Straße_1") == ["人", "工", "知", "能", "and", "strasse_1"]


def test_a_dataset_that_is_gone_is_not_known(tmp_path: Path) -> None:
    assert dataset_overlap(None, "words") is None
    assert dataset_overlap(str(tmp_path / "gone.txt"), "words") is None
    text = " ".join(str(i) for i in range(40))
    (tmp_path / "here.txt").write_text(text, encoding="utf-8")
    found = dataset_overlap(str(tmp_path / "here.txt"), text)
    assert found is not None and found.share == 1.0
