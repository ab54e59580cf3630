"""Checks of the weights: NaN and infinities, tensors of zeros, outliers, and how like the base's they are."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from quantprobe.checks.inspection import compare_models
from quantprobe.checks.outcome import FAIL, WARN, Check, listed, passed, skipped
from quantprobe.checks.subject import Subject
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
MAX_ERROR = 0.9
"""Relative RMS error of a tensor above which it does not resemble the base's. Zeros have 1, other weights 1.4; what
ggml makes of normal weights at 1.125 to 1.75 bits has 0.4 to 0.7."""
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
    bad = [each for each in errors if not each.is_finite or (each.relative or 0) > MAX_ERROR]
    worst = next((each for each in errors if each.relative is not None), None)
    if bad:
        names = [f"{each.name} ({each.type_name}, {_error(each)})" for each in bad]
        reason = (
            f"{len(bad)} tensors do not resemble the base's: {listed(names)}; expected a relative RMS error below "
            f"{MAX_ERROR}; is it a quant of this base? quantize again"
        )
        return Check(WEIGHTS, FAIL, reason, tuple(names))
    if worst is None:
        return skipped(WEIGHTS, "the file and its base have no tensor of one name and shape")
    return passed(WEIGHTS, f"the largest relative RMS error of a tensor is {worst.relative:.3g} ({worst.name})")


def _error(error: WeightError) -> str:
    return "error not finite" if error.relative is None else f"error {error.relative:.2g}"
