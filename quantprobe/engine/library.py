"""libllama as llama-cpp-python has loaded it: its version, its functions, its backends.

Importing this module loads llama.cpp and calls nothing of it. No compiled part of quantprobe is needed: the child
process of `quantize` uses it too.
"""

from __future__ import annotations

import ctypes
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from quantprobe.errors import IncompatibleError

try:
    import llama_cpp
    from llama_cpp import llama_cpp as llama
except (ImportError, OSError, RuntimeError) as error:
    raise IncompatibleError(f"llama-cpp-python cannot be loaded ({error}); reinstall it for this Python") from error

__all__ = [
    "Functions", "library_folder", "llama", "llama_cpp_commit", "llama_cpp_version", "load_backends", "python_version",
    "require_version", "version_text",
]  # fmt: skip

MINIMUM_VERSION = "0.3.36"
"""Of llama-cpp-python; pyproject.toml asks for the same, but pip can be overruled."""

NEEDED_ON_WINDOWS = ("ggml-base", "ggml")
"""The libraries beside libllama that define what we call: operators and backends, and the registry of devices. A
backend such as ggml-cuda is llama.cpp's to load: its runtime may be missing, and we call nothing in it."""


def python_version() -> str:
    """The version of llama-cpp-python."""
    return str(llama_cpp.__version__)


def llama_cpp_version() -> str:
    """llama.cpp's own version string, "unknown" where the library does not tell. Many commits share one."""
    return _text_of("llama_version") or "unknown"


def llama_cpp_commit() -> str | None:
    """The first 7 digits of the commit that llama.cpp was built from; None where the library does not tell.

    A build from PyPI's sources calls itself dirty because git's index there is older than the files: that is left out.
    """
    found = re.match(r"[0-9a-f]{7}", _text_of("ggml_commit") or "")
    return found.group() if found else None


def version_text() -> str:
    """Both versions, for an error."""
    return f"llama-cpp-python {python_version()}, llama.cpp {llama_cpp_version()}"


def require_version(version: str) -> None:
    """Raise `IncompatibleError` if this version of llama-cpp-python is older than `MINIMUM_VERSION`."""
    if _numbers(version) < _numbers(MINIMUM_VERSION):
        raise IncompatibleError(
            f"llama-cpp-python is {version}, and quantprobe needs {MINIMUM_VERSION} or newer; "
            'upgrade it: python -m pip install --upgrade "llama-cpp-python>=' + MINIMUM_VERSION + '"'
        )


def _numbers(version: str) -> tuple[int, ...]:
    release = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in release.group().split(".")) if release else ()


def library_folder() -> Path:
    """Where libllama lies, and ggml's libraries beside it."""
    return Path(llama._lib._name).parent


class Functions:
    """C functions by name: of libllama, and on Windows of its companions, as GetProcAddress searches no dependencies.

    A companion is opened when a function is not found before it; one that cannot be opened is passed over.
    """

    def __init__(self, library: ctypes.CDLL, folder: Path) -> None:
        self._opened = [library]
        self._waiting = _companions(folder) if sys.platform == "win32" else iter(())
        self._failures: list[str] = []

    def find(self, name: str) -> Any | None:
        """The function, a new object whose types the caller sets; None if no library has it."""
        for library in self._opened:
            if hasattr(library, name):
                return library[name]
        for path in self._waiting:
            try:
                self._opened.append(ctypes.CDLL(str(path)))
            except OSError as error:
                self._failures.append(f"{path.name} cannot be loaded: {error}")
                continue
            if hasattr(self._opened[-1], name):
                return self._opened[-1][name]
        return None

    def address(self, name: str) -> int:
        """The address of a function that must be there. Raises `IncompatibleError`."""
        function = self.find(name)
        if function is None:
            failed = f" ({'; '.join(self._failures)})" if self._failures else ""
            raise IncompatibleError(
                f"{version_text()} has no function {name}, which quantprobe needs{failed}; "
                f"install llama-cpp-python {MINIMUM_VERSION} or newer"
            )
        return ctypes.cast(function, ctypes.c_void_p).value or 0


def _companions(folder: Path) -> Iterator[Path]:
    """Microsoft's compiler names them ggml.dll, MinGW's libggml.dll."""
    for stem in NEEDED_ON_WINDOWS:
        for name in (f"{stem}.dll", f"lib{stem}.dll"):
            if (folder / name).is_file():
                yield folder / name


def load_backends(functions: Functions, folder: Path) -> None:
    """Let ggml load its backends from `folder` where it has none yet.

    Backends of a GGML_BACKEND_DL build are files, which llama.cpp looks for beside the program (here Python) and in
    the working folder, not beside itself. Raises `IncompatibleError` where no device is found, not even the CPU.
    """
    count, load = functions.find("ggml_backend_dev_count"), functions.find("ggml_backend_load_all_from_path")
    if count is None:
        return
    count.restype = ctypes.c_size_t
    if count() == 0 and load is not None:
        load.restype, load.argtypes = None, [ctypes.c_char_p]
        load(str(folder).encode("utf-8"))
    if count() == 0:
        raise IncompatibleError(
            f"{version_text()} finds no device to compute on, not even the CPU; "
            f"its backends (ggml-cpu and others) are expected in {folder}; reinstall llama-cpp-python"
        )


def _text_of(name: str) -> str | None:
    """What a C function without arguments says; None if there is no such function."""
    function = Functions(llama._lib, library_folder()).find(name)
    if function is None:
        return None
    function.restype = ctypes.c_char_p
    return (function() or b"").decode("utf-8", errors="replace")


require_version(python_version())
