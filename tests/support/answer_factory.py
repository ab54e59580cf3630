"""Answers for tests: seeded, with ties and broken items on request."""

import numpy as np

from quantprobe.metrics.answers import Answers, answers_from_logprobs


def make_answers(
    logprobs: list[list[float]], gold: list[int], groups: list[str] | None = None, **more: object
) -> Answers:
    n, width = len(logprobs), max(len(row) for row in logprobs)
    padded = np.full((n, width), np.nan)
    for i, row in enumerate(logprobs):
        padded[i, : len(row)] = row
    return answers_from_logprobs(
        ids=[f"q{i}" for i in range(n)],
        groups=groups or [""] * n,
        gold=np.array(gold, dtype=np.int32),
        logprobs=padded,
        n_choices=np.array([len(row) for row in logprobs], dtype=np.int32),
        n_rows=np.full(n, 4, dtype=np.int32),
        **more,
    )


def make_pair(
    seed: int, n: int = 200, noise: float = 0.3, shift: float = 0.0, n_groups: int = 0
) -> tuple[Answers, Answers]:
    """A base and a quant: the quant is the base plus noise, its gold choice moved by `shift` nats."""
    rng = np.random.default_rng(seed)
    width = 4
    gold = rng.integers(0, width, n)
    base = rng.normal(-3, 1, (n, width))
    base[np.arange(n), gold] += 1
    quant = base + rng.normal(0, noise, (n, width))
    quant[np.arange(n), gold] += shift
    groups = [f"g{i % n_groups}" for i in range(n)] if n_groups else None
    kld = rng.exponential(0.01, n)
    return (
        make_answers(base.tolist(), gold.tolist(), groups),
        make_answers(quant.tolist(), gold.tolist(), groups, kld=kld),
    )
