"""Joint sign flips and the intervals they give: a slow twin, exact enumeration, and simulated errors."""

import itertools

import numpy as np
import pytest
from scipy import stats

from quantprobe.errors import InputError
from quantprobe.stats.design import ItemDesign, item_design, pool_designs
from quantprobe.stats.estimates import MIN_DESIGN_EFFECT, cluster_mean
from quantprobe.stats.paired import net_interval
from quantprobe.stats.sign_flips import ChangeTable, SignFlips, draw_signs, live_clusters, pool_tables
from quantprobe.stats.simultaneous import simultaneous_intervals


def plain(n: int) -> ItemDesign:
    return item_design([""] * n, "none")


def cohort(rng: np.random.Generator, n: int, nets: np.ndarray, volume: float = 0.06) -> np.ndarray:
    """Changes of quants that share a quarter of their changed items."""
    rates = (volume - nets[:, None]) / 2 / volume
    shared, own = rng.random(n) < volume / 4, rng.random((len(nets), n)) < 0.75 * volume
    return np.where(shared | own, np.where(rng.random((len(nets), n)) < rates, -1.0, 1.0), 0.0)


DESIGNS = {
    "plain": plain(300),
    "strata": item_design([f"s{i * i % 6}" for i in range(300)], "strata"),
    "clusters": item_design([f"c{i * i % 37}" for i in range(300)], "clusters"),
    "pool": pool_designs(
        [
            item_design([f"c{i * i % 37}" for i in range(100)], "clusters"),
            item_design(["a"] * 50 + ["b"] * 49 + ["lone"], "strata"),
            item_design(["one passage"] * 100, "clusters"),
        ]
    ),
}


@pytest.mark.parametrize("name", DESIGNS)
def test_statistics_under_flips_are_those_of_flipped_items(name: str) -> None:
    rng, design = np.random.default_rng(1), DESIGNS[name]
    values = rng.choice([-1.0, 0.0, 0.0, 0.0, 1.0], size=(4, 300))
    values[1, rng.random(300) < 0.2] = np.nan
    values[2] *= rng.uniform(1, 3, 300)
    table = ChangeTable(values, design)
    live = live_clusters(table)
    flips = SignFlips(table, live)
    order = np.lexsort((design.clusters, design.strata))
    numbers = design.clusters[order][np.flatnonzero(np.diff(design.clusters[order], prepend=-1))][live]
    signs = np.ones(design.n_clusters)
    signs[numbers] = rng.choice([-1.0, 1.0], len(numbers))
    found = flips.statistics(signs[numbers][None].astype(np.float32))[0]
    for q, row in enumerate(values):
        known = np.isfinite(row)
        moved, part = (row * signs[design.clusters])[known], design.keep(known)
        effect = (cluster_mean(moved, part).stderr / cluster_mean(moved, np.arange(len(moved))).stderr) ** 2
        expected = moved.sum() / np.sqrt((moved**2).sum() * max(effect, MIN_DESIGN_EFFECT))
        assert found[q] == pytest.approx(expected, rel=1e-5, abs=1e-6)
        observed = cluster_mean(row[known], part)
        assert flips.stderr[q] == pytest.approx(observed.stderr, rel=1e-6)
        if design.has_clusters:
            assert flips.dof[q] == pytest.approx(observed.dof, rel=1e-5)


def test_the_corrected_p_is_that_of_all_sign_patterns() -> None:
    values = np.zeros((3, 40))
    values[0, :10] = -1
    values[1, 2:12] = [-1, -1, -1, 1, -1, -1, -1, 1, -1, -1]
    values[2, 8:14] = 1
    [found] = simultaneous_intervals([ChangeTable(values, plain(40))], n_flips=20_000)
    patterns = np.array(list(itertools.product([-1, 1], repeat=14)))
    largest = np.abs(patterns @ values[:, :14].T / np.sqrt((values**2).sum(1))).max(1)
    z = np.abs(values.sum(1)) / np.sqrt((values**2).sum(1))
    exact = [(largest >= one - 1e-9).mean() for one in z]
    assert found.adjusted_p == pytest.approx(exact, abs=0.012)
    assert ((found.low > 0) | (found.high < 0)).tolist() == [p <= 0.05 for p in found.adjusted_p]


def test_copies_and_near_copies_cost_nothing() -> None:
    rng = np.random.default_rng(2)
    one = cohort(rng, 2_000, np.zeros(1))
    near = np.repeat(one, 20, axis=0)
    for row in near:
        row[rng.choice(2_000, 2, replace=False)] = 0
    [alone], [same], [close] = (
        simultaneous_intervals([ChangeTable(rows, plain(2_000))]) for rows in (one, np.repeat(one, 20, axis=0), near)
    )
    assert alone.alpha_star == same.alpha_star
    assert close.alpha_star > 0.03
    [different] = simultaneous_intervals([ChangeTable(cohort(rng, 2_000, np.zeros(20)), plain(2_000))])
    assert 0.04 / 20 <= different.alpha_star < 0.005


def test_one_quant_alone_has_the_interval_of_its_level() -> None:
    values = cohort(np.random.default_rng(3), 1_000, np.array([-0.03]))
    [found] = simultaneous_intervals([ChangeTable(values, plain(1_000))])
    assert 0.04 <= found.alpha_star <= 0.05
    low, high = net_interval((values < 0).sum(), (values > 0).sum(), 1_000, 1 - found.alpha_star)
    assert (found.low[0], found.high[0]) == pytest.approx((float(low), float(high)), abs=1e-12)


