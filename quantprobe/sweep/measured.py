"""What is kept of a model's rows beside the base's: values per row of a text, log-probabilities per token of a task."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantprobe.arrays import Float32Array, FloatArray, Int32Array, Int64Array
from quantprobe.engine.base_rows import BaseRows
from quantprobe.engine.device_rows import DeviceRows
from quantprobe.engine.runner import Block
from quantprobe.metrics.answers import Answers, answers_from_logprobs
from quantprobe.metrics.direction import measure_direction
from quantprobe.metrics.rows import ROW_DTYPE, row_metrics
from quantprobe.metrics.scores import logprob_pairs, pair_layout, score_choices
from quantprobe.probes.items import TaskProbe
from quantprobe.probes.rules import RULES
from quantprobe.probes.text import TextProbe
from quantprobe.run.json_text import plain
from quantprobe.run.rows import read_arrays, write_arrays
from quantprobe.stats.summary import TextSummary, summarise_text


class MeasuredText:
    """The rows of one text, `[n_rows]` of `ROW_DTYPE`."""

    stored = ROW_DTYPE.names or ()
    """Names of the arrays of `values`."""
    optional = ("on_device",)
    """Names of those that are there where they say something."""

    def __init__(self, probe: TextProbe, llama_compat: bool = False) -> None:
        self.probe = probe
        self.rows = np.zeros(probe.n_rows, ROW_DTYPE)
        self.decoded = np.zeros(probe.n_windows, np.bool_)
        """`[n_windows]`: the windows whose rows are all there."""
        self.there = np.zeros(probe.n_rows, np.bool_)
        """`[n_rows]`: the rows that came from a model or a checkpoint."""
        self.on_device = np.zeros(probe.n_rows, np.bool_)
        """`[n_rows]`: the rows that were compared on the device of the output layer, not by the kernels."""
        self._targets = probe.targets()
        self._llama_compat = llama_compat

    def add(
        self,
        block: Block,
        base_rows: BaseRows,
        stored: NDArray[Any],
        row_dtype: str,
        device_rows: DeviceRows | None = None,
    ) -> None:
        """Compare the rows of one block with the base's stored ones, on the device where that is proved."""
        ids, targets = block.row_ids, self._targets[block.row_ids]
        if device_rows is None:
            self.rows[ids] = base_rows.compare(stored, row_dtype, block.logits, targets, self._llama_compat)
        else:
            found = base_rows.compare_on(device_rows, stored, row_dtype, block.logits, targets)
            self.rows[ids], self.on_device[ids] = found
        self.there[ids] = True

    def values(self, row_ids: Int64Array) -> dict[str, NDArray[Any]]:
        """What is kept of these rows, for `restore`."""
        return {name: self.rows[name][row_ids] for name in self.stored} | self._marks(row_ids)

    def restore(self, row_ids: Int64Array, values: Mapping[str, NDArray[Any]]) -> None:
        for name in self.stored:
            self.rows[name][row_ids] = values[name]
        self.on_device[row_ids] = values.get("on_device", False)
        self.there[row_ids] = True

    def _marks(self, rows: Any) -> dict[str, NDArray[Any]]:
        """Which rows were compared on a device; nothing where none was."""
        marks = self.on_device[rows]
        return {"on_device": marks} if marks.any() else {}

    def keep_whole(self) -> None:
        """Take for decoded the windows whose rows are all there."""
        counts = self.probe.row_counts()
        self.decoded |= np.logical_and.reduceat(self.there, np.cumsum(counts) - counts)

    def missing(self) -> Int64Array:
        """The windows that are not decoded yet."""
        return np.flatnonzero(~self.decoded)

    def load(self, path: Path, keys: str | Collection[str]) -> None:
        """Take the rows from an earlier run, as far as it came; nothing if there are none under these keys."""
        arrays = read_arrays(path, keys, (*self.stored, "windows"), self.optional)
        if arrays is None:
            return
        decoded = np.isin(np.arange(self.probe.n_windows), arrays["windows"])
        rows = np.repeat(decoded, self.probe.row_counts())
        if int(rows.sum()) != len(arrays["windows"]):
            return
        for name in self.stored:
            self.rows[name][rows] = arrays[name]
        self.on_device[rows] = arrays.get("on_device", False)
        self.decoded = decoded

    def save(self, path: Path, key: str) -> None:
        """Keep the rows of the windows that are there."""
        rows, windows = self._there()
        marks = self._marks(np.repeat(self.decoded, self.probe.row_counts()))
        write_arrays(path, key, {**{name: rows[name] for name in self.stored}, **marks, "windows": windows})

    def summary(self) -> TextSummary:
        """The summary of the windows that are there."""
        return summarise_text(*self._there(), categories=self.probe.categories())

    def add_unchecked(self, row_ids: Int64Array) -> None:
        """Rows of the base that are not computed again: they are in no number of its null control."""

    def null_control(self) -> Any:
        """The summary of the rows that were computed again; `n_rows` of it says on how many."""
        numbers: dict[str, Any] = plain(summarise_text(self.rows[self.there], self.probe.windows()[self.there]))
        del numbers["by_category"]
        return numbers

    def _there(self) -> tuple[NDArray[Any], Int32Array]:
        kept = np.repeat(self.decoded, self.probe.row_counts())
        return self.rows[kept], self.probe.windows()[kept]


