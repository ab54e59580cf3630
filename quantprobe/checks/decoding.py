"""Checks that run the model: it loads, a short decode is finite, and the decode is one that its base could give."""

from __future__ import annotations

import importlib.resources
import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from quantprobe.capture.store import Capture
from quantprobe.checks.outcome import FAIL, UNCHECKED, WARN, Check, passed, skipped
from quantprobe.engine.decode import Decoded, probe_decode
from quantprobe.errors import EngineError
from quantprobe.settings import Settings

DECODE, PLAUSIBLE = "decode", "plausible"
N_CTX = 256
"""One window of the packaged text: 127 scored tokens."""
WARN_KLD, BROKEN_KLD = 1.0, 4.0
"""Mean KLD (nats) over the packaged text above which a quant is worth a look, and probably broken. The smallest types
that people publish (IQ1_S of 8B models) lose about 2; guessing loses ln n_vocab less the base's entropy, 7 to 10."""


@dataclass(frozen=True)
class BaseDecode:
    """The base's side of the decode: the file of its logits, or a capture."""

    folder: Path
    settings: Settings
    logits: Path | None = None
    capture: Path | None = None
    base_model: Path | None = None
    problem: str = ""
    """Why there is nothing to compare with, where a base or capture was given."""


@contextmanager
def open_base_decode(base: Path | None, capture: Path | None, settings: Settings) -> Iterator[BaseDecode]:
    """Decode the base once for all files, or take the rows of a capture; files are removed at the end.

    With a capture its own settings count, those of the machine (threads, offload) aside. A base that llama.cpp cannot
    run is told as `problem`. Raises `InputError` or `FileFormatError` for a capture that cannot be read.
    """
    with tempfile.TemporaryDirectory(prefix="quantprobe-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        if capture is not None:
            yield _of_capture(folder, capture, base, settings)
        elif base is not None:
            yield _of_base(folder, base, settings)
        else:
            yield BaseDecode(folder, settings)


def _of_capture(folder: Path, path: Path, base: Path | None, settings: Settings) -> BaseDecode:
    capture = Capture.open(path)
    machine = {"n_threads": settings.n_threads, "n_gpu_layers": settings.n_gpu_layers}
    known = {key: value for key, value in capture.meta.settings.items() if key in settings.to_dict()}
    own = Settings.of({**settings.to_dict(), **known, **machine})
    if not any(entry.kind == "text" for entry in capture.meta.probes):
        return BaseDecode(folder, settings, problem=f"the capture {path} holds no text; capture one with --text")
    return BaseDecode(folder, own, capture=path, base_model=base)


def _of_base(folder: Path, base: Path, settings: Settings) -> BaseDecode:
    logits = folder / "base.npy"
    try:
        found = probe_decode(base, settings, folder, text=probe_text(), n_ctx=N_CTX, write=logits)
    except EngineError as error:
        return BaseDecode(folder, settings, problem=f"the base could not be decoded: {error}")
    if found.error or found.n_finite < found.n_rows:
        why = found.error or f"{found.n_rows - found.n_finite} of its {found.n_rows} rows are not finite"
        return BaseDecode(folder, settings, problem=f"the base could not be decoded: {why}")
    return BaseDecode(folder, settings, logits=logits)


def probe_text() -> str:
    """The packaged text: prose, facts, code, a question."""
    return importlib.resources.files("quantprobe.checks").joinpath("data/probe.txt").read_text(encoding="utf-8")


def check_decode(path: Path, reference: BaseDecode) -> tuple[Check, Check]:
    """Load and decode in a child process, and compare with the base where there is one."""
    try:
        found = probe_decode(
            path,
            reference.settings,
            reference.folder,
            text=probe_text(),
            n_ctx=N_CTX,
            base=reference.logits,
            capture=reference.capture,
            base_model=reference.base_model,
        )
    except EngineError as error:
        return Check(DECODE, UNCHECKED, str(error)), skipped(PLAUSIBLE, "the file was not decoded")
    return _decode_check(found), _plausible_check(found, reference)


def _decode_check(found: Decoded) -> Check:
    if found.error:
        reason = f"llama.cpp could not load and decode it: {found.error}; convert or quantize it again"
        return Check(DECODE, FAIL, reason)
    if found.n_finite < found.n_rows:
        reason = (
            f"the logits of {found.n_rows - found.n_finite} of {found.n_rows} tokens are NaN or infinite, expected "
            "finite; see the checks of its values, and quantize again"
        )
        return Check(DECODE, FAIL, reason)
    return passed(DECODE, f"loads; {found.n_rows} tokens decoded, every logit finite")


def _plausible_check(found: Decoded, reference: BaseDecode) -> Check:
    if found.error or found.n_finite == 0 or found.nll is None:
        return skipped(PLAUSIBLE, "there is no decode to judge")
    if found.mismatch:
        return Check(PLAUSIBLE, FAIL, f"it has {found.mismatch}, expected the same; is it a quant of this base?")
    if reference.problem:
        return Check(PLAUSIBLE, UNCHECKED, reference.problem)
    ppl = f"perplexity {math.exp(min(found.nll, 700)):.3g}"
    if found.nll > found.uniform:
        what = f"{ppl} over {found.n_rows} tokens, worse than guessing ({math.exp(found.uniform):,.0f})"
        # a base that guesses no better is a toy
        if found.nll_base is None or found.nll_base < found.uniform:
            return Check(PLAUSIBLE, FAIL, f"probably broken: {what}; quantize again, or look at the weights")
    if found.kld is None:
        return skipped(PLAUSIBLE, f"no base to compare with (--base, --capture); {ppl} over {found.n_rows} tokens")
    same = 100 * (found.same_top or 0.0)
    numbers = f"mean KLD {found.kld:.3g} nats over {found.n_rows} tokens, same top {same:.0f} %"
    if found.kld > BROKEN_KLD:
        reason = f"probably broken: {numbers}, expected a mean KLD below {BROKEN_KLD:g}; quantize again"
        return Check(PLAUSIBLE, FAIL, reason)
    if found.kld > WARN_KLD:
        reason = f"{numbers}; only the smallest types are above {WARN_KLD:g}; measure it with sweep"
        return Check(PLAUSIBLE, WARN, reason)
    return passed(PLAUSIBLE, numbers)
