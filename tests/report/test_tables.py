"""The tables of texts, the numbers in them, and the files that are made of results.json alone."""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_run import LADDER, N_ROWS, as_cohort, change_quant, estimate, fake_results
from rich.console import Console

from quantprobe.errors import InputError
from quantprobe.files import write_text
from quantprobe.report.finish import results_markdown, write_run
from quantprobe.report.highlights import highlights
from quantprobe.report.names import ShortNames, cohort_names, join_words, shared_start
from quantprobe.report.notes import format_settings, null_sentences, warnings
from quantprobe.report.numbers import format_estimate, format_interval, format_plain, format_size
from quantprobe.report.tables.cells import Cell, Column, Table
from quantprobe.report.tables.csv_files import numbers_csv, texts_csv
from quantprobe.report.tables.terminal import terminal_tables
from quantprobe.report.tables.texts import FIELDS, text_table
from quantprobe.report.terminal import MAX_FINDINGS, describe_run
from quantprobe.run.cohort import Cohort
from quantprobe.run.folder import RunFolder
from quantprobe.run.json_text import format_json, plain
from quantprobe.run.results import NullControl
from quantprobe.stats.estimates import Estimate

NAMES = ShortNames("Qwen3-4B-")


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
        (None, 1, "n/a"),
        (made(-0.0123, 0.002), 1, "-0.0123 ± 0.0020"),
    ],
)
def test_estimates_are_rounded_to_their_error(estimate: Estimate | None, scale: float, text: str) -> None:
    assert format_estimate(estimate, scale) == text


@pytest.mark.parametrize(
    ("estimate", "scale", "text"),
    [
        (made(-0.0133, 0.01, -0.031, 0.0044), 100, "-1.3 [-3.1, +0.4]"),
        (made(0.0001, 0.01, -0.0002, 0.0004), 100, "+0.010 [-0.020, +0.040]"),
        (made(-31.0, 9.0, -50.0, -12.0), 1, "-31 [-50, -12]"),
        (made(0.0, 0.0, 0.0, 0.0), 1, "+0.00 [+0.00, +0.00]"),
        (made(0.01, None), 100, "+1.00 [no interval]"),
        (made(None, None), 1, "n/a"),
    ],
)
def test_changes_are_shown_with_sign_and_interval(estimate: Estimate, scale: float, text: str) -> None:
    assert format_interval(estimate, scale) == text


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


@pytest.mark.parametrize(
    ("names", "base", "short"),
    [
        (["M-7B-Q4_K_M", "M-7B-Q8_0"], "M-7B-F16", ["Q4_K_M", "Q8_0"]),
        (["M-Q4_K_M", "M-Q4_K_S"], "M-F16", ["Q4_K_M", "Q4_K_S"]),
        (["M-Q8_0"], "M-F16", ["Q8_0"]),
        (["M-Q8_0"], "", ["M-Q8_0"]),
        (["M", "M-x"], "", ["M", "M-x"]),
        (["M-", "M-x"], "", ["M-", "x"]),
        ([], "", []),
    ],
)
def test_names_lose_what_all_share(names: list[str], base: str, short: list[str]) -> None:
    named = ShortNames(shared_start(names, base))
    assert [named(name) for name in names] == short


def test_the_title_says_what_names_lack() -> None:
    cohort = as_cohort(fake_results())
    assert cohort_names(cohort) == NAMES and NAMES("Qwen3-4B-Q8_0") == "Q8_0"
    assert text_table(cohort, "wiki", NAMES).caption == 'wiki: distance from Qwen3-4B-BF16, names without "Qwen3-4B-"'
    assert text_table(cohort, "wiki").caption == "wiki: distance from Qwen3-4B-BF16"


def test_lists_of_words_stay_short() -> None:
    assert [join_words(list("abcdefg"[:n])) for n in (0, 1, 2, 5)] == ["none", "a", "a and b", "a, b, c, d and e"]
    assert join_words(list("abcdefg"), 3) == "a, b, c and 4 more"


