"""The header reader: agreement with gguf's own, and every kind of damage named."""

from __future__ import annotations

import io
import os
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf import GGUFValueType
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_gguf import ARCHS, truncate, write_tiny

from quantprobe.errors import FileFormatError, InputError, QuantprobeError
from quantprobe.gguf import header as header_module
from quantprobe.gguf.header import (
    ArrayField,
    Cursor,
    Header,
    count_short_strings,
    parse_header,
    read_header,
    skip_strings,
)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("gguf") / "tiny.gguf", n_embd=32, n_layer=1, chat_template="{{ x }}")


def parse(data: bytes) -> Header:
    return parse_header(Cursor(Path("model.gguf"), io.BytesIO(data), len(data)))


def string(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


def gguf_bytes(keys: bytes = b"", n_keys: int = 0, tensors: bytes = b"", n_tensors: int = 0, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, n_tensors, n_keys) + keys + tensors


def tensor_row(name: str, shape: tuple[int, ...], type_id: int = 0, offset: int = 0) -> bytes:
    return string(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, type_id, offset)


def array_strings(header: Header, field: ArrayField) -> list[str]:
    data = header.path.read_bytes()[field.start : field.stop]
    found, at = [], 0
    while at < len(data):
        (n,) = struct.unpack_from("<Q", data, at)
        found.append(data[at + 8 : at + 8 + n].decode())
        at += 8 + n
    return found


def assert_agrees(path: Path) -> None:
    """Every key, array and tensor of the file is what gguf.GGUFReader reads."""
    header, reader = read_header(path), gguf.GGUFReader(path)
    assert list(header.metadata) == [key for key in reader.fields if not key.startswith("GGUF.")]
    for key, value in header.metadata.items():
        expected = reader.fields[key].contents()
        if not isinstance(value, ArrayField):
            assert value == expected and type(value) is type(expected), key
        elif value.kind == GGUFValueType.STRING:
            assert array_strings(header, value) == expected
        else:
            dtype = gguf.GGUFReader.gguf_scalar_to_np[GGUFValueType(value.kind)]
            data = path.read_bytes()[value.start : value.stop]
            assert np.frombuffer(data, dtype).tolist() == expected and value.n == len(expected)
    ours = [(t.name, list(t.shape), t.type_id, t.offset, t.n_bytes, t.n_elements) for t in header.tensors.values()]
    assert ours == [
        (t.name, t.shape.tolist(), int(t.tensor_type), t.data_offset, t.n_bytes, t.n_elements) for t in reader.tensors
    ]


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize(("vocab", "weight_type"), [("spm", "F32"), ("bpe", "Q8_0")])
def test_agrees_with_gguf(tmp_path: Path, arch: str, vocab: str, weight_type: str) -> None:
    assert_agrees(write_tiny(tmp_path / "m.gguf", arch=arch, vocab=vocab, weight_type=weight_type, chat_template="é"))


@pytest.mark.model
def test_agrees_with_gguf_on_a_real_model(smollm2: Path) -> None:
    assert_agrees(smollm2)


@pytest.mark.parametrize("type_name", ["F16", "BF16", "Q4_0", "Q4_1", "Q5_0"])
def test_tensor_sizes_agree_with_gguf(tmp_path: Path, type_name: str) -> None:
    assert_agrees(write_tiny(tmp_path / "m.gguf", n_layer=1, weight_type=type_name, n_vocab=1031))


@pytest.mark.parametrize("name", ["with space.gguf", "Ünïcødé-模型.gguf", "no suffix"])
def test_paths_of_any_name(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "a folder é"
    folder.mkdir()
    assert len(read_header(write_tiny(folder / name, n_layer=1)).tensors) == 12


def test_every_truncation_is_named(tiny: Path) -> None:
    data = tiny.read_bytes()
    end = max(t.offset + t.n_bytes for t in read_header(tiny).tensors.values())
    start = min(t.offset for t in read_header(tiny).tensors.values())
    assert parse(data[:end]).tensors == parse(data).tensors
    for n in [*range(0, start, 7), *range(start, end, 997), end - 1]:
        with pytest.raises(FileFormatError, match=r"truncated|not a GGUF"):
            parse(data[:n])


def test_missing_tensor_bytes_are_counted(tmp_path: Path) -> None:
    path = truncate(write_tiny(tmp_path / "m.gguf"), -1000)
    with pytest.raises(FileFormatError, match=rf"file at byte {path.stat().st_size:,}, 1,000 bytes are missing"):
        read_header(path)


BAD_FILES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "it is empty, expected b'GGUF'"),
    "other magic": (b"PK\x03\x04 and more", r"it starts with b'PK\\x03\\x04'"),
    "magic alone": (b"GGUF", "the version at byte 4 takes 4 bytes"),
    "version 1": (gguf_bytes(version=1), "GGUF version 1, expected 2 or 3"),
    "version 4": (gguf_bytes(version=4), "GGUF version 4"),
    "big endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
    "huge key count": (gguf_bytes(n_keys=2**64 - 1), "a metadata key at byte 24 takes 8 bytes"),
    "huge tensor count": (gguf_bytes(n_tensors=2**63), "a tensor name at byte 24"),
    "huge key": (gguf_bytes(struct.pack("<Q", 2**64 - 1), 1), "takes 18,446,744,073,709,551,615 bytes"),
    "empty key": (gguf_bytes(struct.pack("<Q", 0), 1), "a metadata key is empty"),
    "repeated key": (gguf_bytes((string("k") + struct.pack("<IB", 0, 1)) * 2, 2), "'k' is repeated"),
    "unknown value type": (gguf_bytes(string("k") + struct.pack("<I", 13), 1), "unknown value type 13"),
    "huge string array": (
        gguf_bytes(string("k") + struct.pack("<IIQ", 9, 8, 2**61), 1),
        "k of 2,305,843,009,213,693,952 strings",
    ),
    "huge number array": (gguf_bytes(string("k") + struct.pack("<IIQ", 9, 10, 2**62), 1), "36,893,488,147,419,103,232"),
    "nested array": (gguf_bytes(string("k") + struct.pack("<IIQ", 9, 9, 1), 1), "unknown element type 9"),
    "string past the end": (
        gguf_bytes(string("k") + struct.pack("<IIQ", 9, 8, 2) + string("a") + struct.pack("<Q", 99), 1),
        "string 1 of 2 in k at byte 66 takes 99 bytes and the file ends at byte 66",
    ),
    "alignment 3": (
        gguf_bytes(string("general.alignment") + struct.pack("<II", 4, 3), 1),
        "3, expected a power of two",
    ),
    "alignment text": (gguf_bytes(string("general.alignment") + struct.pack("<I", 8) + string("32"), 1), "'32'"),
    "five dimensions": (gguf_bytes(tensors=tensor_row("t", (1,) * 5), n_tensors=1), "5 dimensions"),
    "tensor twice": (gguf_bytes(tensors=tensor_row("t", (1,)) * 2, n_tensors=2), "'t' is listed twice"),
    "unknown tensor type": (gguf_bytes(tensors=tensor_row("t", (1,), 99), n_tensors=1), "type 99"),
    "half a block": (gguf_bytes(tensors=tensor_row("t", (48,), 8), n_tensors=1), "rows of 48, not a multiple of 32"),
    "wrong offset": (gguf_bytes(tensors=tensor_row("t", (4,), 0, 32), n_tensors=1), "data offset 32, expected 0"),
    "no data": (gguf_bytes(tensors=tensor_row("t", (2**40,)), n_tensors=1), "bytes are missing"),
}


