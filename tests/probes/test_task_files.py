"""Question files: every form is read, bad input is named, what is written comes back."""

from __future__ import annotations

import json
import struct
import tracemalloc
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from question_helpers import SHARED, real_file

from quantprobe.errors import FileFormatError, InputError, QuantprobeError
from quantprobe.probes.items import Question
from quantprobe.probes.questions.jsonl import SHAPES, write_native
from quantprobe.probes.questions.llama import write_hellaswag_text, write_multiple_choice, write_winogrande_csv
from quantprobe.probes.questions.recognise import BINARY, FOLDER, TEXT_READERS, read_questions
from quantprobe.probes.questions.selection import hellaswag_selection, multiple_choice_selection
from quantprobe.probes.templates import FORMATS, TEMPLATES

NATIVE = {"id": "a", "group": "g", "prompt": "One and one is", "choices": ["two", "three"], "answer": 0}


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return path


def jsonl(*records: object) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


@pytest.mark.parametrize(
    ("format", "content", "expected"),
    [
        ("native", jsonl(NATIVE), Question("a", "g", "One and one is", ("two", "three"), 0)),
        (
            "native",
            jsonl({"prompt": "x", "choices": ["1", "2"], "answer": 1, "delimiter": "", "suffix": "!"}),
            Question("1", "", "x", ("1", "2"), 1, "!", ""),
        ),
        ("query-jsonl", jsonl({"query": "q", "choices": ["1", "2"], "gold": 1}), Question("1", "", "q", ("1", "2"), 1)),
        (
            "arc-jsonl",
            jsonl({"question": "q", "choices": {"A": "x", "B": "y"}, "answer": "B"}),
            Question("1", "", "q", ("x", "y"), 1),
        ),
        (
            "arc-jsonl",
            jsonl({"question": "q", "choices": ["x", "y"], "answer": "B"}),
            Question("1", "", "q", ("x", "y"), 1),
        ),
        (
            "mmlu-jsonl",
            jsonl({"question": "q", "subject": "law", "choices": ["x", "y"], "answer": 1}),
            Question("1", "law", "q", ("x", "y"), 1),
        ),
        (
            "arc-labels-jsonl",
            jsonl(
                {"id": "M1", "question": "q", "choices": {"text": ["x", "y"], "label": ["1", "2"]}, "answerKey": "2"}
            ),
            Question("M1", "", "q", ("x", "y"), 1),
        ),
        (
            "arc-labels-jsonl",
            jsonl(
                {"id": "M1", "question": "q", "choices": {"text": ["x", "y"], "label": ["1", "2"]}, "answerKey": "A"}
            ),
            Question("M1", "", "q", ("x", "y"), 0),
        ),
        (
            "arc-original-jsonl",
            jsonl(
                {
                    "id": "M1",
                    "question": {"stem": "q", "choices": [{"text": "x", "label": "A"}, {"text": "y", "label": "B"}]},
                    "answerKey": "B",
                }
            ),
            Question("M1", "", "q", ("x", "y"), 1),
        ),
        (
            "hellaswag-jsonl",
            jsonl(
                {
                    "activity_label": "Cooking",
                    "ctx_a": "[header] How to fry [title] Heat oil.",
                    "ctx_b": "then YOU",
                    "ctx": "unused",
                    "endings": ["stop [step] now.", "go  on."],
                    "label": "1",
                }
            ),
            Question("1", "Cooking", "Cooking: How to fry. Heat oil. Then you", ("stop now.", "go on."), 1),
        ),
        (
            "winogrande-jsonl",
            jsonl({"sentence": "A saw B so _ ran.", "option1": "A", "option2": "B", "answer": "2"}),
            Question("1", "", "A saw B so ", ("A", "B"), 1, " ran.", ""),
        ),
        ("mmlu-csv", "q,w,x,y,z,C\n", Question("file/1", "file", "q", ("w", "x", "y", "z"), 2)),
        (
            "mmlu-csv",
            'question,choice0,choice1,choice2,answer\n"a\nb",w,"x, x",y,1\n',
            Question("file/1", "file", "a\nb", ("w", "x, x", "y"), 1),
        ),
        (
            "mmlu-csv",
            "question,A,B,C,D,answer\nq,w,x,y,z,D\n",
            Question("file/1", "file", "q", ("w", "x", "y", "z"), 3),
        ),
        ("hellaswag-text", "A: b c\n2\nw\nx\ny\nz", Question("1", "", "A: b c", ("w", "x", "y", "z"), 2)),
        (
            "winogrande-csv",
            '0,"A, it ""is"", saw _ run.",A,B,1\n\n',
            Question("1", "", 'A, it ""is"", saw ', ("A", "B"), 0, " run.", ""),
        ),
        (
            "truthfulqa-csv",
            "Type,Category,Question,Best Answer,Correct Answers,Incorrect Answers,Source\n"
            "A,Myth,Why?,Because,Because; So,Never; Always; Never;,x\n",
            None,
        ),
    ],
)
def test_forms_are_recognised_and_read(tmp_path: Path, format: str, content: str, expected: Question | None) -> None:
    plain = read_questions(write(tmp_path / "file", content))
    assert plain.format == format
    assert plain.n_bad == 0
    assert read_questions(write(tmp_path / "file", content), format=format) == plain
    # CRLF and a byte order mark change nothing.
    other = read_questions(write(tmp_path / "file", "\ufeff" + content.replace("\n", "\r\n")))
    assert other.format == format
    if expected is None:
        (question,) = plain.questions
        assert question.group == "Myth"
        assert sorted(question.choices) == ["Always", "Because", "Never"]
        assert question.choices[question.gold] == "Because"
    else:
        assert plain.questions == (expected,)
    assert [q.choices for q in other.questions] == [q.choices for q in plain.questions]


