"""quantprobe import: measurements made elsewhere become a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from quantprobe.cli.shared.import_options import join_run, like_option, named_files
from quantprobe.cli.shared.options import PathType, run_margin_option
from quantprobe.cli.shared.output import echo
from quantprobe.errors import InputError


@click.command("import")
@click.argument("files", nargs=-1, required=True, metavar="[QUANT=]FILE...")
@click.option("-o", "--out", "run", type=PathType(), required=True, metavar="RUN", help="New run folder to write.")
@click.option(
    "--text", metavar="NAME", help="Name of the text that the --kl-divergence logs or the CSV were measured on."
)
@click.option("--task", metavar="NAME", help="Name of the task of --hellaswag logs and the like.")
@click.option(
    "--base-log", type=PathType(), metavar="FILE", help="The base's own log of the task, from which drops are counted."
)
@click.option("--base-name", default="unknown base", show_default=True, help="Name of the base, without --like.")
@like_option
@run_margin_option
def import_results(
    files: Sequence[str],
    run: Path,
    text: str | None,
    task: str | None,
    base_log: Path | None,
    base_name: str,
    like: Path | None,
    margin: float | None,
) -> None:
    """Turn what llama-perplexity printed, or a published CSV, into a run that study, report and diff can read.

    Give each log as QUANT=FILE; without QUANT the file's name is used. A CSV (model_name, Mean KLD_mean, ...) names its
    own quants.

    \b
    Examples:
      quantprobe import -o old.run --text wiki Q8_0=q8.log Q4_K_M=q4.log
      quantprobe import -o hella.run --task hellaswag --base-log bf16.log Q4_K_M=q4.log --like mine.run
      quantprobe import -o published.run --text wiki kld_data.csv
    """
    from quantprobe.imports.build import write_imported
    from quantprobe.imports.sources import read_logs, read_tables
    from quantprobe.run.folder import RunFolder

    named = named_files(files)
    tables = [file.path for file in named if file.path.suffix.lower() == ".csv"]
    if not tables:
        found = read_logs(named, base_name, text, task, base_log)
    elif len(tables) == len(named) and base_log is None:
        found = read_tables(tables, base_name, text)
    else:
        raise InputError("a CSV is imported by itself, with --text naming what it was measured on")
    imported = join_run(found, like, margin)
    write_imported(imported, RunFolder(run))
    for note in imported.notes:
        echo(note)
    together = f"quantprobe study {like} {run}" if like else f"quantprobe report {run}"
    echo(f"Imported {len(found.quants)} quants into {run}; next: {together}")
    if like is None:
        echo("Without --like, base and settings are unknown, so this run can only be studied by itself.")
