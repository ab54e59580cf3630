"""The tables of a run: Markdown to paste, CSV for machines, and one for the terminal."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable
from dataclasses import dataclass

from rich.table import Table

from quantprobe.report.numbers import format_estimate, format_plain
from quantprobe.report.results_view import COUNTS, ESTIMATES, QUANTILES, ModelRow, ResultsView, TextNumbers
from quantprobe.report.tables.shapes import escape_markdown, fit_table, join_blocks, markdown_table
from quantprobe.report.tables.tasks import markdown_tasks, reading_task_notes
from quantprobe.stats.estimates import Estimate

BELOW_FLOOR = "*"
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Column:
    """One column of the human tables."""

    title: str
    priority: int
    """1 is the last to be dropped from a narrow terminal."""
    cell: Callable[[ModelRow, TextNumbers, float | None], str]
    base_cell: Callable[[ResultsView, str], str]


def _empty(view: ResultsView, text: str) -> str:
    return ""


def _quantile(title: str, key: str, priority: int) -> Column:
    return Column(title, priority, lambda model, numbers, floor: format_plain(getattr(numbers, key)), _empty)


def _kld_cell(model: ModelRow, numbers: TextNumbers, floor: float | None) -> str:
    return format_estimate(numbers.kld_mean) + (BELOW_FLOOR if is_below_floor(numbers, floor) else "")


def is_below_floor(numbers: TextNumbers, floor: float | None) -> bool:
    """True where the mean KLD does not stand out of what the base shows against itself."""
    return floor is not None and floor > 0 and numbers.kld_mean.value is not None and numbers.kld_mean.value <= floor


def _base_ppl(view: ResultsView, text: str) -> str:
    """The base's perplexity over all rows: from a quant that lost none, else from the one that lost fewest."""
    fewest = min(view.measured(text), key=lambda row: row[1].n_nonfinite)
    return format_estimate(fewest[1].ppl_base)


def _null_kld(view: ResultsView, text: str) -> str:
    null = view.null_texts.get(text)
    return format_estimate(null.kld_mean) if null else ""


def _null_max(view: ResultsView, text: str) -> str:
    null = view.null_texts.get(text)
    return format_plain(null.kld_max) if null else ""


def _null_same_top(view: ResultsView, text: str) -> str:
    null = view.null_texts.get(text)
    return format_estimate(null.same_top, 100) if null else ""


COLUMNS: tuple[Column, ...] = (
    Column("Quant", 1, lambda model, numbers, floor: model.name, lambda view, text: f"{view.base.name} (base)"),
    Column(
        "GB", 3, lambda model, numbers, floor: format_plain(model.size_gb), lambda v, t: format_plain(v.base.size_gb)
    ),
    Column(
        "GiB", 9, lambda model, numbers, floor: format_plain(model.size_gib), lambda v, t: format_plain(v.base.size_gib)
    ),
    Column("bpw", 6, lambda model, numbers, floor: format_plain(model.bpw), lambda v, t: format_plain(v.base.bpw)),
    Column("PPL", 5, lambda model, numbers, floor: format_estimate(numbers.ppl), _base_ppl),
    Column("Mean KLD", 1, _kld_cell, _null_kld),
    _quantile("Median", "kld_median", 8),
    _quantile("99 %", "kld_p99", 4),
    _quantile("99.9 %", "kld_p999", 7),
    Column("Max KLD", 10, lambda model, numbers, floor: format_plain(numbers.kld_max), _null_max),
    Column("RMS Δp %", 11, lambda model, numbers, floor: format_estimate(numbers.delta_p_rms, 100), _empty),
    Column("Same top %", 2, lambda model, numbers, floor: format_estimate(numbers.same_top, 100), _null_same_top),
)


def table_rows(view: ResultsView, text: str) -> list[list[str]]:
    """Cells of one text's table, base line first; one list per line, in the order of `COLUMNS`."""
    floor = view.floor(text)
    base = [column.base_cell(view, text) for column in COLUMNS]
    quants = [[column.cell(model, numbers, floor) for column in COLUMNS] for model, numbers in view.measured(text)]
    return [base, *quants]


def markdown(view: ResultsView) -> str:
    """results.md: one table per text and per task, and the lines that say how to read them."""
    parts = [f"# Quants of {escape_markdown(view.base.name)}"]
    for text in view.text_names:
        titles = [column.title for column in COLUMNS]
        parts += [f"## Text: {escape_markdown(text)}", markdown_table(titles, table_rows(view, text))]
        parts += [f"- {escape_markdown(note)}" for note in text_notes(view, text)]
    parts += markdown_tasks(view)
    parts += ["## How to read", *(f"- {escape_markdown(note)}" for note in reading_notes(view))]
    return join_blocks(parts)


