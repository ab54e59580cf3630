"""Every number of a cohort as a flat table: one line per quant, probe and measure."""

from __future__ import annotations

import csv
import io

from quantprobe.run.cohort import Cohort

HEADER = (
    "quant", "sha256", "size_bytes", "kind", "probe", "measure", "value", "stderr", "low", "high", "level", "n",
    "n_clusters", "unit",
)  # fmt: skip


def numbers_csv(cohort: Cohort) -> str:
    """CSV text in the units of `results.json`; empty where a number does not exist."""
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(HEADER)
    for quant in cohort.quants:
        identity = [quant.name, quant.sha256, "" if quant.size_bytes is None else quant.size_bytes]
        probes = [("text", text.name, text.values) for text in quant.texts.values()]
        probes += [("task", task.name, task.values) for task in quant.tasks.values()]
        for kind, probe, values in probes:
            for measure, e in values.items():
                numbers = ["" if x is None else x for x in (e.value, e.stderr, e.low, e.high)]
                writer.writerow([*identity, kind, probe, measure, *numbers, e.level, e.n, e.n_clusters, e.unit])
    return out.getvalue()
