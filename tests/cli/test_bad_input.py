"""Whatever goes wrong: one line that says what and what to do, exit code 1, nothing half-made under a final name."""

from __future__ import annotations

import ctypes
import ctypes.util
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from capture_cases import flip_byte
from road_cases import Ended, environment, error_line, fail, files, results, run_process, succeed, write_letters
from tiny_gguf import truncate, write_embedding_model, write_tiny

from quantprobe.capture import Capture
from quantprobe.gguf.model import read_head_source


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return write_tiny(tmp_path / "base.gguf", head_type="F16")


@pytest.fixture
def text(tmp_path: Path) -> Path:
    return write_letters(tmp_path / "t.txt")


def sweep(base: Path, quant: Path, text: Path, *arguments: object) -> list[object]:
    return ["sweep", base, quant, "--text", text, "-c", 32, "-t", 1, "-o", base.parent / "run", *arguments]


def not_gguf(path: Path) -> Path:
    path.write_bytes(b"PK\x03\x04 something else entirely" * 10)
    return path


def other_tokens(path: Path) -> Path:
    """The same size, two pieces swapped."""
    from tiny_gguf import spm_vocabulary

    tokens = spm_vocabulary(263)["tokens"]
    tokens[260], tokens[261] = tokens[261], tokens[260]
    return write_tiny(path, n_vocab=263, extra={"tokenizer.ggml.tokens": tokens})


def without_part(path: Path) -> Path:
    first = write_tiny(path, split=3)
    first.with_name(first.name.replace("00001", "00002")).unlink()
    return first


def not_causal(path: Path) -> Path:
    return write_tiny(path, extra={"llama.attention.causal": False})


MODELS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "not a GGUF": (not_gguf, "GGUF"),
    "empty": (lambda path: truncate(write_tiny(path), 0), "GGUF"),
    "cut in the header": (lambda path: truncate(write_tiny(path), 1000), "truncated|ends"),
    "cut in the weights": (lambda path: truncate(write_tiny(path), -5000), "truncated|ends|bytes"),
    "missing part": (without_part, "00002-of-00003.gguf is missing"),
    "embedding model": (write_embedding_model, "embedding model"),
    "not causal": (not_causal, "not causal"),
    "appends EOS": (lambda path: write_tiny(path, add_eos=True), "add_eos_token"),
    "unknown architecture": (lambda path: with_architecture(path, "llamo"), "unknown model architecture: 'llamo'"),
    "missing tensor": (lambda path: without_tensor(path, "blk.1.ffn_up.weight"), "'blk.1.ffn_up.weight' not found"),
    "assertion of ggml": (lambda path: write_tiny(path, extra={"llama.expert_count": 4}), "n_expert_used"),
    "wrong shape": (lambda path: write_tiny(path, extra={"llama.feed_forward_length": 99}), "wrong shape"),
}


def with_architecture(path: Path, name: str) -> Path:
    """The header says another architecture, in its first value and in its keys."""
    data = write_tiny(path).read_bytes().replace(b"llama", name.encode(), 1)
    path.write_bytes(data.replace(b"llama.", name.encode() + b"."))
    return path


def without_tensor(path: Path, name: str) -> Path:
    """The tensor goes by another name."""
    write_tiny(path)
    data = path.read_bytes()
    assert data.count(name.encode()) == 1
    path.write_bytes(data.replace(name.encode(), name.replace("blk", "bla").encode()))
    return path


@pytest.mark.parametrize("role", ["base", "quant"])
@pytest.mark.parametrize("fault", MODELS)
def test_bad_models(tmp_path: Path, base: Path, text: Path, fault: str, role: str) -> None:
    make, words = MODELS[fault]
    folder = tmp_path / "böse modelle"
    folder.mkdir()
    bad = make(folder / "bad.gguf")
    command = sweep(bad, base, text, "-o", tmp_path / "run") if role == "base" else sweep(base, bad, text)
    message = fail(*command, findings="bad")
    assert "bad" in message
    assert any(part in message for part in words.split("|")), message
    assert not (tmp_path / "run" / "results.json").exists()
    assert not [name for name in files(tmp_path) if name.startswith("run/rows")]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: write_tiny(path, n_vocab=300), ("300 tokens", "263", "cannot be compared")),
        (other_tokens, ("different tokenizers",)),
        (lambda path: write_tiny(path, vocab="bpe", n_vocab=263), ("different tokenizers",)),
    ],
    ids=["n_vocab", "one piece", "kind"],
)
def test_other_tokenizer(tmp_path: Path, text: Path, make: Callable[[Path], Path], words: tuple[str, ...]) -> None:
    base = write_tiny(tmp_path / "base.gguf", n_vocab=263)
    message = fail(*sweep(base, make(tmp_path / "other.gguf"), text))
    for word in ("other", *words):
        assert word in message


