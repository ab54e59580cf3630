"""quantprobe capture: the base alone, once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from quantprobe.cli.shared.hub_inputs import hub_inputs
from quantprobe.cli.shared.model_args import find_base
from quantprobe.cli.shared.options import PathType, base_argument, input_options, json_option
from quantprobe.cli.shared.output import open_output
from quantprobe.cli.shared.progress import open_progress
from quantprobe.cli.shared.settings_options import settings_options

if TYPE_CHECKING:
    from quantprobe.run.json_text import Json
    from quantprobe.settings import Settings
    from quantprobe.sweep import Inputs


@click.command()
@hub_inputs
@base_argument
@input_options
@click.option("-o", "--out", type=PathType(), help="Capture folder.  [default: the base's name + .qpc]")
@click.option(
    "--kind", type=click.Choice(["hidden", "logprobs"]), help="How rows are stored.  [default: hidden if exact]"
)
@click.option(
    "--embed-head",
    is_flag=True,
    help="Copy the output matrix into the capture, so that comparing does not need the base.",
)
@settings_options
@json_option
def capture(
    base: Path,
    inputs: Inputs,
    out: Path | None,
    kind: str | None,
    embed_head: bool,
    settings: Settings,
    json_path: str | None,
) -> None:
    """Run BASE on texts and questions and store what `compare` needs.

    Re-run the command to resume; finished work is recognised by content hash. Texts and questions that the capture
    does not have yet are added to it.

    \b
    Examples:
      quantprobe capture model-BF16.gguf --text wiki.test.raw -o base.qpc
      quantprobe capture model-BF16.gguf --text wiki.test.raw --task arc.jsonl -o base.qpc
      quantprobe compare base.qpc quants/
    """
    from quantprobe.gguf.parts import model_name
    from quantprobe.report.numbers import format_size
    from quantprobe.sweep import capture_base

    base = find_base(base)
    out = out or Path(f"{model_name(base)}.qpc")
    with open_output(json_path) as output:
        with open_progress() as progress:
            made = capture_base(base, inputs, settings, out, progress, kind=kind, embed_head=embed_head)
        n_rows = sum(entry.n_rows for entry in made.meta.probes)
        output.say(f"{out}: {n_rows:,} rows of {made.meta.base.name} as {made.meta.kind}, {format_size(made.n_bytes)}")
        output.say(f"Next: quantprobe compare {out} QUANT...")
        numbers: dict[str, Json] = {"n_rows": n_rows, "n_bytes": made.n_bytes}
        output.write_json({"path": str(out), "kind": made.meta.kind, "sha256": made.sha256, **numbers})
