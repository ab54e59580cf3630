"""Options that `study` and `report` share: which runs, which margin, which silent zone."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from quantprobe.cli.shared.options import PathType, stack

if TYPE_CHECKING:
    from quantprobe.run.cohort import Cohort
    from quantprobe.study.findings import Findings

Command = TypeVar("Command", bound=Callable[..., Any])


class Share(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """A share of items: `1%` or `0.01`."""

    name = "SHARE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        text = str(value).strip()
        try:
            share = float(text.rstrip("%")) / (100 if text.endswith("%") else 1)
        except ValueError:
            self.fail(f"{value!r} is not a share such as 1% or 0.01", param, ctx)
        if not 0 < share < 1:
            self.fail(f"{value} must lie between 0 and 100 %; write 1% or 0.01 for one percentage point", param, ctx)
        return share


class ZoneType(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """A definition of the silent zone: `margin`, `noise`, `top:N` or `band:LOW-HIGH`."""

    name = "margin|noise|top:N|band:LOW-HIGH"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, dict[str, float | int]]:
        if isinstance(value, tuple):
            return value
        kind, _, rest = str(value).partition(":")
        try:
            limits = _zone_limits(kind, rest)
        except ValueError:
            self.fail(f"{value!r} is none of margin, noise, top:12, band:60%-65%", param, ctx)
        return kind, limits


def _zone_limits(kind: str, rest: str) -> dict[str, float | int]:
    if kind in ("margin", "noise") and not rest:
        return {}
    if kind == "top":
        return {"top": int(rest)}
    if kind != "band":
        raise ValueError(kind)
    low, high = rest.split("-")
    return {"low": _fraction(low), "high": _fraction(high)}


def _fraction(text: str) -> float:
    return float(text.rstrip("%")) / (100 if text.endswith("%") else 1)


runs_argument = click.argument("runs", nargs=-1, required=True, type=PathType(), metavar="RUN...")

_STUDY = stack(
    click.option("--margin", type=Share(), default="1%", show_default=True,
                 help="Largest net change of accuracy that does not matter; fix it before looking."),
    click.option("--zone", type=ZoneType(), default="margin", show_default=True,
                 help="Which quants are the silent zone."),
    click.option("--allow", multiple=True, metavar="SETTING",
                 help="A setting in which the runs may differ, for example backend; repeat for several."),
    click.option("--seed", type=int, default=0, show_default=True, help="Of the bootstraps and permutations."),
)  # fmt: skip


def study_options(command: Command) -> Command:
    """Adds the options of a study; the command gets them as one `ask`, from runs to cohort and findings."""

    @_STUDY
    @functools.wraps(command)
    def with_study(
        *args: Any, margin: float, zone: tuple[str, dict[str, Any]], allow: Sequence[str], seed: int, **kwargs: Any
    ) -> Any:
        def read(runs: Sequence[Path]) -> Cohort:
            from quantprobe.run.cohort import read_cohort

            return read_cohort(runs, allow)

        def ask(cohort: Cohort) -> Findings:
            from quantprobe.study.findings import study_cohort
            from quantprobe.study.zone import ZoneSpec

            return study_cohort(cohort, margin=margin, zone=ZoneSpec(zone[0], margin=margin, **zone[1]), seed=seed)

        return command(*args, read=read, ask=ask, **kwargs)

    return with_study  # type: ignore[return-value]
