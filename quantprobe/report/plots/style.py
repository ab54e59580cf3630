"""What every picture shares: colours, fonts, log axes, label placing, saving. No pyplot, no global state."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from matplotlib.transforms import Bbox

from quantprobe.arrays import FloatArray
from quantprobe.errors import InputError
from quantprobe.files import write_whole
from quantprobe.report.marks import MARKS, NO_MARK, Mark, mark_of
from quantprobe.stats.estimates import Estimate

INK, SOFT, LINE = "#1f2328", "#59636e", "#d5dbe1"
BAND = "#dfe9f5"
NEAR = "#1b5a9e"
"""What no smaller quant beats; the others are drawn in SOFT."""
DPI = 144

_RC: dict[str, Any] = {
    "font.family": ["DejaVu Sans", "sans-serif"],
    "font.size": 10.0,
    "axes.titlesize": 10.0,
    "axes.titlelocation": "left",
    "axes.titlecolor": SOFT,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": INK,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 9.0,
    "lines.linewidth": 1.3,
    "text.parse_math": False,  # a dollar in a name is a dollar
    "svg.fonttype": "none",
    "svg.hashsalt": "quantprobe",
}


@dataclass(frozen=True)
class Picture:
    """One finished plot: a figure, a file name without extension, and the text for those who cannot see it."""

    name: str
    alt: str
    figure: Figure


@contextmanager
def house_style() -> Iterator[None]:
    """Matplotlib's defaults with the house's own on top, restored afterwards; the user's matplotlibrc has no say.

    A name in a script that the font lacks is drawn as boxes in the PNG (as text in the SVG), without a warning.
    """
    with mpl.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        mpl.rcdefaults()
        mpl.rcParams.update(_RC)  # type: ignore[arg-type]
        yield


def new_figure(width: float, height: float, title: str) -> tuple[Figure, Axes]:
    """A figure of `width x height` inches with one axes, outside pyplot's list of figures."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold", fontsize=12)
    return figure, figure.add_subplot()


def freeze_layout(figure: Figure) -> None:
    """Lay the figure out once and for all, so that labels placed in pixels stay where they were placed."""
    if isinstance(figure.get_layout_engine(), ConstrainedLayoutEngine):
        figure.draw_without_rendering()
        figure.set_layout_engine("none")


def set_log(axes: Axes, which: str, values: FloatArray) -> None:
    """A logarithmic x or y axis whose ticks read 0.001, not a power; 1-2-5 ticks within two decades, 1-3 within four.

    `values` are what the axis shows, all above 0.
    """
    getattr(axes, f"set_{which}scale")("log")
    axis = getattr(axes, f"{which}axis")
    decades = float(np.log10(values.max() / values.min())) if len(values) else 0.0
    subs = (1.0, 2.0, 5.0) if decades < 2 else (1.0, 3.0) if decades < 4 else (1.0,)
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.10g}"))
    axis.set_minor_formatter(NullFormatter())


def signed_points(value: float, _: object = None) -> str:
    """A tick of an axis in points: `+2`, `0`, `-0.5`."""
    return f"{value:+g}" if abs(value) > 1e-9 else "0"


def size_unit(sizes: FloatArray) -> tuple[str, float]:
    """The unit of an axis of sizes in bytes, and the bytes in it."""
    return ("GB (10^9 bytes)", 1e9) if len(sizes) and np.nanmax(sizes) >= 1e9 else ("MB (10^6 bytes)", 1e6)


