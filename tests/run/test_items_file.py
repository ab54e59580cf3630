"""The items table: what is written comes back equal, and damage is named by file and line."""

import csv
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from answer_factory import make_answers, make_pair

from quantprobe.errors import FileFormatError, InputError, MismatchError
from quantprobe.metrics.answers import Answers
from quantprobe.metrics.direction import measure_direction
from quantprobe.run.items import COLUMNS, read_items, write_items


def assert_equal(found: Answers, expected: Answers) -> None:
    for field in fields(Answers):
        a, b = getattr(found, field.name), getattr(expected, field.name)
        if isinstance(b, np.ndarray):
            np.testing.assert_array_equal(a, b, err_msg=field.name)
            assert a.dtype == b.dtype, field.name
        else:
            assert a == b, field.name


@pytest.fixture
def written(tmp_path: Path) -> Path:
    base, quant = make_pair(3, n=5, n_groups=2)
    write_items(tmp_path / "items" / "Q4_K_M" / "arc.csv", base, quant)
    return tmp_path / "items" / "Q4_K_M" / "arc.csv"


def test_header_is_the_contracts(written: Path) -> None:
    assert written.read_bytes().split(b"\n")[0].decode() == (
        "id,group,gold,base_pred,quant_pred,base_correct,quant_correct,base_margin,quant_margin,"
        "base_gold_prob,quant_gold_prob,kld,n_rows,base_logprobs,quant_logprobs"
    )
    assert b"\r" not in written.read_bytes()
    assert [path.name for path in written.parent.iterdir()] == ["arc.csv"], "no partial file is left"


def test_round_trip(written: Path) -> None:
    base, quant = make_pair(3, n=5, n_groups=2)
    found = read_items(written)
    assert_equal(found.base, base)
    assert_equal(found.quant, quant)
    assert measure_direction(found.base, found.quant) == measure_direction(base, quant)


def test_round_trip_of_odd_items(tmp_path: Path) -> None:
    nan = float("nan")
    rows = [[-1.0, -2.0, -1.0], [nan, -1.0], [-1.0, nan], [-1 / 3, float("inf")], [-1e-17, -700.123456789012345]]
    base = make_answers([[-1.0] * len(row) for row in rows], [0, 1, 0, 1, 1], ['a,"b"', "ü\n二", "", "x\ry", " "])
    quant = make_answers(rows, [0, 1, 0, 1, 1], list(base.groups), kld=np.array([0.1, nan, nan, 0.25, 1e-300]))
    write_items(tmp_path / "t.csv", base, quant)
    found = read_items(tmp_path / "t.csv")
    assert_equal(found.base, base)
    assert_equal(found.quant, quant)
    assert found.quant.valid.tolist() == [True, False, False, False, True]
    text = (tmp_path / "t.csv").read_text(encoding="utf-8")
    assert "nan" not in text.lower()
    assert "inf" not in text.lower()


def test_other_programs_may_write_less(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(
        "\ufeffnote," + ",".join(COLUMNS) + "\r\nx,a,,,,,1,0,,,,,,,,\r\ny,b,,2,1,3,0,0,,,,,,,,\r\n", encoding="utf-8"
    )
    pair = read_items(path)
    assert pair.sample is None
    found = measure_direction(pair.base, pair.quant)
    assert (found.drops, found.leapfrogs, found.wrong_to_other_wrong, found.n_shift) == (1, 0, 1, 0)


DAMAGE = [
    ("gold", "x", "gold is 'x'"),
    ("gold", "-2", "whole number"),
    ("gold", "7", "outside the 4 choices"),
    ("base_pred", "1.5", "base_pred"),
    ("base_correct", "2", "0, 1 or an empty"),
    ("quant_correct", "True", "0, 1 or an empty"),
    ("base_margin", "nan", "finite number"),
    ("quant_margin", "1e999", "finite number"),
    ("base_gold_prob", "1.5", "from 0 to 1"),
    ("kld", "low", "kld"),
    ("n_rows", "99999999999", "n_rows"),
    ("base_logprobs", "[1, 2", "JSON list"),
    ("base_logprobs", "[NaN, 1]", "JSON list"),
    ("base_logprobs", '["1", "2"]', "JSON list"),
    ("quant_logprobs", "{}", "JSON list"),
    ("quant_logprobs", "[" * 5000, "JSON list"),
    ("quant_logprobs", "", "4 base_logprobs and 0 quant_logprobs"),
    ("id", "", "id is empty"),
    ("id", "q0", "already on line 2"),
]


@pytest.mark.parametrize(("column", "value", "words"), DAMAGE)
def test_damaged_cells_are_named(written: Path, column: str, value: str, words: str) -> None:
    with written.open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    rows[3][COLUMNS.index(column)] = value
    with written.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)
    with pytest.raises(FileFormatError, match=words) as error:
        read_items(written)
    assert f"{written}, line 4" in str(error.value)


def test_a_correctness_that_contradicts_is_damage(written: Path) -> None:
    with written.open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    column = COLUMNS.index("base_correct")
    rows[2][column] = "1" if rows[2][column] == "0" else "0"
    with written.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)
    with pytest.raises(FileFormatError, match="line 3: base_correct contradicts"):
        read_items(written)


@pytest.mark.parametrize("keep", [0.3, 0.6, 0.9, 0.99])
def test_cut_off_files_are_errors(written: Path, keep: float) -> None:
    data = written.read_bytes()
    written.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(FileFormatError, match=r"arc\.csv"):
        read_items(written)


@pytest.mark.parametrize(
    "content", [b"", b"id,group\n", b"\xff\xfe\x00", b"a" * 200_000, b'"unclosed\n', b"\x00\x00\n"]
)
def test_files_of_another_kind(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    with pytest.raises(FileFormatError, match=r"t\.csv"):
        read_items(path)


def test_no_items_and_no_file(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(",".join(COLUMNS) + "\n", encoding="utf-8")
    with pytest.raises(FileFormatError, match="no items"):
        read_items(tmp_path / "t.csv")
    with pytest.raises(InputError, match="cannot read"):
        read_items(tmp_path / "missing.csv")


def test_writing_refuses_before_a_file_exists(tmp_path: Path) -> None:
    base, quant = make_answers([[-1.0, -2.0]], [0]), make_answers([[-1.0, -2.0]] * 2, [0, 0])
    with pytest.raises(MismatchError):
        write_items(tmp_path / "t.csv", base, quant)
    lone = make_answers([[-1.0, -2.0]], [0], ["\ud800"])
    with pytest.raises(InputError, match="UTF-8"):
        write_items(tmp_path / "t.csv", lone, lone)
    assert not list(tmp_path.iterdir())
