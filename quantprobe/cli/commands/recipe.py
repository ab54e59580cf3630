"""quantprobe recipe: types for the tensors of a quant, from what a blame measured."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from quantprobe.cli.shared.hub_inputs import hub_inputs
from quantprobe.cli.shared.model_args import find_base
from quantprobe.cli.shared.options import PathType, json_option, optional_input_options
from quantprobe.cli.shared.output import Output, open_output
from quantprobe.cli.shared.progress import open_progress
from quantprobe.cli.shared.settings_options import settings_options
from quantprobe.errors import InputError

if TYPE_CHECKING:
    from quantprobe.blame.recipe import Mix
    from quantprobe.blame.verify import Verified
    from quantprobe.run.json_text import Json
    from quantprobe.settings import Settings
    from quantprobe.sweep import Inputs

_UNITS = {"MB": 10**6, "GB": 10**9, "MIB": 2**20, "GIB": 2**30}


class FileSize(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """A size such as `4.2GB`, `900MB` or `3.9GiB`, in bytes; or a GGUF file, for its size."""

    name = "SIZE|FILE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(MB|GB|MIB|GIB)", str(value).strip().upper())
        size = int(float(match[1]) * _UNITS[match[2]]) if match else 0
        if not match and Path(str(value)).is_file():
            size = Path(str(value)).stat().st_size
        if not size:
            self.fail(f"{value!r} is neither a size such as 4.2GB, 900MB or 3.9GiB nor a file", param, ctx)
        return size


@click.command()
@hub_inputs
@click.argument("blame_run", type=PathType())
@click.option("--size", type=FileSize(), required=True, help="Largest size of the file, such as 4.2GB; or a file's.")
@click.option(
    "--objective",
    type=click.Choice(["distance", "answers", "both"]),
    default="answers",
    show_default=True,
    help="What the mix of types is to keep: little KLD, the margin of right answers, or both.",
)
@click.option("--base", type=PathType(), metavar="FILE", help="The base.  [default: where the blame found it]")
@click.option("--types", metavar="TYPE,...", help="Types to choose from.  [default: all without importance matrix]")
@click.option("--imatrix", type=PathType(), metavar="FILE", help="Importance matrix for both quants of --verify.")
@click.option("--verify", is_flag=True, help="Make the quant and measure it beside a standard one of its size.")
@click.option(
    "--against",
    type=PathType(),
    metavar="FILE",
    help="The quant to verify against.  [default: the largest standard type of at most this size, made here]",
)
@click.option("-o", "--out", "run", type=PathType(), help="Run folder of --verify.  [default: BLAME_RUN/recipe]")
@optional_input_options
@settings_options
@json_option
def recipe(
    blame_run: Path,
    size: int,
    objective: str,
    base: Path | None,
    types: str | None,
    imatrix: Path | None,
    verify: bool,
    against: Path | None,
    run: Path | None,
    inputs: Inputs | None,
    settings: Settings,
    json_path: str | None,
) -> None:
    """Choose a type for each group of BLAME_RUN, so that the file is at most SIZE and costs the least by a model.

    The model takes what a group costs to grow with the square of its weight error, and costs to add up. It claims
    nothing about the file: --verify makes it and measures it on texts and questions that the blame never saw.

    \b
    Examples:
      quantprobe recipe model-IQ4_XS.blame --size 4.2GB
      quantprobe recipe model-IQ4_XS.blame --size model-IQ4_XS.gguf --objective both \\
          --verify --text other.txt --task other.jsonl
    """
    from quantprobe.blame.recipe import make_mix
    from quantprobe.blame.verify import make_files, require_held_out
    from quantprobe.blame.verify import verify as measure
    from quantprobe.engine.type_errors import MEASURABLE
    from quantprobe.run.blame import read_blame
    from quantprobe.run.folder import RunFolder

    if verify != (inputs is not None):
        raise InputError("--verify measures on held-out --text or --task inputs; give both, or neither")
    folder = RunFolder.of(blame_run)
    blame = read_blame(folder)
    base = find_base(base or Path(blame.base.path))
    names = [name.strip().upper() for name in types.split(",") if name.strip()] if types else list(MEASURABLE)
    unknown = [name for name in names if name not in MEASURABLE]
    if unknown:
        raise InputError(f"--types {unknown[0]}: expected some of {', '.join(MEASURABLE)}")
    with open_output(json_path) as output:
        with open_progress() as progress:
            if inputs is not None:
                require_held_out(blame, folder, inputs, base, settings, progress)
            mix = make_mix(blame, base, size, objective, progress, names, imatrix)
        _show(mix, base, output)
        verified: Verified | None = None
        if inputs is not None:
            out = run or folder.path / "recipe"
            with open_progress() as progress:
                files = make_files(mix, base, out / "quants", against, progress, imatrix)
                verified = measure(mix, base, files, inputs, settings, out, progress)
            _show_verified(verified, output)
            output.say(f"Written to {out}: recipe.json, results.json and the rest of a run")
        output.write_json(_document(mix, base, verified))


def _show(mix: Mix, base: Path, output: Output) -> None:
    from quantprobe.report.tables.recipe import mix_table

    output.table(mix_table(mix.groups, mix.choice.options, mix.plan.size_bytes))
    left = f"{mix.choice.distance:.4f} nats of KLD"
    lost = "" if mix.choice.margin is None else f", {mix.choice.margin:.3f} nats of margin lost"
    output.say(f"By the model, which nothing has measured yet: {left}{lost}")
    for command in mix.commands(base):
        output.say(f"\n{command}")


def _show_verified(verified: Verified, output: Output) -> None:
    from quantprobe.report.tables.recipe import versus_table

    measures: Sequence[Any] = verified.measures
    output.table(
        versus_table(
            f"{verified.recipe} ({verified.recipe_bytes / 1e6:.1f} MB) against {verified.standard} "
            f"({verified.standard_bytes / 1e6:.1f} MB), paired; positive: the recipe is better",
            [(each.measure, each.difference, each.verdict) for each in measures],
        )
    )
    answer = verified.verdict()
    made_for = "distance" if verified.objective == "distance" else "the margin of right answers"
    words = f"is {answer}" if answer != "cannot be told" else "cannot be told from it"
    output.say(f"In {made_for}, the recipe {words} (95 % interval, held-out rows and questions).")


def _document(mix: Mix, base: Path, verified: Verified | None) -> Json:
    from quantprobe.run.json_text import plain

    types = {group: option.type_name for group, option in zip(mix.groups, mix.choice.options, strict=True)}
    document: dict[str, Json] = {
        "types": plain(types),
        "size_bytes": mix.plan.size_bytes,
        "objective": mix.objective,
        "model_distance": mix.choice.distance,
        "model_margin": mix.choice.margin,
        "options": plain(mix.options()),
        "commands": plain(mix.commands(base)),
        "verified": None if verified is None else verified.to_dict(),
    }
    return document
