"""Pictures of a run. Drawn without pyplot: no global state, no window, any backend of the caller stays untouched."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator
from matplotlib.transforms import Bbox
from numpy.typing import ArrayLike

from quantprobe.arrays import FloatArray
from quantprobe.errors import InputError
from quantprobe.files import write_whole
from quantprobe.report.numbers import format_plain
from quantprobe.report.results_view import ResultsView, short_names

# Okabe and Ito's palette: told apart with every common form of colour blindness, and in grey by shape.
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#6b6b6b"
# where a label may stand, in points from its quant: beside it first, then further and further out with a leader
_NEAR = [(9, 4), (9, -12), (-9, 4), (-9, -12), (0, 10), (0, -18)]
_OFFSETS = [
    *_NEAR,
    *((x, y) for r in (20, 34, 48, 64, 82) for x in (r, -r, 0) for y in (r // 2, -r // 2 - 8, r, -r - 8)),
]


@dataclass(frozen=True)
class Point:
    """One quant: size in GB (10^9 bytes), mean KLD and the ends of its interval in nats."""

    name: str
    size_gb: float
    kld: float
    low: float | None
    high: float | None


def plot_kld_vs_size(view: ResultsView, text: str, path: Path) -> None:
    """Write kld_vs_size.png: mean KLD (log axis) against file size, with intervals, Pareto line and floor.

    Raises `InputError` if no quant has a mean KLD above 0, which a log axis cannot show.
    """
    points, left_out = plot_points(view, text)
    if not points:
        raise InputError(f"no quant has a mean KLD above 0 on the text {text!r}, so there is nothing to plot")
    figure = Figure(figsize=(9, 6), dpi=150, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots()
    _draw_points(axes, points)
    _draw_floor(axes, view.floor(text))
    _label_axes(figure, axes, view, text, left_out)
    # constrained layout settles only when drawn; labels are placed in the pixels that result
    canvas.draw()  # type: ignore[no-untyped-call]
    _place_labels(axes, canvas, points)
    data = io.BytesIO()
    canvas.print_png(data)  # type: ignore[no-untyped-call]
    write_whole(path, data.getvalue())


def plot_points(view: ResultsView, text: str) -> tuple[list[Point], list[str]]:
    """The quants that a log axis can show, by size, and the names of the others (KLD 0 or unknown, size unknown)."""
    points: list[Point] = []
    left_out: list[str] = []
    for model, numbers in view.measured(text):
        kld = numbers.kld_mean
        if kld.value is None or kld.value <= 0 or model.size_gb is None:
            left_out.append(model.name)
            continue
        points.append(Point(model.name, model.size_gb, kld.value, kld.low, kld.high))
    names = short_names([point.name for point in points], view.base.name)
    points = [replace(point, name=name) for point, name in zip(points, names, strict=True)]
    return sorted(points, key=lambda point: (point.size_gb, point.kld)), left_out


def pareto(points: Sequence[Point]) -> list[Point]:
    """The points that no other beats: none is at most as large and has a KLD at most as high. By size."""
    best: list[Point] = []
    for point in sorted(points, key=lambda point: (point.size_gb, point.kld)):
        if not best or point.kld < best[-1].kld:
            best.append(point)
    return best


def _draw_points(axes: Axes, points: Sequence[Point]) -> None:
    line = pareto(points)
    axes.set_yscale("log")
    axes.margins(x=0.1, y=0.1)
    axes.plot(
        [point.size_gb for point in line],
        [point.kld for point in line],
        drawstyle="steps-post",
        color=BLUE,
        linewidth=1.2,
        alpha=0.55,
        zorder=2,
        label="Pareto line: no smaller file is closer to the base",
    )
    smallest = min(point.kld for point in points)
    for chosen, colour, marker, label in (
        (line, BLUE, "o", "quant on the Pareto line"),
        ([point for point in points if point not in line], ORANGE, "s", "quant with a smaller and closer rival"),
    ):
        if not chosen:
            continue
        klds = np.array([point.kld for point in chosen])
        # a log axis has no place for an interval that reaches 0: it is cut a decade below the lowest point
        lows = np.array([max(point.low if point.low is not None else point.kld, smallest / 10) for point in chosen])
        highs = np.array([point.high if point.high is not None else point.kld for point in chosen])
        axes.errorbar(
            [point.size_gb for point in chosen],
            klds,
            yerr=[np.maximum(klds - lows, 0), np.maximum(highs - klds, 0)],
            fmt=marker,
            color=colour,
            markersize=6,
            capsize=3,
            elinewidth=1.2,
            zorder=3,
            label=label,
        )


def _draw_floor(axes: Axes, floor: float | None) -> None:
    """Shade what the instrument cannot see; a floor far below every point is named under the title instead."""
    if not floor or floor < axes.get_ylim()[0] / 3:
        return
    bottom = min(axes.get_ylim()[0], floor / 3)
    axes.axhspan(bottom, floor, color=GREY, alpha=0.15, linewidth=0)
    axes.axhline(
        floor, color=GREY, linestyle="--", linewidth=1.2, label="instrument's floor: base against its own capture"
    )
    axes.set_ylim(bottom=bottom)


def _label_axes(figure: Figure, axes: Axes, view: ResultsView, text: str, left_out: Sequence[str]) -> None:
    figure.suptitle(f"How far each quant moved from {view.base.name}", x=0.02, ha="left", fontweight="bold")
    axes.set_title(_subtitle(view, text, left_out), loc="left", fontsize=9, color="#444444")
    axes.set_xlabel("file size in GB (10$^9$ bytes)")
    axes.set_ylabel("mean KL divergence from the base, nats per token\n(log axis, lower is closer)")
    gib = axes.secondary_xaxis("top", functions=(_gib_of_gb, _gb_of_gib))
    gib.set_xlabel("GiB (2$^{30}$ bytes)", fontsize=8, color=GREY)
    gib.tick_params(axis="x", colors=GREY, labelsize=8)
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, position: f"{value:.10g}"))
    axes.yaxis.set_minor_formatter(FuncFormatter(lambda value, position: ""))
    axes.grid(True, which="major", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines["right"].set_visible(False)
    axes.legend(loc="upper right", fontsize=8, frameon=True, framealpha=0.9, edgecolor="#dddddd")


def _subtitle(view: ResultsView, text: str, left_out: Sequence[str]) -> str:
    numbers = view.measured(text)[0][1]
    kld = numbers.kld_mean
    parts = [f"text {text}: {numbers.n_rows:,} tokens in {kld.n_clusters:,} windows", f"bars: {kld.level:.0%} interval"]
    floor = view.floor(text)
    if floor is not None:
        parts.append(f"instrument's floor: {format_plain(floor)} nats")
    if left_out:
        parts.append(f"not above 0, not shown: {', '.join(left_out)}")
    return "; ".join(parts)


def _gib_of_gb(size: ArrayLike) -> FloatArray:
    return np.asarray(size, dtype=np.float64) * (1e9 / 2**30)


def _gb_of_gib(size: ArrayLike) -> FloatArray:
    return np.asarray(size, dtype=np.float64) * (2**30 / 1e9)


def _place_labels(axes: Axes, canvas: FigureCanvasAgg, points: Sequence[Point]) -> None:
    """Name each point where its label covers no point, no other label, no legend and no edge of the axes."""
    renderer = canvas.get_renderer()  # type: ignore[no-untyped-call]
    pixels = canvas.figure.dpi / 72
    spots = [tuple(axes.transData.transform((point.size_gb, point.kld))) for point in points]
    taken = [Bbox.from_bounds(x - 9, y - 9, 18, 18) for x, y in spots]
    legend = axes.get_legend()
    if legend is not None:
        taken.append(legend.get_window_extent(renderer))
    inside = axes.get_window_extent(renderer)
    for point, spot in zip(points, spots, strict=True):
        label = axes.annotate(
            point.name,
            (point.size_gb, point.kld),
            xytext=(0, 0),
            textcoords="offset points",
            va="bottom",
            fontsize=8,
            zorder=4,
        )
        size = label.get_window_extent(renderer)
        boxes = {offset: _label_box(spot, offset, size, pixels) for offset in _OFFSETS}
        rivals = [other for other in spots if other != spot]
        offset = min(boxes, key=lambda offset: _label_cost(offset, boxes[offset], spot, rivals, taken, inside))
        taken.append(boxes[offset])
        label.set(position=offset, ha=_alignment(offset))
        if offset not in _NEAR:
            axes.annotate(
                "",
                (point.size_gb, point.kld),
                xytext=(offset[0], offset[1] if offset[1] > 0 else offset[1] + size.height / pixels),
                textcoords="offset points",
                arrowprops={"arrowstyle": "-", "color": GREY, "lw": 0.6, "shrinkA": 0, "shrinkB": 3},
            )


def _alignment(offset: tuple[int, int]) -> str:
    return "left" if offset[0] > 0 else "right" if offset[0] < 0 else "center"


def _label_box(spot: tuple[float, ...], offset: tuple[int, int], size: Bbox, pixels: float) -> Bbox:
    """Where a label of `size` lies when it stands at `offset` (points) from `spot` (pixels), with a rim of 2 pixels."""
    left = {"left": 0.0, "center": 0.5, "right": 1.0}[_alignment(offset)] * size.width
    x, y = spot[0] + offset[0] * pixels - left, spot[1] + offset[1] * pixels
    return Bbox.from_bounds(x - 2, y - 2, size.width + 4, size.height + 4)


def _label_cost(
    offset: tuple[int, int],
    box: Bbox,
    spot: tuple[float, ...],
    rivals: Sequence[tuple[float, ...]],
    taken: Sequence[Bbox],
    inside: Bbox,
) -> float:
    """Square pixels covered, and a little for distance and for where another quant might be meant."""
    covered = sum(_overlap(box, other) for other in taken) + 10 * (box.width * box.height - _overlap(box, inside))
    nearest = min((_distance(box, rival) for rival in rivals), default=float("inf"))
    near = offset in _NEAR
    doubtful = nearest < 1.5 * _distance(box, spot) if near else any(_crosses(spot, box, rival) for rival in rivals)
    # straight above and below runs the Pareto line
    distance = abs(offset[0]) + abs(offset[1]) + (20 if offset[0] == 0 else 0)
    return float(covered) + (20.0 if doubtful else 0.0) + 0.1 * distance


def _overlap(a: Bbox, b: Bbox) -> float:
    """Common area of two boxes, in square pixels."""
    width = min(a.x1, b.x1) - max(a.x0, b.x0)
    height = min(a.y1, b.y1) - max(a.y0, b.y0)
    return float(max(width, 0.0) * max(height, 0.0))


def _distance(box: Bbox, spot: tuple[float, ...]) -> float:
    """From a spot to the nearest edge of a box, in pixels; 0 inside."""
    dx = max(box.x0 - spot[0], 0.0, spot[0] - box.x1)
    dy = max(box.y0 - spot[1], 0.0, spot[1] - box.y1)
    return float(np.hypot(dx, dy))


def _crosses(spot: tuple[float, ...], box: Bbox, rival: tuple[float, ...]) -> bool:
    """Whether the leader from `spot` to the middle of `box` passes another quant within 8 pixels."""
    start, rival_at = np.array(spot), np.array(rival)
    way = np.array([(box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2]) - start
    share = np.clip(np.dot(rival_at - start, way) / np.dot(way, way), 0, 1)
    return bool(np.hypot(*(start + share * way - rival_at)) < 8)