class MeasuredTask:
    """The scored tokens of one task: enough to answer under every rule, nothing of the size of the vocabulary."""

    stored = ("base", "quant", "kld")
    """Names of the arrays of `values`."""
    optional = ()

    def __init__(self, probe: TaskProbe) -> None:
        self.probe = probe
        self.layout = pair_layout(probe)
        self.base = np.full(self.layout.n_pairs, np.nan)
        """`[n_pairs]` float64: log-probability of each scored token under the base, nats."""
        self.quant = self.base.copy()
        self.kld = np.full(probe.n_rows, np.nan)
        """`[n_rows]` float64: KLD of each row in nats, NaN where a row is not finite or not decoded."""
        self.decoded = np.zeros(len(probe.items), np.bool_)
        """`[n_items]`: the items whose rows are all there."""
        self.there = np.zeros(probe.n_rows, np.bool_)
        """`[n_rows]`: the rows that came from a model or a checkpoint."""

    def add(
        self,
        block: Block,
        base_rows: BaseRows,
        stored: NDArray[Any],
        row_dtype: str,
        device_rows: DeviceRows | None = None,
    ) -> None:
        """Take the rows of one block and the base's stored ones."""
        base = base_rows.logits(stored, row_dtype)
        no_target = np.zeros(len(block.row_ids), dtype=np.int32)
        self.kld[block.row_ids] = row_metrics(base, block.logits, no_target)["kld"]
        pairs, rows, tokens = self._pairs(block.row_ids)
        self.base[pairs] = logprob_pairs(base, rows, tokens)
        self.quant[pairs] = logprob_pairs(block.logits, rows, tokens)
        self.there[block.row_ids] = True

    def values(self, row_ids: Int64Array) -> dict[str, NDArray[Any]]:
        """What is kept of these rows, for `restore`; of their scored tokens in the order of `_pairs`."""
        pairs, _, _ = self._pairs(row_ids)
        return {"base": self.base[pairs], "quant": self.quant[pairs], "kld": self.kld[row_ids]}

    def restore(self, row_ids: Int64Array, values: Mapping[str, NDArray[Any]]) -> None:
        pairs, _, _ = self._pairs(row_ids)
        self.base[pairs], self.quant[pairs] = values["base"], values["quant"]
        self.kld[row_ids] = values["kld"]
        self.there[row_ids] = True

    def keep_whole(self) -> None:
        """Take for decoded the items whose rows are all there."""
        spans = itertools.pairwise(self.probe.offsets())
        self.decoded |= np.array([high > low and bool(self.there[low:high].all()) for low, high in spans])

    def add_unchecked(self, row_ids: Int64Array) -> None:
        """Rows of the base that are not computed again: the same on both sides, whatever it is, and in no KLD."""
        pairs, _, _ = self._pairs(row_ids)
        self.base[pairs] = self.quant[pairs] = 0.0

    def add_base(self, row_ids: Int64Array, logits: Float32Array) -> None:
        """Rows of the base alone: its answers stand on both sides, and there is no KLD."""
        pairs, rows, tokens = self._pairs(row_ids)
        self.base[pairs] = self.quant[pairs] = logprob_pairs(logits, rows, tokens)

    def _pairs(self, row_ids: Int64Array) -> tuple[Int64Array, Int64Array, Int32Array]:
        """The scored tokens of some rows: their numbers, their places among the rows, their ids."""
        place = np.full(self.probe.n_rows, -1, dtype=np.int64)
        place[row_ids] = np.arange(len(row_ids))
        pairs = np.flatnonzero(place[self.layout.rows] >= 0)
        return pairs, place[self.layout.rows[pairs]], self.layout.tokens[pairs]

    def missing(self) -> Int64Array:
        """The items that are not decoded yet."""
        return np.flatnonzero(~self.decoded)

    def load(self, path: Path, keys: str | Collection[str]) -> None:
        """Take the values from an earlier run, as far as it came; nothing if there are none under these keys."""
        arrays = read_arrays(path, keys, self.stored, ("decoded",))
        if arrays is None or len(arrays["kld"]) != len(self.kld) or len(arrays["base"]) != len(self.base):
            return
        self.base, self.quant, self.kld = arrays["base"], arrays["quant"], arrays["kld"]
        self.decoded = arrays.get("decoded", np.ones(len(self.decoded), np.bool_))

    def save(self, path: Path, key: str) -> None:
        """Keep the values; without `decoded` where every item is there."""
        partial = {} if self.decoded.all() else {"decoded": self.decoded}
        write_arrays(path, key, {"base": self.base, "quant": self.quant, "kld": self.kld, **partial})

    def answers(self, rule: str | None = None) -> tuple[Answers, Answers]:
        """Answers of base and quant under a rule; None: the task's own."""
        rule = rule or self.probe.rule
        return self._answers(self.base, rule, None), self._answers(self.quant, rule, self._item_kld())

    def _answers(self, logprobs: FloatArray, rule: str, kld: FloatArray | None) -> Answers:
        scores = score_choices(logprobs, self.layout, rule)
        if RULES[rule].ties_to_last:
            # answers_from_logprobs gives a tie to the first choice: one step decides it
            tied = scores[:, 0] == scores[:, 1]
            scores[tied, 0] = np.nextafter(scores[tied, 0], -np.inf)
        items = self.probe.items
        return answers_from_logprobs(
            [item.id for item in items],
            [item.group for item in items],
            np.array([item.gold for item in items], dtype=np.int32),
            scores,
            self.layout.n_choices,
            np.array([item.n_rows for item in items], dtype=np.int32),
            kld,
        )

    def _item_kld(self) -> FloatArray:
        """Mean KLD of each item's rows, `[n_items]`; NaN where a row is not finite or the item has none."""
        bounds = self.probe.offsets()
        spans = itertools.pairwise(bounds)
        return np.array([self.kld[low:high].mean() if high > low else np.nan for low, high in spans])

    def null_control(self) -> Any:
        direction = measure_direction(*self.answers())
        return {
            "drops": direction.drops,
            "leapfrogs": direction.leapfrogs,
            "kld_max": float(np.nanmax(self.kld)) if np.isfinite(self.kld).any() else None,
            "n_rows": int(np.isfinite(self.kld).sum()),
        }
