"""Stopping when decided: boundaries against published ones, errors over all looks, and when to go on."""

import numpy as np
import pytest
from scipy import special

from quantprobe.errors import InputError
from quantprobe.probes.grouping import CLUSTERS, UNGROUPED
from quantprobe.stats.design import item_design
from quantprobe.stats.estimates import Estimate
from quantprobe.stats.paired import EQUIVALENT, NOT_INFERIOR, NOT_SEPARABLE, WORSE, net_interval
from quantprobe.stats.sampling import decode_probabilities
from quantprobe.stats.sequential import (
    Decision,
    StopRule,
    affordable_share,
    decide,
    information_fractions,
    next_share,
    precision_reached,
)
from quantprobe.stats.spending import boundaries, spent_errors


def flips_of(drops: int, leapfrogs: int, n: int, seed: int = 0) -> np.ndarray:
    values = np.zeros(n)
    values[:drops], values[drops : drops + leapfrogs] = -1, 1
    return np.random.default_rng(seed).permutation(values)


def look_once(values: np.ndarray, rule: StopRule, share: float = 1.0, groups: list[str] | None = None) -> Decision:
    n = len(values)
    design = item_design(groups or [""] * n, CLUSTERS if groups else UNGROUPED)
    decoded = np.random.default_rng(1).random(n) < share
    return decide(values, decoded, np.full((1, n), share), design, rule)


def test_boundaries_match_the_published_ones() -> None:
    fractions = [0.2, 0.4, 0.6, 0.8, 1.0]
    obrien_fleming = 4 * special.ndtr(-special.ndtri(1 - 0.0125) / np.sqrt(fractions))
    assert boundaries(fractions, obrien_fleming) == pytest.approx([4.8769, 3.3569, 2.6803, 2.2898, 2.0310], abs=2e-4)
    pocock = 0.05 * np.log(1 + (np.e - 1) * np.array(fractions))
    assert boundaries(fractions, pocock) == pytest.approx([2.4380, 2.4268, 2.4101, 2.3966, 2.3859], abs=6e-3)
    assert boundaries([1.0], spent_errors([1.0], 0.05)) == pytest.approx([1.959964], abs=1e-5)


@pytest.mark.parametrize("alpha", [0.05, 0.002])
def test_boundaries_are_crossed_as_often_as_spent(alpha: float) -> None:
    fractions = np.array([0.21, 0.42, 0.71, 0.92, 0.98, 1.0])
    steps = np.sqrt(np.diff(fractions, prepend=0))
    scores = np.cumsum(np.random.default_rng(3).normal(size=(100_000, 6)) * steps, axis=1) / np.sqrt(fractions)
    crossed = (np.abs(scores) > boundaries(fractions.tolist(), spent_errors(fractions.tolist(), alpha))).any(axis=1)
    assert crossed.mean() == pytest.approx(alpha, abs=4 * (alpha / 100_000) ** 0.5)


def test_a_look_without_news_keeps_the_boundary() -> None:
    fractions = [0.5, 0.50001, 1.0]
    quantiles = boundaries(fractions, spent_errors(fractions, 0.05))
    assert quantiles[0] == quantiles[1]
    assert boundaries([1e-6, 1.0], spent_errors([1e-6, 1.0], 0.05)) == pytest.approx([np.inf, 1.95996], abs=1e-4)


def test_all_items_at_one_look_is_the_ordinary_interval() -> None:
    decision = look_once(flips_of(47, 16, 556), StopRule())
    low, high = net_interval(47, 16, 556, 0.95)
    assert (decision.net.low, decision.net.high) == pytest.approx((float(low), float(high)), abs=2e-4)
    assert decision.net.value == pytest.approx(-31 / 556)
    assert (decision.verdict, decision.decided, decision.stop, decision.outlook) == (WORSE, True, True, 0.0)
    assert (decision.n_decoded, decision.share, decision.stage) == (556, 1.0, 1)


def test_no_flip_yet_is_not_no_change() -> None:
    early = look_once(np.zeros(400), StopRule(), share=0.25)
    assert early.verdict == NOT_SEPARABLE
    assert (early.net.low or 0) < -0.05
    assert not early.stop
    assert look_once(np.zeros(3000), StopRule(), share=0.75).verdict == EQUIVALENT


def test_errors_hold_over_all_looks() -> None:
    rule, n, truth = StopRule(shares=(0.25, 1.0)), 400, -0.10
    design, inside, runs = item_design([""] * n, UNGROUPED), 0, 60
    rng = np.random.default_rng(8)
    for _ in range(runs):
        base = rng.normal(1, 1.5, n)
        noise = 0.4 * rng.standard_t(3, n) * 0.7
        quant = base + noise - 0.4100
        flips = (quant > 0) * 1.0 - (base > 0)
        looks = np.array([decode_probabilities(base, 0.16, share) for share in rule.shares])
        numbers = rng.random(n)
        seen = [decide(flips, numbers < looks[k], looks[: k + 1], design, rule) for k in range(2)]
        inside += all((d.net.low or 0) <= truth <= (d.net.high or 0) for d in seen)
    assert inside / runs >= 0.88, "binomial with .95: below .88 in 1 of 100 such tests"


