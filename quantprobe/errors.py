"""Everything quantprobe raises on purpose.

A message says what was found, what was expected, where, and what to do next.
The command line turns any `QuantprobeError` into one line and exit code 1.
"""


class QuantprobeError(Exception):
    """Base of every error that quantprobe raises on purpose."""


class FileFormatError(QuantprobeError):
    """A file is damaged, truncated, or not of the kind that was expected."""


class MismatchError(QuantprobeError):
    """Two things that must agree (tokenizer, settings, probes, ids) do not."""


class InputError(QuantprobeError):
    """What the user asked for cannot be done: text too short, unknown name, folder not writable."""


class EngineError(QuantprobeError):
    """llama.cpp refused a model, a context or a batch; carries its last log lines."""


class IncompatibleError(EngineError, ImportError):
    """The installed llama-cpp-python does not fit this build of quantprobe."""


class ClusterError(QuantprobeError):
    """A cluster cannot be reached, was lost, or its workers could not do all of the work."""
