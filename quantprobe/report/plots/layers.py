"""The bits of every tensor of a model, layer by role, as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes

from quantprobe.arrays import FloatArray
from quantprobe.report.plots.style import INK, SOFT, Picture, house_style, new_figure, save_picture
from quantprobe.report.printable import printable

if TYPE_CHECKING:
    from quantprobe.checks.inspection import Inspection, TensorFacts

COLORS = "viridis"
"""From few bits (dark) to many (light): readable in grey and by colour-blind readers."""
LOWEST, HIGHEST = 1.5, 16.0
MAX_LABELLED = 48
"""Layers up to which every cell also says its type."""


def layers_picture(model: Inspection) -> Picture:
    """Layer by role, coloured by bits per weight on a logarithmic scale; cells without such a tensor stay white."""
    grid, types, roles, layers = _grid(model.tensors)
    with house_style():
        height = max(2.5, 0.24 * len(layers) + 1.6)
        figure, axes = new_figure(max(5.0, 0.85 * len(roles) + 2.2), min(height, 30), printable(model.info.name))
        image = axes.imshow(
            np.ma.masked_invalid(grid), cmap=COLORS, norm="log", vmin=LOWEST, vmax=HIGHEST, aspect="auto",
            interpolation="nearest",
        )  # fmt: skip
        axes.set_title(f"{model.info.file_type}, {model.info.bpw:.2f} bits per weight")
        axes.set_xticks(range(len(roles)), roles, rotation=40, ha="right")
        axes.set_yticks(range(len(layers)), ["other" if layer < 0 else str(layer) for layer in layers])
        axes.grid(visible=False)
        if len(layers) <= MAX_LABELLED:
            _label(axes, grid, types)
        bar = figure.colorbar(image, ax=axes, ticks=[2, 3, 4, 6, 8, 16])
        bar.ax.set_yticklabels(["2", "3", "4", "6", "8", "16"])
        bar.ax.minorticks_off()
        bar.set_label("bits per weight", color=SOFT)
    alt = f"Bits per weight of every tensor of {printable(model.info.name)} by layer and role"
    return Picture("layers", alt, figure)


def _grid(tensors: Sequence[TensorFacts]) -> tuple[FloatArray, list[list[str]], list[str], list[int]]:
    """Bits `[n_layers, n_roles]` (NaN: none), types, roles and layers; -1 is what lies outside the layers."""
    shown = [each for each in tensors if len(each.shape) > 1]
    roles = list(dict.fromkeys(each.role for each in sorted(shown, key=lambda each: each.layer is None)))
    layers = sorted({-1 if each.layer is None else each.layer for each in shown})
    grid = np.full((len(layers), len(roles)), np.nan)
    types = [[""] * len(roles) for _ in layers]
    for each in shown:
        row = layers.index(-1 if each.layer is None else each.layer)
        column = roles.index(each.role)
        grid[row, column] = each.bits
        types[row][column] = each.type_name
    return grid, types, roles, layers


def _label(axes: Axes, grid: FloatArray, types: list[list[str]]) -> None:
    for row, names in enumerate(types):
        for column, name in enumerate(names):
            ink = INK if grid[row, column] > 5 else "white"
            axes.text(column, row, name, ha="center", va="center", fontsize=6.5, color=ink)


def write_layers(models: Sequence[Inspection], path: Path) -> tuple[Path, ...]:
    """Write the picture of one model to `path`, of several beside it as `NAME-MODEL.png`."""
    written = []
    for model in models:
        target = path if len(models) == 1 else path.with_name(f"{path.stem}-{model.info.name}{path.suffix}")
        written.append(save_picture(layers_picture(model), target))
    return tuple(written)
