"""From addresses to files on this disk: sizes first, then space, then the bytes, then their digests."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from quantprobe.errors import InputError
from quantprobe.gguf.digests import content_digest
from quantprobe.hub.choosing import Choice
from quantprobe.hub.client import HubFile, Listing, cache_folder, fetch_file, is_cached, require_intact

if TYPE_CHECKING:
    from quantprobe.sweep.inputs import Progress

RESERVE_BYTES = 1 << 30
"""Left free on the disk beside what is fetched: captures and results need some."""


@dataclass(frozen=True)
class Plan:
    """What is to be fetched, and where there is room for it."""

    choices: tuple[Choice, ...]
    missing: tuple[tuple[Listing, HubFile], ...]
    """Files that the cache does not have, each once."""
    folder: Path
    free_bytes: int

    @property
    def needed_bytes(self) -> int:
        """Bytes of what the cache does not have."""
        return sum(file.size for _, file in self.missing)

    def missing_of(self, choice: Choice) -> int:
        """Bytes of one input that the cache does not have."""
        wanted = {(choice.listing.address.repository, file.path) for file in choice.files}
        return sum(file.size for of, file in self.missing if (of.address.repository, file.path) in wanted)

    def sentence(self) -> str:
        """What is needed and what is free, in one line."""
        n = len(self.missing)
        if not n:
            return f"Everything is in {self.folder} already"
        files = "1 file" if n == 1 else f"{n} files"
        needed, free = self.needed_bytes / 1e9, self.free_bytes / 1e9
        return f"To fetch: {files}, {needed:,.2f} GB, into {self.folder} ({free:,.2f} GB free)"


def plan_fetching(choices: Iterable[Choice]) -> Plan:
    """Ask which files the cache has, and how much room there is."""
    chosen = tuple(choices)
    wanted = {
        (each.listing.address.repository, file.path): (each.listing, file) for each in chosen for file in each.files
    }
    missing = tuple((listing, file) for listing, file in wanted.values() if not is_cached(listing, file))
    folder = cache_folder()
    return Plan(chosen, missing, folder, _free_bytes(folder))


def require_space(plan: Plan, at_once: int | None = None) -> None:
    """Raise `InputError` if the disk has no room for what is missing, or for `at_once` bytes of it at a time."""
    needed = plan.needed_bytes if at_once is None else at_once
    if needed and needed + RESERVE_BYTES > plan.free_bytes:
        raise InputError(
            f"{needed / 1e9:,.2f} GB are to be fetched into {plan.folder}, where {plan.free_bytes / 1e9:,.2f} GB are "
            f"free and {RESERVE_BYTES / 1e9:.2f} GB must stay so; free space, name fewer files, or set HF_HOME to a "
            "folder on another disk"
        )


def _free_bytes(folder: Path) -> int:
    there = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.is_dir())
    return shutil.disk_usage(there).free


def fetch_all(plan: Plan, progress: Progress) -> list[Path]:
    """Fetch what is missing, verify every digest, and give the local path of each input, in order.

    Digests come last: those of models are remembered (`gguf.digests`) once a file is a few seconds old, so a sweep does
    not read 300 GB twice. Raises `InputError`, `FileFormatError` and `MismatchError` of `hub.client`.
    """
    new = {(listing.address.repository, file.path) for listing, file in plan.missing}
    places: list[list[Path]] = []
    for choice in plan.choices:
        places.append([])
        for file in choice.files:
            is_new = (choice.listing.address.repository, file.path) in new
            places[-1].append(_fetch(choice.listing, file, progress) if is_new else _find(choice.listing, file))
    for choice, paths in zip(plan.choices, places, strict=True):
        for file, path in zip(choice.files, paths, strict=True):
            _verify(path, file, progress)
    return [_snapshot(choice, paths[0]) / choice.path for choice, paths in zip(plan.choices, places, strict=True)]


def _fetch(listing: Listing, file: HubFile, progress: Progress) -> Path:
    progress.start(f"fetch {file.path}", file.size, "B")
    try:
        return fetch_file(listing, file, progress.advance)
    finally:
        progress.finish()


def _find(listing: Listing, file: HubFile) -> Path:
    return fetch_file(listing, file, lambda n: None)


def _verify(path: Path, file: HubFile, progress: Progress) -> None:
    progress.start(f"verify {file.path}", file.size, "B")
    try:
        require_intact(path, file, lambda paths: content_digest(paths, progress.advance))
    finally:
        progress.finish()


def _snapshot(choice: Choice, first: Path) -> Path:
    """The folder of the repository at this commit, from where the first file of an input lies."""
    return first.parents[choice.files[0].path.count("/")]
