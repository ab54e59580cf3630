"""Simulated cohorts in arrays, from latent margins of items, under a law that is known."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from quantprobe.arrays import FloatArray
from quantprobe.probes.grouping import UNGROUPED
from quantprobe.stats.design import ItemDesign, item_design
from quantprobe.study.fidelity import ALL_TEXTS, Variable
from quantprobe.study.panel import Panel, TaskAnswers, TaskScores, TextWindows

CENTRE, SPREAD = 0.5, 1.5
"""Margins of the base: mean and standard deviation; it is right where the margin is positive, on 63 % of items."""
NOISE = 0.5
"""A quant moves a margin by NOISE sqrt(KLD), standard deviation."""
KNEE = 0.05
LOWEST, HIGHEST = 0.001, 1.0
IN_ZONE = float(np.log(KNEE / LOWEST))
"""e-folds of KLD from the lowest to the knee."""


def no_law(klds: FloatArray) -> FloatArray:
    return np.zeros(len(klds))


def slope_in_zone(points: float) -> Callable[[FloatArray], FloatArray]:
    """Linear in ln KLD from 0 at the lowest KLD to -points at the knee, and on at the same slope."""
    return lambda klds: -points / 100 * np.log(klds / LOWEST) / IN_ZONE


def slope_then_flat(points: float) -> Callable[[FloatArray], FloatArray]:
    """As `slope_in_zone` up to the knee, constant beyond."""
    return lambda klds: -points / 100 * np.log(np.minimum(klds, KNEE) / LOWEST) / IN_ZONE


def flat_then_fall(klds: FloatArray) -> FloatArray:
    """Nothing up to the knee, then 2 points per e-fold."""
    return -0.02 * np.maximum(0.0, np.log(klds / KNEE))


LAWS: Mapping[str, Callable[[FloatArray], FloatArray]] = {
    "none": no_law,
    "everywhere": slope_in_zone(1.0),
    "flat then fall": flat_then_fall,
}


@dataclass(frozen=True)
class Cohort:
    """What to simulate."""

    n_quants: int = 25
    n_items: int = 500
    n_tasks: int = 3
    shared: float = 0.1
    """The share of a quant's noise on an item that all quants have in common, 0 to 1."""
    direction: float = 0.0
    """Standard deviation, in points, of a random change of each quant of its own."""
    direction_below: float = np.inf
    """Only quants of a KLD below this have one."""
    lowest: float = LOWEST
    highest: float = HIGHEST


def simulate_panel(law: Callable[[FloatArray], FloatArray], seed: int, cohort: Cohort | None = None) -> Panel:
    """A cohort whose population changes by exactly `law(klds) [n_quants]` (a fraction), plus the random direction.

    Margin of quant q on item i: m_i + mu_q + s_q (sqrt(r) z_i + sqrt(1 - r) e_iq), s_q = NOISE sqrt(KLD_q), r: shared;
    mu_q solves Phi((CENTRE + mu) / sqrt(SPREAD^2 + s^2)) - Phi(CENTRE / SPREAD) = law. The KLDs are a ladder: one at
    random in each of n_quants equal stretches of ln KLD.
    """
    c = cohort or Cohort()
    rng = np.random.default_rng(seed)
    steps = (np.arange(c.n_quants) + rng.random(c.n_quants)) / c.n_quants
    klds = c.lowest * (c.highest / c.lowest) ** steps
    own = rng.normal(0, c.direction / 100, c.n_quants) * (klds < c.direction_below)
    changes = law(klds) + own
    tasks = tuple(_task(f"task{i}", klds, changes, c, rng) for i in range(c.n_tasks))
    windows = klds[:, None] * np.exp(rng.normal(0, 1, 100) + rng.normal(0, 0.2, (c.n_quants, 100)) - 0.52)
    return Panel(
        names=tuple(f"Q{i}" for i in range(c.n_quants)),
        sizes=1e9 - 1e7 * np.arange(c.n_quants),
        fidelity=_fidelity(klds, rng),
        direction=tuple(variable for i, task in enumerate(tasks) for variable in _direction(task, f"task{i}", rng)),
        scores=scores_of(tasks),
        tasks=tasks,
        texts=(TextWindows("text", np.arange(c.n_quants), windows, np.ones(100)),),
        remarks=(),
    )


