"""direction and import as a user calls them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fake_run import FakeRun, ladder, write_fake_run
from road_cases import fail, succeed

from quantprobe.run.results import read_results


def answers(path: Path, flags: str, first: int = 0) -> Path:
    """A plain answer file; one digit per item."""
    rows = [{"item_id": f"i{first + i}", "correct": int(flag), "group": f"g{i % 2}"} for i, flag in enumerate(flags)]
    return write_lines(path, rows)


def write_lines(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def task_log(path: Path, flags: str) -> Path:
    right = [flags[: i + 1].count("1") for i in range(len(flags))]
    path.write_text("\n".join(f"{n}\t{100 * r / n:.8f}" for n, r in enumerate(right, 1)), encoding="utf-8")
    return path


def test_direction_of_answers_made_elsewhere(tmp_path: Path) -> None:
    base = answers(tmp_path / "base.jsonl", "1111100000" * 4)
    bad = answers(tmp_path / "bad.jsonl", "0001100000" * 4)
    odd = answers(tmp_path / "odd.jsonl", "0111110000" * 4)
    args = ["direction", base, bad, f"strange={odd}", "--margin", "0.02"]
    found = json.loads(succeed(*args, "-o", tmp_path / "run", "--json", "-").stdout)
    first, second = (quant["tasks"]["base"] for quant in found["quants"])
    assert (first["drops"], first["leapfrogs"], second["drops"], second["leapfrogs"]) == (12, 0, 4, 4)
    assert first["verdict"] == "worse" and second["verdict"] == "not separable"
    assert first["net"]["value"] == pytest.approx(-0.3) and second["net"]["value"] == 0
    assert first["margin"] == 0.02 and first["kld_mean"]["value"] is None
    assert found["base"]["size_bytes"] is None and found["base"]["name"] == "base"
    assert json.loads((tmp_path / "run" / "results.json").read_text(encoding="utf-8")) == found
    shown = succeed(*args, "--details").stdout
    assert "base: answers against base" in shown and "12 drops, 0 leapfrogs in 40 items" in shown
    assert "KLD" not in shown.splitlines()[1] and "Size" not in shown.splitlines()[1]
    assert "already holds a run" in fail(*args, "-o", tmp_path / "run")
    assert [quant.name for quant in read_results(tmp_path / "run").quants] == ["bad", "strange"]
    changed = json.loads(succeed("flips", tmp_path / "run", "bad", "--json", "-").stdout)["tasks"][0]
    assert changed["n_changed"] == 12 and all(one["kind"] == "drop" for one in changed["items"])
    assert "DROP  i0" in succeed("flips", tmp_path / "run", "bad", "--limit", "1").stdout


def test_direction_refuses(tmp_path: Path) -> None:
    base = answers(tmp_path / "base.jsonl", "110")
    said = fail("direction", base, answers(tmp_path / "other.jsonl", "110", first=1))
    assert "different items" in said and "'i0'" in said
    assert "1 of the base's 3 are missing" in fail("direction", base, answers(tmp_path / "short.jsonl", "11"))
    assert "none.jsonl" in fail("direction", base, tmp_path / "none.jsonl")
    assert "twice.jsonl" in fail(
        "direction", base, write_lines(tmp_path / "twice.jsonl", [{"item_id": "i0", "correct": 1}] * 2)
    )
    assert "x.jsonl" in fail("direction", base, write_lines(tmp_path / "x.jsonl", [{"name": "i0"}]))
    assert "QUANT_ANSWERS" in fail("direction", base)
    assert "margin" in fail("direction", base, base, "--margin", "2")


def test_direction_joins_a_measured_run(tmp_path: Path) -> None:
    measured = write_fake_run(tmp_path / "measured", FakeRun(quants=ladder(3), settings={"equivalence_margin": 0.03}))
    base = answers(tmp_path / "Fake-F16.jsonl", "1100" * 20)
    quants = [answers(tmp_path / f"{name}.jsonl", "1000" * 20) for name in ("Q8_0", "unheard-of")]
    out = tmp_path / "joined"
    lines = succeed("direction", base, *quants, "--task", "gsm", "--like", measured, "-o", out).stdout.splitlines()
    assert lines[0].startswith("Q8_0 is Q8_0, SHA-256 ") and lines[0].endswith("(by name)")
    assert lines[1].startswith("unheard-of: no quant of the run is matched")
    assert lines[2] == "base: Fake-F16 is taken to be Fake-F16, as --like vouches"
    assert lines[3] == "not in the import: Q6_K, Q5_K_M"
    found = read_results(out)
    assert found.base == read_results(measured).base
    assert found.quants[0].tasks["gsm"].margin == 0.03
    assert "is the quant Q8_0 of the run" in fail("direction", quants[0], quants[1], "--like", measured)


def test_import_joins_a_measured_run(tmp_path: Path) -> None:
    measured = write_fake_run(tmp_path / "measured", FakeRun(quants=ladder(2), tasks={}))
    logs = [task_log(tmp_path / f"{name}.log", flags) for name, flags in (("base", "1101"), ("Q6_K", "0101"))]
    args = ("import", "-o", tmp_path / "joined", "--task", "hella", "--base-log", logs[0], "--like", measured, logs[1])
    shown = succeed(*args).stdout
    assert "Q6_K is Q6_K, SHA-256" in shown and f"quantprobe study {measured} {tmp_path / 'joined'}" in shown
    assert read_results(tmp_path / "joined").quants[0].tasks["hella"].drops == 1
    assert "already holds a run" in fail(*args)
