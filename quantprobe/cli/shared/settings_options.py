"""Options that say how models are run, one for each declaration in `quantprobe.settings`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import click
from click.shell_completion import CompletionItem

from quantprobe.cli.shared.options import Command, stack
from quantprobe.settings import SETTINGS, Setting, Settings


class SettingType(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """A setting as it is written on the command line."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.name = setting.kind.metavar

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return self.setting.read(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return [CompletionItem(name) for name in self.setting.kind.choices if name.startswith(incomplete)]


def _setting_option(setting: Setting, shows_default: bool) -> Callable[[Command], Command]:
    default = f"  [default: {setting.default_text}]" if shows_default and setting.default_text else ""
    if setting.is_off_switch:
        return click.option(
            *setting.flags, setting.name, is_flag=True, flag_value=False, default=True, help=setting.help
        )
    several: dict[str, Any] = {"multiple": True, "callback": _joined} if setting.kind.repeats else {}
    return click.option(
        *setting.flags, setting.name, type=SettingType(setting), default=setting.default,
        metavar=setting.kind.metavar, help=setting.help + default, **several,
    )  # fmt: skip


def _joined(ctx: click.Context, param: click.Parameter, values: tuple[tuple[Any, ...], ...]) -> tuple[Any, ...]:
    return tuple(each for value in values for each in value)


CACHE_TYPES = ("type_k", "type_v")


def _cache_options(shows_default: bool) -> list[Callable[[Command], Command]]:
    """The types of the cache, each of which may be given several times."""
    options = []
    for setting in (SETTINGS[name] for name in CACHE_TYPES):
        default = f"  [default: {setting.default_text}]" if shows_default else ""
        options.append(
            click.option(
                *setting.flags, setting.name, type=SettingType(setting), multiple=True, metavar=setting.kind.metavar,
                help=f"{setting.help} Repeat it: the first is the run's, each other makes lines of its own.{default}",
            )
        )  # fmt: skip
    return options


def varied_settings_options(command: Command) -> Command:
    """The same where cache types may be several: the command gets `settings`, and `cache_types` by setting."""
    ordinary = [_setting_option(each, shows_default=True) for each in SETTINGS.values() if each.name not in CACHE_TYPES]

    @stack(*ordinary, *_cache_options(shows_default=True))
    @functools.wraps(command)
    def with_settings(*args: Any, **kwargs: Any) -> Any:
        cache_types = {name: kwargs.pop(name) for name in CACHE_TYPES}
        values = {name: kwargs.pop(name) for name in SETTINGS if name not in CACHE_TYPES}
        values |= {name: types[0] for name, types in cache_types.items() if types}
        return command(*args, settings=Settings(**values), cache_types=cache_types, **kwargs)

    return with_settings  # type: ignore[return-value]


def settings_options(command: Command) -> Command:
    """Adds the options that say how models are run; the command gets them as one `settings`."""

    @stack(*(_setting_option(setting, shows_default=True) for setting in SETTINGS.values()))
    @functools.wraps(command)
    def with_settings(*args: Any, **kwargs: Any) -> Any:
        values = {name: kwargs.pop(name) for name in SETTINGS}
        return command(*args, settings=Settings(**values), **kwargs)

    return with_settings  # type: ignore[return-value]


MACHINE = ("n_threads", "n_gpu_layers")


def machine_options(command: Command) -> Command:
    """Adds the options that say where a model runs; the command, which chooses all else, gets them as `settings`."""

    @stack(*(_setting_option(SETTINGS[name], shows_default=True) for name in MACHINE))
    @functools.wraps(command)
    def with_settings(*args: Any, **kwargs: Any) -> Any:
        values = {name: kwargs.pop(name) for name in MACHINE}
        return command(*args, settings=Settings(**values), **kwargs)

    return with_settings  # type: ignore[return-value]


def changed_settings_options(command: Command) -> Command:
    """The same options where a capture has the settings already: the command gets those given as `changes`.

    Cache types may be several: the command gets all of them as `cache_types`.
    """
    # the default is the capture's setting, not the one that --help would show
    ordinary = [
        _setting_option(each, shows_default=False) for each in SETTINGS.values() if each.name not in CACHE_TYPES
    ]

    @stack(*ordinary, *_cache_options(shows_default=False))
    @click.pass_context
    @functools.wraps(command)
    def with_changes(ctx: click.Context, /, *args: Any, **kwargs: Any) -> Any:
        cache_types = {name: kwargs.pop(name) for name in CACHE_TYPES}
        values = {name: kwargs.pop(name) for name in SETTINGS if name not in CACHE_TYPES}
        given = {
            name: value
            for name, value in values.items()
            if ctx.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT
        }
        given |= {name: types[0] for name, types in cache_types.items() if types}
        return command(*args, changes=given, cache_types=cache_types, **kwargs)

    return with_changes  # type: ignore[return-value]
