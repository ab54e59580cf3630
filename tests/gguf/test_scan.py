"""The scan of every block type: what is planted is found where it is, and nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ggml_blocks import (
    FLOATS,
    INF,
    INTERNAL,
    MADE,
    NAN,
    SCANNED,
    TYPE_IDS,
    bits_of,
    finite_blocks,
    ggml_says_valid,
    put_number,
    quantize_rows,
    write_blocks,
)
from gguf.constants import GGML_QUANT_SIZES

from quantprobe.errors import FileFormatError, InputError
from quantprobe.gguf import scan as scan_module
from quantprobe.gguf.block_layouts import FORMATS, LAYOUTS
from quantprobe.gguf.header import TENSOR_TYPES
from quantprobe.gguf.scan import scan_tensors

N = 500
BAD = 321
FIELDS = [(name, i) for name in SCANNED for i in range(len(LAYOUTS[name]))]


def test_every_type_of_a_file_has_a_layout() -> None:
    assert set(LAYOUTS) == {name for name, _, _ in TENSOR_TYPES.values()}
    assert {kind.name for kind in GGML_QUANT_SIZES} <= set(LAYOUTS)


@pytest.mark.parametrize("name", SCANNED)
def test_finite_blocks_raise_no_alarm(name: str, tmp_path: Path) -> None:
    blocks = finite_blocks(name, N)
    [found] = scan_tensors([write_blocks(tmp_path / "x.bin", blocks, name)])
    assert (found.n_bad, found.is_zero) == (0, False)
    assert [field.n for field in found.fields] == [N] * len(LAYOUTS[name])
    assert all(field.octaves_above < 2 for field in found.fields)
    assert name == "Q8_1" or ggml_says_valid(blocks, name)  # ggml knows no Q8_1 there


@pytest.mark.parametrize(("name", "place"), FIELDS)
@pytest.mark.parametrize("what", ["nan", "inf"])
def test_one_bad_number_is_found_in_its_block(name: str, place: int, what: str, tmp_path: Path) -> None:
    field = LAYOUTS[name][place]
    bits = bits_of(field, NAN if what == "nan" else INF)
    if bits is None:
        assert FORMATS[field.format].inf is None
        return
    blocks = finite_blocks(name, N)
    put_number(blocks[BAD], field, bits)
    [found] = scan_tensors([write_blocks(tmp_path / "x.bin", blocks, name)])
    bad = found.fields[place]
    assert (bad.n_nan, bad.n_inf, bad.first_bad) == ((1, 0, BAD) if what == "nan" else (0, 1, BAD))
    assert found.n_bad == 1
    if name not in ("NVFP4", "Q8_1"):  # ggml does not look at those
        assert not ggml_says_valid(blocks, name)


@pytest.mark.parametrize("name", MADE)
def test_what_ggml_quantizes_is_clean(name: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = quantize_rows(rng.standard_normal((32, 512), dtype=np.float32), name)
    blocks = rows.reshape(-1, TENSOR_TYPES[TYPE_IDS[name]][2])
    [found] = scan_tensors([write_blocks(tmp_path / "x.bin", blocks, name)])
    assert (found.n_bad, found.is_zero) == (0, False)
    assert max(field.octaves_above for field in found.fields) < 6
    [zero] = scan_tensors([write_blocks(tmp_path / "z.bin", np.zeros_like(blocks), name)])
    assert zero.is_zero


@pytest.mark.parametrize("name", [name for name in MADE if name != "NVFP4"])
def test_random_bytes_are_judged_as_by_ggml(name: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    verdicts = []
    for i in range(40):
        blocks = rng.integers(0, 256, (4, TENSOR_TYPES[TYPE_IDS[name]][2]), dtype=np.uint8)
        [found] = scan_tensors([write_blocks(tmp_path / f"{i}.bin", blocks, name)], n_threads=1)
        assert (found.n_bad == 0) == ggml_says_valid(blocks, name)
        verdicts.append(found.n_bad == 0)
    assert True in verdicts  # and the planted faults above are the other case


@pytest.mark.parametrize("name", [*FLOATS, *INTERNAL, "Q4_K", "IQ1_M", "MXFP4"])
def test_a_piece_boundary_changes_nothing(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = finite_blocks(name, N)
    for place in (0, N - 1):
        put_number(blocks[place], LAYOUTS[name][0], bits_of(LAYOUTS[name][0], NAN) or 0)
    tensor = write_blocks(tmp_path / "x.bin", blocks, name)
    whole = scan_tensors([tensor])
    monkeypatch.setattr(scan_module, "PIECE_BYTES", 1000)
    told: list[int] = []
    assert scan_tensors([tensor], 2, told.append) == whole
    assert sum(told) == blocks.nbytes
    assert (whole[0].fields[0].n_nan, whole[0].fields[0].first_bad) == (2, 0)


def test_an_outlier_is_measured_in_octaves_and_placed(tmp_path: Path) -> None:
    blocks = finite_blocks("Q4_K", N)
    scales = blocks[:, :2].view("<f2")
    scales[:] = 0.25
    scales[77] = 0.25 * 2**14
    scales[78] = 0
    [found] = scan_tensors([write_blocks(tmp_path / "x.bin", blocks, "Q4_K")])
    assert found.fields[0].octaves_above == pytest.approx(14 * (1 - 1 / (N - 1)))
    assert (found.fields[0].largest, found.fields[0].n_nonzero) == (77, N - 1)
    assert found.element_of(77) == (77, 0)


def test_files_that_are_short_or_missing_are_named(tmp_path: Path) -> None:
    tensor = write_blocks(tmp_path / "x.bin", finite_blocks("Q8_0", N), "Q8_0")
    (tmp_path / "x.bin").write_bytes(b"short")
    with pytest.raises(FileFormatError, match="shrank"):
        scan_tensors([tensor])
    (tmp_path / "x.bin").unlink()
    with pytest.raises(InputError, match=r"cannot read .*x\.bin"):
        scan_tensors([tensor])
