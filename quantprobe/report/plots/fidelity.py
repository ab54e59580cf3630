"""How far each quant moved: file size against mean KLD."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.transforms import Bbox
from numpy.typing import ArrayLike

from quantprobe.arrays import BoolArray, FloatArray
from quantprobe.errors import InputError
from quantprobe.names import safe_name
from quantprobe.report.answer import quant_labels
from quantprobe.report.marks import pareto_members
from quantprobe.report.numbers import format_plain
from quantprobe.report.plots.style import (
    LINE,
    NEAR,
    SOFT,
    Picture,
    draw_bars,
    house_style,
    new_figure,
    place_labels,
    set_log,
    size_unit,
    unpack,
)
from quantprobe.report.printable import printable
from quantprobe.run.cohort import Cohort


def has_size_picture(cohort: Cohort, text: str) -> bool:
    """Whether any quant has a size and a mean KLD above 0 on the text, which a log axis needs."""
    return bool(_shown(*_numbers(cohort, text)[:2]).any())


def size_picture(cohort: Cohort, text: str) -> Picture:
    """Mean KLD (nats, log axis) against file size, with intervals, the Pareto line and the instrument's floor.

    Its name is `kld_vs_size`, followed by the text's where the cohort has several. Quants of unknown size or without a
    KLD above 0 are counted in the title. Raises `InputError` where `has_size_picture` is False.
    """
    sizes, values, low, high = _numbers(cohort, text)
    shown = _shown(sizes, values)
    if not shown.any():
        raise InputError(f"no quant has a size and a mean KLD above 0 on the text {text!r}; there is nothing to plot")
    labels = [label for label, keep in zip(quant_labels(cohort), shown, strict=True) if keep]
    sizes, values, low, high = (column[shown] for column in (sizes, values, low, high))
    best = pareto_members(sizes, values)
    unit, scale = size_unit(sizes)
    x = sizes / scale
    with house_style():
        figure, axes = new_figure(9.0, 6.0, f"How far each quant moved from {printable(cohort.base.name)}")
        set_log(axes, "y", values)
        bars = draw_bars(axes, x, np.maximum(low, values.min() / 3), high, [NEAR if b else SOFT for b in best])
        axes.plot(x[~best], values[~best], "o", color=SOFT, markerfacecolor="white", markeredgewidth=1.6, zorder=3)
        axes.plot(x[best], values[best], "o", color=NEAR, zorder=3)
        lines = _draw_pareto(axes, x[best], values[best])
        _draw_floor(axes, cohort.floor(text), float(values.min()))
        axes.set_xlabel(f"file size, {unit}")
        axes.set_ylabel("mean KLD from the base, nats per token (log axis)")
        axes.set_title(_subtitle(cohort, text, int((~shown).sum())))
        axes.margins(x=0.1, y=0.1)
        if unit.startswith("GB"):
            gib = axes.secondary_xaxis("top", functions=(_gib_of_gb, _gb_of_gib))
            gib.set_xlabel("GiB (2^30 bytes)", fontsize=8, color=SOFT)
            gib.tick_params(axis="x", labelsize=8)
        _draw_legend(axes, best)
        place_labels(axes, x, values, labels, [*bars, *lines])
    order = np.flatnonzero(best)[np.argsort(x[best])]
    ends = [f"{labels[i]} ({x[i]:.3g} {unit[:2]}, {values[i]:.2g} nats)" for i in (order[0], order[-1])]
    name = "kld_vs_size" + (f"-{safe_name(text)}" if len(cohort.texts) > 1 else "")
    alt = f"File size against mean KLD on {printable(text)}, {len(labels)} quants, from {ends[0]} to {ends[1]}."
    return Picture(name, alt, figure)


def _numbers(cohort: Cohort, text: str) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Sizes (bytes), mean KLD and its ends (nats) of all quants, `[n_quants]`, NaN where unknown."""
    sizes = np.array([np.nan if q.size_bytes is None else q.size_bytes for q in cohort.quants], np.float64)
    klds = [q.texts[text].kld_mean if text in q.texts else None for q in cohort.quants]
    return sizes, *unpack(klds)


def _shown(sizes: FloatArray, values: FloatArray) -> BoolArray:
    return np.isfinite(sizes) & (np.nan_to_num(values) > 0)


def _draw_pareto(axes: Axes, x: FloatArray, y: FloatArray) -> list[Bbox]:
    """The line below which there is no quant, and its pieces."""
    order = np.argsort(x, kind="stable")
    x, y = x[order], y[order]
    axes.step(x, y, where="post", color=NEAR, alpha=0.5, zorder=1)
    across = [Bbox([[x[i], y[i]], [x[i + 1], y[i]]]) for i in range(len(x) - 1)]
    down = [Bbox([[x[i + 1], y[i + 1]], [x[i + 1], y[i]]]) for i in range(len(x) - 1)]
    return [*across, *down]


def _draw_floor(axes: Axes, floor: float | None, lowest: float) -> None:
    """The instrument's floor where it is near the quants; the title has it anyway."""
    if floor and floor > lowest / 10:
        axes.axhspan(floor / 10, floor, color=LINE, alpha=0.5, linewidth=0)
        axes.axhline(floor, color=SOFT, linestyle="--", linewidth=1.0)
        axes.set_ylim(bottom=min(lowest, floor) / 1.5)


def _subtitle(cohort: Cohort, text: str, n_left_out: int) -> str:
    known = [q.texts[text].kld_mean for q in cohort.quants if text in q.texts]
    parts = [f"{printable(text)}: {known[0].n:,} tokens in {known[0].n_clusters:,} windows"]
    parts.append(f"bars: {known[0].level:.0%} intervals")
    floor = cohort.floor(text)
    if floor is not None:
        parts.append(f"floor of the instrument: {format_plain(floor)} nats")
    if n_left_out:
        parts.append(f"{n_left_out} without size or KLD not shown")
    return "; ".join(parts)


def _draw_legend(axes: Axes, best: BoolArray) -> None:
    handles = [Line2D([], [], marker="o", color=NEAR, alpha=0.9, label="no smaller file is nearer (Pareto line)")]
    if not best.all():
        other = {"marker": "o", "color": SOFT, "markerfacecolor": "white", "markeredgewidth": 1.6, "linestyle": ""}
        handles.append(Line2D([], [], label="another file is as small and nearer", **other))  # type: ignore[arg-type]
    axes.legend(handles=handles, loc="upper right")


def _gib_of_gb(size: ArrayLike) -> FloatArray:
    return np.asarray(size, dtype=np.float64) * (1e9 / 2**30)


def _gb_of_gib(size: ArrayLike) -> FloatArray:
    return np.asarray(size, dtype=np.float64) * (2**30 / 1e9)
