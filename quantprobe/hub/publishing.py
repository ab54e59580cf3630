"""What of a run goes to a repository: the card's section, its metadata, the plots, the numbers, and the capture."""

from __future__ import annotations

import difflib
import hashlib
import importlib
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantprobe.capture.meta_file import META_FILE, dump_meta, load_meta
from quantprobe.errors import InputError
from quantprobe.gguf.model import ModelIdentity
from quantprobe.hub.address import HubAddress
from quantprobe.hub.card_section import decode_card, with_section
from quantprobe.hub.client import Listing, explained, fetch_file, library_api, list_files, load_library
from quantprobe.hub.front_matter import Marked, with_model_index
from quantprobe.metrics.quantities import TEXT_QUANTITIES
from quantprobe.report.answer import quant_labels
from quantprobe.report.card import format_card
from quantprobe.report.plots.gallery import pictures
from quantprobe.report.plots.style import write_picture
from quantprobe.run.cohort import Cohort
from quantprobe.run.folder import RunFolder
from quantprobe.run.json_text import format_json
from quantprobe.run.results import Results, read_results, results_document

if TYPE_CHECKING:
    from quantprobe.study.findings import Findings

CARD = "README.md"
FOLDER = "quantprobe"
"""Where everything but the card's section lies in the repository."""
DIGITS = 6
"""Significant digits of metadata: an error is rarely below one in a thousand."""


@dataclass(frozen=True)
class Upload:
    """One file of the commit: its bytes, or where on this disk they are."""

    path: str
    content: bytes | Path
    state: str
    """`new`, `changed` or `same`."""

    @property
    def size(self) -> int:
        return len(self.content) if isinstance(self.content, bytes) else self.content.stat().st_size


@dataclass(frozen=True)
class Publication:
    """A commit that is not made yet."""

    listing: Listing
    before: str
    """The card as it is; "" without one."""
    after: str
    uploads: tuple[Upload, ...]
    notes: tuple[str, ...] = ()

    @property
    def changes(self) -> bool:
        """Whether a commit would change anything."""
        return any(upload.state != "same" for upload in self.uploads)

    def diff(self) -> Iterator[str]:
        """The card's lines as a unified diff; a line end that is not `\\n` is shown."""
        before, after = (text.replace("\r", "\\r").split("\n") for text in (self.before, self.after))
        yield from difflib.unified_diff(before, after, f"a/{CARD}", f"b/{CARD}", lineterm="")


def prepare_publication(
    cohort: Cohort, findings: Findings | None, address: HubAddress, with_capture: bool = False
) -> Publication:
    """What publishing a run would change; nothing is written to the hub.

    Raises `InputError` for an address that is not a repository, one that cannot be read, a run without quants, one
    whose capture is asked for and not there, and a card whose markers are not one pair.
    """
    if address.path or address.tag:
        raise InputError(f"{address} is more than a repository; publish to {address.repository}")
    if not cohort.quants:
        raise InputError(
            f"{cohort.runs[0].path} holds no quant, so there is nothing to publish; finish the sweep first"
        )
    listing = list_files(address)
    before = _read_card(listing)
    drawn = _draw(cohort, findings)
    picture = next(iter(drawn), None)
    section = format_card(cohort, findings, picture)
    entry = model_index_entry(cohort, address)
    marked = with_model_index(before, entry, f"{CARD} of {address}") if entry["results"] else Marked(before)
    after = with_section(marked.card, section, f"{CARD} of {address}")
    files: dict[str, bytes | Path] = {CARD: after.encode("utf-8"), **drawn}
    for run in cohort.runs:
        name = "results.json" if len(cohort.runs) == 1 else f"results-{run.name}.json"
        files[f"{FOLDER}/{name}"] = _results(read_results(run.path))
        if with_capture:
            files.update(_capture(run))
    uploads = tuple(Upload(path, content, _state(listing, path, content)) for path, content in files.items())
    notes = (f"The metadata of {CARD} is left alone: {marked.left_alone}",) if marked.left_alone else ()
    return Publication(listing, before, after, uploads, notes)


