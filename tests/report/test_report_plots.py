"""The pictures: labels that do not meet, honest tails and frontiers, SVG that can share a page."""

import math
import re
import xml.etree.ElementTree as ET
from itertools import combinations

import matplotlib as mpl
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantprobe.report.page.cells import short_names
from quantprobe.report.plots.answers import plot_direction_plane, plot_margin_shifts, plot_net_forest
from quantprobe.report.plots.gallery import pareto_members
from quantprobe.report.plots.study import _tail, plot_correlations, plot_kld_size, plot_kld_tail
from quantprobe.report.plots.style import (
    BLUE,
    FAINT,
    GREEN,
    ORANGE,
    PURPLE,
    house_style,
    inline_svg,
    new_figure,
    ordered_colors,
    place_labels,
    render_svg,
    write_picture,
)
from quantprobe.stats.estimates import Estimate


def make(value: float | None, stderr: float | None = 0.01, n: int = 400, unit: str = "fraction") -> Estimate:
    if value is None or stderr is None:
        return Estimate(value, None, None, None, 0.95, n, n, unit)
    return Estimate(value, stderr, value - 1.96 * stderr, value + 1.96 * stderr, 0.95, n, n, unit)


def contrast(first: str, second: str) -> float:
    """WCAG 2 contrast of two colours."""

    def luminance(color: str) -> float:
        channels = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in mpl.colors.to_rgb(color)]
        return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), channels, strict=True))

    low, high = sorted([luminance(first), luminance(second)])
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("ground", ["#ffffff", "#14171c"])
def test_every_colour_of_data_has_contrast_on_both_grounds(ground):
    for color in (BLUE, ORANGE, GREEN, PURPLE, FAINT, *ordered_colors(40)):
        assert contrast(color, ground) >= 3.0


@pytest.mark.parametrize("n", [1, 3, 24, 40])
def test_labels_of_crowded_points_do_not_overlap(n):
    rng = np.random.default_rng(n)
    x, y = rng.normal(0, 1, n), rng.normal(0, 0.02, n)
    with house_style():
        axes = new_figure(9.0, 6.0)[1]
        axes.plot(x, y, "o")
        axes.margins(x=0.12, y=0.12)
        boxes = place_labels(axes, x, y, [f"UD-Q{i % 8}_K_XL-{i}" for i in range(n)])
        inside = axes.get_window_extent()
    assert len(boxes) == n
    assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))
    assert all(inside.x0 <= b.x0 and b.x1 <= inside.x1 and inside.y0 <= b.y0 and b.y1 <= inside.y1 for b in boxes)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 6), st.integers(0, 6)), min_size=1, max_size=12))
def test_pareto_members_are_those_that_no_other_beats(points):
    sizes, kld = (np.array(column, float) for column in zip(*points, strict=True))
    member = pareto_members(sizes, kld)
    for i, (size, value) in enumerate(points):
        beaten = any(s <= size and k <= value and (s < size or k < value) for s, k in points)
        assert member[i] == (not beaten)


def test_tail_is_the_share_of_rows_at_or_above():
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.lognormal(-3, 1.5, 5_000), np.zeros(100)])
    x, share = _tail(values)
    assert len(x) <= 160 and np.all(np.diff(x) >= 0)
    for point, found in zip(x, share, strict=True):
        assert found == pytest.approx((values >= point).mean(), abs=1e-12)


def test_short_names_drop_what_all_share_and_stay_distinct():
    assert short_names(["M-7B-Q4_K_M", "M-7B-Q8_0"]) == ["Q4_K_M", "Q8_0"]
    assert short_names(["only-one"]) == ["only-one"]
    assert short_names(["M-7B", "M-7B-Q8_0"]) == ["7B", "7B-Q8_0"]
    assert short_names(["Q4", "Q8"]) == ["Q4", "Q8"]


