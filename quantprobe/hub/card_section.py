"""Our section of somebody's model card. Nothing outside the markers changes, not a byte."""

from __future__ import annotations

import re

from quantprobe.errors import InputError

BEGIN, END = "<!-- quantprobe:begin -->", "<!-- quantprobe:end -->"
BEGIN_LINE, END_LINE = "# quantprobe:begin", "# quantprobe:end"
"""The markers inside the front matter, where a comment of YAML is needed."""
BOM = "\ufeff"

_BEGIN = re.compile(r"<!--[ \t]*quantprobe:begin[ \t]*-->")
_END = re.compile(r"<!--[ \t]*quantprobe:end[ \t]*-->")


def decode_card(data: bytes, where: str) -> str:
    """The card's text, with line ends and byte order mark as they are. Raises `InputError` if it is not UTF-8."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{where} is not UTF-8 (byte {error.start}), as a model card must be; convert it") from error


def line_end(text: str) -> str:
    """The card's own line end, that of its first line; `\\n` for a text of one line."""
    match = re.search(r"\r\n|\n|\r", text)
    return match[0] if match else "\n"


def with_section(card: str, section: str, where: str = "README.md") -> str:
    """The card with `section` between the markers; without markers they are added at its end.

    Raises `InputError` where the markers are not one pair in order: what is between them is then not known to be ours.
    """
    if _BEGIN.search(section) or _END.search(section):
        raise InputError(f"a name in the run holds {BEGIN} or {END}, with which the card's section could not be found")
    end = line_end(card)
    inside = section.replace("\r\n", "\n").strip("\n").replace("\n", end)
    pair = find_pair(card, _BEGIN, _END, where)
    if pair is not None:
        return f"{card[: pair[0]]}{end}{inside}{end}{card[pair[1] :]}"
    gap = "" if not card.strip(BOM) else end if card.endswith(("\n", "\r")) else 2 * end
    return f"{card}{gap}{BEGIN}{end}{inside}{end}{END}{end}"


def find_pair(text: str, begin: re.Pattern[str], end: re.Pattern[str], where: str) -> tuple[int, int] | None:
    """Where the text between the markers begins and ends; None without markers.

    Raises `InputError` for anything but one of each, in order.
    """
    begins, ends = list(begin.finditer(text)), list(end.finditer(text))
    if not begins and not ends:
        return None
    if len(begins) != 1 or len(ends) != 1 or begins[0].end() > ends[0].start():
        lines = [
            f"line {text.count(chr(10), 0, match.start()) + 1} ({kind})"
            for match, kind in sorted(
                [(match, "begin") for match in begins] + [(match, "end") for match in ends],
                key=lambda each: each[0].start(),
            )
        ]
        raise InputError(
            f"{where} has the markers quantprobe:begin and quantprobe:end at {', '.join(lines)}; expected one of each, "
            "in this order, so nothing is written; remove them all and publish again"
        )
    return begins[0].end(), ends[0].start()
