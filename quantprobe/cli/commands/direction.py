"""quantprobe direction: answers produced by another program."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from quantprobe.cli.shared.options import PathType, equivalence_margin_option, json_option
from quantprobe.cli.shared.output import details_option, open_output
from quantprobe.cli.shared.run_files import finish_run


@click.command(short_help="Compare answers produced by another program.")
@click.argument("base", type=PathType(), metavar="BASE_ANSWERS")
@click.argument("quants", type=PathType(), nargs=-1, required=True, metavar="QUANT_ANSWERS...")
@click.option("--metric", help="Metric or scorer that decides what is right.  [default: acc, else exact_match]")
@click.option("--filter", "filter_name", help="lm-evaluation-harness filter, if a file holds several.")
@equivalence_margin_option
@click.option(
    "-o",
    "--out",
    "run",
    type=PathType(),
    metavar="RUN",
    help="Run folder to write, for quantprobe flips, study and report.",
)
@details_option
@json_option
def direction(
    base: Path,
    quants: Sequence[Path],
    metric: str | None,
    filter_name: str | None,
    margin: float,
    run: Path | None,
    details: bool,
    json_path: str | None,
) -> None:  # fmt: skip
    """Compare the answers of quants with those of their base, item by item, from any benchmark.

    Reads samples_*.jsonl of lm-evaluation-harness (--log_samples), logs of inspect_ai (.eval, .json), and JSONL or CSV
    files with item_id, correct and, optionally, prediction and group. Items are matched by id.

    \b
    Examples:
      quantprobe direction base/samples_gsm8k.jsonl q4/samples_gsm8k.jsonl q8/samples_gsm8k.jsonl
      quantprobe direction base.csv q4.csv --equivalence-margin 0.005 --out imported.run --json -
    """
    from quantprobe.imports.build import build_run, write_imported
    from quantprobe.imports.sources import NamedFile, read_answer_files
    from quantprobe.run.folder import RunFolder

    with open_output(json_path) as output:
        files = [NamedFile(None, quant) for quant in quants]
        found = build_run(read_answer_files(base, files, metric=metric, filter_name=filter_name), margin=margin)
        if run is not None:
            write_imported(found, RunFolder(run))
        finish_run(found.results, run, output, details)
