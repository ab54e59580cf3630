"""What a choice does: quants that differ in one recorded thing alone, compared on the same rows and the same items.

Two choices are known from what files and runs record. The importance matrix: quants of one file type and size under the
same settings whose recorded matrices differ, or of which one has none. The cache types: lines of one and the same file.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from quantprobe.arrays import FloatArray, Int64Array
from quantprobe.gguf.model import ImatrixInfo
from quantprobe.metrics.answers import Answers
from quantprobe.probes.grouping import UNGROUPED
from quantprobe.run.cohort import Cohort
from quantprobe.run.results import Quant
from quantprobe.settings import EQUIVALENCE_MARGIN
from quantprobe.stats.design import item_design
from quantprobe.stats.estimates import Estimate, cluster_mean
from quantprobe.stats.sign_flips import ChangeTable
from quantprobe.stats.verdicts import Judged, judge

HELPED, HURT, CANNOT_BE_TOLD = "helped", "hurt", "cannot be told"
IMATRIX, CACHE = "importance matrix", "cache types"
NO_MATRIX = "none"
SAME_SIZE = 0.02
"""Quants of one type whose bits per weight differ by a larger part were made by different recipes. A matrix moves them
a little by itself: llama.cpp gives some tensors of the smallest types another type without one."""


@dataclass(frozen=True)
class Pair:
    """Two quants that differ in one factor; B is judged against A."""

    factor: str
    """`IMATRIX` or `CACHE`."""
    of: str
    """What they share: the file type, or the file's name."""
    a: str
    b: str
    """Names of the quants."""
    a_level: str
    b_level: str
    """The factor's value of each: the matrix's or its text's name, or the cache types."""


@dataclass(frozen=True)
class PairShift:
    """What changed from A to B in one measure."""

    pair: Pair
    probe: str | None
    """Name of the text or task; None: all tasks pooled."""
    measure: str
    """`kld_mean` (nats, less is closer) or `net` (a fraction, more is better)."""
    change: Estimate
    """B - A; its interval holds together with those of all pairs in the same measure at `change.level`."""
    adjusted_p: float | None
    """Corrected for all pairs and probes of the measure; None where the error is unknown."""
    verdict: str
    """Of the interval: `HELPED`, `HURT`, or `CANNOT_BE_TOLD` where it holds 0 or the change is below the floor."""


def compare_variants(cohort: Cohort, level: float = 0.95) -> tuple[PairShift, ...]:
    """Every two variants of one factor, on every text and task that both have rows or answers of.

    Texts: the mean difference of the rows' KLD, clustered by window; t intervals whose error is shared evenly among
    all pairs and texts (Bonferroni). Tasks: the net change between the answers of A and B, with the simultaneous
    intervals of `stats.verdicts.judge` over all pairs, tasks and their pool. Quants that decoded a sample of the
    questions are compared on texts alone.
    """
    pairs = find_pairs(cohort)
    return (*_text_shifts(cohort, pairs, level), *_task_shifts(cohort, pairs, level)) if pairs else ()


def find_pairs(cohort: Cohort) -> list[Pair]:
    """All pairs; the variant without a matrix, or under the run's own cache types, is A."""
    quants = sorted(cohort.quants, key=lambda quant: (quant.imatrix is not None, bool(quant.variant)))
    matrices = _matrix_names(quants)
    found = []
    for a, b in itertools.combinations(quants, 2):
        if a.sha256 and a.sha256 == b.sha256:
            of = a.name if not a.variant else file_stem(a.name)
            changed = sorted(a.variant.keys() | b.variant.keys())
            levels = [_cache_level(cohort, quant, changed) for quant in (a, b)]
            found.append(Pair(CACHE, of, a.name, b.name, *levels))
        elif _same_recipe(a, b) and a.imatrix != b.imatrix:
            found.append(Pair(IMATRIX, a.file_type, a.name, b.name, matrices[a.imatrix], matrices[b.imatrix]))
    order = {quant.name: i for i, quant in enumerate(cohort.quants)}
    return sorted(found, key=lambda pair: (pair.factor, min(order[pair.a], order[pair.b])))


def file_stem(name: str) -> str:
    """The name of a line without the `[k q8_0]` that tells its cache types."""
    return re.sub(r" \[[^\]]*\]$", "", name)


def _same_recipe(a: Quant, b: Quant) -> bool:
    if not a.file_type or a.file_type != b.file_type or a.variant != b.variant:
        return False
    return a.bpw is None or b.bpw is None or abs(a.bpw - b.bpw) <= SAME_SIZE * max(a.bpw, b.bpw)


def _cache_level(cohort: Cohort, quant: Quant, names: Sequence[str]) -> str:
    """The cache types of a line, of those settings in which it or the other differs from the run."""
    return ", ".join(f"{name[-1]} {quant.variant.get(name, cohort.settings.get(name, '?'))}" for name in names)


