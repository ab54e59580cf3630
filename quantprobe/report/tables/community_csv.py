"""The CSV that quant authors publish: one line per model, llama-perplexity's statistics as columns."""

from __future__ import annotations

from quantprobe.errors import InputError
from quantprobe.imports.llama_logs import STATISTICS
from quantprobe.run.cohort import Cohort
from quantprobe.run.csv_cells import format_csv
from quantprobe.stats.estimates import Estimate


def community_csv(cohort: Cohort, text: str) -> str:
    """The cohort's fidelity on `text` in that form: sizes in GB (10^9 bytes) and GiB, Δp and same top in percent.

    `_std` is our standard error, clustered by window, so larger than the one llama-perplexity prints.
    Raises InputError where no quant was measured on `text`.
    """
    measured = [quant for quant in cohort.quants if text in quant.texts]
    if not measured:
        raise InputError(
            f"no quant was measured on the text {text!r}; the cohort has " + (", ".join(cohort.texts) or "none")
        )
    header = ["model_name", "file_size_gb", "bpw", "file_path", "file_size_gib"]
    for label, statistic in STATISTICS.items():
        header += [f"{label}_mean", f"{label}_std"] if statistic.has_error else [label]
    lines: list[list[object]] = [[*header]]
    for quant in measured:
        size = quant.size_bytes
        line: list[object] = [quant.name, _cell(size, 1e-9), _cell(quant.bpw), quant.path, _cell(size, 2**-30)]
        for statistic in STATISTICS.values():
            value = getattr(quant.texts[text], statistic.name)
            if statistic.has_error:
                value = value or Estimate(None)
                line += [_cell(value.value, 1 / statistic.scale), _cell(value.stderr, 1 / statistic.scale)]
            else:
                line.append(_cell(value, 1 / statistic.scale))
        lines.append(line)
    return format_csv(lines)


def _cell(value: float | None, scale: float = 1.0) -> str:
    return "" if value is None else f"{value * scale:.9g}"
