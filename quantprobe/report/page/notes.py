"""How to read the page, and what holds for its measurements."""

from __future__ import annotations

from quantprobe.report.names import cohort_names, join_words
from quantprobe.report.notes import warnings
from quantprobe.report.numbers import format_plain
from quantprobe.report.page.answer import quant_labels, uncontrolled
from quantprobe.run.cohort import Cohort
from quantprobe.run.floor import task_floor


def reading_notes(cohort: Cohort) -> list[str]:
    """What the numbers mean, what the instrument shows where nothing changed, and what is missing."""
    levels = {text.kld_mean.level for quant in cohort.quants for text in quant.texts.values()}
    levels |= {task.net.level for quant in cohort.quants for task in quant.tasks.values() if task.net is not None}
    level = " or ".join(f"{level:.0%}" for level in sorted(levels)) or "95%"
    notes = [f"[low, high] is a {level} interval; ± is one standard error. n/a: not measured, or too little to say."]
    if cohort.texts:
        notes.append(
            "KLD is KL(base || quant) of the next-token distributions, in nats per token. It says how far a quant "
            "moved, not whether its answers became worse."
        )
    if cohort.tasks:
        notes.append(
            "Change is leapfrogs (wrong to right) minus drops (right to wrong), in points of accuracy. Volume is their "
            "sum, in percent of the questions."
        )
    return [*notes, *_floor_notes(cohort), *warnings(cohort, cohort_names(cohort)), *_missing(cohort)]


def _floor_notes(cohort: Cohort) -> list[str]:
    floors = {text: cohort.floor(text) for text in cohort.texts}
    flips = {task: task_floor(cohort.null_control, task) for task in cohort.tasks}
    shown = [f"{text} {format_plain(floor)} nats" for text, floor in floors.items() if floor]
    shown += [f"{task} {count} changed answers" for task, count in flips.items() if count]
    exact = ["a KLD of exactly 0"] if 0 in floors.values() else []
    exact += ["no changed answer"] if 0 in flips.values() else []
    without = uncontrolled(cohort)
    notes = [f"The base against its own capture shows {join_words(exact)}."] if exact and not shown else []
    if shown:
        notes.append(f"The base against its own capture shows: {join_words(shown)}. Nothing at or below that counts.")
    if without:
        notes.append(f"No null control on {join_words(without)}: small differences there may be the instrument's own.")
    return notes


def _missing(cohort: Cohort) -> list[str]:
    found = []
    for label, quant in zip(quant_labels(cohort), cohort.quants, strict=True):
        lacking = [t for t in cohort.texts if t not in quant.texts] + [t for t in cohort.tasks if t not in quant.tasks]
        if lacking:
            found.append(f"{label} was not measured on {join_words(lacking)}.")
    return found
