"""The child process of `probe_decode`: one short decode, told as JSON in a file; llama.cpp may end this process.

The base writes its logits to a file. A quant compares its own with them, or with the rows of a capture.
"""

from __future__ import annotations

import json
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from quantprobe.arrays import Float32Array, FloatArray, Int64Array
from quantprobe.capture.store import Capture
from quantprobe.engine.base_rows import open_base_rows
from quantprobe.engine.devices import list_devices
from quantprobe.engine.model import Model
from quantprobe.engine.placement import output_devices
from quantprobe.engine.plan import block_rows
from quantprobe.engine.runner import probe_blocks
from quantprobe.errors import QuantprobeError
from quantprobe.gguf.model import read_model_info
from quantprobe.metrics.rows import row_metrics
from quantprobe.probes.text import TextProbe
from quantprobe.settings import Settings


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Load, decode the rows of one or a few windows, and compare them with what is there."""
    info = read_model_info(Path(job["model"]))
    settings = Settings.of(job["settings"])
    with Model(info, settings) as model:
        if job["capture"] is not None:
            return _against_capture(model, Capture.open(Path(job["capture"])), job)
        probe = _probe(model, job["text"], job["n_ctx"])
        logits = _decode(model, probe)
        result = {"n_rows": probe.n_rows, "n_finite": int(np.isfinite(logits).all(axis=1).sum())}
        result |= _perplexity(logits, probe)
        if job["write"] is not None:
            np.save(job["write"], logits)
            np.save(f"{job['write']}.tokens.npy", probe.tokens)
        if job["base"] is not None:
            base, tokens = np.load(job["base"], mmap_mode="r"), np.load(f"{job['base']}.tokens.npy")
            result |= _against_base(base, tokens, logits, probe)
        return result


def _probe(model: Model, text: str, n_ctx: int) -> TextProbe:
    """One window of the text, or as much as there is."""
    tokens = model.tokenize(text, add_special=True, parse_special=False)[:n_ctx]
    return TextProbe("probe", np.ascontiguousarray(tokens[None, :]), model.bos)


def _decode(model: Model, probe: TextProbe) -> Float32Array:
    """All rows of a probe, `[n_rows, n_vocab]`: a few hundred at most."""
    logits = np.empty((probe.n_rows, model.n_vocab), np.float32)
    with closing(probe_blocks(model, probe)) as blocks:
        for block in blocks:
            logits[block.row_ids] = block.logits
    return logits


def _perplexity(logits: Float32Array, probe: TextProbe) -> dict[str, Any]:
    """Mean -ln p of the text's own tokens over finite rows, and ln n_vocab: what guessing gives."""
    finite = np.isfinite(logits).all(axis=1)
    rows = logits[finite].astype(np.float64)
    targets = probe.targets()[finite]
    if not len(rows):
        return {"nll": None, "uniform": float(np.log(logits.shape[1]))}
    top: FloatArray = rows.max(axis=1)
    normaliser = top + np.log(np.exp(rows - top[:, None]).sum(axis=1))
    nll = float((normaliser - rows[np.arange(len(rows)), targets]).mean())
    return {"nll": nll, "uniform": float(np.log(logits.shape[1]))}


def _against_base(base: Any, tokens: Any, logits: Float32Array, probe: TextProbe) -> dict[str, Any]:
    if base.shape != logits.shape or not np.array_equal(tokens, probe.tokens):
        return {"mismatch": f"{logits.shape[1]:,} tokens of vocabulary, or other ids for one text, than the base"}
    return _summary(row_metrics(np.ascontiguousarray(base), logits, probe.targets()))


def _against_capture(model: Model, capture: Capture, job: dict[str, Any]) -> dict[str, Any]:
    """The first windows of the capture's first text, as many as give a hundred rows."""
    entry = next(each for each in capture.meta.probes if each.kind == "text")
    whole = capture.text_probe(entry.name)
    n_windows = min(whole.n_windows, int(np.searchsorted(np.cumsum(whole.row_counts()), 100)) + 1)
    windows: Int64Array = np.arange(n_windows, dtype=np.int64)
    probe, rows = whole.subset(windows)
    devices = output_devices(list_devices(), model.settings, model.info.n_layer, model.output_device)
    base_model = None if job["base_model"] is None else Path(job["base_model"])
    n_block = block_rows(model.n_vocab, model.settings.n_ubatch_used)
    base_rows = open_base_rows(capture, devices, model.settings.n_threads or 1, base_model, n_block)
    stored, targets = capture.rows(entry.name), probe.targets()
    found, n_finite = [], 0
    with closing(probe_blocks(model, probe)) as blocks:
        for block in blocks:
            wanted = stored[rows[block.row_ids]]
            found.append(base_rows.compare(wanted, entry.row_dtype, block.logits, targets[block.row_ids]))
            n_finite += int(np.isfinite(block.logits).all(axis=1).sum())
    compared = np.concatenate(found)
    finite = compared["finite"]
    nll = float(compared["nll"][finite].mean()) if finite.any() else None
    own = {"n_rows": probe.n_rows, "n_finite": n_finite, "nll": nll, "uniform": float(np.log(model.n_vocab))}
    return own | _summary(compared)


def _summary(rows: Any) -> dict[str, Any]:
    """Means over the rows that are finite in both."""
    finite = rows[rows["finite"]]
    if not len(finite):
        return {"kld": None, "kld_max": None, "same_top": None, "nll_base": None}
    return {
        "kld": float(finite["kld"].mean()),
        "kld_max": float(finite["kld"].max()),
        "same_top": float(finite["same_top"].mean()),
        "nll_base": float(finite["nll_base"].mean()),
    }


def main() -> int:
    job = json.load(sys.stdin)
    try:
        result = run(job)
    except QuantprobeError as error:
        result = {"error": str(error)}
    Path(job["result"]).write_text(json.dumps(result), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
