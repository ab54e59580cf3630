"""What is made of a model: the file type and everything that changes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from quantprobe.errors import InputError
from quantprobe.gguf.file_types import ALIASES, FILE_TYPES, FileType
from quantprobe.gguf.header import TENSOR_TYPES

_NOT_WEIGHTS = {"Q8_1", "Q8_K", "I8", "I16", "I32", "I64", "F64"}
WEIGHT_TYPES: Mapping[str, int] = {
    name: number for number, (name, _, _) in sorted(TENSOR_TYPES.items()) if name not in _NOT_WEIGHTS
}
"""Types that a weight may be given, by ggml's name in capitals, and their ggml ids."""


JOB_DONE = "quantprobe: job ended with status"
"""Begins the line that the child process prints after each job's log."""


@dataclass(frozen=True)
class Recipe:
    """One way to quantize a model; names in any case."""

    file_type: str
    imatrix: Path | None = None
    """Importance matrix, in either form."""
    tensor_types: tuple[tuple[str, str], ...] = ()
    """(pattern, type): ECMAScript regular expressions searched in the tensor's name; the first that fits decides."""
    output_tensor_type: str | None = None
    token_embedding_type: str | None = None
    pure: bool = False
    """One type everywhere, without llama.cpp's mixtures."""
    allow_requantize: bool = False
    """Also quantize tensors that are quantized already; what the first quantization lost stays lost."""
    keep_split: bool = False
    """As many parts as the source has."""

    @property
    def kind(self) -> FileType:
        """The file type. Raises `InputError` for one that llama.cpp does not make."""
        name = self.file_type.upper()
        kind = FILE_TYPES.get(ALIASES.get(name, name))
        if kind is None or not kind.can_make:
            known = ", ".join(each.name for each in FILE_TYPES.values() if each.can_make)
            raise InputError(f"unknown file type {self.file_type!r}; llama.cpp makes {known}")
        return kind

    def job(self, source: Path, target: Path | None, n_threads: int | None) -> dict[str, object]:
        """The job for the child process; without a target, a dry run."""
        return {
            "source": str(source),
            "target": "" if target is None else str(target),
            "dry_run": target is None,
            "file_type": self.kind.number,
            "imatrix": None if self.imatrix is None else str(self.imatrix),
            "stands_for_imatrix": False,
            "n_threads": n_threads or 0,
            "allow_requantize": self.allow_requantize,
            "pure": self.pure,
            "keep_split": self.keep_split and target is not None,
            "tensor_types": [(pattern, weight_type(name)) for pattern, name in self.tensor_types],
            "output_tensor_type": _optional(self.output_tensor_type),
            "token_embedding_type": _optional(self.token_embedding_type),
        }


def weight_type(name: str) -> int:
    """The ggml id of a tensor type; raises `InputError` for a name that no weight can have."""
    number = WEIGHT_TYPES.get(name.upper())
    if number is None:
        raise InputError(f"unknown tensor type {name!r}; ggml has {', '.join(WEIGHT_TYPES)}")
    return number


def _optional(name: str | None) -> int | None:
    return None if name is None else weight_type(name)


def check_recipe(source: Path, recipe: Recipe) -> None:
    """Refuse, before any process is started, what llama.cpp would refuse or abort on."""
    kind = recipe.kind
    if not source.is_file():
        raise InputError(f"there is no model {source}")
    if recipe.imatrix is None and kind.needs_imatrix:
        raise InputError(
            f"{kind.name} cannot be made without an importance matrix: llama.cpp refuses types this small because "
            "the result would be garbage; give one with --imatrix (quantprobe imatrix collect makes it), "
            "or choose Q2_K or IQ3_S"
        )
    if recipe.imatrix is not None and not recipe.imatrix.is_file():
        raise InputError(f"there is no importance matrix {recipe.imatrix}")
    for name in (recipe.output_tensor_type, recipe.token_embedding_type, *(kind for _, kind in recipe.tensor_types)):
        _optional(name)
