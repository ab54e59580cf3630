"""A capture gives back what was put in, and an error that names the part for everything else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from capture_cases import BASE, N_VOCAB, SETTINGS, fill, flip_byte, make_capture, make_rows, make_task, make_text

from quantprobe.capture import Capture, CaptureWriter
from quantprobe.capture.meta_file import META_FILE, _digest, load_meta
from quantprobe.errors import FileFormatError, InputError, MismatchError
from quantprobe.probes.items import TaskProbe
from quantprobe.probes.text import TextProbe


def test_rows_and_probes_come_back(tmp_path: Path) -> None:
    made = make_capture(tmp_path)
    capture = Capture.open(made.path)
    assert capture.sha256 == made.sha256
    assert capture.meta == made.meta
    assert capture.meta.base == BASE
    assert capture.meta.settings == SETTINGS
    rows = capture.rows("wiki")
    assert rows.dtype == np.float16
    assert not rows.flags.writeable
    np.testing.assert_array_equal(rows, make_rows(make_text()))
    np.testing.assert_array_equal(capture.rows("arc"), make_rows(make_task()))
    assert capture.entry("arc").null_control == {"kld_max": 0.0}


def test_text_probe_is_equal(tmp_path: Path) -> None:
    probe, expected = make_capture(tmp_path).text_probe("wiki"), make_text()
    assert (probe.name, probe.bos, probe.sha256()) == ("wiki", 1, expected.sha256())
    assert probe.tokens.dtype == np.int32
    np.testing.assert_array_equal(probe.tokens, expected.tokens)


def test_task_probe_is_equal_in_every_field(tmp_path: Path) -> None:
    probe, expected = make_capture(tmp_path).task_probe("arc"), make_task()
    assert (probe.name, probe.rule, probe.template) == ("arc", "tokens", "plain")
    assert probe.sha256() == expected.sha256()
    assert len(probe.items) == len(expected.items)
    for item, other in zip(probe.items, expected.items, strict=True):
        np.testing.assert_array_equal(item.prefix, other.prefix)
        for branch, other_branch in zip(item.branches, other.branches, strict=True):
            np.testing.assert_array_equal(branch, other_branch)
        for field in ("id", "group", "gold", "n_prefix_rows", "starts", "n_bytes", "n_chars", "prompt", "choices"):
            assert getattr(item, field) == getattr(other, field)


def test_text_without_bos_keeps_none(tmp_path: Path) -> None:
    probe = TextProbe("plain", make_text().tokens, bos=None)
    with CaptureWriter.create(tmp_path / "a.qpc", BASE, SETTINGS, "logprobs") as writer:
        rows = writer.begin(probe, "uint16", N_VOCAB + 4)
        rows.write(np.arange(probe.n_rows, dtype=np.int64), np.ones((probe.n_rows, N_VOCAB + 4), np.uint16))
        rows.finish()
        assert writer.finish().text_probe("plain").bos is None


@pytest.mark.parametrize(("name", "dtype"), [("float16", np.float16), ("bfloat16", np.uint16), ("float32", np.float32)])
def test_hidden_row_types(tmp_path: Path, name: str, dtype: Any) -> None:
    probe = make_text()
    rows = (np.arange(probe.n_rows * 5) * 3).reshape(-1, 5).astype(dtype)
    with CaptureWriter.create(tmp_path / "a.qpc", BASE, SETTINGS, "hidden") as writer:
        row_writer = writer.begin(probe, name, 5)
        row_writer.write(np.arange(probe.n_rows, dtype=np.int64), rows)
        entry = row_writer.finish()
    assert entry.row_dtype == name
    data = np.fromfile(tmp_path / "a.qpc.partial" / entry.rows.name, rows.dtype.newbyteorder("<"))
    np.testing.assert_array_equal(data.reshape(rows.shape), rows)


def test_overhead_is_small(tmp_path: Path) -> None:
    """20 windows of 512 tokens, 576 wide in float16: 5.875 MB of rows, under 6.2 MB in all."""
    probe = TextProbe("wiki", np.full((20, 512), 49151, np.int32), bos=0)
    with CaptureWriter.create(tmp_path / "a.qpc", BASE, SETTINGS, "hidden") as writer:
        fill(writer, probe, width=576)
        writer.finish(make_capture(tmp_path, embedded=False).meta.head)
    assert 5.875e6 < sum(file.stat().st_size for file in (tmp_path / "a.qpc").iterdir()) < 6.2e6


@pytest.mark.parametrize("embedded", [True, False])
def test_head_is_found(tmp_path: Path, embedded: bool) -> None:
    capture = make_capture(tmp_path, embedded)
    assert capture.head_bytes().tobytes() == (tmp_path / "base.gguf").read_bytes()[100:877]
    bias = capture.head_bias()
    assert bias is not None
    np.testing.assert_array_equal(bias, np.arange(N_VOCAB))
    assert (capture.path / "head.bin").exists() == embedded
    assert capture.meta.head is not None
    assert (capture.meta.head.softcap, capture.meta.head.scale, capture.meta.head.shape) == (30.0, None, (8, N_VOCAB))


def test_embedded_head_needs_no_gguf(tmp_path: Path) -> None:
    capture = make_capture(tmp_path, embedded=True)
    (tmp_path / "base.gguf").unlink()
    assert Capture.open(capture.path).head_bytes().shape == (777,)


def test_referenced_head_moved_changed_or_gone(tmp_path: Path) -> None:
    capture = make_capture(tmp_path, embedded=False)
    moved = (tmp_path / "base.gguf").rename(tmp_path / "moved.gguf")
    with pytest.raises(InputError, match=r"base\.gguf is not there"):
        capture.head_bytes()
    assert capture.head_bytes(moved).shape == (777,)
    flip_byte(moved, 500)
    with pytest.raises(MismatchError, match=r"output\.weight"):
        Capture.open(capture.path).head_bytes(moved)
    moved.write_bytes(moved.read_bytes()[:500])
    with pytest.raises(FileFormatError, match="ends 377 bytes before"):
        Capture.open(capture.path).head_bytes(moved)


def test_verify_reads_every_byte_once(tmp_path: Path) -> None:
    capture = make_capture(tmp_path)
    pieces: list[int] = []
    capture.verify(pieces.append)
    assert sum(pieces) == capture.n_bytes == sum(file.n_bytes for _, file in capture.meta.files())
    assert len(capture.meta.files()) == 6


def test_every_byte_of_meta_is_covered(tmp_path: Path) -> None:
    """A changed byte is refused, or it is white space and changes nothing."""
    capture = make_capture(tmp_path)
    path = capture.path / META_FILE
    whole = path.read_bytes()
    n_refused, positions = 0, range(0, len(whole), 3)
    for i, position in enumerate(positions):
        flip_byte(path, position, mask=(0x01, 0x20, 0x80)[i % 3])
        try:
            found = load_meta(capture.path)
        except FileFormatError:
            n_refused += 1
        else:
            assert found == (capture.meta, capture.sha256)
        path.write_bytes(whole)
    assert n_refused > 0.7 * len(positions)


PARTS = [
    ("00-wiki.rows", "rows of 'wiki'"),
    ("00-wiki.probe", "tokens of 'wiki'"),
    ("01-arc.rows", "rows of 'arc'"),
    ("01-arc.probe", "tokens of 'arc'"),
    ("head.bin", "output matrix"),
    ("head_bias.bin", "output bias"),
]


def read_all(capture: Capture) -> None:
    capture.text_probe("wiki")
    capture.task_probe("arc")
    capture.rows("wiki")
    capture.rows("arc")
    capture.head_bytes()
    capture.head_bias()


@pytest.mark.parametrize(("file", "part"), PARTS)
@pytest.mark.parametrize("where", [0.0, 0.5, 1.0])
def test_one_damaged_byte_is_named_before_use(tmp_path: Path, file: str, part: str, where: float) -> None:
    path = make_capture(tmp_path).path
    size = (path / file).stat().st_size
    flip_byte(path / file, round(where * (size - 1)))
    with pytest.raises(FileFormatError, match=part):
        read_all(Capture.open(path))
    with pytest.raises(FileFormatError, match=part):
        Capture.open(path).verify()


@pytest.mark.parametrize(("file", "part"), PARTS)
@pytest.mark.parametrize("change", ["cut", "emptied", "grown", "removed"])
def test_wrong_sizes_are_refused_at_open(tmp_path: Path, file: str, part: str, change: str) -> None:
    path = make_capture(tmp_path).path
    data = (path / file).read_bytes()
    if change == "removed":
        (path / file).unlink()
    else:
        (path / file).write_bytes({"cut": data[:-1], "emptied": b"", "grown": data + b"\0"}[change])
    with pytest.raises(FileFormatError, match=file if change == "removed" else part):
        Capture.open(path)


def forge(path: Path, keys: tuple[str | int, ...], value: object) -> None:
    """Change one value of meta.json and give it a checksum that fits."""
    content = json.loads((path / META_FILE).read_text(encoding="ascii"))
    target = content
    for key in keys[:-1]:
        target = target[key]
    if value is forge:
        del target[keys[-1]]
    else:
        target[keys[-1]] = value
    content.pop("sha256", None)
    (path / META_FILE).write_text(json.dumps({"sha256": _digest(content), **content}), encoding="ascii")


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (("format_version",), 2, "format version 2"),
        (("format_version",), "1", "a count"),
        (("kind",), "dump", "a kind of capture"),
        (("kind",), forge, "'kind'"),
        (("complete",), False, "never finished"),
        (("complete",), "yes", "true or false"),
        (("base",), [], "an object"),
        (("base", "n_vocab"), -1, "a count"),
        (("base", "n_vocab"), True, "a count"),
        (("base", "bpw"), 10**400, "a number"),
        (("base", "name"), None, "text"),
        (("settings",), 3, "an object"),
        (("head", "shape"), [8, -3], "sizes"),
        (("head", "n_bytes"), 0, "a matrix"),
        (("head", "sha256"), "A" * 64, "a SHA-256"),
        (("probes",), {}, "a list"),
        (("probes", 1, "name"), "wiki", "different names"),
        (("probes", 0, "n_rows"), 2**62, "bytes for"),
        (("probes", 0, "n_rows"), 2**63, "a count"),
        (("probes", 0, "n_rows"), 0, "bytes for"),
        (("probes", 0, "row_width"), 9, "bytes for"),
        (("probes", 0, "row_width"), 0, "hold nothing"),
        (("probes", 0, "row_dtype"), "uint16", "cannot be uint16"),
        (("probes", 0, "rows", "name"), "../../secret", "a file name"),
        (("probes", 0, "rows", "name"), "CON", "a file name"),
        (("probes", 0, "rows"), forge, "'rows'"),
    ],
)
def test_forged_meta_is_refused(tmp_path: Path, keys: tuple[str | int, ...], value: object, message: str) -> None:
    path = make_capture(tmp_path).path
    forge(path, keys, value)
    with pytest.raises(FileFormatError, match=message):
        Capture.open(path)


@pytest.mark.parametrize("text", ["", "[]", "null", "{", "[" * 100_000, '{"format_version": NaN}', "\xff", "1" * 5000])
def test_meta_that_is_no_meta(tmp_path: Path, text: str) -> None:
    path = make_capture(tmp_path).path
    (path / META_FILE).write_bytes(text.encode("latin-1"))
    with pytest.raises(FileFormatError, match=r"meta\.json"):
        Capture.open(path)


def test_kind_with_other_rows_is_refused(tmp_path: Path) -> None:
    path = make_capture(tmp_path).path
    forge(path, ("kind",), "logprobs")
    with pytest.raises(FileFormatError, match="logprobs rows cannot be float16"):
        Capture.open(path)


def test_forged_probe_file_is_refused(tmp_path: Path) -> None:
    """A probe file with a fitting checksum but other tokens than the entry's digest."""
    with CaptureWriter.create(tmp_path / "other.qpc", BASE, SETTINGS, "hidden") as writer:
        fill(writer, make_text(seed=1))
    other = tmp_path / "other.qpc.partial"
    path = make_capture(tmp_path).path
    (path / "00-wiki.probe").write_bytes((other / "00-wiki.probe").read_bytes())
    entry = json.loads((other / META_FILE).read_text(encoding="ascii"))["probes"][0]
    forge(path, ("probes", 0, "probe"), entry["probe"])
    with pytest.raises(FileFormatError, match="not the probe that the capture names"):
        Capture.open(path).text_probe("wiki")


