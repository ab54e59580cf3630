"""What an importance matrix or a cache type did: the variants of one file type, compared in pairs."""

from __future__ import annotations

from collections.abc import Sequence

from quantprobe.report.marks import MARKS
from quantprobe.report.names import WHOLE, ShortNames
from quantprobe.report.numbers import MISSING, format_interval
from quantprobe.report.printable import printable
from quantprobe.report.tables.cells import Cell, Column, Field, Table, make_table, plain_cell, text_cell
from quantprobe.report.tables.tasks import POOLED
from quantprobe.study.variants import CANNOT_BE_TOLD, HELPED, HURT, IMATRIX, PairShift

PAIR_MARKS = {HELPED: MARKS["better"], HURT: MARKS["worse"], CANNOT_BE_TOLD: MARKS["not separable"]}
"""The verdicts of pairs look like those of quants: up is better, down is worse, open is open."""


def pair_tables(shifts: Sequence[PairShift], names: ShortNames = WHOLE, brief: bool = False) -> list[Table]:
    """One table for each factor: a line per pair and probe. `brief`: of several tasks their pool alone."""
    pooled = {shift.pair for shift in shifts if shift.probe is None}
    if brief:
        shifts = [one for one in shifts if one.measure != "net" or one.probe is None or one.pair not in pooled]
    return [_table(factor, shifts, names) for factor in dict.fromkeys(shift.pair.factor for shift in shifts)]


def probe_name(shift: PairShift) -> str:
    return POOLED if shift.probe is None else shift.probe


def _table(factor: str, shifts: Sequence[PairShift], names: ShortNames) -> Table:
    is_matrix = factor == IMATRIX
    fields: list[Field[PairShift]] = [
        Field(Column("Type" if is_matrix else "File"), lambda shift: text_cell(names(shift.pair.of))),
        Field(Column("From", priority=2), lambda shift: text_cell(printable(shift.pair.a_level))),
        Field(Column("To"), lambda shift: text_cell(printable(shift.pair.b_level))),
        Field(Column("Verdict", priority=0), _verdict_cell),  # here it is seen on a phone without scrolling
        Field(Column("On"), lambda shift: text_cell(printable(probe_name(shift)))),
        Field(Column("Change", priority=0), _change_cell),
        Field(Column("p", "corrected", priority=3), lambda shift: plain_cell(shift.adjusted_p, digits=2)),
    ]
    rows = [shift for shift in shifts if shift.pair.factor == factor]
    caption = f"What the {factor} did: change of KLD (nats) and accuracy (points), paired"
    return make_table("pairs-imatrix" if is_matrix else "pairs-cache", caption, fields, rows)


_UNITS = {"kld_mean": (1.0, "nats"), "net": (100.0, "points")}


def _change_cell(shift: PairShift) -> Cell:
    scale, unit = _UNITS[shift.measure]
    value = shift.change.value
    return Cell(MISSING if value is None else f"{format_interval(shift.change, scale, signed=True)} {unit}", value)


def _verdict_cell(shift: PairShift) -> Cell:
    mark = PAIR_MARKS[shift.verdict]
    return Cell(f"{mark.sign} {shift.verdict}", shift.verdict, mark.css)
