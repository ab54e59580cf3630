"""Model cards of every shape: our lines go in, and not a byte of the others changes."""

from __future__ import annotations

import itertools
import re
from typing import Any

import pytest

from quantprobe.errors import InputError
from quantprobe.hub.card_section import BEGIN, BEGIN_LINE, BOM, END, END_LINE, with_section
from quantprobe.hub.front_matter import with_model_index

yaml: Any = pytest.importorskip("yaml", reason="PyYAML, which huggingface_hub brings, is not installed")

FRONTS = {
    "none": "",
    "plain": "---\nlicense: mit\ntags:\n- gguf\n- llama\n---\n",
    "comments and quotes": (
        "---\n# how the hub sorts it\nlicense:   \"apache-2.0\"  # really\nbase_model: 'me/model'\n"
        'pipeline_tag: text-generation\nwidget:\n  - text: "a: b # c"\n  - text: |\n      two\n      lines\n\n---\n'
    ),
    "blank lines": "\n\n---\n\nlicense: mit\n\n\n---\n\n",
    "dates and nulls": "---\ndate: 2024-01-01\nlanguage: [en, 'no', \"yes\"]\nlibrary_name:\nx: !!str 5\n---   \n",
    "a list of others": (
        "---\nlicense: mit\nmodel-index:\n- name: theirs\n  results:\n  - task:\n      type: text-generation\n"
        "    dataset:\n      name: ARC\n      type: arc\n    metrics:\n    - type: acc\n      value: 0.5  # of 2024\n"
        "tags:\n- a\n---\n"
    ),
    "an indented list of others, at the end": (
        "---\nmodel-index:\n    -   name: theirs\n        results:\n        - {task: {type: t}, metrics: []}\n---\n"
    ),
    "text at the end of others": (
        "---\nmodel-index:\n  - name: x\n    note: |\n      text\n      more\n\nlicense: mit\n---\n"
    ),
    "only a comment": "---\n# nothing yet\n---\n",
}
LEFT_ALONE = {
    "a list in brackets": "---\nmodel-index: [{name: x, results: []}]\nlicense: mit\n---\n",
    "no YAML": '---\nlicense: "mit\ntags: [a\n---\n',
    "a rule, not front matter": "---\nSome words of introduction.\n---\n",
}
BODIES = {
    "nothing": "",
    "words": "# Model\n\nWords with trailing spaces  \n\tand tabs.\n",
    "no line end": "# Model\n\nThe end",
    "a table": "| Quant | Size |\n| :--- | ---: |\n| [Q4](x.gguf) \\| | 2 GB |\n\n\n",
    "HTML": '<div align="center">\n<!-- a comment -->\n<img src="a.png">\n</div>\n\n<details>\n<summary>x</summary>\n',
    "rules and fences": "Above\n\n---\n\n```yaml\n---\nmodel-index: 5\n---\n```\n***\n",
    "other writing": "# 模型 🤗\n\nÜber…\u2028next\x0cpage\n",
}
ENTRY = {
    "name": "model-GGUF",
    "results": [
        {
            "task": {"type": "text-generation"},
            "dataset": {"name": "arc: é #1", "type": "arc"},
            "metrics": [{"type": "accuracy", "value": 0.31, "name": "Accuracy, Q4_K_M"}],
        }
    ],
}
OTHER = {**ENTRY, "results": [*ENTRY["results"], *ENTRY["results"]]}  # type: ignore[misc]
SECTION = "## Quants\n\n| a |\n| --- |\n| 1 |\n"

SHAPES = [
    pytest.param(bom + (front + body).replace("\n", end), front_name, end, id=f"{front_name}, {body_name}, {shape}")
    for (front_name, front), (body_name, body), (shape, end, bom) in itertools.product(
        {**FRONTS, **LEFT_ALONE}.items(), BODIES.items(), [("LF", "\n", ""), ("CRLF", "\r\n", ""), ("BOM", "\n", BOM)]
    )
]


