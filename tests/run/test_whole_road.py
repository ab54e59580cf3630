"""A run's whole road: cohort, study, report, flips and diff, whoever wrote the run."""

from __future__ import annotations

import csv
import json
import random
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fake_run import FakeRun, ladder, write_fake_run
from road_cases import fail, succeed

from quantprobe.run.cohort import read_cohort

N_ITEMS = 60


@dataclass(frozen=True)
class Road:
    """Runs of one cohort, and what must be found in the last of them."""

    runs: tuple[Path, ...]
    quant: str
    task: str
    n_items: int
    """Items valid in both."""
    n_quants: int


def lm_eval_samples(path: Path, right: list[bool]) -> Path:
    """What lm-evaluation-harness writes with --log_samples."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [
        {
            "doc_id": i, "target": "0", "filter": "none", "doc_hash": f"h{i}", "acc": float(ok),
            "filtered_resps": [["-1.0", "False"], ["-2.0" if ok else "-0.5", "False"]],
        }
        for i, ok in enumerate(right)
    ]  # fmt: skip
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def write_independently(folder: Path) -> dict[str, int]:
    """A run as another program would write it from docs/formats.md; gives the drops of each quant."""
    rng = random.Random(7)
    base = [rng.random() < 0.6 for _ in range(N_ITEMS)]
    quants, drops = [], {}
    for number, name in enumerate(("M-Q8_0", "M-Q6_K", "M-Q4_K_M", "M Q2_K (draft)")):
        answers = [ok if rng.random() > 0.02 + 0.08 * number else not ok for ok in base]
        told = ["" if i == 5 and number == 2 else str(int(ok)) for i, ok in enumerate(answers)]
        plain = name.startswith("M-")
        file = f"items/{name}/arc.csv" if plain else "elsewhere/q2.csv"
        write_answers(folder / file, base, told)
        pairs = [(ok, cell == "1") for ok, cell in zip(base, told, strict=True) if cell]
        drops[name] = sum(before and not after for before, after in pairs)
        quants.append(
            {
                "name": name,
                "sha256": f"{number + 1:064x}",
                "size_bytes": 4_000_000_000 - 600_000_000 * number,
                "texts": {"wiki": {"kld_mean": 0.001 * 6**number, "kld_median": None}},
                "tasks": {
                    "arc": {
                        "rule": "sum",
                        "acc": sum(after for _, after in pairs) / len(pairs),
                        "acc_base": sum(before for before, _ in pairs) / len(pairs),
                        "drops": drops[name],
                        "leapfrogs": sum(after and not before for before, after in pairs),
                        "n_items": len(pairs),
                    }
                },
                **({} if plain else {"files": {"tasks": {"arc": file}}}),
            }
        )
    document = {
        "format_version": 1,
        "written_by": "another program",
        "base": {"name": "M-BF16", "sha256": "f" * 64},
        "settings": {"n_ctx": 512, "backend": "somewhere", "texts": {"wiki": "a digest"}},
        "quants": quants,
    }
    (folder / "results.json").write_text(json.dumps(document), encoding="utf-8")
    return drops


def write_answers(path: Path, base: list[bool], told: list[str]) -> None:
    columns = [
        *("comment", "id", "group", "gold", "base_pred", "quant_pred", "base_correct", "quant_correct", "base_margin"),
        *("quant_margin", "base_gold_prob", "quant_gold_prob", "kld", "n_rows", "base_logprobs", "quant_logprobs"),
    ]
    path.parent.mkdir(parents=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        for i, (ok, cell) in enumerate(zip(base, told, strict=True)):
            writer.writerow({"comment": "x", "id": f"q{i}", "base_correct": int(ok), "quant_correct": cell})


def with_invalid_items(folder: Path) -> Road:
    run = write_fake_run(folder / "run", FakeRun(quants=ladder(4), tasks={"arc": 80}, n_invalid=2, n_invalid_base=1))
    return Road((run,), "Q5_K_S", "arc", 77, 4)


def imported_like(folder: Path) -> Road:
    """Answers of another harness beside the KLD of the same quants."""
    measured = write_fake_run(folder / "measured", FakeRun(quants=ladder(4), tasks={"arc": 80}))
    rng = random.Random(1)
    base = [rng.random() < 0.6 for _ in range(N_ITEMS)]
    files = {
        f"Fake-{name}": [ok if rng.random() > 0.05 * (i + 1) else not ok for ok in base]
        for i, name in enumerate(("Q8_0", "Q6_K", "Q5_K_M", "Q5_K_S"))
    }
    paths = [lm_eval_samples(folder / "lm" / name / "samples_gsm.jsonl", right) for name, right in files.items()]
    base_file = lm_eval_samples(folder / "lm" / "Fake-F16" / "samples_gsm.jsonl", base)
    out = folder / "imported"
    shown = succeed("direction", base_file, *paths, "--task", "gsm", "--like", measured, "-o", out).stdout
    assert "Fake-Q8_0/samples_gsm is Q8_0, SHA-256" in shown and "is taken to be Fake-F16" in shown
    return Road((measured, out), "Q5_K_S", "gsm", N_ITEMS, 4)


def by_another_program(folder: Path) -> Road:
    run = folder / "run"
    run.mkdir()
    write_independently(run)
    return Road((run,), "M-Q4_K_M", "arc", N_ITEMS - 1, 4)


@pytest.fixture(scope="module", params=[with_invalid_items, imported_like, by_another_program])
def road(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Road:
    made: Road = request.param(tmp_path_factory.mktemp("road"))
    return made


def found_by(*arguments: object) -> Any:
    return json.loads(succeed(*arguments, "--json", "-").stdout)


def test_the_cohort_is_read_with_its_items(road: Road) -> None:
    cohort = read_cohort(road.runs)
    items, summary = cohort.items(road.quant, road.task), cohort.quant(road.quant).tasks[road.task]
    assert len(cohort.quants) == road.n_quants and cohort.texts == ("wiki",)
    assert (int(items.valid.sum()), summary.n_items) == (road.n_items, road.n_items)
    drops = int((items.base.correct & ~items.quant.correct & items.valid).sum())
    assert drops == summary.drops and drops > 0


def test_study(road: Road, tmp_path: Path) -> None:
    findings = found_by("study", *road.runs, "-o", tmp_path / "study.json")
    assert len(findings["names"]) == road.n_quants
    assert findings["correlations"] and findings["sentences"]
    assert not any("No item file" in remark and road.task in remark for remark in findings["remarks"])


def test_report(road: Road, tmp_path: Path) -> None:
    succeed("report", *road.runs, "-o", tmp_path)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    for quant in read_cohort(road.runs).quants:
        assert quant.name in page
    assert ">nan" not in page.lower() and (tmp_path / "card.md").is_file()


def test_flips(road: Road) -> None:
    cohort = read_cohort(road.runs)
    [changed] = found_by("flips", road.runs[-1], road.quant, "--task", road.task)["tasks"]
    kinds = [item["kind"] for item in changed["items"]]
    summary = cohort.quant(road.quant).tasks[road.task]
    assert (kinds.count("drop"), kinds.count("leapfrog")) == (summary.drops, summary.leapfrogs)
    assert changed["n_items"] == road.n_items


def test_diff_of_a_run_with_its_copy(road: Road, tmp_path: Path) -> None:
    copy = shutil.copytree(road.runs[-1], tmp_path / "copy")
    shown = succeed("diff", road.runs[-1], copy).stdout
    assert "Nothing moved beyond the noise" in shown and "All recorded settings are the same" in shown


def test_settings_that_differ_are_printed(tmp_path: Path) -> None:
    runs = []
    for name, backend in (("a", "CPU"), ("b", "CUDA")):
        settings = {"n_ctx": 512, "backend": backend, "n_threads": len(runs) + 1}
        fake = FakeRun(quants=ladder(2), tasks={}, settings=settings)
        runs.append(write_fake_run(tmp_path / name, fake))
    assert "backend is CPU and CUDA" in fail("study", *runs)
    shown = succeed("diff", *runs).stdout
    assert "Settings that move logits and differ: backend CPU -> CUDA." in shown
    assert "Settings that move no logits and differ: n_threads 1 -> 2." in shown


def test_answers_that_an_import_does_not_have_are_told(tmp_path: Path) -> None:
    log = tmp_path / "Q4_K_M.log"
    log.write_text("1\t100.00000000\n2\t50.00000000\n3\t66.66666667\n", encoding="utf-8")
    succeed("import", "-o", tmp_path / "run", "--task", "hella", log)
    assert "hella.csv does not exist" in fail("flips", tmp_path / "run", "Q4_K_M")


def test_an_import_replaces_no_run(tmp_path: Path) -> None:
    base, quant = (lm_eval_samples(tmp_path / name, [True, False]) for name in ("base.jsonl", "q.jsonl"))
    arguments = ("direction", base, f"Q4_K_M={quant}", "-o", tmp_path / "run")
    succeed(*arguments)
    before = (tmp_path / "run" / "results.json").read_bytes()
    assert "already holds a run" in fail(*arguments)
    assert (tmp_path / "run" / "results.json").read_bytes() == before
    assert read_cohort([tmp_path / "run"]).quants[0].name == "Q4_K_M"


def test_written_independently_means_what_it_says(tmp_path: Path) -> None:
    drops = write_independently(tmp_path)
    cohort = read_cohort([tmp_path])
    assert {quant.name: quant.tasks["arc"].drops for quant in cohort.quants} == drops
    assert cohort.has_items("M Q2_K (draft)", "arc") and cohort.null_control is None
