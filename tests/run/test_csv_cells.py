"""No text in a CSV file is a formula, numbers stay numbers, and texts come back as they were."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import Path

import pytest
from answer_factory import make_pair
from hypothesis import given
from hypothesis import strategies as st
from made_run import as_cohort, fake_results

from quantprobe.probes.grouping import STRATA
from quantprobe.report.tables.community_csv import community_csv
from quantprobe.report.tables.csv_files import groups_csv, numbers_csv, tasks_csv, texts_csv
from quantprobe.run.csv_cells import csv_text, format_csv, read_csv_text
from quantprobe.run.items import read_items, write_items
from quantprobe.stats.summary_tasks import summarise_task

HOSTILE = ("=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "＝1+1", "'=1", "''@x")


@pytest.mark.parametrize("text", HOSTILE)
def test_a_formula_gets_an_apostrophe(text: str) -> None:
    assert csv_text(text) == f"'{text}"


@pytest.mark.parametrize("value", ["-0.5", "+1", "-1e-3", "a=b", "'quoted'", "", "Q4_K_M", -0.5, 3])
def test_numbers_and_plain_text_stay(value: object) -> None:
    assert next(csv.reader(io.StringIO(format_csv([[value, None]])))) == [str(value), ""]


@given(st.text(st.sampled_from("=+-@'\t\r1.ae ")))
def test_texts_come_back_and_none_starts_a_formula(text: str) -> None:
    cell = csv_text(text)
    assert read_csv_text(cell) == text
    try:
        float(cell)
    except ValueError:
        assert not cell.startswith(("=", "+", "-", "@", "\t", "\r"))


@pytest.mark.parametrize("name", HOSTILE)
def test_no_file_of_a_report_has_a_formula(name: str) -> None:
    pair = make_pair(1, 40, n_groups=2)
    task = summarise_task(*pair, rule="tokens", grouping=STRATA)
    results = fake_results((name,), tasks={name: [task] * 2}, n_quants=2)
    quant = replace(results.quants[0], name=name, path=name)
    cohort = as_cohort(replace(results, quants=(quant, results.quants[1])))
    files = [texts_csv(cohort), tasks_csv(cohort), groups_csv(cohort), numbers_csv(cohort), community_csv(cohort, name)]
    assert sum(bool(text) for text in files) >= 4
    seen = 0
    for cell in (cell for text in files for line in csv.reader(io.StringIO(text, newline="")) for cell in line):
        seen += cell == csv_text(name)
        assert cell != name or csv_text(name) == name
        assert not cell.startswith(("=", "@", "\t", "\r"))
    assert seen > 4


def test_items_hold_no_formula_and_read_back_equal(tmp_path: Path) -> None:
    base, quant = (replace(side, ids=HOSTILE, groups=HOSTILE[::-1]) for side in make_pair(1, len(HOSTILE)))
    write_items(tmp_path / "items.csv", base, quant)
    with (tmp_path / "items.csv").open(encoding="utf-8", newline="") as file:
        lines = list(csv.reader(file))[1:]
    assert not [cell for line in lines for cell in line[:2] if not cell.startswith("'")]
    found = read_items(tmp_path / "items.csv")
    assert found.base.ids == HOSTILE and found.quant.groups == HOSTILE[::-1]
