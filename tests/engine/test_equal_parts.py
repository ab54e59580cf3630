"""Every token once and in order, in batches of one length; far fewer of them than lengths."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from quantprobe.engine.equal_parts import cut_equal


@given(lengths=st.lists(st.integers(1, 90), min_size=1, max_size=40), n_most=st.integers(1, 100))
def test_every_token_once_and_in_order(lengths: list[int], n_most: int) -> None:
    reached = [0] * len(lengths)
    for batch in cut_equal(lengths, n_most):
        assert len({part.number for part in batch}) == len(batch)
        assert len({part.end - part.begin for part in batch}) == 1
        assert 0 < sum(part.end - part.begin for part in batch) <= n_most
        for part in batch:
            assert part.begin == reached[part.number]
            reached[part.number] = part.end
    assert reached == lengths


def test_few_batches() -> None:
    assert len(cut_equal([57] * 8, 512)) == 1
    assert len(cut_equal([57] * 8 + [58], 1024)) == 2
    assert len(cut_equal(list(range(5, 41)), 512)) <= 8  # 36 lengths
    rng = np.random.default_rng(0)
    choices = rng.integers(3, 30, 60).tolist()
    assert len(cut_equal(choices, 512)) <= 7 < len(set(choices))
