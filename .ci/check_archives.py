"""Fails if the source archive or the wheel in a folder lacks what its users need: `check_archives.py DIST`."""

from __future__ import annotations

import re
import sys
import tarfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

SOURCE = (
    r"CMakeLists\.txt",
    r"native/module\.cpp",
    r"native/llama_api\.hpp",
    r"tests/support/tiny_gguf\.py",
    r"README\.md",
)
WHEEL = (
    r"quantprobe/_native\.[^/]*(so|pyd)",
    r"quantprobe/_native\.pyi",
    r"quantprobe/py\.typed",
    r"quantprobe/probes/questions/data/[^/]+\.jsonl",
    r"quantprobe/checks/data/probe\.txt",
    r"quantprobe/report/page/page\.html",
    r"quantprobe/report/page/page\.css",
    r"quantprobe/report/page/pictures\.js",
    r".*\.dist-info/licenses/LICENSE",
)


def missing(names: Iterable[str], patterns: Iterable[str]) -> list[str]:
    known = list(names)
    return [pattern for pattern in patterns if not any(re.fullmatch(pattern, name) for name in known)]


def main(folder: Path) -> int:
    [source], [wheel] = folder.glob("*.tar.gz"), folder.glob("*.whl")
    with tarfile.open(source) as archive:
        source_names = [name.partition("/")[2] for name in archive.getnames()]
    wheel_names = zipfile.ZipFile(wheel).namelist()
    faults = [f"{source.name} has no {name}" for name in missing(source_names, SOURCE)]
    faults += [f"{wheel.name} has no {name}" for name in missing(wheel_names, WHEEL)]
    faults += [
        f"{wheel.name} carries {name}" for name in wheel_names if not re.match(r"quantprobe/|gguf_quantprobe-", name)
    ]
    print("\n".join(faults) or f"{source.name}, {wheel.name}: complete")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
