"""The command line on tiny models: what reaches the engine, what reaches the user."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from made_run import as_cohort, fake_results
from rich.console import Console
from road_cases import error_line, fail, files, results, run, succeed, write_letters
from tiny_gguf import write_tiny

from quantprobe.cli import commands as commands_package
from quantprobe.cli.main import SECTIONS, Cli, cli
from quantprobe.cli.shared.progress import NotesOnly, open_progress
from quantprobe.errors import EngineError, MismatchError
from quantprobe.report.tables.terminal import terminal_tables
from quantprobe.report.tables.texts import text_table


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, two quants and two texts."""
    folder = tmp_path_factory.mktemp("models")
    write_tiny(folder / "base.gguf")
    write_tiny(folder / "q8.gguf", weight_type="Q8_0")
    write_tiny(folder / "q4.gguf", weight_type="Q4_0", noise=0.3)
    write_letters(folder / "wiki.txt")
    return folder


def sweep_args(models: Path, out: Path, *more: object) -> list[object]:
    quants = (models / "q8.gguf", models / "q4.gguf")
    return ["sweep", models / "base.gguf", *quants, "--text", models / "wiki.txt", "-c", 32, "-t", 1, "-o", out, *more]


@pytest.fixture(scope="module")
def swept(models: Path) -> tuple[Path, str]:
    """A finished run and what the command printed."""
    return models / "run", succeed(*sweep_args(models, models / "run")).stdout


def test_every_option_reaches_the_run(models: Path, tmp_path: Path) -> None:
    options = "-b 128 -ub 16 -ngl 0 -mg 0 -ts 1 -fa off -ctk f32 -ctv f32 --no-mmap -np 2 --chunks 8 --parse-special"
    more = "-ot output=CPU --kind logprobs --llama-compat --equivalence-margin 0.002"
    succeed(*sweep_args(models, tmp_path / "run", *options.split(), *more.split()))
    recorded = results(tmp_path / "run")["settings"]
    expected = {
        "n_ctx": 32, "n_batch": 128, "n_ubatch": 16, "n_threads": 1, "n_gpu_layers": 0, "main_gpu": 0,
        "tensor_split": [1.0], "override_tensor": ["output=CPU"], "flash_attn": False, "type_k": "f32",
        "type_v": "f32", "use_mmap": False, "n_parallel": 2, "n_chunks": 8, "parse_special": True,
        "llama_compat": True, "equivalence_margin": 0.002,
    }  # fmt: skip
    assert {name: recorded[name] for name in expected} == expected
    [capture] = (tmp_path / "run").glob("*.qpc")
    assert json.loads((capture / "meta.json").read_text(encoding="utf-8"))["kind"] == "logprobs"