def test_information_depends_on_the_design_alone() -> None:
    base = np.random.default_rng(2).normal(1, 1.5, 2000)
    looks = np.array([decode_probabilities(base, 0.01, share) for share in (0.1, 0.4, 1.0)])
    fractions = information_fractions(looks)
    assert fractions[0] > 0.3, "a tenth of the items, chosen well, tells a third and more"
    assert fractions[1] > 0.9
    assert fractions[2] == pytest.approx(1)


def test_stops_where_all_items_would_not_settle_it() -> None:
    hopeless = look_once(flips_of(60, 58, 600, seed=1), StopRule(), share=0.6)
    assert (hopeless.verdict, hopeless.decided, hopeless.stop) == (NOT_SEPARABLE, False, True)
    assert hopeless.outlook < 0.05
    open_still = look_once(flips_of(60, 20, 600), StopRule(), share=0.3)
    assert (open_still.verdict, open_still.stop) == (NOT_SEPARABLE, False)
    assert open_still.outlook > 0.5


def test_goes_on_while_a_stronger_verdict_is_likely() -> None:
    values = flips_of(60, 90, 6000, seed=1)
    kind = look_once(values, StopRule(), share=0.4)
    assert (kind.verdict, kind.decided, kind.stop) == (NOT_INFERIOR, True, False)
    assert kind.outlook > 0.5


def test_not_inferior_stops_where_the_rule_says_so() -> None:
    values = flips_of(65, 88, 2500, seed=2)
    strict, loose = (look_once(values, StopRule(not_inferior_stops=stops), share=0.8) for stops in (False, True))
    assert strict.verdict == loose.verdict == NOT_INFERIOR
    assert 0.05 < strict.outlook == loose.outlook < 0.5
    assert (strict.decided, strict.stop) == (False, False)
    assert (loose.decided, loose.stop) == (True, True)


def test_clusters_widen_and_a_single_one_has_no_interval() -> None:
    values = np.repeat([-1.0, 0, 0, 0, 0, 0, 0, 0, 0, 1.0], 20)
    alone = look_once(values, StopRule())
    grouped = look_once(values, StopRule(), groups=[str(i // 20) for i in range(200)])
    assert (grouped.net.high or 0) > 3 * (alone.net.high or 0)
    single = look_once(values, StopRule(), groups=["one"] * 200)
    assert (single.net.low, single.verdict) == (None, NOT_SEPARABLE)


def test_shares_within_a_budget() -> None:
    shares = StopRule().shares
    assert next_share(shares, 0.0) == 0.1
    assert next_share(shares, 0.2) == 0.35
    assert next_share(shares, 0.2, affordable=0.3) == 0.3
    assert next_share(shares, 0.2, affordable=0.21) is None
    assert next_share(shares, 1.0) is None
    assert affordable_share(1000, 200, budget=20 * 60, cost=4.0) == 0.5
    assert affordable_share(1000, 200, budget=5000) == 1.0
    with pytest.raises(InputError, match="cannot be planned"):
        affordable_share(1000, 0, 60, cost=0.0)


def test_precision_of_a_text() -> None:
    good = Estimate(0.1, 0.0019, None, None, 0.95, 5000, 40, "nats")
    assert precision_reached(good, 0.02)
    assert not precision_reached(good, 0.018)
    assert not precision_reached(Estimate(0.1, 0.001, None, None, 0.95, 5000, 19, "nats"), 0.02)
    assert not precision_reached(Estimate(0.1, None, None, None, 0.95, 5000, 40, "nats"), 0.02)
    with pytest.raises(InputError, match="never reached"):
        precision_reached(good, 0.0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"alpha": 0.0}, "error of 0"),
        ({"margin": 0.0}, "margin of 0"),
        ({"shares": ()}, "do not rise"),
        ({"shares": (0.5, 0.2)}, "do not rise"),
        ({"shares": (0.5, 1.2)}, "do not rise"),
    ],
)
def test_rules_that_make_no_sense(change: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        StopRule(**change)  # type: ignore[arg-type]


def test_looks_that_make_no_sense() -> None:
    design = item_design(["", ""], UNGROUPED)
    decoded, values = np.array([True, True]), np.zeros(2)
    with pytest.raises(InputError, match="none may fall"):
        decide(values, decoded, np.array([[0.5, 0.5], [0.6, 0.4]]), design)
    with pytest.raises(InputError, match="none may fall"):
        decide(values, decoded, np.ones((1, 3)), design)
