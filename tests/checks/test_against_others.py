"""Files against a capture of their base, in a sweep, and the real model with planted faults."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from planted import failures, flip_bits, plant_bad_scale, validate, zero_tensor
from tiny_gguf import truncate, write_tiny

from quantprobe.checks.before_sweep import file_findings
from quantprobe.checks.outcome import PASS, UNCHECKED
from quantprobe.cli.main import cli
from quantprobe.gguf.model import read_model_info
from quantprobe.run.results import read_results

TEXT = "The cat sat on the mat and the dog lay by the door. " * 40


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("others")
    write_tiny(folder / "base-F32.gguf")
    (folder / "q").mkdir()
    write_tiny(folder / "q" / "good-Q8_0.gguf", weight_type="Q8_0")
    (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def capture(folder: Path) -> Path:
    done = CliRunner().invoke(
        cli,
        ["capture", str(folder / "base-F32.gguf"), "--text", str(folder / "text.txt"), "-c", "64", "--embed-head",
         "--chunks", "4", "-o", str(folder / "base.qpc")],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    return folder / "base.qpc"


def test_a_capture_stands_for_the_base(folder: Path, capture: Path) -> None:
    (folder / "base-F32.gguf").rename(folder / "elsewhere.gguf")
    try:
        good, other = folder / "q" / "good-Q8_0.gguf", write_tiny(folder / "other.gguf", seed=9)
        done = CliRunner().invoke(cli, ["validate", str(good), str(other), "--capture", str(capture), "--details"])
    finally:
        (folder / "elsewhere.gguf").rename(folder / "base-F32.gguf")
    assert done.exit_code == 1, done.output
    assert "good-Q8_0: valid" in done.output and "the same as the captured base's" in done.output
    assert "over 124 tokens" in done.output  # four windows of 31
    assert "other: NOT VALID" in done.output and "probably broken: mean KLD" in done.output


def test_another_tokenizer_than_the_captured(folder: Path, capture: Path, tmp_path: Path) -> None:
    other = write_tiny(tmp_path / "o.gguf", extra={"tokenizer.ggml.add_space_prefix": False})
    done = CliRunner().invoke(cli, ["validate", str(other), "--capture", str(capture), "--no-decode"])
    assert done.exit_code == 1 and "in the capture of base-F32" in done.output


def test_a_base_that_cannot_be_run_leaves_the_comparison_unchecked(folder: Path, tmp_path: Path) -> None:
    base = Path(shutil.copy(folder / "base-F32.gguf", tmp_path / "base.gguf"))
    plant_bad_scale(base, "output.weight")
    report = validate(folder / "q" / "good-Q8_0.gguf", base, decode=True)
    found = {check.name: check for check in report.checks}
    assert found["plausible"].status == UNCHECKED and "the base could not be decoded" in found["plausible"].reason
    assert found["decode"].status == PASS


def test_a_sweep_says_what_is_wrong_with_its_files(folder: Path, tmp_path: Path) -> None:
    bad = Path(shutil.copy(folder / "q" / "good-Q8_0.gguf", tmp_path / "bad-Q8_0.gguf"))
    zero_tensor(bad)
    good = folder / "q" / "good-Q8_0.gguf"
    done = CliRunner().invoke(
        cli,
        ["sweep", str(folder / "base-F32.gguf"), str(good), str(bad), "--text", str(folder / "text.txt"), "-c", "64",
         "--chunks", "4", "-o", str(tmp_path / "run")],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    found = {quant.name: quant.findings for quant in read_results(tmp_path / "run").quants}
    assert found["good-Q8_0"] == ()
    [finding] = found["bad-Q8_0"]
    assert finding.startswith("broken (zero tensors): 1 tensors are all zeros: blk.1.ffn_up.weight")
    assert done.output.count("broken (zero tensors)") >= 2  # at once, and beside the numbers


def test_findings_without_the_bases_file(folder: Path, tmp_path: Path) -> None:
    info = read_model_info(folder / "q" / "good-Q8_0.gguf")
    base = read_model_info(folder / "base-F32.gguf").identity()
    assert file_findings(info, base) == ()
    moved = read_model_info(Path(shutil.copy(folder / "base-F32.gguf", tmp_path / "b.gguf"))).identity()
    truncate(tmp_path / "b.gguf", 1000)
    assert file_findings(info, moved) == ()


@pytest.mark.model
@pytest.mark.parametrize("fault", ["none", "flips", "nan", "zeros", "short"])
def test_the_real_model_with_planted_faults(fault: str, smollm2: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copy(smollm2, tmp_path / "copy.gguf"))
    copy.chmod(0o644)
    if fault == "flips":
        flip_bits(copy, 2000, 7)
    elif fault == "nan":
        plant_bad_scale(copy, "blk.12.ffn_down.weight", block=100)
    elif fault == "zeros":
        zero_tensor(copy, "blk.29.attn_v.weight")
    elif fault == "short":
        truncate(copy, -5000)
    found = failures(validate(copy, smollm2, decode=fault in ("none", "flips")))
    if fault == "none":
        assert found == {}
    elif fault == "flips":
        assert "plausible" in found and {"outliers", "weights"} & set(found)
    else:
        expected = {
            "nan": ("finite values", "blk.12.ffn_down.weight"),
            "zeros": ("zero tensors", "blk.29.attn_v.weight"),
            "short": ("structure", "bytes are missing"),
        }
        name, words = expected[fault]
        assert words in found[name]
