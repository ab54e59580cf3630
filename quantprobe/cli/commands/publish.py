"""quantprobe publish: a run's results into a repository of the hub."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from quantprobe.cli.shared.options import PathType
from quantprobe.cli.shared.output import Output, open_output
from quantprobe.cli.shared.study_options import study_options
from quantprobe.errors import InputError

if TYPE_CHECKING:
    from quantprobe.hub.publishing import Publication
    from quantprobe.run.cohort import Cohort
    from quantprobe.study.findings import Findings


@click.command()
@click.argument("run", type=PathType())
@click.argument("address", metavar="hf://OWNER/REPO")
@click.option("--capture", "with_capture", is_flag=True, help="Also upload the base's capture, for `compare`.")
@click.option("--dry-run", is_flag=True, help="Show what would change, and stop.")
@click.option("--yes", is_flag=True, help="Do not ask before the commit.")
@study_options
def publish(
    run: Path,
    address: str,
    with_capture: bool,
    dry_run: bool,
    yes: bool,
    read: Callable[[Sequence[Path]], Cohort],
    ask: Callable[[Cohort], Findings],
) -> None:
    """Write the model card's section, its metadata, the plots and results.json of RUN into a repository, in one commit.

    The section stands between markers in README.md. Nothing outside them changes.

    \b
    Examples:
      quantprobe publish model.run hf://me/model-GGUF --dry-run
      quantprobe publish model.run hf://me/model-GGUF --capture --yes
    """
    from quantprobe.hub.address import parse_address
    from quantprobe.hub.publishing import prepare_publication
    from quantprobe.hub.publishing import publish as commit

    to = parse_address(address)
    with open_output(None) as output:
        cohort = read([run])
        publication = prepare_publication(cohort, ask(cohort) if cohort.quants else None, to, with_capture)
        _show(publication, output)
        if not publication.changes:
            output.say(f"{to} has all of this already")
        elif dry_run:
            output.say("Nothing was written (--dry-run)")
        elif yes or _agreed(f"Commit this to {to}?"):
            output.say(f"Committed: {commit(publication, f'quantprobe: quants of {cohort.base.name}')}")


def _agreed(question: str) -> bool:
    if not sys.stdin.isatty():
        raise InputError("nobody can be asked whether to commit; give --yes, or --dry-run to look only")
    return click.confirm(question)


def _show(publication: Publication, output: Output) -> None:
    """The card's difference, and every file with its size."""
    for line in publication.diff():
        output.say(line)
    for note in publication.notes:
        output.say(note)
    for upload in publication.uploads:
        output.say(f"{upload.state:<7}  {upload.size:>15,} B  {upload.path}")
