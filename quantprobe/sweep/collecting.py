"""An importance matrix of a model on a text, collected in one resumable job."""

from __future__ import annotations

import io
import json
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from quantprobe.engine.devices import versions
from quantprobe.engine.imatrix_collect import Collector
from quantprobe.files import write_whole
from quantprobe.imatrix.file import write_imatrix, write_legacy
from quantprobe.imatrix.matrix import Entry, Imatrix
from quantprobe.imatrix.overlap import Overlap, text_overlap
from quantprobe.probes.text import TextProbe, read_text, text_probe
from quantprobe.settings import Settings, moves_logits
from quantprobe.sweep.inputs import Progress, identify, load_model, read_measurable

CHECKPOINT_SECONDS = 120.0
"""Most work that an interruption costs."""


@dataclass(frozen=True)
class CollectJob:
    """What to collect: of which text, and how it is read."""

    text: Path
    n_chunks: int | None = None
    process_output: bool = False
    parse_special: bool = False


def collect_imatrix(base: Path, job: CollectJob, settings: Settings, out: Path, progress: Progress) -> Imatrix:
    """Collect the importance matrix of `base` and write it to `out`: `.dat` in the old form, else GGUF.

    What was collected is saved beside `out` every two minutes and when the job is interrupted; the same call goes on
    from there. Raises `InputError` for a text that is too short or cannot be read.
    """
    text = read_text(job.text)
    info = identify(read_measurable(base), progress)
    with load_model(info, settings, progress) as model:
        tokens = model.tokenize(text, add_special=True, parse_special=job.parse_special)
        probe = text_probe(job.text.name, tokens, settings.n_ctx, job.n_chunks, model.bos)
        collector = Collector(model, probe, job.process_output)
        checkpoint = _Checkpoint(out, collector, _key(info.sha256, probe, job, model.settings))
        checkpoint.load(progress)
        _run(collector, probe, checkpoint, progress)
        imatrix = collector.imatrix(str(job.text))
    if out.suffix.lower() == ".dat":
        write_legacy(out, imatrix, probe.n_ctx)
    else:
        write_imatrix(out, imatrix)
    checkpoint.path.unlink(missing_ok=True)
    return imatrix


def check_overlap(job: CollectJob, evaluation: Path) -> Overlap:
    """How much of the evaluation text stands in the calibration text too."""
    return text_overlap(read_text(job.text), read_text(evaluation))


def _run(collector: Collector, probe: TextProbe, checkpoint: _Checkpoint, progress: Progress) -> None:
    """Collect to the end. A failed decode has been counted in part, so then only the last checkpoint stays."""
    progress.start(f"collect on {probe.name}", (probe.n_windows - collector.n_windows) * probe.n_ctx, "tok")
    saved = time.monotonic()
    try:
        for n_tokens in collector.run():
            progress.advance(n_tokens)
            if time.monotonic() - saved > CHECKPOINT_SECONDS:
                checkpoint.save()
                saved = time.monotonic()
    except KeyboardInterrupt:
        if collector.settle():
            checkpoint.save()
        raise
    finally:
        progress.finish()


def _key(model_sha256: str, probe: TextProbe, job: CollectJob, settings: Settings) -> str:
    """Everything that the sums depend on."""
    parts = {
        "model": model_sha256,
        "windows": probe.sha256(),
        "process_output": job.process_output,
        "settings": {name: value for name, value in settings.to_dict().items() if moves_logits(name)},
        "llama_cpp": versions().llama_cpp,
    }
    return json.dumps(parts, sort_keys=True)


class _Checkpoint:
    """Sums so far, in float64, in a file beside the one to be written."""

    def __init__(self, out: Path, collector: Collector, key: str) -> None:
        self.path = out.with_name(f"{out.name}.checkpoint")
        self._collector = collector
        self._key = key

    def save(self) -> None:
        arrays: dict[str, Any] = {"key": np.array(self._key), "n_windows": np.array(self._collector.n_windows)}
        entries = self._collector.entries()
        arrays["names"] = np.array(list(entries))
        for number, entry in enumerate(entries.values()):
            arrays |= {f"sums{number}": entry.sums, f"counts{number}": entry.counts}
        data = io.BytesIO()
        np.savez(data, **arrays)
        write_whole(self.path, data.getvalue())

    def load(self, progress: Progress) -> None:
        """Go on from the file if it fits; one that is damaged or of another job is only told."""
        if not self.path.exists():
            return
        try:
            with np.load(io.BytesIO(self.path.read_bytes()), allow_pickle=False) as arrays:
                key, n_windows = str(arrays["key"]), int(arrays["n_windows"])
                entries = {
                    str(name): Entry(arrays[f"sums{number}"], arrays[f"counts{number}"])
                    for number, name in enumerate(arrays["names"] if key == self._key else ())
                }
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            progress.note(f"{self.path} is damaged; collecting from the start")
            return
        if key != self._key:
            progress.note(f"{self.path} belongs to another model, text or setting; collecting from the start")
            return
        self._collector.restore(entries, n_windows)
        progress.note(f"continuing after {n_windows} windows")
