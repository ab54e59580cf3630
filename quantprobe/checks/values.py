"""Checks of the weights: NaN and infinities, tensors of zeros, outliers, and how like the base's they are."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from quantprobe.checks.inspection import compare_models
from quantprobe.checks.outcome import FAIL, WARN, Check, listed, passed, skipped
from quantprobe.checks.subject import Subject
from quantprobe.gguf.block_layouts import LAYOUTS
from quantprobe.gguf.scan import FieldScan, TensorScan, scan_tensors
from quantprobe.gguf.tensors import FLOAT_TYPES, PlacedTensor
from quantprobe.gguf.weights import WeightError

VALUES, ZEROS, OUTLIERS, WEIGHTS = "finite values", "zero tensors", "outliers", "weights"
BLOCK_OCTAVES, FLOAT_OCTAVES = 10.0, 14.0
"""A scale 2^10 times the typical one of its tensor, or a float 2^14 times, is an outlier. In 8 types of a 135M model no
scale is more than 2^4.8 times and no F16 weight more than 2^6.7 times the typical one; a flipped high bit of an
exponent is worth 2^16 in a half, 2^64 and more in the others."""
EXCESS_OCTAVES = 6.0
"""What a base has as well, within this, is the model's own."""
USUAL_ERRORS: Mapping[str, float] = {
    "F32": 1e-4, "F64": 1e-4, "F16": 1e-3, "BF16": 4e-3, "Q8_0": 0.0053, "Q6_K": 0.017, "Q5_1": 0.034, "Q5_K": 0.036,
    "Q5_0": 0.041, "Q4_1": 0.069, "Q4_K": 0.07, "IQ4_NL": 0.075, "IQ4_XS": 0.076, "Q4_0": 0.082, "NVFP4": 0.094,
    "MXFP4": 0.12, "IQ3_S": 0.14, "Q3_K": 0.15, "IQ3_XXS": 0.18, "IQ2_S": 0.25, "Q2_K": 0.27, "IQ2_XS": 0.3,
    "IQ2_XXS": 0.34, "IQ1_M": 0.45, "IQ1_S": 0.49, "Q1_0": 0.6, "Q2_0": 0.72, "TQ1_0": 0.81, "TQ2_0": 0.81,
}  # fmt: skip
"""Relative RMS error of normal weights as ggml quantizes them; of floats, what converting loses at most. Weights of a t
distribution with 4 degrees of freedom have up to 1.35 times as much, a block of 32 with one element alone 2.5 times."""
WARN_TIMES, FAIL_TIMES = 4.0, 10.0
WARN_ERROR, MAX_ERROR = 0.9, 0.97
"""Whatever the type: a tensor of zeros has an error of 1, other weights one of 1.4."""
SAMPLED_ROWS = 64
_LOOSE = re.compile(r"rope_freqs|rope_factors|\.bias$|exp_probs_b|attn_sinks|ssm_|time_|altup|layer_output_scale")
"""Small float tensors whose values span many orders of magnitude by design (frequencies up to 1e30, biases near 0)."""


def check_values(subject: Subject, on_bytes: Callable[[int], None] | None = None) -> tuple[Check, ...]:
    """One scan of all bytes for three checks."""
    scans = scan_tensors(subject.model.tensors, on_bytes=on_bytes)
    return _finite(scans), _zeros(subject, scans), _outliers(subject, scans)


def _finite(scans: Sequence[TensorScan]) -> Check:
    bad = [scan for scan in scans if scan.n_bad]
    n = sum(field.n for scan in scans for field in scan.fields)
    unknown = sorted({scan.tensor.type_name for scan in scans if scan.tensor.type_name not in LAYOUTS})
    if unknown and not bad:
        reason = f"tensors of the types {', '.join(unknown)} were not scanned; a newer quantprobe may know them"
        return Check(VALUES, WARN, reason)
    if not bad:
        return passed(VALUES, f"{n:,} scales and floats of {len(scans):,} tensors are finite")
    n_bad = sum(scan.n_bad for scan in bad)
    reason = (
        f"{n_bad:,} scales or floats of {n:,} are NaN or infinite, expected none, in {len(bad)} tensors "
        f"({listed([scan.tensor.name for scan in bad])}); quantize again, and if it persists look for NaN in the base"
    )
    fields = [(scan, field) for scan in bad for field in scan.fields if field.n_nan or field.n_inf]
    return Check(VALUES, FAIL, reason, tuple(_describe_bad(scan, field) for scan, field in fields))


def _describe_bad(scan: TensorScan, field: FieldScan) -> str:
    row, column = scan.element_of(field.first_bad or 0)
    found = " and ".join(f"{n:,} {what}" for n, what in ((field.n_nan, "NaN"), (field.n_inf, "infinite")) if n)
    return (
        f"{scan.tensor.name} ({scan.tensor.type_name}): {found} of {field.n:,} in field {field.field}, the first at "
        f"row {row:,}, column {column:,} of {scan.tensor.path.name}"
    )


