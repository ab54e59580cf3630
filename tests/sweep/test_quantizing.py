"""Cohorts of quants: names, resuming, several at a time, and what does not fit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from tiny_gguf import write_tiny

pytest.importorskip("quantprobe._native", reason="the native extension is not built")

from quantprobe.cli.main import cli
from quantprobe.engine.quantize import quantize
from quantprobe.engine.quantize_plan import QuantPlan, plan_quants
from quantprobe.engine.recipe import Recipe
from quantprobe.errors import EngineError, InputError
from quantprobe.gguf.model import read_model_info
from quantprobe.sweep import ladder, quantizing
from quantprobe.sweep.inputs import SILENT
from quantprobe.sweep.ladder import Order, make_quants
from quantprobe.sweep.quantizing import fit_jobs, order_quants


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are made, by a stand-in for llama.cpp."""
    made: list[str] = []

    def quantize(source: Path, target: Path, recipe: Recipe, **options: Any) -> list[Path]:
        if recipe.file_type == "F32":
            raise EngineError("llama.cpp could not")
        made.append(target.name)
        target.write_bytes(source.read_bytes() + recipe.file_type.encode())
        return [target]

    monkeypatch.setattr(ladder, "quantize", quantize)
    return made


def change_target(source: Path, folder: Path, orders: list[Order]) -> None:
    (folder / "a.gguf").write_bytes(b"other")


def change_source(source: Path, folder: Path, orders: list[Order]) -> None:
    write_tiny(source, seed=1)


def change_record(source: Path, folder: Path, orders: list[Order]) -> None:
    (folder / "made.json").write_text('{"a.gguf": 3', encoding="utf-8")


def change_type(source: Path, folder: Path, orders: list[Order]) -> None:
    orders[0] = Order("a.gguf", Recipe("Q6_K"))


def change_imatrix(source: Path, folder: Path, orders: list[Order]) -> None:
    (folder.parent / "im.gguf").write_bytes(b"other")


def change_split(source: Path, folder: Path, orders: list[Order]) -> None:
    orders[0] = Order("a.gguf", Recipe("Q8_0"), max_part_bytes=10**9)


def change_nothing(source: Path, folder: Path, orders: list[Order]) -> None:
    """The same again."""


@pytest.mark.parametrize(
    ("change", "again"),
    [
        (change_nothing, []),
        (change_target, ["a.gguf"]),
        (change_type, ["a.gguf"]),
        (change_split, ["a.gguf"]),
        (change_imatrix, ["b.gguf"]),
        (change_source, ["a.gguf", "b.gguf"]),
        (change_record, ["a.gguf", "b.gguf"]),
    ],
)
@pytest.mark.parametrize("n_jobs", [1, 2])
def test_files_are_made_once(
    tmp_path: Path, fake: list[str], change: Callable[..., None], again: list[str], n_jobs: int
) -> None:
    source, folder = write_tiny(tmp_path / "source.gguf"), tmp_path / "out"
    folder.mkdir()
    (tmp_path / "im.gguf").write_bytes(b"matrix")
    orders = [Order("a.gguf", Recipe("Q8_0")), Order("b.gguf", Recipe("Q4_K_M", imatrix=tmp_path / "im.gguf"))]
    made = make_quants(source, folder, orders, SILENT, n_jobs)
    assert [each.files for each in made] == [(folder / "a.gguf",), (folder / "b.gguf",)]
    assert not any(each.is_kept for each in made)
    change(source, folder, orders)
    fake.clear()
    made = make_quants(source, folder, orders, SILENT, n_jobs)
    assert sorted(fake) == again
    assert [each.is_kept for each in made] == [name not in again for name in ("a.gguf", "b.gguf")]
    assert set(json.loads((folder / "made.json").read_text(encoding="utf-8"))) == {"a.gguf", "b.gguf"}


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_what_was_finished_before_a_failure_is_kept(tmp_path: Path, fake: list[str], n_jobs: int) -> None:
    source, folder = write_tiny(tmp_path / "source.gguf"), tmp_path / "out"
    folder.mkdir()
    make_quants(source, folder, [Order("a.gguf", Recipe("Q8_0"))], SILENT)
    with pytest.raises(EngineError, match="could not"):
        make_quants(source, folder, [Order("a.gguf", Recipe("Q8_0")), Order("b.gguf", Recipe("F32"))], SILENT, n_jobs)
    fake.clear()
    make_quants(source, folder, [Order("a.gguf", Recipe("Q8_0"))], SILENT)
    assert fake == []


