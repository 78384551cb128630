"""What changed between two versions of the code is named by file and function; a comment is no change."""

from __future__ import annotations

import re

import pytest

from lazyengine.record import CodeRecord, changed_code, changes

SOURCE = '''\
"""A network."""
import math
from torch import nn

WIDTH = 48
BLOCK: int = 2


def scale(x, factor=2.0):
    """Return it scaled."""
    y = x * factor

    def inner(z):
        return z + 1

    return inner(y)


@staticmethod
def decorated():
    return 1


if WIDTH > 10:

    def conditional():
        return "wide"

else:

    def conditional():
        return "narrow"


try:
    import nothing
except ImportError:

    def fallback(x):
        return -x


class Net(nn.Module):
    """The network."""

    depth = 3
    names = ("a", "b")

    def __init__(self, width=WIDTH):
        super().__init__()
        self.width = width
        self.act = nn.ReLU()

    def forward(self, x):
        for _ in range(self.depth):
            x = self.act(x)
        return x

    @property
    def size(self):
        return self.width * self.depth

    class Config:
        lr = 0.1

        def get(self):
            return self.lr

    async def stream(self):
        yield 1


lambdas = {"a": lambda x: x + 1}
print("loaded")
'''
# What is replaced, by what, and what is then named.
MUTATIONS = [
    ("WIDTH = 48", "WIDTH = 64", "WIDTH"),
    ("BLOCK: int = 2", "BLOCK: int = 3", "BLOCK"),
    ("factor=2.0", "factor=2.5", "scale"),
    ("y = x * factor", "y = x / factor", "scale"),
    ("return z + 1", "return z + 2", "scale.inner"),
    ("@staticmethod", "@classmethod", "decorated"),
    ('return "wide"', 'return "wider"', "conditional"),
    ('return "narrow"', 'return "narrower"', "conditional"),
    ("return -x", "return +x", "fallback"),
    ("class Net(nn.Module)", "class Net(nn.Sequential)", "Net"),
    ("depth = 3", "depth = 4", "Net.depth"),
    ('("a", "b")', '("a", "c")', "Net.names"),
    ("width=WIDTH)", "width=WIDTH + 1)", "Net.__init__"),
    ("nn.ReLU()", "nn.GELU()", "Net.__init__"),
    ("range(self.depth)", "range(self.depth + 1)", "Net.forward"),
    ("self.width * self.depth", "self.width", "Net.size"),
    ("lr = 0.1", "lr = 0.2", "Net.Config.lr"),
    ("return self.lr", "return 2 * self.lr", "Net.Config.get"),
    ("yield 1", "yield 2", "Net.stream"),
    ("lambda x: x + 1", "lambda x: x + 2", "lambdas"),
    ('print("loaded")', 'print("done")', "<module>"),
    ("import math", "import cmath as math", "<module>"),
]


def record(source: str, **more: str) -> CodeRecord:
    return CodeRecord({"pkg/net.py": source.encode(), **{name: text.encode() for name, text in more.items()}})


@pytest.mark.parametrize(("old", "new", "named"), MUTATIONS)
def test_one_changed_line_is_named_with_file_and_function(old, new, named):
    assert SOURCE.count(old) == 1
    lines = changed_code(record(SOURCE), record(SOURCE.replace(old, new)))
    assert f"pkg/net.py: {named}" in lines
    assert len(lines) <= 2


@pytest.mark.parametrize(
    "same",
    [
        SOURCE + "# the end\n",
        SOURCE.replace("    return inner(y)", "    # why\n    return inner(\n        y\n    )"),
        SOURCE.replace('"""The network."""', '"""Another text."""'),
        SOURCE.replace('    """Return it scaled."""\n', ""),
        SOURCE.replace('"wide"', "'wide'"),
    ],
)
def test_what_leaves_the_syntax_tree_is_no_change(same):
    assert same != SOURCE
    assert changed_code(record(SOURCE), record(same)) == []


def test_an_order_is_code_too():
    swapped = re.sub(r"(WIDTH = 48\n)(BLOCK: int = 2\n)", r"\2\1", SOURCE)
    assert changed_code(record(SOURCE), record(swapped)) == ["pkg/net.py: <module>"]


def test_files_that_come_and_go_and_data():
    former, present = record(SOURCE, **{"a.txt": "1", "gone.py": ""}), record(SOURCE, **{"a.txt": "2", "new.py": ""})
    assert changed_code(former, present) == [
        "a.txt: has another content",
        "gone.py: is not used any more",
        "new.py: is new",
    ]
    former.by_hash, present.by_hash = {"large.bin": "1"}, {"large.bin": "2"}
    assert "large.bin: has another content" in changed_code(former, present)


def test_a_file_that_was_not_imported_yet_is_compared_where_it_lies(tmp_path):
    (tmp_path / "late.py").write_text("def f():\n    return 1\n")
    former = record(SOURCE, **{"late.py": "def f():\n    return 1\n"})
    present = record(SOURCE)
    present.tops = [str(tmp_path)]
    assert changed_code(former, present) == []
    (tmp_path / "late.py").write_text("def f():\n    return 2\n")
    assert changed_code(former, present) == ["late.py: f"]


def test_values_of_configs_are_compared_elsewhere():
    former, present = record(SOURCE, **{"config.py": "lr = 1"}), record(SOURCE, **{"other.py": "lr = 2"})
    former.configs, present.configs = ["config.py"], ["other.py"]
    assert changes(former, present) == {}


def test_what_is_not_python_is_compared_as_text():
    assert changed_code(record("%time f()"), record("%time g()")) == ["pkg/net.py: <module>"]
