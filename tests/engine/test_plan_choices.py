"""Plans of tasks, executed on a small model of llama.cpp's memory: every row once, after its tokens, within limits."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantprobe.engine.plan import BLOCK_BYTES, LLAMA_MAX_SEQ, Geometry, Step
from quantprobe.engine.plan_choices import MIN_HEADER, choice_geometry, n_item_tokens, n_naive_tokens, plan_choices
from quantprobe.errors import InputError
from quantprobe.probes.items import ChoiceItem, TaskProbe
from quantprobe.settings import MIN_BATCH, Settings

N_VOCAB = 50


class Memory:
    """llama.cpp's unified cache: a cell holds one token for a set of sequences; a sequence is what its cells spell."""

    def __init__(self, n_ctx: int) -> None:
        self.n_ctx = n_ctx
        self.cells: dict[int, set[int]] = {}
        self.sequences: dict[int, list[tuple[int, int]]] = {}
        """Of each sequence the (cell, token) of every position."""
        self.n_written = 0

    def prepare(self, step: Step) -> None:
        """In the order of the runner: clear, remove, copy."""
        if step.clear:
            self.cells.clear()
            self.sequences.clear()
        for seq in step.removes:
            self.remove(seq)
        for source, target in step.copies:
            assert source in self.sequences, "a copy of an empty sequence"
            assert target not in self.sequences, "a copy onto a sequence in use"
            self.sequences[target] = list(self.sequences[source])
            for cell, _ in self.sequences[target]:
                self.cells[cell].add(target)

    def remove(self, seq: int) -> None:
        for cell, _ in self.sequences.pop(seq, []):
            self.cells[cell].discard(seq)
            if not self.cells[cell]:
                del self.cells[cell]

    def write(self, seqs: range, token: int, pos: int) -> tuple[int, ...]:
        """Add a token to sequences that share its cell; the tokens up to and with it, the same in all of them."""
        histories = [self.sequences.setdefault(seq, []) for seq in seqs]
        assert all(history == histories[0] for history in histories), f"sequences {seqs} have diverged"
        assert pos == len(histories[0]), f"sequences {seqs} have {len(histories[0])} tokens and got position {pos}"
        for history in histories:
            history.append((self.n_written, token))
        self.cells[self.n_written] = set(seqs)
        self.n_written += 1
        assert len(self.cells) <= self.n_ctx, "the buffer is too small"
        return tuple(token for _, token in histories[0])


def execute(steps: Iterator[Step], geometry: Geometry) -> tuple[dict[int, tuple[int, ...]], list[Step]]:
    """What each row has before it, and the steps; every limit of the context is checked on the way."""
    memory = Memory(geometry.n_ctx)
    rows: dict[int, tuple[int, ...]] = {}
    done = []
    for step in steps:
        assert {len(step.pos), len(step.seq), len(step.n_seq), len(step.output)} == {len(step.tokens)}
        assert 2 <= len(step.tokens) <= geometry.n_batch, "no token alone: MIN_BATCH says why"
        assert len(step.row_ids) == np.count_nonzero(step.output) <= geometry.n_outputs
        memory.prepare(step)
        row_ids = iter(step.row_ids.tolist())
        for token, pos, seq, n_seq, wanted in zip(
            step.tokens, step.pos, step.seq, step.n_seq, step.output, strict=True
        ):
            seqs = range(int(seq), int(seq) + int(n_seq))
            assert 0 <= seqs.start < seqs.stop <= geometry.n_seq
            history = memory.write(seqs, int(token), int(pos))
            if wanted:
                row = next(row_ids)
                assert row not in rows, f"row {row} comes twice"
                rows[row] = history
        for seq in step.forgets:
            memory.remove(seq)
        done.append(step)
    return rows, done


def expected_rows(probe: TaskProbe) -> dict[int, tuple[int, ...]]:
    """What each row has before it, straight from the layout that `ChoiceItem` documents."""
    rows = []
    for item in probe.items:
        prefix = tuple(item.prefix.tolist())
        rows += [prefix[: end + 1] for end in range(len(prefix) - item.n_prefix_rows, len(prefix))]
        for branch in item.branches:
            rows += [prefix + tuple(branch[: end + 1].tolist()) for end in range(len(branch) - 1)]
    return dict(enumerate(rows))


def make_item(prefix: list[int], branches: list[list[int]], n_prefix_rows: int = 1, name: str = "q") -> ChoiceItem:
    n_rows = min(n_prefix_rows, len(prefix))
    return ChoiceItem(
        id=name,
        group="",
        gold=0,
        prefix=np.array(prefix, dtype=np.int32),
        branches=tuple(np.array(branch, dtype=np.int32) for branch in branches),
        n_prefix_rows=n_rows,
        starts=(max(1, len(prefix) - n_rows + 1),) * len(branches),
        n_bytes=(1,) * len(branches),
        n_chars=(1,) * len(branches),
    )


