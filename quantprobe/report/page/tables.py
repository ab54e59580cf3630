"""The tables of the page: all quants at a glance, each task in full, each subject of a task, the biggest flips."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from quantprobe.names import safe_name
from quantprobe.probes.items import Question
from quantprobe.report.page.cells import (
    Cell,
    Column,
    DataTable,
    count_cell,
    estimate_cell,
    interval_cell,
    plain_cell,
    size_cell,
    verdict_cell,
)
from quantprobe.run.cohort import Cohort, ItemTable, QuantRecord, TaskRecord
from quantprobe.stats.paired import holm, mcnemar_p

MAX_SUBJECTS = 120
MIN_SUBJECT_ITEMS = 5
N_FLIPS = 8


def main_table(cohort: Cohort) -> DataTable:
    """One line per quant: size, then three columns per text and two per task."""
    columns = [Column("Quant", ""), Column("Size", "GB"), Column("bpw", "bits")]
    for text in cohort.texts:
        columns += [Column("Mean KLD", "nats", text), Column("99 % KLD", "nats", text), Column("Same top", "%", text)]
    for task in cohort.tasks:
        columns += [Column("Net change", "pp", task), Column("Verdict", "", task)]
    rows = tuple(_main_row(cohort, quant) for quant in cohort.quants)
    caption = "Every quant: distance from the base on each text, net change of accuracy on each task"
    return DataTable("all-quants", caption, tuple(columns), rows)


def _main_row(cohort: Cohort, quant: QuantRecord) -> tuple[Cell, ...]:
    cells = [Cell(quant.name, quant.name), size_cell(quant), plain_cell(quant.bpw)]
    for name in cohort.texts:
        values = quant.texts[name].values if name in quant.texts else {}
        cells += [estimate_cell(values.get("kld_mean"))]
        cells += [plain_cell(values["kld_p99"].value if "kld_p99" in values else None)]
        cells += [estimate_cell(values.get("same_top"), 100)]
    for name in cohort.tasks:
        task = quant.tasks.get(name)
        cells += [
            interval_cell(task.values.get("net") if task else None, 100),
            verdict_cell(task.verdict if task else None),
        ]
    return tuple(cells)


def task_table(cohort: Cohort, task: str) -> DataTable:
    """One task in full, one line per quant that was measured on it."""
    titles = (
        ("Quant", ""), ("Accuracy", "%"), ("Drops", "items"), ("Leapfrogs", "items"), ("Wrong to other wrong", "items"),
        ("Volume", "%"), ("Net change", "pp"), ("Direction index", "-1 to +1"), ("Margin shift", "nats"),
        ("McNemar p, Holm", ""), ("Detectable", "pp"), ("Verdict", ""), ("Items", ""), ("Invalid", "items"),
    )  # fmt: skip
    measured = [(quant, quant.tasks[task]) for quant in cohort.quants if task in quant.tasks]
    rule = measured[0][1].rule if measured else ""
    base = next((t.values["acc_base"] for _, t in measured if t.values.get("acc_base")), None)
    accuracy = "" if base is None else f"; accuracy of the base {estimate_cell(base, 100).text} %"
    columns = tuple(Column(title, unit) for title, unit in titles)
    rows = tuple(_task_row(quant, record) for quant, record in measured)
    return DataTable(f"task-{safe_name(task)}", f"{task}, scored by the rule “{rule}”{accuracy}", columns, rows)


def _task_row(quant: QuantRecord, task: TaskRecord) -> tuple[Cell, ...]:
    def plain(key: str, scale: float = 1.0) -> Cell:
        return plain_cell(task.values[key].value if key in task.values else None, scale)

    return (
        Cell(quant.name, quant.name),
        estimate_cell(task.values.get("acc"), 100),
        count_cell(task.counts.get("drops")),
        count_cell(task.counts.get("leapfrogs")),
        count_cell(task.counts.get("wrong_to_other_wrong")),
        estimate_cell(task.values.get("volume"), 100),
        interval_cell(task.values.get("net"), 100),
        plain("direction_index"),
        interval_cell(task.values.get("margin_shift")),
        plain("holm_p"),
        plain("mde", 100),
        verdict_cell(task.verdict),
        count_cell(task.counts.get("n_items")),
        count_cell(task.counts.get("n_invalid")),
    )


def subject_table(task: str, answers: Mapping[str, ItemTable]) -> DataTable | None:
    """Net change of accuracy (pp, ± one standard error) of each quant in each subject; None if there are no subjects.

    A star marks cells whose exact McNemar p survives Holm's correction over the whole table. Subjects exist
    where items share groups: at most 120 groups, of five items or more on average.
    """
    n_of: dict[str, int] = {}
    for table in answers.values():
        for group in dict.fromkeys(table.group):
            n_of[group] = max(n_of.get(group, 0), table.group.count(group))
    subjects = [group for group in n_of if group]
    if not 2 <= len(subjects) <= MAX_SUBJECTS or sum(n_of[s] for s in subjects) < MIN_SUBJECT_ITEMS * len(subjects):
        return None
    flips = {quant: _subject_flips(table) for quant, table in answers.items()}
    cells = [(q, s) for q in flips for s in subjects if s in flips[q]]
    p = holm(mcnemar_p([flips[q][s][0] for q, s in cells], [flips[q][s][1] for q, s in cells]))
    clear = {cell for cell, corrected in zip(cells, p, strict=True) if corrected <= 0.05}
    columns = (Column("Subject", ""), Column("Items", ""), *(Column(quant, "pp") for quant in answers))
    rows = []
    for subject in sorted(subjects):
        nets = [_subject_cell(flips[q].get(subject), (q, subject) in clear) for q in answers]
        rows.append((Cell(subject, subject), count_cell(n_of[subject]), *nets))
    caption = f"{task} by subject: net change in percentage points ± one standard error"
    return DataTable(f"subjects-{safe_name(task)}", caption, columns, tuple(rows))


def _subject_flips(table: ItemTable) -> dict[str, tuple[int, int, int]]:
    """Drops, leapfrogs and items of each group."""
    names, inverse = np.unique(np.array(table.group, dtype=np.str_), return_inverse=True)
    drops = np.bincount(inverse, table.base_correct & ~table.quant_correct, len(names))
    leapfrogs = np.bincount(inverse, ~table.base_correct & table.quant_correct, len(names))
    sizes = np.bincount(inverse, minlength=len(names))
    return {str(n): (int(d), int(f), int(s)) for n, d, f, s in zip(names, drops, leapfrogs, sizes, strict=True)}


def _subject_cell(flips: tuple[int, int, int] | None, clear: bool) -> Cell:
    if flips is None:
        return Cell("n/a", None)
    drops, leapfrogs, n = flips
    net = (leapfrogs - drops) / n
    if n < 2:
        return Cell(f"{net * 100:+.0f} (1 item)", net)
    stderr = np.sqrt(max((drops + leapfrogs) / n - net**2, 0.0) / (n - 1))
    return Cell(f"{net * 100:+.1f} ± {stderr * 100:.1f}{' *' if clear else ''}", net, "clear" if clear else "")


@dataclass(frozen=True)
class Flip:
    """One question whose correctness changed in many quants."""

    id: str
    group: str
    direction: str
    """`drop` or `leapfrog`."""
    n_flipped: int
    n_quants: int
    base_margin: float | None
    quant_margin: float | None
    """Median over the quants that flipped; nats."""
    question: Question | None
    gold: int
    other: int
    """The wrong choice: the quants' most frequent one for a drop, the base's for a leapfrog; -1 if unknown."""


def biggest_flips(answers: Mapping[str, ItemTable], questions: Mapping[str, Question]) -> list[Flip]:
    """The eight drops and eight leapfrogs that most quants share; ties go to the larger sum of margin shifts."""
    seen: dict[tuple[str, str], list[tuple[ItemTable, int]]] = {}
    for table in answers.values():
        for direction, mask in (
            ("drop", table.base_correct & ~table.quant_correct),
            ("leapfrog", ~table.base_correct & table.quant_correct),
        ):
            for index in np.flatnonzero(mask):
                seen.setdefault((direction, table.id[index]), []).append((table, int(index)))

    def weight(entry: tuple[tuple[str, str], list[tuple[ItemTable, int]]]) -> tuple[int, float]:
        shifts = [abs(float(t.quant_margin[i] - t.base_margin[i])) for t, i in entry[1]]
        return len(shifts), float(np.nansum(shifts))

    ranked = sorted(seen.items(), key=weight, reverse=True)
    chosen = [entry for wanted in ("drop", "leapfrog") for entry in [e for e in ranked if e[0][0] == wanted][:N_FLIPS]]
    return [_flip(key[0], places, len(answers), questions) for key, places in chosen]


def _flip(
    direction: str, places: Sequence[tuple[ItemTable, int]], n_quants: int, questions: Mapping[str, Question]
) -> Flip:
    table, index = places[0]
    predictions = [int((t.quant_pred if direction == "drop" else t.base_pred)[i]) for t, i in places]
    others = [p for p in predictions if p >= 0]
    margins = np.array([t.quant_margin[i] for t, i in places])
    known = margins[np.isfinite(margins)]
    base_margin = float(table.base_margin[index])
    return Flip(
        id=table.id[index],
        group=table.group[index],
        direction=direction,
        n_flipped=len(places),
        n_quants=n_quants,
        base_margin=base_margin if np.isfinite(base_margin) else None,
        quant_margin=float(np.median(known)) if len(known) else None,
        question=questions.get(table.id[index]),
        gold=int(table.gold[index]),
        other=max(set(others), key=others.count) if others else -1,
    )
