"""quantprobe imatrix: importance matrices made, shown, merged, compared, converted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from quantprobe.cli.shared.hub_inputs import hub_inputs
from quantprobe.cli.shared.model_args import find_base
from quantprobe.cli.shared.options import PathType, base_argument, json_option
from quantprobe.cli.shared.output import details_option, open_output
from quantprobe.cli.shared.progress import open_progress
from quantprobe.cli.shared.settings_options import settings_options
from quantprobe.errors import InputError

if TYPE_CHECKING:
    from quantprobe.cli.shared.output import Output
    from quantprobe.imatrix.matrix import Entry
    from quantprobe.imatrix.overlap import Overlap
    from quantprobe.settings import Settings


@click.group()
def imatrix() -> None:
    """Importance matrices: what the inputs of a model's weights look like on a text, for quantizing.

    \b
    Examples:
      quantprobe imatrix collect model-BF16.gguf --text calibration.txt --out imatrix.gguf
      quantprobe imatrix show imatrix.gguf
    """


out_option = click.option(
    "-o", "--out", type=PathType(), required=True, metavar="FILE",
    help="File to write: .dat for llama.cpp's old form, else GGUF.",
)  # fmt: skip


@imatrix.command(short_help="Collect an importance matrix on a text, as llama-imatrix does.")
@hub_inputs
@base_argument
@click.option("--text", type=PathType(), required=True, metavar="FILE", help="Calibration text (UTF-8).")
@click.option("--chunks", "n_chunks", type=click.IntRange(min=1), metavar="N", help="Windows to use.  [default: all]")
@click.option("--process-output", is_flag=True, help="Also collect for output.weight.")
@click.option("--parse-special", is_flag=True, help="Read <|im_start|> and its like as special tokens.")
@click.option(
    "--check-against",
    "evaluations",
    type=PathType(),
    multiple=True,
    metavar="FILE",
    help="Text to be measured on: warn where it stands in the calibration text too; repeat for several.",
)
@out_option
@settings_options
@json_option
def collect(
    base: Path, text: Path, n_chunks: int | None, process_output: bool, parse_special: bool,
    evaluations: Sequence[Path], out: Path, settings: Settings, json_path: str | None,
) -> None:  # fmt: skip
    """Decode a text with BASE and sum the squared inputs of every weight, dense and of experts.

    The file is llama-imatrix's. Re-run the command to resume; two minutes are lost at most.

    \b
    Examples:
      quantprobe imatrix collect model-BF16.gguf --text calibration.txt --out imatrix.gguf
      quantprobe imatrix collect model-BF16.gguf --text calibration.txt --check-against wiki.test.raw --out imatrix.gguf
    """
    from quantprobe.sweep.collecting import CollectJob, check_overlap, collect_imatrix

    base = find_base(base)
    job = CollectJob(text, n_chunks, process_output, parse_special)
    with open_output(json_path) as output:
        overlaps = [(path, check_overlap(job, path)) for path in evaluations]
        for path, found in overlaps:
            output.say(_overlap_line(path, text, found))
        with open_progress() as progress:
            made = collect_imatrix(base, job, settings, out, progress)
        output.say(f"{out}: {len(made.entries)} weights, {made.n_chunks} chunks of {made.chunk_size} tokens")
        _say_unseen(output, made.entries)
        output.write_json(
            {
                "path": str(out),
                "n_entries": len(made.entries),
                "n_chunks": made.n_chunks,
                "chunk_size": made.chunk_size,
                "overlaps": [{"text": str(path), "n": o.n, "share": o.share} for path, o in overlaps],
            }
        )


def _overlap_line(path: Path, text: Path, found: Overlap) -> str:
    from quantprobe.imatrix.overlap import WORTH_A_WARNING

    line = f"{100 * found.share:.2g} % of the words of {path} stand in {text} too, in runs of {found.n} words or more"
    if found.share < WORTH_A_WARNING:
        return line
    return (
        f"warning: {line}, such as {found.example!r}; quants made with this matrix look better there than they are: "
        "measure on another text, or calibrate on one without these parts"
    )


def _say_unseen(output: Output, entries: Mapping[str, Entry]) -> None:
    unseen = {name: int((entry.counts == 0).sum()) for name, entry in entries.items()}
    n_unseen = sum(unseen.values())
    if n_unseen:
        names = [name for name, n in unseen.items() if n]
        output.say(
            f"{n_unseen} experts of {len(names)} weights saw no token (first: {names[0]}); they are quantized without "
            "weights: a longer text reaches more of them"
        )


@imatrix.command(short_help="Show an importance matrix by weight and layer, with the experts it reached.")
@click.argument("file", type=PathType())
@details_option
@json_option
def show(file: Path, details: bool, json_path: str | None) -> None:
    """Show what FILE says: by layer, with --details by weight.

    \b
    Examples:
      quantprobe imatrix show imatrix.gguf --details
    """
    from quantprobe.imatrix.file import read_imatrix
    from quantprobe.imatrix.statistics import describe
    from quantprobe.report.tables.imatrix import layer_table, weight_table
    from quantprobe.run.json_text import plain

    found = read_imatrix(file)
    tensors = describe(found)
    with open_output(json_path) as output:
        texts = ", ".join(found.datasets) or "an unnamed text"
        form = "the old form, which has no counts of tokens" if found.is_legacy else f"{found.chunk_size} tokens each"
        output.say(f"{file}: {len(tensors)} weights, {found.n_chunks} chunks ({form}), collected on {texts}")
        output.table(weight_table(tensors) if details else layer_table(tensors))
        _say_unseen(output, found.entries)
        output.write_json(
            {
                "datasets": list(found.datasets),
                "n_chunks": found.n_chunks,
                "chunk_size": found.chunk_size,
                "is_legacy": found.is_legacy,
                "tensors": plain(tensors),
            }
        )


@imatrix.command(short_help="Add up importance matrices of one model.")
@click.argument("files", nargs=-1, required=True, type=PathType(), metavar="FILE FILE...")
@click.option(
    "--chunk-size",
    type=click.IntRange(min=1),
    metavar="N",
    help="Tokens in a chunk, where files do not say it.  [default: that of the first file, else 512]",
)
@out_option
def merge(files: Sequence[Path], chunk_size: int | None, out: Path) -> None:
    """Add the sums and counts of FILEs: one matrix, in which every token has the same weight.

    \b
    Examples:
      quantprobe imatrix merge wiki.gguf code.gguf --out both.gguf
    """
    if len(files) < 2:
        raise InputError("merging needs at least two files; quantprobe imatrix convert writes one in another form")
    _write_merged(files, chunk_size, out)


@imatrix.command(short_help="Write an importance matrix as GGUF or in llama.cpp's old form.")
@click.argument("file", type=PathType())
@click.option(
    "--chunk-size",
    type=click.IntRange(min=1),
    metavar="N",
    help="Tokens in a chunk, where FILE does not say it.  [default: 512]",
)
@out_option
def convert(file: Path, chunk_size: int | None, out: Path) -> None:
    """Write FILE in the form that the name of --out asks for. The old form loses the tokens of each expert.

    \b
    Examples:
      quantprobe imatrix convert imatrix.dat --out imatrix.gguf
    """
    _write_merged([file], chunk_size, out)


def _write_merged(files: Sequence[Path], chunk_size: int | None, out: Path) -> None:
    from quantprobe.imatrix.file import read_imatrix, write_imatrix, write_legacy
    from quantprobe.imatrix.merging import merge as merge_files

    if any(out.exists() and out.samefile(file) for file in files):
        raise InputError(f"{out} is one of the files to read; give --out another name")
    merged = merge_files([read_imatrix(file) for file in files], [str(file) for file in files], chunk_size)
    if out.suffix.lower() == ".dat":
        write_legacy(out, merged, merged.chunk_size)
    else:
        write_imatrix(out, merged)
    click.echo(f"{out}: {len(merged.entries)} weights, {merged.n_chunks} chunks of {merged.chunk_size} tokens")


@imatrix.command(short_help="Compare two importance matrices of one model.")
@click.argument("first", type=PathType(), metavar="A")
@click.argument("second", type=PathType(), metavar="B")
@click.option("--plot", type=PathType(), metavar="FILE", help="Picture, layers by roles (.png or .svg).")
@details_option
@json_option
def compare(first: Path, second: Path, plot: Path | None, details: bool, json_path: str | None) -> None:
    """Compare B with A, weight by weight: the most different first.

    \b
    Examples:
      quantprobe imatrix compare wiki.gguf code.gguf
      quantprobe imatrix compare wiki.gguf code.gguf --plot difference.png
    """
    from quantprobe.imatrix.file import read_imatrix
    from quantprobe.imatrix.statistics import compare as compare_files
    from quantprobe.report.plots.imatrix import save_comparison
    from quantprobe.report.tables.imatrix import comparison_table
    from quantprobe.run.json_text import plain

    found = compare_files(read_imatrix(first), read_imatrix(second), [str(first), str(second)])
    with open_output(json_path) as output:
        output.table(comparison_table(found.tensors, None if details else 20))
        for file, names in ((first, found.only_a), (second, found.only_b)):
            if names:
                output.say(f"Only in {file}: {len(names)} weights, such as {names[0]}")
        if plot is not None:
            save_comparison(plot, found.tensors, first.name, second.name)
            output.say(f"Picture: {plot}")
        output.write_json(plain(found))
