"""Effects of made-up responses: what is planted is found, what is not is not claimed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from quantprobe.blame.effects import Response, departures, disagreements, group_effects, is_shown, name_pairs
from quantprobe.run.blame import KLD, MARGIN
from quantprobe.stats import max_t
from quantprobe.stats.design import as_design
from quantprobe.stats.two_level import AVERAGED, Design, foldover_design, hadamard_design, single_design

N, N_ITEMS = 6, 300
GROUPS: Any = [SimpleNamespace(name=f"g{i}", extra_bytes=2_000_000) for i in range(N)]


@pytest.fixture(autouse=True)
def _fewer_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(max_t, "N_DRAWS", 1000)


def responses(design: Design, seed: int, kld: list[float], margin: list[float], pair: float = 0.0) -> Any:
    rng = np.random.default_rng(seed)
    x = design.runs.astype(float)
    kld_rows = np.array(kld)[:, None] * rng.gamma(2, 0.5, size=(N, 400))
    both = (design.runs[:, 1] & design.runs[:, 4])[:, None]
    items = np.array(margin)[:, None] + 0.1 * rng.normal(size=(N, N_ITEMS))
    of_item = x @ items + pair * both + 0.3 * rng.normal(size=(len(x), N_ITEMS))
    rows = Response(x @ kld_rows + 0.01 * rng.normal(size=(len(x), 400)), as_design(np.arange(400) // 20))
    return {KLD: rows, MARGIN: Response(of_item, as_design(np.arange(N_ITEMS)))}


@pytest.mark.parametrize("design", [single_design(N), hadamard_design(N), foldover_design(N)], ids=lambda d: d.kind)
def test_the_planted_group_is_first_and_alone(design: Design) -> None:
    first = alarms = 0
    for seed in range(20):
        planted = seed % N
        margin = [0.3 if i == planted else 0.0 for i in range(N)]
        found = group_effects(design, responses(design, seed, [0.01] * N, margin), GROUPS)
        effects = [each.measures[MARGIN] for each in found]
        first += int(np.argmax([each.given_back.value for each in effects])) == planted
        alarms += any(is_shown(each.given_back) for i, each in enumerate(effects) if i != planted)
        assert effects[planted].per_mb == pytest.approx(effects[planted].given_back.value / 2)
    assert first == 20 and alarms <= 4


def test_a_reversal_is_named_and_equal_groups_are_not() -> None:
    design = hadamard_design(N)
    kld, margin = [0.05, 0.01, 0.01, 0.01, 0.01, 0.01], [0.0, 0.0, 0.0, 0.4, 0.0, 0.0]
    [found] = disagreements(design, responses(design, 1, kld, margin), GROUPS)
    assert (found.more_distance, found.more_answers) == ("g0", "g3")
    assert found.distance.value == pytest.approx(0.04, abs=0.01) and found.answers.value == pytest.approx(0.4, abs=0.1)
    assert (found.distance.low or 0) > 0 and (found.answers.low or 0) > 0
    agreeing = responses(design, 1, [0.05, 0.01, 0.01, 0.01, 0.01, 0.01], [0.4, 0.0, 0.0, 0.0, 0.0, 0.0])
    assert disagreements(design, agreeing, GROUPS) == ()


def test_of_many_pairs_the_two_first_groups_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quantprobe.blame.effects.MAX_JOINT", 3)
    design = hadamard_design(N)
    kld, margin = [0.05, 0.01, 0.01, 0.01, 0.01, 0.01], [0.0, 0.0, 0.0, 0.4, 0.0, 0.0]
    [found] = disagreements(design, responses(design, 1, kld, margin), GROUPS)
    assert (found.more_distance, found.more_answers) == ("g0", "g3")


def test_a_planted_product_is_found_by_name_and_leaves_effects_alone() -> None:
    design = foldover_design(N)
    planted = responses(design, 2, [0.01] * N, [0.0] * N, pair=0.5)
    found = name_pairs(departures(design.interactions(), planted), GROUPS)
    assert "g1 x g4" in found[0].name.split(", ") and found[0].measure == MARGIN
    assert found[0].value.value == pytest.approx(0.25, abs=0.05)
    none = name_pairs(departures(design.interactions(), responses(design, 2, [0.01] * N, [0.0] * N)), GROUPS)
    assert none == ()
    main = dict(zip((g.name for g in GROUPS), design.effects[AVERAGED] @ planted[MARGIN].means(), strict=True))
    assert abs(main["g0"]) < 0.06 and main["g1"] == pytest.approx(0.25, abs=0.06)
