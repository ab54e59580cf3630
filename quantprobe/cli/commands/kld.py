"""quantprobe kld: llama.cpp's own base files."""

from __future__ import annotations

from pathlib import Path

import click

from quantprobe.cli.shared.model_args import find_base
from quantprobe.cli.shared.options import PathType
from quantprobe.cli.shared.output import echo
from quantprobe.cli.shared.progress import open_progress


@click.group()
def kld() -> None:
    """Import and export the base files of llama-perplexity --kl-divergence-base.

    \b
    Examples:
      quantprobe kld import base.kld --model model-BF16.gguf -o base.qpc
      quantprobe kld export base.qpc base.kld
    """


@kld.command("import", short_help="Turn a base file into a capture.")
@click.argument("file", type=PathType())
@click.option("--model", type=PathType(), required=True, metavar="GGUF", help="The model that FILE was made from.")
@click.option("-o", "--out", type=PathType(), help="Capture folder.  [default: FILE's name + .qpc]")
def import_file(file: Path, model: Path, out: Path | None) -> None:
    """Turn FILE, written by llama-perplexity, into a capture; its records stay unchanged.

    \b
    Example:
      quantprobe kld import base.kld --model model-BF16.gguf -o base.qpc
    """
    from quantprobe.sweep.kld_files import import_kld

    out = out or Path(f"{file.stem}.qpc")
    with open_progress() as progress:
        import_kld(file, find_base(model), out, progress)
    echo(f"{out}: imported from {file}")


@kld.command("export", short_help="Turn a text of a capture into a base file.")
@click.argument("capture", type=PathType())
@click.argument("file", type=PathType())
@click.option("--text", metavar="NAME", help="Which text, if the capture has several.")
@click.option(
    "--base-model", type=PathType(), metavar="GGUF", help="The base, if it is no longer at its recorded path."
)
def export_file(capture: Path, file: Path, text: str | None, base_model: Path | None) -> None:
    """Write a text of CAPTURE to FILE, for llama-perplexity --kl-divergence.

    \b
    Example:
      quantprobe kld export base.qpc base.kld --text wiki
    """
    from quantprobe.sweep.kld_files import export_kld

    with open_progress() as progress:
        export_kld(capture, file, text, base_model, progress)
    echo(f"{file}: exported from {capture}")
