"""The report's files: a page in one file, escaped and in order, a card that fits, and what each answer says."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from fake_run import FakeQuant, FakeRun, ladder, write_fake_run
from made_run import as_cohort, estimate, fake_results

from quantprobe.errors import InputError
from quantprobe.probes.items import Question
from quantprobe.report.answer import Answer, answer_of
from quantprobe.report.card import format_card
from quantprobe.report.page.data import PageData, json_block, page_data
from quantprobe.report.page.flips import shared_flips
from quantprobe.report.page.html import render_cohort, render_page
from quantprobe.report.page.tables import subject_table
from quantprobe.report.printable import printable
from quantprobe.report.report import write_report
from quantprobe.run.cohort import Cohort, read_cohort
from quantprobe.run.folder import RunFolder
from quantprobe.run.questions import write_task_questions
from quantprobe.run.results import Results
from quantprobe.stats.estimates import Estimate
from quantprobe.stats.summary_tasks import TaskSummary
from quantprobe.study.findings import study_cohort

HOSTILE = '</script><script>alert(1)</script><b a="\'">\x1b[31m\u202e'


class Outline(HTMLParser):
    """Tags and attributes of a page, and the texts of its sentences: paragraphs, list items and headings."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.open.append(tag)
        if tag in ("p", "li", "summary", "figcaption", "h1", "h2", "caption"):
            self.texts.append("")

    def handle_data(self, data: str) -> None:
        if self.texts and not {"script", "style", "td", "th", "blockquote"} & set(self.open[-3:]):
            self.texts[-1] += data

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.open.pop() != tag:
            pass


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    quants = (*ladder(3), FakeQuant(HOSTILE, 0.02, -0.1, 70_000_000))
    folder = write_fake_run(
        tmp_path_factory.mktemp("report") / "fake.run",
        FakeRun(quants=quants, tasks={"arc": 120}, texts={"wiki": 256}, n_invalid=2),
    )
    questions = [
        Question(f"arc-{i}", "", f"What is {HOSTILE} {i}?", ("yes", "no", HOSTILE, "x" * 2000), 0) for i in range(120)
    ]
    write_task_questions(RunFolder(folder), "arc", questions, "none")
    return folder


@pytest.fixture(scope="module")
def report(run: Path) -> Path:
    cohort = read_cohort([run])
    folder = run / "report"
    paths = write_report(cohort, folder, study_cohort(cohort, n_boot=50, n_perm=99))
    assert all(path.exists() for path in paths)
    return folder


@pytest.fixture(scope="module")
def page(report: Path) -> str:
    return (report / "report.html").read_text(encoding="utf-8")


def data_of(page: str) -> Any:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found
    return json.loads(found[1])


def test_the_report_has_a_page_a_card_numbers_and_pictures(report: Path) -> None:
    names = sorted(path.relative_to(report).as_posix() for path in report.rglob("*.*"))
    assert [name for name in names if not name.startswith("plots/")] == [
        "card.md", "llama-wiki.csv", "quants.csv", "report.html",
    ]  # fmt: skip
    assert {name for name in names if name.endswith(".png")} == {
        f"plots/{name}.png" for name in ("change_vs_size", "kld_vs_size", "direction", "change_vs_kld")
    }


def test_what_others_wrote_is_text_on_the_page(page: str) -> None:
    assert "<script>alert" not in page and page.count("</script>") == 2
    assert "&lt;script&gt;alert(1)" in page
    assert not set("\x1b\u202e") & set(page)
    quant = data_of(page)["quants"][3]
    assert quant["name"] == printable(HOSTILE) and "\x1b" not in quant["name"]


def test_json_in_the_page_ends_no_element_and_is_read_back() -> None:
    cohort = as_cohort(fake_results((HOSTILE, "<!--", "\u2028&")))
    data = page_data(cohort, None, None)
    block = json_block(data)
    assert not re.search("[<>&\u2028]", block)
    assert json.loads(block)["texts"] == list(data.texts)