def test_json_keeps_an_estimate_on_one_line() -> None:
    value = {"a": {"value": 1.5, "unit": "é"}, "b": [], "c": [1, [2, {}]], "d": None, "e": {}}
    assert json.loads(format_json(value)) == value
    assert format_json(value).splitlines()[1:3] == ['  "a": {"value": 1.5, "unit": "\\u00e9"},', '  "b": [],']
    with pytest.raises(ValueError, match="not JSON compliant"):
        format_json({"a": [math.nan]})


def test_plain_keeps_numpy_scalars_as_numbers_and_refuses_the_rest() -> None:
    assert plain({"a": np.int64(3), "b": (np.float32(0.5), True, np.bool_(False), None), "c": math.inf}) == {
        "a": 3,
        "b": [0.5, True, False, None],
        "c": None,
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


def test_a_run_is_written_and_comes_back_as_a_cohort_of_one(tmp_path: Path) -> None:
    written = change_quant(fake_results(n_quants=3), 0, kld_max=math.inf, kld_median=math.nan)
    cohort, names = write_run(written, RunFolder(tmp_path))
    assert names == ("results.json", "results.csv", "results.md", "kld_vs_size.png", "report/report.html")
    assert all((tmp_path / name).is_file() for name in names)
    assert {path.name for path in tmp_path.iterdir()} == {name.split("/")[0] for name in names} | {"results.lock"}
    assert [quant.name for quant in cohort.quants] == [quant.name for quant in written.quants]
    first = cohort.quants[0].texts["wiki"]
    assert (first.kld_max, first.kld_median, first.kld_mean.value) == (None, None, 0.00061)
    assert not {"NaN", "Infinity"} & set((tmp_path / "results.json").read_text(encoding="ascii").split())


def test_each_text_has_its_picture_unless_there_is_nothing_to_draw(tmp_path: Path) -> None:
    _, names = write_run(fake_results(("wiki", "code"), n_quants=3), RunFolder(tmp_path))
    assert [name for name in names if name.endswith(".png")] == ["kld_vs_size-wiki.png", "kld_vs_size-code.png"]
    nothing = change_quant(fake_results(n_quants=1), 0, kld_mean=estimate(0.0, 0.0))
    assert write_run(nothing, RunFolder(tmp_path / "zero"))[1][:3] == ("results.json", "results.csv", "results.md")
    assert not list((tmp_path / "zero").glob("*.png"))


def test_markdown_has_one_table_per_text_with_the_base_first() -> None:
    text = results_markdown(as_cohort(fake_results(("wiki", "code"))))
    rows = [line for line in text.splitlines() if line.startswith("| Qwen3")]
    assert len(rows) == 2 * (1 + len(LADDER))
    assert rows[0].startswith("| Qwen3-4B-BF16 (base) | 8.05 | 7.50 | 16.0 | 12.35 ± 0.51 | (4.20 ± 0.42)e-6 |")
    assert next(row for row in rows if "Q4_K_M" in row) == (
        "| Qwen3-4B-Q4_K_M | 2.50 | 2.33 | 4.96 | 12.56 ± 0.51 | 0.01710 ± 0.00051 | 0.00855 | 0.109 | 0.239 | 0.530 "
        "| 3.27 ± 0.25 | 94.12 ± 0.41 |"
    )
    assert "| Quant | Size (GB) | Size (GiB) | bpw (bits) | PPL | Mean KLD (nats) |" in text
    assert "10,200 tokens scored in 40 windows." in text and "clustered by window" in text
    assert "n_ctx 512, flash_attn on, llama_cpp_version 0.5.0, backend CPU" in text


def test_settings_on_one_line() -> None:
    settings = {"a": True, "b": None, "c": [], "d": [3.0, 1.0], "texts": {"wiki": "ab" * 32}, "e": {"f": False}}
    assert format_settings(settings) == f"a on, d 3.0, 1.0, texts.wiki {'ab' * 6}, e.f off"


def test_names_can_break_neither_markdown_nor_the_terminal() -> None:
    results = fake_results(n_quants=2)
    odd = replace(results.quants[0], name="a|b*c*\nd`<i>[red]\x1b[2J")
    cohort = as_cohort(replace(results, quants=(odd, results.quants[1])))
    row = next(line for line in results_markdown(cohort).splitlines() if line.startswith("| a"))
    assert row.startswith("| a\\|b\\*c\\* d\\`\\<i>[red]") and "\x1b" not in row
    out = io.StringIO()
    for table in terminal_tables(text_table(cohort, "wiki"), None):
        Console(file=out, width=300, force_terminal=True, color_system="truecolor").print(table)
    assert "d`<i>[red]" in out.getvalue() and "\x1b[2J" not in out.getvalue()


def test_at_the_floor_nothing_is_told_apart() -> None:
    cohort = as_cohort(fake_results(floor=0.0007))
    assert warnings(cohort, NAMES) == ["* At the floor of wiki, not told apart from the base: Q8_0."]
    cells = {row[0].text: row[5].text for row in text_table(cohort, "wiki", NAMES).rows}
    assert cells["Q8_0"] == "0.000610 ± 0.000018*" and cells["Q6_K"] == "0.002100 ± 0.000063"
    assert "Q8_0" not in " ".join(highlights(cohort, NAMES))
    assert "mean KLD of 0.000700 ± 0.000070 nats over 10,200 rows of wiki" in null_sentences(cohort)[0]
    assert "nothing at or below 0.000840 is interpreted" in null_sentences(cohort)[0]


def test_null_controls_are_said_once_and_only_where_they_ran() -> None:
    exact = null_sentences(as_cohort(fake_results(("wiki", "code"), floor=0.0)))
    assert exact == [
        "Null control: the base against its own capture has a KLD of exactly 0 over 10,200 rows of wiki and 10,200 "
        "rows of code."
    ]
    imported = replace(fake_results(), null_control=NullControl(texts={"wiki": None}))
    unknown = "so the instrument's floor is unknown."
    assert null_sentences(as_cohort(imported)) == [f"No null control: the base came from an imported file, {unknown}"]
    silent = "this run does not say whether one was run, as where answers or numbers were imported"
    assert null_sentences(as_cohort(replace(fake_results(), null_control=None))) == [
        f"No null control: {silent}, {unknown}"
    ]
    results = fake_results(("wiki", "code"), floor=0.0)
    assert results.null_control is not None
    partly = replace(results, null_control=NullControl(texts={"wiki": results.null_control.texts["wiki"]}))
    assert null_sentences(as_cohort(partly))[1] == f"No null control on code: {silent}, {unknown}"


def test_rows_that_are_not_finite_are_said() -> None:
    cohort = as_cohort(change_quant(fake_results(), 3, n_nonfinite=12))
    assert "Q5_K_M: 12 rows of wiki held NaN or infinity" in warnings(cohort, NAMES)[0]


def shown(cohort: Cohort, width: int) -> list[str]:
    console = Console(width=width, file=io.StringIO(), color_system=None)
    for table in terminal_tables(text_table(cohort, "wiki", NAMES), width):
        console.print(table)
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined]


