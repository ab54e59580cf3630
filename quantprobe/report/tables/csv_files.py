"""The CSV files of a run and of a report: plain numbers in the units of `results.json`, empty where there is none."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields
from typing import Any

from quantprobe.gguf.model import ModelIdentity
from quantprobe.report.tables.pairs import probe_name
from quantprobe.report.tables.tasks import POOLED, answered
from quantprobe.report.tables.texts import measured
from quantprobe.run.cohort import Cohort
from quantprobe.run.csv_cells import format_csv
from quantprobe.run.floor import is_at_floor
from quantprobe.run.numbers import Number, cohort_numbers
from quantprobe.run.results import Quant
from quantprobe.study.variants import PairShift

TEXT_ESTIMATES = ("ppl", "ppl_base", "ln_ppl_ratio", "kld_mean", "same_top", "delta_p_mean", "delta_p_rms")
TEXT_NUMBERS = (
    *("kld_median", "kld_p90", "kld_p95", "kld_p99", "kld_p999", "kld_max"),
    *("token_drops", "token_leapfrogs", "n_rows", "n_nonfinite"),
)
TASK_ESTIMATES = (
    *("acc", "acc_base", "net", "net_smoothed", "volume", "margin_shift", "gold_prob_shift", "kld_mean"),
    *("acc_norm", "acc_norm_base"),
)
TASK_NUMBERS = (
    *("drops", "leapfrogs", "wrong_to_other_wrong", "n_items", "n_invalid", "n_ties"),
    *("direction_index", "mcnemar_p", "adjusted_p", "margin", "mde", "verdict"),
)
GROUP_NUMBERS = (
    *("n_items", "n_invalid", "acc_base", "acc", "drops", "leapfrogs", "wrong_to_other_wrong", "direction_index"),
)
GROUP_ESTIMATES = ("net", "margin_shift", "gold_prob_shift")
IDENTITY = ("name", "path", "sha256", "size_bytes", "size_gb")
ENDS = ("value", "stderr", "low", "high")


def texts_csv(cohort: Cohort) -> str:
    """results.csv: one line per quant and text; empty where no text was measured."""
    header = ["text", *IDENTITY, "size_gib", "bpw", "file_type", *_headings(TEXT_ESTIMATES, ENDS), *TEXT_NUMBERS]
    lines: list[list[Any]] = []
    for text in cohort.texts:
        floor = cohort.floor(text)
        for quant, summary in measured(cohort, text):
            kld = summary.kld_mean
            line = [text, *_identity(quant), quant.size_gib, quant.bpw, quant.file_type]
            line += [*_ends(summary, TEXT_ESTIMATES, ENDS), *(getattr(summary, name) for name in TEXT_NUMBERS)]
            lines.append(
                [
                    *line,
                    kld.n_clusters,
                    kld.level,
                    floor,
                    None if floor is None else int(is_at_floor(kld, floor)),
                    _variant(quant),
                ]
            )
    return _write([*header, "n_windows", "level", "kld_floor", "below_floor", "variant"], lines)


def categories_csv(cohort: Cohort) -> str:
    """results_categories.csv: one line per text, quant and category; empty where no text has categories.

    The intervals are not corrected for choosing among categories: the largest of many is large by chance.
    """
    header = ["text", "name", "category", *_headings(TEXT_ESTIMATES, ENDS), *TEXT_NUMBERS, "n_windows", "level"]
    lines = [
        [
            *(text, quant.name, category, *_ends(entry, TEXT_ESTIMATES, ENDS)),
            *(getattr(entry, name) for name in TEXT_NUMBERS),
            *(entry.kld_mean.n_clusters, entry.kld_mean.level),
        ]
        for text in cohort.texts
        for quant, summary in measured(cohort, text)
        for category, entry in summary.by_category.items()
    ]
    return _write(header, lines)


def tasks_csv(cohort: Cohort) -> str:
    """results_tasks.csv: one line per quant and task, and all tasks pooled; empty where no task was measured."""
    header = ["task", *IDENTITY, "bpw", "file_type", *_headings(TASK_ESTIMATES, ENDS), *TASK_NUMBERS]
    lines: list[list[Any]] = []
    for task in (*cohort.tasks, POOLED):
        for quant, summary in answered(cohort, task):
            line = [task, *_identity(quant), quant.bpw, quant.file_type, *_ends(summary, TASK_ESTIMATES, ENDS)]
            net = summary.net or summary.acc
            numbers = [getattr(summary, name) for name in TASK_NUMBERS]
            lines.append([*line, *numbers, net.n_clusters, net.level, _variant(quant)])
    return _write([*header, "n_clusters", "level", "variant"], lines)


def groups_csv(cohort: Cohort) -> str:
    """results_groups.csv: one line per task, quant and group (subject); empty where no task has groups.

    The intervals are not corrected for choosing among groups: the largest of many changes is large by chance.
    """
    ends = ("value", "low", "high")
    header = ["task", "name", "group", *GROUP_NUMBERS, *_headings(GROUP_ESTIMATES, ends)]
    lines = [
        [
            task,
            quant.name,
            group,
            *(getattr(entry, name) for name in GROUP_NUMBERS),
            *_ends(entry, GROUP_ESTIMATES, ends),
        ]
        for task in sorted(cohort.tasks)
        for quant, summary in answered(cohort, task)
        for group, entry in summary.by_group.items()
    ]
    return _write(header, lines)


def pairs_csv(shifts: Sequence[PairShift]) -> str:
    """results_pairs.csv: one line per pair of variants, text or task; empty where no quant is a variant of another.

    The intervals of one measure hold together at `level`.
    """
    header = ["factor", "of", "a", "b", "a_level", "b_level", "probe", "measure", *_headings(("change",), ENDS)]
    lines = [
        [*vars(shift.pair).values(), probe_name(shift), shift.measure, *_ends(shift, ("change",), ENDS),
         shift.adjusted_p, shift.verdict, shift.change.n, shift.change.n_clusters, shift.change.level]
        for shift in shifts
    ]  # fmt: skip
    return _write([*header, "adjusted_p", "verdict", "n", "n_clusters", "level"], lines)


def numbers_csv(cohort: Cohort) -> str:
    """quants.csv: one line per quant, probe and measure, every number of the cohort."""
    names = [each.name for each in fields(Number)]
    lines = ([getattr(number, name) for name in names] for number in cohort_numbers(cohort))
    return _write(names, lines, always=True)


def _identity(model: ModelIdentity) -> list[Any]:
    return [getattr(model, name) for name in IDENTITY]


def _variant(quant: Quant) -> str:
    """The settings that were chosen for this line alone: `type_k=q8_0`."""
    return " ".join(f"{name}={value}" for name, value in quant.variant.items())


def _headings(names: Sequence[str], ends: Sequence[str]) -> list[str]:
    return [name if end == "value" else f"{name}_{end}" for name in names for end in ends]


def _ends(summary: Any, names: Sequence[str], ends: Sequence[str]) -> list[Any]:
    found = [getattr(summary, name) for name in names]
    return [None if estimate is None else getattr(estimate, end) for estimate in found for end in ends]


def _write(header: Sequence[str], lines: Iterable[Sequence[Any]], always: bool = False) -> str:
    """CSV text without formulas; empty without lines, unless the header is wanted `always`."""
    found = list(lines)
    if not found and not always:
        return ""
    return format_csv([header, *found])
