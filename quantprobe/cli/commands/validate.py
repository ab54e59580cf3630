"""quantprobe validate: is a file fit to be published."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from quantprobe.cli.shared.hub_inputs import hub_inputs
from quantprobe.cli.shared.model_args import find_base, find_quants
from quantprobe.cli.shared.options import PathType, json_option
from quantprobe.cli.shared.output import details_option, open_output
from quantprobe.cli.shared.progress import open_progress
from quantprobe.cli.shared.settings_options import machine_options

if TYPE_CHECKING:
    from quantprobe.checks.validate import Task
    from quantprobe.run.json_text import Json
    from quantprobe.settings import Settings


@click.command()
@hub_inputs
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("--base", type=PathType(), metavar="GGUF", help="The model that the files were made from.")
@click.option(
    "--capture",
    type=PathType(),
    metavar="BASE.qpc",
    help="Judge the decode against this capture of the base, which somebody may have published.",
)
@click.option("--run", type=PathType(), metavar="RUN", help="Also judge what a sweep measured of these files.")
@click.option(
    "--policy",
    type=PathType(),
    metavar="FILE.toml",
    help="Gates on fidelity and direction, see docs/release.md.  [default with --run: not worse, no NaN]",
)
@click.option("--no-decode", is_flag=True, help="Load nothing: leave out the decode and its comparison with the base.")
@click.option("--junit", type=PathType(), metavar="FILE.xml", help="Also write the checks as JUnit XML.")
@click.option("--github", is_flag=True, help="Also print failures and warnings as annotations of a GitHub workflow.")
@machine_options
@details_option
@json_option
def validate(
    files: Sequence[str],
    base: Path | None,
    capture: Path | None,
    run: Path | None,
    policy: Path | None,
    no_decode: bool,
    junit: Path | None,
    github: bool,
    settings: Settings,
    details: bool,
    json_path: str | None,
) -> int:  # fmt: skip
    """Check every FILE: a GGUF file, a folder of them, or a pattern.

    Structure, parts and bytes of every tensor; metadata, tensor list, tokenizer, special tokens and chat template
    against the base's; types; NaN, infinities, zeros and outliers in every block; a sample of the weights; a short
    decode, finite and plausible beside the base's. With --run, also what was measured.

    The exit code is 0 if every check passed (warnings allowed), 1 if one failed, 2 if one could not be made.

    \b
    Examples:
      quantprobe validate quants/ --base model-BF16.gguf
      quantprobe validate model-Q4_K_M.gguf --capture base.qpc
      quantprobe validate quants/ --base model-BF16.gguf --run model.run --policy release.toml --junit checks.xml
    """
    from quantprobe.checks.outcome import exit_code
    from quantprobe.checks.validate import validate_files
    from quantprobe.files import write_whole
    from quantprobe.report.tables.checks import describe_report, github_annotations, junit_xml
    from quantprobe.run.json_text import plain

    with open_output(json_path) as output:
        task = replace(_task(base, capture, run, policy, settings), decode=not no_decode)
        paths = find_quants(files, None if base is None else find_base(base), orphans=True)
        with open_progress() as progress:
            reports = validate_files(paths, task, progress)
        for report in reports:
            output.say("\n".join(describe_report(report, details, brief=len(reports) > 1)))
        for line in github_annotations(reports) if github else ():
            output.say(line)
        if junit is not None:
            write_whole(junit, junit_xml(reports))
        status = exit_code(reports)
        documents: list[Json] = [{**plain(report), "status": report.status} for report in reports]
        output.write_json({"exit_code": status, "files": documents})
    return status


validate.error_status = 2  # type: ignore[attr-defined]


def _task(base: Path | None, capture: Path | None, run: Path | None, policy: Path | None, settings: Settings) -> Task:
    """Everything that the files are held against, read before any of them."""
    from quantprobe.checks.policy import read_policy
    from quantprobe.checks.validate import Task, captured_base
    from quantprobe.gguf.tensors import read_inventory
    from quantprobe.run.results import read_results

    return Task(
        base=None if base is None else read_inventory(find_base(base)),
        capture=capture,
        capture_base=None if capture is None else captured_base(capture),
        run=None if run is None else read_results(run),
        policy=None if policy is None else read_policy(policy),
        settings=settings,
    )
