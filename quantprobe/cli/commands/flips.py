"""quantprobe flips: the items whose answer changed."""

from __future__ import annotations

from pathlib import Path

import click

from quantprobe.cli.shared.options import PathType, json_option
from quantprobe.cli.shared.output import open_output


@click.command()
@click.argument("run", type=PathType())
@click.argument("quant")
@click.option("--task", metavar="NAME", help="Only this task.  [default: all]")
@click.option("--group", metavar="NAME", help="Only this group (subject).  [default: all]")
@click.option("--limit", type=click.IntRange(min=0), metavar="N", help="Show at most N per task.  [default: all]")
@json_option
def flips(run: Path, quant: str, task: str | None, group: str | None, limit: int | None, json_path: str | None) -> None:
    """List the questions in RUN that QUANT answered differently from the base.

    QUANT is the quant's name, its file, or a part of the name that fits no other quant. A drop was right in the base
    and is wrong in the quant; a leapfrog went the other way. The largest change of log P(right) - log P(best wrong)
    comes first.

    \b
    Examples:
      quantprobe flips model.run Q4_K_M
      quantprobe flips model.run Q4_K_M --task arc --limit 10
      quantprobe flips model.run Q4_K_M --json - | jq '.tasks[].items[].id'
    """
    from quantprobe.report.flips import count_kinds, find_flips, find_quant, format_flip
    from quantprobe.run.cohort import read_cohort

    with open_output(json_path) as output:
        cohort = read_cohort([run])
        found_quant = find_quant(cohort, quant)
        found = find_flips(cohort, found_quant, task, group)
        for changed in found:
            shown = changed.flips[:limit]
            some = f"; the first {len(shown):,}" if len(shown) < len(changed.flips) else ""
            output.say(f"{found_quant.name} on {count_kinds(changed)}{some}\n")
            for flip in shown:
                output.say(format_flip(flip) + "\n")
        output.write_json({"quant": found_quant.name, "tasks": [one.to_dict(limit) for one in found]})
