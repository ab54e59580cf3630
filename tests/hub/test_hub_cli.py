"""Addresses of the hub as arguments of commands."""

from __future__ import annotations

from pathlib import Path

import pytest
from hub_server import Hub
from road_cases import fail, results, run, run_process, succeed
from tiny_gguf import write_tiny

from quantprobe.hub.fetching import Plan, fetch_all
from quantprobe.sweep import Progress


@pytest.fixture
def cohort(hub: Hub, tmp_path: Path) -> Hub:
    """A repository with a base, a quant and one of two parts; a data set with a text; a task of one folder."""
    folder = tmp_path / "made"
    folder.mkdir()
    write_tiny(folder / "tiny-F32.gguf")
    write_tiny(folder / "tiny-Q8_0.gguf", weight_type="Q8_0")
    write_tiny(folder / "tiny-Q4_0.gguf", weight_type="Q4_0", split=2)
    hub.repository("me/tiny-GGUF", {path.name: path.read_bytes() for path in sorted(folder.iterdir())})
    hub.repository("datasets/me/texts", {"raw/wiki.txt": ("letters and " * 40).encode()})
    return hub


def sweep(tmp_path: Path, *more: object) -> list[object]:
    texts = ("--text", "hf://datasets/me/texts/raw/wiki.txt", "-c", 32, "-t", 1, "--chunks", 4)
    return ["sweep", *more, *texts, "-o", tmp_path / "run"]


def test_a_repository_is_swept(cohort: Hub, tmp_path: Path) -> None:
    done = succeed(*sweep(tmp_path, "hf://me/tiny-GGUF:F32", "hf://me/tiny-GGUF"))
    found = results(tmp_path / "run")
    commit = cohort.repositories["me/tiny-GGUF"].head
    assert {quant["name"]: quant["source"] for quant in found["quants"]} == {
        "tiny-Q8_0": f"hf://me/tiny-GGUF@{commit}/tiny-Q8_0.gguf",
        "tiny-Q4_0": f"hf://me/tiny-GGUF@{commit}/tiny-Q4_0-00001-of-00002.gguf",
    }
    assert found["base"]["source"] == f"hf://me/tiny-GGUF@{commit}/tiny-F32.gguf"
    assert Path(found["base"]["path"]).name == "tiny-F32.gguf"
    assert list(found["quants"][0]["texts"]) == ["wiki"]
    assert "5 files, " in done.stderr
    assert "hf://me/tiny-GGUF/tiny-Q4_0-00001-of-00002.gguf" in done.stderr  # in the table of sizes
    again = succeed(*sweep(tmp_path, "hf://me/tiny-GGUF:F32", "hf://me/tiny-GGUF"))
    assert "2 of 2 measurements are already" in again.stderr
    assert "Everything is in " in again.stderr


