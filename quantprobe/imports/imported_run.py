"""An imported run on disk: results.json and the item tables beside it."""

from __future__ import annotations

from pathlib import Path

from quantprobe.errors import InputError
from quantprobe.files import write_text
from quantprobe.imports.build import ImportedRun
from quantprobe.names import safe_name
from quantprobe.run.results_file import plain, write_json


def write_imported(imported: ImportedRun, run: Path) -> None:
    """Write `RUN/items/QUANT/TASK.csv`, then `RUN/results.json`.

    Raises InputError where `run` already holds results: an import never replaces a measurement.
    """
    if (run / "results.json").exists():
        raise InputError(f"{run} already holds a results.json; give another folder, or remove that one first")
    for (quant, task), text in imported.items.items():
        write_text(run / "items" / safe_name(quant) / f"{safe_name(task)}.csv", text)
    write_json(plain(imported.results), run / "results.json")