def written(card: str, entry: dict[str, Any] = ENTRY, section: str = SECTION) -> tuple[str, str]:
    marked = with_model_index(card, entry)
    return with_section(marked.card, section), marked.left_alone


def is_card_with_two_insertions(card: str, after: str) -> bool:
    """Whether `after` is `card` with text put in at one place and text added at the end."""
    same = next((i for i, (a, b) in enumerate(zip(card, after, strict=False)) if a != b), len(card))
    return after.find(card[same:], same) >= same


def outside(card: str) -> list[str]:
    """What stands outside both pairs of markers."""
    return re.split(f"{BEGIN_LINE}.*?{END_LINE}|{BEGIN}.*?{END}", card, flags=re.DOTALL)


def test_there_are_enough_shapes() -> None:
    assert len(SHAPES) >= 50


@pytest.mark.parametrize(("card", "front", "end"), SHAPES)
def test_nothing_outside_the_markers_changes(card: str, front: str, end: str) -> None:
    after, left_alone = written(card)
    assert is_card_with_two_insertions(card, after)
    assert bool(left_alone) == (front in LEFT_ALONE)
    assert (after.count(BEGIN), after.count(END)) == (1, 1)
    assert after.count(BEGIN_LINE) == after.count(END_LINE) == int(not left_alone)
    if "\u2028" not in card and end in card:
        assert after.count("\n") == after.count(end)  # in the card's own line ends
    again, _ = written(after, OTHER, "## Other\n\nwords\n")
    assert outside(again) == outside(after)
    assert "## Other" in again and "## Quants" not in again
    assert written(again, OTHER, "## Other\n\nwords\n")[0] == again


@pytest.mark.parametrize(("card", "front", "end"), SHAPES)
def test_the_hub_reads_what_was_written(card: str, front: str, end: str) -> None:
    repocard = pytest.importorskip("huggingface_hub.repocard", reason="huggingface_hub is not installed")
    if front in LEFT_ALONE:
        return
    pattern = repocard.REGEX_YAML_BLOCK
    after, _ = written(card)
    old, new = pattern.search(card.removeprefix(BOM)), pattern.search(after.removeprefix(BOM))
    before = (yaml.safe_load(old[2]) if old else None) or {}
    found = yaml.safe_load(new[2])
    assert found == {**before, "model-index": [*before.get("model-index", []), ENTRY]}
    if not card.startswith(BOM):
        results = repocard.ModelCard(after, ignore_metadata_errors=True).data
        assert results is not None


@pytest.mark.parametrize(
    ("card", "where"),
    [
        (f"{BEGIN}\na\n{END}\n{BEGIN}\nb\n{END}\n", r"line 1 \(begin\), line 3 \(end\), line 4 \(begin\), line 6"),
        (f"a\n{BEGIN}\nwithout an end\n", r"line 2 \(begin\); expected"),
        (f"a\n{END}\nwithout a begin\n", r"line 2 \(end\); expected"),
        (f"{END}\n{BEGIN}\n", r"line 1 \(end\), line 2 \(begin\)"),
        (f"{BEGIN}\n{BEGIN}\n{END}\n", r"line 1 \(begin\), line 2 \(begin\), line 3 \(end\)"),
    ],
)
def test_markers_that_are_no_pair_are_refused(card: str, where: str) -> None:
    with pytest.raises(InputError, match=where):
        with_section(card, SECTION)


def test_marks_in_the_front_matter_that_are_no_pair_are_refused() -> None:
    with pytest.raises(InputError, match=r"front matter of README\.md has the markers"):
        with_model_index(f"---\n{BEGIN_LINE}\nlicense: mit\n---\n", ENTRY)


def test_a_section_that_holds_a_marker_is_refused() -> None:
    with pytest.raises(InputError, match="a name in the run holds"):
        with_section("", f"a {END} b")


def test_markers_are_found_however_they_are_spaced() -> None:
    card = "a\n<!--quantprobe:begin-->\nold\n<!-- quantprobe:end\t-->\nb"
    assert with_section(card, "new") == "a\n<!--quantprobe:begin-->\nnew\n<!-- quantprobe:end\t-->\nb"
