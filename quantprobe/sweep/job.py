"""`sweep`: capture the base once, compare every quant, continue where it stopped."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from quantprobe.run.folder import RunFolder
from quantprobe.settings import EQUIVALENCE_MARGIN, Settings
from quantprobe.sweep.capturing import capture_prepared
from quantprobe.sweep.comparing import Outcome, compare_quants, read_quants
from quantprobe.sweep.deciding import Budget
from quantprobe.sweep.inputs import Inputs, Progress, read_measurable
from quantprobe.sweep.lines import OWN, Variant
from quantprobe.sweep.making import Making, Supply, Workers, Workshop
from quantprobe.sweep.prepared import prepare


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
    variants: Sequence[Variant] = (OWN,),
    making: Making | None = None,
    supplies: Sequence[Supply[Any]] = (),
    calibration: Sequence[Path] = (),
    workers: Workers | None = None,
) -> Outcome:
    """Measure quants against their base on texts and tasks; everything is kept under `run`.

    The capture's name carries a digest of the base and the settings that move logits. So a change of these starts
    another capture beside the first, and going back to the first settings finds it again. One more text or task goes
    into the capture that is there; one that has changed takes the place of the old.

    Quants of `making` are made in `RUN/quants` and measured after the `quants` given: all of them beforehand if their
    files stay, else each when it is needed. Those of `supplies` come when they are needed, and go. `variants` are cache
    types that make lines of their own (`sweep.lines`). `calibration` are texts that quants were calibrated on.
    `workers` are other machines that measure the quants; the base is captured here.
    """
    read_quants(quants, read_measurable(base))
    folder = RunFolder(run)
    workshop = None if making is None else Workshop(base, folder, making, progress)
    if workshop is not None:
        workshop.check_names(quants)
    prepared = prepare(base, inputs, settings, progress)
    n_made = len(making.orders) if making is not None else 0
    n_files = len(quants) + n_made + sum(len(supply.orders) for supply in supplies)
    n_lines = len(variants) * n_files + len(variants) - 1
    path = folder.capture(prepared.key(kind))
    capture = capture_prepared(prepared, path, progress, kind=kind, n_quants=n_lines, replaces=True)
    if workshop is not None and making is not None and making.keeps_files:
        made = {file.resolve(): file for file in workshop.make_all()}
        quants, workshop = [*(file for file in quants if file.resolve() not in made), *made.values()], None
    return compare_quants(
        capture, quants, settings, run, progress, base_model=base, llama_compat=llama_compat, margin=margin,
        groupings={task.given.name: task.grouping for task in prepared.tasks}, decide=decide, precision=precision,
        probes=list(prepared.sources()), replaces=replaces,
        variants=variants, supplies=[*supplies, *([] if workshop is None else [workshop])], calibration=calibration,
        workers=workers,
    )  # fmt: skip
