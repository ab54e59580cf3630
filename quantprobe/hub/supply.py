"""Quants of the hub, fetched when they are measured and deleted afterwards: 60 of them need the space of one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from quantprobe.errors import InputError
from quantprobe.files import write_text
from quantprobe.gguf.parts import model_name
from quantprobe.hub.choosing import Choice
from quantprobe.hub.client import delete_file
from quantprobe.hub.fetching import fetch_all, plan_fetching, require_space
from quantprobe.locks import locked
from quantprobe.run.folder import RunFolder
from quantprobe.run.json_text import plain
from quantprobe.run.results import Quant

if TYPE_CHECKING:
    from quantprobe.sweep.inputs import Progress

OURS, MEASURED = "fetched_here", "measured"


class HubSupply:
    """A `quantprobe.sweep.making.Supply` of models that a repository has.

    What was measured is recorded in `RUN/fetched.json` by the digests that the hub lists, so that a finished model is
    not fetched again. A model that the cache had before is not deleted.
    """

    def __init__(self, base: Path, run: RunFolder, choices: Sequence[Choice], progress: Progress) -> None:
        self.base = base
        self.orders = tuple(choices)
        self._run = run
        self._progress = progress

    def check_names(self, quants: Sequence[Path]) -> None:
        """Raise `InputError` for a file and a model of the hub with one name: their results would share a place."""
        for path in quants:
            for choice in self.orders:
                if model_name(path) == choice.name:
                    raise InputError(f"{path} and {choice.address} have one name; rename the file, or use another run")

    def finished(self, order: Choice) -> Quant | None:
        """What a model was that was measured; None if that is not recorded."""
        try:
            return msgspec.convert(self._entry(order).get(MEASURED), Quant)
        except msgspec.ValidationError:
            return None

    @contextmanager
    def lend(self, order: Choice) -> Iterator[Path]:
        """The model on this disk; deleted after the block, unless that fails or the cache had it before."""
        plan = plan_fetching([order])
        require_space(plan)
        if plan.missing:
            self._write(order, {OURS: True})  # before it comes: whoever goes on after an interruption deletes it
        (path,) = fetch_all(plan, self._progress)
        yield path
        if self._entry(order).get(OURS):
            snapshot = path.parents[order.path.count("/")]
            for file in order.files:
                delete_file(snapshot / file.path)
            self._write(order, {OURS: False})  # one that somebody fetches from now on is theirs

    def remember(self, order: Choice, quant: Quant) -> None:
        """Record what was measured."""
        self._write(order, {MEASURED: plain(quant)})

    def lock(self, order: Choice) -> Path:
        """Held while a model is fetched, measured and deleted."""
        return self._run.lock(f"fetch {order.name}")

    def _entry(self, order: Choice) -> dict[str, Any]:
        entry = self._read().get(_key(order))
        return entry if isinstance(entry, dict) else {}

    def _read(self) -> dict[str, Any]:
        """The record; a damaged one only means that models are fetched again."""
        try:
            found = json.loads(self._run.fetched.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}

    def _write(self, order: Choice, members: dict[str, Any]) -> None:
        with locked(self._run.fetched.with_name("fetched.json.lock"), lambda: None):  # several processes share a run
            record = self._read()
            record[_key(order)] = {"source": order.address, **self._entry(order), **members}
            write_text(self._run.fetched, json.dumps(record, indent=1, allow_nan=False) + "\n")


def _key(order: Choice) -> str:
    """The digest that the hub lists; of several parts, the digest of theirs."""
    if len(order.digests) == 1:
        return order.digests[0]
    return hashlib.sha256("\n".join(order.digests).encode()).hexdigest()