def _zeros(subject: Subject, scans: Sequence[TensorScan]) -> Check:
    zero = [scan for scan in scans if scan.is_zero and not scan.tensor.name.endswith(".bias")]
    if zero and subject.base is not None:
        theirs = subject.base.by_name()
        same = scan_tensors([theirs[scan.tensor.name] for scan in zero if scan.tensor.name in theirs])
        of_base = {scan.tensor.name for scan in same if scan.is_zero}
        zero = [scan for scan in zero if scan.tensor.name not in of_base]
    if not zero:
        return passed(ZEROS, "no tensor is all zeros where it should hold weights")
    names = [f"{scan.tensor.name} ({scan.tensor.type_name})" for scan in zero]
    reason = f"{len(zero)} tensors are all zeros: {listed(names)}; expected weights; quantize again"
    return Check(ZEROS, FAIL, reason, tuple(names))


def _outliers(subject: Subject, scans: Sequence[TensorScan]) -> Check:
    found = [(scan, field) for scan in scans for field in scan.fields if field.octaves_above > _limit(scan.tensor)]
    if found and subject.base is not None:
        found = _not_in_base(subject, found)
    if not found:
        return passed(OUTLIERS, "no scale or float is far above the others of its tensor")
    names = list(dict.fromkeys(scan.tensor.name for scan, _ in found))
    status = WARN if subject.base is None else FAIL
    expected = "" if subject.base is None else ", which the base has not"
    reason = (
        f"single scales or floats lie far above all others of their tensor in {len(names)} tensors{expected}, as after "
        f"a flipped bit: {listed(names)}; copy or quantize the file again"
    )
    return Check(OUTLIERS, status, reason, tuple(_describe_outlier(scan, field) for scan, field in found))


def _limit(tensor: PlacedTensor) -> float:
    if tensor.type_name not in FLOAT_TYPES:
        return BLOCK_OCTAVES
    return float("inf") if _LOOSE.search(tensor.name) else FLOAT_OCTAVES


def _not_in_base(subject: Subject, found: Sequence[tuple[TensorScan, FieldScan]]) -> list[tuple[TensorScan, FieldScan]]:
    assert subject.base is not None
    theirs = subject.base.by_name()
    names = dict.fromkeys(scan.tensor.name for scan, _ in found if scan.tensor.name in theirs)
    octaves = {
        scan.tensor.name: max((field.octaves_above for field in scan.fields), default=0.0)
        for scan in scan_tensors([theirs[name] for name in names])
    }
    return [
        (scan, field)
        for scan, field in found
        if field.octaves_above > octaves.get(scan.tensor.name, 0.0) + EXCESS_OCTAVES
    ]


def _describe_outlier(scan: TensorScan, field: FieldScan) -> str:
    row, column = scan.element_of(field.largest or 0)
    return (
        f"{scan.tensor.name} ({scan.tensor.type_name}): field {field.field} is 2^{field.octaves_above:.0f} times its "
        f"usual size at row {row:,}, column {column:,} of {scan.tensor.path.name}"
    )


def check_weights(subject: Subject) -> Check:
    """A sample of every tensor's rows against the base's."""
    if subject.base is None:
        return skipped(WEIGHTS, "no base to compare with; give --base")
    errors = compare_models(subject.base, subject.model, max_rows=SAMPLED_ROWS).weights
    bad = [each for each in errors if not each.is_finite or is_beyond(each, FAIL_TIMES, MAX_ERROR)]
    odd = [each for each in errors if is_beyond(each, WARN_TIMES, WARN_ERROR)]
    worst = max(errors, key=_excess, default=None)
    if bad or odd:
        names = [f"{each.name} ({each.type_name}, {_error(each)})" for each in sorted(bad or odd, key=_excess)[::-1]]
        times = FAIL_TIMES if bad else WARN_TIMES
        reason = (
            f"{len(names)} tensors lie further from the base's than their types explain: {listed(names)}; expected a "
            f"relative RMS error below {times:g} times the usual one; is it a quant of this base? quantize again"
        )
        return Check(WEIGHTS, FAIL if bad else WARN, reason, tuple(names))
    if worst is None:
        return skipped(WEIGHTS, "the file and its base have no tensor of one name and shape")
    usual = USUAL_ERRORS.get(worst.type_name, 1.0)
    found = f"{worst.name} ({worst.type_name}), has a relative RMS error of {worst.relative or 0:.2g}"
    return passed(WEIGHTS, f"all resemble the base's; the worst for its type, {found}, usual is {usual:.2g}")


def is_beyond(error: WeightError, times: float, largest: float) -> bool:
    """Whether an error is so many times the usual one of its type, or too large for any."""
    return (error.relative or 0.0) > min(times * USUAL_ERRORS.get(error.type_name, 1.0), largest)


def _excess(error: WeightError) -> float:
    """The error in units of the usual one; infinite where it is not finite."""
    return (error.relative or 0.0) / USUAL_ERRORS.get(error.type_name, 1.0) if error.is_finite else float("inf")


def _error(error: WeightError) -> str:
    return "error not finite" if error.relative is None else f"error {error.relative:.2g}"
