"""llama.cpp's numbers for the types of files (`enum llama_ftype`) and of KV-cache entries (`enum ggml_type`).

Literals, because the command line lists these names without loading gguf or llama.cpp; tests hold them to both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class FileType:
    """One type of quantized file."""

    name: str
    number: int
    needs_imatrix: bool = False
    """llama.cpp refuses to make it without an importance matrix."""
    can_make: bool = True
    """`llama_model_quantize` accepts it."""


_TYPES = (
    FileType("F32", 0), FileType("F16", 1), FileType("BF16", 32), FileType("Q8_0", 7), FileType("Q6_K", 18),
    FileType("Q5_K_M", 17), FileType("Q5_K_S", 16), FileType("Q5_1", 9), FileType("Q5_0", 8), FileType("Q4_K_M", 15),
    FileType("Q4_K_S", 14), FileType("IQ4_NL", 25), FileType("IQ4_XS", 30), FileType("Q4_1", 3), FileType("Q4_0", 2),
    FileType("MXFP4_MOE", 38), FileType("NVFP4", 39, can_make=False), FileType("Q3_K_L", 13), FileType("Q3_K_M", 12),
    FileType("Q3_K_S", 11), FileType("IQ3_M", 27), FileType("IQ3_S", 26), FileType("IQ3_XS", 22, True),
    FileType("IQ3_XXS", 23, True), FileType("Q2_K", 10), FileType("Q2_K_S", 21, True), FileType("IQ2_M", 29, True),
    FileType("IQ2_S", 28, True), FileType("IQ2_XS", 20, True), FileType("IQ2_XXS", 19, True),
    FileType("IQ1_M", 31, True), FileType("IQ1_S", 24, True), FileType("TQ2_0", 37), FileType("TQ1_0", 36),
    FileType("Q2_0", 41), FileType("Q1_0", 40),
)  # fmt: skip
FILE_TYPES: Mapping[str, FileType] = {kind.name: kind for kind in _TYPES}
"""By llama.cpp's name, in the order of quality within each width."""

ALIASES: Mapping[str, str] = {"Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M"}
"""Short names that llama-quantize takes for a mixture."""
IGNORE_IMATRIX = frozenset({"F32", "F16", "BF16", "Q8_0", "MXFP4_MOE", "NVFP4", "TQ1_0", "TQ2_0", "Q1_0", "Q2_0"})
"""File types whose tensors come out the same with and without an importance matrix."""

_GUESSED = 1024
"""Flag of a file type that was derived from the tensors, not recorded."""
_NAMES = {kind.number: kind.name for kind in _TYPES}

KV_TYPES: Mapping[str, int] = {
    "f32": 0, "f16": 1, "bf16": 30, "q8_0": 8, "q5_1": 7, "q5_0": 6, "q4_1": 3, "q4_0": 2, "iq4_nl": 20,
}  # fmt: skip
"""Types of the KV cache by llama.cpp's names, and their ggml ids."""


def file_type_of(number: int) -> str | None:
    """The name of a file type by its `general.file_type`, guessed or not; None for a number that is not known."""
    return _NAMES.get(number & ~_GUESSED)