@pytest.mark.parametrize(
    "header", [b"", b"{}", b"[]", b'{"items": [{"n_tokens": [-1, 2]}]}', b'{"items": 3}', b"[" * 99999]
)
def test_forged_probe_header_is_refused(tmp_path: Path, header: bytes) -> None:
    from quantprobe.capture.probe_files import hash_bytes

    path = make_capture(tmp_path).path
    data = header + b"\n" + b"\0" * 4
    for i, file in enumerate(("00-wiki.probe", "01-arc.probe")):
        (path / file).write_bytes(data)
        forge(path, ("probes", i, "probe"), {"name": file, "n_bytes": len(data), "sha256": hash_bytes(data)})
    capture = Capture.open(path)
    with pytest.raises(FileFormatError, match="00-wiki"):
        capture.text_probe("wiki")
    with pytest.raises(FileFormatError, match="01-arc"):
        capture.task_probe("arc")


def test_unknown_and_wrong_names(tmp_path: Path) -> None:
    capture = make_capture(tmp_path)
    with pytest.raises(InputError, match="no probe 'wikki'; it has wiki, arc"):
        capture.rows("wikki")
    with pytest.raises(InputError, match=r"'arc' .* is a task probe"):
        capture.text_probe("arc")
    with pytest.raises(InputError, match="there is no capture"):
        Capture.open(tmp_path / "none.qpc")
    with pytest.raises(InputError, match="is a file"):
        Capture.open(tmp_path / "base.gguf")


