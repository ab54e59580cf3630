"""All pictures of a cohort, in the order of the page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from quantprobe.arrays import BoolArray, FloatArray
from quantprobe.errors import InputError
from quantprobe.report.page.cells import short_names
from quantprobe.report.plots.answers import plot_direction_plane, plot_margin_shifts, plot_net_forest
from quantprobe.report.plots.study import plot_accuracy_kld, plot_correlations, plot_kld_size, plot_kld_tail
from quantprobe.report.plots.style import Picture
from quantprobe.report.sentences import null_floor
from quantprobe.run.cohort import Cohort, ItemTable
from quantprobe.stats.estimates import Estimate
from quantprobe.study.findings import Findings


def fidelity_pictures(cohort: Cohort) -> Iterator[Picture]:
    """KLD against size, and the tail of the KLD where the run kept its rows; one of each per text."""
    names = dict(zip((q.name for q in cohort.quants), short_names([q.name for q in cohort.quants]), strict=True))
    for text in cohort.texts:
        quants = [q for q in cohort.quants if text in q.texts]
        kld = [q.texts[text].values["kld_mean"] for q in quants]
        sizes = np.array([np.nan if q.size_bytes is None else q.size_bytes for q in quants], np.float64)
        means = values_of(kld)
        if (np.isfinite(sizes) & (means > 0)).any():
            labels = [names[q.name] for q in quants]
            yield plot_kld_size(labels, sizes, kld, pareto_members(sizes, means), text, null_floor(cohort, text))
        rows = {names[q.name]: values for q in quants if (values := _row_kld(cohort, q.name, text)) is not None}
        if rows:
            yield plot_kld_tail(list(rows), list(rows.values()), text)


def answer_pictures(
    cohort: Cohort, task: str, answers: Mapping[str, ItemTable], zone: BoolArray | None
) -> Iterator[Picture]:
    """Volume and direction, accuracy change against KLD, and margin shifts of one task.

    `answers` are the items by quant, for those that have them; `zone [n_quants]` marks the silent zone.
    """
    labels = short_names([q.name for q in cohort.quants])
    measured = [i for i, q in enumerate(cohort.quants) if task in q.tasks]
    records = [cohort.quants[i].tasks[task] for i in measured]
    names = [labels[i] for i in measured]
    net = [record.values.get("net") or _unknown() for record in records]
    volume = [record.values.get("volume") or _unknown() for record in records]
    yield plot_direction_plane(names, volume, net, [record.verdict for record in records], task)
    kld = mean_kld(cohort)[measured]
    if zone is not None and (kld > 0).any():
        margin = next((r.values["margin"].value for r in records if "margin" in r.values), None)
        yield plot_accuracy_kld(names, kld, net, zone[measured], margin, task)
    shifts, means, shown = [], [], []
    for label, index, record in zip(names, measured, records, strict=True):
        table = answers.get(cohort.quants[index].name)
        shift = None if table is None else table.quant_margin - table.base_margin
        if shift is not None and np.isfinite(shift).any():
            shown.append(label)
            shifts.append(shift[np.isfinite(shift)])
            means.append(record.values.get("margin_shift") or _unknown())
    if shown:
        yield plot_margin_shifts(shown, shifts, means, task)


def correlation_picture(cohort: Cohort, findings: Findings) -> Picture | None:
    """Rank correlation of every fidelity variant with every accuracy, all quants against the zone; None without any.

    The headline, and every variant of the first three texts; all others are in the findings' table.
    """
    sources = {findings.headline.partition(" on ")[2], *cohort.texts[:3]}
    rows = [
        row
        for row in findings.correlations
        if row.correlation.method == "spearman" and row.source in sources and row.target != "acc_norm"
    ]
    if not rows:
        return None
    variants = list(dict.fromkeys((row.measure, row.source) for row in rows))
    targets = list(dict.fromkeys((row.target, row.target_source) for row in rows))
    panels = []
    for subset, title in (("full", "All quants"), ("zone", f"Silent zone ({findings.zones[0].kind})")):
        rho = np.full((len(variants), len(targets)), np.nan)
        clear = np.zeros(rho.shape, np.bool_)
        n = 0
        for row in (row for row in rows if row.subset == subset):
            at = variants.index((row.measure, row.source)), targets.index((row.target, row.target_source))
            rho[at] = np.nan if row.correlation.value is None else row.correlation.value
            clear[at] = row.p_adjusted is not None and row.p_adjusted <= 1 - findings.level
            n = max(n, row.correlation.n)
        panels.append((f"{title}\n{n} quants", rho, clear))
    rows_of = [f"{measure}, {source}" for measure, source in variants]
    return plot_correlations(rows_of, [", ".join(target) for target in targets], panels, findings.adjustment)


def net_picture(cohort: Cohort) -> Picture:
    """The forest of net changes over all tasks."""
    net = [[q.tasks[t].values.get("net") if t in q.tasks else None for t in cohort.tasks] for q in cohort.quants]
    verdicts = [[q.tasks[t].verdict if t in q.tasks else None for t in cohort.tasks] for q in cohort.quants]
    margins = [r.values["margin"].value for q in cohort.quants for r in q.tasks.values() if "margin" in r.values]
    margin = margins[0] if margins and len(set(margins)) == 1 else None
    return plot_net_forest(short_names([q.name for q in cohort.quants]), cohort.tasks, net, verdicts, margin)


def pareto_members(sizes: FloatArray, kld: FloatArray) -> BoolArray:
    """Which quants no other beats: none at most as large and at most as far, and better in one of both."""
    order = np.lexsort((kld, sizes))
    member = np.zeros(len(sizes), np.bool_)
    best, best_size = np.inf, -np.inf
    for index in order:
        if not (np.isfinite(sizes[index]) and np.isfinite(kld[index])):
            continue
        if kld[index] < best or (kld[index] == best and sizes[index] == best_size):
            member[index] = True
            best, best_size = kld[index], sizes[index]
    return member


def mean_kld(cohort: Cohort) -> FloatArray:
    """Each quant's mean KLD (nats), NaN without any: `[n_quants]`; on the first text all share, else on its own."""
    shared = [t for t in cohort.texts if all(t in q.texts for q in cohort.quants)]
    chosen = shared[:1] or list(cohort.texts)
    found = []
    for quant in cohort.quants:
        text = next((quant.texts[t] for t in chosen if t in quant.texts), None)
        found.append(_unknown() if text is None else text.values["kld_mean"])
    return values_of(found)


def values_of(estimates: list[Estimate]) -> FloatArray:
    return np.array([np.nan if e.value is None else e.value for e in estimates], np.float64)


def _row_kld(cohort: Cohort, quant: str, text: str) -> FloatArray | None:
    """Finite per-row KLD; None where the run kept no rows."""
    try:
        rows = cohort.rows(quant, text)
    except InputError:
        return None
    kld = np.asarray(rows["kld"], np.float64)
    return kld[np.isfinite(kld)]


def _unknown() -> Estimate:
    return Estimate(None, None, None, None, 0.95, 0, 0, "")
