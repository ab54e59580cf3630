"""A short decode in a child process: what a broken file does to llama.cpp happens there."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from quantprobe.errors import EngineError
from quantprobe.settings import Settings

TIMEOUT_SECONDS = 3600
"""For loading and decoding: a file of 400 GB from a slow disk needs most of it."""
_KILLED = 9
_NO_MEMORY = ("out of memory", "failed to allocate", "unable to allocate")


@dataclass(frozen=True)
class Decoded:
    """What a short decode gave; means are over rows that are finite. None: not measured, or no such row."""

    n_rows: int = 0
    n_finite: int = 0
    nll: float | None = None
    """Mean -ln p of the text's own tokens, nats."""
    uniform: float = 0.0
    """ln n_vocab: the same for a model that knows nothing."""
    kld: float | None = None
    """Mean KL(base || this), nats."""
    kld_max: float | None = None
    same_top: float | None = None
    nll_base: float | None = None
    mismatch: str = ""
    """Why the rows cannot be compared with the base's."""
    error: str = ""
    """Why llama.cpp refused the model, with its last lines."""


def probe_decode(
    model: Path,
    settings: Settings,
    folder: Path,
    *,
    text: str = "",
    n_ctx: int = 256,
    write: Path | None = None,
    base: Path | None = None,
    capture: Path | None = None,
    base_model: Path | None = None,
) -> Decoded:
    """Load a model in a child process and decode one window of `text`, or the first windows of a capture's first text.

    `write` names the file that gets the logits; `base` the file of the base's, to compare with. `folder` takes the
    child's answer. A refusal of llama.cpp is an answer (`error`), and so is a process that ends in an assertion or a
    fault. Raises `EngineError` where that says nothing of the file: memory ran out, or the time did.
    """
    answer = folder / "answer.json"
    answer.unlink(missing_ok=True)
    job = {
        "model": str(model), "settings": settings.to_dict(), "text": text, "n_ctx": n_ctx, "result": str(answer),
        "write": _text(write), "base": _text(base), "capture": _text(capture), "base_model": _text(base_model),
    }  # fmt: skip
    try:
        done = subprocess.run(
            [sys.executable, "-m", "quantprobe.engine.decode_child"],
            input=json.dumps(job).encode("utf-8"),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise EngineError(
            f"llama.cpp did not load and decode {model.name} within {TIMEOUT_SECONDS} s; try a faster disk, or leave "
            "the decode out with --no-decode"
        ) from error
    if done.returncode == -_KILLED:
        raise EngineError(
            f"the process that loaded {model.name} was killed, as systems do where memory runs out; close other "
            "programs, or leave the decode out with --no-decode"
        )
    if done.returncode != 0 or not answer.is_file():
        return Decoded(error=f"its process ended with {_ending(done.returncode)}: {_last_lines(done.stdout)}")
    found: dict[str, Any] = json.loads(answer.read_text(encoding="utf-8"))
    if any(words in found.get("error", "").lower() for words in _NO_MEMORY):
        raise EngineError(found["error"])
    return msgspec.convert(found, Decoded)


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _ending(status: int) -> str:
    return f"signal {-status}" if status < 0 else f"status {status}"


def _last_lines(log: bytes) -> str:
    lines = [line.strip() for line in log.decode("utf-8", "replace").splitlines() if line.strip()]
    return " / ".join(lines[-4:])[-400:] or "it said nothing"
