"""How to read the page, and what holds for its measurements."""

from __future__ import annotations

from quantprobe.report.numbers import format_plain
from quantprobe.report.page.answer import quant_labels
from quantprobe.report.printable import printable
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
    return [*notes, *_floor_notes(cohort), *_defects(cohort)]


def _floor_notes(cohort: Cohort) -> list[str]:
    if cohort.null_control is None:
        return ["No null control was run: the floor of the instrument is unknown."]
    floors = {text: cohort.floor(text) for text in cohort.texts}
    flips = {task: task_floor(cohort.null_control, task) for task in cohort.tasks}
    shown = [f"{printable(text)} {format_plain(floor)} nats" for text, floor in floors.items() if floor]
    shown += [f"{printable(task)} {count} changed answers" for task, count in flips.items() if count]
    if not shown:
        return ["The base against its own capture shows a KLD of exactly 0 and no changed answer."]
    return [f"The base against its own capture shows: {', '.join(shown)}. Nothing at or below that is interpreted."]


def _defects(cohort: Cohort) -> list[str]:
    found = []
    for label, quant in zip(quant_labels(cohort), cohort.quants, strict=True):
        found += [
            f"{label}: {text.n_nonfinite:,} rows of {printable(name)} held NaN or infinity and are in no number."
            for name, text in quant.texts.items()
            if text.n_nonfinite
        ]
        found += [
            f"{label}: {task.n_invalid:,} questions of {printable(name)} have no answer and are in no number."
            for name, task in quant.tasks.items()
            if task.n_invalid
        ]
        lacking = [t for t in cohort.texts if t not in quant.texts] + [t for t in cohort.tasks if t not in quant.tasks]
        found += [f"{label} was not measured on {printable(name)}." for name in lacking]
    return found
