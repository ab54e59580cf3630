"""quantprobe direction: answers that another program made."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from quantprobe.cli.shared.options import PathType, equivalence_margin_option, json_option
from quantprobe.cli.shared.output import open_output
from quantprobe.cli.shared.run_files import show_tasks, write_run

if TYPE_CHECKING:
    from quantprobe.imports.pairing import FileDirection
    from quantprobe.run.results_file import Json


@click.command(short_help="Tell which way answers moved that another program made.")
@click.argument("base", type=PathType(), metavar="BASE_ANSWERS")
@click.argument("quants", type=PathType(), nargs=-1, required=True, metavar="QUANT_ANSWERS...")
@click.option("--metric", help="Metric or scorer that says what is right.  [default: acc, else exact_match]")
@click.option("--filter", "filter_name", help="lm-evaluation-harness filter, where a file holds several.")
@equivalence_margin_option
@click.option(
    "-o",
    "--out",
    "run",
    type=PathType(),
    metavar="RUN",
    help="Run folder for results.json, tables and items, for quantprobe flips and study.",
)
@json_option
def direction(
    base: Path,
    quants: Sequence[Path],
    metric: str | None,
    filter_name: str | None,
    margin: float,
    run: Path | None,
    json_path: str | None,
) -> None:  # fmt: skip
    """Compare the answers of quants with their base's, item by item, whatever benchmark they are from.

    Reads lm-evaluation-harness samples_*.jsonl (--log_samples), inspect_ai logs (.eval, .json), and JSONL or CSV with
    item_id, correct and optionally prediction and group. Items are matched by id.

    \b
    Examples:
      quantprobe direction base/samples_gsm8k.jsonl q4/samples_gsm8k.jsonl q8/samples_gsm8k.jsonl
      quantprobe direction base.csv q4.csv --equivalence-margin 0.005 --out imported.run --json -
    """
    from quantprobe.imports.pairing import direction_of_files
    from quantprobe.report.results_view import parse_results

    with open_output(json_path) as output:
        found = direction_of_files(base, quants, margin, metric=metric, filter_name=filter_name)
        document = describe_answers(base, found, margin)
        view = parse_results(document)
        show_tasks(view, output)
        if run is not None:
            write_items_of(found, base.stem, run)
            _, written = write_run(document, run)
            output.say(f"Which answers changed: quantprobe flips {run} QUANT")
            output.say(f"Written to {run}: items, {', '.join(written)}")
        output.write_json(document)


def write_items_of(found: Sequence[FileDirection], task: str, run: Path) -> None:
    """`RUN/items/QUANT/TASK.csv` of every quant."""
    from quantprobe.names import safe_name
    from quantprobe.run.items import write_items

    for one in found:
        write_items(run / "items" / safe_name(one.name) / f"{safe_name(task)}.csv", one.base, one.quant)


def describe_answers(base: Path, found: Sequence[FileDirection], margin: float) -> dict[str, Json]:
    """Imported answers in the form of results.json; what a file of answers cannot tell is null."""
    from quantprobe.gguf.parts import hash_files
    from quantprobe.run.results_file import BASE, FORMAT_VERSION, QUANT, plain

    def identity(name: str, path: Path, keys: Sequence[str]) -> dict[str, Json]:
        known = {"name": name, "path": str(path), "sha256": hash_files([path])}
        texts = {"architecture": "", "tokenizer_sha256": "", "file_type": ""}
        return {key: known.get(key, texts.get(key)) for key in keys}

    return {
        "format_version": FORMAT_VERSION,
        "base": {**identity(base.stem, base, BASE)},
        "settings": {"imported": True, "metric": found[0].summary.rule, "margin": margin},
        "null_control": {"texts": {}, "tasks": {}},
        "tasks": {},
        "quants": [
            {
                **identity(one.name, one.path, QUANT),
                "imatrix": None,
                "texts": {},
                "tasks": {base.stem: plain(one.summary)},
            }
            for one in found
        ],
        "study": None,
    }
