"""How to read the page, and what holds for its measurements."""

from __future__ import annotations

from quantprobe.report.answer import quant_labels
from quantprobe.report.names import cohort_names, join_words
from quantprobe.report.notes import null_sentences, warnings
from quantprobe.run.cohort import Cohort


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
    return [*notes, *null_sentences(cohort), *warnings(cohort, cohort_names(cohort)), *_missing(cohort)]


def _missing(cohort: Cohort) -> list[str]:
    found = []
    for label, quant in zip(quant_labels(cohort), cohort.quants, strict=True):
        lacking = [t for t in cohort.texts if t not in quant.texts] + [t for t in cohort.tasks if t not in quant.tasks]
        if lacking:
            found.append(f"{label} was not measured on {join_words(lacking)}.")
    return found
