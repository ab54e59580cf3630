"""Tables of importance matrices."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby

from quantprobe.imatrix.statistics import TensorComparison, TensorStatistics
from quantprobe.report.tables.cells import Cell, Column, Table, count_cell, plain_cell, text_cell


def layer_table(tensors: Sequence[TensorStatistics]) -> Table:
    """One line per layer, weights averaged by their number of columns; outside the layers, one per weight."""
    rows = []
    for _, group in groupby(tensors, key=lambda each: each.name if each.layer is None else each.layer):
        members = list(group)
        columns = sum(each.n_columns for each in members)
        known = [each for each in members if each.cosine is not None]
        first = members[0]
        rows.append(
            (
                text_cell(first.role) if first.layer is None else Cell(str(first.layer), first.layer),
                count_cell(len(members)),
                plain_cell(sum(each.total for each in members)),
                plain_cell(sum(each.active * each.n_columns for each in members) / columns, 100),
                plain_cell(sum(each.entropy * each.n_columns for each in members) / columns, 100),
                plain_cell(sum(each.top_share * each.n_columns for each in members) / columns, 100),
                _known_cell(sum(each.cosine or 0 for each in known) / len(known) if known else None),
                _experts_cell(members),
            )
        )
    titles = (
        "Layer",
        "Weights",
        "Sum of means",
        "Active",
        "Entropy",
        "In top 1 %",
        "Cosine to layer before",
        "Experts",
    )
    return _table("imatrix", "Mean squared inputs by layer", titles, rows)


def weight_table(tensors: Sequence[TensorStatistics]) -> Table:
    """One line per weight."""
    rows = [
        (
            text_cell(each.name),
            count_cell(each.n_columns),
            count_cell(each.n_tokens),
            plain_cell(each.total),
            plain_cell(each.mean),
            plain_cell(each.high),
            plain_cell(each.active, 100),
            plain_cell(each.entropy, 100),
            plain_cell(each.top_share, 100),
            _known_cell(each.cosine),
            _experts_cell([each]),
            count_cell(each.min_count) if each.n_experts > 1 else text_cell(""),
        )
        for each in tensors
    ]
    titles = (
        "Weight", "Columns", "Tokens", "Sum of means", "Mean", "Largest", "Active", "Entropy", "In top 1 %",
        "Cosine to layer before", "Experts", "Fewest tokens",
    )  # fmt: skip
    return _table("imatrix", "Mean squared inputs by weight", titles, rows)


def comparison_table(tensors: Sequence[TensorComparison], n_most: int | None) -> Table:
    """The weights of two matrices, those with the lowest rank correlation first; `n_most` lines at most."""
    ordered = sorted(tensors, key=lambda each: math.inf if math.isnan(each.rank) else each.rank)
    rows = [
        (
            text_cell(each.name),
            _known_cell(each.cosine),
            _known_cell(each.log_ratio),
            _known_cell(each.log_ratio_sd),
            _known_cell(each.rank),
            plain_cell(None if math.isnan(each.top_overlap) else each.top_overlap, 100),
        )
        for each in ordered[:n_most]
    ]
    titles = ("Weight", "Cosine", "ln(B/A)", "SD of ln(B/A)", "Rank correlation", "Top 1 % in both")
    left = len(tensors) - len(rows)
    caption = "Mean squared inputs of B beside A" + (f" ({left} more weights with --details)" if left else "")
    return _table("imatrix-compare", caption, titles, rows)


_UNITS = {"Active": "%", "Entropy": "% of the most", "In top 1 %": "%", "Top 1 % in both": "%", "ln(B/A)": "mean"}
_LESS = {"Columns": 3, "Tokens": 3, "Mean": 4, "Largest": 4, "Active": 2, "Cosine to layer before": 2}


def _table(id_: str, caption: str, titles: Sequence[str], rows: Sequence[tuple[Cell, ...]]) -> Table:
    """The table without columns that say nothing (experts of a dense model)."""
    known = [i for i in range(len(titles)) if any(row[i].sort is not None for row in rows)]
    columns = tuple(Column(title, _UNITS.get(title, ""), _LESS.get(title, 1)) for title in titles)
    return Table(id_, caption, columns, tuple(rows)).only(known)


def _known_cell(value: float | None) -> Cell:
    return text_cell("") if value is None or math.isnan(value) else Cell(f"{value:.4f}", value)


def _experts_cell(members: Sequence[TensorStatistics]) -> Cell:
    """Experts that saw a token, of all of them, in the weights that have experts."""
    routed = [each for each in members if each.n_experts > 1]
    if not routed:
        return text_cell("")
    seen, total = min(each.n_seen for each in routed), routed[0].n_experts
    return Cell(f"{seen}/{total}", seen / total)
