"""`--score-from N`: more rows of the same decode, recorded, kept apart from the second half."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from road_cases import results, succeed, write_letters
from tiny_gguf import write_tiny

from quantprobe.capture import Capture
from quantprobe.capture.llama_kld import write_kld
from quantprobe.errors import InputError, MismatchError
from quantprobe.probes.text import SECOND_HALF, text_probe
from quantprobe.run.compare import setting_differences

TOKENS = np.arange(70, dtype=np.int32)


def test_rows_are_the_positions_from_n_on() -> None:
    half, more = text_probe("t", TOKENS, 32, None, 1), text_probe("t", TOKENS, 32, None, 1, 3)
    assert (half.first, half.rows_per_window, half.n_rows) == (16, 15, 30)
    assert (more.first, more.rows_per_window, more.n_rows) == (3, 28, 56)
    assert more.targets()[:28].tolist() == list(range(4, 32))
    assert more.targets().reshape(2, 28)[:, 13:].tolist() == half.targets().reshape(2, 15).tolist()
    assert more.sha256() != half.sha256() == text_probe("t", TOKENS, 32, None, 1, 16).sha256()
    part, rows = more.subset(np.array([1]))
    assert part.first == 3 and rows.tolist() == list(range(28, 56))


@pytest.mark.parametrize("score_from", [31, 100, -1])
def test_a_position_that_leaves_no_row(score_from: int) -> None:
    with pytest.raises(InputError, match="--score-from"):
        text_probe("t", TOKENS, 32, None, None, score_from)


def test_a_base_file_of_llama_cpp_cannot_hold_it(tmp_path: Path) -> None:
    with pytest.raises(MismatchError, match="--score-from"):
        write_kld(tmp_path / "b.kld", text_probe("t", TOKENS, 32, None, 1, 3), 64, [])


def test_records_that_do_not_tell_mean_the_second_half() -> None:
    texts = {"texts": {"t": "a"}}
    assert not setting_differences(texts, {**texts, "score_from": SECOND_HALF})
    (found,) = setting_differences(texts, {**texts, "score_from": 4})
    assert found.moves_logits and found.a == SECOND_HALF


def test_a_sweep_scores_more_of_the_same_decode(tmp_path: Path) -> None:
    """The rows of the second half are the same bits; the capture holds both probes' settings apart."""
    base = write_tiny(tmp_path / "base.gguf", head_type="F16")
    quant = write_tiny(tmp_path / "q.gguf", noise=0.1)
    text = write_letters(tmp_path / "t.txt")
    arguments = ["sweep", base, quant, "--text", f"t={text}", "-c", 32, "-t", 1, "--chunks", 6]
    succeed(*arguments, "-o", tmp_path / "half")
    printed = succeed(*arguments, "--score-from", 4, "-o", tmp_path / "more", "--details").stdout
    assert "score_from 4" in printed
    runs = {name: tmp_path / name for name in ("half", "more")}
    found = {name: results(run) for name, run in runs.items()}
    assert found["half"]["settings"]["score_from"] == SECOND_HALF and found["more"]["settings"]["score_from"] == 4
    klds = {}
    for name, run in runs.items():
        (path,) = run.glob("rows/*/t.npz")
        with np.load(path) as arrays:
            klds[name] = arrays["kld"]
    assert (len(klds["half"]), len(klds["more"])) == (6 * 15, 6 * 27)
    assert np.array_equal(klds["more"].reshape(6, 27)[:, 12:], klds["half"].reshape(6, 15))
    (capture,) = runs["more"].glob("*.qpc")
    assert Capture.open(capture).text_probe("t").first == 4
    # the same run without the option measures the second half anew
    succeed(*arguments, "-o", tmp_path / "more")
    assert results(runs["more"])["quants"][0]["texts"]["t"]["n_rows"] == 90
