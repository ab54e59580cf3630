"""The rows of a capture, made comparable with a quant's logits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantprobe.arrays import Float32Array, Int32Array
from quantprobe.capture.store import Capture
from quantprobe.engine.device_rows import DeviceRows
from quantprobe.engine.devices import Device
from quantprobe.engine.head import Head, Post, unpack_rows
from quantprobe.engine.logit_store import LogitStore, key_of
from quantprobe.errors import EngineError
from quantprobe.metrics.rows import llama_row_metrics, row_metrics


class BaseRows:
    """Turns stored rows into logits (or log-probabilities), and compares them with a quant's.

    One per capture: it holds the output matrix of `hidden` captures. The arrays it returns are gone at the next call.
    """

    def __init__(
        self,
        kind: str,
        n_vocab: int,
        head: Head | None,
        store: LogitStore | None = None,
        device: Device | None = None,
    ) -> None:
        self.kind = kind
        self.n_vocab = n_vocab
        self._head = head
        self._store = store
        self._device = device
        self._device_rows: DeviceRows | None = None
        self._no_device_rows = False

    def device_rows(
        self, n_rows: int, on_cpu: bool = False, on_note: Callable[[str], None] | None = None
    ) -> DeviceRows | None:
        """What compares blocks of at most `n_rows` rows on the output's device; its first block is still to be proved.

        None where that is the CPU (unless `on_cpu`: the kernels are faster there), where there is no output matrix, and
        where the device has no room or lacks an operator, which is told.
        """
        if self._head is None or self._device is None or (self._device.kind == "CPU" and not on_cpu):
            return None
        if self._device_rows is None and not self._no_device_rows:
            try:
                self._device_rows = DeviceRows(self._head, self._device, self.n_vocab, n_rows)
            except EngineError as error:
                self._no_device_rows = True
                if on_note is not None:
                    on_note(f"{error}; the CPU compares them")
        if self._device_rows is not None:
            self._device_rows.begin()
        return self._device_rows

    def logits(self, stored: NDArray[Any], row_dtype: str) -> Float32Array:
        """`[n_rows, n_vocab]` float32: logits of a `hidden` capture, log-probabilities of the other kinds."""
        if self._head is not None:
            return self._product(self._head, stored, row_dtype)
        from quantprobe.capture.llama_kld import decode_records
        from quantprobe.capture.logprobs import decode_logprobs

        if self.kind == "llama_kld":
            return decode_records(np.ascontiguousarray(stored), self.n_vocab)
        return decode_logprobs(np.ascontiguousarray(stored))

    def _product(self, head: Head, stored: NDArray[Any], row_dtype: str) -> Float32Array:
        if self._store is None:
            return head.compute(unpack_rows(stored, row_dtype))
        key = key_of(stored, row_dtype)
        found = self._store.find(key)
        if found is None:
            found = head.compute(unpack_rows(stored, row_dtype))
            self._store.keep(key, found)
        return found

    def compare(
        self, stored: NDArray[Any], row_dtype: str, quant: Float32Array, targets: Int32Array, llama_compat: bool = False
    ) -> NDArray[Any]:
        """Row metrics (`ROW_DTYPE`) of the stored rows against a quant's logits of the same rows."""
        if self.kind == "llama_kld":
            return llama_row_metrics(np.ascontiguousarray(stored), quant, targets, llama_compat)
        return row_metrics(self.logits(stored, row_dtype), quant, targets)

    def compare_on(
        self, device_rows: DeviceRows, stored: NDArray[Any], row_dtype: str, quant: Float32Array, targets: Int32Array
    ) -> tuple[NDArray[Any], bool]:
        """The same where `device_rows` got the quant's logits, and whether it computed them.

        The kernels do until it is proved, which the first block decides, and they have the quant's logits as long. They
        also do where it fails and logits are there.
        """
        if device_rows.is_proved:
            try:
                return device_rows.compare(unpack_rows(stored, row_dtype), targets), True
            except EngineError:
                if len(quant) != len(targets):
                    raise
        rows = self.compare(stored, row_dtype, quant, targets)
        if device_rows.refusal is None and not device_rows.is_proved:
            device_rows.prove(unpack_rows(stored, row_dtype), targets, rows)
        return rows, False


def open_base_rows(
    capture: Capture,
    devices: Sequence[Device],
    n_threads: int,
    base_model: Path | None,
    n_rows: int = 0,
    on_note: Callable[[str], None] | None = None,
    store: LogitStore | None = None,
) -> BaseRows:
    """The rows of a finished capture, multiplied on the device where it was made if that is one of `devices`, else on
    the first of them that has room for the output matrix and `n_rows` rows of logits; those that have not are told.

    `base_model` names the base's GGUF if it is no longer where it was captured; an embedded head needs none. The head's
    bytes are checked against the digest in the capture. `store` keeps products of the CPU for the next quants; another
    device makes them faster than this. Raises `EngineError` if no device has room.
    """
    reference = capture.meta.head
    n_vocab = capture.meta.n_vocab
    if reference is None:
        return BaseRows(capture.meta.kind, n_vocab, None)
    post = Post(scale=reference.scale or 1.0, softcap=reference.softcap or 0.0)
    matrix, bias = capture.head_bytes(base_model), capture.head_bias()
    shape = (reference.shape[0], reference.shape[1])
    # a stable sort: the others stay in their order
    for device in sorted(devices, key=lambda device: device.name != reference.device):
        try:
            head = Head(matrix, reference.type_name, shape, bias, post, device, n_threads, n_rows)
        except EngineError as error:
            if device.kind == "CPU":
                raise
            if on_note is not None:
                on_note(f"{error}; trying the next device, whose products may differ from the base's by rounding")
            continue
        return BaseRows(capture.meta.kind, n_vocab, head, store if device.kind == "CPU" else None, device)
    raise EngineError(f"there is no device for the output matrix of {capture.path}")
