"""What groups of tensors cost, as tables and words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from quantprobe.report.numbers import format_interval, format_plain
from quantprobe.report.tables.cells import BLANK, Cell, Column, Field, Table, make_table, plain_cell, text_cell
from quantprobe.run.blame import GOLD_PROB, KLD, MARGIN, NET, Blame, BlameGroup, Effect, GroupEffects

WAYS = {
    "restored": "each group restored in the quant",
    "alone": "each group restored where all others are the base's",
    "averaged": "each group restored, averaged over the states of the others",
}
MEASURE_COLUMNS = {
    KLD: ("KLD given back", "nats", 1.0),
    MARGIN: ("Margin given back", "nats", 1.0),
    NET: ("Net", "points", 100.0),
    GOLD_PROB: ("Gold probability", "points", 100.0),
}
_PRIORITIES = {KLD: 1, MARGIN: 1, NET: 2, GOLD_PROB: 4}


def types_text(types: Mapping[str, int]) -> str:
    """`IQ4_NL, Q5_K`, the most frequent first."""
    return ", ".join(sorted(types, key=lambda name: (-types[name], name)))


def groups_table(groups: Sequence[BlameGroup]) -> Table:
    """Groups, their sizes and types: what a dry run shows."""
    fields: tuple[Field[BlameGroup], ...] = (
        Field(Column("Group"), lambda group: text_cell(group.name)),
        Field(Column("Tensors"), lambda group: plain_cell(len(group.tensors))),
        Field(Column("Quant", "MB"), lambda group: plain_cell(group.quant_bytes / 1e6)),
        Field(Column("Restoring", "MB"), lambda group: plain_cell(group.extra_bytes / 1e6)),
        Field(Column("Types"), lambda group: text_cell(types_text(group.quant_types))),
        Field(Column("Base types", priority=3), lambda group: text_cell(types_text(group.base_types))),
        Field(Column("Weight error", "%", priority=2), lambda group: plain_cell(group.weight_error, 100)),
    )
    return make_table("groups", "Tensors that differ, in groups", fields, groups)


def effects_tables(blame: Blame) -> list[Table]:
    """One table for each way, the group that gives back the most distance first."""
    return [_effects_table(blame, way) for way in blame.ways]


def _effects_table(blame: Blame, way: str) -> Table:
    fields: list[Field[GroupEffects]] = [
        Field(Column("Group"), lambda each: text_cell(each.group)),
        Field(Column("Costs", "MB", priority=3), lambda each: plain_cell(blame.group(each.group).extra_bytes / 1e6)),
    ]
    for measure in blame.measures:
        fields += _columns(measure)
    first = blame.measures[0]
    rows = sorted(blame.of_way(way), key=lambda each: -(each.measures[first].given_back.value or 0.0))
    totals = ", ".join(
        f"{MEASURE_COLUMNS[name][0].removesuffix(' given back')} "
        f"{format_interval(blame.total[name], MEASURE_COLUMNS[name][2])} {MEASURE_COLUMNS[name][1]}"
        for name in blame.measures
    )
    caption = f"{blame.quant.name}: {WAYS[way]} ({blame.design} design); everything restored: {totals}"
    return make_table(f"blame-{way}", caption, fields, rows)


def _columns(measure: str) -> list[Field[GroupEffects]]:
    title, unit, scale = MEASURE_COLUMNS[measure]
    priority = _PRIORITIES[measure]

    def cell(each: GroupEffects) -> Cell:
        effect = each.measures.get(measure)
        if effect is None:
            return BLANK
        return Cell(format_interval(effect.given_back, scale) + _mark(effect), effect.given_back.value)

    def per_mb(each: GroupEffects) -> Cell:
        value = each.measures[measure].per_mb if measure in each.measures else None
        # a thousandth of the unit: a MB buys little of a model
        return BLANK if value is None else Cell(format_plain(value, 1000 * scale), value)

    def share(each: GroupEffects) -> Cell:
        value = each.measures[measure].share if measure in each.measures else None
        return BLANK if value is None else plain_cell(value, 100, 2)

    columns = [Field(Column(title, unit, priority=priority), cell)]
    if measure == KLD:
        columns.append(Field(Column("Share", "%", priority=3), share))
    short = {KLD: "KLD", MARGIN: "Margin", NET: "Net", GOLD_PROB: "Gold"}[measure]
    columns.append(Field(Column(f"{short} per MB", f"1/1000 {unit}", priority=priority + 4), per_mb))
    return columns


def _mark(effect: Effect) -> str:
    """A star where the interval, which holds for all groups together, leaves out 0."""
    low, high = effect.given_back.low, effect.given_back.high
    return " *" if low is not None and high is not None and (low > 0 or high < 0) else "  "


def blame_sentences(blame: Blame) -> list[str]:
    """What was found, and how to read the table."""
    return [
        *blame.sentences,
        "Intervals (95 %) hold for all groups of a column together; * leaves out 0. Positive: nearer to the base, or "
        "more right.",
    ]
