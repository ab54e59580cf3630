"""A ladder of quants of one model, made here and made once."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import msgspec

from quantprobe.engine.devices import versions
from quantprobe.engine.quantize import Child, quantize
from quantprobe.engine.recipe import Recipe
from quantprobe.files import hash_file, write_text
from quantprobe.gguf.digests import content_digest
from quantprobe.gguf.model import split_paths
from quantprobe.locks import locked
from quantprobe.run.json_text import plain
from quantprobe.run.results import Quant
from quantprobe.sweep.inputs import Progress

RECORD = "made.json"
"""Beside the files: what each was made of, and the digests that its files had."""
MEASURED = "measured"
"""Member of an entry: the quant as `results.json` records it, without numbers, where a sweep deletes its file."""


@dataclass(frozen=True)
class Order:
    """One quant to make: the name of its file, with `.gguf`, and how."""

    name: str
    recipe: Recipe
    max_part_bytes: int | None = None
    cost: int = 1
    """How long it takes compared with the other orders: its share of the progress."""


@dataclass(frozen=True)
class Made:
    """A finished quant: its files, the first part first, and whether an earlier call had made it."""

    order: Order
    files: tuple[Path, ...]
    is_kept: bool
    seconds: float = 0.0

    @property
    def size_bytes(self) -> int:
        return sum(file.stat().st_size for file in self.files)


def make_quants(source: Path, folder: Path, orders: Sequence[Order], progress: Progress, n_jobs: int = 1) -> list[Made]:
    """Quantize `source` into `folder`, `n_jobs` files at a time; gives what was made in the order of `orders`.

    A file that is there already is kept if it was made from the same source content by the same recipe (the content of
    the importance matrix included) and the same llama.cpp, and still has the content it had then; otherwise it is made
    anew. A file gets its name when it is complete, so whatever ends the call, the next one continues.
    """
    record = Record.of(source, folder, progress)
    kept = {order.name: files for order in orders if (files := record.finished(order, progress)) is not None}
    todo = [order for order in orders if order.name not in kept]
    made = {name: Made(_named(orders, name), files, is_kept=True) for name, files in kept.items()}
    if todo:
        work = _Work(source, folder, record, progress, max(1, min(n_jobs, len(todo))))
        made |= {each.order.name: each for each in work.run(todo)}
    return [made[order.name] for order in orders]


def _named(orders: Sequence[Order], name: str) -> Order:
    return next(order for order in orders if order.name == name)


class Record:
    """What was made here before; a record that is missing or damaged only means that files are made again."""

    @classmethod
    def of(cls, source: Path, folder: Path, progress: Progress) -> Record:
        """The record in `folder` of what is made of `source`."""
        progress.start(f"hash {source.name}", sum(path.stat().st_size for path in split_paths(source)), "B")
        try:
            return cls(folder, content_digest(split_paths(source), progress.advance))
        finally:
            progress.finish()

    def __init__(self, folder: Path, source_sha256: str) -> None:
        self._folder = folder
        self._common = {"source_sha256": source_sha256, "llama_cpp_version": versions().llama_cpp}
        self._imatrices: dict[Path, str] = {}

    def finished(self, order: Order, progress: Progress) -> tuple[Path, ...] | None:
        """The files of an order that is done; None where it is not."""
        given = self._entry(order).get("files")
        digests: dict[str, str] = given if isinstance(given, dict) else {}
        files = [self._folder / name for name in digests]
        if not files or not all(file.is_file() for file in files):
            return None
        progress.start(f"check {order.name}", sum(file.stat().st_size for file in files), "B")
        try:
            is_whole = all(content_digest([file], progress.advance) == digests[file.name] for file in files)
        finally:
            progress.finish()
        return tuple(files) if is_whole else None

    def _entry(self, order: Order) -> dict[str, Any]:
        """What is recorded of an order that was made by this very recipe; empty for none."""
        entry = self._read().get(order.name)
        recipe = self._recipe(order)
        if isinstance(entry, dict) and all(entry.get(key) == value for key, value in recipe.items()):
            return entry
        return {}

    def measured(self, order: Order) -> Quant | None:
        """What a quant was that may be deleted by now; None if it was not measured."""
        try:
            return msgspec.convert(self._entry(order).get(MEASURED), Quant)
        except msgspec.ValidationError:
            return None

    def remember_measured(self, order: Order, quant: Quant) -> None:
        """Note what a finished order was, so that its file need not stay."""
        self._write(order, {**self._entry(order), MEASURED: plain(quant)})

    def remember(self, order: Order, files: Sequence[Path]) -> None:
        """Note a finished order; files that it had before under other names (another number of parts) are removed."""
        old = self._read().get(order.name)
        names = {file.name for file in files}
        for name in set(old.get("files") or ()) - names if isinstance(old, dict) else ():
            (self._folder / Path(str(name)).name).unlink(missing_ok=True)
        self._write(order, {**self._recipe(order), "files": {file.name: content_digest([file]) for file in files}})

    def _write(self, order: Order, entry: dict[str, Any]) -> None:
        with locked(self._folder / f"{RECORD}.lock", lambda: None):  # several processes may share a run
            record = {**self._read(), order.name: entry}
            write_text(self._folder / RECORD, json.dumps(record, indent=2) + "\n")

    def _recipe(self, order: Order) -> dict[str, Any]:
        """Everything that the bytes of the file depend on, as JSON has it."""
        recipe = {**asdict(order.recipe), "imatrix": None, "max_part_bytes": order.max_part_bytes}
        path = order.recipe.imatrix
        if path is not None:
            if path not in self._imatrices:
                self._imatrices[path] = hash_file(path)
            recipe["imatrix"] = {"file": str(path), "sha256": self._imatrices[path]}
        fixed: dict[str, Any] = json.loads(json.dumps({**self._common, "recipe": recipe}))
        return fixed

    def _read(self) -> dict[str, Any]:
        try:
            record = json.loads((self._folder / RECORD).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return record if isinstance(record, dict) else {}


class _Work:
    """Makes orders, several at a time, under one progress bar."""

    def __init__(self, source: Path, folder: Path, record: Record, progress: Progress, n_jobs: int) -> None:
        self._source, self._folder, self._record, self._progress = source, folder, record, progress
        self._n_jobs = n_jobs
        self._n_threads = max(1, (os.cpu_count() or 1) // n_jobs) if n_jobs > 1 else None
        self._children: list[Child] = []
        self._lock = Lock()
        self._stopped = False

    def run(self, orders: Sequence[Order]) -> list[Made]:
        names = orders[0].name if len(orders) == 1 else f"{len(orders)} files"
        self._progress.start(f"make {names}", 100 * sum(order.cost for order in orders), "steps")
        try:
            return [self._make(order) for order in orders] if self._n_jobs == 1 else self._run_several(orders)
        finally:
            self._progress.finish()

    def _run_several(self, orders: Sequence[Order]) -> list[Made]:
        with ThreadPoolExecutor(self._n_jobs) as pool:
            futures = [pool.submit(self._make, order) for order in orders]
            try:
                return [future.result() for future in as_completed(futures)]
            except BaseException:
                self._stop()
                for future in futures:
                    future.cancel()
                raise

    def _stop(self) -> None:
        """End the children; the threads that read from them end with them."""
        with self._lock:
            self._stopped = True
            for child in self._children:
                child.kill()

    def _start(self, child: Child) -> None:
        with self._lock:
            self._children.append(child)
            if self._stopped:
                child.kill()

    def _make(self, order: Order) -> Made:
        begin, shown = time.monotonic(), 0

        def on_tensor(reached: int, total: int) -> None:
            nonlocal shown
            steps = 100 * order.cost * (reached - 1) // total
            with self._lock:
                self._progress.advance(steps - shown)
            shown = steps

        files = quantize(
            self._source,
            self._folder / order.name,
            order.recipe,
            n_threads=self._n_threads,
            max_part_bytes=order.max_part_bytes,
            on_tensor=on_tensor,
            on_child=self._start,
        )
        with self._lock:
            self._record.remember(order, files)
            self._progress.advance(100 * order.cost - shown)
        return Made(order, tuple(files), is_kept=False, seconds=time.monotonic() - begin)
