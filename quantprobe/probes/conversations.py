"""Files of chats: one conversation a line, as JSON.

    {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}], "category": "chat"}

The form is OpenAI's: `messages` with `role`, `content` (text, or parts of type `text`) and `tool_calls`; `tools` are
the functions that the model may call. `category` names a kind of conversation, which is summarised by itself.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from quantprobe.errors import InputError

Message = dict[str, Any]

MAX_MESSAGES = 1000
"""Most messages of one conversation: each of the assistant's is found by rendering all of them again."""
MAX_CATEGORY = 100
"""Most characters of a category's name."""
MAX_CATEGORIES = 200

_FORM = 'each line is one JSON object such as {"messages": [{"role": "user", "content": "..."}, ...]}'


@dataclass(frozen=True)
class Conversation:
    """One line of a file of chats."""

    line: int
    messages: tuple[Message, ...]
    """With `role`, `content` as one text, and the other members as they were given."""
    tools: tuple[Any, ...] = ()
    category: str = ""
    """Empty: none."""


class _BadLineError(Exception):
    """What is wrong with a line."""


def is_chats(path: Path, text: str) -> bool:
    """Whether a text is a file of chats: its first line that is not blank is a JSON object with `messages`.

    Raises `InputError` where a file named .jsonl holds objects without `messages`: measuring JSON as plain text is
    hardly meant.
    """
    first = next((line for line in text.removeprefix("\ufeff").split("\n") if line.strip()), "").strip()
    if not first.startswith("{"):
        return False
    try:
        record = json.loads(first)
    except (ValueError, RecursionError):
        record = None
    if isinstance(record, dict) and "messages" in record:
        return True
    if path.suffix.lower() in (".jsonl", ".ndjson"):
        found = "is not JSON" if record is None else f"has the keys {', '.join(map(repr, record)) or 'of nothing'}"
        raise InputError(
            f"{path}: the first line {found[:200]}; in a file of chats {_FORM}; to measure it as text, rename it"
        )
    return False


def read_conversations(path: Path, text: str) -> tuple[Conversation, ...]:
    """The conversations of a file of chats, in order; blank lines are skipped.

    Raises `InputError`, naming the line, for anything that is no conversation.
    """
    found = []
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            found.append(_conversation(number, _parse(line)))
        except _BadLineError as error:
            raise InputError(f"{path}, line {number}: {error}; {_FORM}") from error
    categories = {one.category for one in found}
    if len(categories) > MAX_CATEGORIES:
        raise InputError(
            f"{path} has {len(categories):,} categories; at most {MAX_CATEGORIES} can be told apart in a table: "
            "category names a kind of conversation, not a conversation"
        )
    return tuple(found)


def _parse(line: str) -> Message:
    try:
        record = json.loads(line, parse_constant=_refuse)
        json.dumps(record, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        raise _BadLineError("it holds half of a surrogate pair, which is no text") from error
    except RecursionError as error:
        raise _BadLineError("the JSON is nested too deeply") from error
    except ValueError as error:
        raise _BadLineError(f"not JSON ({str(error)[:200]})") from error
    if not isinstance(record, dict):
        raise _BadLineError(f"a JSON object is expected, found {_show(record)}")
    return record


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _conversation(line: int, record: Message) -> Conversation:
    messages = _list(record, "messages")
    if not messages:
        raise _BadLineError("'messages' is missing or empty")
    if len(messages) > MAX_MESSAGES:
        raise _BadLineError(f"{len(messages):,} messages; at most {MAX_MESSAGES:,} are read")
    return Conversation(
        line,
        tuple(_message(i, message) for i, message in enumerate(messages)),
        tuple(_every(_list(record, "tools"), dict, "tools")),
        _category(record.get("category")),
    )


def _message(place: int, message: Any) -> Message:
    where = f"messages[{place}]"
    if not isinstance(message, dict):
        raise _BadLineError(f"{where} must be an object with 'role' and 'content', found {_show(message)}")
    role = message.get("role")
    if not isinstance(role, str) or not role:
        raise _BadLineError(f"{where}: 'role' must be a text such as 'user' or 'assistant', found {_show(role)}")
    read: Message = {**message, "content": _content(where, message.get("content"))}
    calls = _every(_list(message, "tool_calls"), dict, f"{where}.tool_calls")
    read.pop("tool_calls", None)
    if calls:
        read["tool_calls"] = [_call(f"{where}.tool_calls[{i}]", call) for i, call in enumerate(calls)]
    return read


def _content(where: str, content: Any) -> str:
    """One text; parts are joined by line ends, and no content (as a turn that calls tools has) is empty."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else [content]
    texts = [part.get("text") for part in parts if isinstance(part, dict) and part.get("type") == "text"]
    if len(texts) < len(parts) or not all(isinstance(text, str) for text in texts):
        raise _BadLineError(f"{where}: 'content' must be text or parts of type 'text', found {_show(content)}")
    return "\n".join(map(str, texts))


def _call(where: str, call: Message) -> Message:
    function = call.get("function")
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise _BadLineError(
            f"{where}: 'function' must be an object with 'name' and 'arguments', found {_show(function)}"
        )
    return {"type": "function", **call}


def _category(value: Any) -> str:
    if value is None:
        return ""
    if not isinstance(value, str) or len(value) > MAX_CATEGORY:
        raise _BadLineError(f"'category' must be a text of at most {MAX_CATEGORY} characters, found {_show(value)}")
    return value.strip()


def _list(record: Message, key: str) -> list[Any]:
    value = record.get(key)
    if value is None:
        return []
    if not isinstance(value, list):
        raise _BadLineError(f"{key!r} must be a list, found {_show(value)}")
    return value


def _every(values: list[Any], kind: type, where: str) -> list[Any]:
    for value in values:
        if not isinstance(value, kind):
            raise _BadLineError(f"{where} must hold objects, found {_show(value)}")
    return values


def _show(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def with_arguments(messages: tuple[Message, ...], convert: Callable[[Any], Any]) -> tuple[Message, ...]:
    """The messages with the arguments of every tool call converted."""

    def converted(call: Message) -> Message:
        function = call["function"]
        if "arguments" not in function:
            return call
        return {**call, "function": {**function, "arguments": convert(function["arguments"])}}

    return tuple(
        {**message, "tool_calls": [converted(call) for call in message["tool_calls"]]}
        if "tool_calls" in message
        else message
        for message in messages
    )
