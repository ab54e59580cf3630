"""A cohort of quants from one command: names, what will come out, what fits the disk and the memory."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import psutil

from quantprobe.engine.quantize_plan import QuantPlan, plan_quants
from quantprobe.engine.recipe import Recipe
from quantprobe.errors import InputError
from quantprobe.gguf.file_types import IGNORE_IMATRIX
from quantprobe.gguf.parts import model_name
from quantprobe.names import safe_name
from quantprobe.sweep.inputs import Progress
from quantprobe.sweep.ladder import Made, Order, make_quants

_FULL_PRECISION = re.compile(r"[-._](f16|bf16|f32|fp16|fp32)$", re.IGNORECASE)
MEMORY_SHARE = 0.8
"""Of the memory that is free, what quantizing may take."""

COST: Mapping[str, int] = {
    "Q6_K": 16, "Q5_K_M": 99, "Q5_K_S": 122, "Q5_1": 130, "Q5_0": 35, "Q4_K_M": 109, "Q4_K_S": 141, "IQ4_NL":
    233, "IQ4_XS": 256, "Q4_1": 163, "Q4_0": 37, "MXFP4_MOE": 18, "Q3_K_L": 95, "Q3_K_M": 93, "Q3_K_S": 45,
    "IQ3_M": 365, "IQ3_S": 394, "IQ3_XS": 488, "IQ3_XXS": 1268, "Q2_K": 84, "Q2_K_S": 103, "IQ2_M": 954,
    "IQ2_S": 917, "IQ2_XS": 916, "IQ2_XXS": 450, "IQ1_M": 1941, "IQ1_S": 1585,
}  # fmt: skip
"""How long a file of each type took beside the others: hundredths of a second for 4.9 million weights with an
importance matrix, 2 threads, llama.cpp 0.5.0. Other types take about 5."""


def order_quants(
    source: Path,
    types: Sequence[str],
    imatrices: Sequence[Path | None],
    common: Recipe,
    max_part_bytes: int | None = None,
) -> list[Order]:
    """One order for each type and importance matrix, named BASENAME-TYPE.gguf.

    With several matrices the name of the matrix's file follows the type, and a type that ignores them is made once,
    without any. None among the matrices makes each type without one as well, if it can be. `common` holds what all
    have in common. Raises `InputError` for two orders of one name.
    """
    suffixes = _suffixes([path for path in imatrices if path is not None])
    stem = _FULL_PRECISION.sub("", model_name(source))
    orders: list[Order] = []
    for given in types:
        kind = replace(common, file_type=given).kind
        mixed = bool(common.tensor_types or common.output_tensor_type or common.token_embedding_type)
        several = len(imatrices) > 1 and (mixed or kind.name not in IGNORE_IMATRIX)
        for path in imatrices if several else (None if len(imatrices) > 1 else (*imatrices, None)[0],):
            if path is None and several and kind.needs_imatrix:
                continue
            recipe = replace(common, file_type=kind.name, imatrix=path)
            suffix = f"-{suffixes[path]}" if several and path is not None else ""
            orders.append(Order(f"{stem}-{kind.name}{suffix}.gguf", recipe, max_part_bytes))
    names = [order.name for order in orders]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"{name} would be made twice; name each type once in --types")
    return orders


def _suffixes(imatrices: Sequence[Path]) -> dict[Path, str]:
    """What tells the importance matrices apart in names: their files' names without `imatrix` and the ending."""
    suffixes: dict[Path, str] = {}
    for path in imatrices:
        words = re.sub(r"[-._]?imatrix[-._]?", "", path.name.removesuffix(".gguf").removesuffix(".dat")) or path.stem
        if safe_name(words) in suffixes.values():
            raise InputError(
                f"two importance matrices would be named {words!r} in the names of the quants; rename one of the files"
            )
        suffixes[path] = safe_name(words)
    return suffixes


def plan_orders(source: Path, orders: Sequence[Order]) -> list[QuantPlan]:
    """What will come out, and everything that cannot be made refused; see `plan_quants`."""
    return plan_quants(source, [order.recipe for order in orders])


def make_orders(
    source: Path, folder: Path, orders: Sequence[Order], plans: Sequence[QuantPlan], progress: Progress, n_jobs: int
) -> list[Made]:
    """Make all orders, each file in a child process, `n_jobs` at a time as far as memory allows.

    Raises `InputError` if the disk has no room for what is still to be made.
    """
    check_disk(folder, orders, plans)
    n_fit = fit_jobs(plans, n_jobs, psutil.virtual_memory().available)
    if n_fit < n_jobs:
        progress.note(f"making {n_fit} at a time: the memory that is free does not hold {n_jobs} of the largest")
    weighed = [replace(order, cost=COST.get(order.recipe.kind.name, 5)) for order in orders]
    return make_quants(source, folder, weighed, progress, n_fit)


def fit_jobs(plans: Iterable[QuantPlan], n_jobs: int, available: int) -> int:
    """How many jobs, at most `n_jobs` and at least one, whose largest tensors fit the memory together."""
    needs = sorted((plan.n_bytes_needed for plan in plans), reverse=True)
    fitting = [n for n in range(1, n_jobs + 1) if sum(needs[:n]) <= MEMORY_SHARE * available]
    return max(fitting, default=1)


def check_disk(folder: Path, orders: Sequence[Order], plans: Sequence[QuantPlan]) -> None:
    """Raise `InputError` if the files that are not there yet do not fit the disk."""
    existing = folder
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    free = shutil.disk_usage(existing).free
    missing = [plan.size_bytes for order, plan in zip(orders, plans, strict=True) if not _is_there(folder, order.name)]
    needed = sum(missing) + (max(missing, default=0) if any(order.max_part_bytes for order in orders) else 0)
    if needed > free:
        raise InputError(
            f"the files need {needed / 1e9:.2f} GB and the disk of {existing} has {free / 1e9:.2f} GB free; "
            "name fewer types, or a folder on another disk with --out"
        )


def _is_there(folder: Path, name: str) -> bool:
    return (folder / name).exists() or any(folder.glob(f"{name.removesuffix('.gguf')}-00001-of-*.gguf"))
