"""quantprobe flips: the items whose answer changed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from quantprobe.cli.shared.options import PathType, json_option
from quantprobe.cli.shared.output import open_output
from quantprobe.errors import InputError


@click.command(short_help="List the questions whose answer changed, biggest shift first.")
@click.argument("run", type=PathType())
@click.argument("quant")
@click.option("--task", metavar="NAME", help="Only this task.  [default: all]")
@click.option("--group", metavar="NAME", help="Only this group (subject).  [default: all]")
@click.option("--limit", type=click.IntRange(min=0), metavar="N", help="At most so many of each task.  [default: all]")
@json_option
def flips(run: Path, quant: str, task: str | None, group: str | None, limit: int | None, json_path: str | None) -> None:
    """List the questions that QUANT answered differently from the base, from the files in RUN.

    QUANT is the quant's name, its file, or a part that no other name holds. A drop was right in the base and is wrong
    now, a leapfrog the other way round. The biggest change of log P(right) - log P(best wrong) comes first.

    \b
    Examples:
      quantprobe flips model.run Q4_K_M
      quantprobe flips model.run Q4_K_M --task arc --limit 10
      quantprobe flips model.run Q4_K_M --json - | jq '.tasks[].items[].id'
    """
    from quantprobe.report.flips import count_kinds, find_quant, format_flip, read_flips

    with open_output(json_path) as output:
        name, tasks = find_quant(run, quant)
        if not tasks or (task is not None and task not in tasks):
            wanted = f"no task {task!r}" if tasks else "no tasks"
            raise InputError(f"{run} has {wanted} for {name}; it has {', '.join(tasks) or 'texts alone'}")
        found = [read_flips(run, name, one, group) for one in (tasks if task is None else [task])]
        if group is not None:
            found = [one for one in found if one.n_items]
            if not found:
                raise InputError(f"no item of {task or 'any task'} in {run} is in a group {group!r}")
        for changed in found:
            shown = changed.flips[:limit]
            some = f"; the first {len(shown):,}" if len(shown) < len(changed.flips) else ""
            output.say(f"{name} on {count_kinds(changed)}{some}\n")
            for flip in shown:
                output.say(format_flip(flip) + "\n")
        cut = [{**one.to_dict(), "items": replace(one, flips=one.flips[:limit]).to_dict()["items"]} for one in found]
        output.write_json({"quant": name, "tasks": [*cut]})
