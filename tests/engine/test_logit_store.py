"""The base's logits are computed once for several quants, as far as there is room, and are the same bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from road_cases import files, succeed, write_letters
from tiny_gguf import write_tiny

from quantprobe.engine import head as head_module
from quantprobe.engine import logit_store
from quantprobe.engine.logit_store import LogitStore, key_of


def test_blocks_are_kept_while_there_is_room() -> None:
    block = np.arange(12, dtype=np.float32).reshape(3, 4)
    store = LogitStore(100)
    store.keep(b"a", block)
    store.keep(b"b", block + 1)
    store.keep(b"c", block + 2)  # 48 bytes each: the third has no room
    block[:] = 0
    found = store.find(b"a")
    assert found is not None and found.tolist() == np.arange(12).reshape(3, 4).tolist()
    assert store.find(b"b") is not None and store.find(b"c") is None


def test_a_key_tells_rows_types_and_shapes_apart() -> None:
    rows = np.arange(8, dtype=np.uint16).reshape(2, 4)
    keys = [key_of(rows, "bfloat16"), key_of(rows, "float16"), key_of(rows.reshape(4, 2), "bfloat16")]
    keys += [key_of(rows[::-1], "bfloat16"), key_of(rows[:1], "bfloat16")]
    assert len(set(keys)) == len(keys) and key_of(rows.copy(), "bfloat16") == keys[0]


@pytest.mark.parametrize(("room", "n_products"), [(1 << 30, 1), (0, 3)], ids=["all", "none"])
def test_a_sweep_multiplies_the_base_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int, n_products: int
) -> None:
    """Of three quants the first pays; their rows are those that each has by itself."""
    base = write_tiny(tmp_path / "base.gguf", head_type="F16")
    quants = [write_tiny(tmp_path / f"q{n}.gguf", noise=0.1 * n) for n in (1, 2, 3)]
    text = write_letters(tmp_path / "t.txt")
    succeed("capture", base, "--text", f"t={text}", "-c", 32, "-t", 1, "-o", tmp_path / "b.qpc")
    for number, quant in enumerate(quants):
        succeed("compare", tmp_path / "b.qpc", quant, "-t", 1, "-o", tmp_path / f"alone{number}")
    counts = []
    original = head_module.Head.compute

    def count(self: Any, hidden: Any) -> Any:
        counts.append(len(hidden))
        return original(self, hidden)

    monkeypatch.setattr(head_module.Head, "compute", count)
    monkeypatch.setattr(logit_store, "MOST_BYTES", room)
    succeed("compare", tmp_path / "b.qpc", *quants, "-t", 1, "-o", tmp_path / "together")
    n_blocks = len(counts) // n_products
    assert len(counts) == n_products * n_blocks and n_blocks > 0
    assert counts[:n_blocks] * n_products == counts
    for number in range(len(quants)):
        alone = tmp_path / f"alone{number}"
        rows = [name for name in files(alone) if name.startswith("rows/")]
        assert rows
        for name in rows:
            assert (alone / name).read_bytes() == (tmp_path / "together" / name).read_bytes()
