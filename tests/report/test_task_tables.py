"""Tables and words about answers: the numbers of results.json, rounded and never more."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from typing import Any

import pytest
from answer_factory import make_pair
from made_results import document
from quantprobe.report.results_view import POOLED, ResultsView, parse_results
from quantprobe.report.task_highlights import task_highlights
from quantprobe.run.results_file import plain
from rich.console import Console

from quantprobe.report.tables.tasks import (
    csv_tasks,
    format_interval,
    format_share,
    task_notes,
    task_rows,
    terminal_task_table,
)
from quantprobe.report.tables.texts import markdown
from quantprobe.stats.estimates import Estimate
from quantprobe.stats.summary_tasks import TaskSummary, summarise_task
from quantprobe.stats.verdicts import correct_over_quants

FACTS = {
    "rule": "tokens", "template": "question", "n_items": 400, "n_left_out": 3, "n_identical": 0, "n_token_prefix": 2,
    "n_empty_prefix": 0, "n_tokens_decoded": 1000, "n_tokens_naive": 3450,
}  # fmt: skip


def summaries() -> list[TaskSummary]:
    """The base itself, a noisy quant, and a broken one."""
    base, near = make_pair(1, n=400, noise=0.0)
    _, noisy = make_pair(1, n=400, noise=0.5)
    _, broken = make_pair(1, n=400, noise=0.3, shift=-1.0)
    quants = (near, noisy, broken)
    return correct_over_quants(
        [summarise_task(base, quant, 0.02, rule="tokens", template="question") for quant in quants]
    )


def view_of(found: list[TaskSummary], pooled: bool = False, **changes: Any) -> ResultsView:
    content = document()
    content["quants"] = content["quants"][: len(found)]
    for entry, summary in zip(content["quants"], found, strict=True):
        entry["texts"], entry["tasks"] = {}, {"arc|easy": plain(summary)}
        entry["pooled"] = plain(summary) if pooled else None
    content["tasks"] = {"arc|easy": FACTS | changes}
    content["null_control"] = {"texts": {}, "tasks": {"arc|easy": {"drops": 0, "leapfrogs": 0}}}
    return parse_results(content)


FOUND = summaries()


def test_the_cells_are_the_summaries_numbers() -> None:
    base, near, noisy, broken = task_rows(view_of(FOUND), "arc|easy")
    assert base[0] == "Qwen3-4B-BF16 (base)" and base[2] == format_share(FOUND[0].acc_base) and set(base[3:]) == {""}
    assert near[3] == "+0.00 [-0.95, +0.95]" and near[4:6] == ["0", "0"] and near[8] == "n/a"
    assert near[7].startswith("0 [0, 0.9")
    for cells, summary in ((noisy, FOUND[1]), (broken, FOUND[2])):
        assert cells[3] == format_interval(summary.net, 100)
        assert cells[4:7] == [str(n) for n in (summary.drops, summary.leapfrogs, summary.wrong_to_other_wrong)]
        assert float(cells[8]) == pytest.approx(summary.direction_index, abs=0.005)
        assert cells[-1] == summary.verdict
    assert broken[-1] == "worse"


@pytest.mark.parametrize(
    ("estimate", "expected"),
    [
        (Estimate(-0.0133, 0.01, -0.031, 0.0044, 0.95, 300, 300, "fraction"), "-1.33 [-3.10, +0.44]"),
        (Estimate(0.01, None, None, None, 0.95, 1, 1, "fraction"), "+1.00 [n/a]"),
        (Estimate(None, None, None, None, 0.95, 0, 0, "fraction"), "n/a"),
    ],
)
def test_changes_are_shown_with_their_interval(estimate: Estimate, expected: str) -> None:
    assert format_interval(estimate, 100) == expected


def test_a_share_without_error_shows_its_interval() -> None:
    assert format_share(Estimate(0.0, 0.0, 0.0, 0.0602, 0.95, 60, 18, "fraction")) == "0 [0, 6.02]"
    assert format_share(Estimate(0.25, 0.02, 0.2, 0.3, 0.95, 60, 18, "fraction")) == "25.0 ± 2.0"


def test_columns_without_numbers_are_left_out() -> None:
    titles = lambda view: [str(c.header) for c in terminal_task_table(view, "arc|easy", None).columns]  # noqa: E731
    with_kld = titles(view_of(FOUND))
    assert "KLD" in with_kld and "Acc norm %" not in with_kld and "GB" in with_kld
    norm = [replace(FOUND[0], acc_norm=FOUND[0].acc, acc_norm_base=FOUND[0].acc)]
    assert "Acc norm %" in titles(view_of(norm))
    nothing = Estimate(None, None, None, None, 0.95, 0, 0, "nats")
    bare = [replace(FOUND[0], kld_mean=nothing, margin_shift=nothing)]
    assert {"KLD", "Margin shift, nats"}.isdisjoint(titles(view_of(bare)))


def test_a_narrow_terminal_keeps_change_and_verdict() -> None:
    out = io.StringIO()
    Console(file=out, width=80).print(terminal_task_table(view_of(FOUND), "arc|easy", 80))
    lines = out.getvalue().splitlines()
    assert "Change, points" in lines[1] and lines[1].rstrip().endswith("Verdict") and "KLD" not in lines[1]
    assert max(map(len, lines)) <= 80


def test_notes_tell_cases_tokens_reach_and_every_verdict() -> None:
    notes = "\n".join(task_notes(view_of(FOUND), "arc|easy"))
    assert "400 questions, template question, rule tokens." in notes
    assert "3 questions are left out" in notes and "2 with a choice that begins another" in notes
    assert "1,000 tokens decoded per model; every choice by itself would be 3,450 (3.5 times as many)" in notes
    assert "no answer changes" in notes
    for summary in FOUND:
        assert summary.sentence is not None and summary.sentence in notes
    quiet = "\n".join(task_notes(view_of(FOUND, n_left_out=0, n_token_prefix=0), "arc|easy"))
    assert "left out" not in quiet and "Odd questions" not in quiet


def test_an_equivalent_quant_shows_the_interval_that_decided() -> None:
    inner = FOUND[0].net_for_equivalence
    assert FOUND[0].verdict == "equivalent" and inner.high is not None and inner.high < 0.02
    assert f"90% interval [{100 * (inner.low or 0):+.2f}, {100 * inner.high:+.2f}]" in (FOUND[0].sentence or "")


def test_markdown_has_a_section_per_task_and_pooled() -> None:
    text = markdown(view_of(FOUND, pooled=True))
    assert "## Task: arc\\|easy" in text and f"## Task: {POOLED}" in text
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == 2 * (2 + 1 + len(FOUND))
    assert len({line.replace("\\|", "").count("|") for line in lines}) == 1
    assert "±2 points, fixed beforehand" in text


def test_csv_has_one_line_per_quant_and_task() -> None:
    rows = list(csv.DictReader(io.StringIO(csv_tasks(view_of(FOUND)))))
    assert [row["task"] for row in rows] == ["arc|easy"] * 3
    for row, summary in zip(rows, FOUND, strict=True):
        assert float(row["net"]) == summary.net.value and float(row["net_low"]) == summary.net.low
        assert int(row["drops"]) == summary.drops and row["verdict"] == summary.verdict
        assert row["acc_norm"] == ""


def test_highlights_say_who_is_worse_and_what_cancels() -> None:
    verdicts, hidden, *early = task_highlights(view_of(FOUND), "arc|easy")
    names = [row[0].removeprefix("Qwen3-4B-") for row in task_rows(view_of(FOUND), "arc|easy")[1:]]
    assert f"Worse than the base: {names[2]}." in verdicts
    most = max(FOUND, key=lambda summary: min(summary.drops, summary.leapfrogs))
    assert f"lost {most.drops} right answers and gained {most.leapfrogs}" in hidden
    signs = [s for s in FOUND if s.verdict == "not separable" and (s.margin_shift_holm_p or 1.0) <= 0.05]
    assert len(early) == bool(signs)
    still = replace(FOUND[1], verdict="not separable", margin_shift_holm_p=0.2)
    assert not any("Margins" in sentence for sentence in task_highlights(view_of([still]), "arc|easy"))
    moved = replace(FOUND[1], verdict="not separable", margin_shift_holm_p=0.001)
    assert "Margins moved before answers did" in task_highlights(view_of([moved]), "arc|easy")[-1]
    assert task_highlights(view_of(FOUND), "none") == []
