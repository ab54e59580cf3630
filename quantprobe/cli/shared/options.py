"""Options that several commands share, with llama.cpp's names where llama.cpp has them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from quantprobe.errors import InputError
from quantprobe.probes.grouping import GROUPINGS
from quantprobe.probes.rules import DEFAULTS, RULES
from quantprobe.probes.scores import ASSISTANT, SCORES
from quantprobe.probes.templates import FORMATS, TEMPLATES
from quantprobe.settings import EQUIVALENCE_MARGIN

if TYPE_CHECKING:
    from quantprobe.sweep import Inputs, TaskInput, TextInput

Command = TypeVar("Command", bound=Callable[..., Any])


class PathType(click.Path):
    """A path as `pathlib.Path`; whether it exists is asked where its absence can be explained."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(path_type=Path, **kwargs)


class Share(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """A share, above 0 and below 1: `1%` or `0.01`."""

    name = "SHARE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            share = read_share(str(value))
        except ValueError:
            self.fail(f"{value!r} is not a share such as 1% or 0.01", param, ctx)
        if not 0 < share < 1:
            self.fail(f"{value} must lie between 0 and 100 %; write 1% or 0.01 for one percentage point", param, ctx)
        return share


def read_share(text: str) -> float:
    """The fraction that `1%` or `0.01` stands for; raises ValueError for other text."""
    text = text.strip()
    return float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)


