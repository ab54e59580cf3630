"""Scoring rules: which tokens of a choice count, and what their sum is divided by.

The score of a choice is the sum of the log-probabilities of its scored tokens, over the divisor. One pass over a task
gives the log-probability of every token that any rule needs, so a rule is a record here and nothing else. A choice
without a token to score has no score: its item is invalid under that rule.

Nothing here loads numpy: the command line lists the rules.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from quantprobe.errors import InputError

if TYPE_CHECKING:
    from quantprobe.probes.items import ChoiceItem, Question
    from quantprobe.probes.prompts import PromptedQuestion
    from quantprobe.probes.templates import Template

MIN_REMAINDER = 3
"""With more tokens than this behind the common prefix, in both choices, llama-perplexity skips Winogrande's choice."""


@dataclass(frozen=True)
class Tokens:
    """Which tokens of a choice are scored."""

    words: str
    span: Callable[[ChoiceItem, int], tuple[int, int]]
    """Item and choice to the half-open range of the tokens' indices in the choice's sequence. A token is scored if it
    stands behind the prefix that all choices share, or behind the prompt, and has a predecessor."""


@dataclass(frozen=True)
class Divisor:
    """What the sum is divided by."""

    words: str
    of: Callable[[ChoiceItem, int, float], float]
    """Item, choice and the number of its scored tokens (above 0) to the divisor."""


@dataclass(frozen=True)
class Need:
    """The questions that a rule is for."""

    words: str
    met: Callable[[PromptedQuestion], bool]


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One way of scoring choices."""

    name: str
    """For `--task-rule`, and in `results.json`."""
    tokens: Tokens
    divisor: Divisor
    help: str
    """What it equals in other programs, in few words."""
    need: Need
    style: str = "cloze"
    """The style of prompt (`quantprobe.probes.templates.Template`) that it is made for. Others can be scored too."""
    norm: str | None = "chars"
    """The rule of the normalised accuracy (`acc_norm`) beside it; None where there is none."""
    ties_to_last: bool = False
    """Of two choices with the same score the second counts as the answer, not the first."""
    compat: str | None = None
    """The rule in its stead under `--llama-compat`."""
    slip: bool = False
    """Reproduces llama-perplexity's slip (`quantprobe.probes.questions.winogrande.slip_branch`)."""


def _length(item: ChoiceItem, choice: int) -> int:
    return len(item.prefix) + len(item.branches[choice])


def skips_choice(item: ChoiceItem) -> bool:
    """Whether llama-perplexity scores only the text behind the choices of a Winogrande item."""
    return min(len(item.branches[choice]) for choice in (0, 1)) > MIN_REMAINDER


def winogrande_span(item: ChoiceItem, choice: int) -> tuple[int, int]:
    """What llama-perplexity `--winogrande` scores of an item with two choices.

    Scoring begins behind the choice if more than three tokens follow the common prefix in both sequences, else behind
    the common prefix; the last token (mostly the full stop) is left out unless it is the only one. An empty span has no
    score. A token without a predecessor (no BOS, nothing in common) is not scored.
    """
    length = _length(item, choice)
    first = item.starts[choice] if skips_choice(item) else len(item.prefix)
    return max(first, 1), length - 1 if length - first > 1 else length


BEHIND_PREFIX = Tokens(
    "behind the prefix that all choices share", lambda item, choice: (len(item.prefix), _length(item, choice))
)
BEHIND_PROMPT = Tokens("behind the prompt", lambda item, choice: (item.starts[choice], _length(item, choice)))
WINOGRANDE = Tokens("behind the choice where enough follow, except the last", winogrande_span)

UNDIVIDED = Divisor("1", lambda item, choice, n_tokens: 1.0)
PER_TOKEN = Divisor("their number", lambda item, choice, n_tokens: n_tokens)
PER_BYTE = Divisor("UTF-8 bytes of the choice", lambda item, choice, n_tokens: item.n_bytes[choice])
PER_CHARACTER = Divisor("characters of the choice", lambda item, choice, n_tokens: item.n_chars[choice])

ANY = Need("any choices", lambda prompted: True)
LETTERS = Need("a prompt that lists letters", lambda prompted: prompted.style == "letter")
BLANK = Need(
    "two choices with text behind them",
    lambda prompted: bool(prompted.suffix) and len(prompted.continuations) == 2,
)

_RULES = (
    Rule(
        name="tokens", tokens=BEHIND_PREFIX, divisor=PER_TOKEN, need=ANY,
        help="llama-perplexity's mean log-probability, except for Winogrande",
    ),
    Rule(name="sum", tokens=BEHIND_PROMPT, divisor=UNDIVIDED, need=ANY, help="lm-eval's acc"),
    Rule(name="bytes", tokens=BEHIND_PROMPT, divisor=PER_BYTE, need=ANY, help="lm-eval's acc_bytes"),
    Rule(name="chars", tokens=BEHIND_PROMPT, divisor=PER_CHARACTER, need=ANY, help="lm-eval's acc_norm"),
    Rule(
        name="letter", tokens=BEHIND_PREFIX, divisor=UNDIVIDED, need=LETTERS, style="letter", norm=None,
        help="lm-eval's acc of MMLU, up to a constant per question",
    ),
    Rule(
        name="llama_winogrande", tokens=WINOGRANDE, divisor=PER_TOKEN, need=BLANK, norm=None, ties_to_last=True,
        compat="llama_winogrande_compat", help="llama-perplexity's Winogrande, its slip corrected",
    ),
    Rule(
        name="llama_winogrande_compat", tokens=WINOGRANDE, divisor=PER_TOKEN, need=BLANK, norm=None, ties_to_last=True,
        slip=True, help="llama-perplexity's Winogrande with the slip",
    ),
)  # fmt: skip
RULES: Mapping[str, Rule] = {rule.name: rule for rule in _RULES}
"""Every rule by name."""

DEFAULTS = ("letter", "llama_winogrande", "tokens")
"""What decides unless a rule is asked for: in letter prompts, where text follows the choices, and everywhere else."""


def find_rule(name: str) -> Rule:
    """A rule by name. Raises `InputError` if there is none."""
    if name not in RULES:
        raise InputError(f"unknown scoring rule {name!r}; known are {', '.join(RULES)}")
    return RULES[name]


def default_rule(template: Template, questions: Sequence[Question]) -> str:
    """The rule that decides correctness unless one is asked for (`DEFAULTS`)."""
    letters, blanks, others = DEFAULTS
    if template.style == RULES[letters].style:
        return letters
    return blanks if questions and all(question.suffix for question in questions) else others


def check_rule(prompted: PromptedQuestion, name: str) -> None:
    """Raises `InputError` if there is no such rule, or it does not suit the question."""
    rule = find_rule(name)
    if not rule.need.met(prompted):
        raise InputError(f"the rule {name!r} needs {rule.need.words}; question {prompted.id} is of another kind")