@pytest.fixture(scope="module")
def plane():
    net = [make(-0.08), make(0.0, 0.002), make(0.01), make(None)]
    volume = [make(0.2), make(0.01, 0.004), make(0.05), make(None)]
    verdicts = ["worse", "equivalent", None, None]
    return plot_direction_plane(["Q2_K", "$x^2$ & <Q8>", "中文", "unmeasured"], volume, net, verdicts, "a<b> $1")


def test_inline_svg_is_xml_takes_the_page_ink_and_prefixes_its_ids(plane):
    svg = inline_svg(plane, render_svg(plane))
    root = ET.fromstring(svg)
    texts = "".join(root.itertext())
    assert "$x^2$ & <Q8>" in texts and "a<b> $1" in texts and "中文" in texts
    assert "currentColor" in svg and "#1f2328" not in svg and "<metadata" not in svg
    ids = re.findall(r'\bid="([^"]*)"', svg)
    assert ids and all(i.startswith(f"{plane.name}-") for i in ids) and len(set(ids)) == len(ids)
    for target in re.findall(r"url\(#([^)]*)\)", svg) + re.findall(r'xlink:href="#([^"]*)"', svg):
        assert target in ids


def test_the_same_plot_gives_the_same_bytes_and_files_are_whole(plane, tmp_path):
    svg = render_svg(plane)
    assert svg == render_svg(plane)
    png, file = write_picture(plane, svg, tmp_path)
    assert png.read_bytes().startswith(b"\x89PNG") and ET.parse(file).getroot().tag.endswith("svg")
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".png", ".svg"]


def test_alt_text_is_from_the_data(plane):
    assert "Q2_K: 20.0% changed, net -8.0%" in plane.alt and "4 quants" in plane.alt


def test_drawing_leaves_the_callers_matplotlib_alone(plane):
    before = dict(mpl.rcParams)
    render_svg(plane)
    assert dict(mpl.rcParams) == before


def test_ellipse_covers_volume_and_net_at_the_level():
    """Simulated drops and leapfrogs: the drawn region holds the true (volume, net) about 95 times in 100."""
    rng = np.random.default_rng(1)
    true, n, hits = np.array([0.08, 0.03]), 2_000, 0
    for _ in range(300):
        drops, leapfrogs, _ = rng.multinomial(n, [*true, 1 - true.sum()])
        v, d = (drops + leapfrogs) / n, (leapfrogs - drops) / n
        estimates = [make(v, math.sqrt(v * (1 - v) / n)), make(d, math.sqrt((v - d * d) / n))]
        hits += _inside_drawn(estimates, true.sum(), true[1] - true[0])
    assert 0.92 <= hits / 300 <= 0.98


def _inside_drawn(estimates, x, y):
    from matplotlib.path import Path as Outline

    from quantprobe.report.plots.answers import _draw_ellipse

    class Recorder:
        def fill(self, xs, ys, **_):
            self.outline = Outline(np.column_stack([xs, ys]))

        def plot(self, *_, **__):
            pass

    recorder = Recorder()
    _draw_ellipse(recorder, *estimates, BLUE)
    return recorder.outline.contains_point((x, y))


def test_plots_stand_missing_numbers():
    names = ["a", "b"]
    sizes = np.array([1e8, np.nan])
    picture = plot_kld_size(names, sizes, [make(0.01, unit="nats"), make(0.02, unit="nats")], sizes > 0, "wiki", 1e-6)
    assert "1 quants" in picture.alt
    forest = plot_net_forest(names, ["t"], [[make(-0.02)], [None]], [["worse"], [None]], None)
    assert "Worse than the base on at least one task: a" in forest.alt
    shifts = plot_margin_shifts(names, [np.zeros(5), np.array([])], [make(0.0, 0.0), make(None)], "t")
    heat = plot_correlations(["k"], ["acc"], [("All\n2", np.full((1, 1), np.nan), np.zeros((1, 1), bool))], "BH")
    tail = plot_kld_tail(names, [np.zeros(50), np.array([])], "wiki")
    for other in (picture, forest, shifts, heat, tail):
        ET.fromstring(inline_svg(other, render_svg(other)))
