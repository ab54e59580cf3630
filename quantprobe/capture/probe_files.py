"""Probes on disk: one line of ASCII JSON, then the tokens of all sequences as little-endian int32.

The same probe always gives the same bytes, so a file's checksum says whether it holds this very probe.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from typing import Any, TypeAlias

import numpy as np

from quantprobe.arrays import Int32Array
from quantprobe.capture.meta import ProbeEntry
from quantprobe.errors import FileFormatError, InputError
from quantprobe.probes.grouping import UNGROUPED, check_grouping
from quantprobe.probes.items import ChoiceItem, TaskProbe
from quantprobe.probes.text import Cut, TextProbe, Windows, check_score_from, ragged_probe

Probe: TypeAlias = TextProbe | TaskProbe
_DAMAGE = (InputError, ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError)
"""What comes of a header whose values have other types or sizes than those that were written."""


def hash_bytes(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def probe_kind(probe: Probe) -> str:
    return "text" if isinstance(probe, TextProbe) else "task"


def encode_probe(probe: Probe) -> bytes:
    """The bytes of a probe's file; `decode_text` or `decode_task` gives an equal probe back."""
    header: dict[str, Any]
    if isinstance(probe, TextProbe):
        header = {"name": probe.name, "bos": probe.bos, "n_ctx": probe.n_ctx}
        if probe.own is not None:
            header["own"] = _own_header(probe.own)
        if probe.score_from is not None:
            header["score_from"] = probe.score_from
        sequences = [window[:length] for window, length in zip(probe.tokens, probe.lengths(), strict=True)]
    else:
        items = [_item_header(item) for item in probe.items]
        header = {"name": probe.name, "rule": probe.rule, "template": probe.template, "n_left_out": probe.n_left_out}
        header["grouping"] = probe.grouping
        header["items"] = items
        sequences = [tokens for item in probe.items for tokens in (item.prefix, *item.branches)]
    tokens = np.concatenate(sequences) if sequences else np.empty(0, np.int32)
    return json.dumps(header).encode("ascii") + b"\n" + tokens.astype("<i4").tobytes()


def _own_header(own: Windows) -> dict[str, Any]:
    """Lengths, and the scored positions of each window as pairs of begin and end."""
    edges = [np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]))).reshape(-1, 2) for mask in own.scored]
    return {
        "lengths": own.lengths.tolist(),
        "scored": [pairs.tolist() for pairs in edges],
        "categories": own.categories,
        "score": own.score,
        "cut": asdict(own.cut),
    }


def _ragged(header: dict[str, Any], tokens: Int32Array) -> TextProbe:
    own = header["own"]
    lengths = [int(length) for length in own["lengths"]]
    if sum(lengths) != len(tokens) or min(lengths, default=0) < 2:
        raise ValueError(f"{len(tokens)} tokens where its windows have {sum(lengths)}")
    masks = []
    for length, pairs in zip(lengths, own["scored"], strict=True):
        mask = np.zeros(length, np.bool_)
        for begin, end in pairs:
            mask[begin:end] = True
        masks.append(mask)
    categories = tuple(str(category) for category in own["categories"])
    if len(categories) != len(lengths):
        raise ValueError(f"{len(categories)} categories for {len(lengths)} windows")
    windows = np.split(tokens, np.cumsum(lengths)[:-1])
    return ragged_probe(header["name"], windows, masks, categories, own["score"], Cut(**own["cut"]))


def _item_header(item: ChoiceItem) -> dict[str, Any]:
    return {
        "id": item.id,
        "group": item.group,
        "gold": item.gold,
        "n_tokens": [len(item.prefix), *(len(branch) for branch in item.branches)],
        "n_prefix_rows": item.n_prefix_rows,
        "starts": item.starts,
        "n_bytes": item.n_bytes,
        "n_chars": item.n_chars,
        "prompt": item.prompt,
        "choices": item.choices,
    }


def decode_text(data: bytes, entry: ProbeEntry, where: str) -> TextProbe:
    """The text probe in `data`. Raises `FileFormatError`, naming `where`, if it is not the one of `entry`."""
    try:
        header, tokens = _split(data)
        if "own" in header:
            probe = _ragged(header, tokens)
        else:
            score_from = check_score_from(header.get("score_from"), header["n_ctx"])
            probe = TextProbe(header["name"], tokens.reshape(-1, header["n_ctx"]), header["bos"], score_from=score_from)
        _check(probe, entry, where)
    except _DAMAGE as error:
        raise _damaged(where, str(error)) from error
    return probe


def decode_task(data: bytes, entry: ProbeEntry, where: str) -> TaskProbe:
    """The task probe in `data`. Raises `FileFormatError`, naming `where`, if it is not the one of `entry`."""
    try:
        header, tokens = _split(data)
        lengths = [n for item in header["items"] for n in item["n_tokens"]]
        if sum(lengths) != len(tokens):
            raise ValueError(f"{len(tokens)} tokens where its items have {sum(lengths)}")
        sequences = iter(np.split(tokens, np.cumsum(lengths)[:-1]))
        items = []
        for item in header["items"]:
            prefix, *branches = [next(sequences) for _ in item["n_tokens"]]
            items.append(
                ChoiceItem(
                    id=item["id"],
                    group=item["group"],
                    gold=item["gold"],
                    prefix=prefix,
                    branches=tuple(branches),
                    n_prefix_rows=item["n_prefix_rows"],
                    starts=tuple(item["starts"]),
                    n_bytes=tuple(item["n_bytes"]),
                    n_chars=tuple(item["n_chars"]),
                    prompt=item["prompt"],
                    choices=tuple(item["choices"]),
                )
            )
        # captures made before groups had a meaning do not name it
        grouping = header.get("grouping", UNGROUPED)
        check_grouping(grouping)
        probe = TaskProbe(
            header["name"], header["rule"], header["template"], tuple(items), int(header["n_left_out"]), grouping
        )
        _check(probe, entry, where)
    except _DAMAGE as error:
        raise _damaged(where, str(error)) from error
    return probe


def _split(data: bytes) -> tuple[Any, Int32Array]:
    header, _, tokens = data.partition(b"\n")
    return json.loads(header.decode("ascii")), np.frombuffer(tokens, dtype="<i4").astype(np.int32)


def _check(probe: Probe, entry: ProbeEntry, where: str) -> None:
    if probe.name != entry.name or probe.sha256() != entry.sha256 or probe.n_rows != entry.n_rows:
        raise _damaged(where, f"holds {probe.name!r} with {probe.n_rows} rows, digest {probe.sha256()[:12]}")


def _damaged(where: str, found: str) -> FileFormatError:
    return FileFormatError(f"{where} is not the probe that the capture names ({found}); make the capture anew")
