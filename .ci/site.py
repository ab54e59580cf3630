"""What the documentation's site has beside `docs/`: the README as its first page, and what the pages link to."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

CHECKOUT = Path(__file__).resolve().parents[1]
OUTSIDE = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "Containerfile", "LICENSE")
FOLDERS = ("bench", "examples")
SKIPPED = {"__pycache__"}


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages and files outside `docs/`, where they lie in the checkout; the README becomes the index."""
    inside = [path for folder in FOLDERS for path in sorted((CHECKOUT / folder).rglob("*")) if path.is_file()]
    for path in (*(CHECKOUT / name for name in OUTSIDE), *inside):
        place = path.relative_to(CHECKOUT)
        if not SKIPPED & set(place.parts):
            name = "index.md" if place.name == "README.md" and len(place.parts) == 1 else place.as_posix()
            files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """On the site `docs/` is the root: links into it lose that part. A folder is its README; without one, no link."""
    if (CHECKOUT / "docs" / page.file.src_uri).is_file():
        return re.sub(r"\]\(\.\./", "](", markdown)
    here = (CHECKOUT / page.file.src_uri).parent
    markdown = re.sub(r"\[([^\]]*)\]\(([^):#]*)/\)", lambda link: _folder_link(here, link[1], link[2]), markdown)
    return re.sub(r"\]\(((?:\.\./)*)docs/", r"](\1", markdown)


def _folder_link(here: Path, text: str, folder: str) -> str:
    return f"[{text}]({folder}/README.md)" if (here / folder / "README.md").is_file() else text
