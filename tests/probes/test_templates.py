"""Prompts: the texts of the harness, few-shot examples, chat templates."""

from __future__ import annotations

import pytest
from question_helpers import BOS, ByteTokenizer, real_file

from quantprobe.errors import InputError
from quantprobe.probes.chat import chat_renderer
from quantprobe.probes.items import Question
from quantprobe.probes.prompts import prompt_questions
from quantprobe.probes.questions.recognise import read_questions
from quantprobe.probes.rules import default_rule
from quantprobe.probes.task import choice_item
from quantprobe.probes.templates import TEMPLATES, find_template

ASKED = Question("1", "world_law", "Who {prompt} rules?", ("we {choices}", "they"), 1)
CHATML = (
    "{{ bos_token }}{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.mark.parametrize(
    ("name", "context", "continuations"),
    [
        ("plain", "Who {prompt} rules?", (" we {choices}", " they")),
        ("question", "Question: Who {prompt} rules?\nAnswer:", (" we {choices}", " they")),
        ("qa", "Q: Who {prompt} rules?\nA:", (" we {choices}", " they")),
        ("letters", "Question: Who {prompt} rules?\nA. we {choices}\nB. they\nAnswer:", (" A", " B")),
        (
            "mmlu",
            "The following are multiple choice questions (with answers) about world law.\n\n"
            "Who {prompt} rules?\nA. we {choices}\nB. they\nAnswer:",
            (" A", " B"),
        ),
    ],
)
def test_templates(name: str, context: str, continuations: tuple[str, ...]) -> None:
    template, (one,) = prompt_questions([ASKED], TEMPLATES[name])
    assert (template.name, one.context, one.continuations) == (name, context, continuations)
    assert (one.add_special, one.parse_special) == (True, False)


def test_defaults() -> None:
    assert find_template(None, "arc-jsonl").name == "question"
    assert find_template(None, "mmlu-folder").name == "mmlu"
    assert find_template(None, "hellaswag-text").name == find_template(None, "native").name == "plain"
    assert find_template("qa", "arc-jsonl").name == "qa"
    with pytest.raises(InputError, match="unknown template 'poem'"):
        find_template("poem", "native")
    blank = Question("1", "", "a ", ("x", "y"), 0, " b", "")
    assert default_rule(TEMPLATES["mmlu"], [ASKED]) == "letter"
    assert default_rule(TEMPLATES["plain"], [ASKED, blank]) == "tokens"
    assert default_rule(TEMPLATES["plain"], [blank]) == "llama_winogrande"


def test_few_shot_examples_come_from_the_own_group() -> None:
    dev = [
        Question("a", "art", "Art?", ("x", "y"), 0),
        Question("b", "world_law", "Law?", ("x", "y"), 1),
        ASKED,
        Question("c", "world_law", "More?", ("x", "y"), 0),
    ]
    template, (one,) = prompt_questions([ASKED], TEMPLATES["question"], 2, dev)
    assert template.name == "question+2shot"
    asked = "Question: Who {prompt} rules?\nAnswer:"
    assert one.context == f"Question: Law?\nAnswer: y\n\nQuestion: More?\nAnswer: x\n\n{asked}"
    with pytest.raises(InputError, match="there are 2 of the group 'world_law'"):
        prompt_questions([ASKED], TEMPLATES["question"], 3, dev)
    with pytest.raises(InputError, match="there are 0; give a folder with a dev part"):
        prompt_questions([ASKED], TEMPLATES["question"], 1)
    with pytest.raises(InputError, match="cannot be negative"):
        prompt_questions([ASKED], TEMPLATES["question"], -1)


def test_real_five_shot_prompt() -> None:
    found = read_questions(real_file("mmlu"))
    template, prompted = prompt_questions(found.questions, find_template(None, found.format), 5, found.dev)
    assert template.name == "mmlu+5shot"
    last = prompted[-1]
    assert last.context.startswith(
        "The following are multiple choice questions (with answers) about us foreign policy.\n\n"
    )
    assert last.context.count("\nAnswer:") == 6
    assert last.context.endswith("\nAnswer:")


def test_a_template_must_suit_the_question() -> None:
    blank = Question("9", "", "a ", ("x", "y"), 0, " b", "")
    with pytest.raises(InputError, match="question 9 has text behind the choice"):
        prompt_questions([blank], TEMPLATES["question"])
    many = Question("8", "", "a", tuple(f"choice {i}" for i in range(27)), 0)
    with pytest.raises(InputError, match="question 8 has 27 choices and there are 26 letters"):
        prompt_questions([many], TEMPLATES["letters"])
    with pytest.raises(InputError, match="question 9 has text behind the choice, which no chat"):
        prompt_questions([blank], TEMPLATES["plain"], chat=chat_renderer(CHATML, "m"))


def test_chat_template_with_its_bos_is_not_given_another() -> None:
    chat = chat_renderer(CHATML, "m.gguf", bos="<s>")
    template, (one,) = prompt_questions([ASKED], TEMPLATES["question"], chat=chat, bos="<s>")
    assert template.name == "question+chat"
    assert one.context == (
        "<s><|im_start|>user\nQuestion: Who {prompt} rules?\nAnswer:<|im_end|>\n<|im_start|>assistant\n"
    )
    assert one.continuations == ("we {choices}", "they")
    assert (one.add_special, one.parse_special) == (False, True)
    assert choice_item(one, ByteTokenizer(), "sum").sequence(0).tolist().count(BOS) == 1
    bare = chat_renderer(CHATML, "m.gguf")
    _, (other,) = prompt_questions([ASKED], TEMPLATES["question"], chat=bare, bos="<s>")
    assert other.add_special
    assert choice_item(other, ByteTokenizer(), "sum").sequence(0).tolist().count(BOS) == 1


def test_chat_environment_has_what_published_templates_use() -> None:
    source = (
        "{%- for m in messages %}{% if loop.index > 3 %}{% break %}{% endif %}"
        "{% generation %}{{ m | tojson }}{% endgeneration %}{% endfor %} {{ strftime_now('%d %b %Y') }} {{ eos_token }}"
        "{{ tools is none }}"
    )
    assert chat_renderer(source, "m", eos="</s>")("a<b é") == (
        '{"role": "user", "content": "a<b é"} 01 Jan 2025 </s>True'
    )


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (None, "m.gguf has no chat template"),
        ("", "m.gguf has no chat template"),
        ("{% for %}", "is not valid Jinja"),
        ("{{ raise_exception('no system role') }}", "cannot be rendered .no system role"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "cannot be rendered"),
        ("{{ messages.append(1) }}", "cannot be rendered"),
        ("{{ 1 // 0 }}", "cannot be rendered"),
    ],
)
def test_bad_chat_templates(source: str | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        chat_renderer(source, "m.gguf")("hello")
