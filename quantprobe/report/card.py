"""card.md: what goes into a model card. One table, one picture, three sentences, the settings folded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quantprobe.report.answer import Answer, Standing, answer_of, margin_of, n_questions, standings
from quantprobe.report.marks import mark_of
from quantprobe.report.names import join_words
from quantprobe.report.notes import format_setting
from quantprobe.report.numbers import MISSING, format_estimate, format_plain
from quantprobe.report.page.cards import settle_words, size_words
from quantprobe.report.page.notes import reading_notes
from quantprobe.report.printable import printable
from quantprobe.report.tables.cells import Cell, Column, Table
from quantprobe.report.tables.markdown import bullets, escape_markdown, markdown_table
from quantprobe.run.cohort import Cohort
from quantprobe.run.compare import flatten_settings
from quantprobe.run.results import Quant

if TYPE_CHECKING:
    from quantprobe.study.findings import Findings

HASH_DIGITS = 12


def format_card(cohort: Cohort, findings: Findings | None = None, picture: str | None = None) -> str:
    """The Markdown text; `picture` is the path of a plot relative to the card."""
    stood = standings(cohort, findings)
    answer = answer_of(cohort, findings)
    parts = [f"## Quants compared with {_safe(cohort.base.name)}", markdown_table(_table(cohort, stood))]
    if picture is not None:
        shows = "change of accuracy" if cohort.tasks else "mean KLD"
        parts.append(f"![File size against {shows}, {len(cohort.quants)} quants]({picture})")
    sentences = [_advice(answer), _measured(cohort, findings), *_caveat(answer)]
    parts.append(" ".join(_safe(sentence) for sentence in sentences))
    notes = [*reading_notes(cohort), *_identities(cohort)]
    folded = ["<details><summary>How to read it, settings and hashes</summary>", "", *bullets(map(_safe, notes)), ""]
    return "\n\n".join([*parts, "\n".join([*folded, "</details>"])]) + "\n"


def _safe(text: str) -> str:
    return escape_markdown(printable(text))


def _table(cohort: Cohort, stood: tuple[Standing, ...]) -> Table:
    columns = [Column("Quant"), Column("Size", _size_unit(cohort)[0]), Column("bpw")]
    columns += [Column(f"KLD {printable(text)}", "nats") for text in cohort.texts]
    columns += [Column("Same top", "%")] if cohort.texts else []
    columns += [Column("Change", "points"), Column("Verdict")] if cohort.tasks else []
    rows = tuple(
        tuple(Cell(printable(cell), None) for cell in _line(cohort, quant, standing))
        for quant, standing in zip(cohort.quants, stood, strict=True)
    )
    return Table("card", "", tuple(columns), rows)


def _line(cohort: Cohort, quant: Quant, standing: Standing) -> list[str]:
    texts = [quant.texts.get(text) for text in cohort.texts]
    cells = [standing.label, _size(cohort, quant), format_plain(quant.bpw)]
    cells += [MISSING if text is None else format_estimate(text.kld_mean) for text in texts]
    if texts:
        cells.append(MISSING if texts[0] is None else format_estimate(texts[0].same_top, 100))
    if cohort.tasks:
        cells.append(standing.change_words)
        cells.append(MISSING if standing.verdict is None else f"{mark_of(standing.verdict).sign} {standing.verdict}")
    return cells


def _size_unit(cohort: Cohort) -> tuple[str, float]:
    largest = max((quant.size_bytes or 0 for quant in cohort.quants), default=0)
    return ("GB", 1e9) if largest >= 1e9 else ("MB", 1e6)


def _size(cohort: Cohort, quant: Quant) -> str:
    return MISSING if quant.size_bytes is None else format_plain(quant.size_bytes / _size_unit(cohort)[1])


def _advice(answer: Answer) -> str:
    if answer.take is None:
        return answer.why
    change = answer.take.change_words
    where = f"{size_words(answer.take.size_bytes)}, {change} points"
    return f"Take {answer.take.label} ({where}): {answer.why[0].lower()}{answer.why[1:]}"


def _measured(cohort: Cohort, findings: Findings | None) -> str:
    parts = []
    for text in cohort.texts:
        tokens = max(q.texts[text].kld_mean.n for q in cohort.quants if text in q.texts)
        parts.append(f"{tokens:,} tokens of {text}")
    told = [f"KLD is over {join_words(parts)}"] if parts else []
    if cohort.tasks:
        margin = f"{100 * margin_of(cohort, findings):g}"
        tasks = f"{n_questions(cohort):,} questions of {join_words(cohort.tasks)}"
        told.append(f"{'the' if told else 'The'} change is over {tasks}, with a margin of ±{margin} fixed beforehand")
    return f"{'; '.join(told)}."


def _caveat(answer: Answer) -> list[str]:
    """What would settle it where nothing is decided, else the first thing that is not known."""
    if answer.by_accuracy and answer.undecided and answer.may_do[0].more is not None:
        return [f"{answer.may_do[0].label} is the first in reach: {settle_words(answer.may_do[0])}."]
    return list(answer.unknown[:1])


def _identities(cohort: Cohort) -> list[str]:
    settings = [(".".join(name), value) for name, value in flatten_settings(cohort.settings).items()]
    known = [f"{name} {format_setting(value)}" for name, value in settings if value not in (None, [], {}, ())]
    found = [f"Settings: {', '.join(known) or 'none recorded'}."]
    hashes = [f"{model.name} {model.sha256[:HASH_DIGITS]}" for model in (cohort.base, *cohort.quants) if model.sha256]
    return [*found, f"SHA-256, first {HASH_DIGITS} digits: {', '.join(hashes)}."] if hashes else found
