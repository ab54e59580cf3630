"""quantprobe make-task: questions from any text."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from quantprobe.cli.shared.options import PathType, json_option
from quantprobe.cli.shared.output import open_output


@click.command("make-task")
@click.argument("text", type=PathType())
@click.option("-o", "--out", type=PathType(), required=True, metavar="FILE", help="Question file to write (JSONL).")
@click.option(
    "-n",
    "--items",
    "n_items",
    type=click.IntRange(min=1),
    default=1000,
    show_default=True,
    metavar="N",
    help="Number of questions.",
)
@click.option(
    "--choices",
    "n_choices",
    type=click.IntRange(2, 26),
    default=4,
    show_default=True,
    metavar="N",
    help="Choices per question.",
)
@click.option(
    "--context-chars",
    type=click.IntRange(min=4),
    default=400,
    show_default=True,
    metavar="N",
    help="Length of the text before the choices, at most.",
)
@click.option(
    "--choice-chars",
    type=click.IntRange(min=4),
    default=48,
    show_default=True,
    metavar="N",
    help="Approximate length of a choice.",
)
@click.option(
    "--hardness",
    type=click.Choice(["far", "near", "shared"]),
    default="near",
    show_default=True,
    help="Where wrong choices come from: anywhere, nearby, or passages that share most words.",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**32 - 1),
    default=1,
    show_default=True,
    help="The same seed gives the same questions everywhere.",
)
@json_option
def make_task(
    text: Path,
    out: Path,
    n_items: int,
    n_choices: int,
    context_chars: int,
    choice_chars: int,
    hardness: str,
    seed: int,
    json_path: str | None,
) -> None:  # fmt: skip
    """Make questions from TEXT: which of these passages comes next?

    This works for any language and for code. A long text gives enough questions to detect changes that benchmarks are
    too small to show. The wrong choices are other passages of the text, of the same length.

    \b
    Examples:
      quantprobe make-task novel.txt -o novel.jsonl -n 5000
      quantprobe sweep model-BF16.gguf quants/ --task novel.jsonl
    """
    from quantprobe.probes.grouping import CLUSTERS
    from quantprobe.probes.questions.jsonl import write_native
    from quantprobe.probes.questions.selftask import SelfTaskSettings
    from quantprobe.probes.questions.selftask import make_task as make
    from quantprobe.probes.text import read_text

    settings = SelfTaskSettings(n_items, n_choices, context_chars, choice_chars, hardness, seed)
    with open_output(json_path) as output:
        questions = make(read_text(text), settings)
        write_native(out, questions, CLUSTERS)
        groups = {question.group for question in questions}
        output.say(f"{out}: {len(questions):,} questions with {n_choices} choices from {len(groups)} parts of {text}")
        output.say(f"Next: quantprobe sweep BASE QUANT... --task {out}")
        output.write_json({"path": str(out), "text": str(text), "n_groups": len(groups), **asdict(settings)})