def publish(publication: Publication, message: str) -> str:
    """Make the commit, on top of the one that was read; gives its address.

    Raises `InputError` if the hub refuses, as it does when somebody else has committed since.
    """
    library = load_library()
    operations = [
        library.CommitOperationAdd(path_in_repo=upload.path, path_or_fileobj=upload.content)
        for upload in publication.uploads
        if upload.state != "same"
    ]
    address = publication.listing.address
    with explained(address):
        made = library_api().create_commit(
            address.repo,
            operations,
            commit_message=message,
            repo_type=address.repo_type,
            revision=address.revision,
            parent_commit=publication.listing.commit,
        )
    return str(made.commit_url)


def model_index_entry(cohort: Cohort, address: HubAddress) -> dict[str, Any]:
    """One entry of `model-index`: of each task the accuracy and of each text the mean KLD, of every quant.

    Its form is huggingface_hub's own (`EvalResult`, `eval_results_to_model_index`).
    """
    data = importlib.import_module("huggingface_hub.repocard_data")
    found = []
    kld = next(quantity for quantity in TEXT_QUANTITIES if quantity.name == "kld_mean")
    for label, quant in zip(quant_labels(cohort), cohort.quants, strict=True):
        measured = [(name, "accuracy", "Accuracy", "", task.acc.value) for name, task in quant.tasks.items()]
        measured += [
            (name, "kl_divergence", kld.title, f", {kld.unit}", text.kld_mean.value)
            for name, text in quant.texts.items()
        ]
        found += [
            data.EvalResult(
                task_type="text-generation",
                task_name="Quantized model against its base",
                dataset_type=_slug(name),
                dataset_name=name,
                metric_type=kind,
                metric_name=f"{title}, {label}{unit}",
                metric_value=float(f"{value:.{DIGITS}g}"),
            )
            for name, kind, title, unit, value in measured
            if value is not None
        ]
    (entry,) = data.eval_results_to_model_index(address.repo.partition("/")[2], found)
    return dict(entry)


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9_-]+", "-", name.lower()).strip("-") or "data"


def _read_card(listing: Listing) -> str:
    file = listing.file(CARD)
    if file is None:
        return ""
    path = fetch_file(listing, file, lambda n: None)
    return decode_card(path.read_bytes(), f"{CARD} of {listing.address}")


def _draw(cohort: Cohort, findings: Findings | None) -> dict[str, bytes | Path]:
    """The pictures by their place in the repository, the card's first."""
    drawn: dict[str, bytes | Path] = {}
    with tempfile.TemporaryDirectory() as folder:
        for picture in pictures(cohort, findings):
            (path,) = write_picture(picture, Path(folder))
            drawn[f"{FOLDER}/plots/{path.name}"] = path.read_bytes()
    return drawn


def _results(results: Results) -> bytes:
    """`results.json` without the folders of this machine."""
    bare = replace(
        results,
        base=_without_folder(results.base),
        quants=tuple(replace(quant, path=_file_name(quant.path)) for quant in results.quants),
    )
    return format_json(results_document(bare)).encode("utf-8")


def _without_folder(model: ModelIdentity) -> ModelIdentity:
    return replace(model, path=_file_name(model.path))


def _file_name(path: str) -> str:
    return re.split(r"[\\/]", path)[-1]


def _capture(run: RunFolder) -> dict[str, bytes | Path]:
    """The files of a run's capture; its `meta.json` without the folders of this machine."""
    folders = sorted(run.path.glob("*.qpc"))
    if len(folders) != 1:
        names = ", ".join(folder.name for folder in folders) or "none"
        raise InputError(f"{run.path} holds {len(folders)} captures ({names}), expected one; publish without --capture")
    meta, _ = load_meta(folders[0])
    head = None if meta.head is None else replace(meta.head, path=_file_name(meta.head.path))
    bare = replace(meta, base=_without_folder(meta.base), head=head)
    files: dict[str, bytes | Path] = {
        f"{FOLDER}/{folders[0].name}/{path.name}": path
        for path in sorted(folders[0].iterdir())
        if path.is_file() and path.name != META_FILE and path.suffix != ".lock"
    }
    return {**files, f"{FOLDER}/{folders[0].name}/{META_FILE}": dump_meta(bare, complete=True)}


def _state(listing: Listing, path: str, content: bytes | Path) -> str:
    there = listing.file(path)
    if there is None:
        return "new"
    data = content if isinstance(content, bytes) else content.read_bytes()
    found = (
        hashlib.sha256(data).hexdigest()
        if there.sha256
        else hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
    )
    return "same" if found == (there.sha256 or there.git_sha1) else "changed"
