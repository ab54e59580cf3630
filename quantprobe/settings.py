"""Everything that the user can set and that can change a number, with llama.cpp's names."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import psutil

from quantprobe.errors import InputError

HARMLESS = frozenset(
    [
        *("n_batch", "n_ubatch", "n_threads", "main_gpu", "tensor_split", "use_mmap", "devices"),
        *("quantprobe_version", "llama_cpp_python_version", "settings_changed"),
        *("equivalence_margin", "margin", "imported", "metric", "like"),
    ]
)
"""Recorded settings that move no logit. CPU results do not depend on threads or mmap; what is decoded at once is
recorded as `n_ubatch_used`."""

KV_TYPES = ("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl")

LLAMA_MAX_SEQ = 256
"""llama.cpp's own limit on sequences (llama_max_parallel_sequences)."""

MASK_CELLS = 1 << 25
"""Most cells of llama.cpp's attention mask, n_ctx x micro-batch, at two bytes each: 64 MB, less than a block of logits
and in the same memory, so that the peak does not depend on n_ctx. It cuts micro-batches of 512 beyond 65,536 tokens.
Without flash attention llama.cpp also holds 4 bytes for each cell and head, which nothing here bounds."""


@dataclass(frozen=True)
class Settings:
    """How a model is loaded and decoded."""

    n_ctx: int = 512
    n_batch: int = 2048
    n_ubatch: int = 512
    n_threads: int | None = None
    """None: the physical cores."""
    n_gpu_layers: int = -1
    """-1: all, the output layer too."""
    main_gpu: int = 0
    tensor_split: tuple[float, ...] = ()
    flash_attn: bool = True
    type_k: str = "f16"
    type_v: str = "f16"
    use_mmap: bool = True
    n_parallel: int | None = None
    """Sequences of `llama-perplexity -np N`, whose batches tasks are then decoded in; None: our own batches."""

    def __post_init__(self) -> None:
        for name, low in (("n_ctx", 4), ("n_batch", 1), ("n_ubatch", 1)):
            if getattr(self, name) < low:
                raise InputError(f"{name} is {getattr(self, name)}; it must be at least {low}")
        if self.n_threads is not None and self.n_threads < 1:
            raise InputError(f"n_threads is {self.n_threads}; it must be at least 1")
        if self.n_parallel is not None and not 1 <= self.n_parallel <= LLAMA_MAX_SEQ:
            raise InputError(f"n_parallel is {self.n_parallel}; llama.cpp takes 1 to {LLAMA_MAX_SEQ} sequences")
        for name in ("type_k", "type_v"):
            if getattr(self, name) not in KV_TYPES:
                raise InputError(f"unknown {name} {getattr(self, name)!r}; one of {', '.join(KV_TYPES)}")
        if self.type_v not in ("f32", "f16", "bf16") and not self.flash_attn:
            raise InputError(f"a quantized V cache ({self.type_v}) needs --flash-attn on")

    @property
    def n_ubatch_used(self) -> int:
        """Tokens of a micro-batch as decoded: what was asked for, within the batch and `MASK_CELLS`."""
        return min(self.n_ubatch, self.n_batch, max(32, MASK_CELLS // self.n_ctx // 32 * 32))

    def with_threads(self) -> Settings:
        """The same settings with the number of threads decided."""
        return self if self.n_threads is not None else replace(self, n_threads=default_threads())

    def to_dict(self) -> dict[str, int | float | str | bool | list[float] | None]:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {**values, "tensor_split": list(self.tensor_split)}


def default_threads() -> int:
    """Physical cores that this process may use (llama.cpp's own default counts physical cores too)."""
    usable = (
        len(psutil.Process().cpu_affinity()) if hasattr(psutil.Process, "cpu_affinity") else psutil.cpu_count() or 1
    )
    return max(1, min(psutil.cpu_count(logical=False) or usable, usable))


def moves_logits(name: str) -> bool:
    """Whether a recorded setting can change a logit, or which rows are scored; a name that is not known here can.

    Flash attention alone moves logits by a KLD of 0.002 to 0.024 nats, as much as Q5_K_M loses.
    """
    return name not in HARMLESS
