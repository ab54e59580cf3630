"""Options that `study` and `report` share: which runs, which margin, which silent zone."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from quantprobe.cli.shared.options import PathType, allow_option, read_share, run_margin_option, stack
from quantprobe.settings import EQUIVALENCE_MARGIN, margin_of

if TYPE_CHECKING:
    from quantprobe.run.cohort import Cohort
    from quantprobe.study.findings import Findings

Command = TypeVar("Command", bound=Callable[..., Any])


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
    return {"low": read_share(low), "high": read_share(high)}


runs_argument = click.argument("runs", nargs=-1, required=True, type=PathType(), metavar="RUN...")

_STUDY = stack(
    run_margin_option,
    click.option("--zone", type=ZoneType(), default="margin", show_default=True,
                 help="Which quants are the silent zone."),
    allow_option,
    click.option("--seed", type=int, default=0, show_default=True, help="Of the bootstraps and permutations."),
)  # fmt: skip


def study_options(command: Command) -> Command:
    """Adds the options of a study; the command gets `read`, from runs to cohort, and `ask`, from cohort to findings."""

    @_STUDY
    @functools.wraps(command)
    def with_study(
        *args: Any, margin: float | None, zone: tuple[str, dict[str, Any]], allow: Sequence[str], seed: int,
        **kwargs: Any,
    ) -> Any:  # fmt: skip
        def read(runs: Sequence[Path]) -> Cohort:
            from quantprobe.run.cohort import read_cohort

            return read_cohort(runs, allow)

        def ask(cohort: Cohort) -> Findings:
            from quantprobe.study.findings import study_cohort
            from quantprobe.study.zone import ZoneSpec

            asked = margin or margin_of(cohort.settings) or EQUIVALENCE_MARGIN
            return study_cohort(cohort, margin=asked, zone=ZoneSpec(zone[0], margin=asked, **zone[1]), seed=seed)

        return command(*args, read=read, ask=ask, **kwargs)

    return with_study  # type: ignore[return-value]
