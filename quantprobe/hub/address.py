"""Addresses of files and models in repositories of the hub, as they are typed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import quote, unquote

from quantprobe.errors import InputError

SCHEME = "hf://"
_COLLAPSED = re.compile(r"hf:[/\\]+(?=[^/\\])")
"""`pathlib` makes one slash of two, and Windows turns it."""
_NAME = r"[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?"
_ADDRESS = re.compile(
    rf"hf://(?P<dataset>datasets/)?(?P<repo>{_NAME}/{_NAME})"
    r"(?:@(?P<revision>refs/(?:pr|convert)/[^/:]+|[^/:]+))?(?::(?P<tag>[A-Za-z0-9._-]+)|/(?P<path>.+?)/?|/?)"
)
FORMS = "hf://OWNER/REPO/FILE, hf://OWNER/REPO:QUANT or hf://OWNER/REPO, each with @REVISION behind REPO if need be"


@dataclass(frozen=True)
class HubAddress:
    """What an address says; with neither `path` nor `tag` it is the whole repository."""

    repo: str
    """`OWNER/NAME`."""
    is_dataset: bool = False
    revision: str | None = None
    """Branch, tag or commit; None: the main branch."""
    path: str = ""
    """File or folder in the repository, with forward slashes."""
    tag: str = ""
    """Quant by its type, as in `Q4_K_M`."""

    @property
    def repo_type(self) -> str:
        """The hub's word for the kind of repository."""
        return "dataset" if self.is_dataset else "model"

    @property
    def repository(self) -> str:
        """The address of the repository alone, with its revision."""
        revision = "" if self.revision is None else f"@{quote(self.revision, safe='')}"
        return f"{SCHEME}{'datasets/' if self.is_dataset else ''}{self.repo}{revision}"

    def __str__(self) -> str:
        return f"{self.repository}{f':{self.tag}' if self.tag else ''}{f'/{self.path}' if self.path else ''}"


def is_address(text: str) -> bool:
    """Whether a text or a path stands for something on the hub."""
    return _COLLAPSED.match(text) is not None


def parse_address(text: str) -> HubAddress:
    """The parts of an address. A slash of a revision is written `%2F`; that of `refs/pr/N` may stay.

    Raises `InputError` for anything of another form, and for a path that would leave the repository.
    """
    whole = _COLLAPSED.sub(SCHEME, text).replace("\\", "/")
    match = _ADDRESS.fullmatch(whole)
    if match is None or "--" in match["repo"] or ".." in match["repo"]:
        raise InputError(f"{text} is no address of the hub; expected {FORMS}")
    path = match["path"] or ""
    if any(part in ("", ".", "..") for part in path.split("/")) and path:
        raise InputError(f"{text} has a path with '{path}'; expected the path of a file inside the repository")
    revision = None if match["revision"] is None else unquote(match["revision"])
    return HubAddress(match["repo"], match["dataset"] is not None, revision, path, match["tag"] or "")
