"""Two-level designs: orthogonal, estimating what they say, and more precise than one group at a time."""

from __future__ import annotations

import numpy as np
import pytest

from quantprobe.stats.two_level import (
    ALONE,
    AVERAGED,
    BOTH,
    RESTORED,
    Design,
    foldover_design,
    hadamard_design,
    hadamard_matrix,
    single_design,
)


def respond(design: Design, effects: np.ndarray, pair: float = 0.0) -> np.ndarray:
    """Additive responses of the runs, and a product of groups 1 and 4 on top."""
    return design.runs @ effects + pair * (design.runs[:, 1] & design.runs[:, 4])


@pytest.mark.parametrize("n", [4, 8, 12, 16, 20, 24, 32, 48])
def test_columns_are_orthogonal(n: int) -> None:
    matrix = hadamard_matrix(n)
    assert np.array_equal(matrix.T @ matrix, n * np.eye(n))
    assert (matrix[0] == 1).all() and (matrix[:, 0] == 1).all()


@pytest.mark.parametrize("n_groups", [1, 2, 3, 5, 11, 12, 13, 19, 40])
def test_additive_effects_are_found_and_called_additive(n_groups: int) -> None:
    effects = np.random.default_rng(n_groups).normal(size=n_groups)
    designs = [hadamard_design(n_groups), foldover_design(n_groups), single_design(n_groups, BOTH)]
    for design in designs:
        runs = design.runs
        assert not runs[-2].any() and runs[-1].all()
        y = respond(design, effects) if n_groups > 4 else runs @ effects
        for weights in design.effects.values():
            assert weights @ y == pytest.approx(effects)
        assert design.additivity().weights @ y == pytest.approx(np.zeros(len(design.additivity().names)), abs=1e-9)
        assert design.interactions().weights @ y == pytest.approx(np.zeros(len(design.interactions().names)), abs=1e-9)


def test_12_groups_take_15_hybrids() -> None:
    assert hadamard_design(12).n_hybrids == 15
    assert foldover_design(12).n_hybrids == 30
    assert single_design(12).n_hybrids == 12 and single_design(12, BOTH).n_hybrids == 24


def test_a_hadamard_effect_has_a_third_of_the_variance_or_less() -> None:
    """12 groups and 16 runs: noise of its own in every run but the base's."""
    rng = np.random.default_rng(0)
    effects = rng.normal(size=12)
    found = {}
    for design in (hadamard_design(12), single_design(12)):
        noise = rng.normal(size=(4000, len(design.runs)))
        y = respond(design, effects) + noise
        (weights,) = design.effects.values()
        found[design.kind] = ((y @ weights.T - effects) ** 2).mean()
    # one at a time uses 13 runs; the 3 that are left repeat the quant, which every effect is taken from
    repeated = 1 + 1 / 4
    assert found["hadamard"] <= found["single"] * repeated / 2 / 3
    assert found["hadamard"] == pytest.approx(4 / 16, rel=0.05)


def test_a_planted_product_leaves_the_effects_of_a_fold_over_alone() -> None:
    effects = np.zeros(12)
    design = foldover_design(12)
    y = respond(design, effects, pair=1.0)
    main = design.effects[AVERAGED] @ y
    assert main[[1, 4]] == pytest.approx([0.5, 0.5])
    assert np.delete(main, [1, 4]) == pytest.approx(np.zeros(10), abs=1e-9)
    pairs = design.interactions()
    found = dict(zip(pairs.names, pairs.weights @ y, strict=True))
    largest = max(found, key=lambda name: abs(found[name]))
    assert "1x4" in largest.split(", ") and found[largest] == pytest.approx(0.5)
    assert sum(abs(value) > 1e-9 for value in found.values()) == 1


def test_a_planted_product_is_seen_by_every_design() -> None:
    for design in (hadamard_design(12), single_design(12)):
        residuals = design.additivity().weights @ respond(design, np.ones(12), pair=1.0)
        assert np.abs(residuals).max() > 0.2


def test_both_ways_bracket_a_product() -> None:
    design = single_design(6, BOTH)
    y = respond(design, np.zeros(6), pair=1.0)
    assert (design.effects[RESTORED] @ y)[[1, 4]] == pytest.approx([0, 0])
    assert (design.effects[ALONE] @ y)[[1, 4]] == pytest.approx([1, 1])
