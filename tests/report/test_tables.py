"""results.json and the tables made of it."""

from __future__ import annotations

import copy
import csv
import io
import json
import math
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_results import LADDER, N_ROWS, document, estimate, text_numbers
from quantprobe.report.results_view import parse_results, read_results
from quantprobe.run.results_file import format_json, plain, results_document, write_json
from rich.console import Console

from quantprobe.errors import FileFormatError, InputError
from quantprobe.files import write_text
from quantprobe.report.highlights import highlights
from quantprobe.report.numbers import format_estimate, format_plain, format_size
from quantprobe.report.tables import texts as tables
from quantprobe.stats.estimates import Estimate


def made(value: float | None, stderr: float | None, low: float | None = None, high: float | None = None) -> Estimate:
    return Estimate(value, stderr, low, high, 0.95, 100, 10, "nats")


@pytest.mark.parametrize(
    ("estimate", "scale", "text"),
    [
        (made(0.028213, 0.00041349), 1, "0.02821 ± 0.00041"),
        (made(0.0282, 0.0000996), 1, "0.02820 ± 0.00010"),
        (made(0.88863, 0.0044), 100, "88.86 ± 0.44"),
        (made(12.352679, 0.509072), 1, "12.35 ± 0.51"),
        (made(1_234_567.0, 5_432.0), 1, "1234600 ± 5400"),
        (made(4.2e-9, 1.3e-10), 1, "(4.20 ± 0.13)e-9"),
        (made(1e-10, 4e-9), 1, "(0.1 ± 4.0)e-9"),
        (made(0.0, 0.0), 1, "0 ± 0"),
        (made(0.7294117647, 2.5e-18), 100, "72.9 ± 0"),
        (made(0.5, 3e-9), 1, "0.5000000000 ± 0.0000000030"),
        (made(0.5, None), 1, "0.500 ± n/a"),
        (made(1.0, None, 0.995, 1.0), 100, "100 [99.5, 100]"),
        (made(None, None), 1, "n/a"),
        (made(-0.0123, 0.002), 1, "-0.0123 ± 0.0020"),
    ],
)
def test_estimates_are_rounded_to_their_error(estimate: Estimate, scale: float, text: str) -> None:
    assert format_estimate(estimate, scale) == text


@given(st.floats(1e-7, 1e5), st.floats(1e-6, 1e7))
def test_a_written_estimate_is_within_its_own_error(value: float, stderr: float) -> None:
    text = format_estimate(made(value, stderr))
    factor = 1.0
    if text.startswith("("):
        text, exponent = text[1:].split(")e")
        factor = 10.0 ** int(exponent)
    shown, shown_error = (float(part) * factor for part in text.split(" ± "))
    assert abs(shown - value) <= 0.051 * stderr
    assert shown_error == pytest.approx(stderr, rel=0.051)


@given(st.floats(1e-12, 1e12))
def test_plain_numbers_keep_three_digits(value: float) -> None:
    assert float(format_plain(value)) == pytest.approx(value, rel=0.0051)


def test_sizes_name_both_units() -> None:
    assert format_size(4_920_733_920) == "4.92 GB (4.58 GiB)"


@dataclass(frozen=True)
class Summary:
    """A text's summary, as the statistics give it."""

    numbers: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        return self.numbers


def result(**numbers: Any) -> SimpleNamespace:
    """What a sweep returns."""
    base = SimpleNamespace(**document()["base"])
    entry = {key: value for key, value in document()["quants"][0].items() if key not in ("texts", "tasks")}
    imatrix = SimpleNamespace(file="im.gguf", dataset="calibration.txt", entries_count=182, chunks_count=100)
    info = SimpleNamespace(**{**entry, "imatrix": imatrix, "path": Path("q.gguf")})
    texts = {"wiki": Summary({**text_numbers(0.01), **numbers})}
    return SimpleNamespace(
        base=base,
        settings={"n_ctx": 512, "tensor_split": (), "path": Path("a")},
        null_control=SimpleNamespace(texts={"wiki": text_numbers(1e-7), "code": None}, tasks={}),
        quants=(SimpleNamespace(info=info, texts=texts, tasks={}, pooled=None),),
        tasks={},
    )


def test_results_json_has_the_agreed_keys() -> None:
    written = json.loads(format_json(results_document(result())))
    assert list(written) == ["format_version", "base", "settings", "null_control", "tasks", "quants", "study"]
    assert written["base"] == document()["base"]
    assert set(written["null_control"]["texts"]["wiki"]) == {"kld_mean", "kld_max", "same_top"}
    assert written["null_control"]["texts"]["code"] is None
    quant = written["quants"][0]
    assert list(quant) == [
        "name", "path", "sha256", "size_bytes", "bpw", "file_type", "imatrix", "texts", "tasks", "pooled"
    ]  # fmt: skip
    assert quant["imatrix"] == {
        "file": "im.gguf", "dataset": "calibration.txt", "entries_count": 182, "chunks_count": 100
    }  # fmt: skip
    assert quant["texts"]["wiki"]["kld_mean"] == estimate(0.01, 0.01 * 0.03)


