"""A hybrid as a model to be measured: written when it is first needed, gone when it is closed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from quantprobe.engine.model import Model
from quantprobe.gguf.hybrid import ModelPair, write_hybrid
from quantprobe.gguf.model import ModelInfo
from quantprobe.settings import Settings
from quantprobe.sweep.inputs import Progress
from quantprobe.sweep.measuring import LazyModel
from quantprobe.sweep.recorded import digest


def hybrid_info(pair: ModelPair, restored: Iterable[str], path: Path) -> ModelInfo:
    """What a hybrid at `path` is, before it is written.

    Its digest is one of the base's content, the quant's and the units that are the base's: what was measured of it is
    found again without the file.
    """
    names = sorted(restored)
    quant = pair.quant.info
    sha256 = digest({"base": pair.base.info.sha256, "quant": quant.sha256, "restored": names})
    n_bytes = pair.data_bytes(frozenset(names))
    return replace(
        quant,
        path=path,
        name=f"hybrid-{sha256[:12]}",
        sha256=sha256,
        size_bytes=quant.size_bytes + n_bytes - pair.data_bytes(()),
        bpw=8 * n_bytes / quant.n_params,
    )


class HybridModel(LazyModel):
    """A hybrid that is written and loaded when it is first needed, and removed at the end of its `with` block."""

    def __init__(
        self, pair: ModelPair, restored: Iterable[str], path: Path, settings: Settings, progress: Progress
    ) -> None:
        self._pair = pair
        self._restored = frozenset(restored)
        super().__init__(hybrid_info(pair, self._restored, path), settings, progress)

    def get(self) -> Model:
        if self._model is None:
            self.info.path.parent.mkdir(parents=True, exist_ok=True)
            write_hybrid(self._pair, self._restored, self.info.path)
        return super().get()

    def __enter__(self) -> HybridModel:
        return self

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        remove_hybrid(self.info.path)


def remove_hybrid(path: Path) -> None:
    """Remove a hybrid; one that cannot be removed is overwritten by the next."""
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
