"""quantprobe sweep: the main job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from quantprobe.cli.shared.cluster_options import cluster_options, crew_of, require_for_cluster
from quantprobe.cli.shared.decide_options import decide_options
from quantprobe.cli.shared.hub_inputs import hub_inputs, supplies_of
from quantprobe.cli.shared.model_args import find_base, find_quants
from quantprobe.cli.shared.options import (
    PathType,
    base_argument,
    calibration_option,
    equivalence_margin_option,
    input_options,
    json_option,
    replace_option,
)
from quantprobe.cli.shared.output import details_option, open_output
from quantprobe.cli.shared.progress import open_progress
from quantprobe.cli.shared.quant_plans import imatrix_option, show_plans, types_option
from quantprobe.cli.shared.run_files import finish_run
from quantprobe.cli.shared.settings_options import varied_settings_options
from quantprobe.errors import InputError

if TYPE_CHECKING:
    from quantprobe.cluster import ClusterPlace
    from quantprobe.hub.choosing import Choice
    from quantprobe.settings import Settings
    from quantprobe.sweep import Budget, Inputs


@click.command()
@hub_inputs
@base_argument
@click.argument("quants", nargs=-1, metavar="[QUANT]...")
@input_options
@types_option(required=False)
@imatrix_option
@click.option(
    "--keep",
    type=click.Choice(["all", "none"]),
    default="all",
    show_default=True,
    help="Whether files that are made for --types (in RUN/quants) or fetched for hf:// stay, or are made or fetched "
    "one at a time and go when they have been measured.",
)
@click.option("-o", "--out", "run", type=PathType(), help="Run folder.  [default: the base's name + .run]")
@click.option(
    "--kind",
    type=click.Choice(["hidden", "logprobs"]),
    help="How the base's rows are stored.  [default: hidden if exact]",
)
@equivalence_margin_option
@decide_options
@calibration_option
@replace_option
@cluster_options
@varied_settings_options
@details_option
@json_option
def sweep(
    base: Path,
    quants: Sequence[str],
    inputs: Inputs,
    types: Sequence[str],
    imatrices: Sequence[Path | None],
    keep: str,
    run: Path | None,
    kind: str | None,
    margin: float,
    decide: Budget | None,
    precision: float | None,
    calibration: Sequence[Path],
    replaces: bool,
    settings: Settings,
    cache_types: Mapping[str, Sequence[str]],
    details: bool,
    json_path: str | None,
    cluster: ClusterPlace | None,
    allow: Sequence[str],
    on_demand: Sequence[Choice] = (),
) -> None:
    """Measure every QUANT against BASE on texts and multiple-choice questions.

    BASE is captured once; then each QUANT is compared with it. QUANT is a GGUF file, a folder of them, or a pattern;
    for a split model, give its first part. Re-run the command to resume; finished work is recognised by content hash.

    --types makes quants as `quantprobe quantize` does, in RUN/quants, and measures them too. Variants of one type, by
    importance matrix or cache type, are compared in pairs: helped, hurt, or cannot be told.

    Models and inputs may be addresses of the hub: hf://OWNER/REPO:Q4_K_M, or hf://OWNER/REPO for all of its quants.

    --cluster measures the quants on other machines, which run `quantprobe worker`; the base is captured here.

    \b
    Examples:
      quantprobe sweep model-BF16.gguf quants/ --text wiki.test.raw
      quantprobe sweep model-BF16.gguf model-Q4_K_M.gguf model-Q8_0.gguf \\
          --text wiki=wiki.test.raw --text code=code.txt --chunks 100 -ngl all -o run
      quantprobe sweep model-BF16.gguf quants/ --task arc=ARC-Challenge.jsonl --task mmlu/ --few-shot 5
      quantprobe sweep model-BF16.gguf quants/ --text wiki.test.raw --task mmlu/ --decide --budget 20m
      quantprobe sweep model-BF16.gguf --types Q4_K_M,IQ4_XS --imatrix none --imatrix a.gguf --imatrix b.gguf \\
          --text wiki.test.raw --keep none
      quantprobe sweep model-BF16.gguf quants/ --text wiki.test.raw --cache-type-k f16 --cache-type-k q8_0
      quantprobe sweep hf://me/model-GGUF:BF16 hf://me/model-GGUF --text wiki.test.raw --keep none
      quantprobe sweep model-BF16.gguf quants/ --text wiki.test.raw --cluster tcp://10.0.0.1:8786
    """
    from quantprobe import sweep as job
    from quantprobe.gguf.parts import model_name

    base = find_base(base)
    if not quants and not types and not on_demand:
        raise InputError("there is nothing to measure; give quants, or --types to make some")
    if imatrices and not types:
        raise InputError("--imatrix is used for the quants of --types; name some types, or leave it out")
    if cluster is not None:
        require_for_cluster(decide is None, not types or keep == "all")
    files = find_quants(quants, base)
    variants = job.cache_variants(settings, cache_types["type_k"], cache_types["type_v"])
    run = run or Path(f"{model_name(base)}.run")
    with open_output(json_path) as output:
        making = job.plan_making(base, types, imatrices, keep == "all") if types else None
        if making is not None:
            show_plans(output, making.orders, making.plans)
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
                variants=variants,
                making=making,
                supplies=supplies_of(base, run, on_demand, files, progress),
                calibration=calibration,
                workers=crew_of(cluster, base, allow),
            )
        finish_run(outcome.results, run, output, details, outcome.llama, is_written=True)
