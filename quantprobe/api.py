"""quantprobe as a library: open runs in a notebook, and measure a quant against a capture.

    import quantprobe

    run = quantprobe.open_run("model.run")
    run.numbers()                    # every number as a record
    run.to_pandas()                  # the same as a data frame, where pandas is installed
    run.items("Q4_K_M", "arc")       # base and quant, answer by answer
    quantprobe.measure("model-Q5_K_M.gguf", capture="base.qpc", run="model.run")

A run shows itself as a table in a notebook.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from quantprobe.run.cohort import Cohort, read_cohort
from quantprobe.run.items import PairedAnswers
from quantprobe.run.numbers import Number, cohort_numbers
from quantprobe.run.results import Quant

if TYPE_CHECKING:
    from quantprobe.study.findings import Findings

__all__ = ["Run", "measure", "open_run"]

AnyPath = str | PathLike[str]


class Run:
    """The quants of one base, from one or more runs."""

    def __init__(self, cohort: Cohort) -> None:
        self.cohort = cohort

    @property
    def quants(self) -> tuple[Quant, ...]:
        """The quants, with their numbers as typed records by text and by task."""
        return self.cohort.quants

    def numbers(self) -> tuple[Number, ...]:
        """Every number with its interval and unit, in long form."""
        return tuple(cohort_numbers(self.cohort))

    def to_pandas(self) -> Any:
        """`numbers` as a pandas DataFrame. Raises ImportError where pandas is not installed."""
        import pandas

        return pandas.DataFrame([asdict(number) for number in self.numbers()])

    def to_polars(self) -> Any:
        """`numbers` as a polars DataFrame. Raises ImportError where polars is not installed."""
        import polars

        return polars.DataFrame([asdict(number) for number in self.numbers()])

    def items(self, quant: str, task: str) -> PairedAnswers:
        """The answers of base and quant to one task. Raises InputError where the run kept none."""
        return self.cohort.items(quant, task)

    def rows(self, quant: str, text: str) -> Mapping[str, NDArray[Any]]:
        """Row metrics of a quant on one text, `[n_rows]` each. Raises InputError where the run kept none."""
        return self.cohort.rows(quant, text)

    def study(self) -> Findings:
        """Whether fidelity predicts accuracy over these quants, and which one to take."""
        from quantprobe.study.findings import study_cohort

        return study_cohort(self.cohort)

    def report(self, folder: AnyPath | None = None) -> Path:
        """Write the page, the card and the plots; gives the page. The default folder is `report` in the first run."""
        from quantprobe.report.report import write_report

        target = Path(folder) if folder is not None else self.cohort.runs[0].report
        write_report(self.cohort, target, self.study())
        return target / "report.html"

    def _repr_html_(self) -> str:
        from quantprobe.report.page.html import render_cohort

        return render_cohort(self.cohort)

    def __repr__(self) -> str:
        names = ", ".join(quant.name for quant in self.quants[:4]) + (", ..." if len(self.quants) > 4 else "")
        return f"Run({self.cohort.base.name}: {len(self.quants)} quants: {names})"


def open_run(*runs: AnyPath, allow: Sequence[str] = ()) -> Run:
    """Open one or more runs of the same base as one.

    `allow` names settings that move logits and may differ. Raises `MismatchError` where others do, and what
    `read_cohort` raises.
    """
    return Run(read_cohort([Path(run) for run in runs], allow))


def measure(quant: AnyPath, *, capture: AnyPath, run: AnyPath, base_model: AnyPath | None = None) -> Run:
    """Measure one quant against a capture, under the capture's settings, and keep the results in `run`.

    Finished work is recognised by content hash. Raises `QuantprobeError` subclasses for files that do not fit.
    """
    from quantprobe.sweep import captured_settings, compare_quants
    from quantprobe.sweep.inputs import SILENT

    source = Path(capture)
    compare_quants(
        source,
        [Path(quant)],
        captured_settings(source, {}),
        Path(run),
        SILENT,
        base_model=None if base_model is None else Path(base_model),
    )
    return open_run(run)
