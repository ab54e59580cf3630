"""quantprobe import: measurements made elsewhere become a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from quantprobe.cli.shared.options import PathType, equivalence_margin_option
from quantprobe.errors import InputError

if TYPE_CHECKING:
    from quantprobe.imports.build import ImportedQuant


@click.command("import", short_help="Make a run of llama-perplexity logs or a published CSV.")
@click.argument("files", nargs=-1, required=True, metavar="[QUANT=]FILE...")
@click.option("-o", "--out", "run", type=PathType(), required=True, help="Run folder to write.")
@click.option("--text", metavar="NAME", help="The text that --kl-divergence logs, or the CSV, were measured on.")
@click.option("--task", metavar="NAME", help="The task that logs of --hellaswag and its like are of.")
@click.option("--base-log", type=PathType(), metavar="FILE", help="The base's own log of the task: gives drops.")
@click.option("--base-name", default="unknown base", show_default=True, help="Name of the base.")
@click.option(
    "--like",
    type=PathType(),
    metavar="RUN",
    help="A run with the same base and settings: you vouch for it, and both can be studied together.",
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
    """Make a run of what llama-perplexity printed, or of a published CSV, so that study, report and diff can read it.

    A log is named QUANT=FILE, by its file name otherwise. A CSV (model_name, Mean KLD_mean, ...) names its own.

    \b
    Examples:
      quantprobe import -o old.run --text wiki Q8_0=q8.log Q4_K_M=q4.log
      quantprobe import -o hella.run --task hellaswag --base-log bf16.log Q4_K_M=q4.log --like mine.run
      quantprobe import -o published.run --text wiki kld_data.csv
    """
    from quantprobe.imports.build import build_run
    from quantprobe.imports.imported_run import write_imported
    from quantprobe.imports.llama_logs import read_task_log
    from quantprobe.run.cohort import read_cohort

    if base_log is not None and task is None:
        raise InputError("--base-log is a log of a task; name the task with --task")
    quants, source = _read(files, text, task)
    base_answers = {} if base_log is None or task is None else {task: read_task_log(base_log).correct}
    cohort = None if like is None else read_cohort([like])
    write_imported(build_run(quants, base_name, base_answers, source, cohort, margin), run)
    click.echo(f"Imported {len(quants)} quants into {run}; next: quantprobe report {run}")
    if like is None:
        click.echo("Without --like the base and the settings are unknown: the run can be studied by itself only.")


def _read(files: Sequence[str], text: str | None, task: str | None) -> tuple[list[ImportedQuant], str]:
    from quantprobe.imports.build import import_csv, import_logs
    from quantprobe.imports.community_csv import read_community_csv

    named = [_split(value) for value in files]
    tables = [file for _, file in named if file.suffix.lower() == ".csv"]
    if not tables:
        return import_logs(named, text, task), "llama-perplexity log"
    if len(tables) < len(named) or text is None:
        raise InputError("a CSV is imported by itself, with --text naming what it was measured on")
    return [q for file in tables for q in import_csv(read_community_csv(file), text)], "published CSV"


def _split(value: str) -> tuple[str, Path]:
    name, equals, file = value.partition("=")
    if not equals or Path(value).is_file():
        return Path(value).name.removesuffix(".log").removesuffix(".txt").removesuffix(".stdout"), Path(value)
    return name, Path(file)
