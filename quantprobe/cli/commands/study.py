"""quantprobe study: does fidelity predict accuracy over these quants, and which one to take."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from quantprobe.cli.shared.options import PathType, json_option
from quantprobe.cli.shared.output import details_option, open_output
from quantprobe.cli.shared.study_options import runs_argument, study_options

if TYPE_CHECKING:
    from quantprobe.run.cohort import Cohort
    from quantprobe.study.findings import Findings


@click.command()
@runs_argument
@click.option("-o", "--out", type=PathType(), help="File for the findings.  [default: RUN/study.json]")
@study_options
@details_option
@json_option
def study(
    runs: Sequence[Path],
    out: Path | None,
    details: bool,
    json_path: str | None,
    read: Callable[[Sequence[Path]], Cohort],
    ask: Callable[[Cohort], Findings],
) -> None:
    """Ask whether fidelity predicts accuracy across the quants of all RUNs, where it does not, and which quant to take.

    RUN is a folder with a results.json; runs of the same base and settings form one cohort. No model is loaded.

    \b
    Examples:
      quantprobe study smollm2.run
      quantprobe study mine.run imported.run --equivalence-margin 2% --zone bpw:4-6.5
    """
    from quantprobe.report.notes import differences
    from quantprobe.report.terminal import describe_study
    from quantprobe.run.json_text import plain, write_json

    with open_output(json_path) as output:
        cohort = read(runs)
        findings = ask(cohort)
        for note in differences(cohort):
            output.say(note)
        output.show(describe_study(findings, output.width, details))
        path = out or cohort.runs[0].study
        document = plain(findings.to_dict())
        write_json(document, path)
        output.say(f"Written to {path}")
        output.write_json(document)
