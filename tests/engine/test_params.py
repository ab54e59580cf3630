"""Parameter structs of llama.cpp: an unknown field is refused, a library with another struct is found out."""

from __future__ import annotations

import ctypes
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from quantprobe.engine.library import llama
from quantprobe.engine.params import KNOWN_DEFAULTS, default_params, set_fields
from quantprobe.errors import IncompatibleError

C_TYPES = {
    ctypes.c_int: "int32_t", ctypes.c_uint: "uint32_t", ctypes.c_float: "float", ctypes.c_bool: "bool",
    ctypes.c_size_t: "size_t",
}  # fmt: skip
KINDS = sorted(KNOWN_DEFAULTS)


def mirror_fields(kind: str) -> list[tuple[str, Any]]:
    return list(getattr(llama, f"{kind}_params")._fields_)


def source(kind: str, before: str | None, extra: str) -> str:
    """A library whose struct has one more field, a zero, before another."""
    defaults = getattr(llama, f"{kind}_default_params")()
    members, values = [], []
    for name, ctype in mirror_fields(kind):
        if name == before:
            members.append(f"{extra} added;")
            values.append("0")
        members.append(f"{C_TYPES.get(ctype, 'void *')} {name};")
        value = getattr(defaults, name)
        values.append(str(float(value) if ctype is ctypes.c_float else int(value)) if ctype in C_TYPES else "0")
    return (
        "#include <stdbool.h>\n#include <stddef.h>\n#include <stdint.h>\n"
        f"struct params {{ {' '.join(members)} }};\n"
        f"struct params {kind}_default_params(void) {{ struct params p = {{ {', '.join(values)} }}; return p; }}\n"
    )


@pytest.fixture
def compiled(tmp_path: Path) -> Any:
    """Makes a library of C text."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("there is no C compiler")

    def build(text: str, name: str = "library.so") -> ctypes.CDLL:
        (tmp_path / "library.c").write_text(text)
        subprocess.run([compiler, "-shared", "-fPIC", "-o", tmp_path / name, tmp_path / "library.c"], check=True)
        return ctypes.CDLL(str(tmp_path / name))

    return build


@pytest.mark.parametrize("kind", KINDS)
def test_the_installed_library_has_the_known_defaults(kind: str) -> None:
    names = {name for name, _ in mirror_fields(kind)}
    assert names >= set(KNOWN_DEFAULTS[kind])
    mine, theirs = default_params(kind), getattr(llama, f"{kind}_default_params")()
    for name in names:
        if isinstance(getattr(theirs, name), int | float):
            assert getattr(mine, name) == getattr(theirs, name)


def test_a_field_that_does_not_exist_is_refused_by_name_and_version() -> None:
    context = default_params("llama_context")
    context.n_ctx = 99
    assert context.n_ctx == 99
    with pytest.raises(IncompatibleError, match=r"llama-cpp-python \d.* has no field llama_context_params.flash_atn,"):
        context.flash_atn = 1
    override = llama.llama_model_kv_override()
    set_fields(override, key=b"name")
    set_fields(override.value, val_i64=7)
    assert (override.key, override.value.val_i64) == (b"name", 7)
    with pytest.raises(IncompatibleError, match=r"llama_model_kv_override\.keys"):
        set_fields(override, keys=b"name")
    with pytest.raises(IncompatibleError, match="val_i65"):
        set_fields(override.value, val_i65=7)


def test_a_renamed_field_of_the_mirror_is_an_error_where_it_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    renamed = [(name if name != "swa_full" else "full_swa", ctype) for name, ctype in mirror_fields("llama_context")]
    mirror = type("llama_context_params", (ctypes.Structure,), {"_fields_": renamed})
    monkeypatch.setattr(llama, "llama_context_params", mirror)
    context = default_params("llama_context")
    with pytest.raises(IncompatibleError, match="swa_full"):
        context.swa_full = True


@pytest.mark.parametrize("kind", KINDS)
def test_a_shorter_mirror_is_found_out(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fields = mirror_fields(kind)
    mirror = type(f"{kind}_params", (ctypes.Structure,), {"_fields_": fields[:1] + fields[2:]})
    monkeypatch.setattr(llama, f"{kind}_params", mirror)
    with pytest.raises(IncompatibleError, match="another struct than its Python part"):
        default_params(kind)


@pytest.mark.parametrize("kind", KINDS)
def test_a_library_with_the_same_struct_is_taken(kind: str, compiled: Any) -> None:
    assert default_params(kind, compiled(source(kind, None, ""))) is not None


@pytest.mark.parametrize(
    ("kind", "before", "found"),
    [
        ("llama_context", "n_batch", "n_batch is 0 where 2048 is the default"),
        ("llama_context", "flash_attn_type", "flash_attn_type is 0 where -1"),
        ("llama_context", "type_k", "type_k is 0 where 1"),
        ("llama_model", "split_mode", "split_mode is 0 where 1"),
        ("llama_model", "use_extra_bufts", "use_extra_bufts is False where True"),
        ("llama_model_quantize", "allow_requantize", "quantize_output_tensor is False where True"),
    ],
)
def test_a_shifted_struct_is_named(
    kind: str, before: str, found: str, compiled: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")  # where the defaults alone must tell
    extra = "bool" if dict(mirror_fields(kind))[before] is ctypes.c_bool else "int32_t"
    with pytest.raises(IncompatibleError, match=found):
        default_params(kind, compiled(source(kind, before, extra)))


@pytest.mark.skipif(platform.machine().lower() not in ("x86_64", "amd64"), reason="lengths are seen on x86-64 alone")
@pytest.mark.parametrize(
    ("kind", "before"),
    [("llama_model_quantize", "imatrix"), ("llama_model_quantize", "max_buf_size"), ("llama_context", "ctx_other")],
)
def test_a_longer_struct_is_found_where_no_default_tells(kind: str, before: str, compiled: Any) -> None:
    size = ctypes.sizeof(getattr(llama, f"{kind}_params"))
    with pytest.raises(IncompatibleError, match=rf"{kind}_params has {size + 8} bytes where {size} are expected"):
        default_params(kind, compiled(source(kind, before, "void *")))
    default_params(kind)
