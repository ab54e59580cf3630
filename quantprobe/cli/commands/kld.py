"""quantprobe kld: llama.cpp's own base files."""

from __future__ import annotations

from pathlib import Path

import click

from quantprobe.cli.shared.model_args import find_base
from quantprobe.cli.shared.options import PathType
from quantprobe.cli.shared.progress import open_progress


@click.group(short_help="Import and export llama.cpp's base files (llama-perplexity --kl-divergence-base).")
def kld() -> None:
    """Exchange bases with llama-perplexity.

    \b
    Examples:
      quantprobe kld import base.kld --model model-BF16.gguf -o base.qpc
      quantprobe kld export base.qpc base.kld
    """


@kld.command("import", short_help="Make a capture of a base file.")
@click.argument("file", type=PathType())
@click.option("--model", type=PathType(), required=True, metavar="GGUF", help="The model that FILE was made with.")
@click.option("-o", "--out", type=PathType(), help="Capture folder.  [default: FILE's name + .qpc]")
def import_file(file: Path, model: Path, out: Path | None) -> None:
    """Make a capture of FILE, which llama-perplexity wrote; its records stay as they are.

    \b
    Example:
      quantprobe kld import base.kld --model model-BF16.gguf -o base.qpc
    """
    from quantprobe.sweep import import_kld

    out = out or Path(f"{file.stem}.qpc")
    with open_progress() as progress:
        import_kld(file, find_base(model), out, progress)
    click.echo(f"{out}: imported from {file}")


@kld.command("export", short_help="Write a base file from a capture.")
@click.argument("capture", type=PathType())
@click.argument("file", type=PathType())
@click.option("--text", metavar="NAME", help="Which text, where the capture has several.")
@click.option(
    "--base-model", type=PathType(), metavar="GGUF", help="The base, where it is no longer at its recorded place."
)
def export_file(capture: Path, file: Path, text: str | None, base_model: Path | None) -> None:
    """Write a text of CAPTURE as FILE, for llama-perplexity --kl-divergence.

    \b
    Example:
      quantprobe kld export base.qpc base.kld --text wiki
    """
    from quantprobe.sweep import export_kld

    with open_progress() as progress:
        export_kld(capture, file, text, base_model, progress)
    click.echo(f"{file}: exported from {capture}")
