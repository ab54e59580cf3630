"""Vectorisable building blocks for the compiled loops: exp, log and the bits behind a float.

A call of libm's exp or log inside a loop keeps LLVM from vectorising it; these polynomials do not
(152k entries: 0.17 ms against 0.68 ms for libm's exp, one core with AVX-512).
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numba.extending import intrinsic

from quantprobe.compiling import compiled


def _bit_cast(source: Any, target: Any) -> Any:
    """A compiled function that reads the bits of one scalar type as another of the same size."""

    def typer(_context: Any, _value: Any) -> Any:
        def codegen(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
            return builder.bitcast(arguments[0], context.get_value_type(target))

        return target(source), codegen

    return intrinsic(typer)


float64_of_bits = _bit_cast(numba.types.int64, numba.types.float64)
bits_of_float64 = _bit_cast(numba.types.float64, numba.types.int64)
float32_of_bits = _bit_cast(numba.types.int32, numba.types.float32)


@compiled("contract")
def fast_exp(x: float) -> float:
    """exp(x) for x <= 0, float64; below -708 (1e-307.5, -inf included) it is 0.

    Taylor series to r^13 on |r| <= ln(2)/2, where the next term is 4e-18. Unlike a call of libm it
    vectorises. Kept apart from `reassoc`, which would merge the two parts of ln(2).
    """
    clamped = x if x > -708.0 else -708.0
    k = np.int32(clamped * 1.4426950408889634 - 0.5)
    r = clamped - k * 0.6931471803691238  # high part of ln 2: 33 bits, so the product with k is exact
    r = r - k * 1.9082149292705877e-10
    p = 1.0 / 6227020800.0
    p = p * r + 1.0 / 479001600.0
    p = p * r + 1.0 / 39916800.0
    p = p * r + 1.0 / 3628800.0
    p = p * r + 1.0 / 362880.0
    p = p * r + 1.0 / 40320.0
    p = p * r + 1.0 / 5040.0
    p = p * r + 1.0 / 720.0
    p = p * r + 1.0 / 120.0
    p = p * r + 1.0 / 24.0
    p = p * r + 1.0 / 6.0
    p = p * r + 0.5
    p = p * r + 1.0
    p = p * r + 1.0
    return p * float64_of_bits((np.int64(k) + 1023) << 52) if x > -708.0 else 0.0


@compiled("contract")
def fast_log(x: float) -> float:
    """ln(x) of a normal positive float64.

    x = 2^k m with m in [sqrt(1/2), sqrt(2)]; ln m = 2 artanh((m - 1) / (m + 1)), whose series to the
    19th power leaves 2e-17.
    """
    bits = bits_of_float64(x)
    k = (bits - 0x3FE6A09E667F3BCD) >> 52  # the bits of sqrt(1/2)
    m = float64_of_bits(bits - (k << 52))
    s = (m - 1.0) / (m + 1.0)
    z = s * s
    p = 1.0 / 19.0
    p = p * z + 1.0 / 17.0
    p = p * z + 1.0 / 15.0
    p = p * z + 1.0 / 13.0
    p = p * z + 1.0 / 11.0
    p = p * z + 1.0 / 9.0
    p = p * z + 1.0 / 7.0
    p = p * z + 1.0 / 5.0
    p = p * z + 1.0 / 3.0
    return np.int32(k) * 0.6931471805599453 + (2.0 * s + 2.0 * s * z * p)  # type: ignore[no-any-return]