def test_json_keeps_an_estimate_on_one_line() -> None:
    value = {"a": {"value": 1.5, "unit": "é"}, "b": [], "c": [1, [2, {}]], "d": None, "e": {}}
    assert json.loads(format_json(value)) == value
    assert format_json(value).splitlines()[1:3] == ['  "a": {"value": 1.5, "unit": "\\u00e9"},', '  "b": [],']
    with pytest.raises(ValueError, match="not JSON compliant"):
        format_json({"a": [math.nan]})


def test_numbers_that_do_not_exist_are_null(tmp_path: Path) -> None:
    numbers = {"kld_max": math.inf, "kld_median": np.float64("nan"), "kld_mean": estimate(None)}
    write_json(results_document(result(**numbers)), tmp_path / "run" / "results.json")
    text = (tmp_path / "run" / "results.json").read_text(encoding="utf-8")
    wiki = json.loads(text)["quants"][0]["texts"]["wiki"]
    assert wiki["kld_max"] is None and wiki["kld_median"] is None and wiki["kld_mean"]["value"] is None
    assert "NaN" not in text and "Infinity" not in text
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["results.json"]


def test_plain_keeps_numpy_scalars_as_numbers_and_refuses_the_rest() -> None:
    assert plain({"a": np.int64(3), "b": (np.float32(0.5), True, np.bool_(False), None)}) == {
        "a": 3,
        "b": [0.5, True, False, None],
    }
    with pytest.raises(TypeError, match="object"):
        plain(object())


def test_a_file_in_the_way_is_an_error_and_the_old_file_stays(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file", encoding="utf-8")
    with pytest.raises(InputError, match=r"cannot write .*results\.json"):
        write_text(tmp_path / "run" / "results.json", "{}")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "results.json"
    write_text(target, "old")

    def no_space(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("quantprobe.files.os.fsync", no_space)
    with pytest.raises(InputError, match="No space left"):
        write_text(target, "new")
    assert target.read_text(encoding="utf-8") == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


def test_read_results_gives_back_what_was_written(tmp_path: Path) -> None:
    write_json(results_document(result()), tmp_path / "results.json")
    view = read_results(tmp_path / "results.json")
    assert view.base.name == "Qwen3-4B-BF16"
    assert view.quants[0].texts["wiki"].kld_mean.value == 0.01
    assert view.floor("wiki") == pytest.approx(1e-7 * 1.06)
    assert view.floor("code") is None


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda entry: entry.pop("format_version"), "not a results file"),
        (lambda entry: entry.update(format_version=99), "format version 99"),
        (lambda entry: entry.pop("base"), "'base'"),
        (lambda entry: entry["quants"][0]["texts"]["wiki"].pop("kld_mean"), "'kld_mean'"),
        (lambda entry: entry["quants"][0]["texts"]["wiki"].update(kld_mean=3), "form of a results file"),
        (lambda entry: entry.update(quants=None), "form of a results file"),
    ],
)
def test_damaged_results_are_named(damage: Any, message: str) -> None:
    entry = document()
    damage(entry)
    with pytest.raises(FileFormatError, match=message):
        parse_results(entry, "run/results.json")


def test_a_results_file_that_is_not_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text("{", encoding="utf-8")
    with pytest.raises(FileFormatError, match="is not JSON"):
        read_results(tmp_path / "results.json")
    with pytest.raises(FileFormatError, match="cannot read"):
        read_results(tmp_path / "absent.json")


def test_markdown_has_one_table_per_text_with_the_base_first() -> None:
    view = parse_results(document(("wiki", "code")))
    lines = tables.markdown(view).splitlines()
    assert lines.count("| " + " | ".join(column.title for column in tables.COLUMNS) + " |") == 2
    rows = [line for line in lines if line.startswith("| Qwen3")]
    assert len(rows) == 2 * (1 + len(LADDER))
    assert rows[0].startswith("| Qwen3-4B-BF16 (base) | 8.05 | 7.50 | 16.0 | 12.35 ± 0.51 | (4.20 ± 0.42)e-6 |")
    q4 = next(row for row in rows if "Q4_K_M" in row)
    assert q4 == (
        "| Qwen3-4B-Q4_K_M | 2.50 | 2.33 | 4.96 | 12.56 ± 0.51 | 0.01710 ± 0.00051 | 0.00855 | 0.109 | 0.239 | 0.530 "
        "| 3.27 ± 0.25 | 94.12 ± 0.41 |"
    )
    assert "10,200 scored tokens in 40 windows." in tables.markdown(view)
    assert "clustered by window" in tables.markdown(view)
    assert "n_ctx 512, flash_attn on, llama_cpp_version 0.5.0, backend CPU" in tables.markdown(view)


def test_names_cannot_break_the_markdown_table() -> None:
    entry = document()
    entry["quants"][0]["name"] = "a|b*c*\nd`<i>"
    row = next(line for line in tables.markdown(parse_results(entry)).splitlines() if line.startswith("| a"))
    assert row.startswith("| a\\|b\\*c\\* d\\`\\<i> | ")


