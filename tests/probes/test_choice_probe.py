"""Questions as tokens, and their scores from the rows of one pass against plain scoring of each sequence."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from question_helpers import BOS, N_VOCAB, ByteTokenizer, logits_after, real_file, token_logprobs

from quantprobe.arrays import Float32Array, FloatArray
from quantprobe.errors import InputError, MismatchError
from quantprobe.metrics.scores import logprob_pairs, pair_layout, score_choices
from quantprobe.probes.items import ChoiceItem, Question, TaskProbe
from quantprobe.probes.prompts import prompt_questions
from quantprobe.probes.questions.recognise import read_questions
from quantprobe.probes.rules import skips_choice
from quantprobe.probes.task import common_prefix, count_cases, task_probe
from quantprobe.probes.templates import TEMPLATES, find_template


def make_probe(
    questions: list[Question], rule: str, template: str = "plain", add_bos: bool = True, n_ctx: int = 512
) -> TaskProbe:
    named, prompted = prompt_questions(questions, TEMPLATES[template])
    return task_probe("t", prompted, ByteTokenizer(add_bos), rule, named.name, n_ctx)[0]


def rows_of(item: ChoiceItem) -> Float32Array:
    """The rows of an item as the engine gives them: after the last prefix positions, then branch by branch."""
    n_prefix = len(item.prefix)
    rows = [logits_after(item.prefix[: i + 1]) for i in range(n_prefix - item.n_prefix_rows, n_prefix)]
    for branch in item.branches:
        whole = np.concatenate([item.prefix, branch])
        rows += [logits_after(whole[: i + 1]) for i in range(n_prefix, len(whole) - 1)]
    assert len(rows) == item.n_rows
    return np.stack(rows)


def measure(probe: TaskProbe, block: int = 7) -> FloatArray:
    """Log-probabilities of all pairs, gathered block by block."""
    layout = pair_layout(probe)
    rows = np.concatenate([rows_of(item) for item in probe.items])
    logprobs = np.full(layout.n_pairs, np.nan)
    for first in range(0, len(rows), block):
        part = layout.pairs_of_rows(first, first + block)
        logprobs[part] = logprob_pairs(rows[first : first + block], layout.rows[part] - first, layout.tokens[part])
    return logprobs


def scores(probe: TaskProbe, rule: str) -> FloatArray:
    return score_choices(measure(probe), pair_layout(probe), rule)


WORDS = st.text("ab é", min_size=1, max_size=6).filter(str.strip)


@settings(max_examples=25, deadline=None)
@given(
    prompt=st.text("ab é", min_size=1, max_size=8).filter(str.strip),
    choices=st.lists(WORDS, min_size=2, max_size=4),
    add_bos=st.booleans(),
)
def test_every_rule_from_one_pass_equals_plain_scoring(prompt: str, choices: list[str], add_bos: bool) -> None:
    question = Question("1", "", prompt, tuple(choices), 0)
    probe = make_probe([question, Question("2", "", "xyz", ("b", "bab"), 1)], "tokens", add_bos=add_bos)
    tokenize = ByteTokenizer(add_bos)
    wholes = [tokenize(f"{prompt} {choice}", True, False) for choice in choices]
    start = len(tokenize(prompt.rstrip(), True, False))
    common = common_prefix(wholes)
    for choice, whole in enumerate(wholes):
        logprobs = token_logprobs(whole)
        behind, total = logprobs[max(common, 1) :], logprobs[max(start, 1) :].sum()
        has_total = len(whole) > max(start, 1)
        expected = {
            "tokens": behind.mean() if len(behind) else np.nan,
            "letter": behind.sum() if len(behind) else np.nan,
            "sum": total if has_total else np.nan,
            "bytes": total / len(choices[choice].encode()) if has_total else np.nan,
            "chars": total / len(choices[choice]) if has_total else np.nan,
        }
        for rule, value in expected.items():
            np.testing.assert_allclose(scores(probe, rule)[0, choice], value, rtol=1e-12, err_msg=rule)
    assert np.isnan(scores(probe, "sum")[0, len(choices) :]).all()


def test_trailing_space_of_the_context_belongs_to_the_continuation() -> None:
    (item,) = make_probe([Question("1", "", "ab \n", ("x", "y"), 0, delimiter="")], "sum").items
    assert item.prefix.tolist() == [BOS, 97, 98, 256 + 10]
    assert item.starts == (3, 3)
    assert item.n_prefix_rows == 2
    assert item.n_rows == 2


def test_letters_need_one_row() -> None:
    probe = make_probe([Question("1", "law", "Who?", ("we", "they", "you"), 1)] * 1, "letter", "mmlu")
    assert probe.n_rows == 1
    layout = pair_layout(probe)
    assert layout.tokens.tolist() == [256 + ord("A"), 256 + ord("B"), 256 + ord("C")]
    rows = rows_of(probe.items[0])[0].astype(np.float64)
    expected = rows[layout.tokens] - np.logaddexp.reduce(rows)
    np.testing.assert_allclose(scores(probe, "letter")[0], expected, rtol=1e-12)
    np.testing.assert_allclose(scores(probe, "sum")[0], expected, rtol=1e-12)


def test_odd_cases_have_a_rule_and_a_count() -> None:
    questions = [
        Question("plain", "", "p", ("xa", "yb"), 0),
        Question("identical", "", "p", ("x", "x", "y"), 0),
        Question("prefix", "", "p", ("x", "xa", "xb"), 0),
        Question("same", "", "p", ("x", "x"), 0),
    ]
    probe = make_probe(questions, "tokens")
    cases = count_cases(probe)
    assert (cases.n_identical, cases.n_token_prefix, cases.n_empty_prefix) == (2, 1, 0)
    tokens, total = scores(probe, "tokens"), scores(probe, "sum")
    assert np.isfinite(tokens[0, :2]).all()
    assert tokens[1, 0] == tokens[1, 1]
    assert np.isnan(tokens[2, 0])
    assert np.isfinite(tokens[2, 1:]).all()
    assert np.isnan(tokens[3, :2]).all()
    assert np.isfinite(total[3, :2]).all()
    assert total[3, 0] == total[3, 1]
    # Without BOS, choices that begin differently: their first tokens are predicted from nothing.
    blank = Question("1", "", " ", ("abc", "xbc"), 0, " d", "")
    probe = make_probe([blank], "tokens", add_bos=False)
    assert count_cases(probe).n_empty_prefix == 1
    assert probe.items[0].n_prefix_rows == 0
    expected = [token_logprobs(probe.items[0].sequence(c))[1:].mean() for c in (0, 1)]
    np.testing.assert_allclose(scores(probe, "tokens")[0], expected, rtol=1e-12)


def test_questions_longer_than_the_context_are_left_out() -> None:
    questions = [Question("short", "", "p", ("x", "y"), 0), Question("long", "", "p" * 30, ("x", "yz"), 0)]
    _, prompted = prompt_questions(questions, TEMPLATES["plain"])
    # BOS, 30 tokens of the prompt, the first of two tokens of the longer choice.
    probe, left_out = task_probe("t", prompted, ByteTokenizer(), "tokens", "plain", 31)
    assert [item.id for item in probe.items] == ["short"]
    assert [(one.id, one.n_tokens) for one in left_out] == [("long", 32)]
    assert task_probe("t", prompted, ByteTokenizer(), "tokens", "plain", 32)[1] == ()
    with pytest.raises(InputError, match=r"none of its 2 questions fits into 1 tokens \(the shortest needs 2"):
        task_probe("t", prompted, ByteTokenizer(), "tokens", "plain", 1)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("best", "unknown scoring rule 'best'"),
        ("letter", "needs a prompt that lists letters"),
        ("llama_winogrande", "two choices with text behind them"),
    ],
)
def test_rules_that_do_not_suit(rule: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_probe([Question("1", "", "p", ("x", "y"), 0)], rule)


def blank_question(suffix: str) -> Question:
    return Question("1", "", "a saw c so ", ("a", "cd"), 1, suffix, "")


def plain_winogrande(question: Question, compat: bool) -> list[float]:
    """llama-perplexity's rule on whole sequences, with the row that it reads for the first term of choice 2."""
    tokenize = ByteTokenizer()
    wholes = [tokenize(question.prompt + choice + question.suffix, True, False) for choice in question.choices]
    bases = [len(tokenize(question.prompt + choice, True, False)) for choice in question.choices]
    common = common_prefix(wholes)
    skip = all(len(whole) - common > 3 for whole in wholes)
    result = []
    for choice, whole in enumerate(wholes):
        first = bases[choice] if skip else common
        last = 1 if len(whole) - first > 1 else 0
        logprobs = token_logprobs(whole)[first : len(whole) - last]
        if compat and choice == 1 and not skip:
            logits = logits_after(wholes[0]).astype(np.float64)
            logprobs[0] = logits[whole[first]] - np.logaddexp.reduce(logits)
        result.append(float(logprobs.mean()))
    return result


