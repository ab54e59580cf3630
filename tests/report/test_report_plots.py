"""The pictures of a report: which there are, what they say, labels that do not meet, files that stay the same."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from fake_run import FakeRun, ladder, write_fake_run
from matplotlib.transforms import Bbox

from quantprobe.report.answer import Standing
from quantprobe.report.marks import MARKS, NO_MARK
from quantprobe.report.plots import gallery
from quantprobe.report.plots.answers import change_picture, direction_picture, law_picture, tasks_picture
from quantprobe.report.plots.style import house_style, new_figure, place_labels, write_picture
from quantprobe.run.cohort import read_cohort
from quantprobe.stats.estimates import Estimate


def make(value: float | None, stderr: float | None = 0.01, unit: str = "fraction") -> Estimate:
    if value is None or stderr is None:
        return Estimate(value, n=400, unit=unit)
    return Estimate(value, stderr, value - 1.96 * stderr, value + 1.96 * stderr, 0.95, 400, 400, unit)


STOOD = (
    Standing("m-Q2_K", "Q2_K", 1_000_000_000, make(-0.08), make(0.2), "worse", kld=make(0.4, unit="nats")),
    Standing("m-$x", "$x^2$ & <Q8>", 3_000_000_000, make(0.0), make(0.01), "equivalent", kld=make(0.001)),
    Standing("m-中", "中文", 2_000_000_000, make(0.01), make(0.05), None, kld=make(0.0)),
    Standing("m-none", "unmeasured", None),
)


def contrast(first: str, second: str) -> float:
    """WCAG 2 contrast of two colours."""

    def luminance(color: str) -> float:
        channels = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in mpl.colors.to_rgb(color)]
        return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), channels, strict=True))

    low, high = sorted([luminance(first), luminance(second)])
    return (high + 0.05) / (low + 0.05)


def test_every_verdict_has_a_shape_of_its_own_and_readable_colours() -> None:
    marks = [*MARKS.values(), NO_MARK]
    for look in ("sign", "css", "marker"):
        assert len({getattr(mark, look) for mark in marks}) == len(marks)
    for mark in marks:
        assert contrast(mark.light, "#ffffff") >= 4.5 and contrast(mark.dark, "#14171c") >= 4.5


@pytest.mark.parametrize("n", [1, 3, 24, 40])
def test_labels_of_crowded_points_do_not_overlap(n: int) -> None:
    rng = np.random.default_rng(n)
    x, y = rng.normal(0, 1, n), rng.normal(0, 0.02, n)
    with house_style():
        axes = new_figure(9.0, 6.0, "crowd")[1]
        axes.plot(x, y, "o")
        axes.margins(x=0.12, y=0.12)
        boxes = place_labels(axes, x, y, [f"UD-Q{i % 8}_K_XL-{i}" for i in range(n)])
        inside = axes.get_window_extent()
        dots = axes.transData.transform(np.column_stack([x, y]))
    assert len(boxes) == n
    assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))
    assert all(inside.x0 <= b.x0 and b.x1 <= inside.x1 and inside.y0 <= b.y0 and b.y1 <= inside.y1 for b in boxes)
    assert not any(box.contains(*dot) for box in boxes for dot in dots)


def test_labels_go_around_lines_and_are_left_out_where_there_is_no_room() -> None:
    with house_style():
        axes = new_figure(5.0, 4.0, "lines")[1]
        axes.set(xlim=(0, 1), ylim=(0, 1))
        line = Bbox([[0.0, 0.5], [1.0, 0.5]])
        (box,) = place_labels(axes, np.array([0.5]), np.array([0.5]), ["name"], [line])
        height = axes.transData.transform((0, 0.5))[1]
        crowd = np.full(9, 0.2)
        assert len(place_labels(axes, crowd, crowd, ["a long name"] * 9, leaders=False)) < 9
    assert not box.y0 < height < box.y1


def test_the_same_picture_gives_the_same_bytes_and_files_are_whole(tmp_path: Path) -> None:
    picture = change_picture(STOOD, 0.01, "$x^2$ & <Q8>", "three quants")
    before = dict(mpl.rcParams)
    png, svg = write_picture(picture, tmp_path, svg=True)
    first = png.read_bytes(), svg.read_bytes()
    write_picture(picture, tmp_path, svg=True)
    assert (png.read_bytes(), svg.read_bytes()) == first and first[0].startswith(b"\x89PNG")
    texts = "".join(ET.parse(svg).getroot().itertext())
    assert "$x^2$ & <Q8>" in texts and "中文" in texts
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".png", ".svg"] and dict(mpl.rcParams) == before


def test_pictures_say_in_words_what_they_show() -> None:
    change = change_picture(STOOD, 0.01, "Q8", "about")
    assert change.alt.endswith("3 quants; 1 are worse than the base. Recommended: Q8.")
    assert "2 quants" in law_picture(STOOD, 0.01, None, "about").alt  # a KLD of 0 has no place on a log axis
    legend = change.figure.axes[0].get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == [
        "take this one: Q8", "worse (1)", "equivalent (1)", "no verdict (1)",
    ]  # fmt: skip


def test_direction_is_drawn_inside_the_possible_region() -> None:
    axes = direction_picture(STOOD, None, "about").figure.axes[0]
    drawn = np.concatenate([line.get_xydata() for line in axes.lines if line.get_marker() not in ("None", "", None)])
    assert len(drawn) == 3 and (np.abs(drawn[:, 1]) <= drawn[:, 0] + 1e-9).all()


def test_pictures_stand_missing_numbers(tmp_path: Path) -> None:
    forest = tasks_picture(["a", "b"], ["t", "u"], [[make(-0.02), None], [None, make(0.1, None)]],
                           [["worse", None], [None, "strange"]], 0.01)  # fmt: skip
    assert "1 are worse on at least one" in forest.alt
    lone = [replace(STOOD[0], change=make(0.01, None), volume=make(0.0), kld=make(0.2, None))]
    drawn = [change_picture(lone, 0.01, None, ""), law_picture(lone, 0.01, None, ""), direction_picture(lone, None, "")]
    for picture in (forest, *drawn):
        assert write_picture(picture, tmp_path)[0].stat().st_size > 5_000


@pytest.mark.parametrize(
    ("tasks", "texts", "names"),
    [
        (("a", "b"), ("x", "y"), ["change_vs_size", "kld_vs_size-x", "kld_vs_size-y", "change_by_task", "direction",
                                  "change_vs_kld"]),
        (("a",), (), ["change_vs_size", "direction"]),
        ((), ("x",), ["kld_vs_size"]),
    ],
    ids=["both", "tasks", "texts"],
)  # fmt: skip
def test_the_gallery_leaves_out_what_was_not_measured(
    tmp_path: Path, tasks: tuple[str, ...], texts: tuple[str, ...], names: list[str]
) -> None:
    run = FakeRun(quants=ladder(2), tasks=dict.fromkeys(tasks, 40), texts=dict.fromkeys(texts, 64), with_files=False)
    cohort = read_cohort([write_fake_run(tmp_path, run)])
    assert [picture.name for picture in gallery.pictures(cohort)] == names
