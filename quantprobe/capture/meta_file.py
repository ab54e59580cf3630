"""`meta.json`, written with its own checksum and checked before any of it is believed."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

from quantprobe.capture.meta import (
    FORMAT_VERSION,
    KINDS,
    ROW_DTYPES,
    CaptureMeta,
    FileEntry,
    HeadReference,
    ProbeEntry,
    find_row_fault,
)
from quantprobe.errors import FileFormatError
from quantprobe.files import reading
from quantprobe.gguf.model import ModelIdentity

META_FILE = "meta.json"
PENDING_FILE = "pending.json"
"""The meta.json of a finished capture that is being extended, until it takes the other's place."""

_FILE_NAME = re.compile(r"[0-9]{2,9}-[A-Za-z0-9._-]{1,60}\.(?:rows|probe)|head\.bin|head_bias\.bin")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def dump_meta(meta: CaptureMeta, complete: bool) -> bytes:
    """The bytes of `meta.json`; its `sha256` covers every other value in it."""
    content = {**asdict(meta), "complete": complete}
    if not meta.base.source:
        del content["base"]["source"]
    return json.dumps({"sha256": _digest(content), **content}, indent=1, allow_nan=False).encode("ascii")


def load_meta(folder: Path, name: str = META_FILE, allow_partial: bool = False) -> tuple[CaptureMeta, str]:
    """Read and check `folder/meta.json`; returns it with its digest.

    Raises `FileFormatError` if it is missing, damaged, of another version, or (without `allow_partial`) not complete.
    """
    path = folder / name
    with reading(path):
        data = path.read_bytes()
    try:
        content = json.loads(data.decode("ascii"))
        fields = _Fields(content, str(path))
        version = fields.count("format_version")
        digest = content.pop("sha256", None)
        intact = digest == _digest(content)
    except (ValueError, RecursionError) as error:
        raise FileFormatError(f"{path} is damaged ({error}); make the capture anew") from error
    if version != FORMAT_VERSION:
        raise FileFormatError(
            f"{path} has format version {version} and this quantprobe reads {FORMAT_VERSION}; "
            "use the quantprobe that made it, or make the capture anew"
        )
    if not intact:
        raise FileFormatError(
            f"{path} does not match its own checksum: it was damaged or edited; make the capture anew"
        )
    if not (fields.flag("complete") or allow_partial):
        raise FileFormatError(f"{path}: the capture was never finished; run it again with the same settings")
    return _read_meta(fields), str(digest)


