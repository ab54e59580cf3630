"""llama.cpp's own base files: in as captures, out of any capture."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantprobe.capture import llama_kld
from quantprobe.capture.store import Capture
from quantprobe.engine.base_rows import open_base_rows
from quantprobe.engine.devices import list_devices
from quantprobe.engine.placement import output_devices
from quantprobe.engine.plan import block_rows
from quantprobe.errors import InputError, MismatchError
from quantprobe.gguf.model import read_model_info
from quantprobe.probes.text import TextProbe
from quantprobe.settings import Settings
from quantprobe.sweep.inputs import Progress, identify, load_model, read_measurable


def import_kld(file: Path, model: Path, out: Path, progress: Progress) -> Capture:
    """A capture of llama.cpp's base file, its records as they are.

    `model` is the model that the file was made with: it tells the tokenizer and whether BOS begins each window, which
    the file does not.
    """
    kld = llama_kld.LlamaKldFile.open(file)
    info = read_measurable(model)
    if kld.n_vocab != info.n_vocab:
        raise MismatchError(
            f"{file} has rows of {kld.n_vocab} tokens and {model.name} a vocabulary of {info.n_vocab}; "
            "give the model that the file was made with"
        )
    info = identify(info, progress)
    with load_model(info, Settings(n_gpu_layers=0), progress) as loaded:
        bos = loaded.bos
    return llama_kld.import_kld(file, out, info.identity(), bos, {"n_ctx": kld.n_ctx}, file.stem)


def export_kld(capture_path: Path, file: Path, text: str | None, base_model: Path | None, progress: Progress) -> None:
    """Write one text of a capture as llama.cpp's base file; an imported one comes out byte by byte as it went in."""
    capture = Capture.open(capture_path)
    probe = capture.text_probe(text or _only_text(capture))
    if probe.own is not None:
        raise InputError(
            f"{probe.name!r} holds conversations, and llama.cpp's base file only windows of one length; choose a plain "
            "text with --text NAME"
        )
    progress.start(f"export {probe.name}", probe.n_rows, "row")
    try:
        llama_kld.write_kld(file, probe, capture.meta.n_vocab, _records(capture, probe, base_model, progress))
    finally:
        progress.finish()


def _only_text(capture: Capture) -> str:
    names = [entry.name for entry in capture.meta.probes if entry.kind == "text"]
    if len(names) != 1:
        raise InputError(
            f"{capture.path} holds the texts {', '.join(names) or '(none)'}; say which one with --text NAME"
        )
    return names[0]


def _records(capture: Capture, probe: TextProbe, base_model: Path | None, progress: Progress) -> Iterator[NDArray[Any]]:
    stored = capture.rows(probe.name)
    row_dtype = capture.entry(probe.name).row_dtype
    settings = Settings(n_gpu_layers=int(str(capture.meta.settings.get("n_gpu_layers", -1)))).with_threads()
    n_layer = read_model_info(base_model).n_layer if base_model is not None else 0
    devices = output_devices(list_devices(), settings, n_layer)
    n_block = block_rows(capture.meta.n_vocab, 512)
    base_rows = open_base_rows(capture, devices, settings.n_threads or 1, base_model, n_block, progress.note)
    for begin in range(0, probe.n_rows, n_block):
        block = stored[begin : begin + n_block]
        progress.advance(len(block))
        if capture.meta.kind == "llama_kld":
            yield np.ascontiguousarray(block)
        else:
            yield llama_kld.encode_records(base_rows.logits(block, row_dtype))
