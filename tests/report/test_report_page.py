"""The page: everything in one file, escaped, in order, usable in a browser without network."""

import json
import re
import shutil
import subprocess
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from itertools import pairwise

import numpy as np
import pytest
from fake_run import FakeQuant, FakeRun, ladder, write_fake_run
from quantprobe.report.questions import read_questions

from quantprobe.errors import InputError
from quantprobe.probes.items import Question
from quantprobe.probes.questions.jsonl import write_native
from quantprobe.report.page.html import TaskSection, build_page, render_page
from quantprobe.report.page.tables import biggest_flips, main_table, subject_table, task_table
from quantprobe.report.plots.gallery import net_picture
from quantprobe.report.plots.study import plot_kld_tail
from quantprobe.report.plots.style import inline_svg, render_svg
from quantprobe.report.report import read_answers, write_report
from quantprobe.run.cohort import read_cohort
from quantprobe.study.findings import study_cohort

HOSTILE = '</script><script>alert(1)</script><b a="\'">'


class Outline(HTMLParser):
    """Headings, ids, tags and attributes of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    quants = (*ladder(3), FakeQuant(HOSTILE, 0.02, -0.1, 70_000_000))
    folder = tmp_path_factory.mktemp("report") / "fake.run"
    write_fake_run(folder, FakeRun(quants=quants, tasks={"arc": 120}, texts={"wiki": 256}))
    questions = [
        Question(f"arc-{i}", "", f"What is {HOSTILE} {i}?", ("yes", "no", HOSTILE, "x" * 2000), 0) for i in range(120)
    ]
    (folder / "tasks").mkdir()
    write_native(folder / "tasks" / "arc.jsonl", questions)
    return folder


@pytest.fixture(scope="module")
def report(run):
    cohort = read_cohort([run])
    folder = run / "report"
    paths = write_report(cohort, folder, study_cohort(cohort, n_boot=100, n_perm=199))
    assert all(path.exists() for path in paths)
    return folder


@pytest.fixture(scope="module")
def page(report):
    return (report / "report.html").read_text(encoding="utf-8")


def test_names_and_questions_are_escaped(page):
    assert "<script>alert" not in page
    assert page.count("<script>") == 1 and page.count("</script>") == 1
    assert "&lt;script&gt;alert(1)" in page


def test_nothing_is_loaded_from_elsewhere(page):
    assert "default-src 'none'" in page
    for tag, attrs in Outline(page).tags:
        for name in ("src", "href", "srcset", "action", "data"):
            value = attrs.get(name) or "#"
            assert value.startswith(("#", "data:")), (tag, name, value)
    assert not re.search(r"@import|url\((?!#)", page)


def test_headings_go_down_one_step_and_ids_are_unique(page):
    tags = Outline(page).tags
    levels = [int(tag[1]) for tag, _ in tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    ids = [attrs["id"] for _, attrs in tags if "id" in attrs]
    assert len(set(ids)) == len(ids)
    targets = [attrs["href"][1:] for tag, attrs in tags if tag == "a"]
    assert targets and set(targets) <= set(ids)


def test_page_says_its_language_and_every_plot_and_table_has_words(page):
    tags = Outline(page).tags
    assert ("html", {"lang": "en"}) in tags
    plots = [attrs for tag, attrs in tags if attrs.get("role") == "img"]
    assert len(plots) >= 5 and all(len(attrs["aria-label"]) > 30 for attrs in plots)
    assert sum(tag == "caption" for tag, _ in tags) == sum(tag == "table" for tag, _ in tags) >= 3
    assert all("aria-sort" in attrs for tag, attrs in tags if tag == "th" and attrs.get("scope") == "col")
    assert (
        page.index('id="findings"') < page.index('id="quants"') < page.index('id="plots"') < page.index('id="settings"')
    )


def test_findings_numbers_and_flips_are_on_the_page(run, page):
    results = json.loads((run / "results.json").read_text(encoding="utf-8"))
    kld = results["quants"][0]["texts"]["wiki"]["kld_mean"]["value"]
    assert f'data-sort="{kld}"' in page
    assert "Which one to take" in page and "Does fidelity predict accuracy here?" in page
    assert "▼ drop" in page and "1,100 more characters" in page
    assert results["base"]["sha256"] in page and "llama_cpp_version" in page


def test_card_has_the_table_the_null_control_settings_and_short_hashes(report, run):
    card = (report / "card.md").read_text(encoding="utf-8")
    results = json.loads((run / "results.json").read_text(encoding="utf-8"))
    assert all(f"`{quant['sha256'][:12]}`" in card for quant in results["quants"])
    assert "Null control: the base against its own capture shows a KLD of exactly 0" in card
    assert "n_ctx 512" in card and "Base: Fake-F16, SHA-256 bbbbbbbbbbbb." in card
    assert "<script" not in card.replace("\\<", "")
    table = [line for line in card.splitlines() if line.startswith("| ")]
    assert len(table) == 2 + 4 and len({len(re.findall(r"(?<!\\)\|", line)) for line in table}) == 1
    picture = re.search(r"\]\((plots/[^)]*)\)", card)[1]
    assert (report / picture).exists()


def test_numbers_csv_has_every_number_of_the_run(report, run):
    lines = (report / "quants.csv").read_text(encoding="utf-8").splitlines()
    results = json.loads((run / "results.json").read_text(encoding="utf-8"))
    numbers = [
        value
        for quant in results["quants"]
        for probe in (*quant["texts"].values(), *quant["tasks"].values())
        for value in probe.values()
        if not isinstance(value, str)
    ]
    assert len(lines) == 1 + len(numbers)


def test_flips_are_those_that_most_quants_share(run):
    cohort = read_cohort([run])
    answers = read_answers(cohort, "arc")
    flips = biggest_flips(answers, read_questions(run, "arc"))
    for direction in ("drop", "leapfrog"):
        counts = [flip.n_flipped for flip in flips if flip.direction == direction]
        assert counts == sorted(counts, reverse=True) and len(counts) <= 8
    top = flips[0]
    right = [bool(t.quant_correct[t.id.index(top.id)]) for t in answers.values()]
    assert right.count(False) == top.n_flipped and top.n_quants == 4
    assert top.question is not None and top.question.choices[:2] == ("yes", "no")


def test_subject_table_counts_drops_and_leapfrogs(run):
    answers = read_answers(read_cohort([run]), "arc")
    table = subject_table("arc", answers)
    assert table is not None and len(table.rows) == 20
    name, first = next(iter(answers.items()))
    row = table.rows[0]
    at = [i for i, group in enumerate(first.group) if group == row[0].text]
    net = (first.quant_correct[at].astype(int) - first.base_correct[at]).mean()
    column = [c.title for c in table.columns].index(name)
    assert row[1].sort == len(at) and row[column].sort == pytest.approx(net)
    alone = {n: replace(t, group=("",) * t.n_items) for n, t in answers.items()}
    assert subject_table("arc", alone) is None


@pytest.mark.parametrize(
    "fake",
    [
        FakeRun(quants=ladder(1), tasks={}, texts={"wiki": 128}),
        FakeRun(quants=ladder(2, "null"), tasks={"arc": 40}, texts={}),
        FakeRun(quants=ladder(2), tasks={"arc": 40}, texts={"wiki": 128}, with_files=False),
    ],
    ids=["one quant, no task", "equal quants, no text", "no item or row files"],
)
def test_poor_runs_still_give_a_report(tmp_path, fake):
    write_fake_run(tmp_path, fake)
    results = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    results["null_control"] = None
    (tmp_path / "results.json").write_text(json.dumps(results), encoding="utf-8")
    cohort = read_cohort([tmp_path])
    write_report(cohort, tmp_path / "out", study_cohort(cohort, n_boot=50, n_perm=99))
    text = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "the floor of the instrument is unknown" in text and ">nan" not in text.lower()


@pytest.mark.parametrize("folder", ["/home/somebody/models/", "C:\\Users\\somebody\\"])
def test_the_page_shows_files_without_their_folders(tmp_path, folder):
    write_fake_run(tmp_path)
    results = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    results["base"]["path"] = f"{folder}the-base.gguf"
    results["quants"][0]["path"] = f"{folder}first.gguf"
    (tmp_path / "results.json").write_text(json.dumps(results), encoding="utf-8")
    cohort = read_cohort([tmp_path])
    write_report(cohort, tmp_path / "out", study_cohort(cohort, n_boot=50, n_perm=99))
    for file in (*(tmp_path / "out").glob("*.html"), *(tmp_path / "out").glob("*.md")):
        assert b"somebody" not in file.read_bytes(), file.name
    text = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "the-base.gguf" in text and "first.gguf" in text


def test_a_run_without_quants_is_refused(tmp_path):
    write_fake_run(tmp_path, FakeRun(quants=()))
    with pytest.raises(InputError, match="holds no quant"):
        write_report(read_cohort([tmp_path]), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_tables_and_the_largest_plots_of_forty_quants_stay_small(tmp_path):
    """Two texts and three tasks give 15 plots: with tables of 1.5 MB, 5 MB leaves more than 230 kB for each."""
    write_fake_run(tmp_path, FakeRun(quants=ladder(40), tasks={"a": 100, "b": 100, "c": 100}, texts={}))
    cohort = read_cohort([tmp_path])
    sections = []
    for task in cohort.tasks:
        answers = read_answers(cohort, task)
        subjects = subject_table(task, answers)
        sections.append(TaskSection(task, task_table(cohort, task), subjects, biggest_flips(answers, {})))
    text = render_page(build_page(cohort, [], main_table(cohort), [], sections))
    assert len(text.encode()) < 1_500_000
    rows = [np.random.default_rng(i).lognormal(-4, 1.5, 5_000) for i in range(40)]
    for picture in (net_picture(cohort), plot_kld_tail([q.name for q in cohort.quants], rows, "wiki")):
        assert len(inline_svg(picture, render_svg(picture)).encode()) < 230_000


HARNESS = """
<script>
window.failures = [];
window.addEventListener("error", (e) => failures.push(String(e.message || e.target)), true);
window.addEventListener("securitypolicyviolation", (e) => failures.push("csp " + e.blockedURI));
</script>
"""
CHECKS = """
<script>
const say = {};
const table = document.querySelector("table[data-filterable]");
const heads = [...table.tHead.rows[table.tHead.rows.length - 1].cells];
const column = (i) => [...table.tBodies[0].rows].map((row) => row.cells[i].dataset.sort ?? "");
const size = heads.findIndex((h) => h.textContent.includes("Mean KLD"));
const button = heads[size].querySelector("button");
button.focus();
say.focused = document.activeElement === button;
button.click(); say.up = column(size); say.upSort = heads[size].getAttribute("aria-sort");
button.click(); say.down = column(size); say.downSort = heads[size].getAttribute("aria-sort");
heads[0].querySelector("button").click();
say.names = column(0); say.otherSort = heads[size].getAttribute("aria-sort");
const box = document.getElementById("filter-name");
box.value = "q8"; box.dispatchEvent(new Event("input"));
say.shown = [...table.tBodies[0].rows].filter((row) => !row.hidden).map((row) => row.cells[0].dataset.sort);
say.status = document.getElementById("shown").textContent;
const toggle = document.querySelector("[data-toggle]");
toggle.click(); say.hiddenHeads = heads.filter((h) => h.hidden).length;
say.resources = performance.getEntriesByType("resource").map((r) => r.name);
say.overflow = document.documentElement.scrollWidth > document.documentElement.clientWidth;
say.failures = failures;
const out = document.createElement("pre"); out.id = "said";
out.textContent = JSON.stringify(say); document.body.append(out);
</script>
"""


@pytest.mark.parametrize("width", [390, 1280])
def test_a_real_browser_sorts_filters_and_asks_for_nothing(page, tmp_path, width):
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium on PATH")
    file = tmp_path / "page.html"
    text = page.replace("<title>", HARNESS + "<title>", 1).replace("</body>", CHECKS + "</body>", 1)
    file.write_text(text, encoding="utf-8")
    done = subprocess.run(
        [browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--dump-dom",
         "--enable-logging=stderr", f"--window-size={width},900", f"--user-data-dir={tmp_path / 'profile'}",
         file.as_uri()],
        capture_output=True, timeout=120, check=False,
    )  # fmt: skip
    dom, log = done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace")
    found = re.search(r'<pre id="said">(.*?)</pre>', dom, re.DOTALL)
    assert found, log[-2000:]
    said = json.loads(unescape(found[1]))
    assert said["failures"] == [] and "CONSOLE" not in log
    assert said["resources"] == []
    values = [float(value) for value in said["up"]]
    assert values == sorted(values) and len(values) == 4 and said["upSort"] == "ascending"
    assert [float(value) for value in said["down"]] == values[::-1] and said["downSort"] == "descending"
    assert said["focused"] and said["otherSort"] == "none"
    assert said["names"] == sorted(said["names"], key=str.lower)
    assert said["shown"] == ["Q8_0"] and said["status"] == "1 of 4 quants shown"
    assert said["hiddenHeads"] == 3
    assert not said["overflow"]
