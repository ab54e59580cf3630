"""Small captures to read, damage and resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from quantprobe.capture import Capture, CaptureWriter, HeadReference, Probe
from quantprobe.gguf.model import ModelIdentity
from quantprobe.probes.items import ChoiceItem, TaskProbe
from quantprobe.probes.text import TextProbe

N_VOCAB = 300
BASE = ModelIdentity(
    name="base", path="somewhere/base.gguf", sha256="a" * 64, size_bytes=1234, bpw=16.0, file_type="F16",
    architecture="llama", n_vocab=N_VOCAB, tokenizer_sha256="b" * 64,
)  # fmt: skip
SETTINGS: dict[str, Any] = {"n_ctx": 16, "flash_attention": False, "devices": ["CPU"]}


def make_text(name: str = "wiki", n_windows: int = 3, seed: int = 0) -> TextProbe:
    rng = np.random.default_rng(seed)
    return TextProbe(name, rng.integers(0, N_VOCAB, (n_windows, 16), dtype=np.int32), bos=1)


def make_task(name: str = "arc", n_items: int = 4, gold: int = 1) -> TaskProbe:
    rng = np.random.default_rng(7)
    items = []
    for i in range(n_items):
        branches = tuple(rng.integers(0, N_VOCAB, n, dtype=np.int32) for n in (1, 2, 5))
        prefix = rng.integers(0, N_VOCAB, 6 + i, dtype=np.int32)
        items.append(
            ChoiceItem(
                f"Frage {i}é",
                "",
                gold,
                prefix,
                branches,
                1 + i % 2,
                (6, 6, 5),
                (3, 9, 20),
                (3, 9, 19),
                "Frage?",
                ("ja", "nein é", "\n"),
            )
        )
    return TaskProbe(name, "tokens", "plain", tuple(items))


def make_rows(probe: Probe, width: int = 8, seed: int = 3) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).normal(size=(probe.n_rows, width)).astype(np.float16)


def make_head(folder: Path, embedded: bool) -> HeadReference:
    """A head that lies between other bytes of a file."""
    gguf = folder / "base.gguf"
    if not gguf.exists():
        gguf.write_bytes(bytes(range(256)) * 8)
    return HeadReference("output.weight", "F16", (8, N_VOCAB), str(gguf), 100, 777, None, 30.0, "softcap", embedded)


def fill(writer: CaptureWriter, probe: Probe, width: int = 8) -> None:
    rows = writer.begin(probe, "float16", width)
    rows.write(np.arange(probe.n_rows, dtype=np.int64), make_rows(probe, width))
    rows.finish({"kld_max": 0.0})


def make_capture(folder: Path, embedded: bool = True) -> Capture:
    """A hidden capture of one text and one task, with head and bias."""
    with CaptureWriter.create(folder / "base.qpc", BASE, SETTINGS, "hidden") as writer:
        fill(writer, make_text())
        fill(writer, make_task())
        return writer.finish(make_head(folder, embedded), np.arange(N_VOCAB, dtype=np.float32))


def flip_byte(path: Path, position: int, mask: int = 1) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= mask
    path.write_bytes(data)
