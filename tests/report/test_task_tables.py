"""Tables and words about answers: the numbers of results.json, rounded and never more."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from answer_factory import make_pair
from fake_run import FakeRun, ladder, write_fake_run
from made_run import as_cohort, fake_results
from rich.console import Console

from quantprobe.errors import InputError
from quantprobe.files import write_text
from quantprobe.probes.grouping import UNGROUPED
from quantprobe.report.finish import results_markdown
from quantprobe.report.flips import count_kinds, find_flips, find_quant, format_flip
from quantprobe.report.highlights import highlights
from quantprobe.report.names import WHOLE, ShortNames
from quantprobe.report.notes import null_sentences, reading_notes, task_notes, warnings
from quantprobe.report.numbers import format_interval, format_net
from quantprobe.report.plan_words import describe_plan, plan_table
from quantprobe.report.tables.cells import share_cell
from quantprobe.report.tables.csv_files import groups_csv, tasks_csv
from quantprobe.report.tables.tasks import POOLED, answered, overview_table, task_names, task_table
from quantprobe.report.tables.terminal import terminal_tables
from quantprobe.report.terminal import describe_run
from quantprobe.report.verdicts import verdict_lines
from quantprobe.run.cohort import Cohort, read_cohort
from quantprobe.run.results import NullControl, NullTask, TaskFacts
from quantprobe.stats.design import item_design
from quantprobe.stats.estimates import Estimate
from quantprobe.stats.power import plan
from quantprobe.stats.summary_tasks import TaskSummary, summarise_task
from quantprobe.stats.verdicts import correct_over_quants, judge, table_of_changes

FACTS = TaskFacts(
    rule="tokens", template="question", n_items=400, n_left_out=3, n_token_prefix=2, n_tokens_decoded=1000,
    n_tokens_naive=3450,
)  # fmt: skip
NAMES = ShortNames("Qwen3-4B-")
TASK = "arc|easy"


def summaries(n_groups: int = 0) -> list[TaskSummary]:
    """The base itself, a noisy quant, and a broken one."""
    base, near = make_pair(1, n=400, noise=0.0, n_groups=n_groups)
    _, noisy = make_pair(1, n=400, noise=0.5, n_groups=n_groups)
    _, broken = make_pair(1, n=400, noise=0.3, shift=-1.0, n_groups=n_groups)
    pairs = [(base, quant) for quant in (near, noisy, broken)]
    table = table_of_changes(pairs, item_design(base.groups, UNGROUPED))
    found = [summarise_task(*pair, 0.02, rule="tokens", template="question") for pair in pairs]
    return correct_over_quants(found, judge({TASK: table}, 0.02).first)


FOUND = summaries()


def cohort_of(found: Sequence[TaskSummary], pooled: bool = False, **changes: Any) -> Cohort:
    """Quants with answers to one task, and to no text."""
    results = fake_results(
        (), tasks={TASK: list(found)}, facts={TASK: replace(FACTS, **changes)}, n_quants=len(found),
        pooled=list(found) if pooled else None,
    )  # fmt: skip
    return as_cohort(results)


def rows_of(cohort: Cohort, task: str = TASK) -> list[dict[str, str]]:
    table = task_table(cohort, task, NAMES)
    return [{column.title: cell.text for column, cell in zip(table.columns, row, strict=True)} for row in table.rows]


def test_the_cells_are_the_summaries_numbers() -> None:
    base, near, noisy, broken = rows_of(cohort_of(FOUND))
    assert base["Quant"] == "BF16 (base)" and base["Accuracy"] == share_cell(FOUND[0].acc_base).text
    assert {base[title] for title in ("Net change", "Drops", "Verdict")} == {""}
    assert near["Net change"] == "+0.0 [-1.3, +1.3]" and (near["Drops"], near["Leapfrogs"]) == ("0", "0")
    assert near["Direction index"] == "n/a" and near["Volume"].startswith("0 [0, 0.9")
    for cells, summary in ((noisy, FOUND[1]), (broken, FOUND[2])):
        assert cells["Net change"] == format_net(summary.net, 0.02)
        counts = [cells[title] for title in ("Drops", "Leapfrogs", "Wrong to other wrong")]
        assert counts == [str(n) for n in (summary.drops, summary.leapfrogs, summary.wrong_to_other_wrong)]
        assert float(cells["Direction index"]) == pytest.approx(summary.direction_index, abs=0.005)
        assert cells["Verdict"].endswith(str(summary.verdict))
    assert broken["Verdict"] == "▼ worse"


def test_a_share_without_error_shows_its_interval() -> None:
    assert share_cell(Estimate(0.0, 0.0, 0.0, 0.0602, 0.95, 60, 18, "fraction")).text == "0 [0, 6.02]"
    assert share_cell(Estimate(0.25, 0.02, 0.2, 0.3, 0.95, 60, 18, "fraction")).text == "25.0 ± 2.0"
    assert share_cell(None).text == "n/a"


def test_columns_without_numbers_are_left_out() -> None:
    def titles(found: Sequence[TaskSummary]) -> set[str]:
        return {column.title for column in task_table(cohort_of(found), TASK).columns}

    full = titles(FOUND)
    assert "Mean KLD" in full and "Acc norm" not in full and "Size" in full
    assert "Acc norm" in titles([replace(FOUND[0], acc_norm=FOUND[0].acc, acc_norm_base=FOUND[0].acc)])
    nothing = Estimate(None, unit="nats")
    assert {"Mean KLD", "Margin shift"}.isdisjoint(titles([replace(FOUND[0], kld_mean=nothing, margin_shift=None)]))


def test_accuracy_alone_makes_a_table() -> None:
    """Answers of a quant without its base's: nothing can be said about direction."""
    alone = [TaskSummary(rule="acc", acc=FOUND[0].acc, n_items=400)]
    cohort = cohort_of(alone)
    base, quant = rows_of(cohort)
    assert set(quant) == {"Quant", "Size", "Accuracy", "Items"} and base["Accuracy"] == ""
    assert verdict_lines(cohort) == [] and highlights(cohort) == []
    assert results_markdown(cohort).count("| Qwen3") == 2
    assert next(csv.DictReader(io.StringIO(tasks_csv(cohort))))["net"] == ""
    assert list(describe_run(cohort, details=True))