def make_probe(items: list[ChoiceItem]) -> TaskProbe:
    return TaskProbe("t", "tokens", "plain", tuple(items))


def check(probe: TaskProbe, geometry: Geometry, equal_lengths: bool) -> list[Step]:
    """The plan gives every row once, after the right tokens, within the limits of the context."""
    rows, steps = execute(plan_choices(probe, geometry, equal_lengths), geometry)
    assert rows == expected_rows(probe)
    assert all(len(step.tokens) <= geometry.n_ubatch for step in steps)
    if equal_lengths:
        for step in steps:
            assert (step.n_seq == 1).all(), "recurrent models cannot share a cell"
            lengths = {len(list(same)) for _, same in groupby(step.seq.tolist())}
            assert len(lengths) == 1, "sequences of several lengths in one batch"
            assert len(np.unique(step.seq)) * lengths.pop() == len(step.tokens), "a sequence twice in one batch"
    return steps


def n_decoded(steps: list[Step]) -> int:
    """Tokens of the probe; those that keep another one company (`Step.forgets`) are not."""
    return sum(len(step.tokens) - len(step.forgets) for step in steps)


TOKENS = st.integers(0, N_VOCAB - 1)
BRANCHES = st.lists(st.lists(TOKENS, min_size=1, max_size=9), min_size=1, max_size=5)


@st.composite
def items(draw: st.DrawFn, headers: list[list[int]]) -> ChoiceItem:
    """A question behind one of a few headers, or without any prefix at all."""
    if draw(st.integers(0, 9)) == 0:
        return make_item([], draw(BRANCHES))
    prefix = [*draw(st.sampled_from(headers)), *draw(st.lists(TOKENS, min_size=1, max_size=20))]
    return make_item(prefix, draw(BRANCHES), draw(st.integers(1, 3)))


@st.composite
def probes(draw: st.DrawFn) -> TaskProbe:
    headers = [[], *draw(st.lists(st.lists(TOKENS, min_size=MIN_HEADER, max_size=60), min_size=1, max_size=2))]
    return make_probe(draw(st.lists(items(headers), min_size=1, max_size=12)))


@settings(max_examples=150, deadline=None)
@given(probe=probes(), n_ubatch=st.integers(MIN_BATCH, 70), equal_lengths=st.booleans())
def test_every_row_once_after_its_tokens(probe: TaskProbe, n_ubatch: int, equal_lengths: bool) -> None:
    geometry = choice_geometry(probe, Settings(n_ubatch=n_ubatch), N_VOCAB, equal_lengths)
    steps = check(probe, geometry, equal_lengths)
    assert n_decoded(steps) <= sum(n_item_tokens(item) for item in probe.items)
    assert n_decoded(steps) <= n_naive_tokens(probe)


@settings(max_examples=100, deadline=None)
@given(
    probe=probes(),
    n_ubatch=st.integers(MIN_BATCH, 40),
    n_outputs=st.integers(MIN_BATCH, 20),
    n_spare=st.integers(0, 30),
    equal_lengths=st.booleans(),
)
def test_the_tightest_contexts_suffice(
    probe: TaskProbe, n_ubatch: int, n_outputs: int, n_spare: int, equal_lengths: bool
) -> None:
    """Few rows a batch, and a buffer that barely holds the longest question and a token's company."""
    n_seq = max(len(item.branches) for item in probe.items) + 3
    n_ctx = max(n_item_tokens(item) for item in probe.items) + 1 + n_spare
    check(probe, Geometry(n_ctx, n_seq, n_ubatch, n_ubatch, n_outputs, unified=True), equal_lengths)


@pytest.mark.parametrize("equal_lengths", [False, True])
def test_a_shared_header_is_decoded_once(equal_lengths: bool) -> None:
    header = list(range(40))
    probe = make_probe([make_item([*header, 41 + i % 5, i % 7], [[1, 2], [3, 4, 5]]) for i in range(50)])
    geometry = choice_geometry(probe, Settings(n_ubatch=64), N_VOCAB, equal_lengths)
    steps = check(probe, geometry, equal_lengths)
    assert len(steps) > 3, "the header has to outlive more than one group"
    assert n_decoded(steps) == 40 + 50 * (2 + 1 + 2)
    assert sum(step.clear for step in steps) == 1


