"""The `quantprobe` command, and the one place where errors become words and exit codes."""

from __future__ import annotations

import errno
import gc
import importlib
import os
import sys
from collections import UserDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import click

import quantprobe
from quantprobe.errors import QuantprobeError

FAILED, STOPPED = 1, 130
MAX_MESSAGE = 2000
"""Characters of an error that are shown."""
_ASKS_FOR_HELP = getattr(click.exceptions, "NoArgsIsHelpError", ())
"""What a group without a command raises since click 8.2; before, it printed its help by itself."""


class Commands(UserDict[str, click.Command]):
    """Commands by name, each imported when it is first asked for: `quantprobe --help` needs none of them.

    The command `make-task` is in `cli/commands/make_task.py`, one whose name Python has already in `import_.py`.
    """

    def __init__(self, helps: Mapping[str, str]) -> None:
        super().__init__()
        self.data: dict[str, Any] = dict.fromkeys(helps)
        self._helps = helps

    def __getitem__(self, name: str) -> click.Command:
        if self.data[name] is None:
            word = name.replace("-", "_")
            module = importlib.import_module(f"quantprobe.cli.commands.{_MODULES.get(word, word)}")
            found = next(
                each for each in vars(module).values() if isinstance(each, click.Command) and each.name == name
            )
            found.short_help = self._helps[name]
            self.data[name] = found
        command: click.Command = self.data[name]
        return command


_MODULES: Mapping[str, str] = {"import": "import_", "inspect": "inspect_"}


