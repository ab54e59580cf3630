"""quantprobe show-item: what a model is given for a question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from quantprobe.cli.shared.hub_inputs import hub_inputs
from quantprobe.cli.shared.model_args import find_base
from quantprobe.cli.shared.options import PathType, json_option, named_files, named_tasks, prompting_options
from quantprobe.cli.shared.output import open_output

if TYPE_CHECKING:
    from quantprobe.sweep.show import ShownItem, ShownToken


@click.command("show-item")
@hub_inputs
@click.argument("model", type=PathType(), metavar="GGUF")
@click.argument("items", nargs=-1, metavar="[ITEM]...")
@click.option("--task", required=True, metavar="FILE", help="Question file, or an MMLU folder.")
@prompting_options
@json_option
def show_item(
    model: Path, items: Sequence[str], task: str, prompting: Mapping[str, Any], json_path: str | None
) -> None:
    """Show what GGUF is given for the questions with the ids ITEM: text, tokens, and which tokens each rule scores.

    Without ITEM, the first question is shown. Only the vocabulary is read, so this is quick for models of any size.

    \b
    Examples:
      quantprobe show-item model-BF16.gguf --task arc.jsonl Mercury_7220990
      quantprobe show-item model-BF16.gguf --task mmlu/ --few-shot 5 --chat-template
    """
    from quantprobe.sweep.inputs import SILENT
    from quantprobe.sweep.show import show_items

    [given] = named_tasks(named_files("task", [task]), prompting)
    with open_output(json_path) as output:
        shown = show_items(find_base(model), given, items, SILENT)
        for item in shown:
            output.say("\n".join(describe_item(item)) + "\n")
        output.write_json({"items": [asdict(item) for item in shown]})


def describe_item(item: ShownItem) -> list[str]:
    """The lines of one question."""
    group = f", group {item.group}" if item.group else ""
    lines = [
        f"{item.id}{group}: template {item.template}, rule {item.rule}, {item.n_tokens:,} tokens at most",
        "--- context",
        item.context,
        f"--- {len(item.shared):,} tokens that all choices begin with",
        *_describe_tokens(item.shared),
    ]
    for number, choice in enumerate(item.choices):
        right = " (right)" if number == item.gold else ""
        lines += [f"--- choice {number}{right}: {choice.text!r}", *_describe_tokens(choice.tokens)]
    return lines


def _describe_tokens(tokens: Sequence[ShownToken]) -> list[str]:
    return [f"{token.id:>8}  {token.piece!r:<20}  {' '.join(token.rules)}".rstrip() for token in tokens]
