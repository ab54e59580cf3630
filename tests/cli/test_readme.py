"""README and docs tell the truth: commands parse and run, tables are the program's, links lead somewhere."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from readme_tables import PAGES as TABLE_PAGES
from readme_tables import README, TABLES, places, with_tables
from tiny_gguf import write_tiny

from quantprobe.cli.main import cli
from quantprobe.probes.items import Question
from quantprobe.probes.questions.jsonl import write_native

CHECKOUT = README.parent
TEXT = README.read_text(encoding="utf-8")
PAGES = [README, *(CHECKOUT / name for name in ("CHANGELOG.md", "CONTRIBUTING.md", "bench/README.md"))]
PAGES += sorted((CHECKOUT / "docs").glob("*.md"))

TINY: dict[str, Any] = {
    "vocab": "bpe", "chat_template": "{% for m in messages %}{{ m.role }}: {{ m.content }}</s>{% endfor %}"
}  # fmt: skip
BASE = "SmolLM2-135M-Instruct-F16.gguf"
NOT_RUN = {"demo", "make-task", "direction", "diff", "blame", "recipe"}
"""The demo has a test with the real model, blame and recipe have their own; the others read files that no tiny text or
other program can give here."""


def shell_lines() -> list[str]:
    """Every command line of the pages' shell blocks, comments and continuations resolved."""
    texts = [TEXT, *(page.read_text(encoding="utf-8") for page in sorted((CHECKOUT / "docs").glob("*.md")))]
    blocks = [block for text in texts for block in re.findall(r"^```sh\n(.*?)^```", text, re.DOTALL | re.MULTILINE)]
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    parts = [part.strip() for line in lines for part in line.split("#")[0].split("&&")]
    return [part for part in parts if part]


def quantprobe_commands() -> list[list[str]]:
    return [words[1:] for words in map(shlex.split, shell_lines()) if words[0] == "quantprobe"]


def parse(arguments: list[str]) -> click.Command:
    """Parse without running, as deep as the command's groups go; the command found."""
    command: click.Command = cli
    context = cli.make_context("quantprobe", list(arguments))
    while isinstance(command, click.Group):
        name, found, rest = command.resolve_command(context, [*context._protected_args, *context.args])
        assert found is not None
        command, context = found, found.make_context(name, rest, parent=context)
    return command


def test_there_are_commands_to_check() -> None:
    assert len(quantprobe_commands()) >= 8


@pytest.mark.parametrize("arguments", [a for a in quantprobe_commands() if a != ["--version"]], ids=" ".join)
def test_commands_parse(arguments: list[str]) -> None:
    assert not isinstance(parse(arguments), click.Group), "expected a command, found a group of commands"


def test_parsing_sees_wrong_options() -> None:
    with pytest.raises(click.UsageError):
        parse(["sweep", "base.gguf", "quant.gguf", "--no-such-option"])


