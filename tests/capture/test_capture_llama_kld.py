"""llama.cpp's base file: the tool's own file, a twin in NumPy, and files that lie."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from capture_cases import BASE, SETTINGS
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from scipy.special import log_softmax

from quantprobe.capture import CaptureWriter
from quantprobe.capture.llama_kld import decode_records, encode_records, import_kld, write_kld
from quantprobe.capture.meta import record_width
from quantprobe.errors import FileFormatError, InputError, MismatchError
from quantprobe.probes.text import TextProbe

GOLDEN = Path(__file__).parents[2].parent / "shared" / "golden" / "tiny"
N_CTX, N_VOCAB, N_WINDOWS = 8, 7, 4
TINY = replace(BASE, n_vocab=N_VOCAB)


def make_logits(n_rows: int = 12, n_vocab: int = N_VOCAB) -> np.ndarray[Any, np.dtype[np.float32]]:
    return (np.random.default_rng(5).normal(size=(n_rows, n_vocab)) * 6).astype(np.float32)


def make_tokens() -> np.ndarray[Any, np.dtype[np.int32]]:
    return np.random.default_rng(6).integers(0, N_VOCAB, (N_WINDOWS, N_CTX), dtype=np.int32)


def file_bytes(n_ctx: int = N_CTX, n_vocab: int = N_VOCAB, n_windows: int = N_WINDOWS) -> bytes:
    """A base file put together by hand: 4 windows of 8 tokens, 3 records each, the vocabulary odd."""
    header = b"_logits_" + struct.pack("<iii", n_ctx, n_vocab, n_windows)
    return header + make_tokens().astype("<i4").tobytes() + encode_records(make_logits()).astype("<u2").tobytes()


@pytest.fixture
def kld(tmp_path: Path) -> Path:
    path = tmp_path / "base.kld"
    path.write_bytes(file_bytes())
    return path


def encode_twin(logits: np.ndarray[Any, np.dtype[np.float32]]) -> tuple[np.ndarray[Any, Any], ...]:
    """llama.cpp's record in NumPy: scale, min_log_prob, codes."""
    f32 = np.float32
    best = logits.max(axis=1, keepdims=True)
    floor = np.maximum(logits.min(axis=1, keepdims=True), best - f32(16))
    total = np.exp((logits - best).astype(np.float64)).astype(f32).astype(np.float64).sum(axis=1, keepdims=True)
    scale = (best - floor) / f32(65535)
    min_log_prob = (floor - best) - np.log(total).astype(f32)
    inverse = f32(1) / np.where(scale == 0, f32(1), scale)
    codes = np.where((logits > floor) & (scale > 0), np.rint(inverse * (np.maximum(logits, floor) - floor)), 0)
    assert scale.dtype == min_log_prob.dtype == inverse.dtype == np.float32
    return scale[:, 0], min_log_prob[:, 0], codes.astype(np.uint16)


def check_twin(logits: np.ndarray[Any, np.dtype[np.float32]]) -> None:
    n_vocab = logits.shape[1]
    records = encode_records(logits)
    assert records.shape == (len(logits), record_width(n_vocab))
    scale, min_log_prob, codes = encode_twin(logits)
    header = records[:, :4].copy().view(np.float32)
    np.testing.assert_array_equal(header[:, 0], scale)
    np.testing.assert_array_max_ulp(header[:, 1], min_log_prob, maxulp=1)  # expf of another library
    np.testing.assert_array_equal(records[:, 4 : 4 + n_vocab], codes)
    assert not records[:, 4 + n_vocab :].any()


@pytest.mark.parametrize("n_vocab", [1, 2, 7, 1000, 32001])
@pytest.mark.parametrize("spread", [0.01, 2.0, 30.0])
def test_records_equal_the_twin(n_vocab: int, spread: float) -> None:
    check_twin((np.random.default_rng(n_vocab).normal(size=(5, n_vocab)) * spread + 3).astype(np.float32))


