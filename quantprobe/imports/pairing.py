"""Answers of a base and its quants, paired item by item."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from quantprobe.errors import MismatchError
from quantprobe.imports.build import ImportedAnswers, ImportedTask
from quantprobe.imports.records import AnswerFile, AnswerRecord
from quantprobe.metrics.answers import UNKNOWN, Answers, answers_from_logprobs


def pair_files(name: str, base: AnswerFile | None, quants: Sequence[tuple[str, AnswerFile]]) -> ImportedTask:
    """The answers of quants (each with its name) to the task `name`, beside those of the base where these are known.

    Items are matched by id, in any order. Margins exist where both files give the log-likelihood of every choice.
    Raises `MismatchError` if the ids, the questions behind them or the metrics differ.
    """
    first = base or quants[0][1]
    return ImportedTask(
        name=name,
        source=first.kind,
        rule=first.metric,
        answers={quant: _answers_of(base, file) for quant, file in quants},
        grouping=first.grouping,
    )


def _answers_of(base: AnswerFile | None, quant: AnswerFile) -> ImportedAnswers:
    if base is None:
        return ImportedAnswers(_pair_answers(quant.records, quant.records)[1], None)
    quant = _align(base, quant)
    before, after = _pair_answers(base.records, quant.records)
    return ImportedAnswers(after, before, _pair_norm(base.records, quant.records))


def _align(base: AnswerFile, quant: AnswerFile) -> AnswerFile:
    """The quant's records in the base's order."""
    if base.metric != quant.metric:
        raise MismatchError(
            f"{base.path} is scored by {base.metric!r} and {quant.path} by {quant.metric!r}; choose one metric for both"
        )
    by_id = {record.id: record for record in quant.records}
    known = {record.id for record in base.records}
    missing = [record.id for record in base.records if record.id not in by_id]
    extra = [record.id for record in quant.records if record.id not in known]
    if missing or extra:
        raise MismatchError(
            f"{quant.path} and {base.path} answer different items: {len(missing)} of the base's {len(known)} are "
            f"missing from the quant, {len(extra)} are the quant's alone (first: {(missing or extra)[0]!r}); "
            "compare answers to the same items"
        )
    records = tuple(by_id[record.id] for record in base.records)
    pairs = zip(base.records, records, strict=True)
    changed = [a.id for a, b in pairs if a.digest and b.digest and a.digest != b.digest]
    if changed:
        raise MismatchError(
            f"{quant.path} and {base.path} asked different questions under {len(changed)} of {len(known)} equal ids "
            f"(first: {changed[0]!r}); use the same data set, order and limit for both"
        )
    return replace(quant, records=records)


def _pair_answers(base: Sequence[AnswerRecord], quant: Sequence[AnswerRecord]) -> tuple[Answers, Answers]:
    codes = _code_predictions((*base, *quant))
    choices = [
        len(a.logprobs) if codes is None and len(a.logprobs) == len(b.logprobs) and a.gold == b.gold else 0
        for a, b in zip(base, quant, strict=True)
    ]
    groups = [record.group for record in base]
    return _to_answers(base, groups, choices, codes), _to_answers(quant, groups, choices, codes)


def _code_predictions(records: Sequence[AnswerRecord]) -> dict[str, int] | None:
    """Numbers for predictions that are texts, the same for base and quant; None where all are choice numbers."""
    texts = [record.prediction for record in records if record.prediction is not None]
    if all(text.isascii() and text.isdigit() and len(text) < 6 for text in texts):
        return None
    codes: dict[str, int] = {}
    for text in texts:
        codes.setdefault(text, len(codes))
    return codes


def _code(prediction: str | None, codes: dict[str, int] | None) -> int:
    if prediction is None:
        return UNKNOWN
    return int(prediction) if codes is None else codes[prediction]


def _to_answers(
    records: Sequence[AnswerRecord], groups: Sequence[str], choices: list[int], codes: dict[str, int] | None
) -> Answers:
    n, width = len(records), max(choices, default=0)
    logprobs = np.full((n, width), np.nan)
    margin, gold_prob = np.full(n, np.nan), np.full(n, np.nan)
    gold = np.full(n, UNKNOWN, dtype=np.int32)
    scored = [i for i, n_choices in enumerate(choices) if n_choices]
    if scored:
        for i in scored:
            logprobs[i, : choices[i]] = records[i].logprobs
            gold[i] = _gold_of(records[i])
        part = answers_from_logprobs(
            ids=[records[i].id for i in scored],
            groups=[""] * len(scored),
            gold=gold[scored],
            logprobs=logprobs[scored],
            n_choices=np.array(choices, dtype=np.int32)[scored],
            n_rows=np.zeros(len(scored), dtype=np.int32),
        )
        margin[scored], gold_prob[scored] = part.margin, part.gold_prob
    return Answers(
        ids=tuple(record.id for record in records),
        groups=tuple(groups),
        gold=gold,
        pred=np.array([_code(record.prediction, codes) for record in records], dtype=np.int32),
        correct=np.array([record.correct is True for record in records], dtype=np.bool_),
        valid=np.array([record.correct is not None for record in records], dtype=np.bool_),
        margin=margin,
        gold_prob=gold_prob,
        logprobs=logprobs,
        n_choices=np.array(choices, dtype=np.int32),
        n_rows=np.zeros(n, dtype=np.int32),
    )


def _gold_of(record: AnswerRecord) -> int:
    return UNKNOWN if record.gold is None else record.gold


def _pair_norm(base: Sequence[AnswerRecord], quant: Sequence[AnswerRecord]) -> tuple[Answers, Answers] | None:
    """Right or wrong under acc_norm, where every record of both files tells it."""
    if any(record.norm_correct is None for record in (*base, *quant)):
        return None
    pair = [
        [AnswerRecord(id=r.id, group=r.group, prediction=None, correct=r.norm_correct) for r in records]
        for records in (base, quant)
    ]
    return _pair_answers(pair[0], pair[1])


def tell_apart(paths: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that are all different: stems, else with their folders."""
    parts = [(*path.parts[:-1], path.stem) for path in paths]
    for depth in range(1, max(map(len, parts), default=1) + 1):
        names = ["/".join(part[-depth:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]