def test_options_not_given_are_the_settings_defaults(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from quantprobe.settings import Settings

    monkeypatch.chdir(tmp_path)
    args = [models / "base.gguf", "--text", models / "wiki.txt", "-c", 32]
    succeed("capture", *args)
    recorded = json.loads((tmp_path / "base.qpc" / "meta.json").read_text(encoding="utf-8"))["settings"]
    defaults = Settings(n_ctx=32).with_threads().to_dict()
    assert {name: recorded[name] for name in defaults} == defaults


def test_a_sweep_leaves_its_files_and_prints_a_summary(swept: tuple[Path, str]) -> None:
    folder, printed = swept
    left = {name for name in files(folder) if "/" not in name}
    assert left == {"results.json", "results.csv", "results.md", "kld_vs_size.png"}
    assert (folder / "kld_vs_size.png").read_bytes().startswith(b"\x89PNG")
    lines = printed.splitlines()
    assert lines[0] == "wiki: distance from base"
    assert [line.split()[0] for line in lines[3:6]] == ["base", "q8", "q4"]
    assert max(len(line.rstrip()) for line in lines[:6]) <= 100
    assert "Null control: the base against its own capture has a KLD of exactly 0 over" in printed
    assert "- Closest to the base is q8 (KLD" in printed
    assert "Verdicts" not in printed and "\x1b" not in printed


def test_details_have_every_column(models: Path, swept: tuple[Path, str]) -> None:
    details = succeed(*sweep_args(models, swept[0], "--details")).stdout
    assert "RMS Δp" in details and "How to read:" in details and "RMS Δp" not in swept[1]


def test_json_to_stdout_is_alone_there(models: Path, swept: tuple[Path, str]) -> None:
    printed = succeed(*sweep_args(models, swept[0], "--json", "-")).stdout
    assert json.loads(printed) == results(swept[0])


def test_json_to_a_file_comes_beside_the_summary(models: Path, swept: tuple[Path, str], tmp_path: Path) -> None:
    assert succeed(*sweep_args(models, swept[0], "--json", tmp_path / "copy.json")).stdout == swept[1]
    assert (tmp_path / "copy.json").read_bytes() == (swept[0] / "results.json").read_bytes()


def test_llama_compat_prints_the_tools_text(models: Path, tmp_path: Path) -> None:
    printed = succeed(*sweep_args(models, tmp_path / "run", "--llama-compat")).stdout
    assert "q4 on wiki, as llama-perplexity prints it:\n\n====== Perplexity statistics ======" in printed
    args = sweep_args(models, tmp_path / "run", "--llama-compat", "--json", "-")
    assert json.loads(succeed(*args).stdout) == results(tmp_path / "run")


def test_compare_runs_under_the_captures_settings_unless_told(models: Path, tmp_path: Path) -> None:
    capture, quant = tmp_path / "b.qpc", models / "q4.gguf"
    done = succeed("capture", models / "base.gguf", "--text", models / "wiki.txt", "-c", 32, "-t", 1, "-o", capture)
    assert done.stdout.startswith(f"{capture}: 180 rows of base as hidden, ")
    args = ["compare", capture, quant, "-t", 1, "-o", tmp_path / "run"]
    succeed(*args)
    assert results(tmp_path / "run")["settings"]["n_ctx"] == 32
    assert "--allow flash_attn" in fail(*args, "-fa", "off")
    allowed = succeed(*args, "-fa", "off", "--allow", "flash_attn")
    assert "settings that differ from the capture's: flash_attn" in allowed.stderr
    assert results(tmp_path / "run")["settings"]["settings_changed"]


def test_capture_in_json(models: Path, tmp_path: Path) -> None:
    args = ["capture", models / "base.gguf", "--text", models / "wiki.txt", "-c", 32, "-t", 1, "-o", tmp_path / "b.qpc"]
    document = json.loads(succeed(*args, "--embed-head", "--json", "-").stdout)
    assert document["path"] == str(tmp_path / "b.qpc") and document["kind"] == "hidden" and document["n_rows"] == 180
    assert document["n_bytes"] > (tmp_path / "b.qpc" / "head.bin").stat().st_size


def test_base_files_go_in_and_out(models: Path, tmp_path: Path) -> None:
    capture, file = tmp_path / "b.qpc", tmp_path / "base.kld"
    succeed("capture", models / "base.gguf", "--text", models / "wiki.txt", "-c", 32, "-t", 1, "-o", capture)
    assert succeed("kld", "export", capture, file, "--text", "wiki").stdout == f"{file}: exported from {capture}\n"
    again = tmp_path / "again.qpc"
    succeed("kld", "import", file, "--model", models / "base.gguf", "-o", again)
    succeed("kld", "export", again, tmp_path / "again.kld")
    assert (tmp_path / "again.kld").read_bytes() == file.read_bytes()
    printed = succeed("compare", again, models / "q4.gguf", "-t", 1, "-o", tmp_path / "run").stdout
    assert "No null control: the base came from an imported file" in printed and "exactly 0" not in printed


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with files whose content is never read."""
    for name in ("base.gguf", "q8.gguf", "q4.gguf"):
        (tmp_path / name).write_bytes(b"GGUF" + name.encode())
    (tmp_path / "wiki.txt").write_text("words", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


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
        ("sweep base.gguf q8.gguf --text wiki.txt --margin 1", ["--margin", "between 0 and 100 %"]),
        ("sweep base.gguf q8.gguf --task wiki.txt --few-shot -1", ["--few-shot"]),
        ("sweep base.gguf q8.gguf --task wiki.txt --task-items 0", ["--task-items"]),
        ("sweep base.gguf q8.gguf --text wiki.txt -c 3", ["--ctx-size", "at least 4"]),
        ("sweep base.gguf q8.gguf --text wiki.txt -b 0", ["--batch-size"]),
        ("sweep base.gguf q8.gguf --text wiki.txt -ub 0", ["--ubatch-size"]),
        ("sweep base.gguf q8.gguf --text wiki.txt --chunks 0", ["--chunks"]),
        ("sweep base.gguf q8.gguf --text wiki.txt -t 0", ["--threads"]),
        ("sweep base.gguf q8.gguf --text wiki.txt -t two", ["--threads", "'two'"]),
        ("sweep base.gguf q8.gguf --text wiki.txt -ngl -2", ["--n-gpu-layers", "'-2' is not a number of layers"]),
        ("sweep base.gguf q8.gguf --text wiki.txt -ngl some", ["--n-gpu-layers", "'some'"]),
        ("sweep base.gguf q8.gguf --text wiki.txt -ts 1,x", ["--tensor-split"]),
        ("sweep base.gguf q8.gguf --text wiki.txt -ts 0,0", ["one of them above 0"]),
        ("sweep base.gguf q8.gguf --text wiki.txt -ts nan,1", ["one of them above 0"]),
        ("sweep base.gguf q8.gguf --text wiki.txt -ctk q9", ["q9"]),
        ("sweep base.gguf q8.gguf --text wiki.txt -ctv q8_0 -fa off", ["--flash-attn on"]),
        ("sweep base.gguf q8.gguf --text wiki.txt --colour red", ["No such option", "sweep --help"]),
        ("sweep base.gguf", ["nothing to measure on", "--text"]),
        ("sweep base.gguf --text wiki.txt", ["give quants", "--types"]),
        ("measure base.gguf", ["No such command", "measure"]),
        ("capture . --text wiki.txt", ["is a folder"]),
        ("kld import base.kld", ["--model"]),
        ("completion tcsh", ["tcsh"]),
    ],
)
def test_bad_input_is_one_line(folder: Path, args: str, expected: list[str]) -> None:
    line = fail(*args.split())
    assert all(word in line for word in expected), line
    assert files(folder) == ["base.gguf", "q4.gguf", "q8.gguf", "wiki.txt"]


def failing(error: BaseException) -> Cli:
    """A group with one command, `work`, that raises."""

    @click.command()
    def work() -> None:
        raise error

    return Cli("quantprobe", commands=[work])


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
def test_failures_are_one_line(failure: Exception, expected: list[str]) -> None:
    done = CliRunner().invoke(failing(failure), ["work"])
    line = error_line(done.exit_code, done.stdout, done.stderr)
    assert all(word in line for word in expected), line


def test_a_stopped_run_says_how_to_go_on() -> None:
    done = CliRunner().invoke(failing(KeyboardInterrupt()), ["work"])
    assert (done.exit_code, done.stderr) == (130, "stopped; re-run the command to resume\n")


def test_a_bug_is_not_dressed_up() -> None:
    done = CliRunner().invoke(failing(ZeroDivisionError("a bug")), ["work"])
    assert isinstance(done.exception, ZeroDivisionError)


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


def test_every_command_is_listed_under_one_heading() -> None:
    text = run("--help").stdout
    modules = {path.stem for path in Path(commands_package.__file__).parent.glob("[a-z]*.py")}
    listed = [name for names in SECTIONS.values() for name in names]
    assert {name.replace("-", "_") for name in listed} == {module.rstrip("_") for module in modules}
    assert len(listed) == len(set(listed)) == len(cli.commands)
    for title, names in SECTIONS.items():
        assert f"{title}:\n" in text
        assert all(f"  {name} " in text and cli.commands[name].short_help == words for name, words in names.items())


def test_the_list_of_commands_imports_none_of_them() -> None:
    code = (
        "import sys\n"
        "from quantprobe.cli.main import main\n"
        "sys.argv = ['quantprobe', '--help']\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "slow = {'numpy', 'rich', 'psutil', 'msgspec', 'quantprobe.settings'} & set(sys.modules)\n"
        "assert not slow and not [name for name in sys.modules if name.startswith('quantprobe.cli.commands')], slow\n"
    )
    done = python(code)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_call_quantprobe(shell: str) -> None:
    assert "_QUANTPROBE_COMPLETE" in run("completion", shell).stdout


def test_devices_are_listed() -> None:
    found = json.loads(succeed("devices", "--json", "-").stdout)
    text = succeed("devices").stdout
    assert found["devices"] and all(device["name"] in text for device in found["devices"])
    assert found["versions"]["llama_cpp"] in text and found["features"] in text
    assert f"llama.cpp {found['versions']['llama_cpp']} (" in succeed("--version").stdout


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


def test_version_and_help_work_without_llama_cpp() -> None:
    code = (
        "import sys\n"
        "sys.modules['llama_cpp'] = None\n"  # what an import finds where it is not installed
        "from quantprobe.cli.main import main\n"
        "sys.argv = ['quantprobe', '--version']\n"
        "main()\n"
    )
    done = python(code)
    assert done.returncode == 0 and done.stdout.startswith("quantprobe ") and "cannot be loaded" in done.stdout


def test_without_a_terminal_only_notes_are_printed() -> None:
    out = io.StringIO()
    with open_progress(Console(file=out, width=20)) as progress:
        assert isinstance(progress, NotesOnly)
        progress.plan(3, 300)
        progress.start("hash", 10, "B")
        progress.advance(5)
        progress.note("a [note] that is longer than the line")
        progress.finish()
    assert out.getvalue() == "a [note] that is longer than the line\n"


def shown_by(work: Callable[[Any], None], monkeypatch: pytest.MonkeyPatch) -> str:
    """What a terminal gets of the progress that `work` reports."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    out = io.StringIO()
    with open_progress(Console(file=out, force_terminal=True, width=120)) as progress:
        work(progress)
    assert "\x1b[?25h" in out.getvalue()  # the cursor is back
    return out.getvalue()


def test_progress_shows_stage_amount_and_notes(monkeypatch: pytest.MonkeyPatch) -> None:
    def work(progress: Any) -> None:
        progress.start("hash [model]", 4_000_000_000, "B")
        progress.advance(1_000_000_000)
        time.sleep(0.25)  # the display is drawn ten times a second
        progress.note("a [note]")
        progress.start("compare", None, "tok")
        progress.advance(512)
        time.sleep(0.25)
        progress.finish()
        progress.advance(1)

    text = shown_by(work, monkeypatch)
    assert "hash [model]" in text and "1.00/4.00 GB" in text and "a [note]" in text and "512 tok" in text
    assert "whole run" not in text


def test_progress_shows_the_whole_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven quants on two texts: of 14 jobs one is done and half of the next, so 12.5 / 1.5 of the time is left."""

    def work(progress: Any) -> None:
        progress.plan(14, 14_000)
        for n_tokens in (1000, 500):
            progress.start("compare", 1000, "tok")
            progress.advance(n_tokens)
        time.sleep(0.7)

    shown = re.findall(r"whole run.*?(\d+)/14 jobs.*?left 0:00:(\d\d)", shown_by(work, monkeypatch))
    assert shown[-1][0] == "1" and int(shown[-1][1]) in range(4, 9)


def test_the_plan_counts_what_is_left(models: Path, tmp_path: Path) -> None:
    """A capture plans itself and its quants; what an earlier run measured is not planned again."""
    from road_cases import Quiet

    from quantprobe.settings import Settings
    from quantprobe.sweep import Inputs, TextInput, sweep

    inputs = Inputs(texts=(TextInput("wiki", models / "wiki.txt"), TextInput("again", models / "wiki.txt")))
    settings = Settings(n_ctx=32, n_threads=1)
    quants = [models / "q8.gguf", models / "q4.gguf"]
    first, second, third = Quiet(), Quiet(), Quiet()
    sweep(models / "base.gguf", quants[:1], inputs, settings, tmp_path / "run", first)
    n = first.plans[0][1] // 4
    assert first.plans == [(4, 4 * n), (3, 3 * n), (2, 2 * n)]
    sweep(models / "base.gguf", quants, inputs, settings, tmp_path / "run", second)
    assert second.plans == [(2, 2 * n)] and any("2 of 4 measurements are already" in note for note in second.notes)
    sweep(models / "base.gguf", quants, inputs, settings, tmp_path / "run", third)
    assert third.plans == []


def test_no_color_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    out = io.StringIO()
    for table in terminal_tables(text_table(as_cohort(fake_results()), "wiki"), 120):
        Console(file=out, force_terminal=True, width=120).print(table)
    assert "\x1b[3" not in out.getvalue().replace("\x1b[3m", "")
