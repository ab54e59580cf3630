"""quantprobe direction: answers produced by another program."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from quantprobe.cli.shared.import_options import join_run, like_option, named_files
from quantprobe.cli.shared.options import PathType, json_option, run_margin_option
from quantprobe.cli.shared.output import details_option, open_output
from quantprobe.cli.shared.run_files import finish_run
from quantprobe.probes.grouping import GROUPINGS


@click.command()
@click.argument("base", type=PathType(), metavar="BASE_ANSWERS")
@click.argument("quants", nargs=-1, required=True, metavar="[QUANT=]QUANT_ANSWERS...")
@click.option("--task", metavar="NAME", help="Name of the task.  [default: that of the base's file]")
@click.option("--metric", help="Metric or scorer that decides what is right.  [default: acc, else exact_match]")
@click.option("--filter", "filter_name", help="lm-evaluation-harness filter, if a file holds several.")
@click.option(
    "--groups",
    "grouping",
    type=click.Choice(GROUPINGS),
    help="What the groups of the items are: kinds (strata), sources of several items (clusters), or neither.  "
    "[default: strata for lm-eval's subjects, clusters for epochs, else none]",
)
@run_margin_option
@like_option
@click.option(
    "-o",
    "--out",
    "run",
    type=PathType(),
    metavar="RUN",
    help="New run folder to write, for quantprobe flips, study and report.",
)
@details_option
@json_option
def direction(
    base: Path,
    quants: Sequence[str],
    task: str | None,
    metric: str | None,
    filter_name: str | None,
    grouping: str | None,
    margin: float | None,
    like: Path | None,
    run: Path | None,
    details: bool,
    json_path: str | None,
) -> None:
    """Compare the answers of quants with those of their base, item by item, from any benchmark.

    Reads samples_*.jsonl of lm-evaluation-harness (--log_samples), logs of inspect_ai (.eval, .json), and JSONL or CSV
    files with item_id, correct and, optionally, prediction and group. Items are matched by id. Give a file as
    QUANT=FILE to name its quant; otherwise the file's name is used.

    \b
    Examples:
      quantprobe direction base/samples_gsm8k.jsonl q4/samples_gsm8k.jsonl q8/samples_gsm8k.jsonl
      quantprobe direction base.csv Q4_K_M=q4.csv --task gsm8k --like model.run --out gsm8k.run
    """
    from quantprobe.imports.build import write_imported
    from quantprobe.imports.sources import read_answer_files
    from quantprobe.run.folder import RunFolder

    with open_output(json_path) as output:
        found = read_answer_files(base, named_files(quants), task, metric, filter_name, grouping)
        imported = join_run(found, like, margin)
        if run is not None:
            write_imported(imported, RunFolder(run))
        for note in imported.notes:
            output.say(note)
        finish_run(imported.results, run, output, details)
