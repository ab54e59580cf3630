"""Hybrids hold the bytes of the side that each tensor was taken from."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tiny_archs import ARCHS
from tiny_gguf import write_tiny

from quantprobe.errors import FileFormatError, InputError, MismatchError
from quantprobe.gguf import hybrid
from quantprobe.gguf.hybrid import ModelPair, pair_models, write_hybrid
from quantprobe.gguf.model import read_model_info
from quantprobe.gguf.parts import read_span
from quantprobe.gguf.tensors import Inventory, read_inventory


def contents(model: Inventory) -> dict[str, tuple[int, bytes]]:
    return {
        each.name: (each.tensor.type_id, read_span(each.path, each.tensor.offset, each.tensor.n_bytes))
        for each in model.tensors
    }


def pair_of(folder: Path, arch: str = "llama", split: int = 1, tied: tuple[bool, bool] = (False, False)) -> ModelPair:
    base = write_tiny(folder / "base.gguf", arch, split=split, tied=tied[0])
    quant = write_tiny(folder / "quant.gguf", arch, weight_type="Q8_0", split=split, tied=tied[1])
    return pair_models(read_inventory(base), read_inventory(quant))


def made(pair: ModelPair, restored: set[str], path: Path) -> Inventory:
    write_hybrid(pair, restored, path)
    return read_inventory(path)


@pytest.mark.parametrize("arch", sorted(ARCHS))
def test_all_and_none_are_the_base_and_the_quant(arch: str, tmp_path: Path) -> None:
    pair = pair_of(tmp_path, arch)
    every = {unit.name for unit in pair.differing}
    assert contents(made(pair, every, tmp_path / "all.gguf")) == contents(pair.base)
    assert contents(made(pair, set(), tmp_path / "none.gguf")) == contents(pair.quant)


@pytest.mark.parametrize("split", [1, 3])
@pytest.mark.parametrize("in_kernel", [True, False])
def test_each_tensor_comes_from_its_side(
    split: int, in_kernel: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not in_kernel:
        monkeypatch.delattr(os, "copy_file_range", raising=False)
        monkeypatch.setattr(hybrid, "PIECE_BYTES", 1000)
    pair = pair_of(tmp_path, split=split)
    restored = {unit.name for unit in pair.differing if "ffn" in unit.name}
    found = contents(made(pair, restored, tmp_path / "h.gguf"))
    base, quant = contents(pair.base), contents(pair.quant)
    assert found == {name: base[name] if "ffn" in name and "norm" not in name else quant[name] for name in quant}
    info = read_model_info(tmp_path / "h.gguf")
    assert info.file_type == "Q8_0"  # the quant's own
    assert info.tokenizer_sha256 == pair.base.info.tokenizer_sha256


def test_equal_tensors_belong_to_no_group(tmp_path: Path) -> None:
    pair = pair_of(tmp_path)
    assert all("norm" not in unit.name for unit in pair.differing)
    assert {unit.name for unit in pair.units} - {unit.name for unit in pair.differing}


@pytest.mark.parametrize("tied", [(True, False), (False, True)])
def test_a_head_that_one_side_has_tied_moves_as_one(tied: tuple[bool, bool], tmp_path: Path) -> None:
    pair = pair_of(tmp_path, tied=tied)
    assert "output" not in {unit.name for unit in pair.units}
    assert contents(made(pair, {u.name for u in pair.units}, tmp_path / "all.gguf")) == contents(pair.base)
    assert contents(made(pair, set(), tmp_path / "none.gguf")) == contents(pair.quant)


def test_other_models_are_refused(tmp_path: Path) -> None:
    base = read_inventory(write_tiny(tmp_path / "base.gguf"))
    with pytest.raises(MismatchError, match="shape"):
        pair_models(base, read_inventory(write_tiny(tmp_path / "wide.gguf", n_embd=128)))
    with pytest.raises(MismatchError, match="in one of them alone"):
        pair_models(base, read_inventory(write_tiny(tmp_path / "deep.gguf", n_layer=3)))


def test_nothing_is_left_of_a_hybrid_that_could_not_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = pair_of(tmp_path)

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(hybrid, "_copy", full)
    with pytest.raises(InputError, match="free"):
        write_hybrid(pair, set(), tmp_path / "h.gguf")
    assert not (tmp_path / "h.gguf").exists()


def test_a_source_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "copy_file_range", raising=False)
    pair = pair_of(tmp_path)
    (tmp_path / "base.gguf").unlink()
    with pytest.raises(FileFormatError, match=r"base\.gguf is missing"):
        write_hybrid(pair, {unit.name for unit in pair.differing}, tmp_path / "h.gguf")
    assert not (tmp_path / "h.gguf").exists()
