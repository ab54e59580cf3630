"""results_groups.csv: every subject of every task, for a spreadsheet."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from typing import Any

ESTIMATES = ("net", "margin_shift", "gold_prob_shift")
COUNTS = ("n_items", "n_invalid", "acc_base", "acc", "drops", "leapfrogs", "wrong_to_other_wrong", "direction_index")


def csv_groups(document: Mapping[str, Any]) -> str:
    """One line per task, quant and group of `results.json`; empty if no task has groups.

    Plain numbers in the units of results.json, empty for null. The intervals are not corrected for choosing among
    groups: the largest of many changes is large by chance.
    """
    lines: list[list[Any]] = [
        [task, quant["name"], group, *(entry[key] for key in COUNTS), *_ends(entry)]
        for quant in document["quants"]
        for task, numbers in quant["tasks"].items()
        for group, entry in (numbers.get("by_group") or {}).items()
    ]
    if not lines:
        return ""
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    ends = [f"{key}{suffix}" for key in ESTIMATES for suffix in ("", "_low", "_high")]
    writer.writerow(["task", "name", "group", *COUNTS, *ends])
    lines.sort(key=lambda line: str(line[0]))
    writer.writerows(lines)
    return out.getvalue()


def _ends(entry: Mapping[str, Any]) -> list[float | None]:
    return [entry[key][end] for key in ESTIMATES for end in ("value", "low", "high")]