TEXTS: dict[str, tuple[bytes | None, str]] = {
    "missing": (None, "there is no text file"),
    "empty": (b"", "is empty"),
    "blank": (b"\n \n", "is empty"),
    "too short": (b"abc", "two windows need 64"),
    "latin-1": ("Füße ".encode("latin-1") * 50, "is not UTF-8 (byte 1 is 0xfc)"),
}


@pytest.mark.parametrize("fault", TEXTS)
def test_bad_texts(tmp_path: Path, base: Path, fault: str) -> None:
    data, words = TEXTS[fault]
    path = tmp_path / "böser text.txt"
    if data is not None:
        path.write_bytes(data)
    assert words in fail("capture", base, "--text", path, "-c", 32, "-o", tmp_path / "b.qpc")
    assert not list(tmp_path.glob("*.qpc")) and not list(tmp_path.glob("*.partial"))


def test_missing_models(tmp_path: Path, base: Path, text: Path) -> None:
    assert "there is no model" in fail(*sweep(tmp_path / "no.gguf", base, text))
    assert "gives no quant" in fail(*sweep(base, tmp_path / "no.gguf", text))
    assert "is the base itself" in fail(*sweep(base, base, text))
    assert "--text" in fail("sweep", base, write_tiny(tmp_path / "q.gguf"), "-o", tmp_path / "run")


def test_a_bos_outside_the_vocabulary_never_reaches_the_decoder(tmp_path: Path, text: Path) -> None:
    """llama.cpp takes its tokenizer's usual BOS instead."""
    base = write_tiny(tmp_path / "base.gguf", extra={"tokenizer.ggml.bos_token_id": 999_999})
    assert Capture.open(capture_of(base, text)).text_probe("t").bos == 1


def capture_of(base: Path, text: Path, *arguments: object) -> Path:
    out = base.with_suffix(".qpc")
    succeed("capture", base, "--text", text, "-c", 32, "-t", 1, "-o", out, *arguments)
    return out


