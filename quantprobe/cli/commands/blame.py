"""quantprobe blame: which tensors cost distance, and which cost answers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from quantprobe.cli.shared.hub_inputs import hub_inputs
from quantprobe.cli.shared.model_args import find_base, find_quants
from quantprobe.cli.shared.options import PathType, base_argument, input_options, json_option
from quantprobe.cli.shared.output import Output, open_output
from quantprobe.cli.shared.progress import open_progress
from quantprobe.cli.shared.settings_options import settings_options
from quantprobe.errors import InputError

if TYPE_CHECKING:
    from quantprobe.blame.prospect import Cost, Prospect
    from quantprobe.settings import Settings
    from quantprobe.sweep import Inputs

_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}


class Duration(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """A time such as `90s`, `30m` or `1.5h`, in seconds."""

    name = "TIME"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        text = str(value).strip()
        try:
            seconds = float(text[:-1]) * _SECONDS[text[-1:]]
        except (KeyError, ValueError):
            seconds = 0.0
        if not 0 < seconds < float("inf"):
            self.fail(f"{value!r} is not a time such as 90s, 30m or 1.5h", param, ctx)
        return seconds


@click.command()
@hub_inputs
@base_argument
@click.argument("quant", type=PathType())
@input_options
@click.option("-o", "--out", "run", type=PathType(), help="Run folder.  [default: the quant's name + .blame]")
@click.option(
    "--by",
    multiple=True,
    default=("role",),
    show_default=True,
    metavar="GROUPING|REGEX",
    help="Groups of tensors: role, layer, role,depth, tensor, or patterns of tensor names, each a group (repeat).",
)
@click.option(
    "--parts",
    "n_parts",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    metavar="N",
    help="Parts of the layers that layer and role,depth make; as many as there are layers: each by itself.",
)
@click.option(
    "--design",
    type=click.Choice(["auto", "single", "hadamard", "foldover"]),
    default="auto",
    show_default=True,
    help="One group at a time, or half of the groups in every hybrid; foldover also tells products of groups apart.",
)
@click.option(
    "--way",
    type=click.Choice(["restored", "alone", "both"]),
    default="restored",
    show_default=True,
    help="With one group at a time: the quant with the base's group, the base with all but the quant's, or both.",
)
@click.option("--budget", type=Duration(), help="Time for the hybrids (90s, 30m, 1.5h); picks the design.")
@click.option("--dry-run", is_flag=True, help="Only show groups, sizes, types, and what the run would cost.")
@settings_options
@json_option
def blame(
    base: Path,
    quant: Path,
    inputs: Inputs,
    run: Path | None,
    by: Sequence[str],
    n_parts: int,
    design: str,
    way: str,
    budget: float | None,
    dry_run: bool,
    settings: Settings,
    json_path: str | None,
) -> None:
    """Measure what each group of tensors of QUANT costs against BASE.

    Hybrids take some tensors from BASE and the others from QUANT, one at a time on disk, and are measured as in sweep.
    Effects are paired on the same rows and questions; their intervals hold for all groups together. Re-run the command
    to resume: hybrids that were measured are kept by content.

    \b
    Examples:
      quantprobe blame model-F16.gguf model-IQ4_XS.gguf --text wiki.txt --chunks 8 --task arc.jsonl --dry-run
      quantprobe blame model-F16.gguf model-IQ4_XS.gguf --text wiki.txt --task arc.jsonl --by role,depth --budget 30m
      quantprobe blame model-F16.gguf model-IQ4_XS.gguf --task arc.jsonl --by 'attn_v' --by 'ffn_down' --way both
    """
    from quantprobe.blame.job import blame as make_blame
    from quantprobe.blame.prospect import Plan, cost_of, plan_blame
    from quantprobe.gguf.parts import model_name
    from quantprobe.report.finish import write_run
    from quantprobe.report.plots.blame import blame_pictures
    from quantprobe.report.plots.style import write_picture
    from quantprobe.report.tables.blame import blame_sentences, effects_tables
    from quantprobe.run.folder import RunFolder
    from quantprobe.run.json_text import plain

    base = find_base(base)
    [file] = find_quants([str(quant)], base)
    plan = Plan(tuple(by), n_parts, design, way, budget)
    if way != "restored" and design in ("hadamard", "foldover"):
        raise InputError(f"--way {way} is for --design single; a {design} design restores half of the groups at a time")
    with open_output(json_path) as output:
        with open_progress() as progress:
            if dry_run:
                prospect = plan_blame(base, file, plan, progress)
                cost = cost_of(prospect, inputs, settings, progress)
        if dry_run:
            _show(prospect, cost, output)
            return
        folder = run or Path(f"{model_name(file)}.blame")
        with open_progress() as progress:
            _, found = make_blame(base, file, inputs, settings, folder, progress, plan)
        _, written = write_run(None, RunFolder(folder))
        drawn = [write_picture(picture, folder)[0].name for picture in blame_pictures(found)]
        for table in effects_tables(found):
            output.table(table)
        for sentence in blame_sentences(found):
            output.say(sentence)
        output.say(f"Written to {folder}: {', '.join(('blame.json', *drawn, *written))}")
        output.write_json(plain(found))


def _show(prospect: Prospect, cost: Cost, output: Output) -> None:
    from quantprobe.blame.prospect import group_records
    from quantprobe.report.tables.blame import groups_table
    from quantprobe.run.json_text import plain

    records = group_records(prospect.groups)
    output.table(groups_table(records))
    output.say(cost.sentence())
    output.write_json({"groups": plain(records), "cost": plain(cost)})