@pytest.mark.parametrize(("data", "message"), BAD_FILES.values(), ids=BAD_FILES)
def test_damage_is_named(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(data)
    tracemalloc.start()
    try:
        with pytest.raises(FileFormatError, match=message) as caught:
            read_header(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    assert str(path) in str(caught.value)


def test_absurd_vocabulary_is_refused_before_the_loop() -> None:
    """A sparse file can be as long as any count asks: the count itself is bounded."""
    start = gguf_bytes(string("k") + struct.pack("<IIQ", 9, 8, 2**25), 1)
    cursor = Cursor(Path("m.gguf"), io.BytesIO(start), 2**40)
    with pytest.raises(FileFormatError, match="33,554,432 strings, expected at most"):
        parse_header(cursor)


def test_shrinking_file_is_named(tiny: Path) -> None:
    """Whatever the size said when the file was opened, fewer bytes are an error and not a wrong header."""
    data = tiny.read_bytes()
    for n in range(4, min(t.offset for t in read_header(tiny).tensors.values()) - 32, 11):
        with pytest.raises(FileFormatError, match=r"shrank|the file ends"):
            parse_header(Cursor(tiny, io.BytesIO(data[:n]), len(data)))


def test_unreadable_paths(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read the model"):
        read_header(tmp_path / "absent.gguf")
    with pytest.raises(InputError, match="cannot read the model"):
        read_header(tmp_path)


def test_typed_access() -> None:
    keys = string("b") + struct.pack("<I?", 7, True) + string("n") + struct.pack("<Ii", 5, -1)
    keys += string("f") + struct.pack("<If", 6, 0.5) + string("s") + struct.pack("<I", 8) + string("é")
    header = parse(gguf_bytes(keys + string("u") + struct.pack("<IQ", 10, 2**63), 5, version=2))
    assert [header.integer(key) for key in "bnfsux"] == [None, None, None, None, 2**63, None]
    assert [header.number(key) for key in "bnfsx"] == [None, -1.0, 0.5, None, None]
    assert [header.text(key) for key in "bnfsx"] == [None, None, None, "é", None]
    assert header.metadata["b"] is True


def outcome(read: Callable[[], Header]) -> Header | None:
    try:
        return read()
    except QuantprobeError:
        return None


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
def test_random_bytes_give_an_error_or_a_header(tail: bytes) -> None:
    for data in (tail, b"GGUF" + tail, gguf_bytes(tail, 1), gguf_bytes(tensors=tail, n_tensors=1)):
        header = outcome(lambda data=data: parse(data))
        if header is not None:
            assert all(tensor.offset + tensor.n_bytes <= len(data) for tensor in header.tensors.values())


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_mutated_files_give_an_error_or_a_header(tiny: Path, data: st.DataObject) -> None:
    """Change bytes of the header: what is still read lies inside the file and is never of a wrong type."""
    content = bytearray(tiny.read_bytes())
    end = min(t.offset for t in read_header(tiny).tensors.values())
    for at in data.draw(st.lists(st.integers(0, end - 1), min_size=1, max_size=4)):
        content[at] = data.draw(st.sampled_from([0, 1, 2, 8, 9, 0x7F, 0x80, 0xFF]))
    header = outcome(lambda: parse(bytes(content)))
    if header is not None:
        assert all(0 < tensor.offset <= len(content) - tensor.n_bytes for tensor in header.tensors.values())
        assert all(isinstance(value, (int, float, str, ArrayField)) for value in header.metadata.values())


def test_changed_weights_leave_the_header_alone(tiny: Path) -> None:
    content = bytearray(tiny.read_bytes())
    before = parse(bytes(content))
    first = min(t.offset for t in before.tensors.values())
    content[first:] = bytes(b ^ 0xFF for b in content[first:])
    assert parse(bytes(content)) == before


def strings(kind: str, n: int) -> list[bytes]:
    """Of the lengths that vocabularies have; with zero bytes, empty, or long ones among them."""
    rng = np.random.default_rng(len(kind))
    low, high = (0, 40) if kind == "empty" else (1, 600 if kind == "long" else 40)
    lengths = np.zeros(n, int) if kind == "all empty" else rng.integers(low, high, n)
    least, most = int(kind == "plain"), 2 if kind == "zeros" else 256
    return [rng.integers(least, most, length, dtype=np.uint8).tobytes() for length in lengths]


@pytest.mark.parametrize("kind", ["plain", "empty", "long", "zeros", "all empty"])
def test_strings_are_stepped_over_in_bulk(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the byte where the one after the last begins, whatever they hold and wherever a piece ends."""
    written = b"".join(struct.pack("<Q", len(one)) + one for one in strings(kind, 3000))
    for piece in (64, 1000, 1 << 18):
        monkeypatch.setattr(header_module, "PIECE", piece)
        cursor = Cursor(Path("m.gguf"), io.BytesIO(written + b"more"), len(written) + 4)
        skip_strings(cursor, 3000, "k")
        assert cursor.position == len(written) and cursor.take(4, "the rest") == b"more"
    n, end = count_short_strings(written, 10**6)
    assert (n == 3000 and end == len(written)) == (kind == "plain")


def test_a_header_is_parsed_once_while_the_file_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_tiny(tmp_path / "m.gguf", n_layer=1)
    os.utime(path, (1e9, 1e9))
    assert read_header(path) is not read_header(path)  # the file itself is too young: its other time says so
    monkeypatch.setattr(header_module, "SETTLED_SECONDS", -1e9)
    known = read_header(path)
    assert read_header(path) is known
    os.utime(path, (1e9, 2e9))
    assert read_header(path) is not known
