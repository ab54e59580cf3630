"""The loaded libraries: versions, functions of companions on Windows, backends that are files. With stand-ins in C."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from quantprobe.engine import abi, library
from quantprobe.engine.library import MINIMUM_VERSION, Functions, load_backends, require_version
from quantprobe.errors import IncompatibleError

BACKENDS = """
#include <stddef.h>
#include <string.h>
static size_t n = {n};
static char folder[4096];
size_t ggml_backend_dev_count(void) {{ return n; }}
void ggml_backend_load_all_from_path(const char * path) {{ strcpy(folder, path); n += {loaded}; }}
const char * folder_asked(void) {{ return folder; }}
"""


class Stand:
    """A folder of libraries compiled for the test."""

    def __init__(self, folder: Path, compiler: str) -> None:
        self.folder = folder
        self._compiler = compiler

    def build(self, name: str, text: str) -> Path:
        (self.folder / "text.c").write_text(text)
        made = self.folder / name
        subprocess.run([self._compiler, "-shared", "-fPIC", "-o", made, self.folder / "text.c"], check=True)
        return made

    def functions(self, name: str, text: str) -> Functions:
        return Functions(ctypes.CDLL(str(self.build(name, text))), self.folder)


@pytest.fixture
def stand(tmp_path: Path) -> Stand:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or sys.platform == "win32":
        pytest.skip("stand-in libraries need a C compiler and are loaded as on Linux")
    folder = tmp_path / "Bücherei"
    folder.mkdir()
    return Stand(folder, compiler)


@pytest.mark.parametrize("prefix", ["", "lib"])
def test_windows_names_of_both_compilers_are_found(prefix: str, stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    stand.build(f"{prefix}ggml-base.dll", "int ggml_add(void) { return 1; }")
    stand.build(f"{prefix}ggml.dll", "int ggml_backend_dev_get(void) { return 2; }")
    functions = stand.functions("llama.dll", "int llama_decode(void) { return 3; }")
    found = {name: functions.find(name) for name in ("llama_decode", "ggml_backend_dev_get", "ggml_add")}
    assert {name: function() for name, function in found.items() if function} == {
        "llama_decode": 3, "ggml_backend_dev_get": 2, "ggml_add": 1,
    }  # fmt: skip
    assert functions.address("ggml_add") == ctypes.cast(found["ggml_add"], ctypes.c_void_p).value
    assert functions.find("ggml_mul_mat") is None


def test_only_needed_libraries_are_opened(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    """A CUDA backend whose runtime is missing cannot be loaded, and need not be."""
    monkeypatch.setattr(sys, "platform", "win32")
    (stand.folder / "ggml-cuda.dll").write_bytes(b"no library")
    (stand.folder / "libggml-base.dll").write_bytes(b"no library either")
    stand.build("ggml.dll", "int ggml_add(void) { return 1; }")
    functions = stand.functions("llama.dll", "int llama_decode(void) { return 3; }")
    opened: list[str] = []
    real = ctypes.CDLL

    def opening(name: str, *more: Any, **options: Any) -> ctypes.CDLL:
        opened.append(Path(name).name)
        return real(name, *more, **options)

    monkeypatch.setattr(ctypes, "CDLL", opening)
    assert functions.find("llama_decode") is not None and opened == []
    assert functions.find("ggml_add") is not None and opened == ["libggml-base.dll", "ggml.dll"]
    with pytest.raises(IncompatibleError, match=r"no function ggml_mul_mat.*libggml-base.dll cannot be loaded"):
        functions.address("ggml_mul_mat")
    assert "ggml-cuda.dll" not in opened


def test_companions_are_opened_on_windows_alone(stand: Stand) -> None:
    stand.build("ggml.dll", "int ggml_add(void) { return 1; }")
    assert stand.functions("libllama.so", "int llama_decode(void) { return 3; }").find("ggml_add") is None


def folder_asked(functions: Functions) -> str:
    function = functions.find("folder_asked")
    assert function is not None
    function.restype = ctypes.c_char_p
    return function().decode()


def test_backends_that_are_files_are_loaded_from_the_folder_of_the_library(stand: Stand) -> None:
    functions = stand.functions("libggml.so", BACKENDS.format(n=0, loaded=2))
    load_backends(functions, stand.folder)
    assert folder_asked(functions) == str(stand.folder)


def test_backends_that_are_there_are_left_alone(stand: Stand) -> None:
    functions = stand.functions("libggml.so", BACKENDS.format(n=1, loaded=2))
    load_backends(functions, stand.folder)
    assert folder_asked(functions) == ""


def test_no_device_at_all_is_an_error(stand: Stand) -> None:
    functions = stand.functions("libggml.so", BACKENDS.format(n=0, loaded=0))
    with pytest.raises(IncompatibleError, match=f"no device to compute on.*expected in {stand.folder}"):
        load_backends(functions, stand.folder)
    old = stand.functions("old.so", "#include <stddef.h>\nsize_t ggml_backend_dev_count(void) { return 0; }")
    with pytest.raises(IncompatibleError, match="no device"):
        load_backends(old, stand.folder)


def test_the_installed_library_has_every_function() -> None:
    functions = Functions(library.llama._lib, library.library_folder())
    assert all(functions.address(name) for name in abi._native.function_names())


@pytest.mark.parametrize("version", ["0.3.35", "0.2.99", "0.3", "0.3.4+cu121", "0.3.7rc1"])
def test_an_old_version_is_refused(version: str) -> None:
    with pytest.raises(
        IncompatibleError, match=f"is {version.replace('+', '.')}, and quantprobe needs {MINIMUM_VERSION}"
    ):
        require_version(version)


@pytest.mark.parametrize("version", ["0.3.36", "0.3.36+cu124", "0.4", "1.0.0rc1", "0.3.100"])
def test_a_new_version_is_taken(version: str) -> None:
    require_version(version)


def test_the_package_asks_pip_for_the_same_version() -> None:
    project = Path(__file__).parents[2] / "pyproject.toml"
    assert f'"llama-cpp-python>={MINIMUM_VERSION}"' in project.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("told", "commit"),
    [(b"0c1e570-dirty", "0c1e570"), (b"0c1e57098bba", "0c1e570"), (b"unknown", None), (b"", None), (None, None)],
)
def test_the_commit_is_told_where_the_library_knows_it(
    told: bytes | None, commit: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library, "_text_of", lambda name: None if told is None else told.decode())
    assert library.llama_cpp_commit() == commit
