"""Damaged files for every reader: valid ones, changed at random from a seed, and what each reader may answer.

A reader gives a result or raises a `QuantprobeError`. Anything else is a finding: another exception, more than
`TIME_LIMIT` seconds, or more than `MEMORY_LIMIT` bytes beyond the size of the file.
"""

from __future__ import annotations

import json
import random
import signal
import struct
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from quantprobe.errors import QuantprobeError

TIME_LIMIT = 5.0
"""Seconds of processor time for one file; the seeds take milliseconds."""
MEMORY_LIMIT = 64 << 20
"""Bytes allocated at a time while one file is read; the seeds have at most some 100 kB."""
MAX_BYTES = 1 << 20

_NUMBERS = (
    0,
    1,
    2,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0xFFFF,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFF,
    2**40,
    2**63 - 1,
    2**63,
    2**64 - 1,
)
_WORDS = (
    *(
        b"NaN",
        b"nan",
        b"Infinity",
        b"-Infinity",
        b"1e999",
        b"-1",
        b"null",
        b"true",
        b"[]",
        b"{}",
        b'""',
        b"0.5",
        b"9" * 30,
    ),
    *(
        b"9" * 5000,
        b"1e-400",
        b"\\ud800",
        b"\\u0000",
        b"\x00",
        b"\xff\xfe",
        b"\xef\xbb\xbf",
        b"\xed\xa0\x80",
        b"\r",
        b"\n",
    ),
    *(
        b",",
        b'"',
        b"'",
        b":",
        b";",
        b"\t",
        b"_",
        b"../../x",
        b"[" * 5000,
        b'{"a":' * 2000,
        b" " * 3000,
        b"\xe2\x80\xa8",
    ),
    *("²".encode(), "٣".encode(), b"1_000", b"+1", b"0x10", b"x" * 200_000),
)
_VALUES: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        0,
        1,
        -1,
        2**31,
        2**63,
        2**70,
        10**400,
        0.0,
        -0.5,
        1.5,
        1e308,
        -1e308,
        float("inf"),
        float("nan"),
    ),
    *(
        "",
        "x",
        "\ud800",
        "\x00",
        "../../x",
        "1",
        "nan",
        "a" * 5000,
        [],
        {},
        [[]],
        [None],
        {"value": None},
        {"": ""},
        [1] * 50,
    ),
)


def mutate(rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    """One of the seeds with one to six changes of its bytes."""
    data = bytearray(rng.choice(seeds))
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        rng.choice(_CHANGES)(rng, data, seeds)
    return bytes(data[:MAX_BYTES])


def mutate_values(rng: random.Random, document: Any) -> Any:
    """A JSON document with one to four of its values replaced, dropped, swapped or doubled."""
    changed = json.loads(json.dumps(document))
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        places = [(parent, key) for parent in _containers(changed) for key in _keys(parent)]
        if not places:
            return changed
        parent, key = rng.choice(places)
        other, other_key = rng.choice(places)
        what = rng.randrange(8)
        if what == 0:
            del parent[key]
        elif what == 1:
            parent[key] = deepcopy(other[other_key])
        elif what == 2 and isinstance(parent, list):
            parent.append(json.loads(json.dumps(parent[key])))
        elif what == 2:
            parent[str(rng.choice(_VALUES))[:50]] = parent.pop(key)
        else:
            parent[key] = deepcopy(rng.choice(_VALUES))
    return changed


def _containers(value: Any) -> list[Any]:
    found: list[Any] = []
    todo = [value]
    while todo:
        here = todo.pop()
        if isinstance(here, dict | list):
            found.append(here)
            todo.extend(here.values() if isinstance(here, dict) else here)
    return found


def _keys(container: Any) -> list[Any]:
    return list(container) if isinstance(container, dict) else list(range(len(container)))


def _flip(rng: random.Random, data: bytearray, _: Sequence[bytes]) -> None:
    if data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _set(rng: random.Random, data: bytearray, _: Sequence[bytes]) -> None:
    if data:
        data[rng.randrange(len(data))] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))


def _truncate(rng: random.Random, data: bytearray, _: Sequence[bytes]) -> None:
    del data[rng.randrange(len(data) + 1) :]


def _delete(rng: random.Random, data: bytearray, _: Sequence[bytes]) -> None:
    at = rng.randrange(len(data) + 1)
    del data[at : at + rng.choice((1, 2, 4, 8, 64, 1000))]