def flip_signs(panel: Panel, rng: np.random.Generator) -> Panel:
    """The panel with the direction of all quants' flips of an item turned round together, at random per item.

    Where an item is turned, base and quants swap right and wrong: drops become leapfrogs. No law is left, and
    how the quants depend on each other, and how much each changes, stays as it was. Variables of direction
    are kept for texts, and counted anew for tasks (margins and probabilities are left out).
    """
    tasks = []
    for task in panel.tasks:
        turned = rng.random(task.correct.shape[1]) < 0.5
        tasks.append(replace(task, base_correct=task.base_correct ^ turned, correct=task.correct ^ turned))
    scores = scores_of(tuple(tasks), len(panel.names))
    counted = [variable for task in tasks for variable in _counted(task, len(panel.names))]
    names = {task.name for task in tasks}
    kept = [variable for variable in panel.direction if variable.source not in names]
    return replace(panel, tasks=tuple(tasks), scores=scores, direction=(*counted, *kept))


def scores_of(tasks: tuple[TaskAnswers, ...], n_quants: int | None = None) -> TaskScores:
    """What `results.json` would say of these answers; NaN for quants without."""
    n = n_quants or len(tasks[0].quants)
    table = {name: np.full((len(tasks), n), np.nan) for name in ("acc", "base", "drops", "leapfrogs", "n_items")}
    for i, task in enumerate(tasks):
        table["acc"][i, task.quants] = task.correct.mean(1)
        table["base"][i, task.quants] = task.base_correct.mean(1)
        table["drops"][i, task.quants] = (task.base_correct & ~task.correct).sum(1)
        table["leapfrogs"][i, task.quants] = (~task.base_correct & task.correct).sum(1)
        table["n_items"][i, task.quants] = task.correct.shape[1]
    return TaskScores(
        names=tuple(task.name for task in tasks),
        acc=table["acc"],
        acc_norm=np.full_like(table["acc"], np.nan),
        acc_base=table["base"],
        drops=table["drops"],
        leapfrogs=table["leapfrogs"],
        n_items=table["n_items"],
        chance=np.full(len(tasks), 0.5),
    )


def alone(n_items: int) -> ItemDesign:
    """The design of items that have nothing to do with each other."""
    return item_design([""] * n_items, UNGROUPED)


def _task(name: str, klds: FloatArray, changes: FloatArray, c: Cohort, rng: np.random.Generator) -> TaskAnswers:
    size = NOISE * np.sqrt(klds)
    base_right = stats.norm.cdf(CENTRE / SPREAD)
    shifts = stats.norm.ppf(base_right + changes) * np.sqrt(SPREAD**2 + size**2) - CENTRE
    margins, common = rng.normal(CENTRE, SPREAD, c.n_items), rng.normal(size=c.n_items)
    noise = np.sqrt(c.shared) * common + np.sqrt(1 - c.shared) * rng.normal(size=(c.n_quants, c.n_items))
    return TaskAnswers(
        name=name,
        quants=np.arange(c.n_quants),
        design=alone(c.n_items),
        base_correct=np.broadcast_to(margins > 0, noise.shape).copy(),
        correct=margins + shifts[:, None] + size[:, None] * noise > 0,
        kld=klds[:, None] * np.exp(rng.normal(0, 1, noise.shape)),
    )


def _fidelity(klds: FloatArray, rng: np.random.Generator) -> tuple[Variable, ...]:
    """The headline, and a few measures that say nearly the same, each with an error of its own."""

    def noisy(error: float) -> FloatArray:
        return klds * np.exp(rng.normal(0, error, len(klds)))

    return (
        Variable("kld_mean", ALL_TEXTS, -1, True, klds),
        Variable("kld_p99", "text", -1, True, 8 * noisy(0.15)),
        Variable("kld_p999", "text", -1, True, 20 * noisy(0.37)),
        Variable("same_top", "text", 1, False, 1 - 0.4 * np.sqrt(noisy(0.1))),
        Variable("ln_ppl_ratio", "text", -1, False, noisy(0.3) - 0.2 * klds),
    )


def _direction(task: TaskAnswers, name: str, rng: np.random.Generator) -> list[Variable]:
    counted = _counted(task, len(task.quants))
    noisy = counted[0].values + rng.normal(0, 0.003, len(task.quants))
    return [*counted, Variable("margin_shift", name, 1, False, noisy)]


def _counted(task: TaskAnswers, n_quants: int) -> list[Variable]:
    signed = task.correct.astype(float) - task.base_correct
    flips = np.abs(signed).sum(1)
    columns = {
        "net": (1, signed.mean(1)),
        "direction_index": (1, np.divide(signed.sum(1), flips, out=np.full(len(flips), np.nan), where=flips > 0)),
        "volume": (-1, flips / signed.shape[1]),
    }
    found = []
    for name, (better, values) in columns.items():
        of_all = np.full(n_quants, np.nan)
        of_all[task.quants] = values
        found.append(Variable(name, task.name, better, False, of_all))
    return found