def test_a_narrow_terminal_keeps_change_and_verdict() -> None:
    out = io.StringIO()
    for table in terminal_tables(task_table(cohort_of(FOUND), TASK, NAMES), 60):
        Console(file=out, width=60).print(table)
    lines = [line.rstrip() for line in out.getvalue().splitlines()]
    assert "Net change" in lines[0] and lines[1].endswith("Verdict") and "KLD" not in lines[0]
    assert max(map(len, lines)) <= 60


def test_notes_tell_cases_tokens_reach_and_every_verdict() -> None:
    notes = "\n".join(task_notes(cohort_of(FOUND), TASK))
    assert "400 questions, template question, rule tokens; 1,000 tokens decoded per model, 3.5 times fewer" in notes
    assert "3 questions are left out" in notes and "Unusual questions: 2 with a choice that begins another." in notes
    assert all(f"{summary.sentence}." in notes for summary in FOUND)
    quiet = "\n".join(task_notes(cohort_of(FOUND, n_left_out=0, n_token_prefix=0, n_tokens_decoded=0), TASK))
    assert "left out" not in quiet and "Unusual" not in quiet and "decoded" not in quiet
    invalid = cohort_of([replace(FOUND[0], n_invalid=2, n_ties=4)])
    assert "Q8_0: 2 questions of arc|easy are left out" in warnings(invalid, NAMES)[0]
    assert "Up to 4 questions have two best choices" in " ".join(task_notes(invalid, TASK))
    assert "a margin of 2 points, fixed beforehand" in " ".join(reading_notes(cohort_of(FOUND)))


def test_the_null_control_of_a_task_says_over_how_many_rows() -> None:
    cohort = cohort_of(FOUND)

    def said(**null: Any) -> list[str]:
        entry = NullTask(**{"drops": 0, "leapfrogs": 0, "n_rows": 1200, "kld_max": 0.0} | null)
        return null_sentences(replace(cohort, null_control=NullControl(tasks={TASK: entry})))

    head = "Null control: the base against its own capture"
    assert said() == [f"{head} has a KLD of exactly 0 over 1,200 rows of {TASK}, and changes no answer."]
    largest = f"of {TASK} (1,200 rows compared, the largest KLD 0.00100 nats)"
    assert said(kld_max=0.001) == [f"{head} changes no answer {largest}."]
    assert said(drops=2, kld_max=0.001) == [f"{head} changes 2 answers {largest}; that many are the instrument's own."]
    for unknown in ({"kld_max": None}, {"n_rows": None}):
        [sentence] = said(**unknown)
        assert "exactly 0" not in sentence and ("not recorded" in sentence or "unknown number" in sentence)
    assert said(n_rows=0, kld_max=None) == [
        "No null control: no row of the base is a number (NaN or infinity), so the instrument's floor is unknown."
    ]


