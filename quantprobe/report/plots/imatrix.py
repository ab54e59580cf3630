"""The picture of two importance matrices: layers by roles, coloured by how much their order of columns differs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from quantprobe.imatrix.statistics import TensorComparison
from quantprobe.report.plots.style import Picture, house_style, new_figure, save_picture


def save_comparison(path: Path, tensors: Sequence[TensorComparison], a: str, b: str) -> None:
    """Draw the comparison to a PNG or SVG file."""
    save_picture(comparison_picture(tensors, a, b), path)


def comparison_picture(tensors: Sequence[TensorComparison], a: str, b: str) -> Picture:
    """Rank correlation of each weight's columns, one square each; weights outside the layers are left out."""
    inside = [each for each in tensors if each.layer is not None]
    roles = sorted({each.role for each in inside})
    n_layers = 1 + max((each.layer or 0 for each in inside), default=0)
    values = np.full((max(len(roles), 1), n_layers), np.nan)
    for each in inside:
        values[roles.index(each.role), each.layer or 0] = each.rank
    with house_style():
        figure, axes = new_figure(max(7.0, 2.6 + 0.22 * n_layers), 1.9 + 0.3 * max(len(roles), 4), f"{b} beside {a}")
        low = float(np.nanmin(values)) if np.isfinite(values).any() else 0.0
        image = axes.imshow(values, cmap="viridis", vmin=min(low, 0.99), vmax=1.0, aspect="auto", interpolation="none")
        axes.set_yticks(range(len(roles)), roles)
        axes.set_xlabel("layer")
        axes.grid(False)
        axes.set_title("rank correlation of the columns' mean squared inputs")
        figure.colorbar(image, ax=axes)
    alt = f"Heat map of {len(inside)} weights in {n_layers} layers: rank correlations from {low:.3f} to 1."
    return Picture("imatrix-comparison", alt, figure)