def unpack(estimates: Sequence[Estimate | None]) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Values and bounds `[n]` as float64, NaN where there is none."""
    known = [e or Estimate(None) for e in estimates]
    columns = ([e.value for e in known], [e.low for e in known], [e.high for e in known])
    value, low, high = (np.array([np.nan if v is None else v for v in column], dtype=np.float64) for column in columns)
    return value, low, high


def draw_marks(axes: Axes, x: FloatArray, y: FloatArray, verdicts: Sequence[str | None]) -> None:
    """One mark per quant: colour and shape of its verdict. Undecided ones are hollow."""
    marks = [mark_of(verdict) for verdict in verdicts]
    for mark in dict.fromkeys(marks):
        chosen = np.array([other == mark for other in marks])
        axes.plot(x[chosen], y[chosen], **mark_style(mark))


def mark_style(mark: Mark) -> dict[str, Any]:
    """Keyword arguments of `Axes.plot` for one mark."""
    hollow = mark in (MARKS["not separable"], NO_MARK)
    return {
        "marker": mark.marker,
        "color": mark.light,
        "markerfacecolor": "white" if hollow else mark.light,
        "markersize": 6.5,
        "markeredgewidth": 1.6 if hollow else 1.0,
        "linestyle": "",
        "zorder": 3,
    }


def verdict_handles(verdicts: Sequence[str | None]) -> list[Line2D]:
    """Legend entries for the verdicts that occur, with how many quants have each."""
    words = [verdict if verdict is not None and verdict in MARKS else "no verdict" for verdict in verdicts]
    return [
        Line2D([], [], label=f"{word} ({words.count(word)})", **mark_style(mark_of(word)))
        for word in (*MARKS, "no verdict")
        if word in words
    ]


def draw_bars(axes: Axes, x: FloatArray, low: FloatArray, high: FloatArray, colors: Sequence[str]) -> list[Bbox]:
    """Intervals as vertical lines, and where they are, for `place_labels` to go around."""
    known = np.flatnonzero(np.isfinite(low) & np.isfinite(high)).tolist()
    inks = [colors[place] for place in known]
    axes.vlines(x[known], low[known], high[known], colors=inks, linewidth=1.1, alpha=0.6, zorder=2)
    return [Bbox([[x[place], low[place]], [x[place], high[place]]]) for place in known]


def place_labels(
    axes: Axes, x: FloatArray, y: FloatArray, labels: Sequence[str], lines: Sequence[Bbox] = (), leaders: bool = True
) -> list[Bbox]:
    """Write each label near its point where it covers no point and no label, and if it can no line; gives the boxes.

    Points from left to right, each at the cheapest of 300 places around it; a thin line leads from those that stand far
    off, or, without `leaders`, those have no label. `lines` are vertical or horizontal lines in data units, as boxes
    without width or height. Boxes are in pixels.
    """
    figure = axes.get_figure(root=True)
    assert isinstance(figure, Figure)
    freeze_layout(figure)
    renderer = FigureCanvasAgg(figure).get_renderer()  # type: ignore[no-untyped-call]
    dots = axes.transData.transform(np.column_stack([x, y]))
    frame = np.array(axes.get_window_extent(renderer).extents)
    soft = np.array([_line_box(axes, line) for line in lines]).reshape(-1, 4)
    hard = np.column_stack([dots - 7, dots + 7])
    legend = axes.get_legend()
    if legend is not None:
        hard = np.vstack([hard, legend.get_window_extent(renderer).extents])
    boxes: list[Bbox] = []
    for index in np.argsort(dots[:, 0], kind="stable"):
        note = axes.annotate(
            labels[index], (x[index], y[index]), xytext=(0, 0), textcoords="offset points", fontsize=8,
            ha="center", va="center", zorder=4,
            arrowprops={"arrowstyle": "-", "color": SOFT, "linewidth": 0.5, "shrinkA": 0, "shrinkB": 4},
        )  # fmt: skip
        extent = note.get_window_extent(renderer)
        middle, far = _best_place(dots, index, extent.width + 3, extent.height, hard, soft, frame)
        if far and not leaders:
            note.remove()
            continue
        half = np.array([extent.width + 3, extent.height]) / 2
        box = np.concatenate([middle - half, middle + half])
        hard = np.vstack([hard, box])
        boxes.append(Bbox.from_extents(*box))
        note.xyann = tuple((middle - dots[index]) * 72 / figure.dpi)  # points, so the same at every resolution
        if note.arrow_patch is not None and not far:
            note.arrow_patch.set_visible(False)
    return boxes


_ANGLES = np.deg2rad([0, 180, 90, 270, 30, 150, 330, 210, 60, 120, 240, 300])
_GAPS = np.array([9, 13, 18, 24, 31, 39, 48, 58, 70, 84, 100, 118, 138, 160, 185, 212, 242, 275, 310, 350, 400])


def _best_place(
    dots: FloatArray,
    index: int,
    width: float,
    height: float,
    hard: FloatArray,
    soft: FloatArray,
    frame: FloatArray,
) -> tuple[FloatArray, bool]:
    """The middle of the cheapest box around a point, `[2]` pixels, and whether it is so far that it needs a leader."""
    gaps, angles = (grid.ravel() for grid in np.meshgrid(_GAPS, _ANGLES, indexing="ij"))
    away = np.column_stack([np.cos(angles) * (gaps + width / 2), np.sin(angles) * (gaps + height / 2)])
    middles = dots[index] + away
    half = np.array([width, height]) / 2
    places = np.column_stack([middles - half, middles + half])
    outside = np.maximum(frame[:2] - places[:, :2], 0).sum(1) + np.maximum(places[:, 2:] - frame[2:], 0).sum(1)
    cost = gaps + 1e4 * _covered(places, hard) + 1e3 * outside + 4.0 * _covered(places, soft) ** 0.5
    # a leader must not pass another point; a label must not stand nearer to another point than to its own
    others = np.delete(dots, index, axis=0)
    if len(others):
        steps = np.linspace(0.25, 1, 8)[:, None, None]
        way = dots[index] + steps * away[None]
        distance = np.sqrt(((way[:, :, None] - others[None, None]) ** 2).sum(-1)).min(axis=(0, 2))
        cost = cost + np.where((gaps > 13) & (distance < 7), 60.0, 0.0)
        reach = np.maximum(np.abs(middles[:, None] - others[None]) - half, 0)
        cost = cost + np.where((gaps <= 24) & (np.hypot(*reach.T).min(0) < gaps), 25.0, 0.0)
    best = int(np.argmin(cost))
    return middles[best], bool(gaps[best] > 18)


def _covered(places: FloatArray, others: FloatArray) -> FloatArray:
    """Square pixels of each of `[n, 4]` places that lie on `[m, 4]` others, `[n]`."""
    low = np.maximum(places[:, None, :2], others[None, :, :2])
    high = np.minimum(places[:, None, 2:], others[None, :, 2:])
    area: FloatArray = np.prod(np.maximum(high - low, 0), axis=2).sum(1)
    return area


def _line_box(axes: Axes, line: Bbox) -> FloatArray:
    corners = axes.transData.transform(line.get_points())
    return np.concatenate([corners.min(0) - 1, corners.max(0) + 1])


def write_picture(picture: Picture, folder: Path, svg: bool = False) -> tuple[Path, ...]:
    """Write `NAME.png` (144 dpi), and with `svg` also `NAME.svg`, on white, into `folder`; the same bytes each time."""
    written = [_write(picture, folder / f"{picture.name}.png", {"format": "png", "dpi": DPI})]
    if svg:
        written.append(_write(picture, folder / f"{picture.name}.svg", {"format": "svg", "metadata": {"Date": None}}))
    return tuple(written)


def save_picture(picture: Picture, path: Path) -> Path:
    """Write one picture in the form that its ending names; raises `InputError` for another than .png and .svg."""
    forms: dict[str, dict[str, Any]] = {
        ".png": {"format": "png", "dpi": DPI},
        ".svg": {"format": "svg", "metadata": {"Date": None}},
    }
    if path.suffix.lower() not in forms:
        raise InputError(f"{path}: pictures are written as .png or .svg; give the file one of these endings")
    return _write(picture, path, forms[path.suffix.lower()])


def _write(picture: Picture, path: Path, how: dict[str, Any]) -> Path:
    write_whole(path, _drawn(picture, how))
    return path


def _drawn(picture: Picture, how: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    with house_style():
        freeze_layout(picture.figure)
        picture.figure.savefig(buffer, facecolor="white", **how)
    return buffer.getvalue()


def draw_png(picture: Picture) -> bytes:
    """One picture as a PNG (144 dpi) in memory; the same bytes each time."""
    return _drawn(picture, {"format": "png", "dpi": DPI})
