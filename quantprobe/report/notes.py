"""What holds for a text or a task whatever the quant, and how to read its table."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from quantprobe.imatrix.overlap import WORTH_A_WARNING
from quantprobe.probes.grouping import CLUSTERS, STRATA
from quantprobe.probes.scores import ASSISTANT
from quantprobe.report.names import WHOLE, ShortNames, join_words
from quantprobe.report.numbers import format_estimate, format_plain, format_points
from quantprobe.report.printable import printable
from quantprobe.report.tables.tasks import answered
from quantprobe.report.tables.texts import AT_FLOOR, measured
from quantprobe.run.cohort import Cohort
from quantprobe.run.compare import flatten_settings
from quantprobe.run.floor import Control, ControlState, is_at_floor, task_control, text_control
from quantprobe.run.results import MachineFloor, Quant, TaskFacts
from quantprobe.stats.summary_tasks import TaskSummary

_NULL = "Null control: the base against its own capture"
_DIGEST = re.compile(r"[0-9a-f]{64}")


def null_sentences(cohort: Cohort) -> list[str]:
    """What the instrument shows where there is no difference, over how many rows, and where no control ran."""
    controls = {text: text_control(cohort.null_control, text) for text in cohort.texts}
    of_tasks = {task: task_control(cohort.null_control, task) for task in cohort.tasks}
    named = [*controls.items(), *of_tasks.items()]
    exact = [f"{c.n_rows:,} rows of {name}" for name, c in named if c.state is ControlState.EXACT]
    found = []
    if exact:
        same = any(c.state is ControlState.EXACT for c in of_tasks.values())
        answers = ", and changes no answer" if same else ""
        found.append(f"{_NULL} has a KLD of exactly 0 over {join_words(exact)}{answers}.")
    found += [_describe_text(cohort, text, c) for text, c in controls.items() if c.state in _TOLD]
    found += [_describe_task(task, c) for task, c in of_tasks.items() if c.state in _TOLD]
    unknown = "" if cohort.machine_floors else ", so the instrument's floor is unknown"
    for state, reason in _MISSING.items():
        missing = [name for name, c in named if c.state is state]
        where = "" if len(missing) == len(named) else f" on {join_words(missing)}"
        found += [f"No null control{where}: {reason}{unknown}."] if missing else []
    return found + [_describe_machine(floor) for floor in cohort.machine_floors]


def _describe_machine(floor: MachineFloor) -> str:
    """How far the machine of a comparison is from that of its capture."""
    where = "The capture does not tell the machine that it was made on"
    if floor.differences:
        where = f"Compared on another machine or build than the capture's ({'; '.join(floor.differences)})"
    rows = f"{floor.n_rows:,} rows of {floor.probe}"
    if floor.kld_max is None or floor.kld_mean is None:
        return f"{where}: this machine's rows of the base are no numbers ({rows})."
    if floor.kld_max == 0:
        return f"{where}: this machine's rows of the base have a KLD of exactly 0 to the capture's ({rows})."
    mean, most = format_plain(floor.kld_mean, digits=2), format_plain(floor.kld_max, digits=2)
    return (
        f"{where}: this machine's rows of the base differ from the capture's by a KLD of at most {most} nats, "
        f"{mean} on average ({rows})."
    )


_TOLD = {ControlState.MOVED, ControlState.NO_MAXIMUM}
_MISSING = {
    ControlState.NO_ROWS: "no row of the base is a number (NaN or infinity)",
    ControlState.NOT_RUN: "the base came from an imported file",
    ControlState.UNKNOWN: "this run does not say whether one was run, as where answers or numbers were imported",
}


def _describe_text(cohort: Cohort, text: str, control: Control) -> str:
    null = cohort.null_control.texts[text] if cohort.null_control is not None else None
    kld, floor = null.kld_mean if null is not None else None, cohort.floor(text)
    largest = "not recorded" if control.kld_max is None else f"{format_plain(control.kld_max)} nats"
    told = (
        f"{_NULL} has a mean KLD of {format_estimate(kld)} nats over {_rows(control)} of {text}, the largest {largest}"
    )
    return f"{told}; nothing at or below {format_plain(floor)} is interpreted." if floor else f"{told}."


def _describe_task(task: str, control: Control) -> str:
    largest = "not recorded" if control.kld_max is None else f"{format_plain(control.kld_max)} nats"
    where = f"of {task} ({_rows(control)} compared, the largest KLD {largest})"
    if not control.n_changed:
        return f"{_NULL} changes no answer {where}."
    return f"{_NULL} changes {control.n_changed:,} answers {where}; that many are the instrument's own."


def _rows(control: Control) -> str:
    return "an unknown number of rows" if control.n_rows is None else f"{control.n_rows:,} rows"


def warnings(cohort: Cohort, names: ShortNames = WHOLE) -> list[str]:
    """What must be known before a table is read: quants at the floor, rows and questions that are left out."""
    found = [*differences(cohort), *overlap_warnings(cohort, names)]
    found += [f"{names(quant.name)}: {finding}." for quant in cohort.quants for finding in quant.findings]
    for text in cohort.texts:
        rows = [(names(quant.name), summary) for quant, summary in measured(cohort, text)]
        at_floor = [name for name, summary in rows if is_at_floor(summary.kld_mean, cohort.floor(text))]
        if at_floor:
            found.append(f"{AT_FLOOR} At the floor of {text}, not told apart from the base: {join_words(at_floor)}.")
        found += [
            f"{name}: {summary.n_nonfinite:,} rows of {text} held NaN or infinity and are left out; this file or the "
            "base is damaged, or overflows."
            for name, summary in rows
            if summary.n_nonfinite
        ]
    for task in cohort.tasks:
        by_number: dict[int, list[str]] = {}
        for quant, summary in answered(cohort, task):
            by_number.setdefault(summary.n_invalid or 0, []).append(names(quant.name))
        found += [
            f"{join_words(quants)}: {f'{n:,} questions of {task} are' if n > 1 else f'1 question of {task} is'} left "
            "out: a choice has no finite score, or the answer is unknown."
            for n, quants in by_number.items()
            if n
        ]
    return found


def overlap_warnings(cohort: Cohort, names: ShortNames = WHOLE) -> list[str]:
    """Which texts and tasks the quants were calibrated on, where that is a hundredth of their words or more."""
    found = []
    for one in cohort.overlaps:
        if one.share < WORTH_A_WARNING or one.probe not in (*cohort.texts, *cohort.tasks):
            continue
        made = [names(quant.name) for quant in cohort.quants if _is_calibrated_on(quant, one.dataset)]
        whose = (
            f"{join_words(made)} look better there than they are" if made else "no quant here says it was made with it"
        )
        found.append(
            f"{format_plain(one.share, 100, 2)} % of the words of {printable(one.probe)} also stand in the calibration "
            f"text {printable(one.dataset)}, in runs of {one.n} words or more: {whose}. Measure on another text."
        )
    return found


def _is_calibrated_on(quant: Quant, dataset: str) -> bool:
    named = "" if quant.imatrix is None else quant.imatrix.dataset or ""
    return named.replace("\\", "/").rsplit("/", 1)[-1] == dataset


def differences(cohort: Cohort) -> list[str]:
    """In which settings the runs of a cohort differ: those that move no logit, and those that were allowed."""
    harmless = [str(each) for each in cohort.differences if each.is_known and not each.moves_logits]
    unknown = dict.fromkeys(each.name for each in cohort.differences if not each.is_known)
    allowed = [str(each) for each in cohort.differences if each.moves_logits]
    found = [f"The runs differ in settings that move no logit: {join_words(harmless)}."] if harmless else []
    if allowed:
        found.append(f"The runs differ in settings that move logits, as allowed: {join_words(allowed)}.")
    if unknown:
        found.append(f"Not every run tells {join_words(list(unknown))}, in which they may differ.")
    return found


def text_notes(cohort: Cohort, text: str) -> list[str]:
    """What was scored, and what was cut."""
    klds = [(summary.n_rows or summary.kld_mean.n, summary.kld_mean) for _, summary in measured(cohort, text)]
    tokens, windows = _span([n for n, _ in klds]), _span([kld.n_clusters for _, kld in klds])
    facts = cohort.texts_facts.get(text)
    if facts is None:
        return [f"{tokens} tokens scored in {windows} windows."]
    whose = "the assistant's tokens" if facts.score == ASSISTANT else "tokens of all turns"
    notes = [f"{tokens} tokens ({whose}) scored in {windows} conversations of {facts.n_read:,}."]
    if facts.n_shortened:
        notes.append(f"{facts.n_shortened:,} conversations longer than a window lost {facts.n_turns:,} of their turns.")
    if facts.n_left_out:
        notes.append(f"{facts.n_left_out:,} conversations are left out: no turn of the assistant's fits a window.")
    return notes


def task_notes(cohort: Cohort, task: str) -> list[str]:
    """What was asked and how, unusual questions, what the questions can show, and every verdict in a sentence."""
    rows = answered(cohort, task)
    summaries, facts = [summary for _, summary in rows], cohort.tasks_facts.get(task)
    sentences = [f"{quant.name}: {summary.sentence}." for quant, summary in rows if summary.sentence]
    return [_asked(summaries, facts), *_cases(facts, summaries), *_reach(summaries), *sentences]


def _asked(summaries: Sequence[TaskSummary], facts: TaskFacts | None) -> str:
    first = summaries[0]
    n_items = _span([summary.n_items or summary.acc.n for summary in summaries])
    n_groups = max(len(summary.by_group) for summary in summaries)  # none of a quant that decoded a sample
    groups = f" in {n_groups:,} {first.grouping}" if n_groups and first.grouping in (STRATA, CLUSTERS) else ""
    template = f", template {first.template}" if first.template else ""
    tokens = ""
    if facts and facts.n_tokens_decoded:
        ratio = facts.n_tokens_naive / facts.n_tokens_decoded
        model = "by the base" if any(summary.n_decoded for summary in summaries) else "per model"
        tokens = f"; {facts.n_tokens_decoded:,} tokens decoded {model}, {ratio:.1f} times fewer than choice by choice"
    return f"{n_items} questions{groups}{template}, rule {join_words(sorted({s.rule for s in summaries}))}{tokens}."


def _cases(facts: TaskFacts | None, summaries: Sequence[TaskSummary]) -> Iterator[str]:
    """Questions left out, ties and odd choices; nothing where there are none."""
    if facts and facts.n_left_out:
        yield f"{facts.n_left_out:,} questions are left out: longer than the context, or broken and skipped on request."
    n_ties = max(summary.n_ties or 0 for summary in summaries)
    if n_ties:
        yield f"Up to {n_ties:,} questions have two best choices; the first one counts as the answer."
    if facts is None:
        return
    cases = (
        (facts.n_identical, "two choices of the same tokens"),
        (facts.n_token_prefix, "a choice that begins another"),
        (facts.n_empty_prefix, "choices without a common first token"),
    )
    found = [f"{n:,} with {what}" for n, what in cases if n]
    if found:
        yield f"Unusual questions: {', '.join(found)}."


def _reach(summaries: Sequence[TaskSummary]) -> Iterator[str]:
    known = [100 * summary.mde for summary in summaries if summary.mde is not None]
    if known:
        low, high = format_plain(min(known), digits=2), format_plain(max(known), digits=2)
        reach = f"{low} points" if low == high else f"{low} to {high} points, depending on the quant"
        yield f"Smallest change of accuracy that these questions detect with 80 % power: {reach}."


def reading_notes(cohort: Cohort) -> list[str]:
    """How to read the tables, and the settings they were measured with."""
    notes = [*_reading_texts(cohort), *_reading_tasks(cohort)]
    return [*notes, f"GB is 10^9 bytes, GiB is 2^30. Settings: {format_settings(cohort.settings)}."]


def _reading_texts(cohort: Cohort) -> list[str]:
    if not cohort.texts:
        return []
    level = measured(cohort, cohort.texts[0])[0][1].kld_mean.level
    ran = any(text_control(cohort.null_control, text).state.shows_floor for text in cohort.texts)
    return [
        "KLD is KL(base ‖ quant) of the next-token distributions in nats per token, over the whole vocabulary; 0 means "
        "no change. It says how far a quant moved, not whether its answers became better or worse.",
        "± is one standard error, clustered by window because neighbouring tokens are not independent; results.csv "
        f"has the {level:.0%} intervals. The ± of PPL is that of each model by itself; the change from the base is "
        "measured on the same tokens and is more certain (ln_ppl_ratio in results.csv). Quantiles and maxima describe "
        "the measured rows and carry no error.",
        "Δp is the change in probability of the true token; same top is the share of tokens for which both models rank "
        "the same token first." + (" The base's line shows the null control." if ran else ""),
    ]


def _reading_tasks(cohort: Cohort) -> list[str]:
    summaries = [summary for quant in cohort.quants for summary in quant.tasks.values()]
    if not summaries:
        return []
    level = (summaries[0].net or summaries[0].acc).level
    margins = join_words([format_points(margin) for margin in dict.fromkeys(s.margin for s in summaries if s.margin)])
    return [
        "Drops were right in the base and are wrong in the quant; leapfrogs went the other way. Net change is "
        "leapfrogs minus drops in percentage points of accuracy, with its interval; volume is "
        "their sum, and index the difference over the sum (-1: only drops, +1: only leapfrogs).",
        "Margin shift is the mean change of log P(right) - log P(best wrong) in nats. It moves before answers flip; it "
        "is a sign of its own and no part of the verdict.",
        f"A verdict is read off the interval of the net change and a margin of {margins}, fixed beforehand: "
        "`equivalent` inside the margin, else `worse` or `better` where it excludes 0, `not inferior` where it lies "
        "above minus the margin. `not separable` says that these questions cannot tell, not that nothing changed. All "
        f"intervals of the tables hold together at {level:.0%}.",
    ]


def format_settings(settings: Mapping[str, Any]) -> str:
    """Every setting on one line; those that are not set are left out, digests are cut."""
    found = [(".".join(name), value) for name, value in flatten_settings(settings).items()]
    return ", ".join(f"{name} {format_setting(value)}" for name, value in found if value not in (None, [], {}, ()))


def format_setting(value: object) -> str:
    """One value as people read it: `on`, `not set`, a list with commas, the beginning of a digest."""
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, list | tuple):
        return ", ".join(format_setting(entry) for entry in value) or "none"
    return value[:12] if isinstance(value, str) and _DIGEST.fullmatch(value) else str(value)


def _span(counts: Sequence[int]) -> str:
    low, high = min(counts, default=0), max(counts, default=0)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
