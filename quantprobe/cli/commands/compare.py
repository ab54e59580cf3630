"""quantprobe compare: quants against a capture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from quantprobe.cli.shared.decide_options import decide_options
from quantprobe.cli.shared.hub_inputs import hub_inputs
from quantprobe.cli.shared.model_args import find_quants
from quantprobe.cli.shared.options import (
    PathType,
    allow_option,
    calibration_option,
    equivalence_margin_option,
    json_option,
    llama_compat_option,
    quants_argument,
    replace_option,
)
from quantprobe.cli.shared.output import details_option, open_output
from quantprobe.cli.shared.progress import open_progress
from quantprobe.cli.shared.run_files import finish_run
from quantprobe.cli.shared.settings_options import changed_settings_options
from quantprobe.settings import FACTS, SETTINGS

if TYPE_CHECKING:
    from quantprobe.sweep import Budget


@click.command()
@hub_inputs
@click.argument("capture", type=PathType())
@quants_argument
@click.option("-o", "--out", "run", type=PathType(), help="Run folder.  [default: the capture's name + .run]")
@click.option(
    "--base-model",
    type=PathType(),
    metavar="FILE",
    help="The base's GGUF, if it is no longer at its recorded path.",
)
@allow_option
@click.option("--allow-settings-change", is_flag=True, hidden=True, help="Older form of --allow, for every setting.")
@llama_compat_option
@equivalence_margin_option
@decide_options
@calibration_option
@replace_option
@changed_settings_options
@details_option
@json_option
def compare(
    capture: Path,
    quants: Sequence[str],
    run: Path | None,
    base_model: Path | None,
    allow: Sequence[str],
    allow_settings_change: bool,
    llama_compat: bool,
    margin: float,
    decide: Budget | None,
    precision: float | None,
    calibration: Sequence[Path],
    replaces: bool,
    changes: Mapping[str, Any],
    cache_types: Mapping[str, Sequence[str]],
    details: bool,
    json_path: str | None,
) -> None:
    """Compare every QUANT with the base in CAPTURE.

    Models run under the settings of the capture; the options below override them. A setting that moves logits may
    differ from the capture's only where --allow names it, and the results record it. QUANT is a GGUF file, a folder of
    them, or a pattern; for a split model, give its first part.

    \b
    Examples:
      quantprobe compare base.qpc model-Q4_K_M.gguf
      quantprobe compare base.qpc quants/ --json results.json
      quantprobe compare imported.qpc model-Q4_K_M.gguf --llama-compat
      quantprobe compare base.qpc model-Q4_K_M.gguf --cache-type-k f16 --cache-type-k q8_0
    """
    from quantprobe.sweep import cache_variants, captured_settings, compare_quants

    files = find_quants(quants, base_model)
    run = run or Path(f"{capture.stem}.run")
    settings = captured_settings(capture, changes)
    variants = cache_variants(settings, cache_types["type_k"], cache_types["type_v"])
    with open_output(json_path) as output:
        with open_progress() as progress:
            outcome = compare_quants(
                capture,
                files,
                settings,
                run,
                progress,
                base_model=base_model,
                allow=(*SETTINGS, *FACTS) if allow_settings_change else allow,
                llama_compat=llama_compat,
                margin=margin,
                decide=decide,
                precision=precision,
                replaces=replaces,
                variants=variants,
                calibration=calibration,
            )
        finish_run(outcome.results, run, output, details, outcome.llama, is_written=True)