@pytest.mark.parametrize(
    ("low", "high", "shown"),
    [
        (-0.0098, 0.004, "-0.29 [-0.98, +0.40]"),  # one decimal would show -1.0, which is not inside the margin
        (-0.031, -0.0004, "-1.57 [-3.10, -0.04]"),  # nor is -0.0 below 0
        (-0.031, 0.0044, "-1.3 [-3.1, +0.4]"),
    ],
)
def test_a_net_change_is_shown_on_the_side_where_it_was_judged(low: float, high: float, shown: str) -> None:
    net = Estimate((low + high) / 2, 0.01, low, high, 0.95, 300, 300, "fraction")
    assert format_net(net, 0.01) == shown
    assert format_net(net, None) == format_interval(net, 100)
    assert format_net(None, 0.01) == "n/a"


def test_markdown_has_the_pool_before_the_tasks() -> None:
    text = results_markdown(cohort_of(FOUND, pooled=True))
    assert text.index(f"## Task: {POOLED}") < text.index("## Task: arc\\|easy")
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == 2 * (2 + 1 + len(FOUND))
    assert len({line.replace("\\|", "").count("|") for line in lines}) == 1


def test_csv_has_one_line_per_quant_and_task_and_the_pool_last() -> None:
    rows = list(csv.DictReader(io.StringIO(tasks_csv(cohort_of(FOUND, pooled=True)))))
    assert [row["task"] for row in rows] == [TASK] * 3 + [POOLED] * 3
    for row, summary in zip(rows, FOUND, strict=False):
        assert summary.net is not None
        assert float(row["net"]) == summary.net.value and float(row["net_low"]) == summary.net.low
        assert int(row["drops"]) == (summary.drops or 0) and row["verdict"] == summary.verdict
        assert row["acc_norm"] == ""
    assert tasks_csv(as_cohort(fake_results())) == "" == groups_csv(cohort_of(FOUND))


def test_csv_of_groups_has_the_numbers_of_each_group() -> None:
    found = summaries(n_groups=12)
    rows = list(csv.DictReader(io.StringIO(groups_csv(cohort_of(found)))))
    assert len(rows) == 3 * 12 and {row["task"] for row in rows} == {TASK}
    last, entry = rows[-1], found[-1].by_group["g11"]
    assert (last["group"], int(last["drops"]), float(last["acc"])) == ("g11", entry.drops, entry.acc)
    assert entry.net is not None and float(last["net_high"]) == entry.net.high


def test_single_tasks_stand_side_by_side_behind_the_pool() -> None:
    cohort = cohort_of(FOUND, pooled=True)
    assert task_names(cohort) == (POOLED, TASK) and task_names(cohort_of(FOUND)) == (TASK,)
    table = overview_table(cohort, NAMES)
    assert [column.title for column in table.columns] == ["Quant", TASK]
    assert [row[1].text[0] for row in table.rows] == ["■", "○", "▼"]
    words = "\n".join(part for part in describe_run(cohort) if isinstance(part, str))
    assert f"{POOLED}: answers" in words and f"{TASK}: answers" not in words


def test_verdicts_are_one_line_each_and_the_recommended_one_is_first() -> None:
    title, *lines = verdict_lines(cohort_of(FOUND, pooled=True))
    assert title == "Verdicts over 400 questions, margin ±2 points:"
    assert lines[0] == "  ■ Q8_0        equivalent: take this one, the smallest shown to lose no more than 2 points"
    assert lines[1].startswith("  ○ Q6_K        not separable; about ")
    assert lines[1].endswith(" more questions would settle it")
    assert lines[2].startswith("  ▼ UD-Q5_K_XL  worse by ") and len(lines) == 3
    assert verdict_lines(as_cohort(fake_results())) == []


def test_highlights_say_what_cancels_and_what_moved() -> None:
    found = " ".join(highlights(cohort_of(FOUND), NAMES))
    most = max(FOUND, key=lambda summary: min(summary.drops or 0, summary.leapfrogs or 0))
    assert f"lost {most.drops} right answers and gained {most.leapfrogs}." in found
    still = replace(FOUND[1], verdict="not separable", margin_shift_holm_p=0.2)
    assert not any("Margins" in sentence for sentence in highlights(cohort_of([still])))
    moved = replace(FOUND[1], verdict="not separable", margin_shift_holm_p=0.001)
    assert any("Margins on arc|easy moved" in sentence for sentence in highlights(cohort_of([moved])))


