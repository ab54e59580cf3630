"""What, measured on some tasks, predicts the change of accuracy on the others?

python bench/predict_accuracy.py RUN... [--boot 400] [--folds 4]

The comparison was fixed before any number was seen: eight predictors, each measured on one task (or on the texts),
against the pooled hard change of accuracy (net) on all other tasks, over the quants of RUN; Spearman's rho, averaged
over the tasks that a predictor is measured on. A run of one task with kinds of questions (strata) counts as several
tasks: its kinds, the largest first, are dealt to as many `--folds`, each to the one with the fewest questions. `near`
is the half of the quants with the smaller text KLD. Intervals are 95 % percentile intervals over resampled quants and
resampled items, both at once. Signs are turned so that a good predictor has a positive rho. The last columns are the
difference from the text KLD on the same resamples.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from quantprobe.arrays import FloatArray
from quantprobe.run.cohort import Cohort, read_cohort

SEED = 20260619


@dataclass(frozen=True)
class Task:
    """One task: `[n_quants, n_items]` margins, gold probabilities, signed flips and KLD; `[n_items]` of the base.

    `kinds` `[n_items]` names the kind of each question.
    """

    name: str
    kinds: NDArray[np.str_]
    base_margin: FloatArray
    margin: FloatArray
    gold_shift: FloatArray
    flips: FloatArray
    kld: FloatArray


def read_task(cohort: Cohort, name: str) -> Task:
    pairs = [cohort.items(quant.name, name) for quant in cohort.quants]
    valid = np.logical_and.reduce([pair.base.valid & pair.quant.valid for pair in pairs])
    valid &= np.isfinite(pairs[0].base.margin)
    return Task(
        name,
        np.array(pairs[0].base.groups)[valid],
        pairs[0].base.margin[valid],
        np.array([pair.quant.margin[valid] for pair in pairs]),
        np.array([(pair.quant.gold_prob - pair.base.gold_prob)[valid] for pair in pairs]),
        np.array([pair.quant.correct[valid].astype(float) - pair.base.correct[valid] for pair in pairs]),
        np.array([pair.quant.kld[valid] if pair.quant.kld is not None else np.zeros(valid.sum()) for pair in pairs]),
    )


def split_by_kind(task: Task, n_folds: int) -> list[Task]:
    """The questions of one task as at most `n_folds` tasks of other kinds."""
    names, counts = np.unique(task.kinds, return_counts=True)
    n_folds = min(n_folds, len(names))
    folds: list[list[str]] = [[] for _ in range(n_folds)]
    sizes = [0] * n_folds
    for kind, count in sorted(zip(names.tolist(), counts.tolist(), strict=True), key=lambda pair: (-pair[1], pair[0])):
        smallest = sizes.index(min(sizes))
        folds[smallest].append(kind)
        sizes[smallest] += count
    return [_part(task, f"{task.name} {number}", fold) for number, fold in enumerate(folds, 1)]


def _part(task: Task, name: str, kinds: list[str]) -> Task:
    kept = np.isin(task.kinds, kinds)
    return Task(name, **{key: values[..., kept] for key, values in vars(task).items() if key != "name"})


def mean(values: FloatArray, weights: FloatArray) -> FloatArray:
    return np.asarray(values @ weights / weights.sum())


def expected_flips(task: Task, weights: FloatArray) -> FloatArray:
    """Net change if each margin moved by the quant's mean shift and a t noise (3 degrees) of the quant's scale."""
    shift = task.margin - task.base_margin
    mu = mean(shift, weights)[:, None]
    scale = np.sqrt(mean((shift - mu) ** 2, weights) / 3.0)[:, None] + 1e-12  # a t with 3 degrees has variance 3
    right = stats.t.sf(-(task.base_margin + mu) / scale, 3)
    return mean(right - (task.base_margin > 0), weights)


def boundary_shift(task: Task, weights: FloatArray) -> FloatArray:
    """Mean margin shift, items weighted by how near the base's margin is to the boundary."""
    near = np.exp(-np.abs(task.base_margin) / np.median(np.abs(task.base_margin)))
    return mean(task.margin - task.base_margin, weights * near)


def shrunk_net(task: Task, weights: FloatArray, kld: FloatArray) -> FloatArray:
    """Net, shrunk towards its least-squares line in sqrt(KLD) by what the items' noise explains of the scatter."""
    net = mean(task.flips, weights)
    noise = (mean(task.flips**2, weights) - net**2) / weights.sum()
    x = np.sqrt(kld)
    curve = x * (x @ net) / max(x @ x, 1e-12)
    spread = max(float(np.mean((net - curve) ** 2 - noise)), 0.0)
    share = spread / (spread + noise + 1e-15)
    return np.asarray(share * net + (1 - share) * curve)


