"""Scoring rules: a record each, and nothing else to write for a new one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from question_helpers import ByteTokenizer

from quantprobe.errors import InputError
from quantprobe.metrics.scores import pair_layout, score_choices, scored_positions
from quantprobe.probes.items import Question, TaskProbe
from quantprobe.probes.prompts import prompt_questions
from quantprobe.probes.rules import DEFAULTS, RULES, Divisor, check_rule, default_rule, find_rule
from quantprobe.probes.task import task_probe
from quantprobe.probes.templates import TEMPLATES

CLOZE = Question("1", "", "p", ("xa", "yb é"), 0)
BLANK = Question("2", "", "a saw c so ", ("a", "cd"), 1, " runs off.", "")


def make_probe(question: Question, rule: str, template: str = "plain") -> TaskProbe:
    named, prompted = prompt_questions([question], TEMPLATES[template])
    return task_probe("t", prompted, ByteTokenizer(), rule, named.name, 512)[0]


def test_records_name_each_other() -> None:
    for name, rule in RULES.items():
        assert rule.name == name and rule.help
        assert rule.norm is None or rule.norm in RULES
        assert rule.compat is None or RULES[rule.compat].slip
    assert all(name in RULES for name in DEFAULTS)


def test_the_normalised_accuracy_is_per_character() -> None:
    assert {rule.norm for rule in RULES.values()} == {"chars", None}
    probe = make_probe(CLOZE, "tokens")
    layout = pair_layout(probe)
    total, per_char = (score_choices(-np.ones(layout.n_pairs), layout, rule)[0] for rule in ("sum", "chars"))
    np.testing.assert_allclose(total / per_char, [2, 4])


def test_unknown_rules_are_named_with_the_known() -> None:
    with pytest.raises(InputError, match="unknown scoring rule 'best'; known are tokens, sum, bytes, chars, letter"):
        find_rule("best")


def test_what_a_rule_needs() -> None:
    _, (cloze,) = prompt_questions([CLOZE], TEMPLATES["plain"])
    _, (letters,) = prompt_questions([CLOZE], TEMPLATES["letters"])
    _, (blank,) = prompt_questions([BLANK], TEMPLATES["plain"])
    check_rule(letters, "letter")
    check_rule(letters, "sum")
    check_rule(blank, "llama_winogrande")
    with pytest.raises(InputError, match="'letter' needs a prompt that lists letters; question 1 is of another kind"):
        check_rule(cloze, "letter")
    with pytest.raises(InputError, match="'llama_winogrande_compat' needs two choices with text behind them"):
        check_rule(cloze, "llama_winogrande_compat")


def test_the_default_follows_the_prompt() -> None:
    assert default_rule(TEMPLATES["mmlu"], [CLOZE]) == "letter"
    assert default_rule(TEMPLATES["plain"], [BLANK]) == "llama_winogrande"
    assert default_rule(TEMPLATES["plain"], [BLANK, CLOZE]) == default_rule(TEMPLATES["plain"], []) == "tokens"


@pytest.mark.parametrize("rule", ["tokens", "sum", "letter", "llama_winogrande"])
def test_scored_positions_are_those_that_are_summed(rule: str) -> None:
    question = BLANK if rule == "llama_winogrande" else CLOZE
    probe = make_probe(question, rule, "letters" if rule == "letter" else "plain")
    item, layout = probe.items[0], pair_layout(probe)
    for choice in range(item.n_choices):
        positions = scored_positions(item, choice, rule)
        mine = (layout.cells == choice) & np.isin(layout.targets, positions)
        totals = score_choices(np.where(mine, -1.0, 0.0), layout, rule)[0]
        divisor = RULES[rule].divisor.of(item, choice, float(len(positions)))
        assert totals[choice] == pytest.approx(-len(positions) / divisor)


def test_a_new_rule_is_a_record_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    words = Divisor("words of the choice", lambda item, choice, n_tokens: len(item.choices[choice].split()))
    monkeypatch.setitem(RULES, "words", replace(RULES["sum"], name="words", divisor=words))
    probe = make_probe(CLOZE, "words")
    layout = pair_layout(probe)
    logprobs = -np.arange(1.0, layout.n_pairs + 1)
    total, per_word = (score_choices(logprobs, layout, rule)[0] for rule in ("sum", "words"))
    np.testing.assert_allclose(total / per_word, [1, 2])
