"""show_config: the tree, where values came from, differences, what can be overridden, checks."""

import copy
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from lazyengine.cli.show import main
from lazyengine.config import Config, LazyConfig, diff, edited_values, format_tree, ref, target_of
from lazyengine.config import LazyCall as L
from tests.imports import imports_from

ROOT = Path(__file__).parents[2]

PARTS = '''\
class Net:
    """A net.

    Args:
        width: Channels of the first layer.
        depth (int, optional): Number of layers;
            a second line.
    """

    def __init__(self, width: int, depth: int = 3, *, names: tuple[str, ...] = ()):
        raise AssertionError("nothing is built")


class Wide(Net):
    def __init__(self, width: int, scale: float = 1.0):
        raise AssertionError("nothing is built")


class Run:
    """
    Parameters
    ----------
    net : Net
        The net to run.
    :param steps: How many steps.
    """

    def __init__(self, net: Net, steps: int = 10, hooks: list[object] = (), note=None):
        raise AssertionError("nothing is built")
'''
CONFIG = """\
from lazyengine.config import LazyCall as L, REQUIRED
from .parts import Net, Run

net = L(Net)(width=8)
net.depth = 5
run = L(Run)(
    net=net,
    hooks=[L(Net)(width=1), {"a": 1}],
)
title = "first"
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "parts.py").write_text(PARTS)
    (tmp_path / "config.py").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "parts", raising=False)  # that of another test's project
    with imports_from(tmp_path):
        yield tmp_path


def run(capsys, *arguments):
    code = main(list(arguments))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def plain(text):
    return [" ".join(line.split()) for line in text.splitlines()]


def test_the_tree_has_types_and_the_defaults_that_apply(project, capsys):
    code, out, err = run(capsys, "config.py")
    assert (code, err) == (0, "")
    module = target_of(LazyConfig.load("config.py").net).__module__
    assert plain(out) == [
        f"net = Net # {module}",
        "width: int = 8",
        "depth: int = 5",
        "names: tuple[str, ...] = () # default",
        f"run = Run # {module}",
        "net: Net = same as net",
        "hooks: list[object] = list of 2",
        f"[0] = Net # {module}",
        "width: int = 1",
        "depth: int = 3 # default",
        "names: tuple[str, ...] = () # default",
        "[1] = {'a': 1}",
        "steps: int = 10 # default",
        "note = None # default",
        "title = 'first'",
    ]
    code, out, _ = run(capsys, "config.py", "--no-defaults")
    assert "default" not in out


def test_blame_names_the_line_or_the_argument(project, capsys):
    code, out, _ = run(capsys, "config.py", "--blame", "net.width=9", "run.steps=3")
    assert code == 0
    lines = plain(out)
    assert "width: int = 9 # config.py:4, cli:#1 net.width=9" in lines
    assert "depth: int = 5 # config.py:5" in lines
    assert "steps: int = 3 # cli:#2 run.steps=3" in lines
    assert "title = 'first' # config.py:10" in lines


def test_edited_values_have_what_they_were(project):
    """Also after a copy; what was set to the value that it had is none."""
    cfg = LazyConfig.load("config.py")
    LazyConfig.apply_overrides(cfg, ["net.width=9", "net.width=10", "run.steps=3", "~run.hooks", "title=first"])
    for each in (cfg, copy.deepcopy(cfg), pickle.loads(pickle.dumps(cfg))):
        found = {edit["path"]: (edit["was"], edit["is"], edit["sources"][-1]) for edit in edited_values(each)}
        assert found.pop("run.hooks")[1:] == ("-", "cli:#4 ~run.hooks")
        assert found == {
            "net.width": ("8", "10", "cli:#2 net.width=10"),
            "net.depth": ("-", "5", "config.py:5"),
            "run.steps": ("-", "3", "cli:#3 run.steps=3"),
        }


def test_keys_list_name_type_value_default_and_documentation(project, capsys):
    code, out, _ = run(capsys, "config.py", "--keys", "net")
    assert code == 0
    assert plain(out) == [
        "name type value default documentation",
        "net.width int 8 - Channels of the first layer.",
        "net.depth int 5 3 Number of layers;",
        "net.names tuple[str, ...] - () -"[:-2],
    ]
    code, out, _ = run(capsys, "config.py", "--keys")
    assert "run.steps int - 10 How many steps." in plain(out)
    assert "title str 'first' -" in plain(out)
    code, _, err = run(capsys, "config.py", "--keys", "nett")
    assert code == 2
    assert "Did you mean 'net'?" in err


def test_check_finds_what_would_fail_without_building(project, capsys):
    code, out, _ = run(capsys, "config.py", "--check")
    assert (code, plain(out)) == (0, ["every target resolves, every required argument is set, every type fits"])
    (project / "wrong.py").write_text(
        "from lazyengine.config import LazyCall as L, LazyPartial, REQUIRED\n"
        "from .parts import Net, Run, Wide\n"
        "unset = L(Net)()\n"
        "required = L(Net)(width=REQUIRED)\n"
        "typed = L(Net)(width='8', depth=1e5, names=['a', 'b'])\n"
        "nested = L(Net)(width=1, names=('a', 5))\n"
        "missing = L('no_such_module:Cls')(x=1)\n"
        "other = L(Run)(net=L(Run)(net=L(Wide)(width=1)))\n"
        "none = L(Run)(net=L(Net)(width=1), note=None, steps=None)\n"
        "fine = LazyPartial(Net)(depth=True)\n"
    )
    code, out, _ = run(capsys, "wrong.py", "--check")
    assert code == 2
    lines = out.splitlines()
    for line, part in zip(
        lines,
        [
            "unset (Net, defined at wrong.py:3): the required argument 'width' is not set",
            "required (Net, defined at wrong.py:4): the required argument 'width' is not set",
            "typed.width accepts int, got '8' (set at wrong.py:5)",
            "typed.depth accepts int, got 100000.0 (set at wrong.py:5)",
            "nested.names accepts tuple[str, ...], got ('a', 5) (set at wrong.py:6)",
            "missing ('no_such_module:Cls', defined at wrong.py:7): TargetError: ",
            "other.net accepts Net, got a node that builds Run (set at wrong.py:8)",
            "none.steps accepts int, got None (set at wrong.py:9)",
        ],
        strict=True,
    ):
        assert line.startswith(part)


def test_diff_of_configs_and_run_folders(project, capsys):
    code, out, _ = run(capsys, "config.py", "--diff", "config.py")
    assert (code, out) == (0, "no difference\n")
    cfg = LazyConfig.load("config.py")
    for folder in ("one", "two"):
        (project / folder).mkdir()
    LazyConfig.save(cfg, "one/config.py")
    LazyConfig.apply_overrides(
        cfg, ["net._target_=parts.Wide", "~net.depth", "net.width=16", "+net.scale=2", "run.hooks[1].a=2", "+new=1"]
    )
    LazyConfig.save(cfg, "two/config.py")
    code, out, _ = run(capsys, "one", "--diff", "two")
    assert code == 1
    assert out.splitlines() == [
        "~ net._target_: Net -> Wide",
        "~ net.width: 8 -> 16",
        "- net.depth = 5",
        "+ net.scale = 2.0",
        "~ run.hooks[1].a: 1 -> 2",
        "+ new = 1",
    ]
    (project / "empty").mkdir()
    code, _, err = run(capsys, "empty")
    assert code == 2
    assert "without config.py" in err


def test_diff_sees_sharing_and_types():
    node = L(dict)(a=1)
    shared = Config({"x": node, "y": [node]})
    separate = Config({"x": L(dict)(a=1), "y": [L(dict)(a=1)]})
    assert [str(d) for d in diff(shared, separate)] == ["~ y[0]: the node of x -> dict(...)"]
    assert [str(d) for d in diff(Config({"x": 1}), Config({"x": 1.0}))] == ["~ x: 1 -> 1.0"]
    assert [str(d) for d in diff(Config({"x": (1,)}), Config({"x": [1]}))] == ["~ x: (1,) -> [1]"]
    assert diff(shared, Config({"x": node, "y": [node]})) == []


def test_mistakes_exit_with_2_and_one_clear_message(project, capsys):
    code, out, err = run(capsys, "config.py", "net.wdth=1")
    assert (code, out) == (2, "")
    assert "override #1 'net.wdth=1'" in err
    assert "Did you mean 'width'?" in err
    assert "Traceback" not in err
    code, _, err = run(capsys, "confg.py")
    assert code == 2
    assert "config.py" in err
    (project / "broken.py").write_text("x = 1\ny = x / 0\n")
    code, _, err = run(capsys, "broken.py")  # the config's own code: its line, and the error's type
    assert code == 2
    assert "broken.py" in err
    assert "ZeroDivisionError" in err


def test_the_tool_prints_its_help_and_can_be_piped(project):
    tool = [sys.executable, str(ROOT / "tools" / "show_config.py")]
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    result = subprocess.run([*tool, "--help"], capture_output=True, text=True, env=environment)
    assert result.returncode == 0
    assert "examples:" in result.stdout
    command = f"'{tool[0]}' '{tool[1]}' config.py | head -n 1"
    result = subprocess.run(command, shell=True, capture_output=True, text=True, env=environment)
    assert result.stdout.startswith("net = Net")
    assert result.stderr == ""


def test_trees_of_nodes_and_odd_values():
    node = L(print)("a", "b", sep=ref("x"), end={"k": [1, 2]})
    lines = plain(format_tree(node))
    assert lines[0].startswith("print")
    assert "[0] = 'a'" in lines
    assert any(line.endswith("= ref('x')") for line in lines)


class Clumsy:
    def __repr__(self):
        raise RuntimeError("no")


def test_a_value_whose_repr_fails_is_still_shown():
    assert "repr raised RuntimeError" in format_tree(Config({"x": Clumsy()}))
