"""`sweep`: capture the base once, compare every quant, continue where it stopped."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from quantprobe.run.folder import RunFolder
from quantprobe.settings import EQUIVALENCE_MARGIN, Settings
from quantprobe.sweep.capturing import capture_prepared, prepare
from quantprobe.sweep.comparing import Outcome, compare_quants, read_quants
from quantprobe.sweep.deciding import Budget
from quantprobe.sweep.inputs import Inputs, Progress, read_measurable
from quantprobe.sweep.recorded import digest


def sweep(
    base: Path,
    quants: Sequence[Path],
    inputs: Inputs,
    settings: Settings,
    run: Path,
    progress: Progress,
    *,
    kind: str | None = None,
    llama_compat: bool = False,
    margin: float = EQUIVALENCE_MARGIN,
    decide: Budget | None = None,
    precision: float | None = None,
    replaces: bool = False,
) -> Outcome:
    """Measure quants against their base on texts and tasks; everything is kept under `run`.

    The capture's name carries a digest of base, inputs and settings. So a change of any of them starts another capture
    beside the first, nothing finished is overwritten, and going back to the first settings finds it again.
    """
    read_quants(quants, read_measurable(base))
    prepared = prepare(base, inputs, settings, progress)
    key = digest({"base": prepared.info.sha256, "kind": kind, **prepared.recorded()})
    capture = RunFolder(run).capture(key)
    capture_prepared(prepared, capture, progress, kind=kind, n_quants=len(quants))
    return compare_quants(
        capture, quants, settings, run, progress, base_model=base, llama_compat=llama_compat, margin=margin,
        groupings={task.given.name: task.grouping for task in prepared.tasks}, decide=decide, precision=precision,
        replaces=replaces,
    )  # fmt: skip
