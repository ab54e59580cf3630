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

if TYPE_CHECKING:
    from quantprobe.sweep import Inputs, TaskInput, TextInput

Command = TypeVar("Command", bound=Callable[..., Any])

ALL_LAYERS = -1


class PathType(click.Path):
    """A path as `pathlib.Path`; whether it exists is asked where its absence can be explained."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(path_type=Path, **kwargs)


class Layers(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """A number of layers, or `all`."""

    name = "N|all"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if str(value).lower() in ("all", str(ALL_LAYERS)):
            return ALL_LAYERS
        try:
            layers = int(value)
        except ValueError:
            self.fail(f"{value!r} is neither a number of layers nor 'all'", param, ctx)
        if layers < 0:
            self.fail(f"{value} is not a number of layers", param, ctx)
        return layers


class TensorSplit(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """Shares of the devices, `3,1`."""

    name = "SHARES"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        if isinstance(value, tuple):
            return value
        try:
            shares = tuple(float(share) for share in str(value).replace("/", ",").split(","))
        except ValueError:
            self.fail(f"{value!r} is not a list of numbers such as 3,1", param, ctx)
        if not all(0 <= share < float("inf") for share in shares) or sum(shares) <= 0:
            self.fail(f"{value!r}: shares are at least 0 and one must be above 0", param, ctx)
        return shares


class OnOff(click.Choice):  # type: ignore[type-arg,unused-ignore]
    """`on` or `off`, as a bool."""

    def __init__(self) -> None:
        super().__init__(["on", "off"])

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return value if isinstance(value, bool) else super().convert(value, param, ctx) == "on"


def stack(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Several option decorators as one, listed by --help in this order."""

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


_SETTINGS = stack(
    click.option("-c", "--ctx-size", "n_ctx", type=click.IntRange(min=4), default=512, show_default=True, metavar="N",
                 help="Tokens in a window; the second half of each is scored."),
    click.option("-b", "--batch-size", "n_batch", type=click.IntRange(min=1), default=2048, show_default=True,
                 metavar="N", help="Tokens handed to llama.cpp at once."),
    click.option("-ub", "--ubatch-size", "n_ubatch", type=click.IntRange(min=1), default=512, show_default=True,
                 metavar="N", help="Tokens computed at once."),
    click.option("-np", "--parallel", "n_parallel", type=click.IntRange(1, 256), metavar="N",
                 help="Decode tasks in the batches of llama-perplexity -np N, for its very answers; "
                 "slower.  [default: our own]"),
    click.option("-t", "--threads", "n_threads", type=click.IntRange(min=1), metavar="N",
                 help="CPU threads.  [default: physical cores]"),
    click.option("-ngl", "--n-gpu-layers", type=Layers(), default="all", show_default=True, metavar="N|all",
                 help="Layers on the GPU, where there is one."),
    click.option("-mg", "--main-gpu", type=click.IntRange(min=0), default=0, show_default=True, metavar="INDEX",
                 help="GPU for what is not split."),
    click.option("-ts", "--tensor-split", type=TensorSplit(), default=(), help="Share of each GPU, for example 3,1."),
    click.option("-fa", "--flash-attn", type=OnOff(), default="on", show_default=True,
                 help="Flash attention. It moves logits, so it is always set and recorded."),
    click.option("-ctk", "--cache-type-k", "type_k", default="f16", show_default=True, metavar="TYPE",
                 help="Type of the K cache: f32, f16, bf16, q8_0, q5_1, q5_0, q4_1, q4_0, iq4_nl."),
    click.option("-ctv", "--cache-type-v", "type_v", default="f16", show_default=True, metavar="TYPE",
                 help="Type of the V cache; quantized types need --flash-attn on."),
    click.option("--no-mmap", "use_mmap", is_flag=True, flag_value=False, default=True,
                 help="Read the model into memory instead of mapping the file."),
)  # fmt: skip


_SETTING_NAMES = (
    "n_ctx", "n_batch", "n_ubatch", "n_threads", "n_gpu_layers", "main_gpu", "tensor_split", "flash_attn", "type_k",
    "type_v", "use_mmap", "n_parallel",
)  # fmt: skip


def settings_options(command: Command) -> Command:
    """Adds the options that say how models are run; the command gets them as one `settings`."""

    @_SETTINGS
    @functools.wraps(command)
    def with_settings(*args: Any, **kwargs: Any) -> Any:
        from quantprobe.settings import Settings

        values = {name: kwargs.pop(name) for name in _SETTING_NAMES}
        return command(*args, settings=Settings(**values), **kwargs)

    return with_settings  # type: ignore[return-value]