def _digest(content: Mapping[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


class _Fields:
    """Typed access to a JSON object; every wrong or missing value is a `FileFormatError` with its place."""

    def __init__(self, content: object, where: str) -> None:
        self.where = where
        if not isinstance(content, dict):
            self.fail("an object", content)
        self.content: dict[str, Any] = content

    def fail(self, expected: str, found: object) -> NoReturn:
        raise FileFormatError(f"{self.where}: expected {expected}, found {str(found)[:80]!r}; make the capture anew")

    def get(self, key: str) -> Any:
        if key not in self.content:
            self.fail(f"a value {key!r}", "none")
        return self.content[key]

    def text(self, key: str) -> str:
        value = self.get(key)
        if not isinstance(value, str):
            self.fail(f"text in {key!r}", value)
        return value

    def sha256(self, key: str) -> str:
        value = self.text(key)
        if not _SHA256.fullmatch(value):
            self.fail(f"a SHA-256 in {key!r}", value)
        return value

    def count(self, key: str) -> int:
        value = self.get(key)
        if type(value) is not int or not 0 <= value < 2**63:
            self.fail(f"a count in {key!r}", value)
        return value

    def flag(self, key: str) -> bool:
        value = self.get(key)
        if not isinstance(value, bool):
            self.fail(f"true or false in {key!r}", value)
        return value

    def number(self, key: str) -> float:
        value = self.get(key)
        if type(value) not in (int, float) or not abs(value) <= sys.float_info.max:  # refuses NaN and 10**400 too
            self.fail(f"a number in {key!r}", value)
        return float(value)

    def optional_number(self, key: str) -> float | None:
        return None if self.get(key) is None else self.number(key)

    def inner(self, key: str) -> _Fields:
        return _Fields(self.get(key), f"{self.where}, {key}")

    def each(self, key: str) -> list[_Fields]:
        values = self.get(key)
        if not isinstance(values, list):
            self.fail(f"a list in {key!r}", values)
        return [_Fields(value, f"{self.where}, {key}[{i}]") for i, value in enumerate(values)]


def _read_meta(fields: _Fields) -> CaptureMeta:
    kind = fields.text("kind")
    if kind not in KINDS:
        fields.fail(f"a kind of capture ({', '.join(KINDS)})", kind)
    base = _read_base(fields.inner("base"))
    settings = fields.inner("settings").content
    probes = tuple(_read_probe(each, kind, base.n_vocab or 0, settings) for each in fields.each("probes"))
    names = [entry.name for entry in probes]
    if len(set(names)) != len(names):
        fields.fail("probes with different names", names)
    head = None if fields.get("head") is None else _read_head(fields.inner("head"))
    return CaptureMeta(
        format_version=fields.count("format_version"),
        kind=kind,
        base=base,
        settings=settings,
        head=head,
        probes=probes,
    )


def _read_base(fields: _Fields) -> ModelIdentity:
    return ModelIdentity(
        name=fields.text("name"),
        path=fields.text("path"),
        sha256=fields.text("sha256"),
        size_bytes=fields.count("size_bytes"),
        bpw=fields.number("bpw"),
        file_type=fields.text("file_type"),
        architecture=fields.text("architecture"),
        n_vocab=fields.count("n_vocab"),
        tokenizer_sha256=fields.text("tokenizer_sha256"),
        source=fields.text("source") if "source" in fields.content else "",
    )


def _read_file(fields: _Fields) -> FileEntry:
    name = fields.text("name")
    if not _FILE_NAME.fullmatch(name):
        fields.fail("a file name of a capture", name)
    return FileEntry(name, fields.count("n_bytes"), fields.sha256("sha256"))


def _read_probe(fields: _Fields, kind: str, n_vocab: int, settings: Mapping[str, Any]) -> ProbeEntry:
    source = fields.content.get("source")
    if source is None:  # captures made before the probe itself named it
        sources = settings.get(f"{fields.text('kind')}s")
        source = sources.get(fields.text("name")) if isinstance(sources, dict) else None
    entry = ProbeEntry(
        name=fields.text("name"),
        kind=fields.text("kind"),
        sha256=fields.sha256("sha256"),
        n_rows=fields.count("n_rows"),
        row_dtype=fields.text("row_dtype"),
        row_width=fields.count("row_width"),
        probe=_read_file(fields.inner("probe")),
        rows=_read_file(fields.inner("rows")),
        null_control=fields.get("null_control"),
        n_tokens=fields.count("n_tokens"),
        source=source if isinstance(source, str) else "",
    )
    fault = find_row_fault(kind, entry.row_dtype, entry.row_width, n_vocab)
    if fault is not None:
        fields.fail("rows of this capture", fault)
    n_bytes = entry.n_rows * entry.row_width * ROW_DTYPES[entry.row_dtype].itemsize
    if entry.n_rows == 0 or entry.rows.n_bytes != n_bytes:
        fields.fail(f"{n_bytes} bytes for {entry.n_rows} rows", entry.rows.n_bytes)
    return entry


def _read_head(fields: _Fields) -> HeadReference:
    shape = fields.get("shape")
    if not isinstance(shape, list) or not all(type(size) is int and size > 0 for size in shape):
        fields.fail("sizes in 'shape'", shape)
    if fields.count("n_bytes") == 0:
        fields.fail("a matrix", "no bytes")
    return HeadReference(
        tensor=fields.text("tensor"),
        type_name=fields.text("type_name"),
        shape=tuple(shape),
        path=fields.text("path"),
        offset=fields.count("offset"),
        n_bytes=fields.count("n_bytes"),
        scale=fields.optional_number("scale"),
        softcap=fields.optional_number("softcap"),
        post=fields.text("post"),
        embedded=fields.flag("embedded"),
        device=fields.text("device") if fields.content.get("device") is not None else None,
        sha256=fields.sha256("sha256"),
        bias=None if fields.get("bias") is None else _read_file(fields.inner("bias")),
        row_dtype=fields.text("row_dtype") if "row_dtype" in fields.content else "",
        exact="exact" in fields.content and fields.flag("exact"),
    )
