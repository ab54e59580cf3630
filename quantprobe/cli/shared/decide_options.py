"""Options that stop a measurement when it is decided, or when a budget is spent."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any, TypeVar

import click

from quantprobe.cli.shared.options import Share, stack

Command = TypeVar("Command", bound=Callable[..., Any])

_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}


class BudgetType(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """Questions (`500`) or a time (`90s`, `20m`, `1.5h`), as (items, seconds) with one of the two."""

    name = "N|TIME"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int | None, float | None]:
        if isinstance(value, tuple):
            return value
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh]?)", str(value).strip())
        amount = float(match[1]) if match else 0.0
        if match is None or amount <= 0 or (not match[2] and amount != int(amount)):
            self.fail(f"{value!r} is neither a number of questions (500) nor a time (90s, 20m, 1.5h)", param, ctx)
        return (None, amount * _SECONDS[match[2]]) if match[2] else (int(amount), None)


_OPTIONS = stack(
    click.option("--decide", is_flag=True,
                 help="Decode the questions that tell most first, and stop a quant when it is worse, better, "
                 "equivalent or not inferior. The verdict is on all tasks together."),
    click.option("--budget", type=BudgetType(), metavar="N|TIME",
                 help="With --decide: what each quant may spend, in questions (500) or time (90s, 20m, 1.5h). Re-run "
                 "with a larger budget to go on."),
    click.option("--precision", type=Share(), metavar="SHARE",
                 help="Stop a text when the standard error of its mean KLD is at most this share of it (2%); at least "
                 "20 windows are measured."),
)  # fmt: skip


def decide_options(command: Command) -> Command:
    """Adds the options that stop early; the command gets them as `decide` (a `Budget` or None) and `precision`."""

    @_OPTIONS
    @functools.wraps(command)
    def with_decide(*args: Any, decide: bool, budget: tuple[int | None, float | None] | None, **kwargs: Any) -> Any:
        from quantprobe.sweep import Budget

        if budget is not None and not decide:
            raise click.UsageError("--budget limits --decide; give both")
        limit = Budget(*(budget or (None, None))) if decide else None
        return command(*args, decide=limit, **kwargs)

    return with_decide  # type: ignore[return-value]
