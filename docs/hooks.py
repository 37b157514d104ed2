"""What the site takes from outside docs/: model cards as pages, linked sources as files, all design notes.

Knows mkdocs; must not know what the pages say.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING

from mkdocs.structure.files import File, Files

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"(?<=\]\()(?:\.\./)+((?:src|tests)/[^)#\s]+)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """List the design notes by number."""
    notes = [f"design/{path.name}" for path in sorted((ROOT / "docs" / "design").glob("*.md"))]
    config.nav = [{"Design notes": notes} if "Design notes" in part else part for part in config.nav or ()]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what pages link to outside docs/."""
    pages = [file for file in files if file.is_documentation_page()]
    linked = {path for page in pages for path in LINK.findall(page.content_string)}
    cards = {path.relative_to(ROOT).as_posix() for path in (ROOT / "src/napari_xt/models").glob("*.md")}
    for path in sorted(linked | cards):
        if (ROOT / path).is_file():
            files.append(File.generated(config, _place(path), abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001 - mkdocs'
    """Let links to sources lead to their copies in the site; to folders there is no link."""
    here = posixpath.dirname(page.file.src_uri)
    folders = re.compile(r"\[([^\]]+)\]\((?:\.\./)+(?:src|tests)/[^)]*/[^).]*\)")
    markdown = folders.sub(r"\1", markdown)
    return LINK.sub(lambda found: posixpath.relpath(_place(found[1]), here or "."), markdown)


def _place(path: str) -> str:
    """Where a file of the repository lies in the site."""
    return f"models/{Path(path).name}" if path.endswith(".md") else path
