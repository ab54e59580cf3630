"""quantprobe: how far a quantized GGUF moved from its base, and which way.

`quantprobe.api` says what the library offers; its names are here too, and are loaded when they are first used.
"""

from typing import TYPE_CHECKING, Any

from quantprobe.errors import QuantprobeError

if TYPE_CHECKING:
    from quantprobe.api import Run, measure, open_run

__all__ = ["QuantprobeError", "Run", "__version__", "measure", "open_run"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name in ("Run", "measure", "open_run"):
        import importlib

        return getattr(importlib.import_module("quantprobe.api"), name)
    raise AttributeError(f"module 'quantprobe' has no attribute {name!r}")
