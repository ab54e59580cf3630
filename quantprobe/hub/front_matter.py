"""Our entry of `model-index` in a card's front matter; every byte that is not ours stays.

The front matter is never parsed and dumped again: that would lose comments and change quotes. Our lines are put in as
text, between marks of their own, and YAML is read before and after to see that nothing but our entry is new.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from quantprobe.hub.card_section import BEGIN_LINE, BOM, END_LINE, find_pair, line_end

KEY = "model-index"
_FRONT = re.compile(
    rf"\A(?P<open>{BOM}?\s*---[ \t]*(?:\r\n|\n|\r))(?P<yaml>[\S\s]*?)(?:\r\n|\n|\r)---[ \t]*(?:\r\n|\n|\Z)"
)
"""As huggingface_hub finds it; a byte order mark is passed over."""
_BEGIN = re.compile(rf"^[ \t]*{BEGIN_LINE}[ \t]*(?=\r?$)", re.MULTILINE)
_END = re.compile(rf"^[ \t]*{END_LINE}[ \t]*(?=\r?$)", re.MULTILINE)


@dataclass(frozen=True)
class Marked:
    """A card, and why its front matter was left alone; "" where our entry is in it."""

    card: str
    left_alone: str = ""


def with_model_index(card: str, entry: dict[str, Any], where: str = "README.md") -> Marked:
    """The card with `entry` (a name and results) as one item of `model-index`.

    An entry of an earlier call is replaced. Entries of others stay, and ours comes after them. Front matter that is no
    YAML mapping, or in which our lines would mean something else, is left alone, and the reason is given. Raises
    `InputError` where our marks are there but are not one pair.
    """
    end = line_end(card)
    match = _FRONT.match(card)
    if match is None:
        start = len(BOM) if card.startswith(BOM) else 0
        lines = ["---", BEGIN_LINE, *_top_lines(entry), END_LINE, "---"]
        gap = end if card[start:] else ""
        return Marked(f"{card[:start]}{end.join(lines)}{end}{gap}{card[start:]}")
    front = match["yaml"]
    before = _read(front)
    if isinstance(before, str):
        return Marked(card, before)
    new = _placed(front, before, entry, end, where)
    if new is None or not _is_only_change(before, _read(new), entry):
        return Marked(card, f"its {KEY} is written in a form to which nothing can be added by text alone")
    return Marked(f"{card[: match.start('yaml')]}{new}{card[match.end('yaml') :]}")


def _placed(front: str, before: dict[str, Any], entry: dict[str, Any], end: str, where: str) -> str | None:
    """The front matter with our lines; None where there is no place for them."""
    pair = find_pair(front, _BEGIN, _END, f"the front matter of {where}")
    if pair is not None:
        return _replaced(front, pair, entry, end)
    if KEY not in before:
        glue = end if front.strip() else ""
        return f"{front}{glue}{end.join([BEGIN_LINE, *_top_lines(entry), END_LINE])}"
    place = _after_list(front)
    if place is None:
        return None
    position, indent = place
    lines = [f"{indent}{line}" for line in (BEGIN_LINE, *_item_lines(entry), END_LINE)]
    return f"{front[:position]}{end}{end.join(lines)}{front[position:]}"


def _replaced(front: str, pair: tuple[int, int], entry: dict[str, Any], end: str) -> str:
    """Our lines anew, as the whole key or as one item, whichever they were."""
    inside = front[pair[0] : pair[1]]
    mark = front.rfind(BEGIN_LINE, 0, pair[0])
    indent = front[front.rfind("\n", 0, mark) + 1 : mark]
    whole = inside.strip().startswith((KEY, f'"{KEY}"', f"'{KEY}'"))
    lines = _top_lines(entry) if whole else [f"{indent}{line}" for line in _item_lines(entry)]
    return f"{front[: pair[0]]}{end}{end.join(lines)}{end}{front[pair[1] :]}"


def _after_list(front: str) -> tuple[int, str] | None:
    """The end of the last line of the list of `model-index`, and its indentation; None for a list in brackets."""
    yaml = _yaml()
    root = yaml.compose(front, Loader=yaml.SafeLoader)
    (node,) = [value for key, value in root.value if key.value == KEY][-1:]
    if not isinstance(node, yaml.SequenceNode) or node.flow_style or not node.value:
        return None
    last = node
    while not isinstance(last, yaml.ScalarNode) and not getattr(last, "flow_style", False):
        last = last.value[-1][1] if isinstance(last, yaml.MappingNode) else last.value[-1]
    position = last.end_mark.index
    if position and front[position - 1] in "\r\n":  # a block of text ends behind its line end
        position = len(front[:position].rstrip("\r\n"))
    rest = re.search(r"\r\n|\n|\r", front[position:])
    return (len(front) if rest is None else position + rest.start()), " " * node.start_mark.column


def _read(front: str) -> dict[str, Any] | str:
    """The mapping, or what is wrong with it."""
    yaml = _yaml()
    try:
        found = yaml.safe_load(front)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        return f"its front matter cannot be read as YAML ({str(error).splitlines()[0]})"
    if found is None:
        return {}
    return found if isinstance(found, dict) else "its front matter is no mapping of keys"


def _is_only_change(before: dict[str, Any], after: dict[str, Any] | str, entry: dict[str, Any]) -> bool:
    """Whether the keys of others mean what they meant, and `model-index` what it meant but for our entry."""
    if isinstance(after, str) or {**before, KEY: None} != {**after, KEY: None}:
        return False
    others, found = before.get(KEY) or [], after.get(KEY)
    if not isinstance(found, list) or not isinstance(others, list) or found.count(entry) < 1:
        return False
    place = found.index(entry)
    rest = found[:place] + found[place + 1 :]
    was_ours = len(others) == len(found)  # ours of an earlier call is among the others
    return rest == (others[:place] + others[place + 1 :] if was_ours else others)


def _top_lines(entry: dict[str, Any]) -> list[str]:
    return [f"{KEY}:", *_item_lines(entry)]


def _item_lines(entry: dict[str, Any]) -> Sequence[str]:
    """One item of a list, as block YAML: `- name: ...`."""
    text: str = _yaml().safe_dump([entry], sort_keys=False, allow_unicode=False, width=10_000)
    return text.splitlines()


def _yaml() -> Any:
    """PyYAML, which huggingface_hub brings."""
    return importlib.import_module("yaml")
