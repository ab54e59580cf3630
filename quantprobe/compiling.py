"""numba's compiler as this package uses it, imported by the first kernel: a finished run needs none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast


def use_threads(n_threads: int) -> None:
    """Let kernels called from this thread use so many threads, at most those that numba has; no bit depends on it."""
    import numba

    numba.set_num_threads(max(1, min(n_threads, numba.config.NUMBA_NUM_THREADS)))


def n_kernel_threads() -> int:
    """How many threads a kernel called from this thread uses."""
    import numba

    return int(numba.get_num_threads())


_Function = TypeVar("_Function", bound=Callable[..., Any])


def compiled(*fastmath: str, parallel: bool = False, nogil: bool = False) -> Callable[[_Function], _Function]:
    """`numba.njit` with a type that mypy can follow; compiled at every start where no folder can hold the result.

    numba's cache of a function notices a change of that function's own file only: after a change here,
    touch the callers. It lies beside the file, else in the user's cache folder; where neither can be written
    (a read-only installation, a service without a home), numba refuses to make the function at all.
    """
    options = {"error_model": "numpy", "fastmath": set(fastmath), "parallel": parallel, "nogil": nogil}

    import numba

    def decorate(function: _Function) -> _Function:
        try:
            return cast("_Function", numba.njit(cache=True, **options)(function))
        except (RuntimeError, OSError):  # "cannot cache function ...: no locator available"
            return cast("_Function", numba.njit(**options)(function))

    return decorate