@pytest.mark.parametrize("width", [40, 60, 80, 100, 120, 160])
def test_the_terminal_table_fits_and_keeps_name_and_kld(width: int) -> None:
    lines = shown(as_cohort(fake_results()), width)
    assert max(len(line.rstrip()) for line in lines) <= width
    assert any("0.01710 ± 0.00051" in line and line.startswith("Q4_K_M") for line in lines)


def test_narrow_terminals_drop_columns_by_priority() -> None:
    table = text_table(as_cohort(fake_results()), "wiki", NAMES)
    titles = [[str(column.header) for column in drawn.columns] for drawn in terminal_tables(table, 64)]
    assert titles == [["Quant", "Size\nGB", "Mean KLD\nnats", "KLD 99 %\nnats", "Same top\n%"]]
    assert [len(drawn.columns) for drawn in terminal_tables(table, None)] == [len(FIELDS)]


def test_details_show_the_columns_that_do_not_fit_in_further_tables() -> None:
    table = text_table(as_cohort(fake_results()), "wiki", NAMES)
    drawn = list(terminal_tables(table, 64, details=True))
    titles = [str(column.header) for one in drawn for column in one.columns]
    assert len(drawn) > 1 and titles.count("Quant") == len(drawn)
    assert len(titles) - len(drawn) + 1 == len(FIELDS)


def test_one_column_is_shown_however_narrow_the_terminal() -> None:
    table = Table("t", "", (Column("A"), Column("B", priority=2)), ((Cell("long name", ""), Cell("1.23456", 1.2)),))
    assert [len(drawn.columns) for drawn in terminal_tables(table, 5)] == [2]


