"""The pictures of a cohort: one function per plot, from plain numbers to a `Picture`.

Each can be read alone: units on the axes, numbers of rows, items and quants in the title, and what the bars mean.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from quantprobe.arrays import BoolArray, FloatArray
from quantprobe.names import safe_name
from quantprobe.report.plots.style import (
    BLUE,
    DASHES,
    FAINT,
    ORANGE,
    Picture,
    counted,
    draw_intervals,
    house_style,
    new_figure,
    ordered_colors,
    place_labels,
    set_log,
    span,
    unpack,
)
from quantprobe.stats.estimates import Estimate


def plot_kld_size(
    names: Sequence[str],
    sizes: FloatArray,
    kld: Sequence[Estimate],
    frontier: BoolArray,
    text: str,
    floor: float | None,
) -> Picture:
    """Mean KLD (nats, log) against file size, with intervals and the Pareto line.

    `sizes [n_quants]` in bytes; `frontier` marks the quants that no other beats in both; `floor` is the
    null control's mean KLD, drawn where it is above 0. Quants without a positive KLD are left out and named.
    """
    values, low, high = unpack(kld)
    shown = (values > 0) & np.isfinite(sizes)
    unit, scale = _size_unit(sizes[shown])
    x = sizes / scale
    with house_style():
        figure, axes = new_figure(9.0, 6.0)
        set_log(axes, "y")
        draw_intervals(axes, x[shown], values[shown], low[shown], high[shown], BLUE)
        best = np.flatnonzero(shown & frontier)
        best = best[np.argsort(x[best], kind="stable")]
        if len(best):
            axes.step(x[best], values[best], where="post", color=ORANGE, label="Pareto line (smaller and nearer)")
        axes.plot(x[shown], values[shown], "o", color=BLUE, markersize=5, label="quant, with its interval")
        axes.plot(x[best], values[best], "D", color=ORANGE, markersize=6.5, label="on the Pareto line")
        if floor is not None and floor > 0:
            _draw_floor(axes, floor, float(values[shown].min(initial=np.inf)))
        axes.set_xlabel(f"file size ({unit})")
        axes.set_ylabel("mean KLD from the base (nats, log scale)")
        axes.set_title(f"KLD against size on {text}\n{counted(kld, 'rows', 'windows')}{_left_out(names, shown)}")
        axes.margins(x=0.12, y=0.12)
        axes.legend(loc="upper right")
        place_labels(axes, x[shown], values[shown], [n for n, s in zip(names, shown, strict=True) if s])
    line = ", ".join(f"{names[int(i)]} ({x[i]:.3g} {unit[:2]}, {values[i]:.3g} nats)" for i in best)
    alt = f"Mean KLD on {text} against file size for {shown.sum()} quants. On the Pareto line: {line or 'none'}."
    return Picture(f"kld-size-{safe_name(text)}", f"KLD against size, {text}", alt, figure)


def plot_accuracy_kld(
    names: Sequence[str], kld: FloatArray, net: Sequence[Estimate], zone: BoolArray, margin: float | None, task: str
) -> Picture:
    """Net change of accuracy against mean KLD (nats, log); the silent zone's range of KLD is shaded.

    `kld [n_quants]`; `zone [n_quants]` marks the members of the zone; `margin` is a fraction of items.
    """
    values, low, high = unpack(net)
    shown = (kld > 0) & np.isfinite(values)
    with house_style():
        figure, axes = new_figure(9.0, 6.0)
        set_log(axes, "x")
        inside = shown & zone
        if inside.any():
            axes.axvspan(kld[inside].min() / 1.15, kld[inside].max() * 1.15, color=BLUE, alpha=0.11, linewidth=0)
        axes.axhline(0, color=FAINT, linewidth=0.9)
        for side in (-1, 1) if margin is not None else ():
            axes.axhline(side * margin, color=FAINT, linestyle="--", linewidth=0.9)  # type: ignore[operator]
        for mask, color, marker, label in (
            (inside, BLUE, "s", f"in the silent zone ({inside.sum()} quants, range of KLD shaded)"),
            (shown & ~zone, ORANGE, "o", f"outside ({(shown & ~zone).sum()} quants)"),
        ):
            draw_intervals(axes, kld[mask], values[mask], low[mask], high[mask], color)
            axes.plot(kld[mask], values[mask], marker, color=color, markersize=5.5, label=label)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.set_xlabel("mean KLD from the base (nats, log scale)")
        axes.set_ylabel("net change of accuracy against the base")
        lines = "" if margin is None else f"; dashed: margin of {margin:.2%}"
        axes.set_title(f"Accuracy change against KLD, {task}\n{counted(net, 'items', 'groups')}{lines}")
        axes.margins(x=0.1, y=0.15)
        axes.legend(loc="lower left")
        place_labels(axes, kld[shown], values[shown], [n for n, s in zip(names, shown, strict=True) if s])
    alt = (
        f"Net change of accuracy on {task} against mean KLD for {shown.sum()} quants; "
        f"{inside.sum()} of them are in the silent zone{_listed(names, inside)}."
    )
    return Picture(f"accuracy-kld-{safe_name(task)}", f"Accuracy change against KLD, {task}", alt, figure)


def plot_correlations(
    variants: Sequence[str],
    measures: Sequence[str],
    panels: Sequence[tuple[str, FloatArray, BoolArray]],
    correction: str,
) -> Picture:
    """Rank correlation of every fidelity variant with every accuracy measure, one panel for each part of the cohort.

    Each panel is (title, rho `[n_variants, n_measures]`, clear `[n_variants, n_measures]`); NaN where a
    correlation does not exist, a star where it is clear of zero after correction for multiplicity.
    """
    with house_style():
        figure, first = new_figure(3.2 + 0.62 * len(measures) * len(panels), 1.9 + 0.3 * len(variants))
        figure.delaxes(first)
        grid = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        image = None
        for axes, (title, rho, clear) in zip(grid, panels, strict=True):
            axes.grid(False)
            axes.set_facecolor("#c9ccd1")
            image = axes.imshow(rho, cmap="PuOr", vmin=-1, vmax=1, aspect="auto")
            for row, column in np.ndindex(*rho.shape):
                _write_cell(axes, row, column, float(rho[row, column]), bool(clear[row, column]))
            axes.set_title(title)
            axes.set_xticks(range(len(measures)), measures, rotation=35, ha="right", rotation_mode="anchor")
            axes.set_yticks(range(len(variants)), variants)
            axes.spines[:].set_visible(False)
            axes.tick_params(length=0)
        if image is not None:
            bar = figure.colorbar(image, ax=grid, shrink=min(1.0, 8 / max(len(variants), 1)), pad=0.02)
            bar.set_label("Spearman's rho")
        figure.supxlabel(f"star: clear of zero ({correction}); grey: cannot be computed", fontsize=9)
    parts = "; ".join(
        f"{title.splitlines()[0]}: "
        + (f"{np.nanmin(rho):+.2f} to {np.nanmax(rho):+.2f}" if np.isfinite(rho).any() else "none")
        for title, rho, _ in panels
    )
    alt = f"Spearman correlation of {len(variants)} fidelity variants with {len(measures)} accuracy measures. {parts}."
    return Picture("correlations", "Does fidelity predict accuracy?", alt, figure)


def plot_kld_tail(names: Sequence[str], rows: Sequence[FloatArray], text: str) -> Picture:
    """Share of rows with a KLD above x, both axes logarithmic; one line per quant, in the order of the 99 % point.

    `rows` holds each quant's finite per-row KLD in nats. Lines go through at most 160 order statistics.
    """
    ends = [float(np.quantile(values, 0.99)) if len(values) else np.nan for values in rows]
    order = np.argsort(-np.array(ends), kind="stable")
    with house_style():
        figure, axes = new_figure(10.0 if len(names) <= 24 else 11.5, max(5.6, 0.2 * min(len(names), 34)))
        set_log(axes, "x")
        set_log(axes, "y")
        _draw_tails(axes, [f"{names[i]}  {ends[i]:.2g}" for i in order], [rows[i] for i in order])
        axes.axhline(0.01, color=FAINT, linewidth=0.8, linestyle=":")
        axes.set_xlabel("KLD of a row (nats, log scale)")
        axes.set_ylabel("share of rows above x (log scale)")
        n_rows = sorted({len(values) for values in rows})
        axes.set_title(f"Tail of the KLD on {text}\n{span(n_rows)} rows a quant, {len(names)} quants")
        if axes.get_legend_handles_labels()[0]:
            figure.legend(
                loc="outside right upper",
                title="quant, 99 % point (nats)",
                fontsize=8,
                ncols=1 if len(names) <= 34 else 2,
                handlelength=2.6,
            )
    known = [i for i in order if np.isfinite(ends[i])]
    ends_text = ", ".join(
        f"{names[i]} {ends[i]:.2g}" for i in (known if len(known) <= 4 else [*known[:2], *known[-2:]])
    )
    alt = f"Share of rows above a KLD on {text}, log-log, {len(names)} quants. 99 % points in nats: {ends_text}."
    return Picture(f"kld-tail-{safe_name(text)}", f"Tail of the KLD, {text}", alt, figure)


def _draw_tails(axes: Axes, labels: Sequence[str], rows: Sequence[FloatArray]) -> None:
    """One line per quant, worst first; quants without a KLD above 0 have none. Sets the limits of both axes."""
    smallest = 1.0
    for place, (values, color) in enumerate(zip(rows, ordered_colors(len(rows))[::-1], strict=True)):
        x, share = _tail(values)
        if len(x):
            smallest = min(smallest, float(share[0]), float(share[-1]))
            dashes = DASHES[place % len(DASHES)]
            axes.plot(x, share, color=color, linestyle=dashes, linewidth=1.2, label=labels[place])
    axes.set_ylim(smallest / 1.5, 1.15)
    bodies = [float(np.quantile(values, 0.2)) for values in rows if len(values)]
    axes.set_xlim(left=max(min(bodies, default=1e-6), 1e-9) / 2)


def _draw_floor(axes: Axes, floor: float, lowest: float) -> None:
    """A line where it is near the quants; otherwise words alone, so that an empty decade does not squeeze the rest."""
    near = floor > lowest / 20
    label = f"floor of the instrument: {floor:.2g} nats" + ("" if near else " (below the axis)")
    axes.axhline(floor if near else lowest, color=FAINT if near else "none", linestyle=":", label=label)


def _write_cell(axes: Axes, row: int, column: int, rho: float, clear: bool) -> None:
    if not np.isfinite(rho):
        return
    dark = abs(rho) > 0.62
    axes.text(
        column,
        row,
        f"{rho:+.2f}{'*' if clear else ''}",
        ha="center",
        va="center",
        fontsize=7.5,
        fontweight="bold" if clear else "normal",
        color="#ffffff" if dark else "#000000",
    )


def _tail(values: FloatArray) -> tuple[FloatArray, FloatArray]:
    """At most 160 points (x, share of rows >= x), x above 0, evenly spread over the logarithm of the share."""
    ordered = np.sort(values)[::-1]
    ordered = ordered[ordered > 0]
    if not len(ordered):
        return ordered, ordered
    ranks = np.unique(np.geomspace(1, len(ordered), 160).round().astype(np.int64))
    return ordered[ranks - 1][::-1], (ranks / len(values))[::-1]


def _size_unit(sizes: FloatArray) -> tuple[str, float]:
    if len(sizes) and sizes.max() < 1e9:
        return "MB, 10^6 bytes", 1e6
    return "GB, 10^9 bytes", 1e9


def _left_out(names: Sequence[str], shown: BoolArray) -> str:
    absent = [name for name, keep in zip(names, shown, strict=True) if not keep]
    return f"; not shown (no KLD above 0): {', '.join(absent)}" if absent else ""


def _listed(names: Sequence[str], mask: BoolArray) -> str:
    picked = [name for name, keep in zip(names, mask, strict=True) if keep]
    return f" ({', '.join(picked)})" if picked else ""
