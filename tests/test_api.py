"""quantprobe as a library."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_run import FakeRun, ladder, write_fake_run
from road_cases import succeed
from tiny_gguf import write_tiny

import quantprobe


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_fake_run(tmp_path_factory.mktemp("runs") / "a", FakeRun(quants=ladder(3), tasks={"arc": 40}))


def test_a_run_gives_its_numbers_items_and_rows(run: Path) -> None:
    opened = quantprobe.open_run(run)
    numbers = opened.numbers()
    [kld] = [one for one in numbers if (one.quant, one.measure, one.kind) == ("Q8_0", "kld_mean", "text")]
    assert kld.value == opened.cohort.quant("Q8_0").texts["wiki"].kld_mean.value and kld.unit == "nats"
    assert all(one.unit for one in numbers), "every number has a unit"
    assert opened.items("Q8_0", "arc").base.n_items == 40
    assert len(opened.rows("Q8_0", "wiki")["kld"]) == 256
    assert repr(opened).startswith("Run(Fake-F16: 3 quants")


def test_a_run_shows_itself_in_a_notebook_in_a_frame_of_its_own(run: Path) -> None:
    shown = quantprobe.open_run(run)._repr_html_()
    assert shown.startswith("<iframe") and "Fake-F16" in shown


def test_one_quant_is_measured_against_a_capture(tmp_path: Path) -> None:
    write_tiny(tmp_path / "m-F16.gguf", weight_type="F16")
    write_tiny(tmp_path / "m-Q8_0.gguf", weight_type="Q8_0")
    words = " ".join(f"{number} bottles of beer on the wall." for number in range(60))
    (tmp_path / "t.txt").write_text(words, encoding="utf-8")
    fixed = ("--text", tmp_path / "t.txt", "-c", "32", "-t", "1", "-o", tmp_path / "b.qpc")
    succeed("capture", tmp_path / "m-F16.gguf", *fixed)
    opened = quantprobe.measure(tmp_path / "m-Q8_0.gguf", capture=tmp_path / "b.qpc", run=tmp_path / "run")
    assert 0 < (opened.quants[0].texts["t"].kld_mean.value or 0) < 0.1
    assert (tmp_path / "run" / "results.json").is_file()


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        quantprobe.nothing  # noqa: B018