def _matrix_names(quants: Sequence[Quant]) -> dict[ImatrixInfo | None, str]:
    """A short name for each matrix: its file, with its text or a number where two files have one name."""
    names: dict[ImatrixInfo | None, str] = {None: NO_MATRIX}
    for matrix in dict.fromkeys(quant.imatrix for quant in quants if quant.imatrix is not None):
        file, dataset = _file_name(matrix.file), _file_name(matrix.dataset)
        candidates = [name for name in (file, f"{file} ({dataset})" if file and dataset else dataset) if name]
        numbered = (f"{(candidates or ['matrix'])[0]} {i}" for i in itertools.count(2))
        names[matrix] = next(name for name in itertools.chain(candidates, numbered) if name not in names.values())
    return names


def _file_name(path: str | None) -> str:
    """The file's own name, without the ending and the `imatrix` that all have."""
    name = (path or "").replace("\\", "/").rsplit("/", 1)[-1]
    return re.sub(r"([-._]?imatrix)?\.(gguf|dat|txt)$", "", name) or name


def _text_shifts(cohort: Cohort, pairs: Sequence[Pair], level: float) -> Iterator[PairShift]:
    every = ((pair, text, _paired_rows(cohort, pair, text)) for text in cohort.texts for pair in pairs)
    found = [(pair, text, cluster_mean(*rows)) for pair, text, rows in every if rows is not None]
    alone = 1 - (1 - level) / max(1, len(found))
    for pair, text, mean in found:
        interval = mean.estimate("nats", alone)
        change = Estimate(**{**vars(interval), "level": level})
        p = None if mean.p_value is None else min(1.0, mean.p_value * len(found))
        yield PairShift(pair, text, "kld_mean", change, p, _verdict(change, cohort.floor(text) or 0.0, less=True))


def _paired_rows(cohort: Cohort, pair: Pair, text: str) -> tuple[FloatArray, Int64Array] | None:
    """KLD of B less that of A, and the window of each row: of windows that both have, rows finite in both."""
    if not all(text in cohort.quant(name).texts and cohort.has_rows(name, text) for name in (pair.a, pair.b)):
        return None
    a, b = (cohort.rows(name, text, ()) for name in (pair.a, pair.b))
    common = np.intersect1d(a["windows"], b["windows"])
    in_a, in_b = (np.isin(rows["windows"], common) for rows in (a, b))
    windows = np.asarray(a["windows"][in_a], np.int64)
    if not len(windows) or not np.array_equal(windows, b["windows"][in_b]):
        return None
    difference = np.asarray(b["kld"][in_b], np.float64) - np.asarray(a["kld"][in_a], np.float64)
    finite = np.isfinite(difference)
    return (difference[finite], windows[finite]) if finite.any() else None


def _task_shifts(cohort: Cohort, pairs: Sequence[Pair], level: float) -> Iterator[PairShift]:
    tables = {task: table for task in cohort.tasks if (table := _change_table(cohort, pairs, task)) is not None}
    if not tables:
        return
    judged = judge(tables, EQUIVALENCE_MARGIN, level)
    rows: list[tuple[str | None, Sequence[Judged | None]]] = list(judged.tasks.items())
    if judged.pooled is not None:
        rows.insert(0, (None, judged.pooled))
    for probe, of_pairs in rows:
        for pair, one in zip(pairs, of_pairs, strict=True):
            if one is not None:
                yield PairShift(pair, probe, "net", one.net, one.adjusted_p, _verdict(one.net, 0.0, less=False))


def _change_table(cohort: Cohort, pairs: Sequence[Pair], task: str) -> ChangeTable | None:
    """Changes from A to B of every pair on one task; None where no pair has answers to the same items."""
    names = dict.fromkeys(name for pair in pairs for name in (pair.a, pair.b))
    there = [name for name in names if task in cohort.quant(name).tasks and cohort.has_items(name, task)]
    read = {name: cohort.items(name, task) for name in there}
    answers = {name: one.quant for name, one in read.items() if one.sample is None}
    groups = {item: group for one in answers.values() for item, group in zip(one.ids, one.groups, strict=True)}
    places = {item: place for place, item in enumerate(groups)}
    values = np.full((len(pairs), len(places)), np.nan)
    for row, pair in zip(values, pairs, strict=True):
        if pair.a in answers and pair.b in answers:
            a, b = (_placed(answers[name], places) for name in (pair.a, pair.b))
            row[:] = b - a
    if not np.isfinite(values).any():
        return None
    facts = cohort.tasks_facts.get(task)
    return ChangeTable(values, item_design(list(groups.values()), facts.grouping if facts else UNGROUPED))


def _placed(answers: Answers, places: dict[str, int]) -> FloatArray:
    """Whether each item was answered right, `[n_places]`; NaN where it was not asked or is invalid."""
    found = np.full(len(places), np.nan)
    at = np.array([places[item] for item in answers.ids], np.int64)
    found[at] = np.where(answers.valid, answers.correct.astype(np.float64), np.nan)
    return found


def _verdict(change: Estimate, floor: float, less: bool) -> str:
    """What the interval says of B; with `less`, a smaller number is better."""
    if change.value is None or change.low is None or change.high is None or abs(change.value) <= floor:
        return CANNOT_BE_TOLD
    if change.low <= 0 <= change.high:
        return CANNOT_BE_TOLD
    return HELPED if (change.value < 0) == less else HURT