@pytest.mark.parametrize("suffix", ["e", " e.", " runs off.", "xyz and more"])
@pytest.mark.parametrize("compat", [False, True])
def test_winogrande_as_the_original_and_put_right(suffix: str, compat: bool) -> None:
    question = blank_question(suffix)
    rule = "llama_winogrande_compat" if compat else "llama_winogrande"
    probe = make_probe([question, question_with_id("2", question)], rule)
    for item in range(2):
        np.testing.assert_allclose(scores(probe, rule)[item], plain_winogrande(question, compat), rtol=1e-12)
    short = not skips_choice(probe.items[0])
    assert short == (suffix in ("e", " e."))
    assert (plain_winogrande(question, True) != plain_winogrande(question, False)) == short
    assert len(probe.items[0].branches) == (3 if compat and short else 2)


def question_with_id(id: str, question: Question) -> Question:
    return Question(id, "", question.prompt, question.choices, question.gold, question.suffix, question.delimiter)


def test_winogrande_partial_evaluation_is_the_sum_behind_the_choice() -> None:
    question = blank_question(" runs off.")
    probe = make_probe([question], "sum")
    tokenize = ByteTokenizer()
    for choice, text in enumerate(question.choices):
        start = len(tokenize(question.prompt + text, True, False))
        expected = token_logprobs(tokenize(question.prompt + text + question.suffix, True, False))[start:].sum()
        np.testing.assert_allclose(scores(probe, "sum")[0, choice], expected, rtol=1e-12)


