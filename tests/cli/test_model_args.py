"""Model arguments: files, folders, patterns, parts."""

from __future__ import annotations

from pathlib import Path

import pytest

from quantprobe.cli.shared.model_args import find_base, find_quants, first_part, model_size
from quantprobe.errors import InputError


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A folder as authors keep it: base, quants of several sizes, one split, and other GGUF files."""
    sizes = {
        "M-F16.gguf": 160, "M-Q4_K_M.gguf": 50, "M-Q8_0.gguf": 85, "M-Q2_K.GGUF": 30,
        "M-Q6_K-00001-of-00002.gguf": 10, "M-Q6_K-00002-of-00002.gguf": 60,
        "mmproj-M-F16.gguf": 20, "M.imatrix.gguf": 5, "README.md": 1,
    }  # fmt: skip
    for name, size in sizes.items():
        (tmp_path / name).write_bytes(b"x" * size)
    (tmp_path / "folder.gguf").mkdir()
    return tmp_path


LADDER = ["M-Q8_0.gguf", "M-Q6_K-00001-of-00002.gguf", "M-Q4_K_M.gguf", "M-Q2_K.GGUF"]


def names(paths: list[Path]) -> list[str]:
    return [path.name for path in paths]


def test_a_folder_gives_its_quants_largest_first(models: Path) -> None:
    assert names(find_quants([str(models)], models / "M-F16.gguf")) == LADDER
    assert names(find_quants([str(models)])) == ["M-F16.gguf", *LADDER]


def test_a_pattern_gives_the_same_as_its_folder(models: Path) -> None:
    assert names(find_quants([str(models / "*.[gG]*")], models / "M-F16.gguf")) == LADDER
    assert names(find_quants([str(models / "M-Q?_0.gguf")])) == ["M-Q8_0.gguf"]


def test_files_keep_the_order_given_and_meet_their_folder_once(models: Path) -> None:
    given = [str(models / "M-Q2_K.GGUF"), str(models)]
    assert names(find_quants(given, models / "M-F16.gguf")) == ["M-Q2_K.GGUF", *LADDER[:-1]]


def test_any_part_stands_for_its_model(models: Path) -> None:
    second = models / "M-Q6_K-00002-of-00002.gguf"
    assert first_part(second).name == "M-Q6_K-00001-of-00002.gguf"
    assert names(find_quants([str(second)])) == ["M-Q6_K-00001-of-00002.gguf"]
    assert model_size(first_part(second)) == 70
    with pytest.raises(InputError, match="given twice"):
        find_quants([str(second), str(first_part(second))])
    first_part(second).unlink()
    with pytest.raises(InputError, match=r"first part M-Q6_K-00001-of-00002.gguf is not beside it"):
        find_base(second)


def test_the_base_by_another_path_is_still_the_base(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(models)
    with pytest.raises(InputError, match="is the base itself"):
        find_quants(["M-F16.gguf"], models / "M-F16.gguf")


@pytest.mark.parametrize("argument", ["absent.gguf", "absent*.gguf", "folder.gguf", "M.imatrix*"])
def test_arguments_that_give_nothing_are_errors(models: Path, argument: str) -> None:
    with pytest.raises(InputError, match="gives no quant"):
        find_quants([str(models / argument)])


def test_a_file_named_on_purpose_is_tried_whatever_its_name(models: Path) -> None:
    assert names(find_quants([str(models / "M.imatrix.gguf")])) == ["M.imatrix.gguf"]


def test_a_base_that_is_no_file(models: Path) -> None:
    with pytest.raises(InputError, match="is a folder"):
        find_base(models)
    with pytest.raises(InputError, match="there is no model"):
        find_base(models / "absent.gguf")
