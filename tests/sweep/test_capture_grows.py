"""One more text or task is decoded alone; what moves no logit decodes nothing; two processes make one capture."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from capture_runs import SETTINGS, Counting, digests, text_and_task
from road_cases import Quiet, environment, write_letters
from tiny_gguf import write_tiny

from quantprobe.capture import Capture
from quantprobe.capture.writer import lock_file
from quantprobe.engine.runner import n_probe_tokens
from quantprobe.errors import InputError, MismatchError
from quantprobe.gguf.model import read_model_info
from quantprobe.locks import locked
from quantprobe.sweep import Inputs, TextInput, capture_base, capturing, sweep
from quantprobe.sweep.inputs import Model


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> Counting:
    return Counting(monkeypatch)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return write_tiny(tmp_path / "b.gguf", head_type="F16", n_layer=1)


def texts(folder: Path, *names: str) -> tuple[TextInput, ...]:
    return tuple(
        TextInput(name, write_letters(folder / f"{name}.txt", 100, seed=number)) for number, name in enumerate(names)
    )


def forbid_models(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any) -> None:
        raise AssertionError("the base was loaded")

    monkeypatch.setattr(capturing, "load_model", refuse)


def test_a_task_more_is_decoded_alone(tmp_path: Path, base: Path, counting: Counting) -> None:
    """A finished run over three texts, and then a task: the base decodes the tokens of the task and no other."""
    three, run = texts(tmp_path, "a", "b", "c"), tmp_path / "run"
    sweep(base, [base], Inputs(three), SETTINGS, run, Quiet())
    [path] = run.glob("*.qpc")
    before, sources = digests(path), Capture.open(path).meta.settings["texts"]
    task = text_and_task(tmp_path)["task"].tasks
    counting.n_tokens = 0
    quiet = Quiet()
    found = sweep(base, [base], Inputs(three, task), SETTINGS, run, quiet)
    capture = Capture.open(path)
    with Model(read_model_info(base), SETTINGS) as model:
        assert counting.n_tokens == n_probe_tokens(model, capture.task_probe("q")) == capture.entry("q").n_tokens
    assert [label for label in quiet.labels if label.startswith("capture")] == ["capture b on q"]
    assert [entry.name for entry in capture.meta.probes] == ["a", "b", "c", "q"]
    assert capture.meta.settings["texts"] == sources
    assert all(digests(path)[name] == sha for name, sha in before.items() if name != "meta.json")
    assert list(run.glob("*.qpc")) == [path]
    assert set(found.results.quants[0].texts) == {"a", "b", "c"} and set(found.results.tasks) == {"q"}
    capture.verify()


def test_a_run_measures_what_it_was_asked_for(tmp_path: Path, base: Path) -> None:
    """Though its capture holds more; what was measured before stays in the results unless they are replaced."""
    three, run = texts(tmp_path, "a", "b", "c"), tmp_path / "run"
    sweep(base, [base], Inputs(three), SETTINGS, run, Quiet())
    two = Inputs((three[2], three[0]))
    assert list(sweep(base, [base], two, SETTINGS, run, Quiet()).results.quants[0].texts) == ["b", "c", "a"]
    found = sweep(base, [base], two, SETTINGS, run, Quiet(), replaces=True).results
    assert list(found.quants[0].texts) == ["c", "a"]
    assert set(found.null_control.texts or {}) == {"c", "a"}
    assert set(found.settings["texts"]) == {"c", "a"}


@pytest.mark.parametrize("changes", [{"n_threads": 2}, {"use_mmap": False}, {}], ids=["threads", "mmap", "version"])
def test_what_moves_no_logit_decodes_nothing(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    inputs, out, run = text_and_task(tmp_path)["text"], tmp_path / "b.qpc", tmp_path / "run"
    capture_base(base, inputs, SETTINGS, out, Quiet())
    sweep(base, [base], inputs, SETTINGS, run, Quiet())
    before = digests(out)
    forbid_models(monkeypatch)
    monkeypatch.setattr("quantprobe.__version__", "99.0")
    changed = replace(SETTINGS, **changes)
    capture_base(base, inputs, changed, out, Quiet())
    sweep(base, [base], inputs, changed, run, Quiet())
    assert digests(out) == before
    assert len(list(run.glob("*.qpc"))) == 1


def test_a_capture_is_extended_as_if_made_at_once(tmp_path: Path, base: Path, counting: Counting) -> None:
    both = text_and_task(tmp_path)
    out = tmp_path / "b.qpc"
    capture_base(base, both["text"], SETTINGS, out, Quiet(), embed_head=True)
    n_text, counting.n_blocks = counting.n_blocks, 0
    capture_base(base, both["task"], SETTINGS, out, Quiet())
    n_task = counting.n_blocks
    whole = capture_base(base, Inputs(both["text"].texts, both["task"].tasks), SETTINGS, tmp_path / "w.qpc", Quiet(),
                         embed_head=True)  # fmt: skip
    assert counting.n_blocks == n_task + (n_text + n_task)
    assert Capture.open(out).meta.probes == whole.meta.probes
    assert Capture.open(out).meta.head == whole.meta.head


def test_the_output_matrix_is_embedded_later(tmp_path: Path, base: Path, counting: Counting) -> None:
    inputs, out = text_and_task(tmp_path)["text"], tmp_path / "b.qpc"
    capture_base(base, inputs, SETTINGS, out, Quiet())
    counting.n_blocks = 0
    capture = capture_base(base, inputs, SETTINGS, out, Quiet(), embed_head=True)
    assert counting.n_blocks == 0
    shutil.move(base, tmp_path / "gone.gguf")
    capture.head_bytes()


def test_a_probe_that_changed(tmp_path: Path, base: Path) -> None:
    """An error for a capture of one's own; in a run the new one takes the old one's place."""
    inputs, out, run = Inputs(texts(tmp_path, "a", "b")), tmp_path / "b.qpc", tmp_path / "run"
    capture_base(base, inputs, SETTINGS, out, Quiet())
    sweep(base, [base], inputs, SETTINGS, run, Quiet())
    before = digests(out)
    write_letters(tmp_path / "a.txt", 100, seed=7)
    with pytest.raises(InputError, match=r"b\.qpc has another 'a' than this one; name it apart .*nothing was changed"):
        capture_base(base, inputs, SETTINGS, out, Quiet())
    with pytest.raises(InputError, match="another 'a'"):
        capture_base(base, replace(inputs, n_chunks=2), SETTINGS, out, Quiet())
    assert digests(out) == before
    quiet = Quiet()
    sweep(base, [base], inputs, SETTINGS, run, quiet)
    [path] = run.glob("*.qpc")
    assert any("a has changed" in note and "in place of the old" in note for note in quiet.notes)
    capture = Capture.open(path)
    capture.verify()
    assert [entry.name for entry in capture.meta.probes] == ["a", "b"]
    assert len(list(path.iterdir())) == 1 + 2 * 2  # the files of the old one are gone


def test_other_settings_are_another_capture(tmp_path: Path, base: Path) -> None:
    inputs, out = text_and_task(tmp_path)["text"], tmp_path / "b.qpc"
    capture_base(base, inputs, SETTINGS, out, Quiet())
    with pytest.raises(MismatchError, match=r"another flash_attn; delete it or choose another name"):
        capture_base(base, inputs, replace(SETTINGS, flash_attn=False), out, Quiet())
    other = write_tiny(tmp_path / "other.gguf", head_type="F16", n_layer=1, seed=5)
    with pytest.raises(MismatchError, match="another base;"):
        capture_base(other, inputs, SETTINGS, out, Quiet())


def test_an_extension_that_stops_leaves_the_capture_as_it_was(tmp_path: Path, base: Path, counting: Counting) -> None:
    both, out = text_and_task(tmp_path), tmp_path / "b.qpc"
    capture_base(base, both["text"], SETTINGS, out, Quiet())
    before = digests(out)
    counting.left = 2
    with pytest.raises(KeyboardInterrupt):
        capture_base(base, both["task"], SETTINGS, out, Quiet())
    counting.left = None
    assert {name: sha for name, sha in digests(out).items() if name in before} == before
    assert [entry.name for entry in Capture.open(out).meta.probes] == ["t"]
    capture = capture_base(base, both["task"], SETTINGS, out, Quiet())
    n_blocks, counting.n_blocks = counting.n_blocks, 0
    whole = capture_base(base, both["task"], SETTINGS, tmp_path / "w.qpc", Quiet())
    assert n_blocks == 5 + counting.n_blocks
    assert capture.entry("q").rows.sha256 == whole.entry("q").rows.sha256
    assert capture.entry("q").null_control == whole.entry("q").null_control
    assert sorted(digests(out)) == ["00-t.probe", "00-t.rows", "01-q.probe", "01-q.rows", "meta.json"]


CAPTURE = """
import sys
from pathlib import Path
sys.path[:0] = sys.argv[1].split("|")
from capture_runs import SETTINGS
from road_cases import Quiet
from quantprobe.sweep import Inputs, TaskInput, TextInput, capture_base
folder = Path(sys.argv[2])
quiet = Quiet()
inputs = Inputs((TextInput("t", folder / "t.txt"),), (TaskInput("q", folder / "q.jsonl"),))
capture = capture_base(folder / "b.gguf", inputs, SETTINGS, folder / "b.qpc", quiet)
capture.verify()
print(quiet.labels, quiet.notes, sep="\\n")
"""


def start_capture(folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", CAPTURE, str(Path(__file__).parents[1] / "support"), str(folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment())


def test_two_processes_make_one_capture(tmp_path: Path, base: Path) -> None:
    """Started while a third holds the lock, so that both have to wait: one decodes, the other uses what it made."""
    both = text_and_task(tmp_path)
    with locked(lock_file(tmp_path / "b.qpc"), lambda: None):
        processes = [start_capture(tmp_path) for _ in range(2)]
        time.sleep(0.1)
        assert not (tmp_path / "b.qpc").exists() and not (tmp_path / "b.qpc.partial").exists()
    ended = [process.communicate(timeout=100) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], ended
    decoded = [out for out, _ in ended if "capture b on" in out]
    used = [out for out, _ in ended if "already holds this capture" in out]
    assert len(decoded) == len(used) == 1
    whole = capture_base(base, Inputs(both["text"].texts, both["task"].tasks), SETTINGS, tmp_path / "w.qpc", Quiet())
    assert digests(tmp_path / "b.qpc") == digests(whole.path)


def test_a_waiting_process_says_so_and_goes_on_where_the_other_was_killed(
    tmp_path: Path, base: Path, counting: Counting
) -> None:
    both, out = text_and_task(tmp_path), tmp_path / "b.qpc"
    counting.left = 3
    with pytest.raises(KeyboardInterrupt):
        capture_base(base, both["text"], SETTINGS, out, Quiet())
    counting.left, counting.n_blocks = None, 0

    class Waiting(Quiet):
        def note(self, message: str) -> None:
            super().note(message)
            if "another process" in message:
                holder.kill()

    script = "import sys; from pathlib import Path; from quantprobe.locks import locked\n"
    script += "with locked(Path(sys.argv[1]), print): print('holds', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", script, str(lock_file(out))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "holds\n"
        waiting = Waiting()
        capture_base(base, both["text"], SETTINGS, out, waiting)
    assert any("another process is writing" in note for note in waiting.notes)
    assert counting.n_blocks == 5 - 3


def test_a_reader_of_a_folder_that_is_read_only_takes_no_lock(tmp_path: Path, base: Path) -> None:
    out = tmp_path / "b.qpc"
    capture_base(base, text_and_task(tmp_path)["text"], SETTINGS, out, Quiet())
    lock_file(out).unlink()
    Capture.open(out).verify()
    assert not lock_file(out).exists()
