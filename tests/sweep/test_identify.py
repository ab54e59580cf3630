"""Several models are hashed at a time; whoever stops does not wait for what is left."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path

import pytest
from tiny_gguf import write_model

from quantprobe.errors import InputError
from quantprobe.gguf.model import read_model_info
from quantprobe.sweep import inputs
from quantprobe.sweep.inputs import SILENT, identify_all

