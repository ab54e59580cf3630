"""Row metrics where the logits are: on the device of the output layer, so that no logits cross the bus.

A ggml graph (native/row_metrics.cpp), one for every backend, compares the logits that the decode left on the device
with the base's, multiplied there. Terms are float32, which differs from the kernels of `metrics/` by about 1e-7 nats.
So the kernels compute the first block of each quant too, and the graph is used only if both agree
(`row_numbers.disagreement`); rows that it cannot tell exactly are fetched, and the kernels compute them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from quantprobe import _native
from quantprobe.arrays import Float32Array, Int32Array
from quantprobe.engine.devices import Device
from quantprobe.engine.failures import engine_errors
from quantprobe.engine.head import Head
from quantprobe.errors import EngineError
from quantprobe.metrics.row_numbers import RowNumbers, disagreement, rows_from_numbers
from quantprobe.metrics.rows import row_metrics


class DeviceRows:
    """The graph over one output matrix, for blocks of at most `n_rows` rows.

    `Context` gives it every batch (`watcher`). Raises `EngineError` if the device has no room for it or lacks an
    operator.
    """

    def __init__(self, head: Head, device: Device, n_vocab: int, n_rows: int) -> None:
        self.device = device
        self._n_vocab = n_vocab
        self._failed = f"rows cannot be compared on {device.name}"
        with engine_errors(self._failed):
            self.watcher = _native.RowMetrics(head.product, n_rows)
        self.is_proved: bool = False
        """Whether the first block of this quant agreed; the context then leaves logits on the device."""
        self.refusal: str | None = None
        """Why the kernels compute this quant's rows."""

    def begin(self) -> None:
        """Another quant, or another text: nothing is known of its first block."""
        self.is_proved, self.refusal = False, None

    def prove(self, hidden: Float32Array, targets: Int32Array, expected: NDArray[np.void]) -> None:
        """Decide by the rows of a block that the kernels have computed; see `compare` for the first two."""
        try:
            found = self.compare(hidden, targets)
        except EngineError as error:
            self.refusal = str(error)
            return
        self.refusal = disagreement(found, expected) or None
        self.is_proved = self.refusal is None

    def compare(self, hidden: Float32Array, targets: Int32Array) -> NDArray[np.void]:
        """`[n_rows]` of `ROW_DTYPE` for the rows of the last decode.

        `hidden` `[n_rows, n_embd]` float32 are the base's rows, `targets` `[n_rows]` int32. Raises `EngineError` where
        the decode left no such rows.
        """
        with engine_errors(self._failed):
            if self.watcher.error:
                raise RuntimeError(self.watcher.error)
            numbers = RowNumbers(*self.watcher.measure(np.ascontiguousarray(hidden, dtype=np.float32), targets))
            rows, sure = rows_from_numbers(numbers, targets, self._n_vocab)
            for row in np.flatnonzero(~sure):
                base, quant = self.watcher.fetch(int(row))
                rows[row] = row_metrics(base[None], quant[None], targets[row : row + 1])[0]
        return rows
