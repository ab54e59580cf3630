"""The command line: what reaches the engine, what reaches the user."""

from __future__ import annotations

import errno
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result
from made_results import document, text_numbers
from rich.console import Console

from quantprobe.cli.main import COMMANDS, cli
from quantprobe.cli.shared.progress import SilentProgress, open_progress
from quantprobe.errors import EngineError, MismatchError


@dataclass(frozen=True)
class FakeText:
    name: str
    path: Path


@dataclass(frozen=True)
class FakeTask:
    name: str
    path: Path
    format: str | None
    template: str | None
    rule: str | None
    few_shot: int
    few_shot_file: Path | None
    chat_template: bool
    n_items: int | None
    skip_bad: bool


@dataclass(frozen=True)
class FakeInputs:
    texts: tuple[FakeText, ...]
    tasks: tuple[FakeTask, ...]
    n_chunks: int | None
    parse_special: bool
    llama_compat: bool


@dataclass(frozen=True)
class Summary:
    numbers: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        return self.numbers


def fake_result(quants: Sequence[Path], llama: dict[str, Any] | None = None) -> Any:
    entries = document()["quants"]
    made = []
    for path, entry in zip(quants, entries, strict=False):
        info = SimpleNamespace(**{**entry, "path": path, "name": path.stem, "imatrix": None})
        made.append(
            SimpleNamespace(
                info=info, texts={"wiki": Summary(text_numbers(0.01))}, tasks={}, llama=llama or {}, pooled=None
            )
        )
    return SimpleNamespace(
        base=SimpleNamespace(**document()["base"]),
        settings={"n_ctx": 512},
        null_control=SimpleNamespace(texts={"wiki": text_numbers(1e-6)}, tasks={}),
        quants=tuple(made),
        tasks={},
    )