def test_the_pool_has_most_of_the_error_and_all_items() -> None:
    rng = np.random.default_rng(4)
    tasks = [ChangeTable(cohort(rng, n, np.zeros(8)), plain(n)) for n in (200, 300)]
    first, second, pool = simultaneous_intervals(tasks)
    assert first.alpha_star == second.alpha_star == pytest.approx(pool.alpha_star / 8)
    assert pool.n.tolist() == [500.0] * 8
    np.testing.assert_allclose(pool.net * 500, first.net * 200 + second.net * 300)
    again = simultaneous_intervals(tasks)
    np.testing.assert_array_equal(again[-1].low, pool.low)


def test_quants_that_answered_less() -> None:
    rng = np.random.default_rng(5)
    values = cohort(rng, 400, np.zeros(3))
    values[1, :100] = np.nan
    values[2] = np.nan
    other = ChangeTable(cohort(rng, 100, np.zeros(3)), plain(100))
    task, _, pool = simultaneous_intervals([ChangeTable(values, plain(400)), other])
    assert task.n.tolist() == [400, 300, 0] and pool.n.tolist() == [500, 400, 0]
    assert task.net[1] == pytest.approx(np.nanmean(values[1]))
    assert np.isnan(task.low[2]) and np.isnan(pool.adjusted_p[2])
    assert np.isnan(pool_tables([ChangeTable(values, plain(400)), other]).values[2]).all()


def test_few_clusters_take_t_and_bonferroni() -> None:
    rng = np.random.default_rng(6)
    design = item_design([f"c{i // 100}" for i in range(500)], "clusters")
    values = cohort(rng, 500, np.zeros(4))
    values[3] = values[0]
    [found] = simultaneous_intervals([ChangeTable(values, design)])
    assert found.alpha_star == pytest.approx(0.05 / 3), "a copy is not counted twice"
    z = stats.t.ppf(1 - found.p / 2, 4)
    effect = (found.stderr * 500) ** 2 * 499 / 500 / ((values**2).sum(1) - values.sum(1) ** 2 / 500)
    assert z == pytest.approx(np.abs(values.sum(1)) / np.sqrt((values**2).sum(1) * effect), rel=1e-6)


def test_one_cluster_has_no_interval() -> None:
    values = cohort(np.random.default_rng(7), 60, np.zeros(2))
    [found] = simultaneous_intervals([ChangeTable(values, item_design(["p"] * 60, "clusters"))])
    assert np.isnan(found.low).all() and found.adjusted_p.tolist() == [1.0, 1.0]


def test_weighted_changes_keep_mean_and_error() -> None:
    rng = np.random.default_rng(8)
    chance = rng.uniform(0.2, 1, 3_000)
    change = cohort(rng, 3_000, np.array([-0.02]), volume=0.1)[0]
    values = np.where(rng.random(3_000) < chance, change / chance, 0.0)[None]
    [found] = simultaneous_intervals([ChangeTable(values, plain(3_000))])
    assert found.net[0] == pytest.approx(values.mean())
    assert found.stderr[0] == pytest.approx(values.std(ddof=1) / np.sqrt(3_000))
    half = stats.norm.ppf(1 - found.alpha_star / 2) * found.stderr[0]
    assert (found.low[0], found.high[0]) == pytest.approx((values.mean() - half, values.mean() + half), abs=5e-4)


def test_nothing_seen_among_few_decoded_items_is_not_certainty() -> None:
    nothing = np.zeros((1, 3_000))
    [all_asked] = simultaneous_intervals([ChangeTable(nothing, plain(3_000))])
    [few_asked] = simultaneous_intervals([ChangeTable(nothing, plain(3_000), np.array([10.0]))])
    assert all_asked.high[0] < 0.0015
    assert few_asked.high[0] > 0.012


def test_false_claims_over_null_quants_stay_below_alpha() -> None:
    rng, claims, uncorrected = np.random.default_rng(9), 0, 0
    for _ in range(150):
        [found] = simultaneous_intervals([ChangeTable(cohort(rng, 300, np.zeros(12)), plain(300))], n_flips=400)
        claims += bool(((found.low > 0) | (found.high < 0)).any())
        uncorrected += bool((found.p <= 0.05).any())
    # a true 5 % gives at most 15 of 150 in 99.6 % of cases
    assert claims <= 15
    assert uncorrected > 40


def test_signs_are_seeded_fair_and_in_blocks() -> None:
    blocks = list(draw_signs(50, 100_000, 10, seed=1))
    assert len(blocks) > 1 and sum(len(block) for block in blocks) == 50
    assert set(np.unique(blocks[0])) == {-1.0, 1.0}
    assert abs(np.concatenate(blocks).mean()) < 0.002
    np.testing.assert_array_equal(blocks[0], next(draw_signs(50, 100_000, 10, seed=1)))


def test_tables_that_do_not_fit_their_design_are_refused() -> None:
    with pytest.raises(InputError, match=r"\(2, 5\) changes for a design of 6 items"):
        ChangeTable(np.zeros((2, 5)), plain(6))
