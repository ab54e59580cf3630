"""Binds the native extension to the libllama that llama_cpp has loaded, and checks that both fit.

Importing this module loads llama.cpp; nothing of it is called before the checks have passed.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from quantprobe.engine.failures import engine_errors
from quantprobe.errors import IncompatibleError

try:
    from quantprobe import _native
except ImportError as error:
    raise IncompatibleError(
        f"quantprobe's compiled engine cannot be loaded ({error}); "
        "reinstall it for this Python: python -m pip install --force-reinstall --no-deps gguf-quantprobe"
    ) from error

try:
    import llama_cpp
    from llama_cpp import llama_cpp as llama
except (ImportError, OSError, RuntimeError) as error:
    raise IncompatibleError(f"llama-cpp-python cannot be loaded ({error}); reinstall it for this Python") from error

__all__ = ["check_layout", "guarded", "last_errors", "llama", "llama_cpp_version", "python_version"]

_LOG_CALLBACK = ctypes.cast(_native.log_callback(), llama.llama_log_callback)


def llama_cpp_version() -> str:
    """llama.cpp's own version string, "unknown" where the library does not tell."""
    function = getattr(llama, "llama_version", None)
    if function is None:
        return "unknown"
    version = function()
    return str(version.decode() if isinstance(version, bytes) else version)


def python_version() -> str:
    """The version of llama-cpp-python."""
    return str(llama_cpp.__version__)


def _versions() -> str:
    return f"llama-cpp-python {python_version()}, llama.cpp {llama_cpp_version()}"


def _libraries() -> list[ctypes.CDLL]:
    """libllama, and on Windows its ggml companions: GetProcAddress does not search dependencies."""
    libraries = [llama._lib]
    if sys.platform == "win32":
        folder = Path(llama._lib._name).parent
        libraries += [ctypes.CDLL(str(path)) for path in sorted(folder.glob("ggml*.dll"))]
    return libraries


def _address(name: str, libraries: list[ctypes.CDLL]) -> int:
    for library in libraries:
        function = getattr(library, name, None)
        if function is not None:
            return ctypes.cast(function, ctypes.c_void_p).value or 0
    raise IncompatibleError(
        f"{_versions()} has no function {name}, which quantprobe needs; install llama-cpp-python 0.3.36 or newer"
    )


def check_layout(compiled: list[tuple[str, int]], mirror: type[ctypes.Structure], what: str) -> None:
    """Compare size and field offsets of a struct with llama_cpp's mirror of it.

    Raises `IncompatibleError` that names the field and both numbers.
    """
    for name, value in compiled:
        field = getattr(mirror, name, None)
        found = ctypes.sizeof(mirror) if name == "sizeof" else getattr(field, "offset", None)
        if found != value:
            raise IncompatibleError(
                f"{what}.{name}: quantprobe was built for {value}, {_versions()} has {found}; "
                "upgrade gguf-quantprobe, or install the llama-cpp-python that it was released with"
            )


def bind() -> None:
    """Check the installed library and hand its functions to the extension."""
    check_layout(_native.batch_layout(), llama.llama_batch, "llama_batch")
    libraries = _libraries()
    _native.bind({name: _address(name, libraries) for name in _native.function_names()})
    llama.llama_log_set(_LOG_CALLBACK, ctypes.c_void_p(0))
    llama.llama_backend_init()


@contextmanager
def guarded() -> Iterator[None]:
    """Calls of llama.cpp through ctypes in which a failed assertion of ggml is an error, not the end of the process.

    For functions that catch C++ exceptions themselves: loading a model, making a context. After a failed computation
    they are refused with an `EngineError`.
    """
    with engine_errors("llama.cpp cannot be used any more"):
        _native.guard_aborts(True)
    try:
        yield
    finally:
        _native.guard_aborts(False)


def last_errors(n_lines: int = 3) -> str:
    """llama.cpp's last warnings and errors since the last call, in one line, for an exception's message."""
    lines = [text.strip() for level, text in _native.take_log() if level >= 3 and text.strip()]
    return "; ".join(lines[-n_lines:]) or "llama.cpp gave no reason"


bind()
