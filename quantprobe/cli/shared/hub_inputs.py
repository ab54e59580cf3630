"""`hf://` addresses among the arguments of a command: fetched together, before the command begins."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from quantprobe.errors import InputError

if TYPE_CHECKING:
    from quantprobe.hub.choosing import Choice
    from quantprobe.hub.fetching import Plan
    from quantprobe.hub.supply import HubSupply
    from quantprobe.report.tables.cells import Table
    from quantprobe.sweep import Progress

Command = TypeVar("Command", bound=Callable[..., Any])

_SCHEME = "hf:"
_NAMED = ("texts", "tasks")
"""Options that take `[NAME=]FILE`."""
_MODELS = ("quants", "files")
"""Arguments that take several models; a repository stands for all of them."""
_BASES = ("base", "base_model")
_OUTPUTS = ("run", "out", "json_path", "junit", "plot")


def hub_inputs(command: Command) -> Command:
    """Lets the inputs of a command be addresses of the hub; the command gets the paths of what was fetched.

    Put it directly under `click.command`: it must see the arguments before every other decorator.
    """

    @functools.wraps(command)
    def with_inputs(*args: Any, **kwargs: Any) -> Any:
        found = {name: values for name in kwargs if (values := _addresses(name, kwargs[name]))}
        return command(*args, **(_fetched(kwargs, found) if found else kwargs))

    return with_inputs  # type: ignore[return-value]


def _addresses(parameter: str, value: Any) -> list[str]:
    """The addresses in one parameter, without the names that stand before them."""
    values = value if isinstance(value, (tuple, list)) else (value,)
    texts = [_split(parameter, str(each))[1] for each in values if isinstance(each, (str, Path))]
    if parameter in _OUTPUTS:
        return []
    return [text for text in texts if text.startswith(_SCHEME) and _is_address(text)]


def _is_address(text: str) -> bool:
    from quantprobe.hub.address import is_address

    return is_address(text)


def _split(parameter: str, value: str) -> tuple[str, str]:
    """`NAME=` with the equals sign, and what stands behind it."""
    name, equals, rest = value.partition("=")
    if parameter in _NAMED and equals and rest.startswith(_SCHEME):
        return f"{name}=", rest
    return "", value


def supplies_of(
    base: Path, run: Path, on_demand: Sequence[Choice], quants: Sequence[Path], progress: Progress
) -> list[HubSupply]:
    """The models that are fetched when they are measured, as `sweep` takes them; none where there are none."""
    if not on_demand:
        return []
    from quantprobe.hub.supply import HubSupply
    from quantprobe.run.folder import RunFolder

    supply = HubSupply(base, RunFolder(run), on_demand, progress)
    supply.check_names(quants)
    return [supply]


def _fetched(kwargs: Mapping[str, Any], addresses: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """The arguments with local paths in place of addresses.

    With `--keep none` quants are not fetched: the command gets them as `on_demand`.
    """
    from quantprobe.cli.shared.progress import open_progress
    from quantprobe.hub.fetching import fetch_all, plan_fetching, require_space

    chosen = _choose(addresses)
    later = {place for place in chosen if place[0] == "quants" and kwargs.get("keep") == "none"}
    on_demand = [choice for place in chosen if place in later for choice in chosen[place]]
    plan = plan_fetching(choice for place in chosen if place not in later for choice in chosen[place])
    plan_later = plan_fetching(on_demand)
    _show([plan, plan_later])
    largest = max((plan_later.missing_of(choice) for choice in on_demand), default=0)
    require_space(plan, plan.needed_bytes + largest)
    with open_progress() as progress:
        progress.note(plan.sentence())
        if on_demand:
            progress.note(
                f"Quants are fetched one at a time, and deleted when measured: {len(on_demand)} models, "
                f"{plan_later.needed_bytes / 1e9:,.2f} GB in all, at most {largest / 1e9:,.2f} GB at once"
            )
        paths = iter(fetch_all(plan, progress))
    local = {place: [] if place in later else [next(paths) for _ in choices] for place, choices in chosen.items()}
    found = {name: _replaced(name, value, local) if name in addresses else value for name, value in kwargs.items()}
    return {**found, "on_demand": tuple(on_demand)} if on_demand else found


def _choose(addresses: Mapping[str, Sequence[str]]) -> dict[tuple[str, str], list[Choice]]:
    """What each address means, by parameter and address; a repository of quants is asked for once."""
    from quantprobe.hub.address import parse_address
    from quantprobe.hub.choosing import choices_without, choose_models, choose_one
    from quantprobe.hub.client import Listing, list_files

    listings: dict[str, Listing] = {}
    chosen: dict[tuple[str, str], list[Choice]] = {}
    for parameter in sorted(addresses, key=lambda name: name in _MODELS):  # the base first: it is none of the quants
        for text in addresses[parameter]:
            address = parse_address(text)
            known = listings.get(address.repository)
            listing = list_files(address) if known is None else Listing(address, known.commit, known.files)
            listings[address.repository] = listing
            if parameter in _MODELS:
                bases = [base for name in _BASES for (of, _), found in chosen.items() if of == name for base in found]
                found = choose_models(listing)
                several = not (address.tag or len(found) == 1)
                chosen[parameter, text] = choices_without(found, bases) if several else found
                if not chosen[parameter, text]:
                    raise InputError(f"{address} has no model but the base; name another repository")
            else:
                chosen[parameter, text] = [choose_one(listing)]
    _refuse_one_name([choice for (name, _), found in chosen.items() if name in _MODELS for choice in found])
    return chosen


def _refuse_one_name(models: Sequence[Choice]) -> None:
    """Authors name their files alike; their results would share a place, which is told before anything is fetched."""
    for i, model in enumerate(models):
        other = next((other for other in models[:i] if other.name == model.name), None)
        if other is not None:
            raise InputError(
                f"{other.address} and {model.address} have one name; sweep them into runs of their own (--out), "
                "and report these together"
            )


def _replaced(parameter: str, value: Any, local: Mapping[tuple[str, str], Sequence[Path]]) -> Any:
    """One parameter with paths; an address that stands for several models becomes several."""
    if not isinstance(value, (tuple, list)):
        (path,) = local[parameter, str(value)]
        return path if isinstance(value, Path) else str(path)
    found: list[Any] = []
    for each in value:
        name, text = _split(parameter, str(each))
        paths = local.get((parameter, text))
        if paths is None:
            found.append(each)
        elif isinstance(each, Path):
            found += paths
        else:
            found += [f"{name or _name(parameter, path)}{path}" for path in paths]
    return tuple(found)


def _name(parameter: str, path: Path) -> str:
    """A text of the hub is called by its file; said here, because the path of the cache may have `=` in it."""
    return f"{path.name if path.is_dir() else path.stem}=" if parameter in _NAMED else ""


def _show(plans: Sequence[Plan]) -> None:
    """The sizes, on standard error, where there is more than one file to think about."""
    if sum(len(plan.choices) for plan in plans) < 2:
        return
    from rich.console import Console

    from quantprobe.cli.shared.output import UNLIMITED
    from quantprobe.report.tables.terminal import terminal_tables

    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        console = Console(stderr=True, highlight=False, width=UNLIMITED)
    for table in terminal_tables(_size_table(plans), console.width):
        console.print(table)


def _size_table(plans: Sequence[Plan]) -> Table:
    from quantprobe.report.tables.cells import Column, Table, count_cell, plain_cell, text_cell

    rows = tuple(
        (
            text_cell(choice.address),
            plain_cell(choice.size / 1e9),
            count_cell(len(choice.files)),
            text_cell("fetch" if plan.missing_of(choice) else "here"),
        )
        for plan in plans
        for choice in plan.choices
    )
    columns = (Column("From the hub"), Column("Size", "GB"), Column("Files", priority=2), Column("State"))
    return Table("hub", "", columns, rows)
