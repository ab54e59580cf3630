"""How far this machine is from the capture's: the base is decoded here, and compared with its own captured rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from quantprobe.arrays import FloatArray
from quantprobe.capture.probe_files import Probe
from quantprobe.capture.store import Capture
from quantprobe.engine.base_rows import open_base_rows
from quantprobe.engine.devices import list_devices
from quantprobe.engine.placement import output_devices
from quantprobe.engine.plan import block_rows
from quantprobe.engine.runner import probe_blocks
from quantprobe.errors import QuantprobeError
from quantprobe.gguf.model import ModelInfo
from quantprobe.run.compare import Difference, refused_differences, require_comparable, setting_differences
from quantprobe.run.folder import RunFolder
from quantprobe.run.results import MachineFloor, read_results
from quantprobe.settings import MACHINE, Settings, moves_logits
from quantprobe.sweep.inputs import Progress, identify, load_model, read_measurable
from quantprobe.sweep.recorded import digest


@dataclass(frozen=True)
class Comparison:
    """A capture, and how it is compared on this machine."""

    capture: Capture
    settings: Settings
    run: RunFolder
    base_model: Path | None
    """Where the base lies, if somebody said so; else it is looked for where it was captured."""
    llama_geometry: bool
    progress: Progress


def measure_machine_floor(
    here: Comparison, recorded: Mapping[str, Any], differences: Sequence[Difference]
) -> MachineFloor | None:
    """The floor of this machine, where it is not the capture's, or may not be and somebody said where the base lies.

    One block of the first probe is decoded; what an earlier call found in the run for the same capture, machine and
    settings is taken from there. None without the base's file, or where it cannot be decoded here.
    """
    of_machine = [each for each in differences if each.is_of_machine]
    elsewhere = [str(each) for each in of_machine if each.is_known]
    if not elsewhere and (here.base_model is None or not of_machine):
        return None
    moving = {name: value for name, value in recorded.items() if moves_logits(name)}
    key = digest({"capture": here.capture.sha256, "recorded": moving})
    known = _known_floor(here.run, key)
    if known is not None:
        return known
    try:
        info = find_base(here)
        if info is None:
            return None
        name, klds = decode_block(here, info)
    except QuantprobeError as error:  # the quants can be compared all the same
        here.progress.note(f"the floor of this machine is not known, as the base could not be decoded here: {error}")
        return None
    finite = bool(np.isfinite(klds).all())
    return MachineFloor(
        probe=name,
        n_rows=len(klds),
        kld_mean=float(klds.mean()) if finite else None,
        kld_max=float(klds.max()) if finite else None,
        differences=tuple(elsewhere),
        key=key,
    )


def require_same_settings(
    here: Comparison, recorded: Mapping[str, Any], allow: Sequence[str]
) -> tuple[MachineFloor | None, list[str]]:
    """Refuse what may not be compared with the capture, tell what differs.

    Returns the floor of this machine where it is another than the capture's, and the differences that were allowed.
    """
    captured, note = here.capture.meta.settings, here.progress.note
    # an imported file does not know most of its settings; facts of the machine are told where they are not known
    told = {key: value for key, value in recorded.items() if key in captured or key in MACHINE}
    found = setting_differences({key: captured[key] for key in told if key in captured}, told)
    floor = None
    if all(each.is_of_machine for each in refused_differences(found, allow)):
        floor = measure_machine_floor(here, recorded, found)
    measured = "" if floor is None else describe_machine_floor(floor)
    require_comparable(found, allow, "the capture and this comparison", measured)
    changed = [str(each) for each in found if each.moves_logits]
    for change in changed:
        note(f"compared under settings that differ from the capture's: {change}")
    unknown = [each.name for each in found if not each.is_known]
    if unknown:
        note(f"the capture or this machine does not tell {', '.join(unknown)}; they may differ")
    if measured:
        note(measured)
    return floor, changed


def describe_machine_floor(floor: MachineFloor) -> str:
    """A clause for a note or an error."""
    if floor.kld_max is None or floor.kld_mean is None:
        return f"the base decoded here has rows that are no numbers, in {floor.n_rows:,} rows of {floor.probe}"
    rows = f"{floor.n_rows:,} rows of {floor.probe}"
    if floor.kld_max == 0:
        return f"the base decoded here has a KLD of exactly 0 to its captured rows ({rows})"
    return (
        f"the base decoded here differs from its captured rows by a mean KLD of {floor.kld_mean:.2g} nats, "
        f"at most {floor.kld_max:.2g} ({rows})"
    )


def _known_floor(run: RunFolder, key: str) -> MachineFloor | None:
    try:
        floor = read_results(run.results).machine_floor
    except QuantprobeError:  # no run yet, or one that cannot be read: then it is measured
        return None
    return floor if floor is not None and floor.key == key else None


def find_base(here: Comparison) -> ModelInfo | None:
    """The very base of the capture, by content; None if it is not at hand."""
    base = here.capture.meta.base
    path = here.base_model or Path(base.path)
    if not path.is_file():
        return None
    info = read_measurable(path)
    if base.size_bytes not in (None, info.identity().size_bytes):
        return None
    info = identify(info, here.progress)
    return info if info.sha256 == base.sha256 else None


def decode_block(here: Comparison, info: ModelInfo) -> tuple[str, FloatArray]:
    """The first probe's name, and the KLD of each row of its first block, nats."""
    capture, entry, settings = here.capture, here.capture.meta.probes[0], here.settings.with_threads()
    probe: Probe = capture.text_probe(entry.name) if entry.kind == "text" else capture.task_probe(entry.name)
    stored = capture.rows(entry.name)
    with (
        load_model(info, settings, here.progress) as model,
        closing(probe_blocks(model, probe, llama_geometry=here.llama_geometry)) as blocks,
    ):
        devices = output_devices(list_devices(), settings, info.n_layer, model.output_device)
        base_rows = open_base_rows(
            capture,
            devices,
            settings.n_threads or 1,
            here.base_model,
            block_rows(model.n_vocab, model.settings.n_ubatch_used),
            here.progress.note,
        )
        block = next(blocks)
        no_target = np.zeros(len(block.row_ids), np.int32)
        rows = base_rows.compare(stored[block.row_ids], entry.row_dtype, block.logits, no_target)
        return entry.name, rows["kld"].astype(np.float64)
