"""The one place that talks to the hub, through `huggingface_hub`: its cache, tokens, endpoint and offline mode."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

from quantprobe.errors import FileFormatError, InputError, MismatchError
from quantprobe.hub.address import HubAddress

TRIES = 5
"""How often a file is asked for whose connection was reset."""
INSTALL = 'pip install "gguf-quantprobe[hub]"'


@dataclass(frozen=True)
class HubFile:
    """One file of a repository."""

    path: str
    size: int
    sha256: str = ""
    """Of a file in large file storage; "" where the hub keeps it in git."""
    git_sha1: str = ""
    """Of a file in git: the SHA-1 of its bytes behind git's header, `blob SIZE` and a zero byte."""


@dataclass(frozen=True)
class Listing:
    """The files of a repository at one commit."""

    address: HubAddress
    commit: str
    files: tuple[HubFile, ...]

    def file(self, path: str) -> HubFile | None:
        """The file at a path; None if there is none."""
        return next((file for file in self.files if file.path == path), None)

    def below(self, folder: str) -> tuple[HubFile, ...]:
        """All files of a folder and its folders."""
        return tuple(file for file in self.files if file.path.startswith(f"{folder.rstrip('/')}/"))


def load_library() -> ModuleType:
    """`huggingface_hub`. Raises `InputError` with the command that installs it."""
    try:
        return importlib.import_module("huggingface_hub")
    except ImportError as error:
        raise InputError(
            f"hf:// addresses are read through huggingface_hub, which cannot be imported here ({error}); "
            f"install it with: {INSTALL}"
        ) from error


def library_api() -> Any:
    """A client of the endpoint and with the token that huggingface_hub's own variables and files say."""
    library = load_library()
    return library.HfApi(library_name="quantprobe")


def is_offline() -> bool:
    """Whether HF_HUB_OFFLINE forbids every call."""
    load_library()
    constants = importlib.import_module("huggingface_hub.constants")
    return bool(constants.HF_HUB_OFFLINE)


def cache_folder() -> Path:
    """The hub's cache, where files lie when they have been fetched (HF_HUB_CACHE, HF_HOME)."""
    load_library()
    return Path(importlib.import_module("huggingface_hub.constants").HF_HUB_CACHE)


def list_files(address: HubAddress) -> Listing:
    """All files of a repository with sizes and digests; offline, what the cache has of it.

    Raises `InputError` if the repository or revision does not exist, may not be read, or cannot be reached.
    """
    if is_offline():
        return _list_cached(address)
    api = library_api()
    with explained(address):
        info = api.repo_info(address.repo, repo_type=address.repo_type, revision=address.revision, files_metadata=True)
    return Listing(address, str(info.sha), tuple(_hub_file(each) for each in info.siblings or ()))


def _hub_file(sibling: Any) -> HubFile:
    large = sibling.lfs
    sha256 = "" if large is None else str(large.sha256)
    return HubFile(str(sibling.rfilename), int(sibling.size or 0), sha256, "" if sha256 else str(sibling.blob_id or ""))


def _list_cached(address: HubAddress) -> Listing:
    """The newest snapshot of the revision in the cache; its files are named by their digests."""
    scan = load_library().scan_cache_dir() if cache_folder().is_dir() else None
    wanted = address.revision or "main"
    for repository in () if scan is None else scan.repos:
        if (repository.repo_id, repository.repo_type) != (address.repo, address.repo_type):
            continue
        for revision in sorted(repository.revisions, key=lambda each: each.last_modified, reverse=True):
            if wanted in revision.refs or revision.commit_hash == wanted:
                files = [_cached_file(file, Path(revision.snapshot_path)) for file in revision.files]
                return Listing(address, str(revision.commit_hash), tuple(sorted(files, key=lambda file: file.path)))
    raise InputError(
        f"{address} is not in the cache {cache_folder()}, and HF_HUB_OFFLINE forbids to ask the hub; "
        "unset it and run the command once"
    )


def _cached_file(file: Any, snapshot: Path) -> HubFile:
    name = Path(file.blob_path).name
    path = Path(file.file_path).relative_to(snapshot).as_posix()
    return HubFile(path, int(file.size_on_disk), name if len(name) == 64 else "", name if len(name) == 40 else "")


def is_cached(listing: Listing, file: HubFile) -> bool:
    """Whether a file is in the cache already, under this commit or another that has the same content."""
    if is_offline():
        return True
    with explained(listing.address):
        found = library_api().hf_hub_download(
            listing.address.repo, file.path, repo_type=listing.address.repo_type, revision=listing.commit, dry_run=True
        )
    return bool(found.is_cached)


def fetch_file(listing: Listing, file: HubFile, advance: Callable[[int], None]) -> Path:
    """Bring one file into the cache, unless it is there; `advance` gets the bytes that arrive.

    huggingface_hub asks again for the rest of a file whose connection was closed early. One that was reset it gives up,
    and its part of the file with it; then the file is asked for again, `TRIES` times in all. Raises `InputError` where
    that does not help, and `MismatchError` if the branch has moved on since it was listed.
    """
    address = listing.address
    with explained(address):
        path = _download(address, file, advance)
    if listing.commit not in path.parts:
        raise MismatchError(
            f"{address.repository} has changed while its files were fetched (it was at {listing.commit[:12]}); "
            "run the command again, or name the commit: @COMMIT"
        )
    return path


