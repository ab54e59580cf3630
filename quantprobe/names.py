"""Names of quants, texts and tasks as names of files."""

from __future__ import annotations

import hashlib
import re

MAX_LENGTH = 100
_WINDOWS_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


def is_safe_path(relative: str) -> bool:
    """Whether a path with forward slashes stays inside its folder and is an ordinary file on every system."""
    return all(_is_safe_part(part) for part in relative.split("/"))


def _is_safe_part(part: str) -> bool:
    ordinary = part.isprintable() and not set(part) & set('\\:<>"|?*') and not _WINDOWS_DEVICES.fullmatch(part)
    return bool(part) and ordinary and part[-1] not in ". "


def safe_name(name: str) -> str:
    """`name` as a file or folder name that every system takes: letters, digits, `.`, `_` and `-`.

    A name that is already such a name is returned as it is. Otherwise each other character becomes `_`,
    and eight hexadecimal digits of the name's SHA-256 are added, so that two names never meet in one file.
    (Names that differ only in case still do on file systems that ignore case.)
    """
    safe = re.sub(r"[^A-Za-z0-9._-]", "_", name)[:MAX_LENGTH].strip(".")
    if safe == name and name and not _WINDOWS_DEVICES.fullmatch(name):
        return name
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{safe}-{digest}" if not _WINDOWS_DEVICES.fullmatch(safe) else f"_{safe}-{digest}"