def test_a_failure_ends_the_other_children(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two real jobs one fails at once; the other's process does not go on."""
    source = write_tiny(tmp_path / "source.gguf", n_embd=256)
    children: list[Any] = []

    def start(*args: Any, on_child: Callable[[Any], None], **options: Any) -> list[Path]:
        def note(child: Any) -> None:
            children.append(child)
            on_child(child)

        return quantize(*args, on_child=note, **options)

    monkeypatch.setattr(ladder, "quantize", start)
    orders = [Order("a.gguf", Recipe("Q8_0", imatrix=source)), Order("b.gguf", Recipe("IQ3_S"))]
    with pytest.raises(EngineError, match=r"could not make .* of source.gguf"):
        make_quants(source, tmp_path / "out", orders, SILENT, n_jobs=2)
    assert children and all(child.poll() not in (None, 0) for child in children)
    assert not list((tmp_path / "out").glob("*"))


def test_names() -> None:
    common = Recipe("F32")
    a, b = Path("im/wiki.imatrix.gguf"), Path("im/imatrix-code v2.dat")
    names = [order.name for order in order_quants(Path("My-Model-BF16.gguf"), ["q8_0", "Q4_K"], [], common)]
    assert names == ["My-Model-Q8_0.gguf", "My-Model-Q4_K_M.gguf"]
    one = order_quants(Path("m.f16.gguf"), ["IQ2_M"], [a], common)
    assert [(order.name, order.recipe.imatrix) for order in one] == [("m-IQ2_M.gguf", a)]
    two = order_quants(Path("m-00001-of-00003.gguf"), ["Q8_0", "IQ2_M"], [a, b], common)
    assert [(order.name, order.recipe.imatrix) for order in two] == [
        ("m-Q8_0.gguf", None), ("m-IQ2_M-wiki.gguf", a), ("m-IQ2_M-code_v2-a17c35b1.gguf", b)
    ]  # fmt: skip


def test_none_among_the_matrices_is_a_variant_without_one() -> None:
    a = Path("a.gguf")
    orders = order_quants(Path("m.gguf"), ["Q8_0", "Q4_0", "IQ2_M"], [None, a], Recipe("F32"))
    assert [(order.name, order.recipe.imatrix) for order in orders] == [
        ("m-Q8_0.gguf", None), ("m-Q4_0.gguf", None), ("m-Q4_0-a.gguf", a), ("m-IQ2_M-a.gguf", a)
    ]  # fmt: skip
    assert [order.recipe.imatrix for order in order_quants(Path("m.gguf"), ["IQ2_M"], [None], Recipe("F32"))] == [None]


def test_names_that_meet_are_refused() -> None:
    with pytest.raises(InputError, match=r"m-Q8_0.gguf would be made twice"):
        order_quants(Path("m.gguf"), ["Q8_0", "q8_0"], [], Recipe("F32"))
    with pytest.raises(InputError, match="two importance matrices would be named 'a'"):
        order_quants(Path("m.gguf"), ["Q4_0"], [Path("x/a.gguf"), Path("y/a.gguf")], Recipe("F32"))


def test_jobs_fit_the_memory(tmp_path: Path) -> None:
    plans: list[QuantPlan] = plan_quants(write_tiny(tmp_path / "m.gguf"), [Recipe("Q8_0")] * 3)
    need = plans[0].n_bytes_needed
    assert [fit_jobs(plans, 3, int(need * n / quantizing.MEMORY_SHARE) + 2) for n in (0, 1, 2, 5)] == [1, 1, 2, 3]


def run(*arguments: str | Path) -> tuple[int, str]:
    result = CliRunner().invoke(cli, ["quantize", *map(str, arguments)])
    return result.exit_code, result.output


def test_the_command_makes_a_cohort_and_keeps_it(tmp_path: Path) -> None:
    base = write_tiny(tmp_path / "tiny-F32.gguf", n_embd=256, n_layer=1)
    call = (base, "--types", "Q8_0,Q4_K_M", "--out", tmp_path / "out", "--split-max-size", "1M", "--jobs", "2")
    status, words = run(*call, "--dry-run")
    assert status == 0 and "tiny-Q4_K_M.gguf" in words and not (tmp_path / "out").exists()
    status, words = run(*call, "--json", tmp_path / "a.json")
    assert status == 0, words
    entries = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    assert [entry["name"] for entry in entries] == ["tiny-Q8_0.gguf", "tiny-Q4_K_M.gguf"]
    assert [read_model_info(Path(entry["files"][0])).file_type for entry in entries] == ["Q8_0", "Q4_K_M"]
    assert all(not entry["is_kept"] for entry in entries)
    status, words = run(*call, "--json", tmp_path / "a.json")
    assert status == 0 and words.count("there already") == 2
    assert not list((tmp_path / "out").glob("*.partial"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--types", "IQ1_S"), "IQ1_S cannot be made without an importance matrix"),
        (("--types", ","), "--types names no type"),
        (("--types", "Q8_0", "--tensor-type", "ffn"), "expected REGEX=TYPE"),
        (("--types", "Q8_0", "--split-max-size", "4"), "'4' is not a size such as 45G or 500M"),
        (("--types", "Q8_0", "--split-max-size", "4G", "--keep-split"), "say different things"),
    ],
)
def test_bad_calls_are_told(tmp_path: Path, options: tuple[str, ...], message: str) -> None:
    status, words = run(write_tiny(tmp_path / "m.gguf"), *options, "--out", tmp_path / "out")
    assert status == 1 and message in words and not (tmp_path / "out").exists()


def test_a_disk_that_is_too_small_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        free = 1000

    monkeypatch.setattr(quantizing.shutil, "disk_usage", lambda path: Full)
    status, words = run(write_tiny(tmp_path / "m.gguf"), "--types", "Q8_0", "--out", tmp_path / "new" / "out")
    assert status == 1 and "the disk of" in words and "name fewer types" in words


def test_a_split_source_keeps_its_parts(tmp_path: Path) -> None:
    base = write_tiny(tmp_path / "m.gguf", n_embd=256, n_layer=1, split=2)
    assert run(base, "--types", "Q8_0", "--out", tmp_path / "out", "--keep-split")[0] == 0
    assert sorted(path.name for path in (tmp_path / "out").glob("*.gguf")) == [
        "m-Q8_0-00001-of-00002.gguf", "m-Q8_0-00002-of-00002.gguf"
    ]  # fmt: skip
    assert run(base, "--types", "Q8_0", "--out", tmp_path / "out")[0] == 0
    assert [path.name for path in (tmp_path / "out").glob("*.gguf")] == ["m-Q8_0.gguf"]
