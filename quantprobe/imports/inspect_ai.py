"""inspect_ai logs: a `.json` log, or an `.eval` archive with one JSON file per sample."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from quantprobe.errors import FileFormatError, InputError
from quantprobe.imports.records import AnswerFile, AnswerRecord, parse_correct, parse_id, parse_json, parse_text
from quantprobe.probes.grouping import CLUSTERS, STRATA

_MAX_SAMPLE_BYTES = 1 << 28
_PIECE_BYTES = 1 << 20
_LETTERS = {"C": True, "I": False, "N": False}
"""inspect_ai's own reading: no answer (N) counts as wrong; partial (P) is 0.5 there and is refused here."""


def is_inspect_log(content: object) -> bool:
    """Whether a JSON value is an inspect_ai log."""
    return isinstance(content, dict) and isinstance(content.get("eval"), dict) and "status" in content


def read_inspect_log(path: Path, content: dict[str, Any], scorer: str | None) -> AnswerFile:
    """Answers from the content of a `.json` log. Raises `FileFormatError` if it was written without samples."""
    samples = content.get("samples")
    if not isinstance(samples, list) or not samples:
        raise FileFormatError(f"{path} is an inspect_ai log without samples; log them, or give the .eval file")
    return _read_samples(path, ((f"{path}, sample {i}", sample) for i, sample in enumerate(samples, 1)), scorer)


def read_inspect_archive(path: Path, scorer: str | None) -> AnswerFile:
    """Answers from an `.eval` archive. Raises `FileFormatError` for a damaged one, or a compression Python lacks."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.startswith("samples/") and name.endswith(".json")]
            if not names:
                raise FileFormatError(f"{path} is a zip without samples/*.json; an inspect_ai .eval log was expected")
            return _read_samples(
                path, ((f"{path}, {name}", _read_entry(archive, name, path)) for name in names), scorer
            )
    except NotImplementedError as error:
        raise FileFormatError(
            f"{path} uses a compression that this Python cannot read ({error}); "
            "convert it with `inspect log convert --to json`"
        ) from error
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        raise FileFormatError(f"{path} is a damaged or encrypted archive: {error}") from error


def _read_entry(archive: zipfile.ZipFile, name: str, path: Path) -> Any:
    pieces: list[bytes] = []
    with archive.open(name) as file:
        # by pieces: zipfile takes the memory that it is asked for, whatever the file has
        while sum(map(len, pieces)) <= _MAX_SAMPLE_BYTES and (piece := file.read(_PIECE_BYTES)):
            pieces.append(piece)
    data = b"".join(pieces)
    if len(data) > _MAX_SAMPLE_BYTES:
        raise FileFormatError(f"{path}, {name}: one sample of more than {_MAX_SAMPLE_BYTES >> 20} MiB; nothing is read")
    return parse_json(data, f"{path}, {name}")


def _read_samples(path: Path, samples: Iterable[tuple[str, Any]], scorer: str | None) -> AnswerFile:
    records, epochs = [], []
    for place, sample in samples:
        if not isinstance(sample, dict) or "id" not in sample:
            raise FileFormatError(f"{place}: a sample with an id was expected")
        scores = sample.get("scores")
        scores = scores if isinstance(scores, dict) else {}
        if scorer is None and scores:
            scorer = _only_scorer(scores, place)
        if scores and scorer not in scores:
            raise InputError(f"{place}: no scorer {scorer!r}; it has {', '.join(scores)}")
        records.append(_record(place, sample, scores.get(scorer)))
        epochs.append(sample.get("epoch", 1))
    if len(set(map(str, epochs))) < 2:
        return AnswerFile(path, "inspect", scorer or "", tuple(records), STRATA)
    # Epochs repeat a question: each is an item, and the question is their cluster.
    repeated = tuple(_of_epoch(record, epoch) for record, epoch in zip(records, epochs, strict=True))
    return AnswerFile(path, "inspect", scorer or "", repeated, CLUSTERS)


def _of_epoch(record: AnswerRecord, epoch: object) -> AnswerRecord:
    return AnswerRecord(
        id=f"{record.id}#{epoch}", group=record.id, prediction=record.prediction, correct=record.correct
    )


def _only_scorer(scores: dict[str, Any], place: str) -> str:
    if len(scores) > 1:
        raise InputError(f"{place}: scored by {', '.join(scores)}; choose the one that says right or wrong")
    return next(iter(scores))


def _record(place: str, sample: dict[str, Any], score: object) -> AnswerRecord:
    value = score.get("value") if isinstance(score, dict) else score
    answer = score.get("answer") if isinstance(score, dict) else None
    known = isinstance(value, str) and value in _LETTERS
    metadata = sample.get("metadata")
    subject = metadata.get("subject") if isinstance(metadata, dict) else None
    return AnswerRecord(
        id=parse_id(sample["id"], place, "id"),
        group=parse_text(subject, place, "subject") if isinstance(subject, str) else "",
        prediction=answer if isinstance(answer, str) and answer else None,
        correct=_LETTERS[str(value)] if known else parse_correct(value, place, "the score"),
    )
