"""Makes and measures the cohort of this folder: SmolLM2-135M, 25 quants, 3,519 questions, 2 texts.

    python make_cohort.py WORK_FOLDER [--imatrix smollm2.imatrix.gguf] [--threads N]

Everything comes from installed packages: the model from the `demo` extra, one text from Python's help topics and one
from the sources of its standard library, and the questions are the built-in set. With an importance matrix of the F16
file the quants of `WITH_IMATRIX` are made a second time with it:

    llama-imatrix -m SmolLM2-135M-F16.gguf -f calibration.txt --chunks 60 -o smollm2.imatrix.gguf

A run that stops continues when the command is given again.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import sysconfig
from pathlib import Path
from pydoc_data.topics import topics

from quantprobe.cli.commands.demo import find_smollm2
from quantprobe.engine.quantize import quantize
from quantprobe.engine.recipe import Recipe
from quantprobe.probes.questions.builtin import builtin_questions
from quantprobe.probes.questions.jsonl import write_native

# Left out: Q4_1, which the packaged model is already (nothing would be lost), and Q2_K, whose tensors are those of
# Q3_K_S here: rows of 576 weights fit no block of 256, and most fall back to Q4_0 in both.
FILE_TYPES = (
    *("Q8_0", "Q6_K", "Q5_K_M", "Q5_K_S", "Q5_1", "Q5_0", "Q4_K_M", "Q4_K_S", "Q4_0", "IQ4_NL", "IQ4_XS"),
    *("Q3_K_L", "Q3_K_M", "Q3_K_S"),
)
WITH_IMATRIX = (
    *("Q5_K_M", "Q5_K_S", "Q4_K_M", "Q4_K_S", "Q4_0", "IQ4_NL", "IQ4_XS"),
    *("Q3_K_L", "Q3_K_M", "Q3_K_S", "IQ3_M"),
)
MODULES = (
    "argparse",
    "ast",
    "datetime",
    "dis",
    "doctest",
    "inspect",
    "logging/__init__",
    "pathlib",
    "tarfile",
    "typing",
)
CALIBRATION = ("asyncio", "email", "http", "json", "urllib", "xml/dom")
CHUNKS = 8


def write_texts(folder: Path) -> dict[str, Path]:
    """Prose and code that every Python installation has."""
    library = Path(sysconfig.get_path("stdlib"))
    sources = [
        (library / f"{name}.py").read_text(encoding="utf-8") for name in MODULES if (library / f"{name}.py").exists()
    ]
    texts = {"topics": "\n".join(topics[name] for name in sorted(topics)), "stdlib": "\n".join(sources)}
    for name, text in texts.items():
        (folder / f"{name}.txt").write_text(text, encoding="utf-8", newline="\n")
    return {name: folder / f"{name}.txt" for name in texts}


def write_calibration(folder: Path) -> None:
    """A text for llama-imatrix that shares no module with the measured ones."""
    library = Path(sysconfig.get_path("stdlib"))
    sources = [
        path.read_text(encoding="utf-8") for name in CALIBRATION for path in sorted((library / name).glob("*.py"))
    ]
    (folder / "calibration.txt").write_text("\n".join(sources), encoding="utf-8", newline="\n")


def write_questions(folder: Path) -> Path:
    """The built-in questions as a file."""
    built_in = builtin_questions()
    path = folder / "builtin.jsonl"
    write_native(path, built_in.questions, built_in.grouping)
    return path


def make_files(folder: Path, imatrix: Path | None) -> tuple[Path, list[Path]]:
    """The F16 base and its quants; files that are there are kept."""
    base = folder / "SmolLM2-135M-F16.gguf"
    if not base.exists():
        quantize(find_smollm2(), base, Recipe("F16", allow_requantize=True))
    jobs = [(name, None) for name in FILE_TYPES]
    jobs += [(name, imatrix) for name in WITH_IMATRIX] if imatrix is not None else []
    quants = []
    for name, matrix in jobs:
        path = folder / f"SmolLM2-135M-{'i1-' if matrix else ''}{name}.gguf"
        if not path.exists():
            quantize(base, path, Recipe(name, imatrix=matrix))
        quants.append(path)
    return base, quants


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--imatrix", type=Path)
    parser.add_argument("--threads", default="2")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    texts = write_texts(args.folder)
    write_calibration(args.folder)
    questions = write_questions(args.folder)
    base, quants = make_files(args.folder, args.imatrix)
    run = args.folder / "run"
    inputs = [f"--text={name}={path}" for name, path in texts.items()] + [f"--task=builtin={questions}"]
    command = [sys.executable, "-m", "quantprobe"]
    options = ["--chunks", str(CHUNKS), "--threads", args.threads, "--out", str(run)]
    subprocess.run([*command, "sweep", str(base), *map(str, quants), *inputs, *options], check=True)
    subprocess.run([*command, "study", str(run)], check=True)
    subprocess.run([*command, "report", str(run)], check=True)


if __name__ == "__main__":
    main()
