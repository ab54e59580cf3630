"""A GGUF cut into parts is the same model."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_gguf import write_tiny

from quantprobe.gguf.header import Header, read_header
from quantprobe.gguf.model import read_model_info
from quantprobe.gguf.parts import read_parts, read_span
from quantprobe.gguf.split import split_gguf


def contents(parts: list[Header]) -> dict[str, tuple[tuple[int, ...], int, bytes]]:
    return {
        tensor.name: (tensor.shape, tensor.type_id, read_span(part.path, tensor.offset, tensor.n_bytes))
        for part in parts
        for tensor in part.tensors.values()
    }


@pytest.mark.parametrize("max_bytes", [1, 40_000, 90_000])
def test_parts_hold_what_the_file_held(tmp_path: Path, max_bytes: int) -> None:
    whole = write_tiny(tmp_path / "tiny-F32.gguf")
    before, info = contents([read_header(whole)]), read_model_info(whole)
    parts = split_gguf(whole, max_bytes)
    assert [part.name for part in parts] == [
        f"tiny-F32-{i:05d}-of-{len(parts):05d}.gguf" for i in range(1, len(parts) + 1)
    ]
    assert sorted(tmp_path.iterdir()) == parts
    headers = read_parts(parts[0])
    assert contents(headers) == before
    again = read_model_info(parts[0])
    assert (again.tokenizer_sha256, again.n_params, again.name) == (info.tokenizer_sha256, info.n_params, info.name)
    for header in headers:
        assert len(header.tensors) == 1 or sum(t.n_bytes for t in header.tensors.values()) <= max_bytes


def test_a_file_that_fits_stays(tmp_path: Path) -> None:
    whole = write_tiny(tmp_path / "tiny-F32.gguf")
    data = whole.read_bytes()
    assert split_gguf(whole, 10**9) == [whole] and whole.read_bytes() == data


def test_llama_cpp_loads_the_parts(tmp_path: Path) -> None:
    model = pytest.importorskip("quantprobe.engine.model", reason="the native extension is not built")
    from quantprobe.settings import Settings

    [first, *more] = split_gguf(write_tiny(tmp_path / "tiny-F32.gguf"), 90_000)
    assert more
    with model.Model(read_model_info(first), Settings(n_gpu_layers=0)) as loaded:
        assert loaded.n_vocab == 259
