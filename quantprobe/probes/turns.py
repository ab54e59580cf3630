"""A conversation as the model's chat template writes it, and where in that text the assistant speaks."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from quantprobe.errors import InputError
from quantprobe.probes.chat import ChatTemplate
from quantprobe.probes.conversations import Conversation, Message, with_arguments
from quantprobe.probes.scores import ASSISTANT

Render = Callable[[Sequence[Message], bool], str]

_MARKS = ("Zq7k", "Kv3x")
"""Stand in the place of a turn. They differ in their first and in their last character, so that one of them differs
from the turn in the first, and one in the last."""


@dataclass(frozen=True)
class Turn:
    """What the assistant says in one message, `text[start:end]`; what ends the turn follows it."""

    message: int
    start: int
    end: int
    """Where `is_whole`, the end of the turn with what the template writes behind it."""
    is_whole: bool = False
    """Where the template writes the rest of the conversation otherwise when this turn is another: it then ends with the
    first token that ends a turn."""


@dataclass(frozen=True)
class RenderedChat:
    """A conversation as text, without the BOS that the tokenizer adds."""

    text: str
    render: Render
    messages: tuple[Message, ...]
    """As the template took them."""

    def turns(self) -> tuple[Turn, ...]:
        """Where the assistant speaks: behind what the template writes to ask it to.

        Raises `InputError` where that cannot be told.
        """
        return tuple(self._turn(i) for i, message in enumerate(self.messages) if message["role"] == ASSISTANT)

    def _turn(self, number: int) -> Turn:
        low, high = self._changed(number, self.messages[number + 1 :])
        asked = self._try(self.messages[:number], True)
        asks = low is None or asked != self._try(self.messages[:number], False)
        if asked and asks and self.text.startswith(asked):
            low = len(asked)
        if low is None:
            # a result of a tool may not follow a turn that called none
            next_user = (i for i in range(number + 1, len(self.messages)) if self.messages[i]["role"] == "user")
            low, _ = self._changed(number, self.messages[next(next_user, len(self.messages)) :])
        if low is None:
            raise InputError(
                f"the chat template writes what is before message {number + 1} otherwise in the whole conversation; "
                "the assistant's tokens cannot be told apart"
            )
        if high is not None:
            return Turn(number, low, high)
        whole = self._try(self.messages[: number + 1], False)
        known = whole is not None and self.text.startswith(whole)
        return Turn(number, low, len(whole or "") if known else len(self.text), is_whole=True)

    def _changed(self, number: int, rest: Sequence[Message]) -> tuple[int | None, int | None]:
        """Start and end of what changes in the text with one turn, before `rest`; None where more than that changes."""
        before = after = len(self.text)
        others = []
        for mark in _MARKS:
            other = self._try((*self.messages[:number], {"role": ASSISTANT, "content": mark}, *rest), False)
            if other is None:
                return None, None
            before = min(before, _n_common(self.text, other))
            after = min(after, _n_common(self.text, other, at_end=True))
            others.append((mark, other))
        if before + after > len(self.text):
            return None, None
        starts = all(other[before:].lstrip().startswith(mark) for mark, other in others)
        ends = all(other[: len(other) - after].endswith(mark) for mark, other in others)
        return before if starts else None, len(self.text) - after if ends else None

    def _try(self, messages: Sequence[Message], generate: bool) -> str | None:
        try:
            return self.render(messages, generate)
        except InputError:
            return None


def render_chat(template: ChatTemplate, conversation: Conversation, adds_bos: bool) -> RenderedChat:
    """Render as llama.cpp does (`common_chat_templates_apply`), without a generation prompt.

    A BOS at the front is taken away where the tokenizer adds one (`adds_bos`). The role `developer` is `system` but for
    gpt-oss; a system message that the template refuses goes into the message behind it. Arguments of tool calls are
    given as objects, and as JSON text to a template that does not take those.

    Raises `InputError` if the template cannot render the conversation.
    """
    more = {"tools": list(conversation.tools)} if conversation.tools else {}

    def render(messages: Sequence[Message], generate: bool) -> str:
        text = template.render(messages, generate, enable_thinking=True, **more)
        return text.removeprefix(template.bos) if adds_bos else text

    first: InputError | None = None
    for messages in _forms(conversation, "<|channel|>" in template.source):
        try:
            text = render(messages, False)
        except InputError as error:
            first = first or error
            continue
        if not _prints_objects(text, messages):
            return RenderedChat(text, render, messages)
    raise first or InputError(
        f"the chat template of {template.model} does not write the arguments of tool calls as JSON"
    )


def _forms(conversation: Conversation, keeps_developer: bool) -> list[tuple[Message, ...]]:
    """The messages in the forms that templates may want, the usual first."""
    messages = conversation.messages
    if not keeps_developer:
        messages = tuple({**m, "role": "system"} if m["role"] == "developer" else m for m in messages)
    systems = [messages]
    if messages[0]["role"] == "system" and len(messages) > 1:
        content = f"{messages[0]['content']}\n{messages[1]['content']}"
        systems.append(({**messages[1], "content": content}, *messages[2:]))
    calls = any("tool_calls" in message for message in messages)
    converts = (_as_object, _as_text) if calls else (_as_object,)
    return [with_arguments(form, convert) for form in systems for convert in converts]


def _as_object(arguments: Any) -> Any:
    if not isinstance(arguments, str):
        return arguments
    try:
        return json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments


def _as_text(arguments: Any) -> Any:
    return arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)


def _prints_objects(text: str, messages: Sequence[Message]) -> bool:
    """Whether arguments stand in the text as Python prints objects: the template wanted JSON text."""
    calls = [call["function"] for message in messages for call in message.get("tool_calls", ())]
    objects = [function["arguments"] for function in calls if isinstance(function.get("arguments"), dict)]
    return any(str(each) != json.dumps(each, ensure_ascii=False) and str(each) in text for each in objects)


def _n_common(a: str, b: str, at_end: bool = False) -> int:
    """How many characters two texts share at the beginning, or `at_end`."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if at_end:
            same = a[len(a) - middle : len(a) - low] == b[len(b) - middle : len(b) - low]
        else:
            same = a[low:middle] == b[low:middle]
        low, high = (middle, high) if same else (low, middle - 1)
    return low
