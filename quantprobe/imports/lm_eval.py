"""lm-evaluation-harness `samples_*.jsonl`: one object per document and filter."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from quantprobe.errors import FileFormatError, InputError
from quantprobe.imports.records import AnswerFile, AnswerRecord, parse_correct, parse_id, parse_text
from quantprobe.probes.grouping import STRATA

_DEFAULT_METRICS = ("acc", "exact_match")
_NOT_METRICS = ("doc_id", "doc", "target", "arguments", "resps", "filtered_resps", "filter", "metrics")


def read_lm_eval(
    path: Path, rows: Iterable[tuple[str, dict[str, Any]]], metric: str | None, filter_name: str | None
) -> AnswerFile:
    """Answers from the objects of a samples file, each with its place for errors.

    acc is decided by the summed log-likelihoods, so margins exist for it; acc_norm divides by the length of each
    choice, which the file does not hold as used: for `metric="acc_norm"` only right or wrong is known.
    Groups are subjects, which a benchmark holds on purpose: strata.
    """
    records: list[AnswerRecord] = []
    filters: dict[str, int] = {}
    for place, row in rows:
        if "doc_id" not in row:
            raise FileFormatError(f"{place}: no doc_id; every line of a samples file has one")
        name = str(row.get("filter", "none"))
        filters[name] = filters.get(name, 0) + 1
        if filter_name is not None and name != filter_name:
            continue
        metric = metric or _default_metric(row, place)
        records.append(_record(place, row, metric))
    if filter_name is None and len(filters) > 1:
        raise InputError(f"{path} holds the filters {', '.join(filters)}; choose one of them")
    if filter_name is not None and filter_name not in filters:
        raise InputError(f"{path} has no filter {filter_name!r}; it holds {', '.join(filters)}")
    return AnswerFile(path, "lm-eval", metric or "", tuple(records), STRATA)


def _metrics_of(row: dict[str, Any]) -> list[str]:
    return [
        name
        for name, value in row.items()
        if name not in _NOT_METRICS and not name.endswith("_hash") and isinstance(value, (bool, int, float))
    ]


def _default_metric(row: dict[str, Any], place: str) -> str:
    found = _metrics_of(row)
    candidates = _DEFAULT_METRICS if len(found) != 1 else tuple(found)
    for name in candidates:
        if name in found:
            return name
    raise InputError(f"{place}: no acc or exact_match; choose the metric that says right or wrong: {', '.join(found)}")


def _record(place: str, row: dict[str, Any], metric: str) -> AnswerRecord:
    if metric not in row:
        raise InputError(f"{place}: no metric {metric!r}; it has {', '.join(_metrics_of(row))}")
    correct = parse_correct(row[metric], place, metric)
    norm = parse_correct(row["acc_norm"], place, "acc_norm") if metric == "acc" and "acc_norm" in row else None
    logprobs = _scored_choices(row, place)
    prediction, gold = _generated_text(row), None
    if logprobs:
        best = logprobs.index(max(logprobs))
        target = _gold_of(row, len(logprobs))
        prediction = str(best) if metric == "acc" else None
        # With several right answers or a mutual-information score the plain maximum is not what decided.
        gold = target if metric == "acc" and correct is not None and correct == (best == target) else None
    doc = row.get("doc")
    subject = doc.get("subject") if isinstance(doc, dict) else None
    return AnswerRecord(
        id=parse_id(row["doc_id"], place, "doc_id"),
        group=parse_text(subject, place, "subject") if isinstance(subject, str) else "",
        prediction=prediction,
        correct=correct,
        norm_correct=norm,
        gold=gold,
        logprobs=() if gold is None else logprobs,
        digest=str(row.get("doc_hash") or ""),
    )


def _scored_choices(row: dict[str, Any], place: str) -> tuple[float, ...]:
    """The log-likelihoods of a multiple-choice document, or nothing for a generated answer.

    `filtered_resps` is `[[ll, is_greedy], ...]`; newer versions write the numbers as texts.
    """
    pairs = row.get("filtered_resps")
    if not isinstance(pairs, list) or len(pairs) < 2 or not all(isinstance(p, list) and len(p) == 2 for p in pairs):
        return ()
    try:
        values = tuple(float(pair[0]) for pair in pairs)
    except (TypeError, ValueError) as error:
        raise FileFormatError(
            f"{place}: filtered_resps holds {pairs[0]!r}; [log-likelihood, is_greedy] was expected"
        ) from error
    return values if all(math.isfinite(value) for value in values) else ()


def _gold_of(row: dict[str, Any], n_choices: int) -> int | None:
    text = str(row.get("target", ""))
    return int(text) if text.isascii() and text.isdigit() and len(text) < 6 and int(text) < n_choices else None


def _generated_text(row: dict[str, Any]) -> str | None:
    answers = row.get("filtered_resps")
    if isinstance(answers, list) and len(answers) == 1 and isinstance(answers[0], str):
        return answers[0]
    return answers if isinstance(answers, str) else None
