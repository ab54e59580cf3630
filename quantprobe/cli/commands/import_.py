"""quantprobe import: measurements made elsewhere become a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from quantprobe.cli.shared.options import PathType, equivalence_margin_option
from quantprobe.errors import InputError

if TYPE_CHECKING:
    from quantprobe.imports.build import Import


@click.command("import", short_help="Turn llama-perplexity logs or a published CSV into a run.")
@click.argument("files", nargs=-1, required=True, metavar="[QUANT=]FILE...")
@click.option("-o", "--out", "run", type=PathType(), required=True, help="Run folder to write.")
@click.option(
    "--text", metavar="NAME", help="Name of the text that the --kl-divergence logs or the CSV were measured on."
)
@click.option("--task", metavar="NAME", help="Name of the task of --hellaswag logs and the like.")
@click.option(
    "--base-log", type=PathType(), metavar="FILE", help="The base's own log of the task, from which drops are counted."
)
@click.option("--base-name", default="unknown base", show_default=True, help="Name of the base.")
@click.option(
    "--like",
    type=PathType(),
    metavar="RUN",
    help="A run with the same base and settings, to be studied together; that they are the same is your word.",
)
@equivalence_margin_option
def import_results(
    files: Sequence[str],
    run: Path,
    text: str | None,
    task: str | None,
    base_log: Path | None,
    base_name: str,
    like: Path | None,
    margin: float,
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
    from quantprobe.imports.build import build_run, write_imported
    from quantprobe.run.cohort import read_cohort
    from quantprobe.run.folder import RunFolder

    cohort = None if like is None else read_cohort([like])
    found = build_run(_read(files, text, task, base_log, base_name), cohort, margin)
    write_imported(found, RunFolder(run))
    for note in found.notes:
        click.echo(note)
    click.echo(f"Imported {len(found.results.quants)} quants into {run}; next: quantprobe report {run}")
    if like is None:
        click.echo("Without --like, base and settings are unknown, so this run can only be studied by itself.")


def _read(files: Sequence[str], text: str | None, task: str | None, base_log: Path | None, base_name: str) -> Import:
    from quantprobe.imports.sources import NamedFile, read_logs, read_tables

    named = [NamedFile(*_split(value)) for value in files]
    tables = [file.path for file in named if file.path.suffix.lower() == ".csv"]
    if not tables:
        return read_logs(named, base_name, text, task, base_log)
    if len(tables) < len(named) or base_log is not None:
        raise InputError("a CSV is imported by itself, with --text naming what it was measured on")
    return read_tables(tables, base_name, text)


def _split(value: str) -> tuple[str | None, Path]:
    name, equals, file = value.partition("=")
    return (None, Path(value)) if not equals or Path(value).is_file() else (name, Path(file))
