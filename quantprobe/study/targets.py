"""What is to be predicted, and how the items make it vary: accuracy, and which answers change."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from quantprobe.arrays import FloatArray
from quantprobe.stats.correlation import Target
from quantprobe.study.fidelity import ALL_TASKS
from quantprobe.study.panel import Panel
from quantprobe.study.pooled import Answers, answers_of, noise_over_quants, pool


@dataclass(frozen=True, eq=False)
class NamedTarget:
    """A target with its name, and whether it says which way (a law) or only how much."""

    name: str
    source: str
    target: Target
    is_law: bool = True


def accuracy_targets(panel: Panel) -> tuple[NamedTarget, ...]:
    """acc and acc_norm of each task; `pooled` over all items; `normalised`, mean (acc - chance) / (1 - chance).

    acc_norm follows from another rule than the items' answers, so its error, and with it its p, is unknown.
    """
    scores, found = panel.scores, []
    answers = answers_of(panel, scores.names)
    if scores.names:
        found.append(_target(panel, "pooled", ALL_TASKS, pool(scores).acc, answers, _signed(answers)))
    if scores.names and np.isfinite(scores.chance).all():
        chance = scores.chance[:, None]
        values = ((scores.acc - chance) / (1 - chance)).mean(0)
        found.append(_target(panel, "normalised", ALL_TASKS, values, answers, _normalised(answers, scores.chance)))
    for name, table in (("acc", scores.acc), ("acc_norm", scores.acc_norm)):
        for task, values in zip(scores.names, table, strict=True):
            alone = answers_of(panel, (task,)) if name == "acc" else None
            found.append(_target(panel, name, task, values, alone, _signed(alone)))
    return _known(found)


def direction_targets(panel: Panel) -> tuple[NamedTarget, ...]:
    """volume, net and direction_index, pooled and of each task."""
    scores = panel.scores
    found: list[NamedTarget] = []
    parts = [(ALL_TASKS, np.arange(len(scores.names)))] if len(scores.names) else []
    parts += [(task, np.array([i])) for i, task in enumerate(scores.names)]
    for source, at in parts:
        pooled = pool(scores, at)
        answers = answers_of(panel, [scores.names[i] for i in at])
        changed = None if answers is None else np.abs(answers.signed)
        found += [
            _target(panel, "volume", source, pooled.volume, answers, changed, is_law=False),
            _target(panel, "net", source, pooled.net, answers, _signed(answers)),
            _target(panel, "direction_index", source, pooled.direction_index, answers, _index(answers)),
        ]
    return _known(found)


def rest_target(panel: Panel, source: str) -> NamedTarget | None:
    """Accuracy pooled over all tasks but `source` (over all, where that is a text); None where nothing is left."""
    names = panel.scores.names
    others = np.array([i for i, name in enumerate(names) if name != source], np.int64)
    if not len(others):
        return None
    answers = answers_of(panel, [names[i] for i in others])
    what = ALL_TASKS if source not in names else f"all tasks but {source}"
    return _target(panel, "pooled", what, pool(panel.scores, others).acc, answers, _signed(answers))


def _target(
    panel: Panel,
    name: str,
    source: str,
    values: FloatArray,
    answers: Answers | None,
    per_item: FloatArray | None,
    is_law: bool = True,
) -> NamedTarget:
    noise = noise_over_quants(answers, per_item, panel.n_quants)
    return NamedTarget(name, source, Target(values, noise), is_law)


def _known(found: list[NamedTarget]) -> tuple[NamedTarget, ...]:
    return tuple(entry for entry in found if np.isfinite(entry.target.values).any())


def _signed(answers: Answers | None) -> FloatArray | None:
    return None if answers is None else answers.signed


def _normalised(answers: Answers | None, chance: FloatArray) -> FloatArray | None:
    """Each item's part in the mean over tasks of (acc - chance) / (1 - chance), so that the mean over items is it."""
    if answers is None:
        return None
    share = np.bincount(answers.tasks, minlength=len(chance)) / len(answers.tasks)
    return answers.signed / (len(chance) * share * (1 - chance))[answers.tasks]


def _index(answers: Answers | None) -> FloatArray | None:
    """Each item's part in the direction index, d / volume, whose spread is that of flips of random direction.

    The index's own spread would be 0 where a handful of flips happen to go one way, and 0 again for the next quant.
    """
    if answers is None:
        return None
    volume = np.abs(answers.signed).mean(1, keepdims=True)
    parts: FloatArray = np.divide(answers.signed, volume, out=np.zeros_like(answers.signed), where=volume > 0)
    return parts
