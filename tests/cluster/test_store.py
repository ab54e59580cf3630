"""A worker's files: they arrive whole and checked, under names that stay inside the store."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from quantprobe.cluster.messages import Part
from quantprobe.cluster.store import SCRATCH, Store, is_shared, publish
from quantprobe.errors import FileFormatError, InputError

DATA = bytes(range(256)) * 40
PART = Part("models/" + "a" * 64, "m.gguf", len(DATA), hashlib.sha256(DATA).hexdigest())


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store", "tcp://w1")


def test_pieces_become_a_file(store: Store) -> None:
    store.append(PART, 0, DATA[:1000])
    assert store.received(PART) == 1000
    assert not store.has(PART)
    store.append(PART, 1000, DATA[1000:])
    store.finish(PART)
    assert store.has(PART)
    assert store.path(PART).read_bytes() == DATA
    assert [path.name for path in store.path(PART).parent.iterdir()] == ["m.gguf"]


def test_a_piece_out_of_order_is_refused(store: Store) -> None:
    store.append(PART, 0, DATA[:1000])
    with pytest.raises(InputError, match="has 1000 bytes, and a piece for byte 2000 came"):
        store.append(PART, 2000, DATA[2000:])


def test_damage_on_the_way_is_found(store: Store) -> None:
    store.append(PART, 0, b"\1" + DATA[1:])
    with pytest.raises(FileFormatError, match="came damaged"):
        store.finish(PART)
    assert store.received(PART) == 0
    assert not store.has(PART)


def test_two_workers_of_a_machine_receive_apart(store: Store) -> None:
    other = Store(store.folder, "tcp://w2")
    store.append(PART, 0, DATA[:500])
    other.append(PART, 0, DATA)
    other.finish(PART)
    assert store.received(PART) == 500
    assert store.has(PART)


def test_an_empty_file(store: Store) -> None:
    part = Part("captures/b", "head_bias.bin", 0, hashlib.sha256(b"").hexdigest())
    store.finish(part)
    assert store.has(part)


@pytest.mark.parametrize("name", ["../m.gguf", "/etc/passwd", "a/../../b", "C:m.gguf", "con", ""])
def test_names_that_leave_the_store_are_refused(store: Store, name: str) -> None:
    with pytest.raises(InputError, match="is no name of a file in a store"):
        store.append(Part("models/a", name, 3), 0, b"abc")
    assert not store.folder.exists()


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_shared_folder_gives_and_takes(store: Store, tmp_path: Path, scheme: str) -> None:
    share = f"{scheme}{(tmp_path / 'share').as_posix()}"
    source = tmp_path / "source"
    source.write_bytes(b"before" + DATA + b"after")
    assert not is_shared(share, PART)
    assert not store.pull(PART, share)
    publish(share, PART, source, 6)
    assert is_shared(share, PART)
    assert store.pull(PART, share)
    assert store.path(PART).read_bytes() == DATA
    assert sorted(path.name for path in (tmp_path / "share").rglob("*") if path.is_file()) == ["m.gguf"]


def test_a_damaged_shared_file_is_found(store: Store, tmp_path: Path) -> None:
    share = str(tmp_path / "share")
    source = tmp_path / "source"
    source.write_bytes(DATA[::-1])
    publish(share, PART, source, 0)
    with pytest.raises(FileFormatError, match="came damaged"):
        store.pull(PART, share)


def test_an_address_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--share nowhere://x"):
        is_shared("nowhere://x", PART)


def test_the_folder_of_a_worker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(SCRATCH, str(tmp_path))
    assert Store.of_worker("w").folder == tmp_path
    monkeypatch.delenv(SCRATCH)
    assert Store.of_worker("w").folder.name == "cluster"
