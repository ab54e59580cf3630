"""quantprobe sweep: the main job."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from quantprobe.cli.shared.decide_options import decide_options
from quantprobe.cli.shared.model_args import find_base, find_quants
from quantprobe.cli.shared.options import (
    PathType,
    base_argument,
    equivalence_margin_option,
    input_options,
    json_option,
    quants_argument,
    replace_option,
)
from quantprobe.cli.shared.output import details_option, open_output
from quantprobe.cli.shared.progress import open_progress
from quantprobe.cli.shared.run_files import finish_run
from quantprobe.cli.shared.settings_options import settings_options

if TYPE_CHECKING:
    from quantprobe.settings import Settings
    from quantprobe.sweep import Budget, Inputs


@click.command(short_help="Measure quants against their base: the main command.")
@base_argument
@quants_argument
@input_options
@click.option("-o", "--out", "run", type=PathType(), help="Run folder.  [default: the base's name + .run]")
@click.option(
    "--kind",
    type=click.Choice(["hidden", "logprobs"]),
    help="How the base's rows are stored.  [default: hidden if exact]",
)
@equivalence_margin_option
@decide_options
@replace_option
@settings_options
@details_option
@json_option
def sweep(
    base: Path,
    quants: Sequence[str],
    inputs: Inputs,
    run: Path | None,
    kind: str | None,
    margin: float,
    decide: Budget | None,
    precision: float | None,
    replaces: bool,
    settings: Settings,
    details: bool,
    json_path: str | None,
) -> None:
    """Measure every QUANT against BASE on texts and multiple-choice questions.

    BASE is captured once; then each QUANT is compared with it. QUANT is a GGUF file, a folder of them, or a pattern;
    for a split model, give its first part. Re-run the command to resume; finished work is recognised by content hash.

    \b
    Examples:
      quantprobe sweep model-BF16.gguf quants/ --text wiki.test.raw
      quantprobe sweep model-BF16.gguf model-Q4_K_M.gguf model-Q8_0.gguf \\
          --text wiki=wiki.test.raw --text code=code.txt --chunks 100 -ngl all -o run
      quantprobe sweep model-BF16.gguf quants/ --task arc=ARC-Challenge.jsonl --task mmlu/ --few-shot 5
      quantprobe sweep model-BF16.gguf quants/ --text wiki.test.raw --task mmlu/ --decide --budget 20m
    """
    from quantprobe import sweep as job
    from quantprobe.gguf.parts import model_name

    base = find_base(base)
    files = find_quants(quants, base)
    run = run or Path(f"{model_name(base)}.run")
    with open_output(json_path) as output:
        with open_progress() as progress:
            compat = inputs.llama_compat
            outcome = job.sweep(
                base,
                files,
                inputs,
                settings,
                run,
                progress,
                kind=kind,
                llama_compat=compat,
                margin=margin,
                decide=decide,
                precision=precision,
                replaces=replaces,
            )  # fmt: skip
        finish_run(outcome.results, run, output, details, outcome.llama, is_written=True)
