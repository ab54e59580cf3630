"""Whether quants were calibrated on what a run measures: the overlap of calibration texts with texts and questions."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from quantprobe.capture.probe_files import Probe
from quantprobe.capture.store import Capture
from quantprobe.engine.model import Model
from quantprobe.errors import InputError
from quantprobe.gguf.model import read_model_info
from quantprobe.imatrix.overlap import overlap, words_of
from quantprobe.locks import locked
from quantprobe.probes.text import TextProbe
from quantprobe.run.folder import RunFolder
from quantprobe.run.results import CalibrationOverlap, Quant, read_results, write_results
from quantprobe.settings import Settings


def find_overlaps(
    capture: Capture,
    names: Sequence[str],
    quants: Sequence[Quant],
    given: Sequence[Path],
    known: Sequence[CalibrationOverlap] = (),
) -> tuple[CalibrationOverlap, ...]:
    """How much of each text and task `names` of a capture stands in the quants' calibration texts too.

    Calibration texts are the files `given` and those that a quant's recorded dataset names where there is such a file.
    What is measured is read back from the capture's tokens, with the vocabulary of the base or of any quant at hand.
    What is `known` is not computed again while both sides are the same; what was known of a calibration text that is
    not at hand now stays. Raises `InputError` for a file given that cannot be read.
    """
    probes = [entry for entry in capture.meta.probes if entry.name in names]
    digests = {entry.name: entry.probe.sha256 for entry in probes}
    kept = {(one.dataset, one.probe): one for one in known if digests.get(one.probe) == one.probe_sha256}
    found = dict(kept)
    words: dict[str, list[str]] = {}
    for dataset, text in _calibration_texts(quants, given):
        sha256 = hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()
        left = [one for one in digests if (old := kept.get((dataset, one))) is None or old.calibration_sha256 != sha256]
        if not left:
            continue
        if not words:
            words = _words_of_probes(capture, list(digests), [Path(quant.path) for quant in quants])
        calibration = words_of(text)
        for name in (name for name in left if name in words):
            shared = overlap(calibration, words[name])
            found[dataset, name] = CalibrationOverlap(
                dataset=dataset,
                probe=name,
                n=shared.n,
                n_words=shared.n_words,
                n_covered=shared.n_covered,
                example=shared.example,
                calibration_sha256=sha256,
                probe_sha256=digests[name],
            )
    return tuple(found.values())


def add_overlaps(run: RunFolder, given: Sequence[Path]) -> None:
    """Compare what a run measured with calibration texts, and enter it into `results.json`.

    Raises `InputError` if the run has no capture of its base, which holds what was measured.
    """
    results = read_results(run.results)
    captures = [Capture.open(path) for path in sorted(run.path.glob("base-*.qpc"))]
    captures = [one for one in captures if one.meta.base.sha256 == results.base.sha256]
    if not captures:
        raise InputError(
            f"{run.path} has no capture of {results.base.name}, so its texts are not at hand; "
            "give --calibration to the command that measures (sweep, compare)"
        )
    with locked(run.results_lock, lambda: None):
        results = read_results(run.results)
        names = {name for quant in results.quants for name in (*quant.texts, *quant.tasks)}
        found = results.overlaps
        for capture in captures:
            found = find_overlaps(capture, list(names), results.quants, given, found) or found
        write_results(replace(results, overlaps=found), run)


def _calibration_texts(quants: Sequence[Quant], given: Sequence[Path]) -> Iterator[tuple[str, str]]:
    """Name and content of every calibration text at hand, each name once; files given come first."""
    seen = set()
    for path in given:
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            raise InputError(f"cannot read the calibration text {path}: {error.strerror or error}") from error
        seen.add(path.name)
        yield path.name, text
    for dataset in dict.fromkeys(quant.imatrix.dataset for quant in quants if quant.imatrix is not None):
        if not dataset or (name := dataset_name(dataset)) in seen:
            continue
        try:
            text = Path(dataset).read_text(encoding="utf-8", errors="replace")
        except (OSError, ValueError):
            continue
        seen.add(name)
        yield name, text


def dataset_name(dataset: str) -> str:
    """The file's own name of a recorded path, of this system or another."""
    return dataset.replace("\\", "/").rsplit("/", 1)[-1]


def _words_of_probes(capture: Capture, names: Sequence[str], models: Sequence[Path]) -> dict[str, list[str]]:
    """The words of each probe; of texts none where no model is at hand to read their tokens."""
    found = {}
    probes: list[Probe] = []
    for name in names:
        if capture.entry(name).kind == "task":
            items = capture.task_probe(name).items
            found[name] = words_of("\n".join(" ".join([item.prompt, *item.choices]) for item in items))
        else:
            probes.append(capture.text_probe(name))
    vocabulary = next((path for path in (Path(capture.meta.base.path), *models) if path.is_file()), None)
    if probes and vocabulary is not None:
        with Model(read_model_info(vocabulary), Settings(n_gpu_layers=0), vocab_only=True) as model:
            found |= {one.name: words_of(_read_back(model, one)) for one in probes if isinstance(one, TextProbe)}
    return found


def _read_back(model: Model, probe: TextProbe) -> str:
    """The text that a probe's tokens stand for: windows follow each other, conversations stand apart."""
    if probe.own is None:
        parts = [probe.tokens.reshape(-1)]
    else:
        parts = [window[:length] for window, length in zip(probe.tokens, probe.own.lengths, strict=True)]
    pieces = {int(token): model.piece_bytes(int(token)) for token in np.unique(np.concatenate(parts))}
    texts = (b"".join(pieces[token] for token in part.tolist()) for part in parts)
    return "\n".join(text.decode("utf-8", errors="replace") for text in texts)
