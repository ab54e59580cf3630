"""Where distance and where answers are lost: a map of layers by roles, and bars with intervals."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from quantprobe.arrays import FloatArray, Int64Array
from quantprobe.gguf.roles import merged_role
from quantprobe.gguf.tensors import place_of
from quantprobe.report.plots.style import INK, LINE, NEAR, SOFT, Picture, house_style
from quantprobe.report.printable import printable
from quantprobe.run.blame import KLD, MARGIN, Blame, Effect, GroupEffects

COLORS = "RdBu"
"""Blue: restoring gives back; red: it takes away. Told apart by colour-blind readers."""
MAX_LABELLED, MAX_BARS = 60, 40
TITLES = {KLD: ("Distance given back", "nats of KLD"), MARGIN: ("Answers given back", "nats of margin")}


def blame_pictures(blame: Blame) -> list[Picture]:
    """The map and the bars, of the first way that was measured."""
    shown = [name for name in (KLD, MARGIN) if name in blame.measures]
    return [_map(blame, shown), _bars(blame, shown)]


def _figure(width: float, height: float, title: str, n: int) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold", fontsize=12)
    return figure, list(np.ravel(figure.subplots(1, n, sharey=True, squeeze=False)))


def _map(blame: Blame, measures: list[str]) -> Picture:
    """Layer by role, coloured by the effect of the group that holds the tensor."""
    groups, roles, layers = _grid(blame)
    effects = blame.of_way(blame.ways[0])
    with house_style():
        height = min(max(3.0, 0.19 * len(layers) + 1.9), 24)
        width = max(4.2, 0.75 * len(roles) + 1.6) * len(measures)
        title = f"What restoring gives back: {printable(blame.quant.name)}"
        figure, panels = _figure(width, height, title, len(measures))
        for axes, measure in zip(panels, measures, strict=True):
            values = np.array([each.measures[measure].given_back.value or 0.0 for each in effects])
            grid = np.where(groups >= 0, values[np.maximum(groups, 0)], np.nan)
            reach = max(float(np.abs(values).max()), 1e-12)
            image = axes.imshow(
                np.ma.masked_invalid(grid), cmap=COLORS, norm=TwoSlopeNorm(0, -reach, reach), aspect="auto",
                interpolation="nearest",
            )  # fmt: skip
            axes.set_title(TITLES[measure][0])
            axes.set_xticks(range(len(roles)), roles, rotation=40, ha="right")
            axes.set_yticks(*_layer_ticks(layers))
            axes.grid(visible=False)
            _edges(axes, groups)
            if len(effects) <= MAX_LABELLED:
                _labels(axes, groups, effects, measure, reach)
            bar = figure.colorbar(image, ax=axes)
            bar.set_label(TITLES[measure][1], color=SOFT)
    alt = (
        f"Layers by roles of {printable(blame.quant.name)}, coloured by what restoring each group gives back: "
        f"{', '.join(TITLES[measure][1] for measure in measures)}"
    )
    return Picture("blame-map", alt, figure)


def _layer_ticks(layers: list[int]) -> tuple[list[int], list[str]]:
    names = ["outside" if layer < 0 else str(layer) for layer in layers]
    step = max(1, len(layers) // 36)
    return list(range(0, len(layers), step)), names[::step]


def _grid(blame: Blame) -> tuple[Int64Array, list[str], list[int]]:
    """Which group each cell belongs to, `[n_layers, n_roles]` (-1: none), with its roles and layers."""
    cells: dict[tuple[int, str], int] = {}
    for number, group in enumerate(blame.groups):
        for name in group.tensors:
            layer = place_of(name).layer
            cells.setdefault((-1 if layer is None else layer, merged_role(name)), number)
    layers = sorted({layer for layer, _ in cells})
    roles = list(dict.fromkeys(role for _, role in sorted(cells, key=lambda cell: cell[0] < 0)))
    grid = np.full((len(layers), len(roles)), -1, np.int64)
    for (layer, role), number in cells.items():
        grid[layers.index(layer), roles.index(role)] = number
    return grid, roles, layers


def _edges(axes: Axes, groups: Int64Array) -> None:
    """A line where one group ends and another begins."""
    for i, j in np.ndindex(*groups.shape):
        if j + 1 < groups.shape[1] and groups[i, j] != groups[i, j + 1]:
            axes.plot([j + 0.5] * 2, [i - 0.5, i + 0.5], color=LINE, linewidth=0.8)
        if i + 1 < groups.shape[0] and groups[i, j] != groups[i + 1, j]:
            axes.plot([j - 0.5, j + 0.5], [i + 0.5] * 2, color=LINE, linewidth=0.8)


def _labels(axes: Axes, groups: Int64Array, effects: tuple[GroupEffects, ...], measure: str, reach: float) -> None:
    """The effect in the middle of its group; bold where its interval leaves out 0."""
    for number, each in enumerate(effects):
        rows, columns = np.nonzero(groups == number)
        if not len(rows):
            continue
        effect = each.measures[measure]
        value = effect.given_back.value or 0.0
        column = int(np.median(columns))
        row = float(np.median(rows[columns == column])) if (columns == column).any() else float(np.median(rows))
        axes.text(
            column, row, _short(value), ha="center", va="center", fontsize=7,
            fontweight="bold" if _is_shown(effect) else "normal", color="white" if abs(value) > 0.6 * reach else INK,
        )  # fmt: skip


def _short(value: float) -> str:
    return f"{value:.2f}" if abs(value) >= 0.1 else f"{value:.3f}"


def _is_shown(effect: Effect) -> bool:
    low, high = effect.given_back.low, effect.given_back.high
    return low is not None and high is not None and (low > 0 or high < 0)


def _bars(blame: Blame, measures: list[str]) -> Picture:
    """Groups by distance, the largest on top, with intervals that hold for all groups together."""
    effects = blame.of_way(blame.ways[0])
    first = measures[0]
    ranked = sorted(effects, key=lambda each: -(each.measures[first].given_back.value or 0.0))[:MAX_BARS]
    places = np.arange(len(ranked))[::-1]
    with house_style():
        title = f"Groups of {printable(blame.quant.name)}"
        figure, panels = _figure(4.6 * len(measures) + 1.2, max(2.6, 0.3 * len(ranked) + 1.4), title, len(measures))
        for axes, measure in zip(panels, measures, strict=True):
            value, low, high = (_numbers(ranked, measure, end) for end in ("value", "low", "high"))
            axes.barh(places, value, height=0.62, color=NEAR, alpha=0.75)
            known = np.isfinite(low)
            reach = [(value - low)[known], (high - value)[known]]
            axes.errorbar(value[known], places[known], xerr=reach, fmt="none", ecolor=INK, elinewidth=1, capsize=2)
            axes.axvline(0, color=SOFT, linewidth=0.8)
            axes.set_title(f"{TITLES[measure][0]}, {TITLES[measure][1]}")
            axes.set_yticks(places, [printable(each.group) for each in ranked])
            axes.grid(axis="y", visible=False)
            axes.xaxis.set_major_locator(MaxNLocator(5))
    return Picture("blame-bars", f"What each group of {printable(blame.quant.name)} gives back, with intervals", figure)


def _numbers(effects: list[GroupEffects], measure: str, end: str) -> FloatArray:
    found = (getattr(each.measures[measure].given_back, end) for each in effects)
    return np.array([np.nan if value is None else value for value in found])