def test_every_format_has_a_reader_and_a_template() -> None:
    assert set(FORMATS) == {*SHAPES, *TEXT_READERS, BINARY, FOLDER}
    assert set(FORMATS.values()) <= set(TEMPLATES)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answer": 2}, "the answer index is 2, but there are 2 choices"),
        ({"answer": -1}, "the answer index is -1"),
        ({"answer": "x"}, "'answer' must be the answer's index"),
        ({"answer": True}, "'answer' must be the answer's index"),
        ({"choices": ["two"]}, "1 choice; a question needs at least two"),
        ({"choices": ["two", "  "]}, "choice 1 is empty"),
        ({"choices": ["two", 3]}, r"'choices\[1\]' must be text, found 3"),
        ({"choices": "two"}, "'choices' must be a list of texts"),
        ({"prompt": None}, "'prompt' must be text, found nothing"),
        ({"prompt": ""}, "the prompt is empty"),
        ({"prompt": "\ud800"}, "half of a surrogate pair"),
        ({"id": "a"}, "the id 'a' was used before"),
        ({"id": None}, "'id' must be text or a whole number"),
    ],
)
def test_one_bad_item_is_an_error_or_left_out(tmp_path: Path, change: dict[str, object], message: str) -> None:
    bad = {**NATIVE, "id": "b", **change}
    path = write(tmp_path / "t.jsonl", jsonl(NATIVE, bad, {**NATIVE, "id": "c"}))
    with pytest.raises(FileFormatError, match=message) as caught:
        read_questions(path)
    assert "t.jsonl, line 2" in str(caught.value)
    assert "--skip-bad" in str(caught.value)
    found = read_questions(path, skip_bad=True)
    assert [question.id for question in found.questions] == ["a", "c"]
    assert found.n_bad == 1
    assert "t.jsonl, line 2" in found.bad[0]