def test_at_the_floor_nothing_is_told_apart() -> None:
    view = parse_results(document(floor=0.0007))
    notes = tables.text_notes(view, "wiki")
    assert any("not told apart from the base: Qwen3-4B-Q8_0." in note for note in notes)
    cells = {row[0]: row[5] for row in tables.table_rows(view, "wiki")}
    assert cells["Qwen3-4B-Q8_0"] == "0.000610 ± 0.000018*"
    assert cells["Qwen3-4B-Q6_K"] == "0.002100 ± 0.000063"
    assert "Q8_0" not in " ".join(highlights(view, "wiki"))


def test_null_controls_of_zero_and_missing_ones_are_said() -> None:
    assert any("exactly 0" in note for note in tables.text_notes(parse_results(document(floor=0.0)), "wiki"))
    entry = document()
    entry["null_control"]["texts"]["wiki"] = None
    notes = tables.text_notes(parse_results(entry), "wiki")
    assert any("no null control" in note for note in notes)


def test_rows_that_are_not_finite_are_said() -> None:
    entry = document()
    entry["quants"][3]["texts"]["wiki"]["n_nonfinite"] = 12
    assert any(
        "Q5_K_M: 12 rows held NaN or infinity" in note for note in tables.text_notes(parse_results(entry), "wiki")
    )


@pytest.mark.parametrize("width", [40, 60, 80, 100, 120, 160])
def test_the_terminal_table_fits_and_keeps_name_and_kld(width: int) -> None:
    view = parse_results(document())
    table = tables.terminal_table(view, "wiki", width)
    titles = [str(column.header) for column in table.columns]
    assert titles[0] == "Quant" and "Mean KLD" in titles
    if width >= 50:
        console = Console(width=width, file=io.StringIO(), color_system=None)
        console.print(table)
        text = console.file.getvalue()  # type: ignore[attr-defined]
        assert "0.01710 ± 0.00051" in text and "Qwen3-4B-UD-Q4_K_XL" in text
        assert max(len(line.rstrip()) for line in text.splitlines()) <= width


def test_narrow_terminals_drop_columns_by_priority() -> None:
    view = parse_results(document())
    assert [str(c.header) for c in tables.terminal_table(view, "wiki", 80).columns] == [
        "Quant", "GB", "Mean KLD", "99 %", "Same top %"
    ]  # fmt: skip
    assert len(tables.terminal_table(view, "wiki", None).columns) == len(tables.COLUMNS)


def test_csv_has_one_line_of_plain_numbers_per_quant_and_text() -> None:
    entry = document(("wiki", "code"))
    entry["quants"][1]["texts"]["code"]["same_top"] = estimate(None, unit="fraction")
    rows = list(csv.DictReader(io.StringIO(tables.csv_text(parse_results(entry)))))
    assert [(row["text"], row["file_type"]) for row in rows] == [
        (text, name) for text in ("wiki", "code") for name, *_ in LADDER
    ]
    q8, broken = rows[0], rows[len(LADDER) + 1]
    assert float(q8["kld_mean"]) == 0.00061 and float(q8["kld_mean_stderr"]) == 0.00061 * 0.03
    assert float(q8["size_gib"]) == 4_280_405_600 / 2**30
    assert q8["n_rows"] == str(N_ROWS) and q8["below_floor"] == "0" and float(q8["kld_floor"]) > 0
    assert broken["same_top"] == "" and broken["same_top_stderr"] == ""


def test_highlights_say_only_what_the_numbers_carry() -> None:
    entry = document()
    by_type = {quant["file_type"]: quant["texts"]["wiki"] for quant in entry["quants"]}
    by_type["Q4_K_S"]["kld_mean"] = estimate(0.0213, 0.001)  # 0.0193 to 0.0233 covers IQ4_XS at 0.0224
    by_type["Q8_0"]["ln_ppl_ratio"] = estimate(0.0001, 0.0004)
    text = "\n".join(highlights(parse_results(entry), "wiki"))
    assert "Nearest to the base is Q8_0 (KLD" in text and "farthest is Q2_K (KLD" in text
    assert "from Q3_K_M to Q2_K: 4.6 times the KLD for 20% less size" in text
    assert "Q4_K_S and IQ4_XS" in text
    assert "IQ4_XS is closer to the base than Q4_0 and no larger." in text
    assert "Perplexity alone would not tell Q8_0 from the base" in text


def test_highlights_without_any_signal() -> None:
    assert "nothing can be said" in highlights(parse_results(document(floor=1.0)), "wiki")[0]


def test_the_base_ppl_is_that_of_all_rows() -> None:
    entry = copy.deepcopy(document())
    first = entry["quants"][0]["texts"]["wiki"]
    first["n_nonfinite"], first["ppl_base"] = 5, estimate(99.0, 1.0, "ppl")
    assert tables.table_rows(parse_results(entry), "wiki")[0][4] == "12.35 ± 0.51"
