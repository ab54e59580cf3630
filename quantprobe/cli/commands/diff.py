"""quantprobe diff: two runs of the same cohort."""

from __future__ import annotations

from pathlib import Path

import click

from quantprobe.cli.shared.options import PathType, json_option
from quantprobe.cli.shared.output import open_output


@click.command()
@click.argument("run_a", type=PathType())
@click.argument("run_b", type=PathType())
@json_option
def diff(run_a: Path, run_b: Path, json_path: str | None) -> None:
    """Compare two runs of the same quants, for example with another imatrix or llama.cpp, or GPU against CPU.

    Quants are matched by name, and paired row by row and item by item where both runs kept them. Changes are RUN_B
    minus RUN_A.

    \b
    Example:
      quantprobe diff cpu.run gpu.run
    """
    from quantprobe.report.tables.study import diff_table
    from quantprobe.study.diff import diff_runs

    with open_output(json_path) as output:
        found = diff_runs(run_a, run_b)
        output.table(diff_table(found))
        output.say()
        for sentence in found.sentences():
            output.say(f"- {sentence}")
        output.write_json(found.to_dict())