def _repeat(rng: random.Random, data: bytearray, _: Sequence[bytes]) -> None:
    at = rng.randrange(len(data) + 1)
    data[at:at] = data[at : at + rng.choice((1, 4, 8, 64, 1000))] * rng.choice((1, 2, 30))


def _splice(rng: random.Random, data: bytearray, seeds: Sequence[bytes]) -> None:
    other = rng.choice(seeds)
    data[rng.randrange(len(data) + 1) :] = other[rng.randrange(len(other) + 1) :]


def _number(rng: random.Random, data: bytearray, _: Sequence[bytes]) -> None:
    """A length or a count in binary."""
    form = rng.choice(("<Q", "<I", "<H", ">I"))
    packed = struct.pack(form, rng.choice(_NUMBERS) & ((1 << 8 * struct.calcsize(form)) - 1))
    at = rng.randrange(len(data) + 1)
    data[at : at + len(packed)] = packed


def _word(rng: random.Random, data: bytearray, _: Sequence[bytes]) -> None:
    at = rng.randrange(len(data) + 1)
    data[at : at + rng.choice((0, 0, 1, 4))] = rng.choice(_WORDS)


def _digits(rng: random.Random, data: bytearray, _: Sequence[bytes]) -> None:
    """Another number in place of a number written as text."""
    places = [i for i, byte in enumerate(data[:20_000]) if 48 <= byte < 58]
    if places:
        at = rng.choice(places)
        data[at : at + 1] = rng.choice((b"", b"-", b".", b"e9", b"99999999999999999999", b"e400", b"nan", b"0", b"5"))


_CHANGES = (_flip, _flip, _set, _truncate, _delete, _repeat, _splice, _number, _number, _word, _word, _digits)


@dataclass(frozen=True)
class Target:
    """One format: valid content, how it is damaged, and the reader that must answer."""

    name: str
    make: Callable[[random.Random], bytes]
    read: Callable[[Path], object]
    path: Path
    """Where the reader finds the damaged file: its name and what lies beside it may matter."""


@dataclass
class Report:
    """What a format's reader answered."""

    name: str
    n_inputs: int = 0
    n_read: int = 0
    n_refused: int = 0
    slowest: float = 0.0
    """Seconds of processor time."""
    most_bytes: int = 0
    findings: Counter[str] = field(default_factory=Counter)
    example: dict[str, str] = field(default_factory=dict)
    """One input, in hexadecimal, for each kind of finding."""


def fuzz(target: Target, count: int, seed: int = 0) -> Report:
    """Give `count` damaged files to the reader. The same seed gives the same files.

    A file that was there before is valid again afterwards.
    """
    report = Report(target.name)
    path = target.path
    path.parent.mkdir(parents=True, exist_ok=True)
    valid = path.read_bytes() if path.exists() else None
    for number in range(count):
        data = target.make(random.Random(f"{target.name} {seed} {number}"))
        path.write_bytes(data)
        tracemalloc.start()
        try:
            _read_one(target, path, data, report)
        finally:
            tracemalloc.stop()
    if valid is not None:  # part of a folder that other formats are tested in
        path.write_bytes(valid)
    return report


@contextmanager
def _stopped_after(seconds: float) -> Iterator[None]:
    """Raise in the middle of what takes longer, where the system can (not on Windows: there it is seen afterwards)."""
    if not hasattr(signal, "setitimer"):
        yield
        return

    def stop(*_: object) -> None:
        raise TimeoutError(f"more than {seconds} s")

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def _read_one(target: Target, path: Path, data: bytes, report: Report) -> None:
    report.n_inputs += 1
    started, found = time.process_time(), ""
    try:
        with _stopped_after(TIME_LIMIT):
            target.read(path)
        report.n_read += 1
    except QuantprobeError as error:
        report.n_refused += 1
        found = "" if str(error) else "an empty message"
    except TimeoutError:
        found = "a hang"
    except Exception as error:
        last = error.__traceback__
        while last is not None and last.tb_next is not None:
            last = last.tb_next
        place = "?" if last is None else f"{Path(last.tb_frame.f_code.co_filename).name}:{last.tb_lineno}"
        found = f"{type(error).__name__} at {place}: {str(error)[:120]}"
    spent, peak = time.process_time() - started, tracemalloc.get_traced_memory()[1]
    report.slowest, report.most_bytes = max(report.slowest, spent), max(report.most_bytes, peak)
    if spent > TIME_LIMIT:
        found = "a hang"
    if not found and peak > MEMORY_LIMIT + len(data):
        found = "an allocation beyond the bound"
    if found:
        report.findings[found] += 1
        report.example.setdefault(found, data[:20_000].hex())
