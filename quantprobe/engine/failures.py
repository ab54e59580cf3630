"""What the extension raises, as errors of quantprobe: the one place where they are translated."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from quantprobe.errors import EngineError


@contextmanager
def engine_errors(failed: str) -> Iterator[None]:
    """Raises `EngineError`, "`failed`: reason", for what a call of the extension raises.

    C++ exceptions arrive as RuntimeError (ggml's assertions, see native/abort_guard.hpp, and what llama.cpp throws),
    ValueError (arguments that llama.cpp would abort on), MemoryError and IndexError; a wrong array is a TypeError.
    """
    try:
        yield
    except MemoryError as error:
        raise EngineError(f"{failed}: out of memory") from error
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        raise EngineError(f"{failed}: {error}") from error