class Cli(click.Group):
    """A group whose errors are one line on standard error: exit code 1, or 130 when stopped by Ctrl-C.

    `sections` lists its commands under headings, with what they do.
    """

    def __init__(self, *args: Any, sections: Mapping[str, Mapping[str, str]] | None = None, **more: Any) -> None:
        super().__init__(*args, **more)
        self.sections = sections or {}
        if sections is not None:
            self.commands = Commands({name: text for listed in sections.values() for name, text in listed.items()})

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max((len(name) for listed in self.sections.values() for name in listed), default=0)
        for title, listed in self.sections.items():
            with formatter.section(title):
                formatter.write_dl([(f"{name:<{width}}", text) for name, text in listed.items()])

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:  # click would print an empty line
            raise click.exceptions.Abort from error

    def main(  # type: ignore[override,unused-ignore]
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        if not standalone_mode:
            return super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
        failed = self._error_status(args)
        try:
            status = super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
            sys.stdout.flush()
        except BrokenPipeError:
            _leave_quietly()
        except (click.exceptions.Abort, KeyboardInterrupt):
            _fail("stopped; re-run the command to resume", STOPPED)
        except click.ClickException as error:
            if isinstance(error, _ASKS_FOR_HELP):
                click.echo(error.format_message())
                sys.exit(0)
            _fail(f"error: {_with_hint(error)}", failed)
        except QuantprobeError as error:
            _fail(f"error: {error}", failed)
        except MemoryError:
            _fail("error: out of memory; a smaller --ctx-size or --ubatch-size needs less", failed)
        except OSError as error:
            _fail(f"error: {describe_os_error(error)}", failed)
        except ImportError as error:
            _fail(f"error: {error}", failed)
        else:
            sys.exit(status if isinstance(status, int) else 0)

    def _error_status(self, args: Sequence[str] | None) -> int:
        """The exit code of an error: a command may have its own, where 1 is one of its answers."""
        words = sys.argv[1:] if args is None else args
        try:
            return getattr(self.commands.get(words[0]) if words else None, "error_status", FAILED)
        except ImportError:  # told where the command is called
            return FAILED


def describe_os_error(error: OSError) -> str:
    """What the system refused, where, and what to do."""
    where = f"{error.filename}: " if error.filename else ""
    advice = {
        errno.ENOMEM: "; a smaller --ctx-size or --ubatch-size needs less",
        errno.ENOSPC: "; free some space and re-run the command",
        errno.EACCES: "; choose another folder, or change its permissions",
        errno.EPERM: "; choose another folder, or change its permissions",
        errno.EROFS: "; choose a writable folder",
    }.get(error.errno or 0, "")
    return f"{where}{error.strerror or error}{advice}"


def _with_hint(error: click.ClickException) -> str:
    message = error.format_message()
    if isinstance(error, click.UsageError) and error.ctx is not None:
        return f"{message.rstrip('.')} (see {error.ctx.command_path} --help)"
    return message


def _fail(message: str, status: int = FAILED) -> NoReturn:
    """One line on standard error, whatever line ends and controls the message has, and out."""
    from quantprobe.report.printable import printable

    line = printable("; ".join(line.strip() for line in message.splitlines() if line.strip()))
    if len(line) > MAX_MESSAGE:  # what was found in a damaged file may be the whole file
        line = f"{line[: MAX_MESSAGE - 500]} ... {line[-500:]}"
    click.echo(line, err=True)
    sys.exit(status)


def _leave_quietly() -> NoReturn:
    """The reader of our output has gone; nothing is left to say, and nothing must be flushed at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(FAILED)


def _print_versions(ctx: click.Context, parameter: click.Parameter, asked: bool) -> None:
    if not asked or ctx.resilient_parsing:
        return
    click.echo(f"quantprobe {quantprobe.__version__}")
    try:
        from quantprobe.engine.devices import versions

        known = versions()
        click.echo(f"llama-cpp-python {known.llama_cpp_python}")
        click.echo(f"llama.cpp {known.llama_cpp} ({', '.join(known.backends)})")
    except (ImportError, OSError, RuntimeError, QuantprobeError) as error:
        click.echo(f"llama.cpp cannot be loaded here, so models cannot be run: {error}")
    ctx.exit()


EPILOG = """\b
Examples:
  quantprobe demo
  quantprobe sweep model-BF16.gguf quants/ --text wiki.test.raw --task arc.jsonl
  quantprobe report model-BF16.run
  quantprobe COMMAND --help
"""
SECTIONS: Mapping[str, Mapping[str, str]] = {
    "Make": {
        "imatrix": "Collect, show, merge, compare and convert importance matrices.",
        "quantize": "Make a cohort of quants, with their sizes predicted first.",
        "recipe": "Choose a type for each group of tensors under a size limit, and verify the choice.",
    },
    "Measure": {
        "sweep": "Measure quants against their base: the main command.",
        "blame": "Ask which tensors of a quant cost distance, and which cost answers.",
        "capture": "Store the base's output, to compare quants later or elsewhere.",
        "compare": "Compare quants with a captured base.",
        "demo": "Make quants of a small model, measure them, explain the results.",
        "worker": "Lend this machine to sweeps that run elsewhere.",
    },
    "Check files": {
        "inspect": "Show what model files are made of, and how they differ from their base.",
        "validate": "Check that model files are whole, sound, and fit to be published.",
    },
    "Read the results": {
        "flips": "List the questions whose answer changed, largest shift first.",
        "report": "Write the HTML page, the plots and the model card of a run.",
        "study": "Ask whether fidelity predicts accuracy, and which quant to take.",
        "diff": "Compare two runs of the same quants: what moved beyond noise.",
        "publish": "Put a run's table, plots and numbers into a model card on the hub.",
    },
    "Bring results from elsewhere": {
        "direction": "Compare answers produced by another program.",
        "import": "Turn llama-perplexity logs or a published CSV into a run.",
        "kld": "Exchange base files with llama-perplexity --kl-divergence-base.",
    },
    "Plan and check": {
        "plan": "Show what N questions can detect, before you run them.",
        "make-task": "Make multiple-choice questions from any text.",
        "show-item": "Show the exact text and tokens of a question, and which are scored.",
        "devices": "List the backends and devices that llama.cpp can use here.",
        "completion": "Print a completion script for your shell.",
    },
}
"""Every command under its heading, with what `--help` says of it; its module is imported when it is called."""


@click.group(
    cls=Cli,
    sections=SECTIONS,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_versions,
    help="Show versions and exit.",
)
def cli() -> None:
    """Measure how far quantized GGUF models moved from their base, and which way their answers changed."""


def main() -> None:
    """Entry point of the `quantprobe` script."""
    # imports make 200,000 objects and hardly a cycle: at Python's 700 the collector takes 4 % of a finished run
    gc.set_threshold(50_000, 20, 20)
    for stream in (sys.stdout, sys.stderr):
        # Windows consoles and pipes may lack ± and Δ; a question mark is better than a traceback
        reconfigure: Callable[..., None] | None = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")
    cli()