def test_with_keep_none_quants_go_when_they_are_measured(
    cohort: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    together: list[list[str]] = []

    def counting(plan: Plan, progress: Progress) -> list[Path]:
        paths = fetch_all(plan, progress)
        together.append(sorted(path.name for path in (tmp_path / "cache").rglob("*.gguf")))
        return paths

    monkeypatch.setattr("quantprobe.hub.supply.fetch_all", counting)
    kept = succeed(*sweep(tmp_path, "hf://me/tiny-GGUF:F32", "hf://me/tiny-GGUF"))
    whole = results(tmp_path / "run")["quants"]
    (tmp_path / "cache").rename(tmp_path / "other cache")
    (tmp_path / "run").rename(tmp_path / "other run")
    done = succeed(*sweep(tmp_path, "hf://me/tiny-GGUF:F32", "hf://me/tiny-GGUF", "--keep", "none"))
    assert "one at a time, and deleted when measured: 2 models" in done.stderr
    assert "one at a time" not in kept.stderr
    assert results(tmp_path / "run")["quants"] == whole
    assert [path.name for path in (tmp_path / "cache").rglob("*.gguf")] == ["tiny-F32.gguf"]
    parts = ["tiny-Q4_0-00001-of-00002.gguf", "tiny-Q4_0-00002-of-00002.gguf"]
    assert together == [["tiny-F32.gguf", "tiny-Q8_0.gguf"], ["tiny-F32.gguf", *parts]]
    n_fetched = len(cohort.ranges())
    succeed(*sweep(tmp_path, "hf://me/tiny-GGUF:F32", "hf://me/tiny-GGUF", "--keep", "none"))
    assert results(tmp_path / "run")["quants"] == whole
    assert len(cohort.ranges()) == n_fetched


def test_two_models_of_one_name_are_refused_before_anything_is_fetched(cohort: Hub, tmp_path: Path) -> None:
    cohort.repository("you/tiny-GGUF", {"tiny-Q8_0.gguf": b"x"})
    line = fail(*sweep(tmp_path, "hf://me/tiny-GGUF:F32", "hf://me/tiny-GGUF:Q8_0", "hf://you/tiny-GGUF:Q8_0"))
    assert "hf://me/tiny-GGUF/tiny-Q8_0.gguf and hf://you/tiny-GGUF/tiny-Q8_0.gguf have one name" in line
    assert cohort.ranges() == []


def test_a_capture_of_the_hub_is_compared_with(cohort: Hub, tmp_path: Path) -> None:
    local = tmp_path / "tiny.qpc"
    succeed(
        "capture", "hf://me/tiny-GGUF/tiny-F32.gguf", "--text", "w=hf://datasets/me/texts/raw/wiki.txt", "-c", 32,
        "-t", 1, "-o", local,
    )  # fmt: skip
    cohort.repositories["me/tiny-GGUF"].commit({f"tiny.qpc/{path.name}": path.read_bytes() for path in local.iterdir()})
    succeed("compare", "hf://me/tiny-GGUF/tiny.qpc", "hf://me/tiny-GGUF:q8_0", "-t", 1, "-o", tmp_path / "run")
    (quant,) = results(tmp_path / "run")["quants"]
    assert (quant["name"], list(quant["texts"])) == ("tiny-Q8_0", ["w"])


def test_a_base_must_be_one_model(cohort: Hub, tmp_path: Path) -> None:
    line = fail(*sweep(tmp_path, "hf://me/tiny-GGUF", "hf://me/tiny-GGUF"))
    assert "has 3 models, expected one; name it as hf://me/tiny-GGUF/" in line
    assert cohort.ranges() == []


def test_a_wrong_address_costs_no_download(cohort: Hub, tmp_path: Path) -> None:
    assert "is no address of the hub" in fail(*sweep(tmp_path, "hf://me/tiny-GGUF:F32", "hf://tiny"))
    assert cohort.ranges() == []


def test_no_room_is_told_before_anything_is_fetched(
    cohort: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quantprobe.hub.fetching.RESERVE_BYTES", 1 << 62)
    done = run(*sweep(tmp_path, "hf://me/tiny-GGUF:F32", "hf://me/tiny-GGUF"))
    assert done.exit_code == 1
    assert "are to be fetched into" in done.stderr
    assert cohort.ranges() == []


def test_a_file_of_the_hub_is_inspected(cohort: Hub) -> None:
    assert "tiny-Q8_0" in succeed("inspect", "hf://me/tiny-GGUF:Q8_0").stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ("blame", "hf://me/none:F32", "hf://me/none:Q8_0", "--text", "hf://me/none/wiki.txt"),
        ("capture", "hf://me/none:F32", "--text", "hf://me/none/wiki.txt"),
        ("compare", "hf://me/none/base.qpc", "hf://me/none"),
        ("imatrix", "collect", "hf://me/none:F32", "--text", "hf://me/none/wiki.txt", "--out", "x.gguf"),
        ("inspect", "hf://me/none"),
        ("quantize", "hf://me/none:F32", "--types", "Q8_0", "--out", "x"),
        ("recipe", "run", "--size", "1GB", "--base", "hf://me/none:F32"),
        ("show-item", "hf://me/none:F32", "--task", "hf://me/none/arc.jsonl"),
        ("sweep", "hf://me/none:F32", "hf://me/none", "--task", "arc=hf://me/none/arc.jsonl"),
        ("validate", "hf://me/none", "--base", "hf://me/none:F32"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_every_command_that_reads_models_asks_the_hub(hub: Hub, arguments: tuple[str, ...]) -> None:
    done = run(*arguments)
    assert done.exit_code == (2 if arguments[0] == "validate" else 1)  # where 1 is an answer, 2 is the error
    assert "the hub knows no repository hf://me/none" in done.stderr


def test_the_endpoint_and_the_cache_are_those_of_the_environment(
    cohort: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    variables = {"HF_ENDPOINT": cohort.endpoint, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    done = run_process("inspect", "hf://me/tiny-GGUF:Q8_0")
    assert done.status == 0, done.stderr
    assert [path.name for path in (tmp_path / "home").rglob("*.gguf")] == ["tiny-Q8_0.gguf"]