def test_logprobs_of_pairs_at_the_limits() -> None:
    rows = np.zeros((5, 4), dtype=np.float32)
    rows[0] = [0, -np.inf, 0, -np.inf]
    rows[1, 2] = np.nan
    rows[2, 0] = np.inf
    rows[3] = -np.inf
    rows[4] = [1e30, 0, -1e30, 3e38]
    pairs = np.array([0, 0, 1, 2, 3, 4, 4], dtype=np.int64)
    tokens = np.array([0, 1, 0, 0, 0, 3, 0], dtype=np.int32)
    found = logprob_pairs(rows, pairs, tokens)
    np.testing.assert_allclose(found[:2], [-np.log(2), -np.inf], rtol=1e-15)
    assert np.isnan(found[2:5]).all()
    np.testing.assert_allclose(found[5:], [0, np.float64(np.float32(1e30)) - np.float64(np.float32(3e38))], rtol=1e-12)
    assert len(logprob_pairs(rows, pairs[:0], tokens[:0])) == 0
    with pytest.raises(MismatchError, match="rows 0 to 5 of a block of 5"):
        logprob_pairs(rows, np.array([0, 5]), np.array([0, 0], dtype=np.int32))
    with pytest.raises(MismatchError, match="tokens up to 4 of a vocabulary of 4"):
        logprob_pairs(rows, np.array([0]), np.array([4], dtype=np.int32))


def test_log_sum_exp_is_exact_to_float64() -> None:
    rng = np.random.default_rng(3)
    rows = rng.normal(0, 8, (9, 3000)).astype(np.float32)
    index, tokens = rng.integers(0, 9, 50), rng.integers(0, 3000, 50).astype(np.int32)
    wide = rows.astype(np.float64)
    expected = wide[index, tokens] - np.logaddexp.reduce(wide, axis=1)[index]
    np.testing.assert_allclose(logprob_pairs(rows, index, tokens), expected, rtol=1e-12)


def test_scores_refuse_what_does_not_fit() -> None:
    probe = make_probe([Question("1", "", "p", ("x", "y"), 0)], "tokens")
    layout = pair_layout(probe)
    with pytest.raises(MismatchError, match="3 log-probabilities for 2 pairs"):
        score_choices(np.zeros(3), layout, "tokens")
    with pytest.raises(InputError, match="unknown scoring rule 'acc'"):
        score_choices(np.zeros(2), layout, "acc")


@pytest.mark.parametrize(("file", "rule"), [("arc_easy.jsonl", "tokens"), ("winogrande_like.csv", "llama_winogrande")])
def test_real_questions_become_sound_items(file: str, rule: str) -> None:
    found = read_questions(real_file(file))
    template, prompted = prompt_questions(found.questions, find_template(None, found.format))
    tokenize = ByteTokenizer()
    probe, left_out = task_probe(file, prompted, tokenize, rule, template.name, 4096)
    assert len(probe.items) + len(left_out) == len(found.questions)
    for item, question in zip(probe.items, prompted, strict=True):
        for choice, continuation in enumerate(question.continuations):
            whole = tokenize(question.context + continuation, True, False)
            np.testing.assert_array_equal(item.sequence(choice), whole)
    layout = pair_layout(probe)
    assert layout.rows.min() == 0
    assert layout.rows.max() < probe.n_rows
    assert (np.diff(layout.rows) >= 0).all()
    assert layout.tokens.max() < N_VOCAB
