"""Which files of a repository an address means."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from quantprobe.errors import InputError
from quantprobe.gguf.parts import model_name, split_name
from quantprobe.hub.client import HubFile, Listing

MAX_LISTED = 12
_NOT_LANGUAGE_MODELS = re.compile(r"^mmproj|imatrix", re.IGNORECASE)
"""As in a folder: vision projectors and importance matrices lie beside quants under these names."""


@dataclass(frozen=True)
class Choice:
    """One input: the file or folder to hand on, and every file that it needs."""

    listing: Listing
    path: str
    """Of the file, of the first part of a split model, or of the folder; inside the repository."""
    files: tuple[HubFile, ...]

    @property
    def name(self) -> str:
        """The model's name without `.gguf` and split suffix; the file's or folder's name of anything else."""
        return model_name(Path(self.path))

    @property
    def address(self) -> str:
        """Where it is, without the commit."""
        return f"{self.listing.address.repository}/{self.path}"

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    @property
    def digests(self) -> tuple[str, ...]:
        """What identifies the content."""
        return tuple(file.sha256 or file.git_sha1 for file in self.files)


def choose_one(listing: Listing) -> Choice:
    """The one file, model or folder that an address means.

    Raises `InputError` if nothing fits, several models do, or parts of a split model are missing.
    """
    address = listing.address
    if address.path:
        return _at_path(listing)
    found = choose_models(listing)
    if len(found) != 1:
        raise InputError(f"{address} has {len(found)} models, expected one; name it as {_examples(found)}")
    return found[0]


def choose_models(listing: Listing) -> list[Choice]:
    """Every model that an address means, largest first: all of a repository or folder, else the one that it names.

    Vision projectors and importance matrices are left out unless they are named. Raises `InputError` for none.
    """
    address = listing.address
    folder = address.path
    if folder and listing.file(folder) is not None:
        return [_at_path(listing)]
    inside = listing.below(folder) if folder else listing.files
    if folder:  # as in a folder of the disk: what lies directly in it
        inside = tuple(file for file in inside if "/" not in file.path[len(folder) + 1 :])
    models = _models(listing, inside)
    if address.tag:
        return [_with_tag(listing, models)]
    if not models:
        raise InputError(f"{address} has no GGUF model{_near(listing)}")
    return sorted(models, key=lambda model: (-model.size, model.path))


def choices_without(choices: Sequence[Choice], others: Sequence[Choice]) -> list[Choice]:
    """The models that are none of the others, by content: a repository of quants often has the base, too."""
    taken = {other.digests for other in others}
    return [choice for choice in choices if choice.digests not in taken]


def _models(listing: Listing, files: Sequence[HubFile]) -> list[Choice]:
    firsts = []
    for file in files:
        path = PurePosixPath(file.path)
        split = split_name(Path(file.path))
        is_model = path.suffix.lower() == ".gguf" and not _NOT_LANGUAGE_MODELS.search(path.name)
        if is_model and (split is None or split.number == 1):
            firsts.append(file)
    return [_model(listing, file) for file in firsts]


def _model(listing: Listing, first: HubFile) -> Choice:
    """A model with all of its parts."""
    split = split_name(Path(first.path))
    if split is None:
        return Choice(listing, first.path, (first,))
    names = [part.as_posix() for part in split.parts()]
    found = [listing.file(name) for name in names]
    missing = [name for name, file in zip(names, found, strict=True) if file is None]
    if missing:
        raise InputError(f"{listing.address.repository} lacks {missing[0]}, a part of {first.path}; tell its owner")
    return Choice(listing, names[0], tuple(file for file in found if file is not None))


def _at_path(listing: Listing) -> Choice:
    """The file at the address's path (of a split model, all parts), or the folder."""
    path = listing.address.path
    file = listing.file(path)
    if file is not None and path.lower().endswith(".gguf"):
        return _model(listing, file)
    if file is not None:
        return Choice(listing, path, (file,))
    files = listing.below(path)
    if not files:
        raise InputError(f"{listing.address.repository} has no {path}{_near(listing)}")
    return Choice(listing, path, files)


def _with_tag(listing: Listing, models: Sequence[Choice]) -> Choice:
    """The model whose name ends in the tag, else holds it as a word; upper and lower case are one, as for `-hf`."""
    tag = re.escape(listing.address.tag)
    for pattern in (rf"(?:^|[-._/]){tag}$", rf"(?:^|[-._/]){tag}(?:$|[-._/])"):
        found = [model for model in models if re.search(pattern, model.name, re.IGNORECASE)]
        found = found or [model for model in models if re.search(pattern, _stem(model), re.IGNORECASE)]
        if len(found) == 1:
            return found[0]
        if found:
            raise InputError(f"{listing.address} is one of {len(found)} models; name it as {_examples(found)}")
    names = ", ".join(sorted(model.name for model in models)[:MAX_LISTED]) or "no GGUF model"
    raise InputError(f"{listing.address}: no model has {listing.address.tag} in its name; the repository has {names}")


def _stem(model: Choice) -> str:
    """With its folder: some repositories have a folder for each quant."""
    return (PurePosixPath(model.path).parent / model.name).as_posix()


def _examples(found: Sequence[Choice]) -> str:
    named = [model.address for model in found[:MAX_LISTED]]
    return " or ".join(named) + (f" (and {len(found) - MAX_LISTED} more)" if len(found) > MAX_LISTED else "")


def _near(listing: Listing) -> str:
    names = sorted(file.path for file in listing.files if not PurePosixPath(file.path).name.startswith("."))
    return f"; it has {', '.join(names[:MAX_LISTED])}{', ...' if len(names) > MAX_LISTED else ''}" if names else ""
