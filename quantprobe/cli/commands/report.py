"""quantprobe report: one page, plots and a card for the quants of runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from quantprobe.cli.shared.options import PathType, calibration_option, json_option
from quantprobe.cli.shared.output import open_output
from quantprobe.cli.shared.study_options import runs_argument, study_options

if TYPE_CHECKING:
    from quantprobe.run.cohort import Cohort
    from quantprobe.study.findings import Findings


@click.command()
@runs_argument
@click.option("-o", "--out", type=PathType(), help="Folder of the report.  [default: RUN/report]")
@click.option("--no-study", is_flag=True, help="Leave out the study: no correlations, no silent zone.")
@calibration_option
@study_options
@json_option
def report(
    runs: Sequence[Path],
    out: Path | None,
    no_study: bool,
    calibration: Sequence[Path],
    json_path: str | None,
    read: Callable[[Sequence[Path]], Cohort],
    ask: Callable[[Cohort], Findings],
) -> None:
    """Write report.html (one file, no network), card.md for the model page, CSV files, and the plots as PNG and SVG.

    RUN is a folder with a results.json; runs of the same base and settings are reported together. What --calibration
    finds is added to results.json.

    \b
    Examples:
      quantprobe report smollm2.run
      quantprobe report mine.run imported.run -o report --equivalence-margin 2%
    """
    from quantprobe.report.report import write_report
    from quantprobe.run.json_text import plain, write_json

    with open_output(json_path) as output:
        if calibration:
            from quantprobe.run.folder import RunFolder
            from quantprobe.sweep.calibration import add_overlaps

            for run in runs:
                add_overlaps(RunFolder.of(run), calibration)
        cohort = read(runs)
        folder = out or cohort.runs[0].report
        findings = None if no_study else ask(cohort)
        written = write_report(cohort, folder, findings)
        if findings is not None:
            document = plain(findings.to_dict())
            write_json(document, folder / "study.json")
            output.write_json(document)
        plots = sum(path.suffix in (".png", ".svg") for path in written)
        texts = [path.name for path in written if path.parent == folder]
        output.say(f"Written to {folder}: {', '.join(texts)}, and {plots} plots in plots")