def test_a_capture_damaged_in_one_byte_names_the_part(tmp_path: Path, base: Path, text: Path) -> None:
    capture = capture_of(base, text, "--embed-head")
    quant = write_tiny(tmp_path / "q.gguf", noise=0.1)
    intact = {path: path.read_bytes() for path in capture.iterdir()}
    parts = {".rows": "rows of 't'", ".probe": "tokens of 't'", ".bin": "output matrix", ".json": "meta.json"}
    assert {path.suffix for path in intact} == set(parts)
    for path, data in intact.items():
        # of a number in meta.json, the last of 17 digits may mean nothing
        flip_byte(path, data.index(b"kind") if path.suffix == ".json" else len(data) // 2)
        message = fail("compare", capture, quant, "-o", tmp_path / "run")
        assert parts[path.suffix] in message and str(capture) in message, message
        path.write_bytes(data[:-1])
        assert path.name in fail("compare", capture, quant, "-o", tmp_path / "run")
        path.unlink()
        assert path.name in fail("compare", capture, quant, "-o", tmp_path / "run")
        path.write_bytes(data)
    assert not (tmp_path / "run" / "results.json").exists()
    succeed("compare", capture, quant, "-o", tmp_path / "run")


def test_a_damaged_base_is_not_taken_for_the_base(tmp_path: Path, base: Path, text: Path) -> None:
    capture = capture_of(base, text)
    head = read_head_source(base)
    flip_byte(base, head.offset + 5)
    assert "output matrix" in fail("compare", capture, write_tiny(tmp_path / "q.gguf"), "-o", tmp_path / "run")


KLD_FAULTS: dict[str, tuple[Callable[[bytearray], Any], str]] = {
    "truncated": (lambda data: data.__delitem__(slice(-7, None)), "bytes"),
    "another magic": (lambda data: data.__setitem__(0, 0x20), "_logits_"),
    "other n_vocab": (lambda data: data.__setitem__(slice(12, 16), (300).to_bytes(4, "little")), "bytes"),
    "no windows": (lambda data: data.__setitem__(slice(16, 20), bytes(4)), "0"),
    "negative n_ctx": (lambda data: data.__setitem__(slice(8, 12), b"\xff" * 4), "-1"),
    "billions of windows": (lambda data: data.__setitem__(slice(16, 20), b"\xff\xff\xff\x7f"), "2"),
    "header alone": (lambda data: data.__delitem__(slice(20, None)), "bytes"),
    "empty": (lambda data: data.clear(), "_logits_"),
}


@pytest.mark.parametrize("fault", KLD_FAULTS)
def test_bad_base_files(tmp_path: Path, base: Path, text: Path, fault: str) -> None:
    file = tmp_path / "base.kld"
    succeed("kld", "export", capture_of(base, text), file)
    data = bytearray(file.read_bytes())
    change, word = KLD_FAULTS[fault]
    change(data)
    file.write_bytes(data)
    out = tmp_path / "imported.qpc"
    message = fail("kld", "import", file, "--model", base, "-o", out)
    assert "base.kld" in message and word in message
    assert not out.exists()


def test_base_file_of_another_vocabulary(tmp_path: Path, base: Path, text: Path) -> None:
    file = tmp_path / "base.kld"
    succeed("kld", "export", capture_of(base, text), file)
    other = write_tiny(tmp_path / "other.gguf", n_vocab=300)
    assert "vocabulary of 300" in fail("kld", "import", file, "--model", other, "-o", tmp_path / "i.qpc")


@pytest.mark.parametrize("command", ["sweep", "capture", "compare", "export", "json"])
def test_output_that_cannot_be_written(tmp_path: Path, base: Path, text: Path, command: str) -> None:
    """A file lies where a folder is needed: that refuses root as well."""
    blocked = tmp_path / "in the way"
    blocked.write_text("kept")
    quant = write_tiny(tmp_path / "q.gguf", noise=0.1)
    capture = capture_of(base, text)
    commands: dict[str, list[object]] = {
        "sweep": sweep(base, quant, text, "-o", blocked / "run"),
        "capture": ["capture", base, "--text", text, "-c", 32, "-o", blocked / "b.qpc"],
        "compare": ["compare", capture, quant, "-o", blocked],
        "export": ["kld", "export", capture, blocked / "x.kld"],
        "json": ["compare", capture, quant, "-o", tmp_path / "run", "--json", blocked / "x.json"],
    }
    if command == "json":
        ended = run_process(*commands[command])
        assert ended.status == 1
        error_line(1, "", ended.stderr)
    else:
        assert "in the way" in fail(*commands[command])
    assert blocked.read_text() == "kept"


def mount(folder: Path, options: str) -> None:
    """A tmpfs of our own, on Linux as root."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        pytest.skip("mounting a small tmpfs needs root on Linux")
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", 0, options.encode()) != 0:
        pytest.skip(f"a tmpfs cannot be mounted here: {os.strerror(ctypes.get_errno())}")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 512 KB."""
    folder = tmp_path / "small disk"
    folder.mkdir()
    mount(folder, "size=512k")
    yield folder
    assert ctypes.CDLL(None).umount2(os.fsencode(folder), 2) == 0


def fill_disk(disk: Path, n_free: int) -> Path:
    """A file that leaves `n_free` bytes."""
    ballast = disk / "ballast"
    with ballast.open("wb") as file:
        file.write(bytes(shutil.disk_usage(disk).free - n_free))
    return ballast


def final_names(folder: Path) -> list[str]:
    return [name for name in files(folder) if ".partial" not in name and name != "ballast" and ".lock" not in name]


@pytest.mark.parametrize("n_free", [0, 4096, 8192, 16384, 24576])
def test_disk_full_during_capture(small_disk: Path, base: Path, text: Path, n_free: int) -> None:
    """Some 23 KB of rows, then meta.json and the tokens; wherever space runs out."""
    ballast = fill_disk(small_disk, n_free)
    out = small_disk / "b.qpc"
    command = ["capture", base, "--text", text, "-c", 32, "-t", 1, "-o", out]
    message = fail(*command)
    assert "space" in message.lower()
    assert final_names(small_disk) == []
    ballast.unlink()
    succeed(*command)
    Capture.open(out).verify()
    assert sorted(path.name for path in small_disk.iterdir()) == ["b.qpc", "b.qpc.lock"]


@pytest.mark.parametrize("n_free", [0, 4096, 8192, 12288, 20480])
def test_disk_full_during_compare(tmp_path: Path, small_disk: Path, base: Path, text: Path, n_free: int) -> None:
    capture = capture_of(base, text)
    quant = write_tiny(tmp_path / "q.gguf", noise=0.1)
    ballast = fill_disk(small_disk, n_free)
    command = ["compare", capture, quant, "-t", 1, "-o", small_disk / "run"]
    message = fail(*command)
    assert "space" in message.lower() and "small disk" in message
    assert not [name for name in files(small_disk) if name.endswith(".partial")]
    for name in final_names(small_disk):
        if name.endswith(".npz"):
            np.load(small_disk / name)["kld"]
    ballast.unlink()
    succeed(*command)
    assert results(small_disk / "run")["quants"][0]["texts"]["t"]["n_rows"] == 180


def test_read_only_disk(tmp_path: Path, base: Path, text: Path) -> None:
    folder = tmp_path / "read only"
    folder.mkdir()
    mount(folder, "size=64k,ro")
    try:
        for command in (
            ["capture", base, "--text", text, "-c", 32, "-o", folder / "b.qpc"],
            sweep(base, write_tiny(tmp_path / "q.gguf"), text, "-o", folder / "run"),
        ):
            assert "ead-only" in fail(*command)
    finally:
        ctypes.CDLL(None).umount2(os.fsencode(folder), 2)


LIMITED = """
import resource, sys
import psutil
import quantprobe.report.finish, quantprobe.report.terminal, quantprobe.sweep
import quantprobe.capture.logprobs, quantprobe.metrics.rows
from quantprobe.cli.main import main
limit = psutil.Process().memory_info().vms + int(float(sys.argv.pop(1)) * 1e6)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
main()
"""


def run_limited(n_mb: float, *arguments: object) -> Ended:
    """A command that can have `n_mb` more than it holds once everything is imported."""
    command = [sys.executable, "-c", LIMITED, str(n_mb), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, timeout=120, env=environment(), check=False)
    return Ended(done.returncode, done.stdout.decode(), done.stderr.decode())


BIG_MB = 40
"""Size of the model below; what it needs beyond that is asked for in steps: KV cache, metadata, compute, output."""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="address-space limits are kept on Linux alone")
@pytest.mark.parametrize(
    ("n_mb", "options", "words"),
    [
        (BIG_MB / 2, [], "could not load"),
        (BIG_MB / 2, ["--no-mmap"], "could not load"),
        (BIG_MB + 10, [], "could not make a context"),  # ggml asserts on its metadata, which ended the process
        (BIG_MB + 30, [], "memory"),
    ],
)
def test_out_of_memory(tmp_path: Path, text: Path, n_mb: float, options: list[str], words: str) -> None:
    base = write_tiny(tmp_path / "big.gguf", n_embd=1024, n_layer=1)
    assert base.stat().st_size == pytest.approx(BIG_MB * 1e6, rel=0.02)
    out = tmp_path / "b.qpc"
    ended = run_limited(n_mb, "capture", base, "--text", text, "-c", 32, "-t", 1, "-o", out, *options)
    message = error_line(ended.status, ended.stdout, ended.stderr)
    assert words in message and "memory" in message
    assert not out.exists()


