"""quantprobe study: does fidelity predict accuracy over these quants, and which one to take."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from quantprobe.cli.shared.options import PathType, json_option
from quantprobe.cli.shared.output import open_output
from quantprobe.cli.shared.study_options import runs_argument, study_options

if TYPE_CHECKING:
    from quantprobe.run.cohort import Cohort
    from quantprobe.study.findings import Findings


@click.command(short_help="Ask whether fidelity predicts accuracy over the quants of runs.")
@runs_argument
@click.option("-o", "--out", type=PathType(), help="Where to write the findings.  [default: RUN/study.json]")
@study_options
@json_option
def study(
    runs: Sequence[Path],
    out: Path | None,
    json_path: str | None,
    read: Callable[[Sequence[Path]], Cohort],
    ask: Callable[[Cohort], Findings],
) -> None:
    """Ask whether fidelity predicts accuracy over the quants of all RUNs, where it does not, and which quant to take.

    RUN is a folder with a results.json. Runs of the same base and settings are one cohort. No model is loaded.

    \b
    Examples:
      quantprobe study smollm2.run
      quantprobe study mine.run imported.run --equivalence-margin 2% --zone noise
    """
    from quantprobe.report.tables.study import correlation_table, ranking_table
    from quantprobe.run.results_file import plain, write_json

    with open_output(json_path) as output:
        cohort = read(runs)
        findings = ask(cohort)
        for table in (ranking_table(findings, output.width), correlation_table(findings, output.width)):
            if table is not None:
                output.table(table)
                output.say()
        for sentence in findings.sentences:
            output.say(f"- {sentence}")
        path = out or cohort.runs[0] / "study.json"
        document = plain(findings.to_dict())
        write_json(document, path)
        output.say(f"\nWritten to {path}")
        output.write_json(document)
