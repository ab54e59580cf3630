"""Where everything of a run lies."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from quantprobe.names import safe_name


@dataclass(frozen=True)
class RunFolder:
    """The paths of one run; nothing is read or made. `docs/formats.md` says what each file holds."""

    path: Path

    @classmethod
    def of(cls, path: Path) -> RunFolder:
        """The run of a folder, or of the `results.json` in it."""
        return cls(path.parent if path.is_file() else path)

    @property
    def name(self) -> str:
        return self.path.resolve().name

    @property
    def results(self) -> Path:
        return self.path / "results.json"

    @property
    def study(self) -> Path:
        return self.path / "study.json"

    @property
    def blame(self) -> Path:
        return self.path / "blame.json"

    @property
    def hybrid(self) -> Path:
        """The hybrid that is being measured: never a final name, so that none outlives what ended the work."""
        return self.path / "hybrid.gguf.partial"

    @property
    def report(self) -> Path:
        return self.path / "report"

    @property
    def page(self) -> Path:
        return self.report / "report.html"

    def capture(self, digest: str) -> Path:
        """The base's capture; `digest` is that of the base and the settings that move logits."""
        return self.path / f"base-{digest[:8]}.qpc"

    @property
    def quants(self) -> Path:
        """Quants that the run made itself, and `made.json`, the record of them."""
        return self.path / "quants"

    @property
    def fetched(self) -> Path:
        """The record of quants that were fetched one at a time."""
        return self.path / "fetched.json"

    @property
    def results_lock(self) -> Path:
        """Held while `results.json` and what is made of it are read, merged and written."""
        return self.path / "results.lock"

    def lock(self, quant: str) -> Path:
        """Held by the process that measures a quant."""
        return self.path / "locks" / f"{safe_name(quant)}.lock"

    def rows(self, quant: str, text: str) -> Path:
        """Row metrics of a quant on a text."""
        return self.path / "rows" / safe_name(quant) / f"{safe_name(text)}.npz"

    def task_rows(self, quant: str, task: str) -> Path:
        """Log-probabilities of the scored tokens of a task."""
        return self.path / "rows" / safe_name(quant) / f"{safe_name(task)}.task.npz"

    def items(self, quant: str, task: str) -> Path:
        """A quant's answers beside the base's, one line per question."""
        return self.path / "items" / safe_name(quant) / f"{safe_name(task)}.csv"

    def questions(self, task: str) -> Path:
        """The questions of a task as people read them."""
        return self.path / "tasks" / f"{safe_name(task)}.jsonl"

    def inside(self, relative: str) -> Path:
        """A file that `results.json` names by a relative path with forward slashes."""
        return self.path.joinpath(*relative.split("/"))