def test_counts_of_a_sample_say_of_how_many() -> None:
    sampled = [replace(summary, n_decoded=150 + i, by_group={}, grouping="strata") for i, summary in enumerate(FOUND)]
    cohort = cohort_of(sampled)
    assert "of the 151 questions that it decoded." in " ".join(highlights(cohort, NAMES))
    table = task_table(cohort, TASK)
    place = [column.title for column in table.columns].index("Decoded")
    assert [row[place].text for row in table.rows[1:]] == ["150", "151", "152"]
    asked = task_notes(cohort, TASK)[0]
    assert asked == (
        "400 questions, template question, rule tokens; 1,000 tokens decoded by the base, 3.5 times fewer than choice "
        "by choice."
    )


def test_quants_that_lack_a_task_are_in_no_table_of_it() -> None:
    results = fake_results((), tasks={TASK: list(FOUND)}, n_quants=3)
    partly = replace(results, quants=(replace(results.quants[0], tasks={}), *results.quants[1:]))
    assert [quant.name for quant, _ in answered(as_cohort(partly), TASK)] == ["Qwen3-4B-Q6_K", "Qwen3-4B-UD-Q5_K_XL"]
    assert overview_table(as_cohort(partly), WHOLE).rows[0][1].text == "n/a"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with invalid items on both sides, and without the text of its questions."""
    quants = ladder(3)
    return write_fake_run(tmp_path / "fake.run", FakeRun(quants, tasks={"arc": 60}, n_invalid=2, n_invalid_base=1))


def test_flips_of_a_run_with_invalid_items_and_without_questions(run: Path) -> None:
    cohort = read_cohort([run])
    quant = find_quant(cohort, cohort.quants[-1].name)
    [found] = find_flips(cohort, quant)
    summary = quant.tasks["arc"]
    kinds = [flip.item.kind for flip in found.flips]
    assert (found.n_items, found.n_invalid) == (57, 3) == (summary.n_items, summary.n_invalid)
    assert (kinds.count("drop"), kinds.count("leapfrog")) == (summary.drops, summary.leapfrogs)
    assert count_kinds(found).startswith(f"arc: {len(kinds)} of 57 answers changed") and "3 without" in count_kinds(
        found
    )
    shifts = [abs(flip.item.margin_shift or 0) for flip in found.flips]
    assert shifts == sorted(shifts, reverse=True) and found.flips[0].base_margin is not None
    assert "choices by number: right" in format_flip(found.flips[0])
    document = found.to_dict(limit=1)
    assert document["n_changed"] == len(kinds) and len(document["items"]) == 1  # type: ignore[arg-type]
    [group] = find_flips(cohort, quant, "arc", "subject-3")
    assert group.n_items + group.n_invalid == 3 and {flip.item.group for flip in group.flips} <= {"subject-3"}


def test_flips_show_the_text_where_the_run_kept_it(run: Path) -> None:
    lines = [
        f'{{"id": "arc-{i}", "prompt": "What is\\nnumber {i}?", "choices": ["a", "b", "c", "d"], "answer": 0}}\n'
        for i in range(60)
    ]
    write_text(run / "tasks" / "arc.jsonl", "".join(lines))
    cohort = read_cohort([run])
    [found] = find_flips(cohort, cohort.quants[-1])
    first = format_flip(found.flips[0]).splitlines()
    assert first[1:3] == ["    What is", f"    number {found.flips[0].item.id.removeprefix('arc-')}?"]
    assert [line.split("|")[1].strip() for line in first[3:]] == ["a", "b", "c", "d"]


def test_flips_refuse_what_is_not_there(run: Path) -> None:
    cohort = read_cohort([run])
    quant = cohort.quants[0]
    with pytest.raises(InputError, match="there is no quant 'Q9'"):
        find_quant(cohort, "Q9")
    with pytest.raises(InputError, match=r"no task 'hella'.* it has arc"):
        find_flips(cohort, quant, "hella")
    with pytest.raises(InputError, match=r"no item of any task .* in a group 'law'"):
        find_flips(cohort, quant, group="law")
    (run / "items" / quant.name / "arc.csv").unlink()
    with pytest.raises(InputError, match=r"arc\.csv does not exist.*kept only the counts"):
        find_flips(cohort, quant)


def test_plans_are_a_table_and_words() -> None:
    plans = [plan(n, 0.05) for n in (50, 1000)]
    hopeless, possible = plan_table(plans).rows
    assert hopeless[2].text == "never" or float(hopeless[2].text) > float(possible[2].text)
    assert possible[3].text == f"{plans[1].n_to_detect:,}"
    assert f"takes {plans[1].n_to_detect:,} questions" in " ".join(describe_plan(plans[1]))
