"""The main road in small: a text for the tiny vocabularies, and commands run in this process or another."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from quantprobe.cli.main import cli


class Quiet:
    """A `Progress` that keeps the notes, the plans and the labels of what was done."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.labels: list[str] = []
        self.plans: list[tuple[int, int]] = []

    def plan(self, n_jobs: int, n_tokens: int) -> None:
        self.plans.append((n_jobs, n_tokens))

    def start(self, label: str, total: int | None, unit: str) -> None:
        self.labels.append(label)

    def advance(self, n: int = 1) -> None:
        pass

    def finish(self) -> None:
        pass

    def note(self, message: str) -> None:
        self.notes.append(message)


def write_letters(path: Path, n_letters: int = 400, seed: int = 0) -> Path:
    """A text of single letters, which both vocabularies of 259 tokens take one by one."""
    rng = random.Random(seed)
    path.write_text("".join(rng.choices("etaoinshrdlu", k=n_letters)), encoding="utf-8", newline="\n")
    return path


def run(*arguments: object) -> Result:
    """A command in this process; an exception that it lets through is raised here."""
    result = CliRunner().invoke(cli, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def succeed(*arguments: object) -> Result:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result


def fail(*arguments: object, findings: str = "") -> str:
    """The one line on standard error of a command that must fail, behind what it found about the file `findings`."""
    result = run(*arguments)
    lines = result.stderr.splitlines(keepends=True)
    told = [line for line in lines if findings and line.startswith((f"{findings}: broken (", f"{findings}: odd ("))]
    return error_line(result.exit_code, result.stdout, "".join(line for line in lines if line not in told))


def error_line(status: int, stdout: str, stderr: str) -> str:
    assert (status, stdout) == (1, ""), (status, stdout, stderr)
    lines = stderr.splitlines()
    assert len(lines) == 1, stderr
    assert lines[0].startswith("error: ") and "Traceback" not in lines[0]
    return lines[0]


def environment() -> dict[str, str]:
    """For child processes, which import the installed package: the checkout may lack the compiled engine."""
    return {**os.environ, "PYTHONIOENCODING": "utf-8"}


@dataclass(frozen=True)
class Ended:
    """How a command in its own process ended."""

    status: int
    stdout: str
    stderr: str


def run_process(*arguments: object, timeout: float = 120) -> Ended:
    """`python -m quantprobe` with these arguments."""
    command = [sys.executable, "-m", "quantprobe", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, timeout=timeout, env=environment(), check=False)
    return Ended(done.returncode, done.stdout.decode("utf-8"), done.stderr.decode("utf-8"))


def results(folder: Path) -> dict[str, Any]:
    """results.json, in which no NaN is allowed."""

    def refuse(word: str) -> float:
        raise AssertionError(f"results.json holds {word}")

    found: dict[str, Any] = json.loads((folder / "results.json").read_text(encoding="ascii"), parse_constant=refuse)
    return found


def kld_values(found: dict[str, Any], text: str = "t") -> list[float]:
    """Mean KLD of every quant."""
    return [quant["texts"][text]["kld_mean"]["value"] for quant in found["quants"]]


def files(folder: Path) -> list[str]:
    """All files but the empty ones of locks."""
    found = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock")
    return sorted(path.relative_to(folder).as_posix() for path in found)
