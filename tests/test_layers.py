"""The house's rules on imports and size, read from the source of every module."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "quantprobe"
MODULES: Mapping[str, Path] = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}

LAYERS = (
    *("errors", "arrays", "gguf", "imatrix", "settings", "probes", "metrics", "stats", "run", "capture"),
    *("engine", "checks", "sweep", "blame", "study", "imports", "report", "hub", "cluster", "api", "cli"),
)
LAYER_OF = {
    **dict.fromkeys(("names", "files", "locks", "compiling", "limits"), "arrays"),
    "_native": "engine",
    "__main__": "cli",
}
ROOT = "quantprobe"

# Outside the package: who may import it. A module is named by its layer, or by the start of its dotted name.
OWNERS = {
    "llama_cpp": "quantprobe.engine",
    "matplotlib": "quantprobe.report.plots",
    "click": "quantprobe.cli",
    "huggingface_hub": "quantprobe.hub",
    "distributed": "quantprobe.cluster",
    "fsspec": "quantprobe.cluster",
}
MAX_LINES = 380


def layer(module: str) -> str | None:
    """The layer of a dotted name; None for the package itself and for names that it defines (`__version__`)."""
    parts = module.split(".")
    if len(parts) == 1:
        return None
    name = LAYER_OF.get(parts[1], parts[1])
    if name in LAYERS:
        return name
    if ".".join(parts[:2]) in MODULES:
        raise AssertionError(f"{module} belongs to no layer; the layers are {' < '.join(LAYERS)}")
    return None


def imports(source: str, at_runtime: bool = False) -> Iterator[str]:
    """Every dotted name that a module imports, wherever in it; `from a import b` gives `a.b`.

    `at_runtime` leaves out what stands under `if TYPE_CHECKING:`.
    """
    tree = ast.parse(source)
    idle: set[ast.AST] = set()
    for node in ast.walk(tree) if at_runtime else ():
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            idle.update(inner for statement in node.body for inner in ast.walk(statement))
    for node in ast.walk(tree):
        if node in idle:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            prefix = "." * node.level + (node.module or "")
            yield from (f"{prefix}.{alias.name}" for alias in node.names)


def violations(module: str, source: str) -> list[str]:
    """What in `source`, as the module `module`, breaks a rule."""
    found = []
    own = layer(module)
    for name in imports(source):
        top = name.split(".")[0]
        if name.startswith("."):
            found.append(f"{module} imports {name} relatively")
        elif top in OWNERS and not is_within(module, OWNERS[top]):
            found.append(f"{module} imports {top}, which only {OWNERS[top]} may")
        elif name.startswith(f"{ROOT}._native") and own != "engine":
            found.append(f"{module} imports the native extension")
        elif top == ROOT and (other := layer(name)):
            if own is None and other not in ("errors", "api"):
                found.append(f"{module} imports {name}: the package itself imports errors, and api when asked")
            elif own is not None and LAYERS.index(other) > LAYERS.index(own):
                found.append(f"{module} ({own}) imports {name} ({other}), which lies above it")
    return found


def is_within(module: str, owner: str) -> bool:
    """`quantprobe.report.plots.zone` is within `quantprobe.report.plots`; `quantprobe.cli.main` is within the cli."""
    return module.startswith(owner)


def reachable(start: str) -> set[str]:
    """Every module of the package, and every name outside it, that importing `start` may load."""
    seen: set[str] = set()
    todo = [start]
    while todo:
        module = todo.pop()
        if module in seen:
            continue
        seen.add(module)
        if module in MODULES:
            todo += imports(MODULES[module].read_text(encoding="utf-8"), at_runtime=True)
        if "." in module:
            todo.append(module.rpartition(".")[0])
    return seen


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_downwards(module: str) -> None:
    assert violations(module, MODULES[module].read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("module", [name for name in MODULES if layer(name) in ("run", "study", "imports", "report")])
def test_analysis_runs_without_inference(module: str) -> None:
    """These layers load neither engine nor capture, directly or through anything they import."""
    forbidden = ("llama_cpp", "quantprobe._native", "quantprobe.engine", "quantprobe.capture", "quantprobe.sweep")
    loaded = sorted(name for name in reachable(module) if name.startswith(forbidden))
    assert loaded == []


@pytest.mark.parametrize("module", MODULES)
def test_modules_stay_small(module: str) -> None:
    n_lines = len(MODULES[module].read_text(encoding="utf-8").splitlines())
    assert n_lines <= MAX_LINES, f"{module} has {n_lines} lines; split it"


def test_no_module_for_odds_and_ends() -> None:
    assert not [name for name in MODULES if name.rpartition(".")[2] in ("utils", "util", "helpers", "common", "misc")]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("quantprobe.errors", "from quantprobe.arrays import FloatArray"),
        ("quantprobe.metrics.answers", "from quantprobe.stats.estimates import Estimate"),
        ("quantprobe.metrics.answers", "import quantprobe.cli.main"),
        ("quantprobe.stats.paired", "def f():\n    from quantprobe import sweep"),
        ("quantprobe.capture.store", "from quantprobe.engine import abi"),
        ("quantprobe.capture.store", "from quantprobe import _native"),
        ("quantprobe.gguf.header", "from quantprobe.probes.text import TextProbe"),
        ("quantprobe.sweep", "import llama_cpp.llama_cpp as llama"),
        ("quantprobe.report.page.html", "from matplotlib.figure import Figure"),
        ("quantprobe.run.cohort", "import click"),
        ("quantprobe.study.zone", "from .panel import Panel"),
        ("quantprobe", "from quantprobe.probes.text import TextProbe"),
    ],
)
def test_the_rule_sees_breaches(module: str, source: str) -> None:
    assert len(violations(module, source)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("quantprobe.arrays", "import numpy as np"),
        (
            "quantprobe.engine.runner",
            "import llama_cpp\nfrom quantprobe import _native\nfrom quantprobe.capture import x",
        ),
        ("quantprobe.report.plots.zone", "from matplotlib.figure import Figure"),
        ("quantprobe.cli.main", "import click\nfrom quantprobe import __version__\nimport quantprobe.engine.abi"),
        ("quantprobe", "from quantprobe.errors import QuantprobeError"),
    ],
)
def test_the_rule_lets_proper_imports_pass(module: str, source: str) -> None:
    assert violations(module, source) == []
