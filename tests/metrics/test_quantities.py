"""The declarations of numbers: complete, without contradictions, and what rows and summaries are made of."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest

from quantprobe.metrics.quantities import (
    FLAG,
    QUANTITIES,
    ROW_QUANTITIES,
    TASK_QUANTITIES,
    TEXT_QUANTITIES,
    task_quantity,
    text_quantity,
)
from quantprobe.metrics.rows import ROW_DTYPE
from quantprobe.stats.summary import TextSummary
from quantprobe.stats.summary_groups import GroupSummary
from quantprobe.stats.summary_tasks import TaskSummary

NUMBERS = ("Estimate", "float", "int")


def numbers_of(record: type) -> list[str]:
    """Fields of a summary that hold a number."""
    return [field.name for field in fields(record) if str(field.type).startswith(NUMBERS)]


def test_a_row_has_the_declared_fields() -> None:
    assert ROW_DTYPE.names == tuple(quantity.name for quantity in ROW_QUANTITIES)  # floats are declared before flags
    for quantity in ROW_QUANTITIES:
        assert ROW_DTYPE[quantity.name] == (np.bool_ if quantity.unit == FLAG else np.float64)


def test_every_number_of_a_summary_is_declared() -> None:
    assert [quantity.name for quantity in TEXT_QUANTITIES] == numbers_of(TextSummary)
    declared = [quantity.name for quantity in TASK_QUANTITIES]
    assert sorted(declared) == sorted(numbers_of(TaskSummary))
    assert set(numbers_of(GroupSummary)) <= set(declared)


def test_one_name_is_one_number() -> None:
    for quantity in (*TEXT_QUANTITIES, *TASK_QUANTITIES):
        known = QUANTITIES[quantity.name]
        assert (known.unit, known.better, known.title, known.log) == (
            quantity.unit, quantity.better, quantity.title, quantity.log
        )  # fmt: skip
        assert quantity.meaning and quantity.title
    assert text_quantity("kld_mean") is QUANTITIES["kld_mean"]
    assert task_quantity("kld_mean").meaning != text_quantity("kld_mean").meaning
    with pytest.raises(KeyError):
        text_quantity("acc")
    with pytest.raises(KeyError):
        task_quantity("ppl")


def test_percentiles_say_their_rank() -> None:
    assert (text_quantity("kld_p999").title, text_quantity("kld_p999").fraction) == ("KLD 99.9 %", 0.999)
    assert text_quantity("kld_max").meaning == "largest of the rows' KLD"
    assert text_quantity("kld_p999").idea == "tail" and text_quantity("kld_median").idea == "kld"
    assert (text_quantity("delta_p_p01").unit, text_quantity("delta_p_p01").better) == ("probability", "higher")


def test_summaries_take_unit_and_direction_from_the_row_metric() -> None:
    rows = {quantity.name: quantity for quantity in ROW_QUANTITIES}
    for quantity in TEXT_QUANTITIES:
        if quantity.rows:
            unit = "fraction" if quantity.how == "share" else rows[quantity.rows].unit
            assert quantity.unit == unit, quantity.name
