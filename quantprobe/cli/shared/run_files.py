"""The end of every command that makes a run: its files are written, its summary is printed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from quantprobe.cli.shared.output import Output

if TYPE_CHECKING:
    from quantprobe.run.cohort import Cohort
    from quantprobe.run.results import Results
    from quantprobe.stats.llama_summary import LlamaStatistics


def finish_run(
    results: Results,
    run: Path | None,
    output: Output,
    details: bool = False,
    llama: Mapping[tuple[str, str], LlamaStatistics] | None = None,
    is_written: bool = False,
) -> Cohort:
    """Write the files of a run (none if `run` is None) and print what it found.

    `llama`, by quant and text, is printed as llama-perplexity prints it. `is_written`: results.json is there already.
    """
    from quantprobe.report.finish import write_run
    from quantprobe.report.terminal import describe_run
    from quantprobe.run.cohort import merge_runs
    from quantprobe.run.folder import RunFolder
    from quantprobe.run.results import results_document

    written: tuple[str, ...] = ()
    if run is None:
        cohort = merge_runs([RunFolder(Path())], [results])
    else:
        cohort, written = write_run(None if is_written else results, RunFolder(run))
    output.show(describe_run(cohort, output.width, details))
    for (quant, text), statistics in (llama or {}).items():
        output.say(f"{quant} on {text}, as llama-perplexity prints it:\n\n{statistics.format()}")
    if run is not None:
        if cohort.tasks:
            output.say(f"To list the answers that changed: quantprobe flips {run} QUANT")
        output.say(f"Written to {run}: {', '.join(written)}")
    output.write_json(results_document(results))
    return cohort
