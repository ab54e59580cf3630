"""What `direction` and `import` share: which file is which quant's, and the measured run that an import joins."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from quantprobe.cli.shared.options import PathType

if TYPE_CHECKING:
    from quantprobe.imports.build import Import, ImportedRun
    from quantprobe.imports.sources import NamedFile

like_option = click.option(
    "--like",
    type=PathType(),
    metavar="RUN",
    help="Join this measured run: you vouch that base and settings are the same. Quants are matched by name, file or "
    "SHA-256, and what is matched is printed; study and report then take both runs together.",
)


def named_files(values: Sequence[str]) -> list[NamedFile]:
    """`[QUANT=]FILE` arguments; a file whose own name holds `=` is taken as it is."""
    from quantprobe.imports.sources import NamedFile

    files = []
    for value in values:
        name, equals, file = value.partition("=")
        named = equals and not Path(value).is_file()
        files.append(NamedFile(name.strip(), Path(file)) if named else NamedFile(None, Path(value)))
    return files


def join_run(found: Import, like: Path | None, margin: float | None) -> ImportedRun:
    """What was read as a run, joined to `like`."""
    from quantprobe.imports.build import build_run
    from quantprobe.run.cohort import read_cohort

    return build_run(found, None if like is None else read_cohort([like]), margin)