def test_columns_that_nobody_measured_are_left_out() -> None:
    results = fake_results(n_quants=2)
    for number in range(2):
        results = change_quant(results, number, ppl=None, same_top=None, kld_p99=None, delta_p_rms=None)
    titles = [column.title for column in text_table(as_cohort(results), "wiki").columns]
    assert "PPL" not in titles and "Same top" not in titles and "Mean KLD" in titles


def test_csv_has_one_line_of_plain_numbers_per_quant_and_text() -> None:
    results = change_quant(
        fake_results(("wiki", "code")), 1, "code", same_top=estimate(None, unit="fraction"), ppl=None
    )
    rows = list(csv.DictReader(io.StringIO(texts_csv(as_cohort(results)))))
    assert [(row["text"], row["file_type"]) for row in rows] == [
        (text, name) for text in ("wiki", "code") for name, *_ in LADDER
    ]
    q8, partial = rows[0], rows[len(LADDER) + 1]
    assert float(q8["kld_mean"]) == 0.00061 and float(q8["kld_mean_stderr"]) == 0.00061 * 0.03
    assert float(q8["size_gib"]) == 4_280_405_600 / 2**30
    assert q8["n_rows"] == str(N_ROWS) and q8["below_floor"] == "0" and float(q8["kld_floor"]) > 0
    assert {partial[name] for name in ("same_top", "same_top_stderr", "ppl", "ppl_high")} == {""}


def test_quants_csv_has_every_number_with_its_unit() -> None:
    rows = list(csv.DictReader(io.StringIO(numbers_csv(as_cohort(fake_results(n_quants=1))))))
    by_name = {row["measure"]: row for row in rows}
    assert float(by_name["kld_mean"]["high"]) == pytest.approx(0.00061 * 1.06)
    assert by_name["kld_p99"]["unit"] == "nats" and by_name["kld_p99"]["n"] == str(N_ROWS)
    assert {row["kind"] for row in rows} == {"text"} and "kld_reverse_mean" not in by_name


def test_highlights_say_only_what_the_numbers_carry() -> None:
    results = change_quant(fake_results(), 7, kld_mean=estimate(0.0213, 0.001))  # 0.0193 to 0.0233 covers the next's
    results = change_quant(results, 0, ln_ppl_ratio=estimate(0.0001, 0.0004))
    text = "\n".join(highlights(as_cohort(results), NAMES))
    assert "Closest to the base is Q8_0 (KLD 0.000610, same top token 98.9 %), farthest Q2_K (KLD 0.312" in text
    assert "from Q3_K_M to Q2_K: 4.6 times the KLD for 20% less size" in text
    assert "Q4_K_S and IQ4_XS" in text
    assert "closer to the base and no larger: Q4_0 by IQ4_XS." in text
    assert "Perplexity alone would not tell Q8_0 from the base" in text


def test_highlights_without_any_signal() -> None:
    found = highlights(as_cohort(fake_results(("wiki", "code"), floor=1.0)))
    assert found[:2] == [
        f"On {text}, no quant stands above the instrument's floor, so their order is unknown."
        for text in ("wiki", "code")
    ]


def test_the_base_ppl_is_that_of_the_most_rows() -> None:
    results = change_quant(fake_results(), 0, n_nonfinite=5, ppl_base=estimate(99.0, 1.0, "ppl"))
    assert text_table(as_cohort(results), "wiki").rows[0][4].text == "12.35 ± 0.51"


def test_the_summary_is_short_whatever_was_measured() -> None:
    cohort = as_cohort(fake_results(("wiki", "code", "books"), floor=0.0))
    parts = list(describe_run(cohort, width=300))
    words = "\n".join(part for part in parts if isinstance(part, str))
    findings = words.split("What to look at:\n")[1].strip().splitlines()
    assert len(findings) <= MAX_FINDINGS and all(len(line.split()) <= 31 for line in findings)
    assert sum(not isinstance(part, str) for part in parts) == 3
    details = "\n".join(part for part in describe_run(cohort, details=True) if isinstance(part, str))
    assert len(details) > 2 * len(words) and "10,200 tokens scored in 40 windows." in details
