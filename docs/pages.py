"""Adds the pages that stand beside the code to the site, and mends the links between both kinds."""

from __future__ import annotations

import json
import logging
import posixpath
import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "docs"))
from notebooks import as_markdown  # noqa: E402 - beside this file, which mkdocs loads by its path

_NO_TEST = re.compile(r"^(```\w+) no-test$", re.MULTILINE)  # what the tests skip: a fence has one word on the site
_BROKEN = re.compile(r"(?<=[\u3000-\u9fff\uff00-\uffef])\n(?=[`\u3000-\u9fff\uff00-\uffef]|\d)(?!```)")
"""An end of a line within Chinese, which a browser shows as a space."""
_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\((?!\w+:|#)([^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the notebooks as pages, and every page below lazyengine/ and projects/, and the pictures there."""
    for folder in ("lazyengine", "projects"):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in (".md", ".png") and "templates" not in path.parts:
                files.append(File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)))
    for path in sorted((ROOT / "docs" / "notebooks").glob("*.ipynb")):
        page = as_markdown(json.loads(path.read_text(encoding="utf-8")))
        page += f"\n[The notebook]({path.name}) itself.\n"
        files.append(File.generated(config, f"notebooks/{path.stem}.md", content=page))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Point links to where the site has the page; of a link to a file that is no page its text is left."""
    here = page.file.src_uri
    folder = posixpath.dirname(here)
    at = folder if here.startswith(("lazyengine/", "projects/")) else posixpath.join("docs", folder)

    def mended(match: re.Match[str]) -> str:
        text, target, anchor = match[1], match[2], match[3] or ""
        path = posixpath.normpath(posixpath.join(at, target)).removeprefix("docs/")
        if folder != "notebooks":  # its page, where a notebook's own page links to the file
            path = re.sub(r"^(notebooks/.+)\.ipynb$", r"\1.md", path)
        if files.get_file_from_path(path) is None:
            return text
        return f"[{text}]({posixpath.relpath(path, folder or '.')}{anchor})"

    markdown = _NO_TEST.sub(r"\1", markdown)
    markdown = _BROKEN.sub("", markdown)
    parts = re.split(r"(```.*?```)", markdown, flags=re.DOTALL)
    parts[::2] = [_LINK.sub(mended, part) for part in parts[::2]]
    return "".join(parts)


def on_page_content(html: str, page: Any, config: Any, files: Files) -> str:
    """Warn of a fence that was read as text, which breaks off a build that is strict."""
    if "```" in re.sub(r"<(pre|code)\b.*?</\1>", "", html, flags=re.DOTALL):
        logging.getLogger("mkdocs").warning("%s: a fenced block is shown as text", page.file.src_uri)
    return html
