"""Prompt templates, and which one each form of question file has by default.

Nothing here loads numpy: the command line lists both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from quantprobe.errors import InputError


@dataclass(frozen=True)
class Template:
    """How a question becomes text.

    `body` holds `{prompt}` and, in letter style, `{choices}` (one line `A. ...` per choice); `header`
    stands once before everything and holds `{group}`. In cloze style the choices' texts continue the
    prompt, in letter style their letters do.
    """

    name: str
    body: str
    style: str
    """`cloze` or `letter`."""
    header: str = ""


_TEMPLATES = (
    Template("plain", "{prompt}", "cloze"),
    Template("question", "Question: {prompt}\nAnswer:", "cloze"),
    Template("qa", "Q: {prompt}\nA:", "cloze"),
    Template("letters", "Question: {prompt}\n{choices}Answer:", "letter"),
    Template(
        "mmlu",
        "{prompt}\n{choices}Answer:",
        "letter",
        "The following are multiple choice questions (with answers) about {group}.\n\n",
    ),
)
TEMPLATES: Mapping[str, Template] = {template.name: template for template in _TEMPLATES}
"""Templates by name. `plain` is HellaSwag's and llama-perplexity's, `question` ARC's, `mmlu` MMLU's in
lm-evaluation-harness. `qa` is TruthfulQA's without the six fixed examples that the harness puts before it:
give them as few-shot examples to have the same text."""

FORMATS: Mapping[str, str] = {
    "native": "plain",
    "arc-jsonl": "question",
    "arc-labels-jsonl": "question",
    "arc-original-jsonl": "question",
    "hellaswag-jsonl": "plain",
    "query-jsonl": "plain",
    "winogrande-jsonl": "plain",
    "mmlu-jsonl": "mmlu",
    "mmlu-csv": "mmlu",
    "mmlu-folder": "mmlu",
    "truthfulqa-csv": "qa",
    "hellaswag-text": "plain",
    "winogrande-csv": "plain",
    "multiple-choice-binary": "plain",
}
"""Every form of question file by its name for `--task-format`, and its template: lm-evaluation-harness's where it has
one. `quantprobe.probes.questions.recognise` has the readers."""


def find_template(name: str | None, format: str) -> Template:
    """A template by name; None: the default of the format. Raises `InputError` for an unknown name."""
    if name is None:
        return TEMPLATES[FORMATS[format]]
    if name not in TEMPLATES:
        raise InputError(f"unknown template {name!r}; known are {', '.join(TEMPLATES)}")
    return TEMPLATES[name]
