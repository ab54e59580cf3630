"""Parameter structs of llama.cpp, checked: what is set exists, and the library means the same bytes by it.

ctypes takes any attribute of a struct, so a misspelt or renamed field would be ignored and recorded as used.
"""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Mapping
from typing import Any

from quantprobe.engine.library import llama, version_text
from quantprobe.errors import IncompatibleError

_MODEL: Mapping[str, Any] = {
    "tensor_buft_overrides": None, "split_mode": 1, "main_gpu": 0, "kv_overrides": None, "vocab_only": False,
    "check_tensors": False, "use_extra_bufts": True, "no_host": False,
}  # fmt: skip
_CONTEXT: Mapping[str, Any] = {
    "n_ctx": 512, "n_batch": 2048, "n_ubatch": 512, "n_seq_max": 1, "n_threads": 4, "n_threads_batch": 4,
    "rope_scaling_type": -1, "pooling_type": -1, "attention_type": -1, "flash_attn_type": -1, "rope_freq_base": 0.0,
    "rope_freq_scale": 0.0, "yarn_ext_factor": -1.0, "yarn_orig_ctx": 0, "cb_eval": None, "cb_eval_user_data": None,
    "type_k": 1, "type_v": 1, "abort_callback": None, "embeddings": False, "offload_kqv": True, "no_perf": True,
    "op_offload": True, "swa_full": True, "kv_unified": False,
}  # fmt: skip
_QUANTIZE: Mapping[str, Any] = {
    "nthread": 0, "allow_requantize": False, "quantize_output_tensor": True, "only_copy": False, "pure": False,
    "keep_split": False, "imatrix": None, "kv_overrides": None, "tt_overrides": None, "prune_layers": None,
}  # fmt: skip

KNOWN_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "llama_model": _MODEL,
    "llama_context": _CONTEXT,
    "llama_model_quantize": _QUANTIZE,
}
"""By struct, defaults that llama.h documents, or that mean "as the model says" or "none"; None is the null pointer.
Left out is what llama.cpp changed or may change at will: n_gpu_layers, how to load, other YaRN factors, ftype."""

_ROOM = 512
"""Bytes behind the mirror that a library with a longer struct may write to when it returns one: the three structs have
64 to 160."""


def default_params(kind: str, library: ctypes.CDLL | None = None) -> Any:
    """What `KIND_default_params()` gives, as a struct in which only fields that exist can be set.

    Raises `IncompatibleError` where a known default reads as something else: the library's struct is not the one that
    llama_cpp mirrors, and whatever is set in it would land elsewhere. `library` is llama_cpp's own unless given.
    """
    mirror = _checked(getattr(llama, f"{kind}_params"))
    function = (llama._lib if library is None else library)[f"{kind}_default_params"]
    _require_size(function, mirror)
    room = type("Room", (ctypes.Structure,), {"_fields_": [("params", mirror), ("room", ctypes.c_char * _ROOM)]})
    function.restype, function.argtypes = room, []
    params = function().params
    for name, expected in KNOWN_DEFAULTS[kind].items():
        if name not in _field_names(mirror):  # a name that is gone is an error where it is set
            continue
        found = _plain(getattr(params, name))
        if found != expected:
            raise _other_struct(f"{kind}_params.{name} is {found} where {expected} is the default")
    return params


def _require_size(function: Any, mirror: type[ctypes.Structure]) -> None:
    """Compare the mirror's length with the bytes that the library writes: one more field of 0 shows in no default.

    On x86-64 a struct of this size is returned through a pointer that comes first among the arguments, so the buffer
    can be ours, and filled. Elsewhere (AArch64 has a register for it) nothing is checked.
    """
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return
    function.restype, function.argtypes = None, [ctypes.c_void_p]
    size = ctypes.sizeof(mirror)
    written = 0
    for filling in (b"\x5a", b"\xa5"):
        buffer = ctypes.create_string_buffer(filling * (size + _ROOM), size + _ROOM)
        function(buffer)
        written = max(written, len(buffer.raw.rstrip(filling)))
    last = mirror._fields_[-1][0]
    if not getattr(mirror, last).offset < written <= size:
        raise _other_struct(f"{mirror.__name__} has {written} bytes where {size} are expected")


def _other_struct(found: str) -> IncompatibleError:
    return IncompatibleError(
        f"{found}: the library of {version_text()} has another struct than its Python part; "
        "reinstall llama-cpp-python (without LLAMA_CPP_LIB_PATH), or upgrade gguf-quantprobe"
    )


def set_fields(struct: ctypes.Structure | ctypes.Union, **values: Any) -> None:
    """Set fields of a struct or union that has no defaults. Raises `IncompatibleError` for one that does not exist."""
    for name, value in values.items():
        _require_field(type(struct), name)
        setattr(struct, name, value)


def _checked(mirror: type[ctypes.Structure]) -> type[ctypes.Structure]:
    """A struct of the same layout that refuses attributes which are no fields."""

    def set_field(self: ctypes.Structure, name: str, value: Any) -> None:
        _require_field(mirror, name)
        mirror.__setattr__(self, name, value)

    return type(mirror.__name__, (mirror,), {"__setattr__": set_field})


def _require_field(struct: type[ctypes.Structure | ctypes.Union], name: str) -> None:
    if name not in _field_names(struct):
        raise IncompatibleError(
            f"{version_text()} has no field {struct.__name__}.{name}, which quantprobe sets; "
            "upgrade gguf-quantprobe, or install the llama-cpp-python that it was released with"
        )


def _field_names(struct: type[ctypes.Structure | ctypes.Union]) -> set[str]:
    return {field[0] for kind in struct.__mro__ for field in getattr(kind, "_fields_", ())}


def _plain(value: Any) -> Any:
    """A field's value; a null pointer of any type is None, another pointer its address."""
    return ctypes.cast(value, ctypes.c_void_p).value if isinstance(value, _POINTERS) else value


_POINTERS = (ctypes._Pointer, ctypes._CFuncPtr)  # type: ignore[attr-defined]