PREDICTORS: dict[str, Callable[[Task, FloatArray, FloatArray], FloatArray]] = {
    "text KLD": lambda task, weights, kld: -kld,
    "task KLD": lambda task, weights, kld: -mean(np.nan_to_num(task.kld), weights),
    "margin shift": lambda task, weights, kld: mean(task.margin - task.base_margin, weights),
    "gold-probability shift": lambda task, weights, kld: mean(task.gold_shift, weights),
    "boundary-weighted shift": lambda task, weights, kld: boundary_shift(task, weights),
    "expected flips": lambda task, weights, kld: expected_flips(task, weights),
    "net": lambda task, weights, kld: mean(task.flips, weights),
    "net, shrunk to sqrt(KLD)": shrunk_net,
}


def rho(a: FloatArray, b: FloatArray) -> float:
    if len(np.unique(a)) < 2 or len(np.unique(b)) < 2:
        return float("nan")
    return float(np.corrcoef(stats.rankdata(a), stats.rankdata(b))[0, 1])


def score(tasks: list[Task], weights: list[FloatArray], kld: FloatArray, quants: np.ndarray) -> FloatArray:
    """Mean rho of each predictor over the tasks it is measured on, `[n_predictors]`, over the quants given."""
    found = np.full((len(PREDICTORS), len(tasks)), np.nan)
    nets = [mean(task.flips, w) * w.sum() for task, w in zip(tasks, weights, strict=True)]
    totals = [w.sum() for w in weights]
    for place, (task, w) in enumerate(zip(tasks, weights, strict=True)):
        others = [i for i in range(len(tasks)) if i != place]
        target = sum(nets[i] for i in others) / sum(totals[i] for i in others)
        for row, predictor in enumerate(PREDICTORS.values()):
            found[row, place] = rho(predictor(task, w, kld)[quants], target[quants])
    known = np.isfinite(found)  # a resample in which all quants are equal has no rank correlation
    total = np.where(known, found, 0.0).sum(1)
    return np.asarray(np.divide(total, known.sum(1), out=np.full(len(found), np.nan), where=known.any(1)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, nargs="+")
    parser.add_argument("--boot", type=int, default=400)
    parser.add_argument("--folds", type=int, default=4)
    args = parser.parse_args()
    cohort = read_cohort(args.run)
    tasks = [read_task(cohort, name) for name in cohort.tasks]
    if len(tasks) == 1:
        tasks = split_by_kind(tasks[0], args.folds)
    if len(tasks) < 2:
        parser.error(
            f"{len(tasks)} task with questions of one kind: a prediction needs one task to measure on and one to "
            "predict; give runs of two tasks, or of one with kinds of questions (groups)"
        )
    kld = np.array([np.mean([quant.texts[text].kld_mean.value for text in cohort.texts]) for quant in cohort.quants])
    near = np.flatnonzero(kld <= np.median(kld))
    everyone = np.arange(len(kld))
    ones = [np.ones(len(task.base_margin)) for task in tasks]
    rng = np.random.default_rng(SEED)
    sizes = ", ".join(f"{task.name} {len(task.base_margin):,}" for task in tasks)
    print(f"{len(kld)} quants, {len(near)} of them near; items: {sizes}; {args.boot} resamples\n")
    print("| predictor | all | 95 % | near | 95 % | all, minus text KLD | near, minus text KLD |")
    print("|---|---|---|---|---|---|---|")
    columns = []
    for subset in (everyone, near):
        point = score(tasks, ones, kld, subset)
        resampled = []
        for _ in range(args.boot):
            weights = [rng.multinomial(len(w), np.full(len(w), 1 / len(w))).astype(float) for w in ones]
            resampled.append(score(tasks, weights, kld, rng.choice(subset, len(subset))))
        columns.append((point, np.array(resampled)))
    for row, name in enumerate(PREDICTORS):
        cells = [name]
        for point, resampled in columns:
            low, high = np.nanquantile(resampled[:, row], [0.025, 0.975])
            cells += [f"{point[row]:+.2f}", f"[{low:+.2f}, {high:+.2f}]"]
        for point, resampled in columns:
            low, high = np.nanquantile(resampled[:, row] - resampled[:, 0], [0.025, 0.975])
            cells.append(f"{point[row] - point[0]:+.2f} [{low:+.2f}, {high:+.2f}]" if row else "")
        print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