def test_the_browser_may_run_this_script_and_load_nothing(page: str) -> None:
    policy = next(attrs["content"] for tag, attrs in Outline(page).tags if attrs.get("http-equiv"))
    assert policy is not None and policy.startswith("default-src 'none'; img-src data:;") and "unsafe" not in policy
    for kind, element in (("style", "style"), ("script", "script")):
        text = re.findall(rf"<{element}>(.*?)</{element}>", page, re.DOTALL)
        assert len(text) == 1
        digest = base64.b64encode(hashlib.sha256(text[0].encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    for tag, attrs in Outline(page).tags:
        for name in ("src", "href", "srcset", "action", "data"):
            value = attrs.get(name) or "#"
            assert value.startswith(("#", "data:")), (tag, name, value)
        assert "style" not in attrs and not any(name.startswith("on") for name in attrs)


def test_headings_go_down_one_step_and_ids_are_unique(page: str) -> None:
    tags = Outline(re.sub(r"<template.*?</template>", "", page, flags=re.DOTALL)).tags
    assert ("html", {"lang": "en"}) in tags
    levels = [int(tag[1]) for tag, _ in tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    ids = [attrs["id"] for _, attrs in tags if "id" in attrs]
    assert len(set(ids)) == len(ids)
    assert {(attrs["href"] or "")[1:] for tag, attrs in tags if tag == "a"} <= set(ids)
    assert all("aria-sort" in attrs for tag, attrs in tags if tag == "th" and attrs.get("scope") == "col")
    order = [page.index(f'id="{part}"') for part in ("answer", "picture", "quants", "findings", "details")]
    assert order == sorted(order)


def test_sentences_are_short_and_name_few_quants(report: Path) -> None:
    cohort = as_cohort(judged([-0.002] * 12, [0.03] * 12))
    for text in (render_page(cohort), render_page(as_cohort(fake_results(("wiki", "code"))))):
        visible = re.sub(r"<template.*?</template>", "", text, flags=re.DOTALL)
        for sentence in (s for words in Outline(visible).texts for s in re.split(r"(?<=[.!?:;])\s", words)):
            assert len(sentence.split()) <= 30, sentence
            assert sum(sentence.count(quant.name.removeprefix("Qwen3-4B-")) for quant in cohort.quants) <= 8, sentence


def test_numbers_findings_and_flips_are_on_the_page(run: Path, page: str) -> None:
    results = json.loads((run / "results.json").read_text(encoding="utf-8"))
    data = data_of(page)
    quant = results["quants"][0]
    assert data["quants"][0]["texts"][0]["kld"][0] == quant["texts"]["wiki"]["kld_mean"]["value"]
    assert data["quants"][0]["tasks"][0]["drops"] == f"{quant['tasks']['arc']['drops']:,}"
    assert "▼ drop" in page and "1,100 more characters" in page and "2 questions of arc are left out" in page
    assert results["base"]["sha256"] in page and "llama_cpp_version" in page and "Spearman" in page


@dataclass(frozen=True)
class Told:
    """A finding as the study tells it."""

    headline: str
    details: tuple[str, ...]
    kind: str

    def __str__(self) -> str:
        return self.headline


def test_findings_are_folded_under_their_headlines(run: Path) -> None:
    cohort = read_cohort([run])
    found = study_cohort(cohort, n_boot=50, n_perm=99)
    told = (Told("KLD tells.", ("Slope <-1>.", "Second."), "zone"), Told("Take that.", (), "recommendation"))
    page = render_page(cohort, replace(found, sentences=told), flips=False)  # type: ignore[arg-type]
    assert "<summary>KLD tells.</summary>\n<p>Slope &lt;-1&gt;.</p>\n<p>Second.</p>" in page
    assert "Take that." not in page


def test_card_is_one_table_one_picture_and_three_sentences(report: Path, run: Path) -> None:
    card = (report / "card.md").read_text(encoding="utf-8")
    results = json.loads((run / "results.json").read_text(encoding="utf-8"))
    shown, folded = card.split("<details>")
    table = [line for line in shown.splitlines() if line.startswith("| ")]
    assert len(table) == 2 + 4 and len({len(re.findall(r"(?<!\\)\|", line)) for line in table}) == 1
    (picture,) = re.findall(r"!\[[^]]*\]\(([^)]*)\)", shown)
    assert (report / picture).exists()
    text = shown.split(picture)[1]
    assert len(re.findall(r"[.] (?=[A-Z0-9])|[.]$", text.strip())) == 3
    assert "KLD is over 256 tokens of wiki" in text and "118 questions of arc, with a margin of ±1 fixed" in text
    assert all(quant["sha256"][:12] in folded for quant in results["quants"])
    assert "n_ctx 512" in folded and "a KLD of exactly 0 over 256 rows of wiki" in folded
    assert "<script" not in card.replace("\\<", "") and not set("\x1b\u202e") & set(card)


def test_flips_are_those_that_most_quants_share(run: Path) -> None:
    cohort = read_cohort([run])
    flips = shared_flips(cohort, "arc")
    for direction in ("drop", "leapfrog"):
        counts = [flip.n_flipped for flip in flips if flip.direction == direction]
        assert counts == sorted(counts, reverse=True) and len(counts) <= 5
    top = flips[0]
    pairs = [cohort.items(quant.name, "arc") for quant in cohort.quants]
    wrong = [not pair.quant.correct[pair.quant.ids.index(top.id)] for pair in pairs]
    assert wrong.count(True) == top.n_flipped and top.n_quants == 4
    assert top.question is not None and top.question.choices[:2] == ("yes", "no")
    assert not {"arc-0", "arc-1"} & {flip.id for flip in flips}  # invalid in the quants


def test_subject_table_shows_net_changes_and_is_left_out_without_subjects(run: Path) -> None:
    cohort = read_cohort([run])
    table = subject_table(cohort, "arc")
    assert table is not None and len(table.rows) == 20 and len(table.columns) == 2 + 4
    group = cohort.quants[0].tasks["arc"].by_group[table.rows[0][0].text]
    assert group.net is not None and table.rows[0][2].sort == group.net.value and table.rows[0][1].sort == group.n_items
    alone = replace(cohort.quants[0], tasks={"arc": replace(cohort.quants[0].tasks["arc"], by_group={})})
    assert subject_table(replace(cohort, quants=(alone,)), "arc") is None


def summary(net: float, half: float) -> TaskSummary:
    """A task of 1,000 questions whose verdict is read off its interval."""
    low, high = net - half, net + half
    verdict = "worse" if high < 0 else "equivalent" if low > -0.01 and high < 0.01 else "not separable"
    change = Estimate(net, half / 2, low, high, 0.95, 1000, 1000, "fraction")
    return TaskSummary(
        rule="sum", acc=Estimate(0.7 + net), acc_base=Estimate(0.7), net=change, volume=Estimate(0.1, 0.01),
        verdict=verdict, margin=0.01, mde=0.02, n_items=1000, n_to_settle=2500, drops=60, leapfrogs=40,
    )  # fmt: skip


def judged(nets: list[float], halves: list[float]) -> Results:
    """Quants of the ladder, from the largest, with one task."""
    summaries = [summary(net, half) for net, half in zip(nets, halves, strict=True)]
    return fake_results(tasks={"arc": summaries}, n_quants=len(nets))


def labels(answer: Answer) -> tuple[str | None, list[str], list[str]]:
    take = None if answer.take is None else answer.take.label
    return take, [s.label for s in answer.may_do], [s.label for s in answer.not_these]


@pytest.mark.parametrize(
    ("nets", "halves", "expected"),
    [
        # Q8_0, Q6_K, UD-Q5_K_XL, Q5_K_M from the largest to the smallest
        ([0, 0, 0, -0.1], [0.005, 0.005, 0.02, 0.02], ("Q6_K", ["UD-Q5_K_XL"], ["Q5_K_M"])),
        ([0, 0, 0, 0], [0.02] * 4, (None, ["Q5_K_M", "UD-Q5_K_XL", "Q6_K", "Q8_0"], [])),
        ([-0.1] * 4, [0.02] * 4, (None, [], ["Q8_0", "Q6_K", "UD-Q5_K_XL", "Q5_K_M"])),
        ([0, 0.05, -0.02, -0.1], [0.005, 0.02, 0.03, 0.02], ("Q6_K", ["UD-Q5_K_XL"], ["Q5_K_M"])),
    ],
    ids=["decided", "undecided", "all worse", "better will do"],
)
def test_the_answer(nets: list[float], halves: list[float], expected: tuple[str | None, list[str], list[str]]) -> None:
    cohort = as_cohort(judged(nets, halves))
    answer = answer_of(cohort, None)
    assert labels(answer) == expected
    assert answer.undecided == (expected[0] is None and bool(expected[1]))
    page = html.unescape(render_page(cohort))
    title = "Take this one" if expected[0] else "Not decided yet" if expected[1] else "None of these"
    assert title in page
    if expected[1]:
        assert f"{expected[1][0]}: about 1,500 more questions would settle it" in page


def test_a_task_that_speaks_against_the_recommended_quant_is_told() -> None:
    tasks = {"arc": [summary(0, 0.002)] * 2, "hella": [summary(-0.05, 0.02)] * 2}
    pooled = [summary(-0.002, 0.005)] * 2
    answer = answer_of(as_cohort(fake_results(tasks=tasks, pooled=pooled, n_quants=2)), None)
    assert labels(answer) == ("Q6_K", [], []) and "On hella alone Q6_K is worse than the base." in answer.unknown


def test_tasks_that_nobody_pooled_count_by_the_worst() -> None:
    tasks = {"arc": [summary(0, 0.002)] * 2, "hella": [summary(0, 0.004), summary(-0.05, 0.02)]}
    cohort = as_cohort(fake_results(tasks=tasks, n_quants=2))
    answer = answer_of(cohort, None)
    assert labels(answer) == ("Q8_0", [], ["Q6_K"]) and answer.not_these[0].on == "hella"
    assert data(cohort).tasks == ("arc", "hella")


def data(cohort: Cohort) -> PageData:
    return page_data(cohort, None, None)


def test_without_tasks_the_answer_is_about_distance_and_says_so() -> None:
    answer = answer_of(as_cohort(fake_results()), None)
    assert not answer.by_accuracy and answer.take is None
    assert "not whether its answers became worse" in answer.why and "--task" in answer.unknown[0]
    assert [s.label for s in answer.not_these] == ["Q4_0"] and answer.not_these[0].beaten_by == "IQ4_XS"
    assert "Distance only" in render_page(as_cohort(fake_results()))


def test_missing_numbers_are_no_numbers() -> None:
    results = fake_results(tasks={"arc": [summary(0, 0.002), summary(0, 0.002)]}, n_quants=2, floor=None)
    bare = replace(results.quants[0], size_bytes=None, bpw=None, sha256="", texts={}, tasks={
        "arc": TaskSummary(rule="sum", acc=Estimate(0.5))
    })  # fmt: skip
    cohort = as_cohort(replace(results, quants=(bare, results.quants[1]), null_control=None))
    page = render_page(cohort)
    assert "1 of 2 quants did not answer every task" in page and "No null control stands behind these numbers" in page
    assert not re.search(r"\bnan\b|\bNone\b|Infinity", re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL))
    assert "| Q8_0 | n/a | n/a | n/a | n/a | n/a | n/a |" in format_card(cohort)


@pytest.mark.parametrize("stderr", [0.01, None])
def test_the_outline_covers_volume_and_net_at_the_level(stderr: float | None) -> None:
    """Simulated elsewhere in closed form: axes are the standard errors, the correlation net (1 - volume) / root."""
    net, volume = estimate(-0.04, stderr, "fraction"), estimate(0.1, stderr, "fraction")
    entry = replace(summary(0, 0.01), net=net, volume=volume)
    view = data(as_cohort(fake_results(tasks={"arc": [entry]}, n_quants=1))).quants[0].tasks[0]
    assert view is not None
    if stderr is None:
        assert view.outline is None
        return
    assert view.outline is not None
    wide, high, rho, radius = view.outline
    assert (wide, high) == (1.0, 1.0) and radius == pytest.approx(2.4477, abs=1e-4)  # chi-square of two, 95 %
    assert rho == pytest.approx(-0.04 * 0.9 / (0.1 * 0.9 * (0.1 - 0.04**2)) ** 0.5)


@pytest.mark.parametrize("folder", ["/home/somebody/models/", "C:\\Users\\somebody\\"])
def test_the_report_shows_files_without_their_folders(tmp_path: Path, folder: str) -> None:
    results = fake_results(n_quants=1)
    base = replace(results.base, path=f"{folder}the-base.gguf")
    quant = replace(results.quants[0], path=f"{folder}first.gguf")
    write_report(as_cohort(replace(results, base=base, quants=(quant,))), tmp_path)
    for file in (tmp_path / "report.html", tmp_path / "card.md"):
        assert b"somebody" not in file.read_bytes(), file.name
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "the-base.gguf" in text and "first.gguf" in text


def test_a_run_without_quants_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no quant"):
        write_report(as_cohort(replace(fake_results(), quants=())), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_page_of_forty_quants_three_tasks_and_57_subjects_stays_small() -> None:
    group = summary(0, 0.002)
    subjects = {f"subject {i}": groups(group) for i in range(57)}
    entry = replace(group, by_group=subjects)
    quants = [
        replace(fake_results(("wiki", "code")).quants[i % 12], name=f"m-{i}", sha256=f"{i:064x}", pooled=group,
                tasks=dict.fromkeys("abc", entry))
        for i in range(40)
    ]  # fmt: skip
    cohort = as_cohort(replace(fake_results(("wiki", "code")), quants=tuple(quants)))
    assert len(render_page(cohort).encode()) < 1_500_000


def groups(task: TaskSummary) -> Any:
    from quantprobe.stats.summary_groups import GroupSummary

    return GroupSummary(net=task.net, drops=3, leapfrogs=2, n_items=40)


def test_a_notebook_gets_the_page_in_a_frame() -> None:
    shown = render_cohort(as_cohort(fake_results(n_quants=2)))
    assert shown.startswith('<iframe sandbox="allow-scripts"') and "<script" not in shown
    assert "<!doctype html>" in html.unescape(shown)


def test_control_characters_become_a_mark() -> None:
    assert printable("a\x1b[31m\u202eb\ud800") == "a�[31m�b�"
    assert printable("naïve 中文\n\tline") == "naïve 中文\n\tline"