def test_each_subject_has_its_own_header() -> None:
    """Subjects share their first words; those do not become the header of all."""
    first = list(range(34))
    subjects = [[*first, *range(k, k + 60)] for k in (0, 1, 2)]
    probe = make_probe([make_item([*subject, i, i], [[1, 2]]) for subject in subjects for i in range(10)])
    steps = check(probe, choice_geometry(probe, Settings(), N_VOCAB), equal_lengths=False)
    assert n_decoded(steps) == 3 * (94 + 10 * (2 + 1))


@pytest.mark.parametrize("equal_lengths", [False, True])
def test_identical_questions_keep_their_own_rows(equal_lengths: bool) -> None:
    """The scored rows of the prefix belong to each question, also where everything is shared."""
    item = make_item(list(range(50)), [[1, 2], [3, 4]], n_prefix_rows=4)
    probe = make_probe([item, item, item])
    steps = check(probe, choice_geometry(probe, Settings(), N_VOCAB, equal_lengths), equal_lengths)
    assert n_decoded(steps) == 46 + 3 * (4 + 2)


@pytest.mark.parametrize("equal_lengths", [False, True])
@pytest.mark.parametrize(
    "probe",
    [
        make_probe([make_item([], [[1], [2]]), make_item([], [[1, 2], [2]])]),
        make_probe([make_item([1, 2], [[1], [2], [3], [4]])] * 3),
        make_probe([make_item([1], [[1, 2, 3]])]),
        make_probe([make_item(list(range(N_VOCAB)) * 40, [[5] * 1500, [6] * 700]), make_item([1], [[1, 2]])]),
        make_probe([make_item([1, 2], [[k % N_VOCAB, 1, 2] for k in range(LLAMA_MAX_SEQ - 3)])] * 2),
    ],
    ids=["no prefix", "single tokens", "one choice", "longer than the buffer", "as many choices as llama.cpp takes"],
)
def test_odd_cases(probe: TaskProbe, equal_lengths: bool) -> None:
    check(probe, choice_geometry(probe, Settings(n_ubatch=128), N_VOCAB, equal_lengths), equal_lengths)


def test_nothing_to_decode_gives_no_step() -> None:
    """Without a prefix a choice of one token has no predecessor: no rows, no batch."""
    probe = make_probe([make_item([], [[1], [2]])])
    assert check(probe, choice_geometry(probe, Settings(), N_VOCAB), equal_lengths=False) == []


def test_more_choices_than_sequences_are_refused() -> None:
    probe = make_probe([make_item([1], [[2]] * (LLAMA_MAX_SEQ - 2))])
    with pytest.raises(InputError, match=f"254 choices; llama.cpp takes {LLAMA_MAX_SEQ - 3}"):
        choice_geometry(probe, Settings(), N_VOCAB)


def test_a_wide_vocabulary_bounds_the_rows_of_a_batch() -> None:
    """Rows in flight keep to their bytes whatever the vocabulary."""
    probe = make_probe([make_item([1, 2], [[3] * 40, [4] * 40])] * 30)
    geometry = choice_geometry(probe, Settings(), 262_144)
    steps = check(probe, geometry, equal_lengths=False)
    assert max(len(step.row_ids) for step in steps) * 4 * 262_144 <= BLOCK_BYTES
    assert len(steps) > 10


def test_a_batch_of_ordinary_questions_is_full() -> None:
    """Neighbours without a header are packed into micro-batches: 13 questions of 37 tokens in 512."""
    probe = make_probe([make_item([i % 7, *[1] * 20], [[2] * 5] * 4) for i in range(105)])
    steps = check(probe, choice_geometry(probe, Settings(), N_VOCAB), equal_lengths=False)
    assert len(steps) == 9 == sum(step.clear for step in steps)
    assert {len(step.tokens) for step in steps[:-1]} == {13 * 37}


def test_single_letters_take_one_sequence_a_question() -> None:
    probe = make_probe([make_item([i % 7, *[1] * 9], [[2]] * 4) for i in range(126)])
    steps = check(probe, choice_geometry(probe, Settings(), N_VOCAB), equal_lengths=False)
    assert sum(step.clear for step in steps) == 126 / 42 == len(steps), "42 questions of 12 tokens in 512"


def llama_rows(probe: TaskProbe) -> dict[int, tuple[int, ...]]:
    geometry = choice_geometry(probe, Settings(n_parallel=8, n_ctx=64), N_VOCAB)
    rows, steps = execute(plan_choices(probe, geometry, like_llama=True), geometry)
    assert n_decoded(steps) == sum(n_item_tokens(item, whole=True) for item in probe.items)
    return rows


@settings(max_examples=100, deadline=None)
@given(probe=probes())
def test_batches_of_llama_perplexity_give_every_row(probe: TaskProbe) -> None:
    assert llama_rows(probe) == expected_rows(probe)


