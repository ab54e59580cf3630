"""From texts to tokens: one item per question, and the probe of a task."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from quantprobe.arrays import Int32Array
from quantprobe.errors import InputError
from quantprobe.probes.items import ChoiceItem, TaskProbe
from quantprobe.probes.prompts import PromptedQuestion
from quantprobe.probes.questions.winogrande import slip_branch
from quantprobe.probes.rules import RULES, check_rule

Tokenize = Callable[[str, bool, bool], Int32Array]
"""(text, add_special, parse_special) -> `[n_tokens]` int32."""


@dataclass(frozen=True)
class LeftOut:
    """A question that is not in the probe because it does not fit into the context."""

    id: str
    n_tokens: int


@dataclass(frozen=True)
class ItemCases:
    """How many items of a task fall under the rules for odd cases (an item can fall under several)."""

    n_identical: int
    """Two choices are the same tokens: they tie, and a tie goes to the first."""
    n_token_prefix: int
    """A choice's tokens are the beginning of another's. If they are all common, `tokens` and `letter` have nothing
    to score for it and the item is invalid under them; `sum`, `bytes` and `chars` score it from the prompt's end."""
    n_empty_prefix: int
    """No token is common (no BOS): the first token of each choice has no predecessor and is not scored."""


def choice_item(prompted: PromptedQuestion, tokenize: Tokenize, rule: str) -> ChoiceItem:
    """The tokens of one question, with the rows that every rule needs.

    Each choice's whole text is tokenized at once; the common prefix is that of all choices. The
    continuation starts, as lm-evaluation-harness splits, at the number of tokens of the context
    without its trailing white space (which so belongs to the continuation). With text behind the choice
    (Winogrande) it starts behind the choice: at the number of tokens of context and choice, the same split
    in llama-perplexity and, there, lm-evaluation-harness. In letter style it starts behind the common prefix,
    so that one row is scored; what the split would add is the same for every letter.

    Raises `InputError` if the rule does not suit the question.
    """
    check_rule(prompted, rule)
    flags = (prompted.add_special, prompted.parse_special)
    wholes = [_tokens(tokenize, prompted.context + continuation, flags) for continuation in prompted.continuations]
    n_prefix = common_prefix(wholes)
    starts = _starts(prompted, tokenize, n_prefix, [len(whole) for whole in wholes])
    first_target = max(1, min(n_prefix, *starts))
    item = ChoiceItem(
        id=prompted.id,
        group=prompted.group,
        gold=prompted.gold,
        prefix=wholes[0][:n_prefix].copy(),
        branches=tuple(whole[n_prefix:].copy() for whole in wholes),
        n_prefix_rows=n_prefix - first_target + 1 if n_prefix else 0,
        starts=starts,
        n_bytes=tuple(len(answer.encode("utf-8")) for answer in prompted.answers),
        n_chars=tuple(len(answer) for answer in prompted.answers),
        prompt=prompted.question,
        choices=prompted.choices,
    )
    slip = slip_branch(item) if RULES[rule].slip else None
    return item if slip is None else replace(item, branches=(*item.branches, slip))


def task_probe(
    name: str,
    prompted: Sequence[PromptedQuestion],
    tokenize: Tokenize,
    rule: str,
    template: str,
    n_ctx: int,
) -> tuple[TaskProbe, tuple[LeftOut, ...]]:
    """The probe of a task, and the questions that are longer than `n_ctx` tokens and left out of it.

    The last token of a choice is not decoded and does not count.
    Raises `InputError` if none is left, or the rule does not suit a question.
    """
    items = [choice_item(question, tokenize, rule) for question in prompted]
    left_out = tuple(LeftOut(item.id, item.n_tokens) for item in items if item.n_tokens > n_ctx)
    fitting = tuple(item for item in items if item.n_tokens <= n_ctx)
    if not fitting:
        shortest = min((one.n_tokens for one in left_out), default=0)
        raise InputError(
            f"task {name}: none of its {len(items)} questions fits into {n_ctx} tokens (the shortest needs "
            f"{shortest}); use a larger --ctx-size or fewer few-shot examples"
        )
    return TaskProbe(name, rule, template, fitting, n_left_out=len(left_out)), left_out


def count_cases(probe: TaskProbe) -> ItemCases:
    """Count the odd cases of a task; each has a written rule (`ItemCases`)."""
    identical = prefix = empty = 0
    for item in probe.items:
        choices = sorted(tuple(branch.tolist()) for branch in item.branches[: item.n_choices])
        # Sorted, a sequence that begins another stands directly before one that it begins.
        pairs = list(pairwise(choices))
        identical += any(a == b for a, b in pairs)
        prefix += any(a != b and b[: len(a)] == a for a, b in pairs)
        empty += len(item.prefix) == 0
    return ItemCases(identical, prefix, empty)


def common_prefix(sequences: Sequence[Int32Array]) -> int:
    """How many leading tokens all sequences share; at most the length of the shortest."""
    shortest = min(len(sequence) for sequence in sequences)
    stacked = np.stack([sequence[:shortest] for sequence in sequences])
    differs = np.flatnonzero((stacked != stacked[0]).any(axis=0))
    return int(differs[0]) if len(differs) else shortest


def _starts(prompted: PromptedQuestion, tokenize: Tokenize, n_prefix: int, lengths: list[int]) -> tuple[int, ...]:
    flags = (prompted.add_special, prompted.parse_special)
    if prompted.style == "letter":
        return (n_prefix,) * len(lengths)
    if prompted.suffix:
        befores = [prompted.context + text.removesuffix(prompted.suffix) for text in prompted.continuations]
    else:
        befores = [prompted.context.rstrip()] * len(lengths)
    known = {before: len(_tokens(tokenize, before, flags)) for before in set(befores)}
    return tuple(min(known[before], length) for before, length in zip(befores, lengths, strict=True))


def _tokens(tokenize: Tokenize, text: str, flags: tuple[bool, bool]) -> Int32Array:
    return np.asarray(tokenize(text, *flags), dtype=np.int32)
