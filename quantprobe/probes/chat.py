"""The model's own chat template (Jinja, from the GGUF), rendered in a sandbox."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from jinja2 import TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from quantprobe.errors import InputError


class _TemplateRefusedError(TemplateError):
    """The template itself called `raise_exception`."""


class ChatTemplate:
    """A model's chat template, ready to render.

    `template` is the GGUF's `tokenizer.chat_template`; `bos` and `eos` are the texts of those tokens.
    The environment is Hugging Face's: blocks trimmed, `tojson`, `raise_exception`, `strftime_now`,
    loop controls and the `generation` block. A template that prints today's date makes results that change from day
    to day, so `strftime_now` always gives 1 January 2025.

    Raises `InputError`, which ends with `without`, if there is no template or it is not valid Jinja.
    """

    def __init__(self, template: str | None, model: str, bos: str = "", eos: str = "", without: str = "") -> None:
        if not template:
            raise InputError(f"{model} has no chat template; {without}, or use an instruction-tuned model")
        self.source = template
        self.model = model
        self.bos = bos
        self._tokens = {"bos_token": bos, "eos_token": eos}
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
        )
        environment.filters["tojson"] = _to_json
        environment.globals.update(raise_exception=_raise_exception, strftime_now=_strftime_fixed)
        try:
            self._compiled = environment.from_string(template)
        except (TemplateError, RecursionError) as error:
            raise InputError(f"the chat template of {model} is not valid Jinja ({error}); {without}") from error

    def render(self, messages: Sequence[Any], generate: bool, **more: Any) -> str:
        """The text of a conversation; with `generate` it ends with what asks the assistant to speak.

        `more` are further names that the template may use. Raises `InputError` if rendering fails.
        """
        try:
            return self._compiled.render(messages=messages, add_generation_prompt=generate, **self._tokens, **more)
        except Exception as error:  # a template is foreign code: anything may come out of it
            raise InputError(f"the chat template of {self.model} cannot be rendered ({error})") from error


def chat_renderer(template: str | None, model: str, bos: str = "", eos: str = "") -> Callable[[str], str]:
    """A function from a user message to the model's chat text, up to and with the generation prompt.

    See `ChatTemplate` for the arguments and for what is raised.
    """
    chat = ChatTemplate(template, model, bos, eos, without="leave out --chat-template")
    return lambda message: chat.render(
        [{"role": "user", "content": message}], generate=True, tools=None, documents=None
    )


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