def test_batches_of_llama_perplexity() -> None:
    """Two questions for its eight sequences, the prefix in all of a question's, every choice to its last token."""
    items = [make_item([7, 8, i], [[1, 2], [3], [4, 5, 6], [9, 9]]) for i in range(5)]
    probe = make_probe(items)
    geometry = choice_geometry(probe, Settings(n_parallel=8, n_ctx=64), N_VOCAB)
    assert (geometry.n_ctx, geometry.n_seq) == (8 * 64, 8 + 1)
    first, _, last = plan_choices(probe, geometry, like_llama=True)
    assert first.tokens.tolist() == [7, 8, 0, 1, 2, 3, 4, 5, 6, 9, 9, 7, 8, 1, 1, 2, 3, 4, 5, 6, 9, 9]
    assert first.pos.tolist() == [0, 1, 2, 3, 4, 3, 3, 4, 5, 3, 4] * 2
    assert first.seq.tolist() == [0, 0, 0, 0, 0, 1, 2, 2, 2, 3, 3, 4, 4, 4, 4, 4, 5, 6, 6, 6, 7, 7]
    assert first.n_seq.tolist() == [4, 4, 4, 1, 1, 1, 1, 1, 1, 1, 1] * 2
    assert first.output.tolist() == [0, 0, 1, 1, 0, 0, 1, 1, 0, 1, 0] * 2
    assert first.clear and last.clear
    assert len(last.tokens) == 11


def test_batches_of_llama_perplexity_need_a_sequence_for_each_choice() -> None:
    probe = make_probe([make_item([1], [[2]] * 9)])
    with pytest.raises(InputError, match=r"9 choices, and llama-perplexity -np 8 .* give --parallel 9"):
        choice_geometry(probe, Settings(n_parallel=8), N_VOCAB)


def test_a_long_header_leaves_room_for_a_group() -> None:
    header = [k % N_VOCAB for k in range(900)]
    probe = make_probe([make_item([*header, i % 50, i % 7], [[1, 2, 3]] * 4) for i in range(60)])
    steps = check(probe, choice_geometry(probe, Settings(n_ubatch=128), N_VOCAB), equal_lengths=False)
    assert len(steps) == 8 + 60 / 12, "12 questions of 10 tokens at a time behind the header"


def test_plans_repeat() -> None:
    rng = np.random.default_rng(3)
    made = [make_item(rng.integers(0, 50, 30).tolist(), [[1, 2, 3], [4, 5]]) for _ in range(40)]
    geometry = choice_geometry(make_probe(made), Settings(n_ubatch=64), N_VOCAB)
    first, second = (list(plan_choices(make_probe(made), geometry, True)) for _ in range(2))
    assert [step.row_ids.tolist() for step in first] == [step.row_ids.tolist() for step in second]


def test_recurrent_models_decode_few_batches_more() -> None:
    """Questions of the lengths that HellaSwag's have: at most twice the batches of attention models."""
    rng = np.random.default_rng(0)
    made = []
    for number in range(500):
        middle = rng.integers(8, 36)
        branches = [[1] * int(n) for n in middle + rng.integers(0, 8, 4)]
        prefix = rng.integers(0, N_VOCAB, rng.integers(20, 70)).tolist()
        made.append(make_item(prefix, branches, name=str(number)))
    probe = make_probe(made)
    plain, equal = (
        list(plan_choices(probe, choice_geometry(probe, Settings(), N_VOCAB, equal), equal)) for equal in (False, True)
    )
    assert len(equal) <= 2 * len(plain)


def test_more_sequences_take_half_the_batches() -> None:
    """Short questions, like ARC-Easy's, fill all sequences long before they fill a micro-batch."""
    rng = np.random.default_rng(0)
    made = []
    for number in range(300):
        prefix = rng.integers(0, N_VOCAB, int(np.clip(rng.gamma(4, 7), 9, 70))).tolist()
        made.append(make_item(prefix, [[1] * int(n) for n in 2 + rng.exponential(3, 4)], name=str(number)))
    probe = make_probe(made)
    few = list(plan_choices(probe, choice_geometry(probe, Settings(), N_VOCAB, True), True))
    geometry = choice_geometry(probe, Settings(), N_VOCAB, True, state_bytes=100_000)
    assert geometry.n_seq == LLAMA_MAX_SEQ
    assert len(check(probe, geometry, equal_lengths=True)) <= len(few) / 2
    wide = choice_geometry(probe, Settings(), 151_936, True, state_bytes=100_000)
    assert wide.n_outputs == BLOCK_BYTES // (4 * 151_936), "states take no rows' memory"
    assert choice_geometry(probe, Settings(), N_VOCAB, True, state_bytes=20_000_000).n_seq == 65
