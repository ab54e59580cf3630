"""Quantizing in a child process, importance matrices, and ladders of quants."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import gguf
import llama_cpp
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type
from tiny_gguf import write_tiny

from quantprobe.engine.quantize import quantize
from quantprobe.engine.recipe import Recipe
from quantprobe.errors import EngineError, InputError
from quantprobe.gguf.file_types import FILE_TYPES
from quantprobe.gguf.model import read_model_info
from quantprobe.imatrix.file import read_imatrix


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two layers, width 256: wide enough for every k-quant."""
    return write_tiny(tmp_path_factory.mktemp("model") / "tiny-F32.gguf", n_embd=256)


def write_imatrix(path: Path, model: Path, *, counts: float = 8.0, kind: str = "imatrix", drop: str = "") -> Path:
    """An importance matrix of ones (sums = counts), for every two-dimensional weight of a model."""
    writer = gguf.GGUFWriter(path, arch="")
    writer.kv_data[0].clear()
    writer.add_type(kind)
    writer.add_array("imatrix.datasets", ["calibration.txt"])
    writer.add_uint32("imatrix.chunk_count", 11)
    writer.add_uint32("imatrix.chunk_size", 512)
    for tensor in gguf.GGUFReader(model).tensors:
        if len(tensor.shape) == 2 and tensor.name.startswith("blk."):
            writer.add_tensor(f"{tensor.name}.in_sum2", np.full(int(tensor.shape[0]), counts, np.float32))
            if drop != tensor.name:
                writer.add_tensor(f"{tensor.name}.counts", np.full(1, counts, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_file_types_are_llama_cpps_own() -> None:
    for name, kind in FILE_TYPES.items():
        constant = "LLAMA_FTYPE_ALL_F32" if name == "F32" else f"LLAMA_FTYPE_MOSTLY_{name}"
        assert getattr(llama_cpp, constant) == kind.number


def test_quantizing_writes_the_type_and_tells_each_tensor(model: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    target = tmp_path / "new" / "tiny-Q4_K_M.gguf"
    quantize(model, target, Recipe("q4_k_m"), n_threads=1, on_tensor=lambda done, total: seen.append((done, total)))
    info = read_model_info(target)
    assert info.file_type == "Q4_K_M" and info.bpw < read_model_info(model).bpw
    n_tensors = len(gguf.GGUFReader(model).tensors)
    assert seen == [(i, n_tensors) for i in range(1, n_tensors + 1)]
    assert [path.name for path in target.parent.iterdir()] == [target.name]


def test_requantizing_must_be_asked_for(model: Path, tmp_path: Path) -> None:
    quantize(model, tmp_path / "q8.gguf", Recipe("Q8_0"))
    with pytest.raises(EngineError, match=r"could not make Q4_0 of q8.gguf: .*requantizing from type q8_0 is disabled"):
        quantize(tmp_path / "q8.gguf", tmp_path / "q4.gguf", Recipe("Q4_0"))
    assert [path.name for path in tmp_path.iterdir()] == ["q8.gguf"]
    quantize(tmp_path / "q8.gguf", tmp_path / "q4.gguf", Recipe("Q4_0", allow_requantize=True))
    assert read_model_info(tmp_path / "q4.gguf").file_type == "Q4_0"


def test_a_damaged_source_is_an_error_and_the_old_target_stays(model: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.gguf").write_bytes(model.read_bytes()[:5000])
    (tmp_path / "target.gguf").write_bytes(b"old")
    with pytest.raises(EngineError, match=r"llama.cpp could not make Q8_0 of broken.gguf: .*(fail|error)"):
        quantize(tmp_path / "broken.gguf", tmp_path / "target.gguf", Recipe("Q8_0"))
    assert (tmp_path / "target.gguf").read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    ("source", "target", "file_type", "message"),
    [
        ("model", "t.gguf", "Q4_K_XXL", "unknown file type 'Q4_K_XXL'"),
        ("absent.gguf", "t.gguf", "Q8_0", "there is no model"),
        ("model", "model", "Q8_0", "same file"),
        ("model", "t.gguf", "IQ2_XXS", "without an importance matrix"),
    ],
)
def test_what_cannot_be_done_is_refused_before_any_process(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, target: str, file_type: str, message: str
) -> None:
    monkeypatch.setattr(subprocess, "Popen", None)
    paths = {"model": model}
    with pytest.raises(InputError, match=message):
        quantize(paths.get(source, tmp_path / source), paths.get(target, tmp_path / target), Recipe(file_type))


def use_child(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Run `code` in place of the child."""
    popen = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda args, **kwargs: popen([sys.executable, "-c", code], **kwargs))


def test_a_killed_child_is_an_error(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_child(monkeypatch, "import os, sys; sys.stdin.read(); print('GGML_ASSERT(x) failed', flush=True); os.abort()")
    with pytest.raises(EngineError, match=r"GGML_ASSERT\(x\) failed"):
        quantize(model, tmp_path / "t.gguf", Recipe("Q8_0"))


def test_a_silent_death_is_told(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_child(monkeypatch, "import sys; sys.stdin.read(); sys.exit(7)")
    with pytest.raises(EngineError, match="ended with status 7 and said nothing"):
        quantize(model, tmp_path / "t.gguf", Recipe("Q8_0"))


def test_the_child_does_not_outlive_an_interrupt(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_child(
        monkeypatch,
        "import json, sys, time\n"
        "open(json.load(sys.stdin)['target'], 'w').write('half')\n"
        "print('[   1/   2] a', flush=True)\n"
        "time.sleep(60)\n",
    )
    started: list[Any] = []
    popen = subprocess.Popen

    def start(*args: Any, **kwargs: Any) -> Any:
        started.append(popen(*args, **kwargs))
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", start)

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quantize(model, tmp_path / "t.gguf", Recipe("Q8_0"), on_tensor=interrupt)
    assert started[0].poll() not in (None, 0)
    assert not list(tmp_path.iterdir())


def test_an_importance_matrix_is_used_and_named(model: Path, tmp_path: Path) -> None:
    imatrix = write_imatrix(tmp_path / "im.gguf", model)
    quantize(model, tmp_path / "t.gguf", Recipe("Q2_K_S", imatrix=imatrix))
    info = read_model_info(tmp_path / "t.gguf")
    n_entries = len(read_imatrix(imatrix).entries)
    assert info.file_type == "Q2_K_S"
    assert info.imatrix is not None
    assert (info.imatrix.dataset, info.imatrix.entries_count, info.imatrix.chunks_count) == (
        "calibration.txt", n_entries, 11
    )  # fmt: skip


def test_a_wrong_importance_matrix_is_named(model: Path, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="is a GGUF of type 'model', not an importance matrix"):
        quantize(
            model,
            tmp_path / "t.gguf",
            Recipe("Q4_K_M", imatrix=write_imatrix(tmp_path / "im.gguf", model, kind="model")),
        )


@pytest.mark.model
def test_smollm2_is_dequantized(smollm2: Path, tmp_path: Path) -> None:
    quantize(smollm2, tmp_path / "f16.gguf", Recipe("F16", allow_requantize=True))
    info = read_model_info(tmp_path / "f16.gguf")
    assert info.file_type == "F16" and 16.0 <= info.bpw < 16.1
    kinds = {tensor.tensor_type for tensor in gguf.GGUFReader(tmp_path / "f16.gguf").tensors}
    assert kinds == {Type.F16, Type.F32}
