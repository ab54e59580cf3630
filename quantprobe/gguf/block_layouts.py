"""Where each ggml type keeps its floating-point numbers: the fields that can hold NaN or infinity.

Source: `ggml-common.h` (the structs `block_*`) and `ggml_validate_row_data` in `ggml-quants.c`, ggml 0.25.3. Beyond the
latter, NaN codes of NVFP4 scales are found too: ggml reads code 0x7F as 0 (`ggml_ue4m3_to_fp32`), so a scale that was
NaN when the file was made silently erases 16 weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class NumberFormat:
    """A floating-point format of `n_bytes`, as an integer key: the bits without the sign.

    Keys are ordered as the magnitudes are, and `per_octave` of them lie between a number and its double (below the
    smallest normal number they lie closer). Keys from `bad` on are not finite; `inf` is infinity's, None where the
    format has none.
    """

    name: str
    n_bytes: int
    per_octave: float
    bad: int
    inf: int | None


FORMATS: Mapping[str, NumberFormat] = {
    each.name: each
    for each in (
        NumberFormat("f16", 2, 1 << 10, 0x7C00, 0x7C00),
        NumberFormat("bf16", 2, 1 << 7, 0x7F80, 0x7F80),
        NumberFormat("f32", 4, 1 << 23, 0x7F800000, 0x7F800000),
        NumberFormat("f64", 8, 1 << 20, 0x7FF00000, 0x7FF00000),  # of its upper half
        NumberFormat("e8m0", 1, 1, 0xFF, None),  # a bare exponent: 2^(key - 127); has no zero
        NumberFormat("ue4m3", 1, 1 << 3, 0x7F, None),  # without sign, and without infinity
        NumberFormat("iq1_m", 8, 1 << 10, 0x7C00, 0x7C00),  # a half whose nibbles top four 16-bit words of scales
    )
}


@dataclass(frozen=True)
class ScaleField:
    """One number of a block: its name in ggml's struct, where it begins, and its format."""

    name: str
    offset: int
    format: str


def _f16(*offsets: int, names: tuple[str, ...] = ("d", "m")) -> tuple[ScaleField, ...]:
    return tuple(ScaleField(name, offset, "f16") for name, offset in zip(names, offsets, strict=False))


_K = ("d", "dmin")
LAYOUTS: Mapping[str, tuple[ScaleField, ...]] = {
    "F32": (ScaleField("value", 0, "f32"),),
    "F16": (ScaleField("value", 0, "f16"),),
    "BF16": (ScaleField("value", 0, "bf16"),),
    "F64": (ScaleField("value", 0, "f64"),),
    "Q1_0": _f16(0),
    "Q2_0": _f16(0),
    "Q4_0": _f16(0),
    "Q4_1": _f16(0, 2),
    "Q5_0": _f16(0),
    "Q5_1": _f16(0, 2),
    "Q8_0": _f16(0),
    "Q8_1": _f16(0, 2, names=("d", "s")),
    "Q2_K": _f16(80, 82, names=_K),
    "Q3_K": _f16(108),
    "Q4_K": _f16(0, 2, names=_K),
    "Q5_K": _f16(0, 2, names=_K),
    "Q6_K": _f16(208),
    "Q8_K": (ScaleField("d", 0, "f32"),),
    "TQ1_0": _f16(52),
    "TQ2_0": _f16(64),
    "IQ1_S": _f16(0),
    "IQ1_M": (ScaleField("scales", 48, "iq1_m"),),
    "IQ2_XXS": _f16(0),
    "IQ2_XS": _f16(0),
    "IQ2_S": _f16(0),
    "IQ3_XXS": _f16(0),
    "IQ3_S": _f16(0),
    "IQ4_NL": _f16(0),
    "IQ4_XS": _f16(0),
    "MXFP4": (ScaleField("e", 0, "e8m0"),),
    "NVFP4": tuple(ScaleField(f"d[{i}]", i, "ue4m3") for i in range(4)),
    "I8": (),
    "I16": (),
    "I32": (),
    "I64": (),
}
"""By ggml's type name; integer types hold no number that can be bad."""


def layout_of(type_name: str) -> tuple[ScaleField, ...]:
    """The fields of a type; none for one that is newer than this table."""
    return LAYOUTS.get(type_name, ())
