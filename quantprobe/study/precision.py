"""How much of what is seen in the zone another set of items and windows would show again."""

from __future__ import annotations

import numpy as np

from quantprobe.arrays import FloatArray, Int64Array
from quantprobe.stats.correlation import Target
from quantprobe.stats.item_contrast import ItemNoise, item_noise, noise_of_sums
from quantprobe.stats.reliability import Reliability, reliability
from quantprobe.study.fidelity import ALL_TEXTS, Variable
from quantprobe.study.panel import Panel
from quantprobe.study.pooled import Answers


def accuracy_reliability(panel: Panel, quants: Int64Array, answers: Answers | None, level: float) -> Reliability:
    """Of the change of pooled accuracy over `quants`, within families, from the items."""
    if answers is None:
        return Reliability(None, None, None, level, len(quants), "there are no item files of every task")
    quants = quants[np.isin(quants, answers.quants)]
    part = answers.take(np.searchsorted(answers.quants, quants))
    noise = item_noise(part.signed, part.design)
    if noise is None:
        return Reliability(None, None, None, level, len(quants), "all items are one cluster")
    return reliability(part.signed.mean(1), noise, panel.family_codes[quants], level)


def fidelity_reliability(panel: Panel, quants: Int64Array, headline: Variable, level: float) -> Reliability:
    """Of ln of the headline KLD over `quants`, within families, from the texts' windows."""
    target = _on_texts(panel, headline)
    if target is None or target.noise is None:
        return Reliability(None, None, None, level, len(quants), "there are no row files")
    known = np.isfinite(target.noise.residuals).all(1) & np.isfinite(target.values)
    quants = quants[known[quants]]
    return reliability(target.values[quants], target.noise.take(quants), panel.family_codes[quants], level)


def _on_texts(panel: Panel, headline: Variable) -> Target | None:
    """ln of the mean KLD over the texts, with the noise of their windows; NaN for quants without rows or of KLD 0."""
    noises = [noise_of_sums(text.kld_sums, text.counts) for text in panel.texts]
    if headline.source != ALL_TEXTS or not noises or any(noise is None for noise in noises):
        return None
    rows: list[FloatArray] = []
    strata: list[Int64Array] = []
    dof: list[FloatArray] = []
    for text, noise in zip(panel.texts, noises, strict=True):
        assert noise is not None
        of_all = np.full((panel.n_quants, len(text.counts)), np.nan)
        of_all[text.quants] = noise.residuals / len(noises)
        rows.append(of_all)
        strata.append(noise.strata + sum(len(part) for part in dof))
        dof.append(noise.dof)
    kld = np.where(headline.values > 0, headline.values, np.nan)
    residuals = np.concatenate(rows, axis=1) / kld[:, None]
    return Target(np.log(kld), ItemNoise(residuals, np.concatenate(strata), np.concatenate(dof)))