def changed_settings_options(command: Command) -> Command:
    """The same options where a capture has the settings already: the command gets those given as `changes`."""

    @_SETTINGS
    @click.pass_context
    @functools.wraps(command)
    def with_changes(ctx: click.Context, /, *args: Any, **kwargs: Any) -> Any:
        values = {name: kwargs.pop(name) for name in _SETTING_NAMES}
        given = {
            name: value
            for name, value in values.items()
            if ctx.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT
        }
        return command(*args, changes=given, **kwargs)

    for option in with_changes.__click_params__:  # type: ignore[attr-defined]
        # the default is the capture's setting, not the one that --help would show
        option.show_default = False
    return with_changes  # type: ignore[return-value]


_TEXTS = stack(
    click.option("--text", "texts", multiple=True, metavar="[NAME=]FILE",
                 help="Text to measure on (UTF-8); repeat for several. NAME defaults to the file's name."),
    click.option("--chunks", "n_chunks", type=click.IntRange(min=1), metavar="N",
                 help="Windows of each text to measure.  [default: all]"),
    click.option("--parse-special", is_flag=True,
                 help="Read <|im_start|> and its like in texts as special tokens, not as plain text."),
)  # fmt: skip

_PROMPTING = stack(
    click.option("--task-format", metavar="FORMAT",
                 help="Form of the question files, where it is not recognised: native, arc-jsonl, arc-labels-jsonl, "
                 "arc-original-jsonl, hellaswag-jsonl, query-jsonl, winogrande-jsonl, mmlu-jsonl, mmlu-csv, "
                 "mmlu-folder, truthfulqa-csv, hellaswag-text, winogrande-csv, multiple-choice-binary."),
    click.option("--groups", "grouping", type=click.Choice(GROUPINGS),
                 help="What the groups of the questions are: kinds of question (strata), sources of several questions "
                 "(clusters), or neither.  [default: by format or file]"),
    click.option("--task-template", metavar="NAME",
                 help="Prompt: plain, question, qa (the choices continue the text); letters, mmlu (their letters do).  "
                 "[default: as lm-evaluation-harness, by format]"),
    click.option("--task-rule", metavar="RULE",
                 help="What decides the answer: tokens (mean log-probability after the common prefix, as "
                 "llama-perplexity), sum (lm-eval acc), chars (lm-eval acc_norm), bytes; letter (letter prompts); "
                 "llama_winogrande, llama_winogrande_compat.  [default: by prompt letter, llama_winogrande, tokens]"),
    click.option("--few-shot", type=click.IntRange(min=0), default=0, metavar="K",
                 help="Solved examples before each question, from the dev part of a folder or --few-shot-file."),
    click.option("--few-shot-file", type=PathType(), metavar="FILE", help="Question file to take the examples from."),
    click.option("--chat-template", is_flag=True, help="Put every prompt into the model's own chat template."),
    click.option("--task-items", "n_items", type=click.IntRange(min=1), metavar="N",
                 help="Questions of each file, drawn as llama-perplexity draws them.  [default: all]"),
    click.option("--skip-bad", is_flag=True, help="Leave broken questions out and count them, instead of stopping."),
)  # fmt: skip

_PROMPTING_NAMES = (
    "task_format", "task_template", "task_rule", "few_shot", "few_shot_file", "chat_template", "n_items", "skip_bad",
    "grouping",
)  # fmt: skip

_TASKS = click.option(
    "--task", "tasks", multiple=True, metavar="[NAME=]FILE",
    help="Multiple-choice questions to measure on, a file or an MMLU folder; repeat for several.",
)  # fmt: skip

margin_option = click.option(
    "--margin",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.01,
    show_default=True,
    metavar="FRACTION",
    help="Smallest change of accuracy that matters, fixed beforehand: 0.01 is one percentage point.",
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
        values = {name.removeprefix("task_"): kwargs.pop(name) for name in _PROMPTING_NAMES}
        return command(*args, prompting=values, **kwargs)

    return with_prompting  # type: ignore[return-value]


def input_options(command: Command) -> Command:
    """Adds the options that say what is measured; the command gets them as one `inputs`."""

    @_TEXTS
    @_TASKS
    @prompting_options
    @llama_compat_option
    @functools.wraps(command)
    def with_inputs(
        *args: Any, texts: Sequence[str], tasks: Sequence[str], prompting: Mapping[str, Any], n_chunks: int | None,
        parse_special: bool, llama_compat: bool, **kwargs: Any,
    ) -> Any:  # fmt: skip
        from quantprobe.sweep import Inputs

        named = (*named_files("text", texts), *named_files("task", tasks))
        refuse_twice(named)
        inputs: Inputs = Inputs(
            texts=named_texts([file for file in named if file.kind == "text"]),
            tasks=named_tasks([file for file in named if file.kind == "task"], prompting),
            n_chunks=n_chunks,
            parse_special=parse_special,
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


json_option = click.option(
    "--json",
    "json_path",
    type=click.Path(allow_dash=True, dir_okay=False),
    metavar="PATH|-",
    help="Also write the results as JSON to PATH; with -, to standard output, which then holds nothing else.",
)

quants_argument = click.argument("quants", nargs=-1, required=True, metavar="QUANT...")
base_argument = click.argument("base", type=PathType())
