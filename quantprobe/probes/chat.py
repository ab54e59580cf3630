"""The model's own chat template (Jinja, from the GGUF), rendered in a sandbox."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from typing import Any

from jinja2 import TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from quantprobe.errors import InputError


class _TemplateRefusedError(TemplateError):
    """The template itself called `raise_exception`."""


def chat_renderer(template: str | None, model: str, bos: str = "", eos: str = "") -> Callable[[str], str]:
    """A function from a user message to the model's chat text, up to and with the generation prompt.

    `template` is the GGUF's `tokenizer.chat_template`; `bos` and `eos` are the texts of those tokens.
    The environment is Hugging Face's: blocks trimmed, `tojson`, `raise_exception`, `strftime_now`,
    loop controls and the `generation` block. A template that prints today's date makes results that change from day
    to day, so `strftime_now` always gives 1 January 2025.

    Raises `InputError` if there is no template or it is not valid Jinja; the function raises it if
    rendering fails.
    """
    if not template:
        raise InputError(f"{model} has no chat template; leave out --chat-template, or use an instruction-tuned model")
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals.update(raise_exception=_raise_exception, strftime_now=_strftime_fixed)
    try:
        compiled = environment.from_string(template)
    except (TemplateError, RecursionError) as error:
        raise InputError(
            f"the chat template of {model} is not valid Jinja ({error}); leave out --chat-template"
        ) from error

    def render(message: str) -> str:
        messages = [{"role": "user", "content": message}]
        try:
            return compiled.render(
                messages=messages, add_generation_prompt=True, bos_token=bos, eos_token=eos, tools=None, documents=None
            )
        except Exception as error:  # a template is foreign code: anything may come out of it
            raise InputError(f"the chat template of {model} cannot be rendered ({error})") from error

    return render


def _raise_exception(message: str) -> None:
    raise _TemplateRefusedError(message)


def _strftime_fixed(format: str) -> str:
    return datetime(2025, 1, 1).strftime(format)


def _to_json(value: object, ensure_ascii: bool = False, indent: int | None = None, **options: Any) -> str:
    """Jinja's own filter escapes HTML; chat templates want plain JSON."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **options)


class _Generation(Extension):
    """`{% generation %} ... {% endgeneration %}` marks the assistant's part for training; its content is kept."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Any) -> Any:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)
