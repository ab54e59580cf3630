"""quantprobe inspect: what model files are made of."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from quantprobe.cli.shared.hub_inputs import hub_inputs
from quantprobe.cli.shared.model_args import find_base, find_quants
from quantprobe.cli.shared.options import PathType, json_option
from quantprobe.cli.shared.output import Output, details_option, open_output
from quantprobe.cli.shared.progress import open_progress
from quantprobe.errors import InputError

if TYPE_CHECKING:
    from quantprobe.checks.inspection import Inspection


@click.command("inspect")
@hub_inputs
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option(
    "--base",
    type=PathType(),
    metavar="GGUF",
    help="Compare with this model: tensors, tokenizer, template, metadata, and the error of every tensor's weights.",
)
@click.option(
    "--imatrix", type=PathType(), metavar="FILE", help="With --base: also weight the errors by this importance matrix."
)
@click.option(
    "--plot",
    type=PathType(),
    metavar="FILE.png",
    help="Write a picture of the bits by layer and role; of several models, one picture each.",
)
@details_option
@json_option
def inspect(
    files: Sequence[str],
    base: Path | None,
    imatrix: Path | None,
    plot: Path | None,
    details: bool,
    json_path: str | None,
) -> None:  # fmt: skip
    """Show architecture, size, bits per weight, the types of tensors by role and layer, fallback types, tokenizer,
    template and importance matrix of every FILE: a GGUF file, a folder of them, or a pattern.

    Fallback types are what llama-quantize uses where the rows of a tensor do not fit the blocks of the type that the
    mixture has for it. Without --base only headers are read, so this is quick for files of any size.

    \b
    Examples:
      quantprobe inspect model-Q4_K_M.gguf
      quantprobe inspect quants/ --plot layers.png
      quantprobe inspect model-IQ3_XXS.gguf --base model-BF16.gguf --imatrix imatrix.gguf --details
    """
    from quantprobe.checks.inspection import inspect_model
    from quantprobe.gguf.tensors import read_inventory
    from quantprobe.imatrix.file import read_imatrix
    from quantprobe.run.json_text import plain

    if imatrix is not None and base is None:
        raise InputError("--imatrix weights the errors of the weights, which need a base; give --base GGUF")
    with open_output(json_path) as output:
        reference = None if base is None else read_inventory(find_base(base))
        importance = None
        if imatrix is not None:
            entries = read_imatrix(imatrix).entries
            importance = {name: entry.means().reshape(-1) for name, entry in entries.items()}
        found = []
        with open_progress() as progress:
            for path in find_quants(files):
                progress.start(f"inspect {path.name}", None, "weights")
                found.append(inspect_model(path, reference, importance, progress.advance))
                progress.finish()
        _show(found, output, details)
        if plot is not None:
            from quantprobe.report.plots.layers import write_layers

            output.say(f"\nWritten: {', '.join(map(str, write_layers(found, plot)))}")
        output.write_json({"models": [plain(each) for each in found]})


def _show(found: Sequence[Inspection], output: Output, details: bool) -> None:
    from quantprobe.report.tables.inspect import describe_model, overview_table

    if len(found) > 1:
        output.table(overview_table(found))
    if len(found) == 1 or details:
        for each in found:
            for part in describe_model(each, details):
                output.say(part) if isinstance(part, str) else output.table(part)
            output.say()
