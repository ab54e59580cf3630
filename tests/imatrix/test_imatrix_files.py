"""Importance matrices as files: those of llama-imatrix, our own, damaged ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from quantprobe.errors import FileFormatError, InputError, MismatchError, QuantprobeError
from quantprobe.imatrix.file import read_imatrix, write_imatrix, write_legacy
from quantprobe.imatrix.matrix import Entry, Imatrix
from quantprobe.imatrix.merging import merge

DATA = Path(__file__).parent / "data"
"""Written by llama-imatrix of llama.cpp 0.5.0 for the models of `tests/engine/test_imatrix_collect.py`; the .dat files
are its own conversions."""
MODELS = ("dense", "experts")


@pytest.mark.parametrize("model", MODELS)
def test_llama_imatrix_files_come_back_byte_for_byte(tmp_path: Path, model: str) -> None:
    source = DATA / f"{model}.imatrix.gguf"
    found = read_imatrix(source)
    assert (found.datasets, found.n_chunks, found.chunk_size, found.is_legacy) == (("text.txt",), 13, 64, False)
    write_imatrix(tmp_path / "again.gguf", found)
    assert (tmp_path / "again.gguf").read_bytes() == source.read_bytes()


@pytest.mark.parametrize("model", MODELS)
def test_legacy_files_are_llama_imatrixs(tmp_path: Path, model: str) -> None:
    write_legacy(tmp_path / "ours.dat", read_imatrix(DATA / f"{model}.imatrix.gguf"), 64)
    assert (tmp_path / "ours.dat").read_bytes() == (DATA / f"{model}.imatrix.dat").read_bytes()


@pytest.mark.parametrize("model", MODELS)
def test_both_forms_give_the_same_means(model: str) -> None:
    new, old = (read_imatrix(DATA / f"{model}.imatrix.{ending}") for ending in ("gguf", "dat"))
    assert old.is_legacy and old.n_chunks == 13 and list(old.entries) == list(new.entries)
    for name, entry in new.entries.items():
        np.testing.assert_allclose(old.entries[name].means().reshape(-1), entry.means().reshape(-1), rtol=3e-7)
    # by way of the old form and back, the chunks count as tokens
    back = old.in_tokens(64)
    name = next(iter(back.entries))
    assert back.entries[name].counts[0] == 64 * old.entries[name].counts[0] and not back.is_legacy


def test_means_of_what_was_never_seen_are_one() -> None:
    entry = Entry(np.array([[8.0, 2.0], [0.0, 0.0]]), np.array([4, 0]))
    means = entry.means()
    assert means.dtype == np.float32 and means.tolist() == [[2.0, 0.5], [1.0, 1.0]]


def of(*counts: int, columns: int = 2, value: float = 1.0, **more: object) -> Imatrix:
    """One weight with `counts` and sums of `value` times them."""
    sums = value * np.outer(counts, np.arange(1, columns + 1, dtype=float))
    return Imatrix({"blk.0.w.weight": Entry(sums, np.array(counts))}, **{"chunk_size": 4, **more})  # type: ignore[arg-type]


def test_merging_adds_tokens() -> None:
    both = merge([of(8, datasets=("a",)), of(24, value=3.0, datasets=("b", "c"))], ["a", "b"])
    entry = both.entries["blk.0.w.weight"]
    assert entry.counts.tolist() == [32] and entry.means().tolist() == [[2.5, 5.0]]
    assert (both.datasets, both.n_chunks, both.chunk_size) == (("a", "b", "c"), 8, 4)


def test_merging_with_an_old_file_spreads_its_count() -> None:
    old = Imatrix(
        {"blk.0.w.weight": Entry(np.full((1, 4), 6.0, np.float32), np.array([3]))}, n_chunks=3, is_legacy=True
    )
    entry = merge([of(8, 16), old], ["a", "b"]).entries["blk.0.w.weight"]
    assert entry.counts.tolist() == [20, 28]
    assert entry.sums.tolist() == [[8 + 24.0, 16 + 24], [16 + 24, 32 + 24]]


def test_matrices_of_two_models_are_not_merged() -> None:
    with pytest.raises(
        MismatchError, match=r"blk.0.w.weight has 1 x 2 values in a and 1 x 3 in b; .* different models"
    ):
        merge([of(1), of(1, columns=3)], ["a", "b"])


def test_long_names_are_refused(tmp_path: Path) -> None:
    name = "x" * 56
    with pytest.raises(InputError, match="longer than the 55 bytes"):
        write_imatrix(tmp_path / "im.gguf", Imatrix({name: Entry(np.ones((1, 2)), np.ones(1, np.int64))}))


@pytest.mark.parametrize(
    ("sums", "counts", "message"),
    [
        ([[np.nan, 1.0]], [1], "blk.0.w.weight holds NaN or infinity"),
        ([[-1.0, 1.0]], [1], "holds a negative sum"),
        ([[1.0, 1.0]], [-3], "has a negative count"),
    ],
)
def test_wrong_values_are_named(tmp_path: Path, sums: list[list[float]], counts: list[int], message: str) -> None:
    write_imatrix(tmp_path / "im.gguf", Imatrix({"blk.0.w.weight": Entry(np.array(sums), np.array(counts))}))
    with pytest.raises(FileFormatError, match=message):
        read_imatrix(tmp_path / "im.gguf")


def test_other_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Lorem ipsum dolor sit amet", encoding="utf-8")
    with pytest.raises(FileFormatError, match=r"a.txt is no importance matrix, or damaged: .* bytes and \d+ are left"):
        read_imatrix(tmp_path / "a.txt")
    (tmp_path / "empty").write_bytes(b"")
    with pytest.raises(FileFormatError, match="the number of entries takes 4 bytes and 0 are left"):
        read_imatrix(tmp_path / "empty")
    with pytest.raises(InputError, match="cannot read the importance matrix"):
        read_imatrix(tmp_path / "absent")


@pytest.mark.parametrize("name", [f"{model}.imatrix.{ending}" for model in MODELS for ending in ("gguf", "dat")])
def test_mutated_files_are_read_or_named(tmp_path: Path, name: str) -> None:
    """250 mutations of each file: bytes flipped, numbers made huge, ends cut, pieces doubled."""
    data = (DATA / name).read_bytes()
    rng = np.random.default_rng(7)
    path = tmp_path / "mutated"
    n_refused = 0
    for _ in range(250):
        mutated = bytearray(data)
        # most of the file is values, in which nothing can be wrong but NaN: aim at the head
        at = int(rng.integers(0, min(len(mutated), 900)))
        kind = int(rng.integers(0, 5))
        if kind == 0:
            mutated[at] ^= 1 << int(rng.integers(0, 8))
        elif kind == 1:
            mutated[at : at + 4] = rng.integers(0, 2**32, dtype=np.uint64).item().to_bytes(8, "little")[:4]
        elif kind == 2:
            mutated[at : at + 8] = (2**63 - 1).to_bytes(8, "little")
        elif kind == 3:
            del mutated[int(rng.integers(0, len(mutated))) :]
        else:
            mutated[at:at] = mutated[at : at + int(rng.integers(1, 64))]
        path.write_bytes(mutated)
        try:
            found = read_imatrix(path)
        except QuantprobeError:
            n_refused += 1
        else:
            assert sum(entry.sums.size for entry in found.entries.values()) <= len(mutated)
    assert 50 < n_refused < 250
