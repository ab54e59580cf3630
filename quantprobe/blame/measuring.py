"""Measures the runs of a design: base, quant and hybrids on the same rows and items."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from quantprobe.arrays import BoolArray, FloatArray
from quantprobe.blame.effects import Response
from quantprobe.blame.groups import Group
from quantprobe.blame.hybrids import HybridModel, hybrid_info
from quantprobe.errors import InputError
from quantprobe.gguf.hybrid import ModelPair
from quantprobe.gguf.model import ModelInfo
from quantprobe.metrics.answers import Answers
from quantprobe.probes.items import TaskProbe
from quantprobe.probes.text import TextProbe
from quantprobe.run.blame import GOLD_PROB, KLD, MARGIN, NET
from quantprobe.stats.design import ItemDesign, as_design, item_design, pool_designs
from quantprobe.sweep.measuring import LazyModel, Measuring


@dataclass(frozen=True, eq=False)
class Values:
    """What one run gave: KLD per row of all texts, answers per task."""

    kld: FloatArray
    """`[n_rows]`, NaN where a row is not finite."""
    answers: Mapping[str, Answers]


class Runs:
    """The runs of designs over some groups; what was measured before is read from the run's folder."""

    def __init__(self, measuring: Measuring, pair: ModelPair, groups: Sequence[Group]) -> None:
        self._measuring = measuring
        self._pair = pair
        self._groups = groups
        self._found: dict[bytes, Values] = {}
        self._texts = [probe for probe in measuring.probes if isinstance(probe, TextProbe)]
        self._tasks = [probe for probe in measuring.probes if isinstance(probe, TaskProbe)]

    def info(self, row: BoolArray) -> ModelInfo:
        """The model of a run: the quant itself where nothing is restored, else a hybrid."""
        if not row.any():
            return self._pair.quant.info
        return hybrid_info(self._pair, self.restored(row), self._measuring.run.hybrid)

    def restored(self, row: BoolArray) -> frozenset[str]:
        """The units that are the base's in a run."""
        return frozenset().union(*(group.names for group, on in zip(self._groups, row, strict=True) if on))

    def missing(self, rows: BoolArray) -> list[BoolArray]:
        """The different runs that have still to be decoded, in the order of the design."""
        found: dict[bytes, BoolArray] = {}
        for row in rows:
            if not row.all() and row.tobytes() not in found and not self._is_done(row):
                found[row.tobytes()] = row
        return list(found.values())

    def _is_done(self, row: BoolArray) -> bool:
        if row.tobytes() in self._found:
            return True
        return not self._measuring.left(self.info(row).identity(), in_part=False)

    def plan(self, rows: Sequence[BoolArray]) -> None:
        """Tell what these runs will decode."""
        left = [probe for row in rows for probe in self._measuring.left(self.info(row).identity(), in_part=False)]
        self._measuring.progress.plan(len(left), sum(self._measuring.n_tokens(probe) for probe in left))

    def measure(self, row: BoolArray) -> float:
        """Measure one run unless it was measured before; the seconds it took."""
        begin = time.monotonic()
        if row.tobytes() not in self._found:
            self._found[row.tobytes()] = self._base() if row.all() else self._measure(row)
        return time.monotonic() - begin

    def _measure(self, row: BoolArray) -> Values:
        settings, progress = self._measuring.settings, self._measuring.progress
        if not row.any():
            with LazyModel(self._pair.quant.info, settings, progress) as model:
                return self._decode(model)
        with HybridModel(self._pair, self.restored(row), self._measuring.run.hybrid, settings, progress) as hybrid:
            return self._decode(hybrid)

    def _decode(self, model: LazyModel) -> Values:
        texts = [self._measuring.text(model, probe) for probe in self._texts]
        klds = [np.where(text.rows["finite"], text.rows["kld"], np.nan) for text in texts]
        tasks = {probe.name: self._measuring.task(model, probe) for probe in self._tasks}
        return Values(np.concatenate([*klds, np.empty(0)]), {name: task.answers()[1] for name, task in tasks.items()})

    def _base(self) -> Values:
        """Everything restored is the base: a KLD of 0, and the answers of the capture."""
        n_rows = sum(probe.n_rows for probe in self._texts)
        info = self._pair.quant.info
        return Values(
            np.zeros(n_rows), {probe.name: self._measuring.base_answers(info, probe) for probe in self._tasks}
        )

    def responses(self, rows: BoolArray, groupings: Mapping[str, str]) -> dict[str, Response]:
        """Every measure of these runs, over the rows and items that are finite in all of them.

        Raises `InputError` where no row and no item is left.
        """
        for row in rows:
            self.measure(row)
        values = [self._found[row.tobytes()] for row in rows]
        found: dict[str, Response] = {}
        if self._texts:
            kld = np.array([one.kld for one in values])
            found[KLD] = _kept(-kld, pool_designs([as_design(probe.windows()) for probe in self._texts]))
        if self._tasks:
            found |= self._task_responses(rows, values, groupings)
        if not found or any(response.values.shape[1] == 0 for response in found.values()):
            raise InputError("no row or no question has finite numbers in the base, the quant and all hybrids")
        return found

    def _task_responses(
        self, rows: BoolArray, values: Sequence[Values], groupings: Mapping[str, str]
    ) -> dict[str, Response]:
        names = [probe.name for probe in self._tasks]
        design = pool_designs(
            [item_design(values[0].answers[name].groups, groupings.get(name, "none")) for name in names]
        )
        every = [[one.answers[name] for name in names] for one in values]
        valid = np.array([np.concatenate([each.valid for each in run]) for run in every]).all(axis=0)
        measures = {
            NET: np.array([np.concatenate([each.correct for each in run]) for run in every], np.float64),
            MARGIN: np.array([np.concatenate([each.margin for each in run]) for run in every]),
            GOLD_PROB: np.array([np.concatenate([each.gold_prob for each in run]) for run in every]),
        }
        if not self._texts:
            measures = {KLD: -self._item_klds(rows, every), **measures}
        return {name: _kept(np.where(valid, numbers, np.nan), design) for name, numbers in measures.items()}

    def _item_klds(self, rows: BoolArray, every: Sequence[Sequence[Answers]]) -> FloatArray:
        def of_run(answers: Sequence[Answers]) -> FloatArray:
            return np.concatenate([np.zeros(one.n_items) if one.kld is None else one.kld for one in answers])

        return np.array([of_run(run) for run in every])


def _kept(values: FloatArray, design: ItemDesign) -> Response:
    """The columns that are finite in every run."""
    finite: BoolArray = np.asarray(np.isfinite(values).all(axis=0))
    return Response(values[:, finite], design.keep(finite))