@settings(max_examples=60, deadline=None)
@given(
    npst.arrays(
        np.float32,
        npst.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9),
        elements=st.floats(-100, 100, width=16).map(np.float32),
    )
)
def test_records_of_any_row_equal_the_twin(logits: np.ndarray[Any, np.dtype[np.float32]]) -> None:
    check_twin(logits)


def test_codes_round_half_to_even() -> None:
    """Logits on a grid of half steps: a range of 16 and a scale that is not exact make only some exact halves."""
    grid = np.arange(0, 65536, dtype=np.float32)[None, :] * np.float32(16 / 65535 / 2)
    logits = np.concatenate([grid, [[np.float32(16)]]], axis=1).astype(np.float32)
    check_twin(logits)
    product = (np.float32(1) / np.float32(np.float32(16) / np.float32(65535))) * logits[0]
    halves = product % 1 == 0.5
    assert halves.sum() > 1000
    codes = encode_records(logits)[0, 4 : 4 + logits.shape[1]]
    assert (codes[halves] % 2 == 0).all()


def test_codes_cover_the_range() -> None:
    logits = np.array([[-5.0, 0.0, 11.0, -40.0, -np.inf], [3.0, 3.0, 3.0, 3.0, 3.0]], dtype=np.float32)
    records = encode_records(logits)
    assert records[0, 4:9].tolist() == [0, 20480, 65535, 0, 0]
    assert records[1, 4:9].tolist() == [0] * 5
    np.testing.assert_allclose(decode_records(records, 5)[1], -np.log(5), rtol=1e-7)


def test_decoded_is_within_half_a_step() -> None:
    logits = make_logits(200)
    exact = log_softmax(logits.astype(np.float64), axis=1)
    found = decode_records(encode_records(logits), N_VOCAB)
    assert found.dtype == np.float32
    kept = logits > logits.max(axis=1, keepdims=True) - 16
    assert np.abs(found - exact)[kept].max() < 8 / 65535 + 5e-6
    assert (found[~kept] > exact[~kept]).all()
    assert 0 < (~kept).sum() < kept.sum()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_row_without_softmax_decodes_to_nan(bad: float) -> None:
    logits = make_logits()
    logits[2, 4] = bad
    logits[5] = -np.inf
    found = decode_records(encode_records(logits), N_VOCAB)
    assert np.isnan(found[[2, 5]]).all()
    assert np.isfinite(np.delete(found, [2, 5], axis=0)).all()


def test_records_of_another_vocabulary_are_refused() -> None:
    with pytest.raises(MismatchError, match="do not fit a vocabulary of 9"):
        decode_records(encode_records(make_logits()), 9)


def test_import_keeps_tokens_and_records(kld: Path, tmp_path: Path) -> None:
    capture = import_kld(kld, tmp_path / "a.qpc", TINY, 1, SETTINGS, "wiki")
    assert capture.meta.kind == "llama_kld"
    assert capture.meta.head is None
    probe = capture.text_probe("wiki")
    np.testing.assert_array_equal(probe.tokens, make_tokens())
    assert (probe.bos, probe.n_rows) == (1, 12)
    np.testing.assert_array_equal(capture.rows("wiki"), encode_records(make_logits()))
    with pytest.raises(InputError, match="llama_kld rows, which need no output matrix"):
        capture.head_bytes()


def test_export_gives_the_same_bytes(kld: Path, tmp_path: Path) -> None:
    capture = import_kld(kld, tmp_path / "a.qpc", TINY, None, SETTINGS, "wiki")
    rows = capture.rows("wiki")
    write_kld(tmp_path / "out.kld", capture.text_probe("wiki"), N_VOCAB, (rows[i : i + 5] for i in range(0, 12, 5)))
    assert (tmp_path / "out.kld").read_bytes() == kld.read_bytes()


