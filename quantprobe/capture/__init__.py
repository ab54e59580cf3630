"""The base on disk: files only, no inference.

A capture is a folder, `NAME.qpc/` (`NAME.qpc.partial/` until it is whole), to which probes can be added:

* `meta.json`: format version, kind of rows, base, settings, head, and one entry a probe with size and SHA-256 of its
  files; its own `sha256` is over all the rest, as JSON with sorted keys and no white space.
* `NN-name.probe`: one line of JSON, then the probe's tokens as little-endian int32.
* `NN-name.rows`: the rows and nothing else, little-endian, `[n_rows, row_width]` of the entry's `row_dtype`.
  A `hidden` row is the final-norm hidden state, a `logprobs` row is laid out in `logprobs.py`, a `llama_kld` row is
  a record of llama.cpp's base file.
* `head.bin`, `head_bias.bin`: the output matrix as it lies in the GGUF, where it is embedded, and its bias as float32.
"""

from quantprobe.capture.meta import CaptureMeta, FileEntry, HeadReference, JsonValue, ProbeEntry
from quantprobe.capture.probe_files import Probe
from quantprobe.capture.row_writer import RowWriter
from quantprobe.capture.store import Capture
from quantprobe.capture.writer import CaptureWriter

__all__ = [
    "Capture",
    "CaptureMeta",
    "CaptureWriter",
    "FileEntry",
    "HeadReference",
    "JsonValue",
    "Probe",
    "ProbeEntry",
    "RowWriter",
]