@dataclass
class Engine:
    """Stands in for quantprobe.sweep; notes what it was asked, and fails as it is told."""

    calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = field(default_factory=list)
    failure: BaseException | None = None
    before: Callable[[], object] = lambda: None
    llama: dict[str, Any] = field(default_factory=dict)

    def call(self, name: str, result: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            self.calls.append((name, args, kwargs))
            self.before()
            if self.failure is not None:
                raise self.failure
            return result(*args)

        return run


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Engine:
    fake = Engine()
    module = ModuleType("quantprobe.sweep")
    capture = SimpleNamespace(
        meta=SimpleNamespace(base=SimpleNamespace(name="base"), kind="hidden", probes=[SimpleNamespace(n_rows=255)]),
        n_bytes=1_000_000,
        sha256="ab",
    )
    functions: dict[str, Callable[..., Any]] = {
        "sweep": lambda base, quants, *rest: fake_result(quants, fake.llama),
        "compare_quants": lambda capture, quants, *rest: fake_result(quants, fake.llama),
        "capture_base": lambda *args: capture,
        "captured_settings": lambda capture, changes: {"captured": capture, **changes},
        "import_kld": lambda *args: None,
        "export_kld": lambda *args: None,
    }
    for name, function in functions.items():
        setattr(module, name, fake.call(name, function))
    vars(module).update(Inputs=FakeInputs, TextInput=FakeText, TaskInput=FakeTask)
    monkeypatch.setitem(sys.modules, "quantprobe.sweep", module)
    import quantprobe

    monkeypatch.setattr(quantprobe, "sweep", module, raising=False)
    return fake


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A current folder with a base, two quants and a text."""
    for name in ("base.gguf", "q8.gguf", "q4.gguf"):
        (tmp_path / name).write_bytes(b"GGUF" + name.encode())
    (tmp_path / "wiki.txt").write_text("words", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    yield tmp_path


def run(*args: str) -> Result:
    return CliRunner().invoke(cli, list(args))


def words(line: str) -> list[str]:
    return line.split()


def failed(result: Result, *expected: str) -> bool:
    """One line on standard error, exit code 1, no other output."""
    lines = result.stderr.splitlines()
    assert result.exit_code == 1, result.output
    assert len(lines) == 1 and lines[0].startswith("error: "), result.stderr
    assert result.stdout == ""
    assert all(word in lines[0] for word in expected), lines[0]
    return True


SWEEP = ("sweep", "base.gguf", "q8.gguf", "q4.gguf", "--text", "wiki.txt")


def test_sweep_passes_on_what_was_asked(engine: Engine, folder: Path) -> None:
    options = words("-c 1024 -b 4096 -ub 256 -t 3 -ngl 12 -mg 1 -ts 3,1 -fa off -ctk q8_0 -ctv f32 --no-mmap -np 16")
    more = words("--chunks 7 --parse-special --kind logprobs --llama-compat --margin 0.002 -o out")
    result = run(*SWEEP, *options, *more)
    assert result.exit_code == 0, result.output
    [(name, args, kwargs)] = engine.calls
    base, quants, inputs, settings, out, _ = args
    assert (name, base, quants, out) == ("sweep", Path("base.gguf"), [Path("q8.gguf"), Path("q4.gguf")], Path("out"))
    assert inputs == FakeInputs((FakeText("wiki", Path("wiki.txt")),), (), 7, True, True)
    assert kwargs == {"kind": "logprobs", "llama_compat": True, "margin": 0.002}
    assert settings.to_dict() == {
        "n_ctx": 1024, "n_batch": 4096, "n_ubatch": 256, "n_threads": 3, "n_gpu_layers": 12, "main_gpu": 1,
        "tensor_split": [3.0, 1.0], "flash_attn": False, "type_k": "q8_0", "type_v": "f32", "use_mmap": False,
        "n_parallel": 16,
    }  # fmt: skip


def test_options_not_given_are_the_engines_own_defaults(engine: Engine, folder: Path) -> None:
    from quantprobe.settings import Settings

    assert run(*SWEEP).exit_code == 0
    assert engine.calls[0][1][3] == Settings()
    assert engine.calls[0][1][4] == Path("base.run")


def test_sweep_leaves_the_run_files_and_shows_the_table(engine: Engine, folder: Path) -> None:
    result = run(*SWEEP, "-o", "out")
    assert {path.name for path in (folder / "out").iterdir()} == {
        "results.json", "results.csv", "results.md", "kld_vs_size.png"
    }  # fmt: skip
    assert "wiki: distance from" in result.stdout and "q4" in result.stdout
    assert result.stderr == ""
    assert "\x1b" not in result.stdout


def test_json_to_stdout_is_alone_there(engine: Engine, folder: Path) -> None:
    engine.llama = {"wiki": SimpleNamespace(format=lambda: "====== Perplexity statistics ======")}
    result = run(*SWEEP, "-o", "out", "--json", "-", "--llama-compat")
    assert json.loads(result.stdout) == json.loads((folder / "out" / "results.json").read_text(encoding="utf-8"))
    assert result.stderr == ""


def test_json_to_a_file_comes_beside_the_table(engine: Engine, folder: Path) -> None:
    result = run(*SWEEP, "-o", "out", "--json", "copy.json")
    assert (folder / "copy.json").read_bytes() == (folder / "out" / "results.json").read_bytes()
    assert "distance from" in result.stdout


def test_llama_compat_prints_the_tools_text(engine: Engine, folder: Path) -> None:
    engine.llama = {"wiki": SimpleNamespace(format=lambda: "====== Perplexity statistics ======")}
    result = run("compare", "base.qpc", "q4.gguf", "--llama-compat")
    assert "q4 on wiki, as llama-perplexity prints it:\n\n====== Perplexity statistics ======" in result.stdout
    assert engine.calls[-1][1][0] == Path("base.qpc") and engine.calls[-1][2]["llama_compat"] is True


def test_compare_passes_on_what_was_asked(engine: Engine, folder: Path) -> None:
    result = run(*words("compare b.qpc q4.gguf --base-model base.gguf --allow-settings-change -t 2 -fa off"))
    assert result.exit_code == 0, result.output
    (_, asked, _), (name, args, kwargs) = engine.calls
    assert asked == (Path("b.qpc"), {"n_threads": 2, "flash_attn": False})
    assert (name, args[:2], args[3]) == ("compare_quants", (Path("b.qpc"), [Path("q4.gguf")]), Path("b.run"))
    assert args[2] == {"captured": Path("b.qpc"), "n_threads": 2, "flash_attn": False}
    assert kwargs == {
        "base_model": Path("base.gguf"),
        "allow_settings_change": True,
        "llama_compat": False,
        "margin": 0.01,
    }


def test_capture_says_what_it_kept(engine: Engine, folder: Path) -> None:
    result = run("capture", "base.gguf", "--text", "wiki.txt", "--embed-head", "--kind", "hidden")
    assert result.stdout.startswith("base.qpc: 255 rows of base as hidden, 0.00100 GB")
    assert engine.calls[0][2] == {"kind": "hidden", "embed_head": True}
    document = json.loads(run("capture", "base.gguf", "--text", "wiki.txt", "--json", "-").stdout)
    assert document == {"path": "base.qpc", "kind": "hidden", "sha256": "ab", "n_rows": 255, "n_bytes": 1_000_000}


def test_kld_files_go_in_and_out(engine: Engine, folder: Path) -> None:
    assert run("kld", "import", "base.kld", "--model", "base.gguf").exit_code == 0
    assert run("kld", "export", "base.qpc", "base.kld", "--text", "wiki").exit_code == 0
    (first, import_args, _), (second, export_args, _) = engine.calls
    assert (first, import_args[:3]) == ("import_kld", (Path("base.kld"), Path("base.gguf"), Path("base.qpc")))
    assert (second, export_args[:4]) == ("export_kld", (Path("base.qpc"), Path("base.kld"), "wiki", None))


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ("sweep none.gguf q8.gguf --text wiki.txt", ["no model none.gguf"]),
        ("sweep base.gguf none.gguf --text wiki.txt", ["none.gguf gives no quant"]),
        ("sweep base.gguf base.gguf --text wiki.txt", ["is the base itself"]),
        ("sweep base.gguf q8.gguf ./q8.gguf --text wiki.txt", ["given twice"]),
        ("sweep base.gguf q8.gguf --text none.txt", ["no text file none.txt"]),
        ("sweep base.gguf q8.gguf --text wiki.txt --text again=wiki.txt", ["wiki.txt is given twice"]),
        ("sweep base.gguf q8.gguf --text wiki.txt --text WIKI=q8.gguf", ["two texts are named 'WIKI'"]),
        ("sweep base.gguf q8.gguf --task none.jsonl", ["no question file or folder none.jsonl"]),
        ("sweep base.gguf q8.gguf --task wiki.txt --task again=wiki.txt", ["the task wiki.txt is given twice"]),
        ("sweep base.gguf q8.gguf --text wiki.txt --task Wiki=q8.gguf", ["a text and a task are named 'Wiki'"]),
        ("sweep base.gguf q8.gguf --text wiki.txt --margin 1", ["--margin", "range"]),
        ("sweep base.gguf q8.gguf --task wiki.txt --few-shot -1", ["--few-shot"]),
        ("sweep base.gguf q8.gguf --task wiki.txt --task-items 0", ["--task-items"]),
        ("sweep base.gguf q8.gguf --text wiki.txt -c 3", ["--ctx-size", "x>=4"]),
        ("sweep base.gguf q8.gguf --text wiki.txt -b 0", ["--batch-size"]),
        ("sweep base.gguf q8.gguf --text wiki.txt -ub 0", ["--ubatch-size"]),
        ("sweep base.gguf q8.gguf --text wiki.txt --chunks 0", ["--chunks"]),
        ("sweep base.gguf q8.gguf --text wiki.txt -t 0", ["--threads"]),
        ("sweep base.gguf q8.gguf --text wiki.txt -t two", ["--threads", "'two'"]),
        ("sweep base.gguf q8.gguf --text wiki.txt -ngl -2", ["--n-gpu-layers", "-2 is not a number of layers"]),
        ("sweep base.gguf q8.gguf --text wiki.txt -ngl some", ["'some' is neither"]),
        ("sweep base.gguf q8.gguf --text wiki.txt -ts 1,x", ["--tensor-split"]),
        ("sweep base.gguf q8.gguf --text wiki.txt -ts 0,0", ["one must be above 0"]),
        ("sweep base.gguf q8.gguf --text wiki.txt -ts nan,1", ["one must be above 0"]),
        ("sweep base.gguf q8.gguf --text wiki.txt -ctk q9", ["q9"]),
        ("sweep base.gguf q8.gguf --text wiki.txt -ctv q8_0 -fa off", ["--flash-attn on"]),
        ("sweep base.gguf q8.gguf --text wiki.txt --colour red", ["No such option", "sweep --help"]),
        ("sweep base.gguf", ["QUANT"]),
        ("measure base.gguf", ["No such command", "measure"]),
        ("capture . --text wiki.txt", ["is a folder"]),
        ("kld import base.kld", ["--model"]),
        ("completion tcsh", ["tcsh"]),
    ],
)
def test_bad_input_is_one_line(engine: Engine, folder: Path, args: str, expected: list[str]) -> None:
    assert failed(run(*words(args)), *expected)
    assert engine.calls == []
    assert {path.name for path in folder.iterdir()} == {"base.gguf", "q8.gguf", "q4.gguf", "wiki.txt"}


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        (MismatchError("two tokenizers"), ["two tokenizers"]),
        (EngineError("llama.cpp refused:\n  line one\n\nline two\n"), ["refused:; line one; line two"]),
        (MemoryError(), ["out of memory"]),
        (OSError(errno.ENOSPC, "No space left on device", "run/rows"), ["run/rows: No space left", "free some space"]),
        (PermissionError(errno.EACCES, "Permission denied", "run"), ["run: Permission denied", "another folder"]),
        (OSError("odd"), ["odd"]),
        (ImportError("llama_cpp is 0.2.1 and lacks llama_memory_seq_cp"), ["lacks llama_memory_seq_cp"]),
    ],
)
def test_failures_are_one_line(engine: Engine, folder: Path, failure: Exception, expected: list[str]) -> None:
    engine.failure = failure
    assert failed(run(*SWEEP), *expected)
    assert failed(run(*SWEEP, "--json", "-"), *expected)


def test_a_stopped_run_says_how_to_go_on(engine: Engine, folder: Path) -> None:
    engine.failure = KeyboardInterrupt()
    result = run(*SWEEP)
    assert result.exit_code == 130
    assert result.stderr.strip() == "stopped; run the same command again to continue"


def test_a_bug_is_not_dressed_up(engine: Engine, folder: Path) -> None:
    engine.failure = ZeroDivisionError("a bug")
    assert isinstance(run(*SWEEP).exception, ZeroDivisionError)


def test_a_run_that_cannot_be_written_is_one_line(engine: Engine, folder: Path) -> None:
    assert failed(run(*SWEEP, "-o", "wiki.txt"), "cannot write")
    assert (folder / "wiki.txt").read_text(encoding="utf-8") == "words"


def commands(group: click.Command = cli, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield path
    if isinstance(group, click.Group):
        for name, command in group.commands.items():
            yield from commands(command, (*path, name))


@pytest.mark.parametrize("path", list(commands()), ids=" ".join)
def test_every_help_has_an_example_of_its_own(path: tuple[str, ...]) -> None:
    result = run(*path, "--help")
    assert result.exit_code == 0
    assert f"  {' '.join(['quantprobe', *path])}" in result.stdout or 'eval "$(quantprobe completion' in result.stdout
    assert run(*path, "-h").stdout == result.stdout
    assert "pip install quantprobe" not in result.stdout


def test_every_command_is_listed_with_a_line() -> None:
    text = run("--help").stdout
    for command in COMMANDS:
        assert command.name is not None and command.short_help
        assert command.name in text and command.short_help.split()[0] in text


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_call_quantprobe(shell: str) -> None:
    assert "_QUANTPROBE_COMPLETE" in run("completion", shell).stdout


def test_devices_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclass(frozen=True)
    class Device:
        name: str = "CUDA0"
        kind: str = "GPU"
        backend: str = "CUDA"
        memory_free: int = 2**31
        memory_total: int = 2**33
        description: str = "A card"

    @dataclass(frozen=True)
    class Versions:
        quantprobe: str = "0.1.0"
        llama_cpp_python: str = "0.3.36"
        llama_cpp: str = "0.5.0"
        backends: tuple[str, ...] = ("CUDA", "CPU")

    module = ModuleType("quantprobe.engine.devices")
    vars(module).update(list_devices=lambda: [Device()], versions=Versions, system_info=lambda: "AVX2 = 1")
    monkeypatch.setitem(sys.modules, "quantprobe.engine.devices", module)
    text = run("devices").stdout
    assert "CUDA0" in text and "2.0" in text and "8.0" in text and "AVX2" in text and "0.3.36" in text
    written = json.loads(run("devices", "--json", "-").stdout)
    assert written["devices"][0]["memory_free"] == 2**31 and written["versions"]["backends"] == ["CUDA", "CPU"]
    version = run("--version").stdout
    assert version.splitlines() == ["quantprobe 0.1.0", "llama-cpp-python 0.3.36", "llama.cpp 0.5.0 (CUDA, CPU)"]


def test_version_without_llama_cpp(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "quantprobe.engine.devices", None)
    result = run("--version")
    assert result.exit_code == 0
    assert "quantprobe 0.1.0" in result.stdout and "cannot be loaded" in result.stdout


def python(code: str, *args: str, **kwargs: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *args], check=False, capture_output=True, text=True, encoding="utf-8", **kwargs
    )


def test_help_loads_neither_llama_cpp_nor_numpy() -> None:
    code = (
        "import sys\n"
        "sys.modules['llama_cpp'] = None\n"
        "from quantprobe.cli.main import main\n"
        "sys.argv = ['quantprobe', 'sweep', '--help']\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert end.code == 0\n"
        "heavy = {'numpy', 'numba', 'matplotlib', 'gguf', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = python(code)
    assert done.returncode == 0, done.stderr
    assert "Examples:" in done.stdout


def test_what_c_libraries_print_stays_off_the_json(tmp_path: Path) -> None:
    code = (
        "import os, sys\n"
        "from quantprobe.cli.shared.output import open_output\n"
        "print('before')\n"
        "with open_output('-') as output:\n"
        "    os.write(1, b'a line of llama.cpp\\n')\n"
        "    print('a line of Python')\n"
        "    output.say('words')\n"
        "    output.write_json({'n': 1})\n"
        "print('after')\n"
    )
    done = python(code)
    assert json.loads(done.stdout.removeprefix("before\n").removesuffix("after\n")) == {"n": 1}
    assert done.stderr == "a line of llama.cpp\na line of Python\n"


@pytest.mark.skipif(os.name != "posix", reason="closes a pipe as a POSIX shell does")
def test_a_reader_that_leaves_is_no_error() -> None:
    code = (
        "import sys, time\n"
        "from quantprobe.cli.main import main\n"
        "sys.argv = ['quantprobe', '--help']\n"
        "sys.stdin.read()\n"
        "main()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        assert child.stdin is not None and child.stdout is not None and child.stderr is not None
        child.stdout.close()
        child.stdin.close()
        assert child.stderr.read() == ""
        assert child.wait() == 1


def test_progress_is_silent_where_nobody_looks(capsys: pytest.CaptureFixture[str]) -> None:
    with open_progress() as progress:
        assert isinstance(progress, SilentProgress)
        progress.start("hash", 10, "B")
        progress.advance(5)
        progress.note("a note")
        progress.finish()
    assert capsys.readouterr() == ("", "")


def test_progress_shows_stage_amount_and_notes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=120)
    with open_progress(console) as progress:
        progress.start("hash [model]", 4_000_000_000, "B")
        progress.advance(1_000_000_000)
        time.sleep(0.25)  # the display is drawn ten times a second
        progress.note("a [note]")
        progress.start("compare", None, "tok")
        progress.advance(512)
        time.sleep(0.25)
        progress.finish()
        progress.advance(1)
    text = out.getvalue()
    assert "hash [model]" in text and "1.00/4.00 GB" in text and "a [note]" in text and "512 tok" in text
    assert "\x1b[?25h" in text  # the cursor is back


def test_no_color_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    from quantprobe.report.results_view import parse_results

    from quantprobe.report.tables.texts import terminal_table

    monkeypatch.setenv("NO_COLOR", "1")
    out = io.StringIO()
    Console(file=out, force_terminal=True, width=120).print(terminal_table(parse_results(document()), "wiki", 120))
    assert "\x1b[3" not in out.getvalue().replace("\x1b[3m", "")
