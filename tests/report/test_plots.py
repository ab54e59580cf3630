"""The picture of size against KLD."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_results import document, estimate
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.image import imread
from quantprobe.report.results_view import parse_results, short_names

from quantprobe.errors import InputError
from quantprobe.report.plots import fidelity as plots
from quantprobe.report.plots.fidelity import Point, pareto, plot_kld_vs_size, plot_points

sizes = st.floats(0.1, 100)
points = st.lists(st.builds(Point, st.just("q"), sizes, sizes, st.none(), st.none()), min_size=1, max_size=30)


@given(points)
def test_the_pareto_line_is_what_nothing_beats(given_points: list[Point]) -> None:
    line = pareto(given_points)
    for point in given_points:
        beaten = any(
            (other.size_gb <= point.size_gb and other.kld <= point.kld)
            and (other.size_gb, other.kld) != (point.size_gb, point.kld)
            for other in given_points
        )
        assert beaten == ((point.size_gb, point.kld) not in {(p.size_gb, p.kld) for p in line})
    assert line == sorted(line, key=lambda point: point.size_gb)


def test_names_lose_what_the_title_says() -> None:
    assert short_names(["M-4B-Q8_0", "M-4B-Q6_K"], "M-4B-BF16") == ["Q8_0", "Q6_K"]
    assert short_names(["M-Q4_0"], "M-Q4_K") == ["0"]
    assert short_names(["a", "b"], "c") == ["a", "b"]
    assert short_names(["M-Q8", "other"], "M-F16") == ["M-Q8", "other"]


def drawn(entry: dict[str, Any], path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Axes, FigureCanvasAgg]:
    """The axes that the picture was made of, laid out."""
    kept: list[tuple[Axes, FigureCanvasAgg]] = []
    place = plots._place_labels

    def keep(axes: Axes, canvas: FigureCanvasAgg, shown: Any) -> None:
        place(axes, canvas, shown)
        kept.append((axes, canvas))

    monkeypatch.setattr(plots, "_place_labels", keep)
    plot_kld_vs_size(parse_results(entry), "wiki", path)
    return kept[0]


def crowd() -> dict[str, Any]:
    """36 quants, many of nearly one size and KLD."""
    entry = document(floor=8e-4)
    quants = []
    for i, quant in enumerate(entry["quants"] * 3):
        shift = 1 + 0.03 * (i // 12)
        kld = quant["texts"]["wiki"]["kld_mean"]["value"] * shift
        numbers = {**quant["texts"]["wiki"], "kld_mean": estimate(kld, kld * 0.03)}
        name, size = f"{quant['name']}-{'abc'[i // 12]}", int(quant["size_bytes"] * shift)
        quants.append({**quant, "name": name, "size_bytes": size, "texts": {"wiki": numbers}})
    return {**entry, "quants": quants}


@pytest.mark.parametrize("entry", [document(), crowd()], ids=["ladder", "crowd"])
def test_every_quant_is_named_and_no_label_covers_another(
    entry: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    axes, canvas = drawn(entry, tmp_path / "kld.png", monkeypatch)
    labels = [text for text in axes.texts if text.get_text()]
    assert len(labels) == len(entry["quants"])
    boxes = [label.get_window_extent(canvas.get_renderer()) for label in labels]  # type: ignore[no-untyped-call]
    frame = axes.get_window_extent()
    for i, box in enumerate(boxes):
        assert frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
        assert not any(box.overlaps(other) for other in boxes[:i])
    assert imread(tmp_path / "kld.png").shape == (900, 1350, 4)
    assert [path.name for path in tmp_path.iterdir()] == ["kld.png"]


def test_the_picture_says_what_it_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    axes, _ = drawn(crowd(), tmp_path / "kld.png", monkeypatch)
    assert axes.get_yscale() == "log"
    assert "GB" in axes.get_xlabel() and "nats per token" in axes.get_ylabel()
    assert "10,200 tokens in 40 windows" in axes.get_title(loc="left")
    legend = axes.get_legend()
    assert legend is not None
    assert any("floor" in text.get_text() for text in legend.get_texts())


def test_a_quant_without_distance_is_named_not_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = document()
    entry["quants"][0]["texts"]["wiki"]["kld_mean"] = estimate(0.0, 0.0)
    entry["quants"][1]["texts"]["wiki"]["kld_mean"] = estimate(None)
    shown, left_out = plot_points(parse_results(entry), "wiki")
    assert left_out == ["Qwen3-4B-Q8_0", "Qwen3-4B-Q6_K"] and len(shown) == 10
    axes, _ = drawn(entry, tmp_path / "kld.png", monkeypatch)
    assert "not shown: Qwen3-4B-Q8_0, Qwen3-4B-Q6_K" in axes.get_title(loc="left")


def test_nothing_to_plot_is_an_error(tmp_path: Path) -> None:
    entry = document()
    entry["quants"] = entry["quants"][:1]
    entry["quants"][0]["texts"]["wiki"]["kld_mean"] = estimate(0.0, 0.0)
    with pytest.raises(InputError, match="no quant has a mean KLD above 0"):
        plot_kld_vs_size(parse_results(entry), "wiki", tmp_path / "kld.png")
    assert not list(tmp_path.iterdir())


def test_intervals_that_reach_zero_and_missing_ones_can_be_drawn(tmp_path: Path) -> None:
    entry = document()
    entry["quants"][0]["texts"]["wiki"]["kld_mean"] = {**estimate(0.001, 0.002)}
    entry["quants"][1]["texts"]["wiki"]["kld_mean"] = estimate(0.002)
    plot_kld_vs_size(parse_results(entry), "wiki", tmp_path / "kld.png")
    assert (tmp_path / "kld.png").read_bytes().startswith(b"\x89PNG")


def test_drawing_leaves_pyplot_alone() -> None:
    code = "import sys, quantprobe.report.plots.fidelity; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
