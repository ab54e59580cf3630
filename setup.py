"""Builds the extension with CMake; everything else is in pyproject.toml."""

import sys
import sysconfig

from setuptools import setup

# nanobind's stable ABI begins with Python 3.12: one wheel serves every later version. Free-threaded ones have none.
STABLE = sys.version_info >= (3, 12) and not sysconfig.get_config_var("Py_GIL_DISABLED")

setup(cmake_source_dir=".", options={"bdist_wheel": {"py_limited_api": "cp312"}} if STABLE else {})
