"""Simulated cohorts in arrays, from latent margins of items, under a law that is known."""

from __future__ import annotations

import numpy as np

from quantprobe.arrays import FloatArray
from quantprobe.stats.design import item_design
from quantprobe.study.fidelity import ALL_TEXTS, Variable
from quantprobe.study.panel import Panel, TaskAnswers, TaskScores, TextWindows

LAWS = ("silent", "kinked", "everywhere", "hidden")


def simulate_panel(law: str, seed: int, n_quants: int = 30, n_items: int = 1000, n_tasks: int = 3) -> Panel:
    """A cohort from 0.001 to 1 nat of KLD, evenly spread in ln KLD.

    Each item has a latent margin (nats); a quant adds a shift to all and its own noise of size sqrt(KLD) / 2.

    silent
        Below 0.03 nats the shift has nothing to do with KLD (random direction, standard deviation 0.03 nats, about 0.7
        points of accuracy); above, it is lower by 0.2 nats (about 5 points) and falls by 0.35 per unit of ln KLD.
    kinked
        As silent, but without the step: the first quants above 0.03 nats have lost so little that a zone drawn by
        accuracy takes them in, and inside such a zone fidelity does predict a little.
    everywhere
        The shift falls with ln KLD from the start (0.02 nats per unit), and faster above 0.03 nats; nothing else.
    hidden
        As everywhere, with a tenth of the items and a slope of 0.005 below 0.03: a law that the benchmark cannot show.
    """
    rng = np.random.default_rng(seed)
    klds = np.exp(np.sort(rng.uniform(np.log(0.001), 0.0, n_quants)))
    fall = 0.35 * np.maximum(0.0, np.log(klds / 0.03)) + 0.2 * (law == "silent") * (klds > 0.03)
    slow = {"everywhere": 0.02, "hidden": 0.005}.get(law, 0.0) * np.log(klds / 0.001)
    direction = rng.normal(0, 0.03, n_quants) if law in ("silent", "kinked") else np.zeros(n_quants)
    shifts = direction - fall - slow
    n_items = n_items // 10 if law == "hidden" else n_items
    tasks = tuple(_task(f"task{i}", klds, shifts, n_items, rng) for i in range(n_tasks))
    windows = klds[:, None] * np.exp(rng.normal(0, 1, 100) + rng.normal(0, 0.2, (n_quants, 100)))
    return Panel(
        names=tuple(f"Q{i}" for i in range(n_quants)),
        sizes=1e9 - 1e7 * np.arange(n_quants),
        fidelity=(Variable("kld_mean", ALL_TEXTS, -1, True, windows.mean(1)),),
        direction=(),
        scores=_scores(tasks),
        tasks=tasks,
        texts=(TextWindows("text", np.arange(n_quants), windows, np.ones(100)),),
        remarks=(),
    )


def _task(name: str, klds: FloatArray, shifts: FloatArray, n_items: int, rng: np.random.Generator) -> TaskAnswers:
    margins = rng.normal(0.5, 1.5, n_items)
    noise = rng.normal(0, 0.5, (len(klds), n_items)) * np.sqrt(klds)[:, None]
    return TaskAnswers(
        name=name,
        quants=np.arange(len(klds)),
        design=item_design([""] * n_items, "none"),
        base_correct=np.broadcast_to(margins > 0, noise.shape).copy(),
        correct=margins + shifts[:, None] + noise > 0,
        kld=klds[:, None] * np.exp(rng.normal(0, 1, noise.shape)),
    )


def _scores(tasks: tuple[TaskAnswers, ...]) -> TaskScores:
    acc, base = (
        np.array([side.mean(1) for side in sides])
        for sides in zip(*((t.correct, t.base_correct) for t in tasks), strict=True)
    )
    return TaskScores(
        names=tuple(task.name for task in tasks),
        acc=acc,
        acc_norm=np.full_like(acc, np.nan),
        acc_base=base,
        drops=np.array([(t.base_correct & ~t.correct).sum(1) for t in tasks], float),
        leapfrogs=np.array([(~t.base_correct & t.correct).sum(1) for t in tasks], float),
        n_items=np.array([np.full(len(t.quants), t.correct.shape[1]) for t in tasks], float),
        chance=np.full(len(tasks), 0.25),
    )
