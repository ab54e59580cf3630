"""Options that `study` and `report` share: which runs, which margin, which silent zone."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from quantprobe.cli.shared.options import PathType, allow_option, run_margin_option, stack
from quantprobe.settings import EQUIVALENCE_MARGIN, margin_of

if TYPE_CHECKING:
    from quantprobe.run.cohort import Cohort
    from quantprobe.study.findings import Findings

Command = TypeVar("Command", bound=Callable[..., Any])


runs_argument = click.argument("runs", nargs=-1, required=True, type=PathType(), metavar="RUN...")

_STUDY = stack(
    run_margin_option,
    click.option("--zone", default="kld:0-0.05", show_default=True, metavar="kld:LOW-HIGH|bpw:LOW-HIGH|margin[:SHARE]",
                 help="Which quants are the silent zone: a range of KLD (nats) or of bits per weight, or those within "
                 "the margin on the half of the questions that is not scored."),
    click.option("--smallest-slope", type=click.FloatRange(min=0, min_open=True), default=0.5, show_default=True,
                 metavar="POINTS", help="Smallest slope that matters, in points of accuracy per e-fold of KLD."),
    allow_option,
    click.option("--seed", type=int, default=0, show_default=True, help="Of the bootstraps and permutations."),
)  # fmt: skip


def study_options(command: Command) -> Command:
    """Adds the options of a study; the command gets `read`, from runs to cohort, and `ask`, from cohort to findings."""

    @_STUDY
    @functools.wraps(command)
    def with_study(
        *args: Any, margin: float | None, zone: str, smallest_slope: float, allow: Sequence[str], seed: int,
        **kwargs: Any,
    ) -> Any:  # fmt: skip
        def read(runs: Sequence[Path]) -> Cohort:
            from quantprobe.run.cohort import read_cohort

            return read_cohort(runs, allow)

        def ask(cohort: Cohort) -> Findings:
            from quantprobe.study.findings import study_cohort
            from quantprobe.study.zone import ZoneSpec

            asked = margin or margin_of(cohort.settings) or EQUIVALENCE_MARGIN
            spec = ZoneSpec.parse(zone, asked)
            return study_cohort(cohort, margin=asked, zone=spec, seed=seed, smallest_slope=smallest_slope)

        return command(*args, read=read, ask=ask, **kwargs)

    return with_study  # type: ignore[return-value]
