"""Locks between processes, held by the operating system: they end with the process that holds them, even when killed.

The lock is on a small file of its own. The file stays when the lock is released, because whoever deletes a lock file
takes it from another process that is just opening it. The file's presence alone means nothing.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from quantprobe.errors import InputError
from quantprobe.files import writing

POLL_SECONDS = 0.2
_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, getattr(errno, "ENOTSUP", errno.EOPNOTSUPP)}


@contextmanager
def locked(path: Path, on_wait: Callable[[], None]) -> Iterator[None]:
    """Hold the lock of the file `path`, which is made if it is missing; `on_wait` is called once if another holds it.

    Not reentrant: a second lock on `path` in the same process waits for the first like any other.
    Raises `InputError` if the file cannot be written or its file system has no locks.
    """
    held = try_lock(path)
    if held is None:
        on_wait()
        held = _acquire(path, timeout=-1)
    with held:
        yield


def try_lock(path: Path) -> AbstractContextManager[object] | None:
    """The lock of the file `path`, held already and released at the end of its `with`; None if another holds it.

    Raises `InputError` as `locked` does.
    """
    try:
        return _acquire(path, timeout=0)
    except Timeout:
        return None


def _acquire(path: Path, timeout: float) -> AbstractContextManager[object]:
    """The lock; raises `Timeout` if another holds it all the time."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    # a marker file in place of a lock, filelock's fallback, would outlive a holder that was killed
    lock = FileLock(path, poll_interval=POLL_SECONDS, thread_local=False, fallback_to_soft=False)
    try:
        return lock.acquire(timeout=timeout)
    except Timeout:
        raise
    except OSError as error:
        if error.errno in _NO_LOCKS:
            raise InputError(
                f"{path.parent} is on a file system without file locks ({error.strerror}), which keep two "
                "processes from writing there at once; choose a folder on another disk"
            ) from error
        with writing(path):
            raise
