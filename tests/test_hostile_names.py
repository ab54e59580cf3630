"""Names and texts that others wrote reach no terminal, page, card, table or file as anything but text."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path, PureWindowsPath
from typing import Any

import click
import pytest
from click.testing import CliRunner
from made_run import as_cohort, fake_results
from rich.console import Console
from tiny_gguf import write_tiny

from quantprobe.cli.main import Cli
from quantprobe.cli.shared.output import open_output
from quantprobe.cli.shared.progress import NotesOnly, open_progress
from quantprobe.errors import FileFormatError, InputError
from quantprobe.gguf.parts import split_paths
from quantprobe.names import is_safe_path
from quantprobe.probes.chat import chat_renderer
from quantprobe.report.card import format_card
from quantprobe.report.finish import results_markdown
from quantprobe.report.page.html import render_page
from quantprobe.report.tables.markdown import escape_markdown
from quantprobe.run.folder import RunFolder
from quantprobe.run.results import parse_results, results_document

ESCAPES = "a\x1b[2J\x1b]0;title\x07b\x9b31m\u202ec\x00d"
CONTROLS = set("\x1b\x07\x9b\u202e\x00")
NAMES = (
    *("../../up", "/etc/passwd", "C:\\x", "a/b", "..", ".", "", "CON", "nul.txt", "LPT1", "x.", "x ", "a:b", "a\0b"),
    *("\x1b[2J", "=1+1", "<img src=x onerror=alert(1)>", "{{ 7*7 }}", "x" * 400, "\ud800"),
)


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_no_name_leaves_the_folder_of_a_run(name: str, tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    for path in (run.rows(name, name), run.task_rows(name, name), run.items(name, name), run.questions(name)):
        assert path.resolve().is_relative_to(tmp_path.resolve()) and len(path.name) < 130
        for part in path.relative_to(tmp_path).parts:
            assert is_safe_path(part) and part == PureWindowsPath(part).name


@pytest.mark.parametrize(
    "path",
    ["../up", "/up", "a//b", "a/../b", "C:/x", "a\\b", "", "rows/NUL", "con.csv", "a/x.", "a/x ", "a\0b", "a/b?", "."],
    ids=ascii,
)
def test_a_run_names_no_file_elsewhere_and_no_device(path: str) -> None:
    document = results_document(fake_results(n_quants=1))
    document["quants"][0]["files"] = {"texts": {"wiki": path}, "tasks": {}}
    with pytest.raises(FileFormatError, match="inside the run's folder"):
        parse_results(document)


def test_ordinary_paths_are_taken() -> None:
    assert all(map(is_safe_path, ("rows/Q4_K_M/wiki.npz", "items/a b/ä.csv", "console.csv", "x")))


def test_parts_come_from_the_models_own_folder_and_few_are_listed(tmp_path: Path) -> None:
    parts = write_tiny(tmp_path / "m.gguf", split=2)
    [path] = [parts] if isinstance(parts, Path) else parts[:1]
    assert all(part.parent == path.parent for part in split_paths(path))
    many = path.with_name("m-00001-of-00003.gguf")
    many.write_bytes(path.read_bytes())
    with pytest.raises(FileFormatError):
        split_paths(many)


def raising(error: Exception) -> Cli:
    @click.command()
    def fail() -> None:
        raise error

    return Cli("quantprobe", commands=[fail])


def test_no_error_steers_the_terminal() -> None:
    for error in (InputError(f"no file {ESCAPES}"), OSError(2, f"gone {ESCAPES}", ESCAPES), ImportError(ESCAPES)):
        done = CliRunner().invoke(raising(error), ["fail"])
        assert done.exit_code == 1 and not set(done.stderr) & CONTROLS and done.stderr.count("\n") == 1


def test_no_error_fills_the_screen() -> None:
    done = CliRunner().invoke(raising(InputError("no id " + "x" * 100_000 + "; name another")), ["fail"])
    assert (
        len(done.stderr) < 2100 and done.stderr.endswith("; name another\n") and done.stderr.startswith("error: no id")
    )


@pytest.mark.parametrize("terminal", [True, False])
def test_no_note_and_no_label_steers_the_terminal_and_every_note_is_printed(terminal: bool) -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=200, color_system=None)
    with open_progress(console) as progress:
        assert isinstance(progress, NotesOnly) is not terminal
        progress.start(f"hash {ESCAPES}", 10, "B")
        progress.note(f"3 questions are left out of [red]{ESCAPES}")
        progress.advance(10)
        progress.finish()
    [line] = [line for line in out.getvalue().splitlines() if "left out" in line]
    assert "[red]a" in line and "]0;title" in line  # the text is there, what starts a command is not
    assert not set(out.getvalue()) & (CONTROLS - {"\x1b"}) and "\x1b]0" not in out.getvalue()
    assert terminal or out.getvalue().count("\n") == 1


def test_no_word_of_a_command_steers_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with open_output(None) as output:
        output.say(ESCAPES)
    assert not set(capsys.readouterr().out) & CONTROLS


MARKUP = ("<img src=x onerror=alert(1)>", "</script><script>alert(1)</script>", "{{ 7*7 }}{% raw %}", '"><b x>')


@pytest.mark.parametrize("name", MARKUP)
def test_no_name_is_markup_on_page_card_or_tables(name: str) -> None:
    results = fake_results((name,), n_quants=2)
    quant = replace(results.quants[0], name=name, path=f"x/{name}", file_type=name)
    settings: dict[str, Any] = {**results.settings, name: name}
    base = replace(results.base, name=name, architecture=name)
    cohort = as_cohort(replace(results, base=base, quants=(quant, results.quants[1]), settings=settings))
    page = render_page(cohort)
    assert name not in page.split('<script type="application/json"')[0] or "{{" in name
    assert "<img src=x" not in page and "alert(1)</script" not in page and "49" not in page.split("<h1>")[1][:40]
    for text in (format_card(cohort), results_markdown(cohort)):
        assert "<img" not in text.replace("\\<", "") and "<script" not in text.replace("\\<", "")


@pytest.mark.parametrize("name", ["[x](http://a.b)", "![x](http://a.b/t.png)", "[x][y]", "[x]: http://a.b"])
def test_no_name_is_a_link_or_an_image_in_a_card(name: str) -> None:
    assert not any(mark in escape_markdown(name) for mark in ("](", "][", "]:"))


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ cycler.__init__.__globals__.os.system('x') }}",
        "{% for i in range(10**9) %}{% endfor %}",
    ],
)
def test_a_models_template_reaches_nothing(template: str) -> None:
    with pytest.raises(InputError, match="template"):
        chat_renderer(template, "m")("hello")
