"""The tables of README and docs as the program defines them. Run as a script it brings the pages in step."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import click

from quantprobe.cli.main import cli
from quantprobe.cli.shared.options import PROMPTING
from quantprobe.metrics.quantities import ROW_QUANTITIES, TASK_QUANTITIES, TEXT_QUANTITIES, Quantity
from quantprobe.probes.rules import RULES
from quantprobe.settings import FACTS, MACHINE, SETTINGS

CHECKOUT = Path(__file__).parents[2]
README = CHECKOUT / "README.md"
PAGES = [README, *sorted((CHECKOUT / "docs").glob("*.md"))]


def table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in (titles, ["---"] * len(titles), *rows))


def code(*words: str) -> str:
    return ", ".join(f"`{word}`" for word in words)


def escape(text: str) -> str:
    """A pipe would end the table's cell."""
    return text.replace("||", "‖").replace("|", "\\|")


def leaf_commands(group: click.Group, prefix: str = "quantprobe") -> Iterator[tuple[str, click.Command]]:
    """Every command that does something, with the words that call it."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from leaf_commands(command, f"{prefix} {name}")
        else:
            yield f"{prefix} {name}", command


def command_table() -> str:
    return table(
        ("command", "what it does"),
        [(f"`{name}`", command.get_short_help_str(200)) for name, command in leaf_commands(cli)],
    )


def option_tables() -> str:
    """Every command's own options; those of settings and prompts have tables of their own."""
    parts = []
    for name, command in leaf_commands(cli):
        words = [each.metavar or str(each.name).upper() for each in command.params if isinstance(each, click.Argument)]
        names = {each.name for each in options(command)}
        groups = {"settings": set(SETTINGS), "prompts": set(PROMPTING)}
        taken = {what: group for what, group in groups.items() if group <= names}  # a part of a group is listed
        shown = [each for each in options(command) if not any(each.name in group for group in taken.values())]
        parts += [f"### `{' '.join((name, *words))}`", command.get_short_help_str(200)]
        parts += [option_rows(shown)] if shown else []
        parts += [f"And the options of {' and '.join(taken)}."] if taken else []
    return "\n\n".join(parts)


def options(command: click.Command) -> list[click.Option]:
    return [each for each in command.params if isinstance(each, click.Option) and not each.hidden]


def option_rows(shown: Sequence[click.Option]) -> str:
    return table(("option", "meaning"), [(code(*each.opts), escape(each.help or "")) for each in shown])


def prompt_table() -> str:
    return option_rows([each for each in options(cli.commands["sweep"]) if each.name in PROMPTING])


def settings_table() -> str:
    rows = [
        (code(*each.flags), each.default_text or "none", "yes" if each.moves_logits else "no",
         f"`{each.name}`", escape(each.help))
        for each in SETTINGS.values()
    ]  # fmt: skip
    return table(("option", "default", "moves logits", "in `results.json`", "meaning"), rows)


def fact_table() -> str:
    known = dict.fromkeys(MACHINE, "yes, where both are known")
    rows = [(f"`{name}`", known.get(name, "yes" if moves else "no")) for name, moves in FACTS.items()]
    return table(("recorded beside the settings", "must be equal"), rows)


def rule_table() -> str:
    rows = [
        (f"`{rule.name}`", rule.tokens.words, rule.divisor.words, "second" if rule.ties_to_last else "first",
         rule.need.words, rule.help)
        for rule in RULES.values()
    ]  # fmt: skip
    return table(("rule", "scored tokens", "divided by", "a tie goes to the", "for", "the same as"), rows)


def quantity_table(quantities: Sequence[Quantity]) -> str:
    """Every number of a text or task, percentiles of one row metric in one line."""
    rows: list[tuple[str, ...]] = []
    shown: set[str] = set()
    for quantity in quantities:
        if quantity.how != "percentile":
            rows.append((f"`{quantity.name}`", quantity.unit, quantity.better, escape(quantity.meaning)))
        elif quantity.rows not in shown:
            shown.add(quantity.rows)
            family = [each for each in quantities if each.how == "percentile" and each.rows == quantity.rows]
            meaning = f"smallest, percentiles (`p999` is 99.9 %) and largest of `{quantity.rows}` over the rows"
            rows.append((code(*(each.name for each in family)), quantity.unit, quantity.better, meaning))
    return table(("in `results.json`", "unit", "better", "meaning"), rows)


def row_table() -> str:
    rows = [(f"`{each.name}`", each.unit, each.better, escape(each.meaning)) for each in ROW_QUANTITIES]
    return table(("array", "unit", "better", "formula"), rows)


TABLES: dict[str, Callable[[], str]] = {
    "commands": command_table,
    "options": option_tables,
    "settings": settings_table,
    "prompts": prompt_table,
    "recorded": fact_table,
    "rules": rule_table,
    "metrics": lambda: quantity_table(TEXT_QUANTITIES),
    "task metrics": lambda: quantity_table(TASK_QUANTITIES),
    "row fields": row_table,
}


def places(name: str, text: str) -> list[re.Match[str]]:
    """Where a page holds a table: between `<!-- NAME -->` and `<!-- end -->`."""
    return list(re.finditer(rf"(<!-- {name} -->\n).*?(<!-- end -->)", text, re.DOTALL))


def with_tables(text: str) -> str:
    """A page with every table that it holds made anew."""
    for name, make in TABLES.items():
        for place in reversed(places(name, text)):
            text = f"{text[: place.start()]}{place[1]}{make()}\n{place[2]}{text[place.end() :]}"
    return text


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(with_tables(page.read_text(encoding="utf-8")), encoding="utf-8", newline="\n")
