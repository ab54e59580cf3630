"""card.md: the table and the honest sentences that go into a model card."""

from __future__ import annotations

from collections.abc import Sequence

from quantprobe.names import safe_name
from quantprobe.report.numbers import format_estimate, format_plain
from quantprobe.report.page.cells import VERDICT_SIGNS, format_interval
from quantprobe.report.page.html import flatten_settings
from quantprobe.report.sentences import Block, null_sentence
from quantprobe.report.tables.shapes import escape_markdown
from quantprobe.run.cohort import Cohort, QuantRecord

HASH_DIGITS = 12


def format_card(cohort: Cohort, blocks: Sequence[Block], picture: str | None = None) -> str:
    """The Markdown text: table, sentences, how to read it, null control, settings and short hashes.

    `blocks` are the page's; `picture` a path to a plot relative to the card, shown below the table.
    """
    parts = [f"## Fidelity and accuracy against {escape_markdown(cohort.base.name)}", _table(cohort)]
    if picture is not None:
        parts.append(f"![KLD against file size, {len(cohort.quants)} quants]({picture})")
    for block in blocks:
        if block.title:
            parts.append(f"### {escape_markdown(block.title)}")
        parts.append("\n".join(f"- {escape_markdown(sentence)}" for sentence in block.sentences))
    parts += ["### How to read", "\n".join(f"- {escape_markdown(line)}" for line in _notes(cohort))]
    return "\n\n".join(parts) + "\n"


def main_picture(cohort: Cohort) -> str | None:
    """Path of the size plot that a report writes beside the card; None where no text was measured."""
    return f"plots/kld-size-{safe_name(cohort.texts[0])}.png" if cohort.texts else None


def _table(cohort: Cohort) -> str:
    titles = ["Quant", "Size GB", "bpw"]
    for text in cohort.texts:
        titles += [f"Mean KLD {text} (nats)", f"Same top {text} (%)"]
    titles += [f"Net change {task} (pp)" for task in cohort.tasks]
    rows = [
        [*_line(cohort, quant), f"`{quant.sha256[:HASH_DIGITS]}`" if quant.sha256 else ""] for quant in cohort.quants
    ]
    lines = [[*titles, "SHA-256"], [":---", *["---:"] * len(titles)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _line(cohort: Cohort, quant: QuantRecord) -> list[str]:
    size = None if quant.size_bytes is None else quant.size_bytes / 1e9
    cells = [escape_markdown(quant.name), format_plain(size), format_plain(quant.bpw)]
    for text in cohort.texts:
        values = quant.texts[text].values if text in quant.texts else {}
        for key, scale in (("kld_mean", 1.0), ("same_top", 100.0)):
            cells.append(format_estimate(values[key], scale) if key in values else "n/a")
    for name in cohort.tasks:
        task = quant.tasks.get(name)
        net = task.values.get("net") if task else None
        sign = VERDICT_SIGNS.get(task.verdict or "", "") if task else ""
        cells.append(f"{format_interval(net, 100)} {sign}".strip() if net and net.value is not None else "n/a")
    return cells


def _notes(cohort: Cohort) -> list[str]:
    legend = ", ".join(f"{sign} {verdict}" for verdict, sign in VERDICT_SIGNS.items())
    notes = [
        "KLD is KL(base || quant) of the next-token distributions, nats per token; ± is one standard error, clustered "
        "by window. It says how far a quant moved, not whether its answers became worse.",
        f"Net change: leapfrogs (wrong to right) minus drops (right to wrong) in percentage points, with its "
        f"interval; {legend}.",
        null_sentence(cohort),
    ]
    settings = [f"{key} {value}" for key, value in flatten_settings(cohort.settings) if value != "not set"]
    notes.append(f"Settings: {', '.join(settings) or 'none recorded'}.")
    if cohort.base.sha256:
        notes.append(f"Base: {cohort.base.name}, SHA-256 {cohort.base.sha256[:HASH_DIGITS]}.")
    return notes
