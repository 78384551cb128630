"""Files of a small project, for tests that load configs."""

import sys

import pytest

from lazyengine.config import LazyConfig

HEAD = "from lazyengine.config import LazyCall as L, LazyPartial, REQUIRED, clone, ref, replace\n"
PARTS = """
class Net:
    def __init__(self, width=1, inner=None, use_bias=True, rate=0.5, name="n"):
        self.width, self.inner = width, inner
class Opt:
    def __init__(self, net=None, lr=0.1, warm=0.0):
        self.net, self.lr, self.warm = net, lr, warm
class Run:
    def __init__(self, **parts):
        self.parts = parts
"""


class Project:
    """A folder `a` of a project, with `parts.py`; each file gets the usual imports."""

    def __init__(self, root):
        self.folder = root / "a"
        self.folder.mkdir()
        (root / "pyproject.toml").touch()
        (self.folder / "parts.py").write_text(PARTS)
        self.parts = ""

    def write(self, **files):
        for name, text in files.items():
            path = self.folder / (name.replace("__", "/") + ".py")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(HEAD + self.parts + text)

    def load(self, text=None, *overrides, **files):
        """Write `main.py` and other files, load it, apply overrides."""
        self.write(**files, **({} if text is None else {"main": text}))
        return LazyConfig.apply_overrides(LazyConfig.load(self.folder / "main.py"), list(overrides))


@pytest.fixture
def project(tmp_path, monkeypatch):
    modules, path = set(sys.modules), list(sys.path)
    made = Project(tmp_path)
    monkeypatch.chdir(made.folder)
    made.parts = "from .parts import Net, Opt, Run\n"
    yield made
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        del sys.modules[name]
