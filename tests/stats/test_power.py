"""Power: published table values, closed-form round trips, and the power that simulation really finds."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantprobe.errors import InputError
from quantprobe.stats.paired import mcnemar_p, net_interval
from quantprobe.stats.power import (
    items_for_equivalence,
    items_for_noninferiority,
    items_to_detect,
    items_to_settle,
    mde,
    min_drops,
    observed_mde,
    plan,
    round_up,
    volume_bound,
)


@pytest.mark.parametrize(
    ("churn", "needed"),
    [
        (0.01, (8719, 3138, 783, None)),
        (0.02, (17440, 6277, 1568, 391)),
        (0.04, (34882, 12556, 3138, 783)),
        (0.08, (69766, 25115, 6277, 1568)),
    ],
)
def test_items_to_detect_match_the_table(churn: float, needed: tuple[int | None, ...]) -> None:
    assert tuple(items_to_detect(effect, churn) for effect in (0.003, 0.005, 0.01, 0.02)) == needed


@pytest.mark.parametrize(
    ("n", "points"),
    [(164, (3.1, 4.4, 6.2)), (400, (2.0, 2.8, 4.0)), (1267, (1.1, 1.6, 2.2)), (10042, (0.40, 0.56, 0.79))],
)
def test_mde_matches_the_table(n: int, points: tuple[float, ...]) -> None:
    for churn, expected in zip((0.02, 0.04, 0.08), points, strict=True):
        # The table was computed without the d^2 term, which matters only for the smallest n: 6.14 instead of 6.2.
        assert 100 * mde(n, churn) == pytest.approx(expected, abs=0.07)


def test_equivalence_needs_the_two_sided_power() -> None:
    assert items_for_noninferiority(0.02, 0.04) == 619
    assert items_for_equivalence(0.02, 0.04) == 857
    assert items_for_equivalence(0.02, 0.137) == 2934


@given(
    churn=st.floats(0.005, 0.9),
    share=st.floats(0.02, 1.0),
    power=st.floats(0.5, 0.95),
    alpha=st.sampled_from([0.01, 0.05, 0.1]),
)
def test_mde_is_the_inverse_of_items_to_detect(churn: float, share: float, power: float, alpha: float) -> None:
    n = items_to_detect(churn * share, churn, alpha, power)
    assert n is not None
    if n > 1:
        assert mde(n, churn, alpha, power) <= churn * share * (1 + 1e-6)
        assert mde(n - 1, churn, alpha, power) >= churn * share * (1 - 1e-6)


def test_simulated_power_of_the_exact_test() -> None:
    churn, effect = 0.08, 0.02
    n = items_to_detect(effect, churn)
    rates = [(churn + effect) / 2, (churn - effect) / 2, 1 - churn]
    counts = np.random.default_rng(5).multinomial(n, rates, size=20_000)
    found = np.mean(mcnemar_p(counts[:, 0], counts[:, 1]) <= 0.05)
    assert 0.76 <= found <= 0.82


def test_simulated_power_of_equivalence() -> None:
    churn, margin = 0.08, 0.02
    n = items_for_equivalence(margin, churn)
    counts = np.random.default_rng(6).multinomial(n, [churn / 2, churn / 2, 1 - churn], size=4_000)
    low, high = net_interval(counts[:, 0], counts[:, 1], n, level=0.9)
    assert 0.78 <= np.mean((low > -margin) & (high < margin)) <= 0.83
    assert 0.88 <= np.mean(low > -margin) <= 0.92, "one side alone has the half-error power, 90 %"


def test_min_drops() -> None:
    assert [min_drops(alpha) for alpha in (0.0625, 0.05, 0.01)] == [5, 6, 8]
    for alpha in (0.2, 0.05, 0.01, 0.001):
        k = min_drops(alpha)
        assert mcnemar_p(k, 0) <= alpha < mcnemar_p(k - 1, 0)


def test_no_change_seen_is_not_an_mde_of_zero() -> None:
    assert mde(100, 0.0) == 0.0
    assert observed_mde(100, 0.0) == mde(100, 0.06) > 0.06
    assert observed_mde(1_000, 0.01) > mde(1_000, 0.01), "ten changes leave the volume itself uncertain"
    assert observed_mde(1_000_000, 0.05) == pytest.approx(mde(1_000_000, 0.05), rel=0.01)


def test_volume_bound_is_the_one_sided_bound() -> None:
    assert volume_bound(0.0, 1_000) == pytest.approx(1.645**2 / (1_000 + 1.645**2), rel=1e-3)
    counts = np.random.default_rng(7).binomial(400, 0.05, 4_000)
    assert 0.93 <= np.mean([volume_bound(count / 400, 400) >= 0.05 for count in counts]) <= 0.98


@pytest.mark.parametrize("alpha", [0.05, 0.002])
def test_items_to_settle_settle_with_the_interval_that_is_shown(alpha: float) -> None:
    churn, margin = 0.06, 0.02
    n = items_to_settle(margin, churn, alpha)
    rng = np.random.default_rng(8)
    for net, settled in ((0.0, "equivalent"), (-margin, "worse")):
        rates = [(churn - net) / 2, (churn + net) / 2, 1 - churn]
        counts = rng.multinomial(n, rates, size=1_000)
        low, high = net_interval(counts[:, 0], counts[:, 1], n, 1 - alpha)
        found = (low > -margin) & (high < margin) if settled == "equivalent" else high < 0
        assert np.mean(found) >= 0.75


def test_round_up() -> None:
    assert [round_up(n) for n in (7, 99, 101, 4_720)] == [7, 99, 110, 4_800]


def test_equivalence_is_impossible_for_few_items_even_without_churn() -> None:
    n = items_for_equivalence(0.01, 0.0)
    low, high = net_interval([0, 0], [0, 0], [n, n - 1], level=0.9)
    assert low[0] >= -0.01
    assert high[0] <= 0.01
    assert high[1] > 0.01


def test_plan_says_what_cannot_be_seen() -> None:
    small = plan(n=164, churn=0.02)
    assert not small.detectable
    assert small.mde > small.churn
    table = plan(n=3138, churn=0.04)
    assert table.detectable
    assert table.mde == pytest.approx(0.01, abs=1e-5)
    assert table.n_to_detect == 3138
    assert items_to_settle(0.01, 0.04) == table.n_to_show_equivalent
    many = plan(n=3138, churn=0.04, n_quants=10)
    assert many.mde > table.mde
    assert many.n_to_show_equivalent == items_for_equivalence(0.01, 0.04, 0.0025), "every interval is corrected"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"n": 0}, "at least one"),
        ({"churn": 1.5}, "not a fraction"),
        ({"churn": float("nan")}, "not a fraction"),
        ({"margin": 0.0}, "0"),
        ({"alpha": 0.0}, "significance"),
        ({"power": 1.0}, "power"),
        ({"n_quants": 0}, "quants"),
    ],
)
def test_plan_refuses_nonsense(change: dict[str, float], words: str) -> None:
    arguments = {"n": 300, "churn": 0.04} | change
    with pytest.raises(InputError, match=words):
        plan(**arguments)
