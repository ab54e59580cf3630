"""Collecting an importance matrix: windows decoded with the native collector as llama.cpp's eval callback."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from quantprobe import _native
from quantprobe.arrays import Int32Array
from quantprobe.engine.model import Context, Model
from quantprobe.engine.plan import Geometry, Step
from quantprobe.engine.runner import decode
from quantprobe.errors import EngineError, InputError
from quantprobe.gguf.parts import find_tensor, read_parts
from quantprobe.imatrix.matrix import Entry, Imatrix
from quantprobe.probes.text import TextProbe
from quantprobe.settings import LLAMA_MAX_SEQ, Settings

MIN_TOKENS = 16
"""llama-imatrix does not see products of fewer tokens."""


class Collector:
    """Sums of squared inputs over the windows of a text, from `n_windows` on.

    All tokens are outputs, as in llama-imatrix: else the last layer would see only some. Sums are float64
    (llama-imatrix: float32), an input that several weights share is read once, and the output product, which
    llama-imatrix computes, is left out without `process_output` and in models without an output.weight of their own.
    """

    def __init__(self, model: Model, probe: TextProbe, process_output: bool = False) -> None:
        if probe.n_ctx < MIN_TOKENS:
            raise InputError(f"--ctx-size {probe.n_ctx} is too small to collect on; use {MIN_TOKENS} or more")
        self._model = model
        self._probe = probe
        has_output = find_tensor(read_parts(model.info.path), "output.weight") is not None
        try:
            self._native = _native.ImatrixCollector(process_output and has_output)
        except RuntimeError as error:
            raise EngineError(
                f"{error}; this llama-cpp-python lays out tensors in another way: upgrade gguf-quantprobe"
            ) from error
        self.n_windows = 0
        """Windows collected so far."""
        self._n_group = 0  # windows that are being decoded
        self._per_window = 0  # tokens that one window adds to the largest count

    def restore(self, entries: Mapping[str, Entry], n_windows: int) -> None:
        """Continue after `n_windows` windows, whose sums `entries` holds; before the first decode."""
        for name, entry in entries.items():
            sums = np.ascontiguousarray(entry.sums, dtype=np.float64)
            self._native.restore(name, sums, np.ascontiguousarray(entry.counts, dtype=np.int64))
        self.n_windows = n_windows
        self._per_window = self._largest_count() // max(n_windows, 1)

    def run(self) -> Iterator[int]:
        """Decode the windows that are left; gives the number of tokens after each group of whole windows.

        Raises `EngineError` when a decode fails or an activation is not finite.
        """
        geometry = collect_geometry(self._probe, self._model.settings)
        with Context(self._model, geometry, watcher=self._native) as context:
            for group, steps in plan_collect(self._probe, geometry, self.n_windows):
                self._n_group = len(group)
                for step in steps:
                    decode(context, step)
                    if self._native.error:
                        raise EngineError(f"{self._model.info.path.name}: {self._native.error}")
                self.n_windows, self._n_group = self.n_windows + len(group), 0
                if self._per_window == 0:
                    self._per_window = self._largest_count() // self.n_windows
                yield len(group) * self._probe.n_ctx

    def settle(self) -> bool:
        """After an interruption between two decodes: whether the sums are those of whole windows, `n_windows` of them.

        The interruption may have come after a decode and before it was noted, so the counts decide.
        """
        count = self._largest_count()
        if self._per_window == 0 or count % self._per_window:
            return False
        n_windows = count // self._per_window
        if n_windows not in (self.n_windows, self.n_windows + self._n_group):
            return False
        self.n_windows = n_windows
        return True

    def _largest_count(self) -> int:
        return max((int(counts.max()) for _, _, counts in self._native.entries()), default=0)

    def entries(self) -> dict[str, Entry]:
        """What was collected so far, sums in float64, by weight."""
        # a dense weight has one count, whatever its number of matrices
        found: dict[str, Entry] = {}
        for name, sums, counts in self._native.entries():
            found[name] = Entry(sums.reshape(len(counts), -1), counts)
        return found

    def imatrix(self, dataset: str) -> Imatrix:
        """What was collected so far, as llama-imatrix would write it. Raises `EngineError` if that is nothing."""
        entries = {name: entry for name, entry in sorted(self.entries().items()) if entry.counts.any()}
        if not entries:
            raise EngineError(
                f"no weight of {self._model.info.path.name} ({self._model.info.architecture}) was seen in a product; "
                "its layers are not named blk.N, so llama.cpp has no importance matrix for it"
            )
        n_chunks = max(int(entry.counts.max()) for entry in entries.values()) // self._probe.n_ctx
        return Imatrix(entries, (dataset,), n_chunks, self._probe.n_ctx)


def collect_geometry(probe: TextProbe, settings: Settings) -> Geometry:
    """llama-imatrix's context: `n_batch / n_ctx` windows side by side, computed `n_ubatch` tokens at a time.

    Each micro-batch is a batch of its own here, so that the logits, of all tokens, take the memory of one.
    """
    n_ubatch = settings.n_ubatch_used
    n_seq = max(1, min(settings.n_batch // probe.n_ctx, probe.n_windows, n_ubatch, LLAMA_MAX_SEQ))
    n_batch = min(n_ubatch, n_seq * probe.n_ctx)
    return Geometry(n_ctx=probe.n_ctx, n_seq=n_seq, n_batch=n_batch, n_ubatch=n_batch, n_outputs=n_batch, unified=False)


def plan_collect(probe: TextProbe, geometry: Geometry, begin: int) -> Iterator[tuple[range, list[Step]]]:
    """Groups of windows from `begin` on, and the steps of each: as many tokens of every window as fit together.

    These are the micro-batches that llama.cpp makes of llama-imatrix's batches. Long attention over few tokens of each
    window costs less than short attention over many: the masked half is not computed.
    """
    tokens = probe.decoded()
    for first in range(begin, probe.n_windows, geometry.n_seq):
        group = range(first, min(first + geometry.n_seq, probe.n_windows))
        length = geometry.n_batch // len(group)
        cuts = range(0, probe.n_ctx, length)
        yield group, [_step(tokens, group, low, min(low + length, probe.n_ctx)) for low in cuts]


def _step(tokens: Int32Array, group: range, low: int, high: int) -> Step:
    """Positions `low` to `high` of every window of the group, all of them outputs."""
    pos = np.arange(low, high, dtype=np.int32)
    n = len(group) * len(pos)
    return Step(
        tokens=np.ascontiguousarray(tokens[group.start : group.stop, low:high]).reshape(-1),
        pos=np.tile(pos, len(group)),
        seq=np.repeat(np.arange(len(group), dtype=np.int32), len(pos)),
        n_seq=np.ones(n, dtype=np.int32),
        output=np.ones(n, dtype=np.int8),
        row_ids=np.arange(n, dtype=np.int64),
        clear=low == 0,
    )
