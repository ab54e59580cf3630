"""What every picture shares: colours, markers, fonts, label placing, saving. No pyplot, no global state."""

from __future__ import annotations

import io
import re
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
from matplotlib.ticker import FuncFormatter, LogFormatter, NullFormatter
from matplotlib.transforms import Bbox

from quantprobe.arrays import FloatArray
from quantprobe.files import write_whole
from quantprobe.stats.estimates import Estimate

INK = "#1f2328"
"""Text, axes and everything that the page recolours for its theme; used for nothing else."""
FAINT = "#878d96"
"""Grid and guide lines: contrast 3.3 on white, 5.4 on the page's dark ground."""
BLUE, ORANGE, GREEN, PURPLE = "#2f78c4", "#c4611a", "#17875f", "#a3579a"
"""Relative luminance between 0.13 and 0.29, so each has contrast of 3 or more on white and on the dark ground."""

VERDICT_STYLE = {
    "worse": (ORANGE, "v"),
    "better": (GREEN, "^"),
    "equivalent": (BLUE, "s"),
    "not separable": (PURPLE, "o"),
}
"""Colour and marker: never colour alone."""
DASHES: tuple[str | tuple[int, tuple[int, ...]], ...] = ("-", (0, (5, 2)), (0, (2, 1)), (0, (6, 2, 1, 2)))

_RC: dict[str, Any] = {
    "font.family": ["DejaVu Sans", "sans-serif"],
    "font.size": 10.0,
    "axes.titlesize": 11.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.facecolor": "none",  # whatever ground the page has
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.alpha": 0.28,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 9.0,
    "lines.linewidth": 1.4,
    "text.parse_math": False,  # a dollar in a name is a dollar
    "svg.fonttype": "none",
    "svg.hashsalt": "quantprobe",
}


@dataclass(frozen=True)
class Picture:
    """One finished plot: a figure, a file name without extension, a title, and the text for those who cannot see it."""

    name: str
    title: str
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


