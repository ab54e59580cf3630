"""Quants that are one and the same, so that none is counted twice."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from quantprobe.arrays import Int64Array
from quantprobe.study.fidelity import Variable
from quantprobe.study.panel import Panel, TaskAnswers, TextWindows


def distinct_quants(panel: Panel) -> tuple[Panel, tuple[tuple[str, ...], ...]]:
    """The panel with one quant of each set of equal ones (the first), and the names of those sets.

    Equal are quants of one SHA-256, and quants that agree in every fidelity number and in every answer:
    llama-quantize falls back to the same types where a tensor's shape leaves it no choice. Quants without any
    fidelity number are compared by their SHA-256 alone.
    """
    first_of: dict[object, int] = {}
    same = np.arange(panel.n_quants)
    for quant in range(panel.n_quants):
        keys = [key for key in (_digest(panel, quant), _numbers(panel, quant)) if key]
        same[quant] = min([first_of[key] for key in keys if key in first_of], default=quant)
        for key in keys:
            first_of.setdefault(key, int(same[quant]))
    kept = np.flatnonzero(same == np.arange(panel.n_quants))
    if len(kept) == panel.n_quants:
        return panel, ()
    groups = [tuple(panel.names[i] for i in np.flatnonzero(same == first)) for first in kept]
    return take_quants(panel, kept), tuple(group for group in groups if len(group) > 1)


def take_quants(panel: Panel, quants: Int64Array) -> Panel:
    """The panel of these quants alone, `[n]` numbers in ascending order."""
    scores = panel.scores
    columns = ("acc", "acc_norm", "acc_base", "drops", "leapfrogs", "n_items")
    return replace(
        panel,
        names=tuple(panel.names[i] for i in quants),
        sizes=panel.sizes[quants],
        fidelity=tuple(_take_variable(variable, quants) for variable in panel.fidelity),
        direction=tuple(_take_variable(variable, quants) for variable in panel.direction),
        scores=replace(scores, **{name: getattr(scores, name)[:, quants] for name in columns}),
        tasks=tuple(task for task in (_take_task(task, quants) for task in panel.tasks) if len(task.quants)),
        texts=tuple(text for text in (_take_text(text, quants) for text in panel.texts) if len(text.quants)),
        families=tuple(panel.families[i] for i in quants) if panel.families else (),
        digests=tuple(panel.digests[i] for i in quants) if panel.digests else (),
        bpw=panel.bpw[quants] if len(panel.bpw) else panel.bpw,
    )


def _digest(panel: Panel, quant: int) -> str:
    return panel.digests[quant] if panel.digests else ""


def _numbers(panel: Panel, quant: int) -> bytes:
    fidelity = np.array([variable.values[quant] for variable in panel.fidelity])
    if not np.isfinite(fidelity).any():
        return b""
    scores = panel.scores
    parts = [fidelity, scores.drops[:, quant], scores.leapfrogs[:, quant], scores.n_items[:, quant]]
    answers = [
        np.array([task.base_correct[row], task.correct[row]])
        for task in panel.tasks
        for row in np.flatnonzero(task.quants == quant)
    ]
    return b"".join(part.tobytes() for part in (*parts, *answers))


def _take_variable(variable: Variable, quants: Int64Array) -> Variable:
    return replace(variable, values=variable.values[quants])


def _take_task(task: TaskAnswers, quants: Int64Array) -> TaskAnswers:
    rows = np.flatnonzero(np.isin(task.quants, quants))
    return replace(
        task,
        quants=np.searchsorted(quants, task.quants[rows]),
        base_correct=task.base_correct[rows],
        correct=task.correct[rows],
        kld=task.kld[rows],
    )


def _take_text(text: TextWindows, quants: Int64Array) -> TextWindows:
    rows = np.flatnonzero(np.isin(text.quants, quants))
    return replace(text, quants=np.searchsorted(quants, text.quants[rows]), kld_sums=text.kld_sums[rows])
