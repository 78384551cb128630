"""Loading: imports of configs and code, no leaks, the traps of sharing, bad files."""

import builtins
import copy
import os
import pickle
import sys
import threading
import traceback
from pathlib import Path

import pytest

from lazyengine.config import (
    ConfigFileError,
    ConfigImportError,
    ConfigNotFoundError,
    ConfigWarning,
    LazyConfig,
    RefError,
    SharingError,
    UnknownNameError,
    arguments_of,
    instantiate,
    sources_of,
)

HEAD = "from lazyengine.config import LazyCall as L, clone, ref, replace\n"
CODE = """
class Net:
    def __init__(self, width=1, inner=None):
        self.width, self.inner = width, inner
class Opt:
    def __init__(self, net=None, lr=0.1, **more):
        self.net, self.lr = net, lr
"""
BASE = HEAD + "from .code import Net, Opt\nnet = L(Net)(width=1)\nopt = L(Opt)(net=net, lr=0.1)\nepochs = 3\n"


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write files below a fresh folder (a project unless told otherwise) and forget what they import afterwards."""
    modules, path = set(sys.modules), list(sys.path)

    def write(project=True, **files):
        if project:
            (tmp_path / "pyproject.toml").touch()
        for name, text in files.items():
            file = tmp_path / (name.replace("__init__", "\0").replace("__", "/").replace("\0", "__init__") + ".py")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        return tmp_path

    yield write
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        del sys.modules[name]


def load(folder, name="main"):
    return LazyConfig.load(folder / f"{name}.py")


# --------------------------------------------------------------------------------------------- imports
@pytest.mark.parametrize("project", [True, False])
@pytest.mark.parametrize("package", [True, False])
def test_relative_imports_with_and_without_packages(write, project, package):
    files = {"a__common__base": BASE, "a__common__code": CODE, "a__x__main": HEAD + "from ..common.base import *\n"}
    if package:
        files |= {f"{p}__init__": "" for p in ("a__", "a__common__", "a__x__")}
    folder = write(project, **files)
    cfg = load(folder / "a" / "x")
    assert set(arguments_of(cfg)) == {"net", "opt", "epochs"}
    built = instantiate(cfg)
    assert built["opt"].net is built["net"]
    module = type(built["net"]).__module__
    expected = "a.common.code" if project or package else "lazyengine.config.by_path."
    assert module.startswith(expected)
    assert sys.modules[module].Net is type(built["net"])


@pytest.mark.parametrize(
    "statement",
    [
        "from a.base import net, opt",
        "from a.base import *",
        "import a.base as base; net, opt = base.net, base.opt",
        "import a.base; net, opt = a.base.net, a.base.opt",
        "from a import base; net, opt = base.net, base.opt",
        "from .a import base; net, opt = base.net, base.opt",
        "from .a.base import net as net, opt",
    ],
)
@pytest.mark.parametrize("package", [True, False])
def test_ways_to_import_a_base(write, statement, package):
    files = {"a__base": BASE, "a__code": CODE, "main": statement + "\n"}
    if package:
        files["a____init__"] = ""
    folder = write(**files)
    cfg = load(folder)
    cfg.net.width = 9
    assert cfg.opt.net is cfg.net
    assert load(folder).net.width == 1
    assert not any(getattr(m, "__file__", None) == str(folder / "a" / "base.py") for m in sys.modules.values())


def test_classes_are_those_of_a_normal_import(write, monkeypatch):
    folder = write(
        a__base=BASE,
        a__code=CODE,
        main="from a.base import *\nimport a.code\nfrom a.code import Net\nw = Net.__name__\n",
    )
    monkeypatch.syspath_prepend(str(folder))
    import a.code  # type: ignore[import-not-found]

    cfg = load(folder)
    assert type(instantiate(cfg.net)) is a.code.Net
    assert cfg.w == "Net"


def test_code_keeps_the_name_it_was_imported_under(write, monkeypatch):
    folder = write(a__base=BASE.replace(".code", ".network"), a__network=CODE)
    monkeypatch.syspath_prepend(str(folder / "a"))
    import network  # type: ignore[import-not-found]

    assert type(instantiate(load(folder / "a", "base").net)) is network.Net


def test_two_projects_with_the_same_names(write):
    folder = write(False, p__config=BASE, p__code=CODE, q__config=BASE, q__code=CODE.replace("=0.1", "=0.2"))
    for part in "pq":
        (folder / part / ".git").mkdir()
    p, q = (instantiate(load(folder / part, "config")) for part in "pq")
    assert type(p["net"]) is not type(q["net"])
    assert {Path(sys.modules[type(x["net"]).__module__].__file__).parent.name for x in (p, q)} == {"p", "q"}
    assert instantiate(load(folder / "p", "config"))["net"].__class__ is type(p["net"])


def test_code_files_beside_a_config_import_one_another(write):
    code = "from .parts import WIDTH\n" + CODE.replace("width=1", "width=WIDTH")
    for project in (False, True):
        folder = write(project, a__main=BASE.replace("width=1", ""), a__code=code, a__parts="WIDTH = 5\ndef f(): ...\n")
        assert instantiate(load(folder / "a").net).width == 5
        sys.modules.pop("a.code", None)


def test_any_working_directory_and_symlinks(write, monkeypatch, tmp_path):
    folder = write(a__main=BASE, a__code=CODE)
    monkeypatch.chdir(folder / "a")
    assert instantiate(LazyConfig.load("main.py").net).width == 1
    monkeypatch.chdir("/")
    assert instantiate(LazyConfig.load(os.path.relpath(folder / "a" / "main.py")).net).width == 1


def test_nodes_of_real_modules_are_copied_once_per_load(write):
    package = HEAD + "from .code import Net\nnet = L(Net)(width=1)\ntable = {'net': net}\n"
    ways = ["from a import net, table", "from a import *", "import a; net, table = a.net, a.table"]
    folder = write(a____init__=package, a__code=CODE)
    for way in ways:
        (folder / "main.py").write_text(way + "\n")
        cfg = load(folder)
        assert cfg.net is not sys.modules["a"].net
        cfg.net.width = 2
        assert sys.modules["a"].net.width == 1
    (folder / "main.py").write_text(ways[0] + "\n")
    cfg = load(folder)
    assert cfg.table["net"] is cfg.net


def test_a_config_reached_by_two_links_runs_once(write):
    folder = write(a__base=BASE, a__code=CODE, main="from .a.base import net\nfrom .b.base import net as other\n")
    (folder / "b").symlink_to(folder / "a")
    cfg = load(folder)
    assert cfg.net is cfg.other


def test_whole_configs_are_copied_and_pickled(write):
    main = HEAD + "from .base import *\nhalf = ref('opt.lr', abs)\nnet.width = 4\n"
    cfg = load(write(base=BASE, code=CODE, main=main))
    for again in (copy.deepcopy(cfg), pickle.loads(pickle.dumps(cfg))):
        assert again == cfg
        again.opt.lr = -3
        assert again.opt.net is again.net
        assert instantiate(again)["half"] == 3
        assert sources_of(again.net, "width")[-1].endswith("main.py:4")
    assert cfg.opt.lr == 0.1


def test_what_is_data(write):
    folder = write(
        main="from __future__ import annotations\nimport os, math\nfrom math import pi, sin\nfrom typing import Any\n"
        "from lazyengine.config import REQUIRED, LazyCall as L, LazyPartial\nN = L(dict)\n"
        "def f(): ...\nclass C: ...\ng = lambda: 1\n_private = 1\nkeys = [1]\nload = N(a=1)\nx: int = REQUIRED\n"
    )
    assert set(arguments_of(load(folder))) == {"pi", "keys", "load", "x"}


def test_config_object_refuses_new_names(write):
    cfg = load(write(main="lr = 1\nkeys = 2\n"))
    cfg.lr = 2
    assert cfg.keys == 2
    with pytest.raises(UnknownNameError, match="Did you mean 'lr'"):
        cfg.lrr = 1
    with pytest.raises(AttributeError, match="Did you mean 'keys'"):
        _ = cfg.key
    assert not hasattr(cfg, "items")


def test_sources_lead_to_the_line(write):
    folder = write(base=BASE, code=CODE, main="from .base import *\nopt.lr = 2\nseed = 1\nseed = 2\n")
    cfg = load(folder)
    names = [s.rsplit("/")[-1] for n in ("epochs", "seed") for s in sources_of(cfg, n)]
    assert names == ["base.py:5", "main.py:4"]
    assert [s.rsplit("/")[-1] for s in sources_of(cfg.opt, "lr")] == ["base.py:4", "main.py:2"]


# ---------------------------------------------------------------------------------------- leaks and traps
def test_nothing_leaks_between_loads(write):
    folder = write(base=BASE + "items = [1]\n", code=CODE, main="from .base import *\n")
    first = load(folder)
    first.net.width = 5
    first.items.append(2)
    first.opt = None
    second = load(folder)
    assert (second.net.width, second.items, second.opt.lr) == (1, [1], 0.1)
    assert load(folder) == load(folder)
    (folder / "base.py").write_text(BASE.replace("width=1", "width=77"))
    assert load(folder).net.width == 77


def test_a_diamond_shares_the_base(write):
    folder = write(
        base=BASE,
        code=CODE,
        left="from .base import net\n",
        right="from .base import net as other\n",
        main="from .left import net\nfrom .right import other\n",
    )
    cfg = load(folder)
    assert cfg.net is cfg.other


@pytest.mark.parametrize(
    "change", ["net.width = 5", "table['k'] = 2", "replace(net, L(Net)(width=3))", "opt.net.width = 2"]
)
def test_trap_a_change_under_a_siblings_feet(write, change):
    folder = write(
        base=BASE + "table = {'net': net}\n",
        code=CODE,
        left=HEAD + f"from .code import Net\nfrom .base import net, opt, table\n{change}\n",
        right=HEAD + "from .code import Net\nfrom .base import net, table\nwrapped = L(Net)(inner=[net, table])\n",
        main="from .left import opt\nfrom .right import wrapped\n",
    )
    with pytest.raises(SharingError, match=r"left\.py.*right\.py.*clone") as caught:
        load(folder)
    if change.startswith("net"):
        assert "left.py:4" in str(caught.value)
    # the same in the importer is inheritance, and a clone is private
    (folder / "left.py").write_text(HEAD + "from .base import net, opt\n")
    assert load(folder)
    (folder / "left.py").write_text(HEAD + "from .base import opt as o\nopt = clone(o)\nopt.net.width = 5\n")
    assert load(folder).wrapped.inner[0].width == 1
    (folder / "main.py").write_text("from .base import *\nfrom .right import wrapped\nnet.width = 5\ntable['k'] = 1\n")
    assert load(folder).wrapped.inner[0].width == 5


@pytest.mark.parametrize(("imports", "name"), [("net, opt", "net"), ("*", "net"), ("opt, net as network", "network")])
def test_trap_b_name_bound_anew(write, imports, name):
    text = HEAD + f"from .code import Net\nfrom .base import {imports}\n"
    folder = write(base=BASE, code=CODE, main=text + f"{name} = L(Net)(width=5)\n")
    with pytest.raises(SharingError, match=rf"main\.py:4: '{name}' is bound anew, but opt\.net .* replace\({name}"):
        load(folder)
    for line in (f"{name} = replace({name}, L(Net)(width=5))", f"{name} = opt.net = L(Net)(width=5)"):
        (folder / "main.py").write_text(text + line + "\n")
        assert load(folder).opt.net.width == 5
    (folder / "main.py").write_text(text + f"old = {name}\n{name} = L(Net)(width=5)\n")
    assert load(folder).opt.net.width == 1  # both are named: it is meant


def test_repeated_node_in_a_list_warns(write):
    folder = write(code=CODE, main=HEAD + "from .code import Net\nnet = L(Net)()\nlayers = L(Net)(inner=[net, net])\n")
    with pytest.warns(ConfigWarning, match=r"layers\.inner: the Net node .*main\.py:3.*repeat"):
        load(folder)


def test_refs_are_checked_when_loaded(write):
    folder = write(base=BASE, code=CODE, main=HEAD + "from .base import *\nx = ref('opt.lrr')\n")
    with pytest.raises(RefError, match=r"main\.py:3: ref\('opt\.lrr'\).*Did you mean 'lr'"):
        load(folder)


def test_threads_load_different_files(write):
    names = [f"n{i}" for i in range(8)]
    folder = write(
        code=CODE,
        base=BASE,
        **{n: HEAD + f"from .base import *\nnet.width = {i}\nfor _ in range(2000): ...\n" for i, n in enumerate(names)},
    )
    results: dict[str, set] = {n: set() for n in names}

    def work(name):
        for _ in range(5):
            results[name].add(load(folder, name).net.width)

    threads = [threading.Thread(target=work, args=(n,)) for n in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {n: {i} for i, n in enumerate(names)}


# ------------------------------------------------------------------------------------------- bad files
def test_failure_leaves_the_interpreter_as_it_was(write):
    folder = write(base="import json\nx = 1\n1 / 0\n", main="from .base import *\n")
    state = lambda: (  # noqa: E731
        {n for n in sys.modules if not n.startswith("lazyengine.")},
        list(sys.path),
        builtins.__import__,
        dict(vars(builtins)),
        list(sys.meta_path),
    )
    before = state()
    with pytest.raises(ZeroDivisionError) as caught:
        load(folder)
    assert state() == before
    frames = traceback.extract_tb(caught.value.__traceback__)
    assert [(Path(f.filename).name, f.lineno) for f in frames[-2:]] == [("main.py", 1), ("base.py", 3)]
    assert len(frames) == 4
    assert any("main.py" in note for note in caught.value.__notes__)


def test_circular_imports_are_named(write):
    folder = write(a="from .b import x\n", b="from .main import x\n", main="from .a import x\n")
    with pytest.raises(ConfigImportError, match=r"main\.py -> a\.py -> b\.py -> main\.py"):
        load(folder)
    write(selfish="from .selfish import x\n")
    with pytest.raises(ConfigImportError, match=r"selfish\.py -> selfish\.py"):
        load(folder, "selfish")


def test_missing_and_unsuitable_files(write):
    folder = write(config="x = 1\n")
    with pytest.raises(ConfigNotFoundError, match=r"Did you mean 'config\.py'"):
        load(folder, "confg")
    with pytest.raises(FileNotFoundError, match="no folder"):
        load(folder / "nowhere")
    with pytest.raises(ConfigFileError, match=r"is a folder.*config\.py"):
        LazyConfig.load(folder)
    (folder / "config.yaml").touch()
    with pytest.raises(ConfigFileError, match=r"not a \.py"):
        LazyConfig.load(folder / "config.yaml")
    (folder / "config.json").write_text("{}")
    with pytest.raises(ConfigFileError, match=r"not a \.py"):
        LazyConfig.load(folder / "config.json")


def test_syntax_error_keeps_its_place(write):
    folder = write(base="x = 1\ny = = 2\n", main="from .base import x\n")
    with pytest.raises(SyntaxError) as caught:
        load(folder)
    assert (Path(caught.value.filename).name, caught.value.lineno) == ("base.py", 2)
    (folder / "main.py").write_bytes(b"x = '\0'\n")
    with pytest.raises((ConfigFileError, SyntaxError)):
        load(folder)


@pytest.mark.parametrize(
    ("statement", "match"),
    [
        ("from .base import nett", r"main\.py:2: cannot import name 'nett' from .*base\.py.*Did you mean 'net'"),
        ("from .bsae import net", r"main\.py:2: no module 'bsae' in .*Did you mean 'base'"),
        ("from .code import Nett", r"main\.py:2: .*'Nett'.*Did you mean 'Net'"),
        ("from . import bsae", r"cannot import name 'bsae'"),
        ("from fractions import Fractoin", r"Did you mean 'Fraction'"),
        ("from .code.inner import x", r"main\.py:2: no module 'inner'"),
    ],
)
def test_no_such_name(write, statement, match):
    folder = write(base=BASE, code=CODE, main=f"x = 1\n{statement}\n")
    with pytest.raises(ImportError, match=match) as caught:
        load(folder)
    last = traceback.extract_tb(caught.value.__traceback__)[-1]
    assert (Path(last.filename).name, last.lineno) == ("main.py", 2)


def test_missing_absolute_module_has_a_hint_and_the_original_error(write):
    folder = write(a__base=BASE, a__code=CODE, main="from a.bsae import net\n")
    with pytest.raises(ModuleNotFoundError, match=r"a\.bsae") as caught:
        load(folder)
    assert any("Did you mean 'base'?" in note for note in caught.value.__notes__)


def test_import_error_inside_a_code_file_shows_that_file(write):
    folder = write(code="import no_such_thing\nclass Net: ...\n", main="from .code import Net\n")
    with pytest.raises(ModuleNotFoundError, match="no_such_thing") as caught:
        load(folder)
    names = [Path(f.filename).name for f in traceback.extract_tb(caught.value.__traceback__)]
    assert names[-2:] == ["main.py", "code.py"]


@pytest.mark.parametrize("name", ["nets9", "parts9", "data9"])
def test_a_config_may_be_called_like_a_package_that_it_imports(write, tmp_path, monkeypatch, name):
    """Without a mark of a project, a config's name is that of its file alone."""
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    (tmp_path / "site" / name).mkdir(parents=True)
    (tmp_path / "site" / name / "__init__.py").touch()
    (tmp_path / "site" / name / "deep.py").write_text("class Net:\n    pass\n")
    (tmp_path / "configs").mkdir()
    file = tmp_path / "configs" / f"{name}.py"
    file.write_text(f"from {name}.deep import Net\nfrom lazyengine.config import LazyCall as L\n\nmodel = L(Net)()\n")
    assert type(instantiate(LazyConfig.load(file).model)).__module__ == f"{name}.deep"
    file.write_text(f"from {name}.absent import Net\n")
    with pytest.raises(ModuleNotFoundError, match="absent"):
        LazyConfig.load(file)