def test_import_in_pieces_and_again(kld: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces of one record; a run that stops while it names the capture is taken up again."""
    monkeypatch.setattr("quantprobe.capture.llama_kld._PIECE_BYTES", 1)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(CaptureWriter, "finish", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
        import_kld(kld, tmp_path / "a.qpc", TINY, 1, SETTINGS, "wiki")
    monkeypatch.setattr(CaptureWriter, "begin", None)
    capture = import_kld(kld, tmp_path / "a.qpc", TINY, 1, SETTINGS, "wiki")
    np.testing.assert_array_equal(capture.rows("wiki"), encode_records(make_logits()))


@pytest.mark.golden
def test_file_of_the_tool_itself(tmp_path: Path) -> None:
    """Imported and exported byte by byte; its perplexity is what the tool printed, to the file's own rounding."""
    path = GOLDEN / "base.kld"
    if not path.exists():
        pytest.skip(f"no golden file {path}")
    capture = import_kld(path, tmp_path / "a.qpc", replace(BASE, n_vocab=259), None, SETTINGS, "text")
    probe, rows = capture.text_probe("text"), capture.rows("text")
    write_kld(tmp_path / "out.kld", probe, 259, [rows[:100], rows[100:]])
    assert (tmp_path / "out.kld").read_bytes() == path.read_bytes()
    log_probs = decode_records(rows, 259)
    np.testing.assert_allclose(np.exp(log_probs.astype(np.float64)).sum(axis=1), 1, atol=2e-5)
    nll = -log_probs[np.arange(probe.n_rows), probe.targets()].astype(np.float64)
    ppl = np.exp(np.cumsum(nll) / np.arange(1, probe.n_rows + 1))[probe.rows_per_window - 1 :: probe.rows_per_window]
    printed = re.findall(r"\[\d+\]([\d.]+)", (GOLDEN / "base.stdout.txt").read_text(encoding="utf-8"))
    assert len(printed) == probe.n_windows == 28
    np.testing.assert_allclose(ppl, np.array(printed, dtype=np.float64), rtol=2e-5)
    again = encode_records(log_probs)
    assert (again[:, 4:] != rows[:, 4:]).mean() < 1e-4  # from log-probabilities that are rounded already


HUGE = 2**31 - 1


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "begins with b''"),
        (b"GGUF" + file_bytes()[4:], "not a base file"),
        (file_bytes()[:5], "not a base file"),
        (file_bytes()[:8], r"inside its header \(8 bytes\)"),
        (file_bytes()[:12], "text was too short"),
        (file_bytes()[:19], r"inside its header \(19 bytes\)"),
        (file_bytes()[:20], "0 complete windows of 4"),
        (file_bytes()[:100], "0 complete windows of 4"),
        (file_bytes()[:148], "0 complete windows of 4"),
        (file_bytes()[: 148 + 72 * 2], "2 complete windows of 4"),
        (file_bytes()[: 148 + 72 * 3 - 1], "2 complete windows of 4"),
        (file_bytes()[:-1], "3 complete windows of 4"),
        (file_bytes() + b"\0", "1 bytes after its last record"),
        (file_bytes() + file_bytes(), "bytes after its last record"),
        (file_bytes(n_ctx=-8), "-8 tokens"),
        (file_bytes(n_ctx=0), "0 tokens"),
        (file_bytes(n_ctx=3), "3 tokens"),
        (file_bytes(n_vocab=-7), "vocabulary of -7"),
        (file_bytes(n_vocab=0), "vocabulary of 0"),
        (file_bytes(n_windows=0), "0 windows"),
        (file_bytes(n_windows=-1), "-1 windows"),
        (file_bytes(n_windows=3), "bytes after its last record"),
        (file_bytes(n_windows=HUGE), "truncated"),
        (file_bytes(n_ctx=HUGE, n_vocab=HUGE, n_windows=HUGE), "truncated"),
    ],
)
def test_file_that_lies_is_refused(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "bad.kld"
    path.write_bytes(data)
    with pytest.raises(FileFormatError, match=message):
        import_kld(path, tmp_path / "a.qpc", TINY, None, SETTINGS, "wiki")
    assert [file.name for file in tmp_path.iterdir()] == ["bad.kld"]


def test_even_vocabulary_of_the_same_record_width_needs_the_base(kld: Path, tmp_path: Path) -> None:
    """7 and 8 tokens have records of one width: only the base's own count can tell."""
    with pytest.raises(MismatchError, match="over 7 tokens and the base base has 8"):
        import_kld(kld, tmp_path / "a.qpc", replace(TINY, n_vocab=8), None, SETTINGS, "wiki")


@pytest.mark.parametrize("token", [-1, N_VOCAB, HUGE])
def test_token_outside_the_vocabulary(kld: Path, tmp_path: Path, token: int) -> None:
    data = bytearray(kld.read_bytes())
    data[20 + 4 * 10 : 20 + 4 * 11] = struct.pack("<i", token)
    kld.write_bytes(data)
    with pytest.raises(FileFormatError, match=f"token 2 of window 1 is {token}"):
        import_kld(kld, tmp_path / "a.qpc", TINY, None, SETTINGS, "wiki")


@pytest.mark.parametrize(
    ("scale", "lowest"), [(-1e-4, -5.0), (1.0, -5.0), (np.inf, -5.0), (1e-4, 0.5), (1e-4, np.inf), (2.5e-4, -1.0)]
)
def test_record_that_llama_cpp_cannot_have_written(kld: Path, tmp_path: Path, scale: float, lowest: float) -> None:
    data = bytearray(kld.read_bytes())
    data[148 + 24 * 5 : 148 + 24 * 5 + 8] = struct.pack("<ff", scale, lowest)
    kld.write_bytes(data)
    with pytest.raises(FileFormatError, match="record 5 has the scale"):
        import_kld(kld, tmp_path / "a.qpc", TINY, None, SETTINGS, "wiki")
    assert not (tmp_path / "a.qpc").exists()


def test_nan_records_come_through(kld: Path, tmp_path: Path) -> None:
    data = bytearray(kld.read_bytes())
    data[148 : 148 + 8] = struct.pack("<ff", np.nan, np.nan)
    kld.write_bytes(data)
    rows = import_kld(kld, tmp_path / "a.qpc", TINY, None, SETTINGS, "wiki").rows("wiki")
    assert np.isnan(decode_records(rows, N_VOCAB)).any(axis=1).tolist() == [True] + [False] * 11


def blocks_that_fail() -> Iterator[np.ndarray[Any, np.dtype[np.uint16]]]:
    yield encode_records(make_logits())[:5]
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("blocks", "error", "message"),
    [
        (lambda: [encode_records(make_logits())[:11]], MismatchError, "11 records for the 12 rows"),
        (lambda: [encode_records(make_logits(13))], MismatchError, "13 records for the 12 rows"),
        (lambda: [np.zeros((12, 11), np.uint16)], MismatchError, r"expected \[n, 12\] uint16"),
        (lambda: [np.zeros((12, 12), np.int16)], MismatchError, "int16, expected"),
        (blocks_that_fail, KeyboardInterrupt, "^$"),
    ],
)
def test_failed_export_leaves_what_was_there(
    tmp_path: Path, blocks: Any, error: type[BaseException], message: str
) -> None:
    path = tmp_path / "out.kld"
    path.write_bytes(b"older")
    with pytest.raises(error, match=message):
        write_kld(path, TextProbe("wiki", make_tokens(), None), N_VOCAB, blocks())
    assert [file.name for file in tmp_path.iterdir()] == ["out.kld"]
    assert path.read_bytes() == b"older"


def test_export_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot write .*out\.kld"):
        write_kld(tmp_path / "none" / "out.kld", TextProbe("wiki", make_tokens(), None), N_VOCAB, [])
