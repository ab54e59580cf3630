"""The reliability of scores whose signal and noise are known."""

from __future__ import annotations

import numpy as np
import pytest

from quantprobe.stats.design import item_design
from quantprobe.stats.item_contrast import item_noise
from quantprobe.stats.reliability import Reliability, attenuation_ceiling, reliability


@pytest.mark.parametrize("signal", [0.0, 0.05, 0.1, 0.3])
def test_interval_covers_the_true_share(signal: float) -> None:
    """Scores true + noise: the reliability is var(true) / (var(true) + var(noise) / n)."""
    rng = np.random.default_rng(int(100 * signal))
    design = item_design([""] * 100, "none")
    covered, values = 0, []
    for _ in range(300):
        scores = rng.normal(0, signal, 14)[:, None] + rng.normal(0, 1, (14, 100)) + rng.normal(0, 1, 100)
        found = reliability(scores.mean(1), item_noise(scores, design), np.zeros(14, int))
        true = signal**2 / (signal**2 + 0.01)
        covered += found.low <= true <= found.high
        values.append(found.value)
        assert 0 <= found.low <= found.value <= found.high <= 1
    assert covered / 300 >= 0.93
    assert np.mean(values) == pytest.approx(true, abs=0.12)


def test_families_and_what_is_missing() -> None:
    rng = np.random.default_rng(0)
    design = item_design([""] * 200, "none")
    scores = rng.normal(0, 1, (10, 200)) + np.repeat([0.0, 5], 5)[:, None]
    noise = item_noise(scores, design)
    assert reliability(scores.mean(1), noise, np.zeros(10, int)).low > 0.9
    assert reliability(scores.mean(1), noise, np.repeat([0, 1], 5)).low == 0
    assert "too few" in reliability(scores[:2].mean(1), noise.take(np.arange(2)), np.zeros(2, int)).reason
    assert "equal scores" in reliability(np.zeros(10), noise, np.zeros(10, int)).reason


def test_ceiling_is_an_interval() -> None:
    a = Reliability(0.5, 0.25, 0.81, 0.95, 10)
    unknown = Reliability(None, None, None, 0.95, 10, "no rows")
    assert attenuation_ceiling(a, Reliability(1.0, 1.0, 1.0, 0.95, 10)) == pytest.approx((0.5, 0.9))
    assert attenuation_ceiling(a, a) == pytest.approx((0.25, 0.81))
    assert attenuation_ceiling(a, unknown) == pytest.approx((0.5, 0.9))
    assert attenuation_ceiling(unknown, a) == (None, None)
