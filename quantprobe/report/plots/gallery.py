"""Which pictures a report has, in order. A new picture is a function here and its drawing in a module beside."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from quantprobe.report.answer import answer_of, margin_of, n_questions, quant_labels, standings
from quantprobe.report.plots.answers import change_picture, direction_picture, law_picture, tasks_picture
from quantprobe.report.plots.blame import blame_pictures
from quantprobe.report.plots.fidelity import has_size_picture, size_picture
from quantprobe.report.plots.style import Picture
from quantprobe.report.printable import printable
from quantprobe.run.blame import has_blame, read_blame
from quantprobe.run.cohort import Cohort

if TYPE_CHECKING:
    from quantprobe.study.findings import Findings


def pictures(cohort: Cohort, findings: Findings | None = None) -> Iterator[Picture]:
    """The pictures of a cohort, the most important first."""
    for make in PICTURES:
        yield from make(cohort, findings)


def _change(cohort: Cohort, findings: Findings | None) -> Iterator[Picture]:
    stood = standings(cohort, findings)
    if any(s.change is not None and s.size_bytes is not None for s in stood):
        yield change_picture(stood, margin_of(cohort, findings), _take(cohort, findings), _about(cohort, bars=True))


def _sizes(cohort: Cohort, findings: Findings | None) -> Iterator[Picture]:
    for text in cohort.texts:
        if has_size_picture(cohort, text):
            yield size_picture(cohort, text)


def _tasks(cohort: Cohort, findings: Findings | None) -> Iterator[Picture]:
    if len(cohort.tasks) > 1:
        entries = [[q.tasks.get(task) for task in cohort.tasks] for q in cohort.quants]
        changes = [[None if entry is None else entry.net for entry in row] for row in entries]
        verdicts = [[None if entry is None else entry.verdict for entry in row] for row in entries]
        names = [printable(task) for task in cohort.tasks]
        yield tasks_picture(quant_labels(cohort), names, changes, verdicts, margin_of(cohort, findings))


def _direction(cohort: Cohort, findings: Findings | None) -> Iterator[Picture]:
    stood = standings(cohort, findings)
    if any(s.change is not None and s.volume is not None for s in stood):
        yield direction_picture(stood, _take(cohort, findings), _about(cohort))


def _law(cohort: Cohort, findings: Findings | None) -> Iterator[Picture]:
    stood = standings(cohort, findings)
    if any(s.change is not None and s.kld is not None and (s.kld.value or 0) > 0 for s in stood):
        about = f"{_about(cohort, bars=True)}; KLD on {printable(cohort.texts[0])}"
        yield law_picture(stood, margin_of(cohort, findings), _take(cohort, findings), about)


def _blame(cohort: Cohort, findings: Findings | None) -> Iterator[Picture]:
    for run in cohort.runs:
        if has_blame(run) and (blame := read_blame(run)).base.sha256 == cohort.base.sha256:
            yield from blame_pictures(blame)


PICTURES: tuple[Callable[[Cohort, Findings | None], Iterator[Picture]], ...] = (
    _change,
    _sizes,
    _tasks,
    _direction,
    _law,
    _blame,
)


def _take(cohort: Cohort, findings: Findings | None) -> str | None:
    take = answer_of(cohort, findings).take
    return None if take is None else take.label


def _about(cohort: Cohort, bars: bool = False) -> str:
    nets = [t.net for q in cohort.quants for t in q.tasks.values() if t.net is not None]
    level = f"; bars: {nets[0].level:.0%} intervals" if nets and bars else ""
    tasks = printable(cohort.tasks[0]) if len(cohort.tasks) == 1 else f"{len(cohort.tasks)} tasks"
    base = printable(cohort.base.name)
    return f"{len(cohort.quants)} quants of {base}; {n_questions(cohort):,} questions of {tasks}{level}"
