"""The pages of docs/: *Your first project* is followed to the letter, and every link leads somewhere."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
PAGES = sorted((REPO / "docs").glob("*.md"))


@pytest.mark.parametrize("page", [*PAGES, REPO / "README.md"], ids=lambda page: page.name)
def test_every_link_leads_somewhere(page):
    links = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8"))
    assert not [link for link in links if not (page.parent / link).exists()]


def follow(page: str, folder: Path) -> str:
    """Run every bash block of a page in a folder, one after another, and return what they print."""
    text = (REPO / "docs" / page).read_text(encoding="utf-8")
    blocks = re.findall(r"^```bash\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    commands = folder / "bin"
    commands.mkdir(exist_ok=True)
    for name, arguments in (("lazyengine", "-m lazyengine"), ("python", "")):
        command = commands / name
        command.write_text(f'#!/bin/sh\nexec {sys.executable} {arguments} "$@"\n')
        command.chmod(0o755)
    path = f"{commands}:{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"}
    script = "set -e\n" + "\n".join(blocks)
    done = subprocess.run(
        ["bash", "-c", script], cwd=folder, env=env, capture_output=True, text=True, check=False, timeout=880
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def first_project(tmp_path_factory) -> tuple[Path, str]:
    """The project that *Your first project* makes, and what its commands print."""
    folder = tmp_path_factory.mktemp("first")
    return folder / "shapes", follow("first-project.md", folder)


pytestmark = pytest.mark.timeout(900)  # a dozen short trainings, one after another
needs_bash = pytest.mark.skipif(shutil.which("bash") is None, reason="the pages are written for bash")


@needs_bash
@pytest.mark.slow
def test_the_first_project_is_followed_to_the_letter(first_project):
    _, printed = first_project
    assert re.search(r"epoch \d: a triangle, and it is a triangle", printed)
    assert "outputs equal" in printed


@needs_bash
@pytest.mark.slow
@pytest.mark.parametrize(
    ("page", "said"),
    [
        ("resume-fork-replay.md", ["in force from iteration", "iteration 35 (", "equal"]),
        ("debugging.md", ["CheckpointHook"]),
        ("sweeps.md", ["0003", "best: ", "pruned", "+optimizer.momentum", "finished"]),
    ],
)
def test_a_page_is_followed_in_that_project(page, said, first_project):
    printed = follow(page, first_project[0])
    assert not [text for text in said if text not in printed]