def _download(address: HubAddress, file: HubFile, advance: Callable[[int], None]) -> Path:
    for pause in (*(2.0**n for n in range(TRIES - 1)), None):
        n_new = 0

        def count(n: int) -> None:
            nonlocal n_new
            n_new += n
            advance(n)

        try:
            # the revision as it was given, not the commit: so the cache learns it, and finds it offline
            found = library_api().hf_hub_download(
                address.repo,
                file.path,
                repo_type=address.repo_type,
                revision=address.revision,
                tqdm_class=_bar_class(count),
            )
            return Path(found)
        except Exception as error:
            if pause is None or not any(kind.__name__ == "NetworkError" for kind in type(error).__mro__):
                raise
            advance(-n_new)
            time.sleep(pause)
    raise AssertionError("the last try returns or raises")


def delete_file(path: Path) -> None:
    """Take a file out of the cache: its entry in the snapshot, and its content unless another snapshot has it too."""
    content = path.resolve()
    path.unlink(missing_ok=True)
    snapshots = next((folder for folder in path.parents if folder.name == "snapshots"), None)
    entries = snapshots.rglob("*") if snapshots is not None and content != path else ()
    if not any(entry.is_symlink() and entry.resolve() == content for entry in entries):
        content.unlink(missing_ok=True)


@contextmanager
def explained(address: HubAddress) -> Iterator[None]:
    """Turn what huggingface_hub raises into an `InputError` with the cause and the next step."""
    errors = importlib.import_module("huggingface_hub.errors")
    where = address.repository
    try:
        yield
    except errors.GatedRepoError as error:
        raise InputError(
            f"{where} is gated: accept its terms on its page, then log in with: hf auth login (or set HF_TOKEN)"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise InputError(
            f"the hub knows no repository {where}, or it is private; check the name, or log in with: hf auth login"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise InputError(f"{where}: there is no branch, tag or commit {address.revision!r}") from error
    except errors.EntryNotFoundError as error:
        raise InputError(f"{where}: {_first_line(error)}") from error
    except errors.OfflineModeIsEnabled as error:
        raise InputError(f"{where} is not in the cache, and HF_HUB_OFFLINE forbids to ask the hub; unset it") from error
    except errors.HfHubHTTPError as error:
        raise InputError(f"{where}: the hub refuses: {_first_line(error)}") from error
    except errors.HFValidationError as error:
        raise InputError(f"{where} is no repository: {_first_line(error)}") from error
    except ValueError as error:
        raise InputError(f"{where}: {'; '.join(str(error).splitlines())}") from error
    except OSError as error:
        raise InputError(f"{where}: {_first_line(error)}; free space or check the disk, then run it again") from error
    except RuntimeError as error:  # of an upload, and of hf_xet
        raise InputError(f"{where}: {_first_line(error)}; run the command again") from error
    except Exception as error:
        # the HTTP library under huggingface_hub has errors of its own, and changes between its versions
        if type(error).__module__.split(".")[0] not in ("httpx", "httpx2", "requests", "hf_xet"):
            raise
        raise InputError(
            f"{where} cannot be reached ({_first_line(error)}); run the command again, or set HF_HUB_OFFLINE=1 to use "
            "what the cache has"
        ) from error


def _first_line(error: BaseException) -> str:
    """The first line of what was raised, and of what it was raised from."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = lines[0] if lines else type(error).__name__
    return told if error.__cause__ is None else f"{told}: {_first_line(error.__cause__)}"


def _bar_class(advance: Callable[[int], None]) -> type[Any]:
    """What huggingface_hub takes for a bar of tqdm: it tells `advance` the bytes, and draws nothing."""

    class Bar:
        def __init__(self, *, total: int | None = None, initial: int = 0, **_: Any) -> None:
            self.total, self.n = total, initial
            self.format_dict: dict[str, Any] = {}

        def update(self, n: int = 1) -> None:
            self.n += n
            advance(n)

        def update_transfer(self, n: int = 1) -> None:
            """Bytes on the wire; only those of the file are counted."""

        def __getattr__(self, name: str) -> Callable[..., None]:
            """Whatever else a bar is told: descriptions, rates, to be drawn again."""
            return lambda *_, **__: None

        def __enter__(self) -> Bar:
            return self

        def __exit__(
            self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
        ) -> None: ...

    return Bar


def require_intact(path: Path, file: HubFile, digest: Callable[[Sequence[Path]], str]) -> None:
    """Compare a fetched file with the digest that the hub lists; `digest` gives the SHA-256 of files.

    Raises `FileFormatError`, and deletes the file, if its bytes are others.
    """
    found, expected = "", file.sha256
    if file.sha256:
        found = digest([path])
    elif file.git_sha1:
        found, expected = _git_sha1(path), file.git_sha1
    if found == expected:
        return
    delete_file(path)
    raise FileFormatError(
        f"{file.path} arrived with the digest {found[:16]}..., and the hub lists {expected[:16]}...; the copy was "
        "deleted, so run the command again"
    )


def _git_sha1(path: Path) -> str:
    import hashlib

    data = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
