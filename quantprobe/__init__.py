"""quantprobe: how far a quantized GGUF moved from its base, and which way."""

from quantprobe.errors import QuantprobeError

__all__ = ["QuantprobeError", "__version__"]

__version__ = "0.1.0"
