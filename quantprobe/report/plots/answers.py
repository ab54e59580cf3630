"""The pictures of the answers: volume and direction, margins, net change; from plain numbers to a `Picture`.

Each can be read alone: units on the axes, numbers of rows, items and quants in the title, and what the bars mean.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, PercentFormatter
from scipy import stats

from quantprobe.arrays import FloatArray
from quantprobe.names import safe_name
from quantprobe.report.plots.style import (
    BLUE,
    FAINT,
    ORANGE,
    VERDICT_STYLE,
    Picture,
    counted,
    house_style,
    new_figure,
    place_labels,
    set_log,
    unpack,
    verdict_handles,
)
from quantprobe.stats.estimates import Estimate


def plot_direction_plane(
    names: Sequence[str], volume: Sequence[Estimate], net: Sequence[Estimate], verdicts: Sequence[str | None], task: str
) -> Picture:
    """How many answers changed (volume) against which way (net), with an ellipse for both at once.

    With d = +1, -1 or 0 for each item (leapfrog, drop, neither) volume is mean |d| and net is mean d, so their
    covariance over items is `net x (1 - volume) / n`; the ellipse takes that correlation and the (clustered)
    standard errors, and covers both numbers jointly at the level of the estimates.
    """
    v, n = unpack(volume)[0], unpack(net)[0]
    with house_style():
        figure, axes = new_figure(9.0, 6.0)
        reach = max([0.01, *(e.high for e in volume if e.high is not None), *v[np.isfinite(v)]]) * 1.08
        axes.set_xscale("function", functions=(_root, np.square))
        edge = np.linspace(0, reach**0.5, 60) ** 2
        axes.fill_between(edge, -edge, edge, color=FAINT, alpha=0.07, linewidth=0)
        axes.plot(edge, edge, color=FAINT, linewidth=0.8, linestyle="--")
        axes.plot(edge, -edge, color=FAINT, linewidth=0.8, linestyle="--")
        axes.axhline(0, color=FAINT, linewidth=0.8)
        for volume_e, net_e, verdict in zip(volume, net, verdicts, strict=True):
            color, marker = VERDICT_STYLE.get(verdict or "", (FAINT, "x"))
            _draw_ellipse(axes, volume_e, net_e, color)
            axes.plot(unpack([volume_e])[0], unpack([net_e])[0], marker, color=color, markersize=6)
        lowest = min([0.0, *(e.low for e in net if e.low is not None), *n[np.isfinite(n)]])
        highest = max([0.0, *(e.high for e in net if e.high is not None), *n[np.isfinite(n)]])
        span = max(highest - lowest, 0.01)
        axes.set_xlim(0, reach)
        axes.set_ylim(lowest - 0.15 * span, highest + 0.15 * span)
        axes.set_xticks(_root_ticks(reach))
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.set_xlabel("volume: share of items whose correctness changed (square-root scale)")
        axes.set_ylabel("net change of accuracy (leapfrogs minus drops)")
        axes.set_title(f"Volume and direction on {task}\n{counted(net, 'items', 'groups')}; shaded: possible region")
        _verdict_legend(axes, verdicts)
        known = np.isfinite(v) & np.isfinite(n)
        place_labels(axes, v[known], n[known], [name for name, k in zip(names, known, strict=True) if k])
    far = int(np.nanargmax(v)) if known.any() else None
    tale = "" if far is None else f" The most changed is {names[far]}: {v[far]:.1%} changed, net {n[far]:+.1%}."
    alt = f"Share of changed answers against net change of accuracy on {task}, {len(names)} quants.{tale}"
    return Picture(f"direction-{safe_name(task)}", f"Volume and direction, {task}", alt, figure)


def plot_margin_shifts(
    names: Sequence[str], shifts: Sequence[FloatArray], means: Sequence[Estimate], task: str
) -> Picture:
    """Distribution of the signed margin shift of the items, per quant, in nats; negative is away from the right answer.

    `shifts` holds each quant's finite shifts. Thin line 5 to 95 %, bar 25 to 75 %, tick at the median, diamond
    with whiskers for the mean and its interval. The axis is linear near 0 and logarithmic beyond the
    power of ten below the median quant's 75 % point of the absolute shift.
    """
    with house_style():
        figure, axes = new_figure(8.5, 1.9 + 0.3 * len(names))
        spread = [float(np.quantile(abs(s), 0.75)) for s in shifts if len(s)]
        near = 10.0 ** np.floor(np.log10(max(float(np.median(spread)) if spread else 0.1, 1e-4)))
        set_log(axes, "x", "symlog", linthresh=near)
        for place, (values, mean) in enumerate(zip(shifts, means, strict=True)):
            if not len(values):
                axes.text(0, place, "no margins", ha="center", va="center", fontsize=8)
                continue
            p05, p25, p50, p75, p95 = np.quantile(values, [0.05, 0.25, 0.5, 0.75, 0.95])
            axes.plot([p05, p95], [place, place], color=BLUE, linewidth=1.0, solid_capstyle="butt")
            axes.plot([p25, p75], [place, place], color=BLUE, linewidth=7, alpha=0.45, solid_capstyle="butt")
            axes.plot(p50, place, "|", color=BLUE, markersize=11, markeredgewidth=1.6)
            if mean.low is not None and mean.high is not None:
                axes.plot([mean.low, mean.high], [place, place], color=ORANGE, linewidth=2.2)
            axes.plot(unpack([mean])[0], [place], "D", color=ORANGE, markersize=4.5)
        axes.axvline(0, color=FAINT, linewidth=1.0)
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.set_xlabel("margin shift against the base (nats; linear near 0, then log)")
        axes.set_title(f"Shift of the margin on {task}\n{counted(means, 'items', 'groups')}")
        handles = [
            Line2D([], [], color=BLUE, linewidth=1.0, label="5 to 95 %"),
            Line2D([], [], color=BLUE, linewidth=7, alpha=0.45, label="25 to 75 %"),
            Line2D([], [], color=BLUE, marker="|", linestyle="", markersize=11, markeredgewidth=1.6, label="median"),
            Line2D([], [], color=ORANGE, marker="D", markersize=4.5, linewidth=2.2, label="mean and interval"),
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=4)
    clear = [n for n, m in zip(names, means, strict=True) if m.high is not None and m.high < 0]
    alt = f"Margin shift on {task} for {len(names)} quants. Mean clearly below zero: {', '.join(clear) or 'none'}."
    return Picture(f"margin-shift-{safe_name(task)}", f"Shift of the margin, {task}", alt, figure)


def plot_net_forest(
    names: Sequence[str],
    tasks: Sequence[str],
    net: Sequence[Sequence[Estimate | None]],
    verdicts: Sequence[Sequence[str | None]],
    margin: float | None,
) -> Picture:
    """Net change of accuracy of every quant, one panel per task, with intervals and the margin as a band.

    `net[q][t]` and `verdicts[q][t]` belong to quant q and task t; None where a quant lacks a task.
    """
    with house_style():
        figure, first = new_figure(2.4 + 3.1 * len(tasks), 1.9 + 0.28 * len(names))
        figure.delaxes(first)
        grid = figure.subplots(1, len(tasks), sharey=True, squeeze=False)[0]
        for column, (axes, task) in enumerate(zip(grid, tasks, strict=True)):
            if margin is not None:
                axes.axvspan(-margin, margin, color=FAINT, alpha=0.18, linewidth=0)
            axes.axvline(0, color=FAINT, linewidth=1.0)
            for place in range(len(names)):
                _draw_forest_row(axes, place, net[place][column], verdicts[place][column])
            present = [row[column] for row in net if row[column] is not None]
            axes.set_title(f"{task}\n{counted([e for e in present if e is not None], 'items', 'groups', short=True)}")
            axes.xaxis.set_major_locator(MaxNLocator(3))
            axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
            axes.set_yticks(range(len(names)), names)
            axes.set_ylim(len(names) - 0.4, -0.6)
        band = "" if margin is None else f"; band: margin of {margin:.2%}"
        figure.supxlabel(f"net change of accuracy against the base{band}", fontsize=10)
        flat = [v for row in verdicts for v in row]
        figure.legend(handles=verdict_handles(flat), loc="outside upper center", ncols=4)
    worse = sorted({n for n, row in zip(names, verdicts, strict=True) if "worse" in row}, key=list(names).index)
    alt = (
        f"Net change of accuracy with intervals for {len(names)} quants on {', '.join(tasks)}. "
        f"Worse than the base on at least one task: {', '.join(worse) or 'none'}."
    )
    return Picture("net-forest", "Net change of accuracy, per task", alt, figure)


def _draw_ellipse(axes: Axes, volume: Estimate, net: Estimate, color: str) -> None:
    if not volume.value or net.value is None or volume.stderr is None or net.stderr is None:
        return
    root = np.sqrt(volume.value * (1 - volume.value) * (volume.value - net.value**2))
    rho = 0.0 if root <= 0 else float(np.clip(net.value * (1 - volume.value) / root, -1, 1))
    covariance = np.array(
        [[volume.stderr**2, rho * volume.stderr * net.stderr], [rho * volume.stderr * net.stderr, net.stderr**2]]
    )
    turn = np.linspace(0, 2 * np.pi, 120)
    lengths, directions = np.linalg.eigh(covariance)
    radii = np.sqrt(stats.chi2.ppf(net.level, 2) * np.maximum(lengths, 0))
    outline = directions @ (radii[:, None] * np.stack([np.cos(turn), np.sin(turn)]))
    x, y = np.maximum(volume.value + outline[0], 0), net.value + outline[1]
    axes.fill(x, y, facecolor=color, alpha=0.13, linewidth=0)
    axes.plot(x, y, color=color, linewidth=0.7, alpha=0.7)


def _root_ticks(reach: float) -> list[float]:
    """Round shares up to `reach` that stand at least a twelfth of the square-root axis apart."""
    ticks = [0.0]
    for tick in (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75):
        if tick < reach and tick**0.5 - ticks[-1] ** 0.5 > reach**0.5 / 12:
            ticks.append(tick)
    return ticks


def _root(values: FloatArray) -> FloatArray:
    return np.sqrt(np.maximum(values, 0))


def _draw_forest_row(axes: Axes, place: int, net: Estimate | None, verdict: str | None) -> None:
    color, marker = VERDICT_STYLE.get(verdict or "", (FAINT, "x"))
    if net is None or net.value is None:
        axes.text(0, place, "not measured", ha="center", va="center", fontsize=7.5)
        return
    if net.low is not None and net.high is not None:
        axes.plot([net.low, net.high], [place, place], color=color, linewidth=1.6)
    axes.plot(net.value, place, marker, color=color, markersize=5.5)


def _verdict_legend(axes: Axes, verdicts: Sequence[str | None]) -> None:
    axes.legend(handles=verdict_handles(verdicts), loc="lower left")
