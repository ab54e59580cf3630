"""`publish`: one commit with the card's section, the plots, the numbers and the capture."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hub_server import Hub
from made_run import fake_results
from road_cases import fail, results, succeed
from tiny_gguf import write_tiny

from quantprobe.capture.store import Capture
from quantprobe.hub.card_section import BEGIN, END
from quantprobe.run.folder import RunFolder
from quantprobe.run.results import read_results, write_results

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content:DeprecationWarning")  # huggingface_hub 2.4's own
CARD = '---\nlicense: "mit" # ours\n---\n# My quants\n\nWords.'


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "made.run"
    write_results(fake_results(), RunFolder(folder))
    return folder


@pytest.fixture
def repo(hub: Hub) -> Hub:
    hub.repository("me/m-GGUF", {"README.md": CARD.encode(), "m-Q8_0.gguf": b"q8"})
    return hub


def test_a_dry_run_shows_what_would_change_and_changes_nothing(repo: Hub, run: Path) -> None:
    shown = succeed("publish", run, "hf://me/m-GGUF", "--dry-run").stdout
    assert "--- a/README.md\n+++ b/README.md\n" in shown
    assert f"+{BEGIN}" in shown and "+model-index:" in shown
    assert not [
        line for line in shown.splitlines() if line.startswith("-") and line not in ("--- a/README.md", "-Words.")
    ]
    assert "quantprobe/results.json" in shown and "quantprobe/plots/" in shown
    assert "Nothing was written" in shown
    assert len(repo.repositories["me/m-GGUF"].commits) == 1


def test_everything_goes_in_one_commit(repo: Hub, run: Path, tmp_path: Path) -> None:
    assert "Committed: http" in succeed("publish", run, "hf://me/m-GGUF", "--yes").stdout
    repository = repo.repositories["me/m-GGUF"]
    assert len(repository.commits) == 2
    card = repository.files["README.md"].decode()
    front, rest = card.split("# quantprobe:begin", 1)
    assert front == '---\nlicense: "mit" # ours\n'
    assert rest.split("# quantprobe:end", 1)[1].startswith("\n---\n# My quants\n\nWords.\n\n" + BEGIN)
    assert card.endswith(f"{END}\n")
    pictures = [name for name in repository.files if name.endswith(".png")]
    assert pictures and all(repository.files[name].startswith(b"\x89PNG") for name in pictures)
    assert f"]({pictures[0]})" in card
    kept = tmp_path / "again"
    kept.mkdir()
    (kept / "results.json").write_bytes(repository.files["quantprobe/results.json"])
    found, local = read_results(kept), read_results(run)
    assert [quant.texts for quant in found.quants] == [quant.texts for quant in local.quants]
    assert "/" in local.base.path and not [model.path for model in (found.base, *found.quants) if "/" in model.path]
    assert repository.files["m-Q8_0.gguf"] == b"q8"


def test_the_same_run_again_commits_nothing(repo: Hub, run: Path) -> None:
    succeed("publish", run, "hf://me/m-GGUF", "--yes")
    assert "has all of this already" in succeed("publish", run, "hf://me/m-GGUF", "--yes").stdout
    assert len(repo.repositories["me/m-GGUF"].commits) == 2


def test_the_metadata_is_what_the_hub_reads(repo: Hub, run: Path) -> None:
    from huggingface_hub import ModelCard

    succeed("publish", run, "hf://me/m-GGUF", "--yes")
    data = ModelCard(repo.repositories["me/m-GGUF"].files["README.md"].decode()).data
    assert (data.license, data.model_name) == ("mit", "m-GGUF")
    local = read_results(run)
    expected = {(name, task.acc.value) for quant in local.quants for name, task in quant.tasks.items()}
    expected |= {(name, text.kld_mean.value) for quant in local.quants for name, text in quant.texts.items()}
    found = {(each.dataset_name, each.metric_value) for each in data.eval_results}
    assert found == {(name, float(f"{value:.6g}")) for name, value in expected if value is not None}


def test_a_repository_without_a_card_gets_one(hub: Hub, run: Path) -> None:
    hub.repository("me/new", {"m.gguf": b"m"})
    succeed("publish", run, "hf://me/new", "--yes")
    assert hub.repositories["me/new"].files["README.md"].startswith(b"---\n# quantprobe:begin\nmodel-index:\n")


def test_somebody_who_commits_in_between_is_not_overwritten(
    repo: Hub, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from quantprobe.hub import publishing

    theirs = repo.repositories["me/m-GGUF"]
    load = publishing.load_library

    def commit_first() -> object:
        theirs.commit({"README.md": b"theirs"})
        return load()

    monkeypatch.setattr(publishing, "load_library", commit_first)
    done = fail_after_output("publish", run, "hf://me/m-GGUF", "--yes")
    assert "the hub refuses" in done
    assert theirs.files["README.md"] == b"theirs"


def fail_after_output(*arguments: object) -> str:
    from road_cases import run as invoke

    done = invoke(*arguments)
    assert done.exit_code == 1
    return done.stderr


def test_nobody_to_ask_is_an_error(repo: Hub, run: Path) -> None:
    assert "give --yes" in fail_after_output("publish", run, "hf://me/m-GGUF")
    assert len(repo.repositories["me/m-GGUF"].commits) == 1


def test_markers_twice_are_refused(hub: Hub, run: Path) -> None:
    hub.repository("me/odd", {"README.md": f"{BEGIN}\n{END}\n{BEGIN}\n{END}\n".encode()})
    assert "expected one of each" in fail("publish", run, "hf://me/odd", "--yes")


def test_a_card_that_is_no_text_is_refused(hub: Hub, run: Path) -> None:
    hub.repository("me/odd", {"README.md": b"\xff\xfe"})
    assert "is not UTF-8 (byte 0)" in fail("publish", run, "hf://me/odd", "--yes")


def test_an_address_of_a_file_is_refused(repo: Hub, run: Path) -> None:
    assert "publish to hf://me/m-GGUF" in fail("publish", run, "hf://me/m-GGUF:Q8_0")


def test_a_capture_that_is_not_there_is_told(repo: Hub, run: Path) -> None:
    assert "holds 0 captures (none)" in fail("publish", run, "hf://me/m-GGUF", "--capture", "--yes")


def test_a_published_capture_is_compared_with(repo: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tiny(tmp_path / "base.gguf")
    write_tiny(tmp_path / "q8.gguf", weight_type="Q8_0")
    (tmp_path / "wiki.txt").write_text("letters and " * 40, encoding="utf-8")
    options = ("-c", 32, "-t", 1, "--chunks", 2)
    swept = tmp_path / "s.run"
    succeed(
        "sweep", tmp_path / "base.gguf", tmp_path / "q8.gguf", "--text", tmp_path / "wiki.txt", *options, "-o", swept,
        "--kind", "logprobs",
    )  # fmt: skip
    succeed("publish", swept, "hf://me/m-GGUF", "--capture", "--yes")
    files = repo.repositories["me/m-GGUF"].files
    (meta,) = [name for name in files if name.endswith("meta.json")]
    assert json.loads(files[meta])["base"]["path"] == "base.gguf"
    (tmp_path / "base.gguf").unlink()
    folder = meta.rpartition("/")[0]
    succeed("compare", f"hf://me/m-GGUF/{folder}", tmp_path / "q8.gguf", "-t", 1, "-o", tmp_path / "c.run")
    assert results(tmp_path / "c.run")["quants"][0]["texts"] == results(swept)["quants"][0]["texts"]
    (local,) = swept.glob("*.qpc")
    assert Capture.open(local).meta.probes == Capture.open(_write(tmp_path / "got.qpc", files, folder)).meta.probes


def _write(to: Path, files: dict[str, bytes], folder: str) -> Path:
    to.mkdir()
    for name, data in files.items():
        if name.startswith(f"{folder}/"):
            (to / name.rpartition("/")[2]).write_bytes(data)
    return to
