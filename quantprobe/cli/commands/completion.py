"""quantprobe completion: scripts for the shell."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the script that lets SHELL complete the commands and options of quantprobe.

    \b
    Examples:
      eval "$(quantprobe completion bash)"              (in ~/.bashrc)
      eval "$(quantprobe completion zsh)"               (in ~/.zshrc)
      quantprobe completion fish > ~/.config/fish/completions/quantprobe.fish
    """
    script = get_completion_class(shell)
    assert script is not None
    click.echo(script(ctx.find_root().command, {}, "quantprobe", "_QUANTPROBE_COMPLETE").source())