def text_notes(view: ResultsView, text: str) -> list[str]:
    """What holds for one text: rows, instrument floor, quants at the floor, rows that were not finite."""
    measured = view.measured(text)
    kld = measured[0][1].kld_mean
    notes = [f"{measured[0][1].n_rows:,} scored tokens in {kld.n_clusters:,} windows."]
    null = view.null_texts.get(text)
    if null is None:
        notes.append(
            "There is no null control (an imported base file cannot be run again): the instrument's floor is unknown."
        )
    elif null.kld_mean.value is None:
        notes.append("There is no null control: no row of the base is a number (NaN or infinity).")
    elif null.floor == 0:
        notes.append("Null control: the base against its own capture gives a KLD of exactly 0.")
    else:
        notes.append(
            f"Null control: the base against its own capture gives a mean KLD of {format_estimate(null.kld_mean)}, "
            f"at most {format_plain(null.kld_max)}; nothing at or below {format_plain(null.floor)} is interpreted."
        )
    below = [model.name for model, numbers in measured if is_below_floor(numbers, view.floor(text))]
    if below:
        notes.append(f"{BELOW_FLOOR} at the instrument's floor, not told apart from the base: {', '.join(below)}.")
    notes += [
        f"{model.name}: {numbers.n_nonfinite:,} rows held NaN or infinity and are in no number of its line "
        f"(the {numbers.n_rows:,} others are); this file or the base is broken or overflows."
        for model, numbers in measured
        if numbers.n_nonfinite
    ]
    return notes


def reading_notes(view: ResultsView) -> list[str]:
    """How to read the tables, and the settings they were measured with."""
    notes = reading_text_notes(view) if view.text_names else []
    notes += reading_task_notes(view)
    return [*notes, f"GB is 10^9 bytes, GiB is 2^30. Settings: {format_settings(view)}."]


def reading_text_notes(view: ResultsView) -> list[str]:
    """How to read the tables of texts."""
    level = next((quant.texts[name].kld_mean.level for quant in view.quants for name in quant.texts), 0.95)
    return [
        "KLD is KL(base ‖ quant) of the next-token distributions in nats per token, over the whole vocabulary; 0 is "
        "no change. It says how far a quant moved, not whether its answers became better or worse.",
        "± is one standard error, clustered by window because neighbouring tokens are not independent; results.csv "
        f"has the {level:.0%} intervals. PPL's ± is that of each model by itself; the change from the base is measured "
        "on the same tokens and more certain (ln_ppl_ratio in results.csv). Quantiles and maxima describe the rows "
        "measured and carry no error.",
        "Δp is the change of the probability of the true token; same top is the share of tokens where both rank the "
        "same token first. The base's line shows the null control.",
    ]


def format_settings(view: ResultsView) -> str:
    """Every setting that can change a number, on one line."""
    empty: tuple[object, ...] = (None, [], {})
    return ", ".join(f"{key} {_format_setting(value)}" for key, value in view.settings.items() if value not in empty)


def _format_setting(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return "+".join(_format_setting(entry) for entry in value)
    if isinstance(value, dict):
        return "(" + ", ".join(f"{key} {_format_setting(entry)}" for key, entry in value.items()) + ")"
    if isinstance(value, bool):
        return "on" if value else "off"
    return value[:12] if isinstance(value, str) and _DIGEST.fullmatch(value) else str(value)


def terminal_table(view: ResultsView, text: str, width: int | None) -> Table:
    """The table of one text for a terminal of `width` cells (None: as wide as it needs).

    Columns go in order of their priority until the rest fits; numbers are never cut.
    """
    titles, priorities = [column.title for column in COLUMNS], [column.priority for column in COLUMNS]
    title = f"{text}: distance from {view.base.name}"
    return fit_table(title, titles, priorities, table_rows(view, text), width)


def csv_text(view: ResultsView) -> str:
    """results.csv: one line per quant and text, plain numbers in the units of results.json, empty for null."""
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    estimates = [f"{key}{suffix}" for key in ESTIMATES for suffix in ("", "_stderr", "_low", "_high")]
    identity = ["text", "name", "path", "sha256", "size_bytes", "size_gb", "size_gib", "bpw", "file_type"]
    writer.writerow([*identity, *estimates, *QUANTILES, *COUNTS, "n_windows", "level", "kld_floor", "below_floor"])
    for text in view.text_names:
        for model, numbers in view.measured(text):
            writer.writerow(_csv_line(text, model, numbers, view.floor(text)))
    return out.getvalue()


def _csv_line(text: str, model: ModelRow, numbers: TextNumbers, floor: float | None) -> list[object]:
    line: list[object] = [text, model.name, model.path, model.sha256, model.size_bytes, model.size_gb, model.size_gib]
    line += [model.bpw, model.file_type]
    for key in ESTIMATES:
        estimate: Estimate = getattr(numbers, key)
        line += [estimate.value, estimate.stderr, estimate.low, estimate.high]
    line += [getattr(numbers, key) for key in (*QUANTILES, *COUNTS)]
    line += [numbers.kld_mean.n_clusters, numbers.kld_mean.level]
    return [*line, floor, None if floor is None else int(is_below_floor(numbers, floor))]
