"""Shared options: made from the declarations, and one spelling for each thing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import pytest
from click.shell_completion import CompletionItem
from click.testing import CliRunner

from quantprobe.cli.commands.compare import compare
from quantprobe.cli.shared.options import allow_option, equivalence_margin_option, read_share, run_margin_option
from quantprobe.cli.shared.settings_options import SettingType, changed_settings_options, settings_options
from quantprobe.settings import SETTINGS, Settings, moves_logits


def call(command: click.Command, *arguments: str) -> str:
    """What a command prints; its error where it fails."""
    return CliRunner().invoke(command, list(arguments)).output.strip()


@click.command()
@settings_options
def settings_of(settings: Settings) -> None:
    click.echo(settings.to_dict())


@click.command()
@changed_settings_options
def changes_of(changes: Mapping[str, Any], cache_types: Mapping[str, Sequence[str]]) -> None:
    click.echo({**changes, **{name: types for name, types in cache_types.items() if len(types) > 1}})


@click.command()
@equivalence_margin_option
@allow_option
def measuring(margin: float, allow: tuple[str, ...]) -> None:
    click.echo(f"{margin} {','.join(allow)}")


@click.command()
@run_margin_option
def reading(margin: float | None) -> None:
    click.echo(margin)


def test_every_setting_is_an_option_with_its_default() -> None:
    assert call(settings_of) == str(Settings().to_dict())
    shown = " ".join(call(settings_of, "--help").split())
    for setting in SETTINGS.values():
        assert all(flag in shown for flag in setting.flags)
    assert "[default: 512]" in shown and "[default: physical cores]" in shown and "[default: all]" in shown


def test_only_what_is_given_is_a_change() -> None:
    assert call(changes_of) == "{}"
    given = call(changes_of, "-fa", "off", "--no-mmap", "-c", "512", "-ts", "3,1", "-ngl", "all")
    assert given == str(
        {"n_ctx": 512, "n_gpu_layers": -1, "tensor_split": (3.0, 1.0), "flash_attn": False, "use_mmap": False}
    )
    assert call(changes_of, "-ot", "a=CPU,b=CPU", "-ot", "c=CPU") == str(
        {"override_tensor": ("a=CPU", "b=CPU", "c=CPU")}
    )
    assert "default" not in call(changes_of, "--help")
    assert call(changes_of, "-ctk", "q8_0") == str({"type_k": "q8_0"})
    assert call(changes_of, "-ctk", "q8_0", "-ctk", "f16") == str({"type_k": ("q8_0", "f16")})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-c", "2"), "'2' is not a whole number of at least 4"),
        (("-ngl", "few"), "'few' is not a number of layers or 'all'"),
        (("-fa", "maybe"), "'maybe' is not on or off"),
        (("-ctk", "q8"), "'q8' is not one of f32, f16"),
        (("-ts", "0,0"), "one of them above 0"),
        (("-ot", "exps"), "'exps' is not REGEX=DEVICE"),
    ],
)
def test_wrong_values_say_what_was_expected(arguments: tuple[str, str], message: str) -> None:
    assert message in call(settings_of, *arguments)
    assert f"'{arguments[0]}'" in call(settings_of, *arguments)


def test_choices_are_completed() -> None:
    kind, parameter = SettingType(SETTINGS["type_k"]), settings_of.params[0]
    found: list[CompletionItem] = kind.shell_complete(click.Context(settings_of), parameter, "q5")
    assert [item.value for item in found] == ["q5_1", "q5_0"]


@pytest.mark.parametrize("name", ["--equivalence-margin", "--margin"])
@pytest.mark.parametrize(("text", "margin"), [("1%", 0.01), ("0.01", 0.01), (" 2.5 % ", 0.025), ("1e-3", 0.001)])
def test_a_margin_is_read_in_either_form_under_either_name(name: str, text: str, margin: float) -> None:
    assert call(measuring, name, text) == str(margin)
    assert call(reading, name, text) == str(margin)


def test_margins_not_given() -> None:
    assert call(measuring) == "0.01"
    assert call(reading) == ""
    assert "[default: 1%]" in call(measuring, "--help") and "the run's own, else 1%" in " ".join(
        call(reading, "--help").split()
    )


@pytest.mark.parametrize("text", ["0", "1", "100%", "-1%", "much", "%", "nan"])
def test_margins_that_make_no_sense(text: str) -> None:
    assert "Invalid value for '--equivalence-margin'" in call(measuring, "--margin", text)


def test_shares_without_limits() -> None:
    assert (read_share("100%"), read_share("0"), read_share("0.65")) == (1.0, 0.0, 0.65)
    with pytest.raises(ValueError, match="could not convert"):
        read_share("a tenth")


def test_several_settings_can_be_allowed() -> None:
    assert call(measuring, "--allow", "backend", "--allow", "texts.wiki") == "0.01 backend,texts.wiki"


def test_the_older_blanket_switch_allows_all_that_moves_logits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = pytest.importorskip("quantprobe.sweep", reason="the native extension is not built")
    asked: list[tuple[str, ...]] = []

    def note(*arguments: object, allow: tuple[str, ...], **more: object) -> None:
        asked.append(tuple(allow))
        raise click.Abort

    monkeypatch.setattr(sweep, "captured_settings", lambda capture, changes: Settings())
    monkeypatch.setattr(sweep, "compare_quants", note)
    (tmp_path / "q.gguf").write_bytes(b"GGUF")
    quant = str(tmp_path / "q.gguf")
    call(compare, "base.qpc", quant)
    call(compare, "base.qpc", quant, "--allow", "flash_attn")
    call(compare, "base.qpc", quant, "--allow-settings-change")
    none, one, every = asked
    assert (none, one) == ((), ("flash_attn",))
    assert {"flash_attn", "backend", "llama_cpp_version"} <= {name for name in every if moves_logits(name)}
    assert "--allow-settings-change" not in call(compare, "--help")
