"""Paired statistics: scipy, closed forms, the likelihood itself, and simulation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize, stats

from quantprobe.errors import InputError
from quantprobe.stats.design import item_design
from quantprobe.stats.paired import (
    compare_paired,
    holm,
    mcnemar_p,
    net_interval,
    score_z,
    share_interval,
    verdict_of,
)


def test_mcnemar_equals_binomtest() -> None:
    for b in range(25):
        for c in range(25):
            expected = stats.binomtest(b, b + c, 0.5).pvalue if b + c else 1.0
            assert float(mcnemar_p(b, c)) == pytest.approx(expected, abs=1e-9)
    assert float(mcnemar_p(4_000, 4_300)) == pytest.approx(stats.binomtest(4_000, 8_300).pvalue, abs=1e-9)
    assert float(mcnemar_p(6, 0)) == 0.03125
    assert float(mcnemar_p(5, 0)) == 0.0625


@pytest.mark.parametrize(("b", "c", "n", "net"), [(3, 9, 100, 0.02), (10, 2, 164, 0.03), (0, 4, 60, -0.05)])
def test_score_z_is_the_constrained_likelihoods(b: int, c: int, n: int, net: float) -> None:
    def minus_log_likelihood(q: float) -> float:
        return -(b * np.log(q) + c * np.log(q + net) + (n - b - c) * np.log(1 - 2 * q - net))

    lowest = max(0.0, -net) + 1e-12
    q = optimize.minimize_scalar(
        minus_log_likelihood, bounds=(lowest, (1 - net) / 2 - 1e-12), method="bounded", options={"xatol": 1e-13}
    ).x
    expected = (c - b - n * net) / np.sqrt(n * (2 * q + net - net**2))
    assert float(score_z(b, c, n, net)) == pytest.approx(expected, rel=1e-5)


def test_score_z_at_no_change_is_mcnemars() -> None:
    assert float(score_z(4, 13, 500, 0.0)) == pytest.approx((13 - 4) / np.sqrt(17), rel=1e-12)


def test_net_interval_closed_forms_and_published_example() -> None:
    low, high = net_interval(0, 0, 50)
    z2 = stats.norm.ppf(0.975) ** 2
    assert (float(low), float(high)) == pytest.approx((-z2 / (50 + z2), z2 / (50 + z2)), abs=1e-12)
    low, high = net_interval(0, 1, 44)
    # Tango (1998), 44 subjects with one discordant: -0.06 to 0.118.
    assert (float(low), float(high)) == pytest.approx((-0.0594, 0.1181), abs=1e-4)
    low, high = net_interval([10, 0], [0, 10], [10, 10])
    assert (low[0], high[1]) == (-1.0, 1.0)


@given(b=st.integers(0, 60), c=st.integers(0, 60), rest=st.integers(0, 500), level=st.sampled_from([0.8, 0.9, 0.95]))
def test_net_interval_invariants(b: int, c: int, rest: int, level: float) -> None:
    n = b + c + rest
    if n == 0:
        return
    low, high = (float(x) for x in net_interval(b, c, n, level))
    assert -1 <= low <= (c - b) / n <= high <= 1
    swapped = net_interval(c, b, n, level)
    assert (float(swapped[0]), float(swapped[1])) == pytest.approx((-high, -low), abs=1e-12)
    wider = net_interval(b, c, n, 0.99)
    assert wider[0] <= low <= high <= wider[1]
    z = stats.norm.ppf((1 + level) / 2)
    for bound, side in ((low, 1), (high, -1)):
        if abs(bound) < 1 - 1e-9:
            # the correction for skewness may widen Tango's interval, never narrow it
            assert side * float(score_z(b, c, n, bound)) >= z - 1e-6
    assert (low > 0 or high < 0) == (abs(float(score_z(b, c, n, 0.0))) > z), "the test of no change stays Tango's"


@pytest.mark.parametrize(("k", "n"), [(0, 10), (3, 17), (200, 400), (17, 17)])
def test_share_interval_equals_scipys_wilson(k: int, n: int) -> None:
    expected = stats.binomtest(k, n).proportion_ci(0.95, method="wilson")
    low, high = share_interval(k, n)
    assert (float(low), float(high)) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_holm_worked_example() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == pytest.approx([1.0, 1.0])
    assert len(holm([])) == 0


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_holm_rejects_what_the_step_down_procedure_rejects(p: list[float]) -> None:
    rejected = set()
    for j, i in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        if p[i] * (len(p) - j) > 0.05:
            break
        rejected.add(i)
    assert {i for i, adjusted in enumerate(holm(p)) if adjusted <= 0.05} == rejected


def test_no_difference_gives_a_verdict_in_at_most_5_percent_of_tables() -> None:
    """2,000 tables of 8 quants against one base, none of them different."""
    rng = np.random.default_rng(11)
    for n, churn in ((300, 0.05), (2_000, 0.1)):
        counts = rng.multinomial(n, [churn / 2, churn / 2, 1 - churn], size=(2_000, 8))
        p = mcnemar_p(counts[..., 0], counts[..., 1])
        single = np.mean(p <= 0.05)
        tables = np.mean([np.any(holm(row) <= 0.05) for row in p])
        assert single <= 0.05
        assert tables <= 0.05


@pytest.mark.parametrize(
    ("n", "churn", "index"), [(200, 0.04, 0.0), (300, 0.05, -0.6), (1_000, 0.02, 0.3), (14_000, 0.1, 0.0)]
)
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_net_interval_covers(n: int, churn: float, index: float, level: float) -> None:
    rates = [churn * (1 - index) / 2, churn * (1 + index) / 2, 1 - churn]
    counts = np.random.default_rng(12).multinomial(n, rates, size=6_000)
    low, high = net_interval(counts[:, 0], counts[:, 1], n, level)
    assert abs(np.mean((low <= churn * index) & (churn * index <= high)) - level) <= 0.02


def test_net_interval_covers_far_out_in_the_tail_where_drops_are_few() -> None:
    counts = np.random.default_rng(15).multinomial(1_000, [0.01, 0.0, 0.99], size=20_000)
    low, high = net_interval(counts[:, 0], counts[:, 1], 1_000, 0.998)
    assert np.mean(high < -0.01) <= 0.001
    assert np.mean(low > -0.01) <= 0.001
    tango = score_z(counts[:, 0], counts[:, 1], 1_000, -0.01)
    assert np.mean(tango < -stats.norm.ppf(0.999)) > 0.002, "the simulation must be one where skewness matters"


def simulate_groups(rng: np.random.Generator, sizes: np.ndarray, churn: float, spread: float) -> tuple:
    """Correctness with changes whose direction is shared within a group; no difference over all groups."""
    groups = np.repeat(np.arange(len(sizes)), sizes)
    share = np.clip(0.5 + spread * rng.standard_normal(len(sizes)), 0, 1)[groups]
    changed = rng.random(len(groups)) < churn
    up = rng.random(len(groups)) < share
    base = np.where(changed, ~up, rng.random(len(groups)) < 0.6)
    return base, np.where(changed, up, base), groups


@pytest.mark.parametrize(
    ("sizes", "spread"), [([20] * 20, 0.0), ([10] * 20 + [30] * 10, 0.35), ([150] * 4, 0.1), ([60, 100, 240], 0.1)]
)
def test_clusters_that_move_together_do_not_fool_the_interval(sizes: list[int], spread: float) -> None:
    rng = np.random.default_rng(13)
    covered = false_claims = naive = 0
    for _ in range(200):
        base, quant, groups = simulate_groups(rng, np.array(sizes), 0.15, spread)
        change = compare_paired(base, quant, groups)
        covered += change.net.low <= 0 <= change.net.high
        false_claims += change.p <= 0.05
        naive += change.mcnemar_p <= 0.05
    # 200 runs of a true 95 % lie within these bounds in 98 % of cases
    assert 0.91 <= covered / 200 <= 0.985
    assert false_claims / 200 <= 0.085
    if spread:
        assert naive / 200 > 0.09, "the simulation must be one where groups matter"


def test_strata_do_not_hide_a_loss() -> None:
    """47 drops against 16 leapfrogs spread over 18 kinds of questions: kinds are no accident that can repeat."""
    kinds = [f"k{i % 18}" for i in range(556)]
    base = np.arange(556) < 300
    quant = base.copy()
    quant[:47], quant[540:] = False, True
    change = compare_paired(base, quant, item_design(kinds, "strata"), 0.99)
    assert (change.drops, change.leapfrogs, change.dof) == (47, 16, None)
    assert change.net.high < 0
    assert 0.95 <= change.design_effect <= 1.05


def test_compare_paired_without_groups_is_the_score_interval() -> None:
    rng = np.random.default_rng(14)
    base = rng.random(400) < 0.6
    quant = np.where(rng.random(400) < 0.1, ~base, base)
    change = compare_paired(base, quant, np.arange(400))
    b, c = int((base & ~quant).sum()), int((quant & ~base).sum())
    assert (change.drops, change.leapfrogs) == (b, c)
    low, high = net_interval(b, c, 400)
    assert (change.net.low, change.net.high) == (float(low), float(high))
    assert change.net.value == pytest.approx((c - b) / 400)
    assert change.p == change.mcnemar_p == float(mcnemar_p(b, c))
    assert change.net.stderr == pytest.approx(np.sqrt((b + c - (c - b) ** 2 / 400) / 400 / 399))
    assert change.n_effective == 400
    assert change.index_low < (c - b) / (b + c) < change.index_high


def test_compare_paired_when_nothing_changed() -> None:
    base = np.array([True] * 30 + [False] * 10)
    for clusters in (np.arange(40), np.arange(40) % 10, item_design(["a"] * 20 + ["b"] * 20, "strata")):
        change = compare_paired(base, base, clusters)
        assert change.p == 1.0
        assert change.net.value == 0.0
        assert change.net.low < 0 < change.net.high
        assert change.index_low is None
    with pytest.raises(InputError, match="no item"):
        compare_paired(base[:0], base[:0], np.arange(0))


def test_changes_that_cancel_within_groups_do_not_give_certainty() -> None:
    base = np.tile([True, False, True, True], 10)
    quant = np.tile([False, True, True, True], 10)
    change = compare_paired(base, quant, item_design([f"g{i // 4}" for i in range(40)], "clusters"))
    assert change.net.stderr == 0
    assert change.net.high - change.net.low > 0.1


def test_one_cluster_says_nothing_of_others() -> None:
    change = compare_paired(np.ones(50, bool), np.arange(50) > 30, np.zeros(50, np.int64))
    assert (change.p, change.net.low, change.net.high, change.volume.low) == (1.0, None, None, None)
    assert change.net.value == pytest.approx(-31 / 50)


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (-0.009, -0.003, "equivalent"),
        (-0.009, 0.009, "equivalent"),
        (-0.02, -0.003, "worse"),
        (0.003, 0.02, "better"),
        (-0.009, 0.02, "not inferior"),
        (-0.02, 0.003, "not separable"),
        (-0.01, 0.009, "not separable"),
        (-0.009, 0.01, "not inferior"),
        (-0.03, 0.0, "not separable"),
        (None, None, "not separable"),
    ],
)
def test_a_verdict_is_read_off_its_interval(low: float | None, high: float | None, verdict: str) -> None:
    assert verdict_of(low, high, 0.01) == verdict