def with_nan(path: Path, tensor: str, index: int, **options: Any) -> Path:
    """A tiny model with one weight that is not a number."""
    write_tiny(path, **options)
    reader = gguf.GGUFReader(path, "r+")
    [found] = [t for t in reader.tensors if t.name == tensor]
    found.data.reshape(-1)[index] = np.nan
    del found, reader
    return path


def test_rows_that_are_not_numbers_are_counted(tmp_path: Path, base: Path) -> None:
    """A NaN in the embedding of one token: the rows after it in its windows have no logits."""
    text = tmp_path / "t.txt"
    text.write_text("abcdefgh" * 8 + "abcZefgh" * 4 + "abcdefgh" * 12, encoding="utf-8", newline="\n")
    token = 3 + ord("Z")
    quant = with_nan(tmp_path / "nan.gguf", "token_embd.weight", 64 * token)
    printed = succeed(*sweep(base, quant, text)).stdout
    [entry] = [quant["texts"]["t"] for quant in results(tmp_path / "run")["quants"]]
    n_rows = entry["n_rows"] + entry["n_nonfinite"]
    assert n_rows == 90 and 0 < entry["n_nonfinite"] < n_rows
    clean = write_tiny(tmp_path / "clean.gguf")
    succeed(*sweep(base, clean, text, "-o", tmp_path / "other"))
    with np.load(tmp_path / "other/rows/clean/t.npz") as arrays, np.load(tmp_path / "run/rows/nan/t.npz") as broken:
        assert np.count_nonzero(~broken["finite"]) == entry["n_nonfinite"]
        assert entry["kld_mean"]["value"] == pytest.approx(arrays["kld"][broken["finite"]].mean(), rel=1e-9)
    words = f"nan: {entry['n_nonfinite']} rows of t held NaN or infinity"
    assert words in printed
    assert words in (tmp_path / "run" / "results.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("options", [["-fa", "on"], ["-fa", "off"]], ids=" ".join)
def test_one_window_does_not_spoil_the_next(tmp_path: Path, base: Path, options: list[str]) -> None:
    """What a window left in the KV cache is masked, and 0 x NaN is NaN; each window takes two micro-batches here."""
    text = tmp_path / "t.txt"
    text.write_text("abcdefgh" * 8 + "abcZefgh" * 4 + "abcdefgh" * 12, encoding="utf-8", newline="\n")
    quant = with_nan(tmp_path / "nan.gguf", "token_embd.weight", 64 * (3 + ord("Z")))
    succeed(*sweep(base, quant, text, "-ub", 16, *options))
    with np.load(tmp_path / "run/rows/nan/t.npz") as arrays:
        assert set(arrays["windows"][~arrays["finite"]]) == {2}


def test_a_model_without_any_number(tmp_path: Path, base: Path, text: Path) -> None:
    quant = with_nan(tmp_path / "nan.gguf", "output_norm.weight", 0)
    ended = run_process(*sweep(base, quant, text))
    assert ended.status == 0
    [finding] = ended.stderr.splitlines()
    assert finding.startswith("nan: broken (finite values): ") and "output_norm.weight" in finding
    [entry] = [quant["texts"]["t"] for quant in results(tmp_path / "run")["quants"]]
    assert (entry["n_rows"], entry["n_nonfinite"]) == (0, 180)
    for name in ("ppl", "kld_mean", "same_top", "delta_p_rms"):
        assert entry[name]["value"] is None and entry[name]["n"] == 0
    assert entry["kld_max"] is None
    assert "180 rows of t held NaN or infinity" in ended.stdout


def test_a_base_without_any_number(tmp_path: Path, base: Path, text: Path) -> None:
    broken = with_nan(tmp_path / "nan.gguf", "output_norm.weight", 0)
    printed = succeed(*sweep(broken, base, text)).stdout
    found = results(tmp_path / "run")
    [entry] = [quant["texts"]["t"] for quant in found["quants"]]
    assert (entry["n_rows"], entry["n_nonfinite"]) == (0, 180)
    control = found["null_control"]["texts"]["t"]
    assert (control["kld_mean"]["value"], control["kld_max"], control["same_top"]["value"]) == (None, None, None)
    assert "no row of the base is a number" in printed and "exactly 0" not in printed


# a shell without job control starts background jobs, and all that they start, with SIGINT ignored
INTERRUPTIBLE = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from quantprobe.cli.main import main
main()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="a console's Ctrl-C cannot be sent to one process on Windows")
@pytest.mark.parametrize("delay", [0.0, 0.7])
def test_ctrl_c(tmp_path: Path, delay: float) -> None:
    """Sent once the capture has begun: one line, exit code 130, nothing under the final name, and it continues."""
    base = write_tiny(tmp_path / "base.gguf", n_embd=256, n_layer=4)
    text = write_letters(tmp_path / "t.txt", 120_000)
    out = tmp_path / "b.qpc"
    command = [sys.executable, "-c", INTERRUPTIBLE, "capture", base, "--text", text, "-c", "512", "-o", out]
    with subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()
    ) as child:
        begun = tmp_path / "b.qpc.partial"
        while not list(begun.glob("*.rows")):
            assert child.poll() is None, child.stderr.read() if child.stderr else ""
            time.sleep(0.01)
        time.sleep(delay)
        child.send_signal(signal.SIGINT)
        stdout, stderr = child.communicate(timeout=60)
    assert child.returncode == 130, stderr
    assert (stdout, stderr) == (b"", b"stopped; re-run the command to resume\n")
    assert not out.exists()
