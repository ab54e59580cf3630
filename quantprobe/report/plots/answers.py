"""Which way answers moved: change of accuracy against size, per task, against volume, and against KLD."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator
from matplotlib.transforms import Bbox

from quantprobe.arrays import FloatArray
from quantprobe.report.answer import Standing
from quantprobe.report.marks import mark_of
from quantprobe.report.plots.style import (
    BAND,
    LINE,
    SOFT,
    Picture,
    draw_bars,
    draw_marks,
    house_style,
    mark_style,
    new_figure,
    place_labels,
    set_log,
    signed_points,
    size_unit,
    unpack,
    verdict_handles,
)
from quantprobe.stats.estimates import Estimate

Corner = Literal["lower left", "lower right"]


def change_picture(standings: Sequence[Standing], margin: float, take: str | None, about: str) -> Picture:
    """Change of accuracy (points) against file size: verdict as colour and shape, intervals, the margin as a band.

    `margin` is a fraction, `take` the label of the recommended quant, `about` what was asked, for the title.
    """
    known = [s for s in standings if s.change is not None and s.change.value is not None and s.size_bytes is not None]
    sizes = np.array([s.size_bytes for s in known], np.float64)
    unit, scale = size_unit(sizes)
    with house_style():
        figure, axes = new_figure(9.0, 6.0, "Did the answers get worse?")
        axes.set_title(about)
        axes.set_xlabel(f"file size, {unit}")
        _draw_changes(axes, sizes / scale, known, margin, take, "lower right")
    worse = sum(s.verdict == "worse" for s in known)
    chosen = f" Recommended: {take}." if take else ""
    alt = f"File size against change of accuracy, {len(known)} quants; {worse} are worse than the base.{chosen}"
    return Picture("change_vs_size", alt, figure)


def law_picture(standings: Sequence[Standing], margin: float, take: str | None, about: str) -> Picture:
    """Change of accuracy (points) against mean KLD (log): whether distance tells which way."""
    known = [s for s in standings if s.change is not None and s.change.value is not None]
    known = [s for s in known if s.kld is not None and (s.kld.value or 0) > 0]
    klds = np.array([s.kld.value for s in known if s.kld is not None], np.float64)
    with house_style():
        figure, axes = new_figure(9.0, 6.0, "Does the distance tell which way?")
        axes.set_title(about)
        set_log(axes, "x", klds)
        axes.set_xlabel("mean KLD from the base, nats per token (log axis)")
        _draw_changes(axes, klds, known, margin, take, "lower left")
    alt = f"Mean KLD against change of accuracy, {len(known)} quants; the verdict is colour and shape."
    return Picture("change_vs_kld", alt, figure)


def direction_picture(standings: Sequence[Standing], take: str | None, about: str) -> Picture:
    """Share of changed answers (volume) against net change, in points; what cannot be, |net| > volume, is grey."""
    known = [s for s in standings if s.change is not None and s.volume is not None and s.volume.value is not None]
    x, y = 100 * unpack([s.volume for s in known])[0], 100 * unpack([s.change for s in known])[0]
    with house_style():
        figure, axes = new_figure(9.0, 6.0, "How many answers changed, and which way")
        reach = max(float(x.max(initial=0.0)) * 1.08, 0.1)
        low, high = min(float(y.min(initial=0.0)), 0.0), max(float(y.max(initial=0.0)), 0.0)
        room = 0.12 * max(high - low, 0.2)
        axes.set_xlim(-0.03 * reach, reach)
        axes.set_ylim(low - room, high + room)
        edge = np.array([0.0, reach])
        for sign in (-1, 1):
            axes.fill_between(edge, sign * edge, sign * 1e4, color=LINE, alpha=0.45, linewidth=0)
        axes.axvspan(-reach, 0, color=LINE, alpha=0.45, linewidth=0)
        axes.axhline(0, color=SOFT, linewidth=1.0)
        draw_marks(axes, x, y, [s.verdict for s in known])
        _ring(axes, x, y, [s.label for s in known], take)
        axes.yaxis.set_major_formatter(FuncFormatter(signed_points))
        axes.set_xlabel("volume: answers that changed between right and wrong, % of the questions")
        axes.set_ylabel("net change of accuracy, points")
        axes.set_title(about)
        impossible = Patch(facecolor=LINE, alpha=0.45, label="cannot be: net is at most the volume")
        axes.legend(handles=[*verdict_handles([s.verdict for s in known]), impossible], loc="lower left")
        place_labels(axes, x, y, [s.label for s in known], [Bbox([[0.0, 0.0], [reach, 0.0]])], leaders=False)
    alt = f"Share of changed answers against net change of accuracy, {len(known)} quants."
    return Picture("direction", alt, figure)


def tasks_picture(
    labels: Sequence[str],
    tasks: Sequence[str],
    changes: Sequence[Sequence[Estimate | None]],
    verdicts: Sequence[Sequence[str | None]],
    margin: float,
) -> Picture:
    """Change of accuracy (points) of every quant with its interval, one panel per task.

    `changes[q][t]` and `verdicts[q][t]` belong to quant q and task t; None where a quant lacks a task.
    """
    with house_style():
        figure, first = new_figure(2.2 + 2.7 * len(tasks), 1.6 + 0.25 * len(labels), "Change of accuracy, task by task")
        figure.delaxes(first)
        grid = figure.subplots(1, len(tasks), sharey=True, squeeze=False)[0]
        for column, (axes, task) in enumerate(zip(grid, tasks, strict=True)):
            axes.axvspan(-100 * margin, 100 * margin, color=BAND, linewidth=0)
            axes.axvline(0, color=SOFT, linewidth=1.0)
            for place, (row, words) in enumerate(zip(changes, verdicts, strict=True)):
                _draw_row(axes, place, row[column], words[column])
            counts = {e.n for row in changes if (e := row[column]) is not None and e.n}
            axes.set_title(f"{task}\n{max(counts):,} questions" if counts else task)
            axes.xaxis.set_major_locator(MaxNLocator(4))
            axes.xaxis.set_major_formatter(FuncFormatter(signed_points))
            axes.set_yticks(range(len(labels)), labels)
            axes.set_ylim(len(labels) - 0.4, -0.6)
        figure.supxlabel("change of accuracy against the base, points (band: the margin)", fontsize=10)
        handles = verdict_handles([verdict for words in verdicts for verdict in words])
        figure.legend(handles=handles, loc="outside upper right", ncols=5)
    worse = sum("worse" in words for words in verdicts)
    alt = f"Change of accuracy of {len(labels)} quants on {len(tasks)} tasks; {worse} are worse on at least one."
    return Picture("change_by_task", alt, figure)


def _draw_changes(
    axes: Axes, x: FloatArray, known: Sequence[Standing], margin: float, take: str | None, corner: Corner
) -> None:
    values, low, high = (100 * column for column in unpack([s.change for s in known]))
    verdicts, labels = [s.verdict for s in known], [s.label for s in known]
    axes.axhspan(-100 * margin, 100 * margin, color=BAND, linewidth=0)
    axes.axhline(0, color=SOFT, linewidth=1.0)
    bars = draw_bars(axes, x, low, high, [mark_of(verdict).light for verdict in verdicts])
    draw_marks(axes, x, values, verdicts)
    _ring(axes, x, values, labels, take)
    axes.yaxis.set_major_formatter(FuncFormatter(signed_points))
    axes.set_ylabel("change of accuracy against the base, points")
    axes.margins(x=0.09, y=0.09)
    handles = verdict_handles(verdicts)
    if take is not None:
        ring = {"marker": "o", "markerfacecolor": "none", "markersize": 11, "color": "#1f2328", "linestyle": ""}
        handles.insert(0, Line2D([], [], label=f"take this one: {take}", **ring))  # type: ignore[arg-type]
    axes.legend(handles=handles, loc=corner)
    left, right = axes.get_xlim()
    place_labels(axes, x, values, labels, [*bars, Bbox([[left, 0.0], [right, 0.0]])])


def _ring(axes: Axes, x: FloatArray, y: FloatArray, labels: Sequence[str], take: str | None) -> None:
    if take in labels:
        place = labels.index(take)
        axes.plot(x[place], y[place], "o", markersize=13, markerfacecolor="none", color="#1f2328", zorder=2)


def _draw_row(axes: Axes, place: int, change: Estimate | None, verdict: str | None) -> None:
    mark = mark_of(verdict)
    if change is None or change.value is None:
        axes.text(0, place, "not measured", ha="center", va="center", fontsize=7.5)
        return
    if change.low is not None and change.high is not None:
        axes.plot([100 * change.low, 100 * change.high], [place, place], color=mark.light, linewidth=1.4, zorder=2)
    axes.plot(100 * change.value, place, **mark_style(mark))
