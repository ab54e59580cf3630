"""`blame`: capture the base once, measure the quant and its hybrids, tell what each group of tensors costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from quantprobe.blame.effects import (
    UNITS,
    Response,
    departures,
    disagreements,
    group_effects,
    name_pairs,
    total_of,
)
from quantprobe.blame.groups import Group, make_groups
from quantprobe.blame.hybrids import remove_hybrid
from quantprobe.blame.measuring import Runs
from quantprobe.blame.prospect import Plan, candidates, group_records, open_pair
from quantprobe.blame.sentences import describe
from quantprobe.errors import InputError
from quantprobe.locks import locked
from quantprobe.run.blame import KLD, NET, Blame, BlameRun, write_blame
from quantprobe.run.folder import RunFolder
from quantprobe.settings import Settings
from quantprobe.stats.two_level import (
    HADAMARD,
    Design,
)
from quantprobe.sweep.capturing import capture_prepared
from quantprobe.sweep.comparing import Outcome, compare_quants, read_quants
from quantprobe.sweep.inputs import Inputs, Progress, read_measurable
from quantprobe.sweep.measuring import Measuring
from quantprobe.sweep.prepared import prepare


def blame(
    base: Path, quant: Path, inputs: Inputs, settings: Settings, run: Path, progress: Progress, plan: Plan
) -> tuple[Outcome, Blame]:
    """Measure `quant` and hybrids of it and its base on texts and tasks; write `results.json` and `blame.json`.

    The quant is measured as in `sweep`, and stays in the run beside others. Every hybrid is kept by content: a call
    that was killed is continued by the next. One process at a time makes hybrids in a run.

    Raises `MismatchError` where the quant is not one of this base, `InputError` where both are equal, a group cannot
    be made, or the budget does not reach for one group at a time.
    """
    read_quants([quant], read_measurable(base))
    pair = open_pair(base, quant, progress)
    groups = make_groups(pair, plan.by, plan.n_parts)
    prepared = prepare(base, inputs, settings, progress)
    folder = RunFolder(run)
    capture = capture_prepared(prepared, folder.capture(prepared.key(None)), progress, n_quants=1, replaces=True)
    names = list(prepared.sources())
    groupings = {task.given.name: task.grouping for task in prepared.tasks}
    outcome = compare_quants(
        capture, [quant], settings, run, progress, base_model=base, groupings=groupings, probes=names
    )
    measuring = Measuring(capture, settings, folder, progress, base, names=names)
    runs = Runs(measuring, pair, groups)
    with locked(folder.lock("hybrids"), lambda: progress.note("another process makes hybrids here; waiting for it")):
        remove_hybrid(folder.hybrid)
        design = _measure(runs, candidates(plan, len(groups)), plan.seconds, progress)
        responses = runs.responses(design.runs, groupings)
        kinds = {text.name: "text" for text in prepared.texts}
        sources = prepared.sources()
        found = Blame(
            base=pair.base.info.identity(),
            quant=pair.quant.info.identity(),
            by=plan.by,
            n_parts=plan.n_parts,
            design=design.kind,
            ways=tuple(design.effects),
            groups=group_records(groups),
            distance_on="texts" if kinds else "tasks",
            texts={name: sha for name, sha in sources.items() if name in kinds},
            tasks={name: sha for name, sha in sources.items() if name not in kinds},
            runs=_run_records(runs, design, groups, responses),
        )
        found = with_effects(found, design, groups, responses)
        write_blame(found, folder)
    return outcome, found


def with_effects(found: Blame, design: Design, groups: Sequence[Group], responses: Mapping[str, Response]) -> Blame:
    """The same with everything that follows from the values of the runs."""
    tested = departures(design.interactions(), responses)
    blame = replace(
        found,
        total={name: total_of(response, design, UNITS[name]) for name, response in responses.items()},
        effects=group_effects(design, responses, groups),
        departures=departures(design.additivity(), responses),
        interactions=name_pairs(tested, groups),
        n_interactions=len(design.interactions().names),
        disagreements=disagreements(design, responses, groups),
    )
    return replace(blame, sentences=tuple(describe(blame)))


def _measure(runs: Runs, designs: Sequence[Design], seconds: float | None, progress: Progress) -> Design:
    """Measure the hybrids of the first design that the budget reaches for."""
    design, missing = designs[0], runs.missing(designs[0].runs)
    if seconds is not None and missing:
        first = next((each for each in designs if each.kind == HADAMARD), design)
        taken = [runs.measure(row) for row in runs.missing(first.runs)[:1]]
        each = taken[0] if taken else 0.0
        costs = [(one, each * len(runs.missing(one.runs))) for one in designs]
        fitting = [one for one, cost in costs if cost <= seconds - each]
        if not fitting:
            one, cost = min(costs, key=lambda pair: pair[1])
            raise InputError(
                f"a hybrid takes {each:.0f} s, so the {one.n_hybrids} of the smallest design ({one.kind}) need "
                f"{cost / 60:.0f} minutes more than are done; give a larger --budget, fewer groups (--by role) or a "
                "smaller probe (--chunks, --task-items); what was measured is kept"
            )
        design = fitting[0]
        missing = runs.missing(design.runs)
        progress.note(
            f"design {design.kind}: {len(missing)} hybrids more at {each:.0f} s each, "
            f"{each * len(missing) / 60:.0f} min"
        )
    if missing:
        runs.plan(missing)
    for row in missing:
        runs.measure(row)
    return design


def _run_records(
    runs: Runs, design: Design, groups: Sequence[Group], responses: Mapping[str, Response]
) -> tuple[BlameRun, ...]:
    means = {
        "acc" if name == NET else name: 0.0 - response.means() if name == KLD else response.means()
        for name, response in responses.items()
    }
    return tuple(
        BlameRun(
            restored=tuple(group.name for group, on in zip(groups, row, strict=True) if on),
            sha256=runs.info(row).sha256,
            means={name: float(values[i]) for name, values in means.items()},
        )
        for i, row in enumerate(design.runs)
    )