def test_unfinished_capture_is_refused(tmp_path: Path) -> None:
    with CaptureWriter.create(tmp_path / "a.qpc", BASE, SETTINGS, "hidden") as writer:
        fill(writer, make_text())
    with pytest.raises(FileFormatError, match="never finished"):
        Capture.open(tmp_path / "a.qpc.partial")


NAMES = [
    "CON",
    "con",
    "nul.txt",
    "Wiki",
    "wiki",
    "a/b",
    "a\\b",
    "../up",
    "",
    ".",
    "日本語",
    "two words",
    "x" * 300,
    "a\0b",
    "trail. ",
]


def test_any_name_becomes_a_safe_file(tmp_path: Path) -> None:
    with CaptureWriter.create(tmp_path / "a b é.qpc", BASE, SETTINGS, "hidden") as writer:
        for i, name in enumerate(NAMES):
            fill(writer, make_text(name, n_windows=1 + i))
        capture = writer.finish(make_capture(tmp_path, embedded=False).meta.head)
    files = [file.name for file in capture.path.iterdir()]
    assert len({file.lower() for file in files}) == len(files) == 2 * len(NAMES) + 1
    assert all(file.isascii() and len(file) < 100 for file in files)
    found = Capture.open(capture.path)
    for i, name in enumerate(NAMES):
        assert found.text_probe(name).n_windows == 1 + i
        assert len(found.rows(name)) == make_text(name, 1 + i).n_rows


def test_task_without_branch_rows(tmp_path: Path) -> None:
    item = make_task().items[0]
    probe = TaskProbe("one", "letter", "", (item,))
    with CaptureWriter.create(tmp_path / "a.qpc", BASE, SETTINGS, "hidden") as writer:
        fill(writer, probe)
        capture = writer.finish(make_capture(tmp_path).meta.head)
    assert capture.task_probe("one").offsets() == [0, 6]