def stack(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Several option decorators as one, listed by --help in this order."""

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


_TEXTS = stack(
    click.option("--text", "texts", multiple=True, metavar="[NAME=]FILE",
                 help="Text to measure on (UTF-8), or chats, one JSON object with `messages` a line; repeat for "
                 "several. NAME defaults to the file's name."),
    click.option("--chunks", "n_chunks", type=click.IntRange(min=1), metavar="N",
                 help="Windows of each text (of chats, conversations) to measure.  [default: all]"),
    click.option("--parse-special", is_flag=True,
                 help="Read <|im_start|> and its like in texts as special tokens, not as plain text."),
    click.option("--score-from", type=click.IntRange(min=0), metavar="N",
                 help="First scored position of each window of a text, counted from 0; all from there on count.  "
                 "[default: the middle, as llama-perplexity]"),
    click.option("--score", type=click.Choice(SCORES), default=ASSISTANT, show_default=True,
                 help="Which tokens of chats count: those that the assistant says, or all."),
)  # fmt: skip

_STYLES = {"cloze": "the choices continue the text", "letter": "their letters do"}
_TEMPLATES = "; ".join(
    f"{', '.join(each.name for each in TEMPLATES.values() if each.style == style)} ({words})"
    for style, words in _STYLES.items()
)
_RULES = ", ".join(f"{rule.name} ({rule.help})" for rule in RULES.values())
_DEFAULT_RULES = "{} for letter prompts, {} where text follows the choices, else {}".format(*DEFAULTS)

_PROMPTING = stack(
    click.option("--task-format", metavar="FORMAT",
                 help=f"Form of the question files, where it is not recognised: {', '.join(FORMATS)}."),
    click.option("--groups", "grouping", type=click.Choice(GROUPINGS),
                 help="What the groups of the questions are: kinds of question (strata), sources of several questions "
                 "(clusters), or neither.  [default: by format or file]"),
    click.option("--task-template", metavar="NAME",
                 help=f"Prompt: {_TEMPLATES}.  [default: as lm-evaluation-harness, by format]"),
    click.option("--task-rule", metavar="RULE",
                 help=f"What decides the answer: {_RULES}.  [default: {_DEFAULT_RULES}]"),
    click.option("--few-shot", type=click.IntRange(min=0), default=0, metavar="K",
                 help="Solved examples before each question, from the dev part of a folder or --few-shot-file."),
    click.option("--few-shot-file", type=PathType(), metavar="FILE", help="Question file to take the examples from."),
    click.option("--chat-template", is_flag=True, help="Put every prompt into the model's own chat template."),
    click.option("--task-items", "n_items", type=click.IntRange(min=1), metavar="N",
                 help="Questions of each file, drawn as llama-perplexity draws them.  [default: all]"),
    click.option("--skip-bad", is_flag=True, help="Leave broken questions out and count them, instead of stopping."),
)  # fmt: skip

PROMPTING = tuple(str(option.name) for option in _PROMPTING(click.Command("names")).params)
"""Names of the options that say how questions are read and prompted."""

_TASKS = click.option(
    "--task", "tasks", multiple=True, metavar="[NAME=]FILE",
    help="Multiple-choice questions to measure on, a file or an MMLU folder; repeat for several.",
)  # fmt: skip


_MARGIN = "Smallest change of accuracy that matters: 1% or 0.01 is one percentage point."
_DEFAULT_MARGIN = f"{100 * EQUIVALENCE_MARGIN:g}%"


def _margin_option(default: float | None, help: str) -> Callable[[Command], Command]:
    """`--margin` is the name that the option had before."""
    return click.option("--equivalence-margin", "--margin", "margin", type=Share(), default=default, help=help)


equivalence_margin_option = _margin_option(
    EQUIVALENCE_MARGIN, f"{_MARGIN} Fix it before looking.  [default: {_DEFAULT_MARGIN}]"
)
run_margin_option = _margin_option(None, f"{_MARGIN}  [default: the run's own, else {_DEFAULT_MARGIN}]")
"""For commands that read runs: None unless it is given (`quantprobe.settings.margin_of` has the run's own)."""

replace_option = click.option(
    "--replace",
    "replaces",
    is_flag=True,
    help="Keep in the results only what this command names, not what the run folder has from earlier ones.",
)

allow_option = click.option(
    "--allow",
    multiple=True,
    metavar="SETTING",
    help="A setting that moves logits and may differ all the same, for example backend; repeat for several.",
)

llama_compat_option = click.option(
    "--llama-compat",
    is_flag=True,
    help="Do as llama-perplexity does: texts in its own arithmetic (its statistics are printed too), Winogrande with "
    "its known slip.",
)


def prompting_options(command: Command) -> Command:
    """Adds the options that say how questions are read and prompted; the command gets them as `prompting`."""

    @_PROMPTING
    @functools.wraps(command)
    def with_prompting(*args: Any, **kwargs: Any) -> Any:
        values = {name.removeprefix("task_"): kwargs.pop(name) for name in PROMPTING}
        return command(*args, prompting=values, **kwargs)

    return with_prompting  # type: ignore[return-value]


def input_options(command: Command) -> Command:
    """Adds the options that say what is measured; the command gets them as one `inputs`."""
    return _input_options(command, is_needed=True)


def optional_input_options(command: Command) -> Command:
    """`input_options`, where nothing may be given: `inputs` is None then."""
    return _input_options(command, is_needed=False)


def _input_options(command: Command, is_needed: bool) -> Command:

    @_TEXTS
    @_TASKS
    @prompting_options
    @llama_compat_option
    @functools.wraps(command)
    def with_inputs(
        *args: Any, texts: Sequence[str], tasks: Sequence[str], prompting: Mapping[str, Any], n_chunks: int | None,
        parse_special: bool, score_from: int | None, score: str, llama_compat: bool, **kwargs: Any,
    ) -> Any:  # fmt: skip
        from quantprobe.sweep import Inputs

        named = (*named_files("text", texts), *named_files("task", tasks))
        refuse_twice(named)
        if not named and not is_needed:
            return command(*args, inputs=None, **kwargs)
        inputs: Inputs = Inputs(
            texts=named_texts([file for file in named if file.kind == "text"]),
            tasks=named_tasks([file for file in named if file.kind == "task"], prompting),
            n_chunks=n_chunks,
            parse_special=parse_special,
            score_from=score_from,
            score=score,
            llama_compat=llama_compat,
        )
        return command(*args, inputs=inputs, **kwargs)

    return with_inputs  # type: ignore[return-value]


@dataclass(frozen=True)
class NamedFile:
    """A `[NAME=]FILE` of the option `--KIND`."""

    kind: str
    name: str
    path: Path


def named_files(kind: str, values: Sequence[str]) -> list[NamedFile]:
    """`[NAME=]FILE` options. Raises `InputError` for a missing file; a task may be a folder."""
    files = [NamedFile(kind, *_split_name(value)) for value in values]
    for file in files:
        if not (file.path.is_file() or (kind == "task" and file.path.is_dir())):
            what = "question file or folder" if kind == "task" else "text file"
            raise InputError(f"there is no {what} {file.path}; --{kind} takes [NAME=]FILE")
    return files


def refuse_twice(files: Sequence[NamedFile]) -> None:
    """Raises `InputError` for a file given twice to one option, and for two of one name."""
    for i, file in enumerate(files):
        for other in files[:i]:
            if other.kind == file.kind and other.path.samefile(file.path):
                raise InputError(f"the {file.kind} {file.path} is given twice")
            # names become file names, and macOS and Windows do not tell upper from lower case in those
            if other.name.casefold() == file.name.casefold():
                both = f"two {file.kind}s" if other.kind == file.kind else "a text and a task"
                raise InputError(
                    f"{both} are named {file.name!r}, {other.path} and {file.path}; "
                    f"name one with --{file.kind} NAME=FILE"
                )


def named_texts(files: Sequence[NamedFile]) -> tuple[TextInput, ...]:
    """Named files as texts."""
    from quantprobe.sweep import TextInput

    return tuple(TextInput(file.name, file.path) for file in files)


def named_tasks(files: Sequence[NamedFile], prompting: Mapping[str, Any]) -> tuple[TaskInput, ...]:
    """Named files as tasks, all prompted in the same way."""
    from quantprobe.sweep import TaskInput

    return tuple(TaskInput(file.name, file.path, **prompting) for file in files)


def _split_name(value: str) -> tuple[str, Path]:
    """Name and file of an option; a file or folder whose own name holds `=` is taken as it is."""
    name, equals, file = value.partition("=")
    if not equals or Path(value).exists():
        path = Path(value)
        return (path.resolve().name if path.is_dir() else path.stem), path
    return name.strip(), Path(file)


calibration_option = click.option(
    "--calibration",
    type=PathType(exists=True, dir_okay=False),
    multiple=True,
    metavar="FILE",
    help="Text that importance matrices were made from: how much of it is measured on is told. A file that a quant "
    "names is read by itself, if it is there.",
)

json_option = click.option(
    "--json",
    "json_path",
    type=click.Path(allow_dash=True, dir_okay=False),
    metavar="PATH|-",
    help="Also write the results as JSON to PATH; with -, to standard output, which then holds nothing else.",
)

quants_argument = click.argument("quants", nargs=-1, required=True, metavar="QUANT...")
base_argument = click.argument("base", type=PathType())