@pytest.mark.parametrize(
    ("content", "line", "message"),
    [
        (jsonl(NATIVE) + "{not json\n", 2, "not JSON"),
        (jsonl(NATIVE) + "[1]\n", 2, "a JSON object is expected, found list"),
        (jsonl(NATIVE) + '{"question": "q"}\n', 2, "are not those of the form native"),
        (jsonl(NATIVE) + "[" * 100_000 + "\n", 2, "JSON"),
        ("q,w,x,y,z,C\nq,w,x,y,z,K\n", 2, "the answer index is 10"),
        ("q,w,x,y,z,C\nq,w,x,y,z,7\n", 2, "the answer in the last column is '7'"),
        ("q,w,x,y,z,C\nq,w\n", 2, "2 columns"),
        ("A\n1\na\nb\nc\nd\nB\nx\na\nb\nc\nd\n", 8, "the index of the right ending is 'x'"),
        ("A\n1\na\nb\nc\nd\nB\n4\na\nb\nc\nd\n", 7, "the answer index is 4"),
        ("A\n1\na\nb\nc\nd\nB\n3\na\n\nc\nd\n", 7, "choice 1 is empty"),
        ("0,a _ b,x,y,1\n1,no blank,x,y,1\n", 2, "no blank"),
        ("0,a _ b,x,y,1\n1,a _ b,x,y,3\n", 2, "the answer is '3'"),
        ("0,a _ b,x,y,1\n1,a _ b,x\n", 2, "fewer than 5 fields"),
    ],
)
def test_bad_items_of_each_form_name_their_line(tmp_path: Path, content: str, line: int, message: str) -> None:
    path = write(tmp_path / "file", content)
    with pytest.raises(FileFormatError, match=message) as caught:
        read_questions(path)
    assert f"file, line {line}: " in str(caught.value)
    found = read_questions(path, skip_bad=True)
    assert (len(found.questions), found.n_bad) == (1, 1)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b" \n\n", "is empty"),
        (jsonl(NATIVE).encode() + b'{"prompt": "caf\xe9"}\n', "line 2: byte 0xe9 is not UTF-8"),
        (b"\xef\xbb\xbf" + jsonl(NATIVE).encode() + b"\n\xff\n", "line 3: byte 0xff"),
        (jsonl(NATIVE).encode("utf-16"), "is UTF-16"),
        (b"[1, 2]\n", "one JSON object per line"),
        (b'{"a": 1}\n', "the keys a are those of no known question form"),
        (b"{\n", "not one JSON object per line"),
        (b"just a text\n", "not a question file that is known"),
        (b"A\n1\na\nb\nc\nd\nB\n", "7 lines; HellaSwag's text form has 6 per task"),
        (b"q,w,x,y,z,9\n", "not a question file that is known"),
        (b'"' + b"x" * 200_000 + b'",w,x,y,z,A\n', "not CSV"),
    ],
)
def test_files_that_cannot_be_read_say_why(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(FileFormatError, match=message) as caught:
        read_questions(write(tmp_path / "file", content), skip_bad=True)
    assert str(tmp_path / "file") in str(caught.value)


def test_paths_and_formats_that_do_not_exist(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read"):
        read_questions(tmp_path / "absent")
    with pytest.raises(InputError, match="unknown task format 'csv'"):
        read_questions(tmp_path, format="csv")
    with pytest.raises(InputError, match="holds no CSV files"):
        read_questions(tmp_path)
    with pytest.raises(InputError, match="is a folder"):
        read_questions(tmp_path, format="native")
    with pytest.raises(InputError, match="is not a folder"):
        read_questions(write(tmp_path / "x", jsonl(NATIVE)), format="mmlu-folder")


def test_mmlu_folder_brings_its_dev_part(tmp_path: Path) -> None:
    for part in ("test", "dev"):
        (tmp_path / part).mkdir()
        write(tmp_path / part / "law_test.csv", f"{part},w,x,y,z,A\n")
    write(tmp_path / "test" / "art.csv", "a,w,x,y,z,B\n")
    found = read_questions(tmp_path)
    assert [(q.id, q.group, q.prompt) for q in found.questions] == [("art/1", "art", "a"), ("law/1", "law", "test")]
    assert [q.prompt for q in found.dev] == ["dev"]
    assert [q.prompt for q in read_questions(tmp_path / "test" / "law_test.csv").dev] == ["dev"]
    assert read_questions(tmp_path / "test" / "art.csv").dev == ()


def multiple_choice_bytes(tmp_path: Path) -> bytes:
    path = tmp_path / "good.bin"
    write_multiple_choice(path, [Question(str(i), "", f"q{i}é", ("x", "y", "zz"), i % 3) for i in range(4)])
    return path.read_bytes()


def test_impossible_lengths_cost_no_memory(tmp_path: Path) -> None:
    good = multiple_choice_bytes(tmp_path)
    cases = {
        "claims 4294967295 tasks": b"\xff\xff\xff\xff" + good[4:],
        "task 1: a text of 4294967295 bytes": good[:20] + b"\xff\xff\xff\xff" + good[24:],
        "task 1: 4294967295 answers": good[:28] + b"\xff\xff\xff\xff" + good[32:],
        "task 4: a count of 4 bytes": good[:-4],
        "the table of offsets says 7": good[:8] + b"\x07\0\0\0" + good[12:],
        "is not UTF-8": good.replace("é".encode(), b"\xff\xff", 1),
    }
    tracemalloc.start()
    for message, data in cases.items():
        with pytest.raises(FileFormatError, match=message):
            read_questions(write(tmp_path / "bad.bin", data), format="multiple-choice-binary")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20


def test_multiple_choice_needs_one_right_answer(tmp_path: Path) -> None:
    data = bytearray(multiple_choice_bytes(tmp_path))
    (offset,) = struct.unpack_from("<I", data, 8)
    struct.pack_into("<3i", data, offset - 4 - 12, 1, 1, 0)
    path = write(tmp_path / "bad.bin", bytes(data))
    with pytest.raises(FileFormatError, match=r"task 1: the labels are \[1, 1, 0\]"):
        read_questions(path)
    assert [q.id for q in read_questions(path, skip_bad=True).questions] == ["2", "3", "4"]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_files_give_errors_of_ours(tmp_path: Path, data: st.DataObject) -> None:
    """Whatever bytes come: questions, or a QuantprobeError; never another exception."""
    seeds = [
        multiple_choice_bytes(tmp_path),
        jsonl(NATIVE, {**NATIVE, "id": "b"}).encode(),
        b"A\n1\na\nb\nc\nd\n",
        b'0,"a, _ b",x,y,1\n',
        b'question,a,b,answer\n"q",1,2,0\n',
        b"",
    ]
    content = bytearray(data.draw(st.sampled_from(seeds)))
    for _ in range(data.draw(st.integers(0, 3))):
        at = data.draw(st.integers(0, len(content)))
        content[at : at + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=4))
    path = write(tmp_path / "fuzz", bytes(content))
    format = data.draw(st.sampled_from([None, *FORMATS]))
    try:
        found = read_questions(path, format=format, skip_bad=data.draw(st.booleans()))
    except QuantprobeError as error:
        assert "fuzz" in str(error)
        return
    for question in found.questions:
        assert len(question.choices) >= 2
        assert 0 <= question.gold < len(question.choices)


LINE = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n\r\ufeff"), min_size=1).filter(str.strip)
QUESTION = st.builds(
    lambda prompt, choices, gold, id: Question(id, "", prompt, tuple(choices), gold % len(choices)),
    LINE,
    st.lists(LINE, min_size=4, max_size=4),
    st.integers(0, 3),
    st.just("1"),
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(question=QUESTION)
def test_what_is_written_comes_back(tmp_path: Path, question: Question) -> None:
    write_native(tmp_path / "n", [question])
    write_multiple_choice(tmp_path / "m", [question])
    write_hellaswag_text(tmp_path / "h", [question])
    assert read_questions(tmp_path / "n", format="native").questions == (question,)
    assert read_questions(tmp_path / "m").questions == (question,)
    assert read_questions(tmp_path / "h", format="hellaswag-text").questions == (question,)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(prompt=LINE, suffix=LINE, choices=st.tuples(LINE, LINE), gold=st.integers(0, 1))
def test_winogrande_comes_back_or_is_refused(
    tmp_path: Path, prompt: str, suffix: str, choices: tuple[str, str], gold: int
) -> None:
    question = Question("1", "", prompt, choices, gold, suffix, "")
    try:
        write_winogrande_csv(tmp_path / "w", [question])
    except InputError as error:
        assert "question 1" in str(error)
        return
    assert read_questions(tmp_path / "w", format="winogrande-csv").questions == (question,)


def test_forms_refuse_what_they_cannot_hold(tmp_path: Path) -> None:
    question = Question("7", "", "p", ("a", "b"), 0)
    with pytest.raises(InputError, match="question 7 has 2 choices"):
        write_hellaswag_text(tmp_path / "x", [question])
    with pytest.raises(InputError, match="question 7 has a suffix"):
        write_multiple_choice(tmp_path / "x", [Question("7", "", "p", ("a", "b"), 0, "s", "")])
    with pytest.raises(InputError, match="question 7 holds a line end"):
        write_winogrande_csv(tmp_path / "x", [Question("7", "", "p\nq", ("a", "b"), 0, "s", "")])
    with pytest.raises(InputError, match="question 7 has 101 choices"):
        write_multiple_choice(tmp_path / "x", [Question("7", "", "p", tuple(map(str, range(101))), 0)])
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_the_way_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").mkdir()
    with pytest.raises(InputError, match="cannot write"):
        write_native(tmp_path / "t.jsonl", [Question("1", "", "p", ("a", "b"), 0)])
    assert [path.name for path in tmp_path.iterdir()] == ["t.jsonl"]
    write(tmp_path / "file", "x")
    with pytest.raises(InputError, match="cannot write"):
        write_native(tmp_path / "file" / "t.jsonl", [Question("1", "", "p", ("a", "b"), 0)])


def test_selections_are_those_of_the_original() -> None:
    first = [4187, 10013, 7233, 9363, 1, 1286, 3036, 10032, 1474, 2371, 927, 3984]
    assert hellaswag_selection(10042, 12).tolist() == first
    assert hellaswag_selection(20, 12).tolist() == [8, 19, 13, 17, 0, 2, 6, 18, 3, 5, 1, 10]
    assert sorted(hellaswag_selection(20, 99).tolist()) == list(range(20))
    expected = [528, 1262, 911, 1178, 0, 161, 381, 1258, 184, 296, 116, 498]
    assert multiple_choice_selection(1267, 12).tolist() == expected
    assert multiple_choice_selection(817, 12).tolist() == [340, 813, 587, 759, 0, 104, 245, 809, 118, 190, 74, 319]
    assert multiple_choice_selection(5, 0).tolist() == multiple_choice_selection(5, 5).tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("parts", "format", "n", "n_dev"),
    [
        (("arc_easy.jsonl",), "arc-jsonl", 1500, 0),
        (("arc_easy_300.bin",), "multiple-choice-binary", 300, 0),
        (("hellaswag_val.txt",), "hellaswag-text", 6000, 0),
        (("winogrande_like.csv",), "winogrande-csv", 120, 0),
        (("truthfulqa.csv",), "truthfulqa-csv", 813, 0),
        (("mmlu",), "mmlu-folder", 1783, 60),
        (("mmlu", "test", "anatomy.csv"), "mmlu-csv", 135, 5),
    ],
)
def test_real_files(parts: tuple[str, ...], format: str, n: int, n_dev: int) -> None:
    found = read_questions(real_file(*parts))
    assert (found.format, len(found.questions), found.n_bad, len(found.dev)) == (format, n, 0, n_dev)
    shares = Counter(question.gold for question in found.questions)
    assert max(shares.values()) < 0.6 * n


@pytest.mark.golden
def test_real_gold_indices_agree_with_the_harness() -> None:
    golden = SHARED / "golden" / "lm_eval" / "arc_easy_300.json"
    questions = read_questions(real_file("arc_easy.jsonl")).questions[:300]
    gold = json.loads(golden.read_text(encoding="utf-8"))["ref-f16"]["gold"]
    assert [question.gold for question in questions] == gold
    binary = read_questions(real_file("arc_easy_300.bin")).questions
    assert [question.gold for question in binary] == gold
    assert [question.choices for question in binary] == [question.choices for question in questions]


def test_real_files_are_written_as_they_were(tmp_path: Path) -> None:
    source = real_file("arc_easy_300.bin")
    write_multiple_choice(tmp_path / "m", read_questions(source).questions)
    assert (tmp_path / "m").read_bytes() == source.read_bytes()
    source = real_file("hellaswag_val.txt")
    write_hellaswag_text(tmp_path / "h", read_questions(source).questions)
    assert (tmp_path / "h").read_bytes() == source.read_bytes()
    source = real_file("winogrande_like.csv")
    write_winogrande_csv(tmp_path / "w", read_questions(source).questions)
    assert (tmp_path / "w").read_bytes() == source.read_bytes()