def new_figure(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure of `width x height` inches with one axes, outside pyplot's list of figures."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def freeze_layout(figure: Figure) -> None:
    """Lay the figure out once and for all, so that labels placed in pixels stay where they were placed."""
    if isinstance(figure.get_layout_engine(), ConstrainedLayoutEngine):
        figure.draw_without_rendering()
        figure.set_layout_engine("none")


def set_log(axes: Axes, which: str, scale: str = "log", **options: Any) -> None:
    """A logarithmic x or y axis whose ticks read 0.001, not a power.

    Minor ticks are labelled where the axis spans a decade or less.
    """
    getattr(axes, f"set_{which}scale")(scale, **options)
    axis = getattr(axes, f"{which}axis")
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(LogFormatter(minor_thresholds=(1.0, 0.4)) if scale == "log" else NullFormatter())


def ordered_colors(n: int) -> list[str]:
    """`n` colours from blue through grey to orange, of nearly equal luminance: read in order, not as categories."""
    stops = np.array([mpl.colors.to_rgb(c) for c in (BLUE, "#77777f", ORANGE)])
    where = np.linspace(0.0, 2.0, max(n, 2))[:n]
    mixed = np.stack([np.interp(where, [0, 1, 2], stops[:, channel]) for channel in range(3)], axis=1)
    return [mpl.colors.to_hex(color) for color in mixed]


def place_labels(axes: Axes, x: FloatArray, y: FloatArray, labels: Sequence[str], size: float = 8.0) -> list[Bbox]:
    """Write each label near its point so that no two labels overlap; a thin line leads from those that had to move.

    Greedy: points from left to right, positions on growing rings around the point, the first that is
    free of labels and inside the axes, and of points where that can be had. Gives the boxes in pixels.
    """
    figure = axes.get_figure(root=True)
    assert isinstance(figure, Figure)
    freeze_layout(figure)
    renderer = FigureCanvasAgg(figure).get_renderer()  # type: ignore[no-untyped-call]
    inside = axes.get_window_extent(renderer)
    dots = axes.transData.transform(np.column_stack([x, y]))
    taken: list[Bbox] = []
    for index in np.argsort(dots[:, 0], kind="stable"):
        note = axes.annotate(
            labels[index],
            (x[index], y[index]),
            xytext=(0, 0),
            textcoords="offset points",
            fontsize=size,
            ha="center",
            va="center",
            arrowprops={"arrowstyle": "-", "color": FAINT, "linewidth": 0.6, "shrinkA": 0, "shrinkB": 3},
        )
        extent = note.get_window_extent(renderer)
        box = _free_box(dots[index], extent.width + 2, extent.height + 1, taken, dots, inside)
        taken.append(box)
        offset = np.array([(box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2]) - dots[index]
        note.xyann = tuple(offset * 72 / figure.dpi)  # points, so the same at every resolution
        reach = np.hypot(max(abs(offset[0]) - extent.width / 2, 0), max(abs(offset[1]) - extent.height / 2, 0))
        if note.arrow_patch is not None and reach < 9:
            note.arrow_patch.set_visible(False)
    return taken


def _free_box(
    dot: FloatArray, width: float, height: float, taken: Sequence[Bbox], dots: FloatArray, inside: Bbox
) -> Bbox:
    angles = np.deg2rad([0, 180, 90, 270, 30, 150, 330, 210, 60, 120, 240, 300])
    fallback: Bbox | None = None
    for gap in np.arange(5.0, 400.0, 7.0):
        for angle in angles:
            cx = dot[0] + np.cos(angle) * (gap + width / 2)
            cy = dot[1] + np.sin(angle) * (gap + height / 2)
            box = Bbox.from_bounds(cx - width / 2, cy - height / 2, width, height)
            if any(box.overlaps(other) for other in taken):
                continue
            if not (box.x0 > inside.x0 and box.x1 < inside.x1 and box.y0 > inside.y0 and box.y1 < inside.y1):
                continue
            covered = (abs(dots[:, 0] - cx) < width / 2 + 3) & (abs(dots[:, 1] - cy) < height / 2 + 3)
            if not covered.any():
                return box
            fallback = fallback or box
        if fallback is not None and gap > 60:
            return fallback
    return fallback or Bbox.from_bounds(dot[0] + 5, dot[1] - height / 2, width, height)


def render_svg(picture: Picture) -> str:
    """The plot as an SVG document without ground; text stays text. The same bytes for the same plot."""
    buffer = io.StringIO()
    with house_style():
        freeze_layout(picture.figure)
        picture.figure.savefig(buffer, format="svg", facecolor="none", metadata={"Date": None})
    return buffer.getvalue()


def write_picture(picture: Picture, svg: str, folder: Path) -> tuple[Path, Path]:
    """Write `NAME.png` (144 dpi) and `NAME.svg` (from `render_svg`), both on white, into `folder`."""
    png = io.BytesIO()
    with house_style():
        freeze_layout(picture.figure)
        picture.figure.savefig(png, format="png", dpi=144, facecolor="white")
    on_white = svg.replace("<svg ", '<svg style="background: #ffffff" ', 1)
    paths = folder / f"{picture.name}.png", folder / f"{picture.name}.svg"
    write_whole(paths[0], png.getvalue())
    write_whole(paths[1], on_white.encode("utf-8"))
    return paths


def inline_svg(picture: Picture, svg: str) -> str:
    """`svg` (from `render_svg`) as an element for a page: ink as `currentColor`, ids unique to this plot.

    The element is hidden from screen readers; the page gives `picture.alt` in its place.
    """
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="', f'id="{picture.name}-', svg)
    svg = svg.replace("url(#", f"url(#{picture.name}-").replace('xlink:href="#', f'xlink:href="#{picture.name}-')
    svg = re.sub(r"\n\s+", "\n", svg).replace(INK, "currentColor")
    return svg.replace("<svg ", '<svg aria-hidden="true" focusable="false" ', 1)


def unpack(estimates: Sequence[Estimate]) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Values and bounds `[n]` as float64, NaN where there is none."""
    columns = ([e.value for e in estimates], [e.low for e in estimates], [e.high for e in estimates])
    value, low, high = (np.array([np.nan if v is None else v for v in column], dtype=np.float64) for column in columns)
    return value, low, high


def counted(estimates: Sequence[Estimate], things: str, clusters: str, short: bool = False) -> str:
    known = [e for e in estimates if e.value is not None]
    if not known:
        return "nothing measured"
    text = f"{span(sorted({e.n for e in known}))} {things}"
    if any(e.n_clusters not in (0, e.n) for e in known):
        text += f" in {span(sorted({e.n_clusters for e in known}))} {clusters}"
    return text if short else f"{text}, {len(known)} quants, {known[0].level:.0%} intervals"


def span(counts: Sequence[int]) -> str:
    if not counts:
        return "0"
    return f"{counts[0]:,}" if counts[0] == counts[-1] else f"{counts[0]:,} to {counts[-1]:,}"


def verdict_handles(verdicts: Sequence[str | None]) -> list[Line2D]:
    present = [v for v in VERDICT_STYLE if v in verdicts]
    handles = [
        Line2D([], [], color=VERDICT_STYLE[v][0], marker=VERDICT_STYLE[v][1], linestyle="", label=v) for v in present
    ]
    if any(v not in VERDICT_STYLE for v in verdicts):
        handles.append(Line2D([], [], color=FAINT, marker="x", linestyle="", label="no verdict"))
    return handles


def draw_intervals(axes: Axes, x: FloatArray, y: FloatArray, low: FloatArray, high: FloatArray, color: str) -> None:
    known = np.isfinite(low) & np.isfinite(high)
    axes.vlines(x[known], low[known], high[known], color=color, linewidth=1.1, alpha=0.65)
