"""Every ```python block of every markdown file runs, a file's blocks in order and in one namespace.

A block fenced as ```python no-test is skipped; it is for fragments that cannot stand alone.
"""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path

import pytest

from tests.imports import imports_from

REPO = Path(__file__).resolve().parents[2]
_FENCE = re.compile(r"^```python[ \t]*(?P<info>[^\n]*)\n(?P<code>.*?)^```[ \t]*$", re.MULTILINE | re.DOTALL)


def markdown_files() -> list[Path]:
    """The repository's pages; what a run or an environment left beside them is none of them."""
    found = [*REPO.glob("*.md")]
    for folder in ("docs", "lazyengine", "projects", "tests", "tools"):
        found += (REPO / folder).rglob("*.md")
    return sorted(found)


def snippets(page: Path) -> list[tuple[int, str]]:
    """The line of each block that runs, and its code."""
    text = page.read_text(encoding="utf-8")
    blocks = _FENCE.finditer(text)
    return [(text.count("\n", 0, b.start("code")), b["code"]) for b in blocks if b["info"].strip() != "no-test"]


PAGES = [page for page in markdown_files() if snippets(page)]


@pytest.fixture
def fresh_imports(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Work in an empty folder, and forget afterwards what was imported from it."""
    monkeypatch.chdir(tmp_path)
    with imports_from(tmp_path):
        yield


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPO)))
def test_snippets_run(page: Path, fresh_imports, monkeypatch: pytest.MonkeyPatch):
    module = types.ModuleType("snippets")  # dataclasses and pickle look classes up by the name of their module
    monkeypatch.setitem(sys.modules, module.__name__, module)
    for line, code in snippets(page):
        exec(compile("\n" * line + code, str(page), "exec"), module.__dict__)  # a traceback shows the page's line


def test_every_package_has_a_page():
    packages = [p.parent for p in (REPO / "lazyengine").glob("*/__init__.py")]
    missing = [p.name for p in packages if p.name != "cli" and not (p / "README.md").is_file()]  # --help is its page
    assert not missing


def test_links_between_pages_lead_somewhere():
    broken = []
    for page in markdown_files():
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", re.sub(r"```.*?```", "", page.read_text(), flags=re.S)):
            if "://" not in target and not (page.parent / target).exists():
                broken.append(f"{page.relative_to(REPO)}: {target}")
    assert not broken


def test_the_timeline_on_the_page_is_the_one_of_the_default_hooks():
    from lazyengine.hooks import HookSchedule, default_hooks

    page = (REPO / "lazyengine" / "hooks" / "README.md").read_text(encoding="utf-8")
    shown = re.findall(r"^```text\n(.*?)^\.\.\.$", page, re.MULTILINE | re.DOTALL)
    assert HookSchedule(default_hooks()).timeline().startswith(shown[0])
