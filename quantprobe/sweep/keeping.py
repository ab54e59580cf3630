"""What earlier calls measured stays in `results.json` as long as its rows fit; the quants' files are not needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from quantprobe.errors import FileFormatError
from quantprobe.gguf.model import ModelInfo
from quantprobe.probes.items import TaskProbe
from quantprobe.probes.text import TextProbe
from quantprobe.run.results import Quant, Results, read_results
from quantprobe.stats.summary import TextSummary
from quantprobe.sweep.measured import MeasuredTask, MeasuredText
from quantprobe.sweep.measuring import Measuring
from quantprobe.sweep.quants import Answered, UnjudgedQuant, answers_of


def measured_before(measuring: Measuring, quant: Quant, info: ModelInfo) -> UnjudgedQuant:
    """What the run's folder has of a line on every probe of this run, all of it measured; no file is needed.

    `info` is that of any quant, or of the base.
    """
    own = measuring.under(quant.variant)
    texts = {one.name: own.kept_text(quant, one).summary() for one in own.probes if isinstance(one, TextProbe)}
    tasks = {one.name: one for one in own.probes if isinstance(one, TaskProbe)}
    answered = {
        name: answers_of(own.kept_task(quant, one), own.base_answers(info, one) if quant.drawn else None)
        for name, one in tasks.items()
    }
    return UnjudgedQuant(replace(quant, texts=texts, drawn=quant.drawn if tasks else None), answered)


class _Unfit(Exception):
    """Why something that was measured cannot stay."""


def earlier_results(measuring: Measuring, notes: bool = True) -> Results | None:
    """The run's `results.json`; None if there is none, or, with a note, if it is damaged or belongs to another base.

    Raises `InputError` where the disk does not give it: to go on without it would lose what it holds.
    """
    if not measuring.run.results.exists():
        return None
    try:
        found = read_results(measuring.run.results)
    except FileFormatError as error:
        lost = f"it cannot be read: {error}"
    else:
        base = measuring.capture.meta.base
        if found.base.sha256 == base.sha256:
            return found
        names = ", ".join(quant.name for quant in found.quants)
        lost = f"{names} were measured against another base, {found.base.name} ({found.base.sha256[:12]})"
    if notes:
        measuring.progress.note(f"{measuring.run.results} is made anew: {lost}")
    return None


def with_earlier(
    measuring: Measuring, new: Sequence[UnjudgedQuant], earlier: Sequence[Quant], info: ModelInfo
) -> list[UnjudgedQuant]:
    """The quants of earlier calls that still fit, then those of this call with what else was measured of them.

    What does not fit is told by a note. `info` is any quant of this call.
    """
    of_name = {one.quant.name: one for one in new}
    of_content = {one.quant.content: one.quant.name for one in new}
    kept = []
    for quant in earlier:
        same = of_name.get(quant.name)
        if same is not None and same.quant.content != quant.content:
            measuring.progress.note(
                f"{quant.name}: the file has other content now; what was measured before is left out"
            )
        elif same is not None:
            of_name[quant.name] = _joined(_kept(measuring, quant, info, same), same)
        elif quant.content in of_content:
            measuring.progress.note(
                f"{quant.name} is left out: the same model is called {of_content[quant.content]} now"
            )
        elif (one := _kept(measuring, quant, info, None)).quant.texts or one.answered:
            kept.append(one)
    return [*kept, *of_name.values()]


def _joined(kept: UnjudgedQuant, new: UnjudgedQuant) -> UnjudgedQuant:
    texts = {**kept.quant.texts, **new.quant.texts}
    return UnjudgedQuant(replace(new.quant, texts=texts), {**kept.answered, **new.answered}, new.llama)


def _kept(measuring: Measuring, quant: Quant, info: ModelInfo, new: UnjudgedQuant | None) -> UnjudgedQuant:
    """What fits of an earlier measurement and is not in a `new` one of the same quant."""
    measuring = measuring.under(quant.variant)
    texts: dict[str, TextSummary] = {}
    answered: dict[str, Answered] = {}
    lost: dict[str, str] = {}
    for name in (name for name in quant.texts if new is None or name not in new.quant.texts):
        try:
            texts[name] = _text(measuring, quant, name).summary()
        except _Unfit as unfit:
            lost[name] = str(unfit)
    names = [name for name in quant.tasks if new is None or name not in new.answered]
    for name in names:
        try:
            if new is not None and new.answered and (quant.drawn or new.quant.drawn):
                raise _Unfit("a quant is decided on all of its tasks together")
            answered[name] = _task(measuring, quant, name, info)
        except _Unfit as unfit:
            lost[name] = str(unfit)
    drawn = quant.drawn if answered else None
    if drawn is not None and set(drawn.tasks) != set(answered):
        lost |= dict.fromkeys(answered, "it was decided together with one that is left out")
        drawn, answered = None, {}
    for name, reason in lost.items():
        measuring.progress.note(f"{quant.name} on {name} is left out of the results: {reason}")
    return UnjudgedQuant(replace(quant, texts=texts, tasks={}, pooled=None, drawn=drawn), answered)


def _text(measuring: Measuring, quant: Quant, name: str) -> MeasuredText:
    if name not in measuring.names("text"):
        raise _Unfit("the capture does not have this text")
    probe = measuring.probe(name)
    assert isinstance(probe, TextProbe)
    measured = measuring.kept_text(quant, probe)
    if not measured.decoded.any():
        raise _Unfit(_reason(measuring, quant, probe))
    return measured


def _task(measuring: Measuring, quant: Quant, name: str, info: ModelInfo) -> Answered:
    if name not in measuring.names("task"):
        raise _Unfit("the capture does not have this task")
    probe = measuring.probe(name)
    assert isinstance(probe, TaskProbe)
    measured: MeasuredTask = measuring.kept_task(quant, probe)
    if not measured.decoded.any():
        raise _Unfit(_reason(measuring, quant, probe))
    if quant.drawn is not None:
        return answers_of(measured, measuring.base_answers(info, probe))
    if not measured.decoded.all():
        raise _Unfit("only a part of its questions was decoded; measure it again")
    return answers_of(measured)


def _reason(measuring: Measuring, quant: Quant, probe: TextProbe | TaskProbe) -> str:
    path = measuring.rows_path(quant, probe)
    if not path.is_file():
        return f"its rows ({path}) are gone"
    return "its rows were measured under other settings, or on other content of that name"
