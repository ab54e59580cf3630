"""How to read the page, and what holds for its measurements."""

from __future__ import annotations

from quantprobe.report.names import cohort_names, join_words
from quantprobe.report.notes import warnings
from quantprobe.report.numbers import format_plain
from quantprobe.report.page.answer import quant_labels
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
    if cohort.null_control is None:
        return ["No null control was run: the floor of the instrument is unknown."]
    floors = {text: cohort.floor(text) for text in cohort.texts}
    flips = {task: task_floor(cohort.null_control, task) for task in cohort.tasks}
    shown = [f"{text} {format_plain(floor)} nats" for text, floor in floors.items() if floor]
    shown += [f"{task} {count} changed answers" for task, count in flips.items() if count]
    if not shown:
        exact = [*(["a KLD of exactly 0"] if cohort.texts else []), *(["no changed answer"] if cohort.tasks else [])]
        return [f"The base against its own capture shows {join_words(exact)}."]
    return [f"The base against its own capture shows: {', '.join(shown)}. Nothing at or below that is interpreted."]


def _missing(cohort: Cohort) -> list[str]:
    found = []
    for label, quant in zip(quant_labels(cohort), cohort.quants, strict=True):
        lacking = [t for t in cohort.texts if t not in quant.texts] + [t for t in cohort.tasks if t not in quant.tasks]
        if lacking:
            found.append(f"{label} was not measured on {join_words(lacking)}.")
    return found