@pytest.fixture
def _files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with the files that the pages name, tiny."""
    monkeypatch.chdir(tmp_path)
    # on a busy machine the threads of many small decodes wait for each other longer than they compute
    monkeypatch.setattr("quantprobe.settings.default_threads", lambda: 1)
    for name in (BASE, "model-BF16.gguf"):
        write_tiny(Path(name), weight_type=name.removesuffix(".gguf").rpartition("-")[2], **TINY)
    Path("quants").mkdir()
    write_tiny(Path("quants/SmolLM2-135M-Instruct-Q8_0.gguf"), weight_type="Q8_0", **TINY)
    words = " ".join(f"{number} bottles of beer on the wall." for number in range(160))
    for name in ("wiki.txt", "program.txt"):
        Path(name).write_text(f"{name}: {words}\n", encoding="utf-8", newline="\n")
    talk = [{"role": "user", "content": "How many?"}, {"role": "assistant", "content": "99 bottles of beer."}]
    chats = [{"messages": talk, "category": category} for category in ("songs", "sums")]
    Path("chats.jsonl").write_text("\n".join(map(json.dumps, chats)), encoding="utf-8", newline="\n")
    Path("release.toml").write_text("[texts]\nmax_nonfinite = 0\n", encoding="utf-8")
    questions = [Question(str(n), "", f"{n} bottles of", ("beer", "milk", "ink"), n % 3) for n in range(24)]
    write_native(Path("questions.jsonl"), questions)
    for arguments in (
        ["capture", BASE, "--text", "wiki.txt", "-o", "old.qpc"],
        ["kld", "export", "old.qpc", "base.kld"],
    ):
        assert CliRunner().invoke(cli, arguments).exit_code == 0


@pytest.mark.usefixtures("_files")
def test_commands_run_in_their_order() -> None:
    pytest.importorskip("llama_cpp")
    for arguments in quantprobe_commands():
        if arguments[0] not in NOT_RUN and not any(
            scheme in word for word in arguments for scheme in ("hf://", "tcp://")
        ):
            # the tiny models' heads of 16 values hold no block of a quantized cache
            done = CliRunner().invoke(cli, ["bf16" if word == "q8_0" else word for word in arguments])
            assert done.exit_code == 0, f"quantprobe {' '.join(arguments)}: {done.output}"
    for name in re.findall(r"^\| `run/([^`]*)` \|", TEXT, re.MULTILINE):
        pattern = re.sub(r"\b[A-Z]{4,}\b", "*", name).rstrip("/")
        assert list(Path("run").glob(pattern)), f"the README names run/{name}"


@pytest.mark.parametrize("page", TABLE_PAGES, ids=lambda page: page.name)
def test_tables_are_the_programs(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert with_tables(text) == text, "run: python tests/support/readme_tables.py"


@pytest.mark.parametrize("name", TABLES)
def test_each_table_has_one_place(name: str) -> None:
    texts = [page.read_text(encoding="utf-8") for page in TABLE_PAGES]
    assert sum(len(places(name, text)) for text in texts) == 1


def test_ci_runs_the_test_command() -> None:
    command = 'python -m pip install ".[test]" && python -m pytest'
    assert f"```sh\n{command}\n```" in TEXT
    script = (CHECKOUT / ".ci" / "run").read_text(encoding="utf-8")
    assert script.splitlines()[-1] == command


def test_the_demo_is_one_command() -> None:
    assert '```sh\npython -m pip install ".[demo]" && quantprobe demo\n```' in TEXT


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_page_installs_the_unrelated_planner(page: Path) -> None:
    assert not re.search(r"pip install\s+(-\S+\s+)*[\"']?quantprobe\b", page.read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if "://" not in link and not (page.parent / link).exists()] == []


def test_help_shows_no_default_that_the_capture_decides() -> None:
    runner = CliRunner()
    assert "default: 512" in runner.invoke(cli, ["sweep", "--help"]).output
    assert "default: 512" not in runner.invoke(cli, ["compare", "--help"]).output


@pytest.mark.parametrize("arguments", [[], ["kld"]])
def test_no_command_shows_the_help(arguments: list[str]) -> None:
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 0
    assert "Examples:" in done.output


RELIABILITY = CHECKOUT / "docs" / "reliability.md"


def test_every_promise_names_tests_that_are_there() -> None:
    lines = [line for line in RELIABILITY.read_text(encoding="utf-8").splitlines() if re.match(r"\| [A-Z]", line)]
    assert len(lines) > 30
    for line in lines:
        shown = re.findall(r"`((?:tests|bench)/[\w/]+\.(?:py|sh))(?:::(\w+))?`", line.rpartition(" | ")[2])
        assert shown, line
        for file, test in shown:
            text = (CHECKOUT / file).read_text(encoding="utf-8")
            assert not test or f"def {test}(" in text, f"{file} has no {test}"


def test_the_example_of_a_workflow_calls_commands_that_there_are() -> None:
    text = (CHECKOUT / "examples" / "workflows" / "release.yml").read_text(encoding="utf-8")
    commands = [shlex.split(line)[1:] for line in re.findall(r"^ +run: (quantprobe .*)$", text, re.MULTILINE)]
    assert len(commands) == 4
    for arguments in commands:
        assert not isinstance(parse(arguments), click.Group)
