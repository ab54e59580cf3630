"""The picture of file size against KLD, at the end of a sweep and in a report."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_run import as_cohort, change_quant, estimate, fake_quant, fake_results
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.image import imread
from matplotlib.text import Annotation, Text

from quantprobe.errors import InputError
from quantprobe.names import safe_name
from quantprobe.report.marks import pareto_members
from quantprobe.report.plots.fidelity import has_size_picture, size_picture
from quantprobe.report.plots.style import Picture, write_picture
from quantprobe.run.results import Results

points = st.lists(st.tuples(st.integers(1, 6), st.integers(0, 6)), min_size=1, max_size=12)


@given(points)
def test_pareto_members_are_those_that_no_other_beats(given_points: list[tuple[int, int]]) -> None:
    sizes, klds = (np.array(column, float) for column in zip(*given_points, strict=True))
    member = pareto_members(sizes, klds)
    for i, (size, kld) in enumerate(given_points):
        beaten = any(s <= size and k <= kld and (s < size or k < kld) for s, k in given_points)
        assert member[i] == (not beaten)


def test_unknown_sizes_and_distances_are_no_members() -> None:
    member = pareto_members(np.array([1.0, np.nan, 2.0]), np.array([np.nan, 0.1, 0.2]))
    assert member.tolist() == [False, False, True]


def crowd() -> Results:
    """36 quants, many of nearly one size and KLD."""
    results = fake_results(floor=8e-4)
    quants = []
    for copy, letter in enumerate("abc"):
        for number in range(12):
            quant, shift = fake_quant(number), 1 + 0.03 * copy
            kld = (quant.texts["wiki"].kld_mean.value or 0) * shift
            text = replace(quant.texts["wiki"], kld_mean=estimate(kld, kld * 0.03))
            size = int((quant.size_bytes or 0) * shift)
            sha = f"{copy}{number:02x}" + "0" * 61
            quants.append(
                replace(quant, name=f"{quant.name}-{letter}", size_bytes=size, sha256=sha, texts={"wiki": text})
            )
    return replace(results, quants=tuple(quants))


def labels_of(picture: Picture) -> tuple[Axes, list[Annotation]]:
    axes = picture.figure.axes[0]
    return axes, [text for text in axes.texts if isinstance(text, Annotation) and text.get_text()]


@pytest.mark.parametrize("results", [fake_results(), crowd()], ids=["ladder", "crowd"])
def test_every_quant_is_named_and_no_label_covers_a_label_or_a_point(results: Results) -> None:
    cohort = as_cohort(results)
    axes, labels = labels_of(size_picture(cohort, "wiki"))
    assert len(labels) == len(cohort.quants)
    renderer = FigureCanvasAgg(axes.get_figure(root=True)).get_renderer()  # type: ignore[no-untyped-call, arg-type]
    boxes = [Text.get_window_extent(label, renderer) for label in labels]  # without the line that leads to it
    frame = axes.get_window_extent()
    for box in boxes:
        assert frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
    assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))
    dots = axes.transData.transform(
        [((q.size_bytes or 0) / 1e9, q.texts["wiki"].kld_mean.value or 0) for q in cohort.quants]
    )
    assert not any(box.contains(*dot) for box in boxes for dot in dots)


def test_the_picture_says_what_it_shows() -> None:
    picture = size_picture(as_cohort(crowd()), "wiki")
    axes = picture.figure.axes[0]
    assert axes.get_yscale() == "log"
    assert "GB" in axes.get_xlabel() and "nats per token" in axes.get_ylabel()
    title = axes.get_title(loc="left")
    assert "10,200 tokens in 40 windows" in title and "floor of the instrument: 0.000960 nats" in title
    assert "36 quants, from Q2_K-a (1.67 GB, 0.31 nats) to Q8_0-a (4.28 GB, 0.00061 nats)" in picture.alt


def test_names_of_the_files_tell_texts_apart() -> None:
    two = as_cohort(fake_results(("wiki", "a/b"), n_quants=1))
    assert [size_picture(two, text).name for text in two.texts] == [
        f"kld_vs_size-{safe_name(text)}" for text in two.texts
    ]


def test_a_quant_without_distance_is_counted_not_drawn() -> None:
    results = change_quant(fake_results(), 0, kld_mean=estimate(0.0, 0.0))
    results = change_quant(results, 1, kld_mean=estimate(None))
    axes, labels = labels_of(size_picture(as_cohort(results), "wiki"))
    assert len(labels) == 10 and "2 without size or KLD not shown" in axes.get_title(loc="left")


def test_nothing_to_plot_is_an_error() -> None:
    cohort = as_cohort(change_quant(fake_results(n_quants=1), 0, kld_mean=estimate(0.0, 0.0)))
    assert not has_size_picture(cohort, "wiki")
    with pytest.raises(InputError, match="no quant has a size and a mean KLD above 0"):
        size_picture(cohort, "wiki")


def test_intervals_that_reach_zero_and_missing_ones_can_be_drawn(tmp_path: Path) -> None:
    results = change_quant(fake_results(n_quants=2), 0, kld_mean=estimate(0.001, 0.002))
    picture = size_picture(as_cohort(change_quant(results, 1, kld_mean=estimate(0.002))), "wiki")
    (path,) = write_picture(picture, tmp_path)
    assert path.name == "kld_vs_size.png" and imread(path).shape == (864, 1296, 4)
    assert [file.name for file in tmp_path.iterdir()] == ["kld_vs_size.png"]


def test_drawing_leaves_pyplot_alone() -> None:
    code = "import sys, quantprobe.report.plots.gallery; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
