"""Each error has the line of the mistake, what is accepted, and a next step that does not lead in a circle."""

import functools
import os
import sys
from collections.abc import Callable
from typing import Any

import pytest

from lazyengine.cli import show, train
from lazyengine.config import (
    REQUIRED,
    Config,
    ConfigError,
    ConfigNotFoundError,
    ConfigWarning,
    LazyCall,
    LazyConfig,
    OverrideError,
    RefError,
    SaveError,
    SharingError,
    check_config,
    clone,
    instantiate,
    sources_of,
    target_of,
)


class Hook:
    def __init__(self, interval=1, momentum=0.5):
        self.interval = interval


class Run:
    def __init__(
        self, hooks=None, kind: type | None = None, fn: Callable[..., Any] | None = None, hook: Hook | None = None
    ):
        self.hooks = hooks


class Numbers:
    def __init__(self, li: list[int] = [1], table: dict[str, list[int]] = {}):  # noqa: B006
        pass


NAME = __name__


# ---------------------------------------------------------------------------------------------- lines of mistakes
@pytest.mark.parametrize(
    ("line", "match"),
    [
        ("x = net.rate", r"does not set 'rate'"),
        ("net.update(width=3)", r"a node is no dict.*node\.name = value"),
        ("del net.rate", r"does not set 'rate'"),
        ("x = net[0]", r"no argument 0"),
        ("x = 1 if REQUIRED else 2", r"no truth value"),
        ("x = L(3)()", r"A target must be"),
        ("x = L(Net(1))()", r"A target must be .*LazyCall\(Net\)\(\.\.\.\)"),
        ("x = L(Net)(3, width=4)", r"by position and by name"),
        ("replace(net, 3)", r"two nodes"),
        ("net.wdth = 3", r"Did you mean 'width'"),
        ("x = ref(3)", r"ref takes a path"),
        ("x = ref('nett.width')", r"Did you mean 'net'"),
        ("x = L(L(Net))()", r"second call is missing"),
        ("net._target_ = L(Net)", r"second call is missing"),
        ("net._target_ = 3", r"A target must be"),
        ("del net['rate']", r"does not set 'rate'.*It sets: nothing"),
        ("x = ref('x')", r"circle"),
        ("x = ref('x.width')", r"circle"),
        ("net.width = ref('y')\ny = ref('net.width', float)", r"circle"),
        ("d = {}\nd.lr = 3", r"L\(dict\)\(\.\.\.\)"),
    ],
)
def test_the_line_of_the_mistake(project, line, match):
    number = 4 + line.count("\n")
    with pytest.raises(ConfigError, match=rf"main\.py:{number}: .*{match}"):
        project.load(f"net = L(Net)()\n{line}\n")


def test_which_file_brought_a_name(project):
    project.write(one="opt = L(Opt)()\nrun = L(Run)(opt=opt)\n", two="opt = L(Opt)(lr=3)\n")
    with pytest.raises(SharingError, match=r"main\.py, by its import of two\.py:3: 'opt' is bound anew.*run\.opt"):
        project.load("from .one import *\nfrom .two import *\n")


# ------------------------------------------------------------------------------------------ from the command line
def run_of(**values):
    return Config({"run": LazyCall(Run)(hooks={"a": LazyCall(Hook)()}, **values), "items": [LazyCall(Hook)()]})


def test_nodes_are_added_and_replaced_by_their_target():
    cfg = LazyConfig.apply_overrides(
        run_of(),
        [
            f"+run.hooks.b={NAME}:Hook",
            "run.hooks.b.interval=5",
            f"+items[1]={NAME}:Hook",
            f"run.hooks.a={NAME}:Numbers",
        ],
    )
    assert target_of(cfg.run.hooks["b"]) is Hook
    assert instantiate(cfg.run).hooks["b"].interval == 5
    assert target_of(cfg["items"] if False else cfg.items[1]) is Hook
    assert target_of(cfg.run.hooks["a"]) is Numbers
    assert target_of(LazyConfig.apply_overrides(run_of(), [f"run.hook={NAME}.Hook"]).run.hook) is Hook


def test_classes_functions_and_constants_by_name_where_the_annotation_asks_for_one():
    import torch

    class Typed:
        def __init__(self, dtype: torch.dtype = torch.float32, other: torch.dtype | None = None):
            pass

    cfg = run_of()
    LazyConfig.apply_overrides(cfg, [f"run.kind={NAME}.Hook", "run.fn=os.path.join"])
    assert cfg.run.kind is Hook
    assert cfg.run.fn is os.path.join
    cfg = LazyConfig.apply_overrides(Config({"t": LazyCall(Typed)()}), ["t.dtype=torch.float64", "t.other=torch:int8"])
    assert (cfg.t.dtype, cfg.t.other) == (torch.float64, torch.int8)


@pytest.mark.parametrize("override", [f"+run.hooks.b={NAME}:Hok", "run.fn=os.path.jion", f"items[0]={NAME}:Hok"])
def test_a_name_that_leads_nowhere_is_an_error(override):
    with pytest.raises(OverrideError, match="Did you mean"):
        LazyConfig.apply_overrides(run_of(), [override])


@pytest.mark.parametrize("override", ["+text=a:b", "+when=12:30", "+device=cuda:0", "+url=http://x:y"])
def test_text_with_a_colon_stays_text(override):
    cfg = LazyConfig.apply_overrides(run_of(), [override])
    name, _, text = override[1:].partition("=")
    assert getattr(cfg, name) == text


@pytest.mark.parametrize(
    ("override", "match"),
    [
        ("--run.kind=3", r"write run\.kind=3"),
        ("run=sgd", r"_target_=pkg\.mod:Cls"),
        ("n.li=[1, a]", r"n\.li\[1\] .*accepts int, got 'a'"),
        ("n.table={x: [1, b]}", r"n\.table\['x'\]\[1\] .*accepts int, got 'b'"),
        ("~nolr", r"has no 'nolr'\.(?!.*\+nolr)"),
        ("~run.hooks.nolr", r"has no 'nolr'\.(?!.*\+run)"),
        ("items[1].interval=1", r"\+items\[1\]=\.\.\. to append .*pkg\.mod:Cls"),
    ],
)
def test_messages_that_help(override, match):
    cfg = run_of()
    cfg = Config({**{k: getattr(cfg, k) for k in ("run", "items")}, "n": LazyCall(Numbers)(li=[1], table={})})
    with pytest.raises(OverrideError, match=match):
        LazyConfig.apply_overrides(cfg, [override])


def test_a_text_where_a_list_of_overrides_is_meant():
    with pytest.raises(OverrideError, match=r"write \['run\.x=1'\]"):
        LazyConfig.apply_overrides(run_of(), "run.x=1")


def test_dashes_on_both_command_lines(project, capsys):
    project.load("net = L(Net)()\n")
    for command, arguments in ((show.main, ["main.py"]), (train.main, ["--config", "main.py"])):
        assert command([*arguments, "--net.width=3"]) == 2
        assert "write net.width=3" in capsys.readouterr().err


def test_a_dangling_link_and_a_missing_module(project):
    (project.folder / "link.py").symlink_to("gone.py")
    with pytest.raises(ConfigNotFoundError, match=r"is a link to 'gone\.py', which does not exist"):
        LazyConfig.load(project.folder / "link.py")
    with pytest.raises(ConfigError, match=r"no module 'net' in /.*/a\."):
        project.load("from .net import x\n")


def test_a_target_with_a_broken_dependency(project, capsys):
    (project.folder / "broken.py").write_text("x = 1\nimport no_such_dependency\n")
    project.load("net = L(Net)()\n")
    assert show.main(["main.py", "net._target_=a.broken.Cls"]) == 2
    error = capsys.readouterr().err
    assert "broken.py:2" in error
    assert "no_such_dependency" in error
    assert "importlib" not in error


# --------------------------------------------------------------------------------------------------------- refs
def test_a_ref_brings_what_it_means_along(project):
    project.write(base="lr = 0.1\nopt = L(Opt)(lr=ref('lr'), warm=ref('lr', abs))\n")
    cfg = project.load("from .base import opt\n")
    assert instantiate(LazyConfig.apply_overrides(cfg, ["lr=3"]).opt).lr == 3
    cfg = project.load("from .base import opt as optimizer, lr as rate\nrate = 0.5\nother = clone(optimizer)\n")
    assert [instantiate(node).lr for node in (cfg.optimizer, cfg.other)] == [0.5, 0.5]
    project.write(base="AdamW = L(Opt)(lr=0.1)\nAdamW.warm = ref('AdamW.lr')\n")
    cfg = project.load("from .base import AdamW as optimizer\n", "optimizer.lr=7")
    assert instantiate(cfg.optimizer).warm == 7


def test_a_ref_whose_name_means_something_else_in_the_child_is_refused(project):
    project.write(base="lr = 0.1\nopt = L(Opt)(lr=ref('lr'))\n")
    with pytest.raises(
        RefError, match=r"base\.py:4: ref\('lr'\) means the 'lr' of base\.py, but main\.py:4 binds another"
    ):
        project.load("from .base import opt\nlr = 5\n")
    assert instantiate(project.load("from .base import opt, lr\nlr = 5\n").opt).lr == 5


def test_a_ref_stays_with_the_config_in_which_it_was_written(project, tmp_path):
    project.write(one="lr = 1\nopt = L(Opt)(lr=ref('lr'))\n", two="lr = 2\nopt = L(Opt)(lr=ref('lr'))\n")
    a, b = (LazyConfig.load(project.folder / f"{name}.py") for name in ("one", "two"))
    b.opt = a.opt
    assert instantiate(b.opt).lr == instantiate(a.opt).lr == 1
    with pytest.raises(SaveError, match=r"opt\.lr: .*one\.py:4, belongs to another config"):
        LazyConfig.save(b, tmp_path / "b.py")
    b = LazyConfig.load(project.folder / "two.py")
    b.opt = clone(a.opt)
    assert instantiate(b.opt).lr == 1


def test_a_ref_that_counts_items_stops_the_deletion_of_an_earlier_one(project):
    text = "items = [L(Net)(width=i) for i in range(3)]\nrun = L(Run)(w=ref('items[1].width'), items=items)\n"
    for override in ("~items[0]", "~run.items[1]"):
        with pytest.raises(OverrideError, match=r"counts the items"):
            project.load(text, override)
    assert instantiate(project.load(text, "~items[2]").run).parts["w"] == 1


# ------------------------------------------------------------------------------------------------------- mix-ins
BASE = "opt = L(Opt)(lr=0.1)\nhooks = {}\nrunner = L(Run)(opt=opt, hooks=hooks)\n"


def test_a_sibling_that_merely_imports_a_star_is_no_reason(project):
    project.write(
        base=BASE, ema="from .base import *\nhooks['ema'] = L(Net)()\n", fast="from .base import *\nopt.lr = 3\n"
    )
    cfg = project.load("from .ema import *\nfrom .fast import *\n")
    assert (cfg.runner.opt.lr, "ema" in cfg.runner.hooks) == (3, True)


def test_mixins_are_applied_in_order_and_blamed(project):
    project.write(
        main=BASE,
        ema="from .main import *\nrunner.hooks['ema'] = L(Net)(width=runner.opt.lr)\nseed = 3\n",
        fast="from .main import runner, opt\nopt.lr = 5\nrunner.hooks['x'] = 1\n",
        swap="from .main import opt\nopt = L(Opt)()\n",
        last="from .main import opt\nopt = replace(opt, L(Opt)(lr=9))\nseed = 4\n",
    )
    (project.folder / "both.py").write_text("from .ema import runner\nfrom .fast import runner\n")
    with pytest.raises(SharingError, match=r"--config base\.py --with"):
        LazyConfig.load(project.folder / "both.py")
    files = [project.folder / f"{name}.py" for name in ("main", "ema", "fast", "last")]
    with pytest.warns(
        ConfigWarning, match=r"(fast|last)\.py.* changes 'opt' of main\.py.*hooks\.ema\.width \(ema\.py:4\)"
    ):
        cfg = LazyConfig.load(*files)
    assert (cfg.runner.opt.lr, list(cfg.runner.hooks), cfg.seed) == (9, ["ema", "x"], 4)
    assert cfg.runner.hooks["ema"].width == 0.1
    assert [source.rpartition("/")[2] for source in sources_of(cfg, "seed")] == ["ema.py:5", "last.py:5"]
    assert sorted(map(os.path.basename, cfg.__record__.modules)) == ["ema.py", "fast.py", "last.py", "main.py"]
    with pytest.raises(SharingError, match=r"swap\.py:4: 'opt' is bound anew, but runner\.opt"):
        LazyConfig.load(files[0], project.folder / "swap.py")


def test_the_option_of_the_command_line(project, capsys):
    project.write(main=BASE, fast="from .main import opt\nopt.lr = 5\n")
    parser = train.main.build_parser()
    args = parser.parse_intermixed_args(["main.py", "--with", "fast.py", "opt.warm=2", "opt.net=null"])
    cfg = train.load_experiment(args)
    assert (cfg.opt.lr, cfg.opt.warm) == (5, 2)


# -------------------------------------------------------------------------------------------- habits of other systems
def test_habits_of_other_systems(tmp_path):
    node = LazyCall(Hook)(interval=2)
    assert "interval" in node
    assert "momentum" not in node
    node._target_ = Run
    assert target_of(node) is node._target_ is Run
    node = LazyCall(Hook)(interval=REQUIRED)
    LazyConfig.save(node, tmp_path / "node.py")
    assert LazyConfig.load(tmp_path / "node.py").node == node


def test_one_class_has_one_name_in_a_src_layout(project, tmp_path, monkeypatch):
    source = tmp_path / "src" / "spaced"
    source.mkdir(parents=True)
    (source / "net.py").write_text("class Net: ...\n")
    (source / "config.py").write_text(
        "from lazyengine.config import LazyCall as L\nfrom .net import Net\nnet = L(Net)()\n"
    )
    monkeypatch.syspath_prepend(tmp_path / "src")
    cfg = LazyConfig.load(source / "config.py")
    assert target_of(cfg.net).__module__ == "spaced.net"
    from spaced.net import Net  # type: ignore[import-not-found]

    assert target_of(cfg.net) is Net


def test_one_class_has_one_name_in_a_submodule(tmp_path, monkeypatch, project):
    sub = tmp_path / "third" / "sub"
    sub.mkdir(parents=True)
    (sub / ".git").write_text("gitdir: elsewhere\n")
    (sub / "subnet.py").write_text("class Net: ...\n")
    (sub / "config.py").write_text(
        "from lazyengine.config import LazyCall as L\nfrom .subnet import Net\nnet = L(Net)()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    cfg = LazyConfig.load(sub / "config.py")
    assert target_of(cfg.net).__module__ == "third.sub.subnet"
    assert target_of(cfg.net) is sys.modules["third.sub.subnet"].Net


# -------------------------------------------------------------------------------------------- kwargs that are passed on
class Average:
    def __init__(self, model, momentum=0.1, *, buffers=False):
        pass


class Other:
    def __init__(self, model, decay=0.1):
        pass


class Keeps:
    def __init__(self, kind: Any = Average, begin=0, **kwargs: Any):
        self.kind = kind
        self.options = kwargs

    def start(self, model):
        return self.kind(model, **self.options)


class Direct:
    def __init__(self, begin=0, **kwargs: Any):
        self.average = Average(None, **kwargs)


class Copied:
    def __init__(self, begin=0, **kwargs: Any):
        options = dict(kwargs)
        self.average = Average(None, **options)


class Merged:
    def __init__(self, begin=0, **kwargs: Any):
        self.average = Average(None, **{"momentum": 0.5, **kwargs})


class Later:
    def __init__(self, begin=0, **kwargs: Any):
        self.make = functools.partial(Average, None, **kwargs)


class Child(Average):
    def __init__(self, begin=0, **kwargs: Any):
        super().__init__(None, **kwargs)


@pytest.mark.parametrize("target", [Keeps, Direct, Copied, Merged, Later, Child])
def test_kwargs_are_followed_to_what_takes_them(target):
    LazyCall(target)(momentum=3, buffers=True)  # no warning, though `begin` is near `buffers`
    with pytest.warns(ConfigWarning, match=r"passes 'momentun' on to Average, which has no .*Did you mean 'momentum'"):
        node = LazyCall(target)(momentun=3)
    assert "momentun" in check_config(Config({"x": node}))[0]
    if target is Keeps:
        assert check_config(Config({"x": LazyCall(target)(kind=Other, decay=3)})) == []
        assert "Other" in check_config(Config({"x": LazyCall(target)(kind=Other, momentum=3)}))[0]


def test_a_dry_run_checks_what_training_will_save(project):
    project.load("import threading\nlock = threading.Lock()\nrunner = L(Run)(lock=lock)\n")
    args = train.main.build_parser().parse_intermixed_args(["main.py", "--dry-run"])
    with pytest.raises(ConfigError, match=r"lock: .*cannot be saved"):
        train.load_experiment(args)


@pytest.mark.parametrize(
    ("line", "note"),
    [
        ("x = Net(*net)", r"L\(.*\)\(\.\.\.\)"),
        ("x = sum(net, net)", r"is no object"),
        ("x = nett", "Did you mean 'net'?"),
        ("net.width = REQUIRED\nx = net.width + 1", "ref(path, function)"),
    ],
)
def test_what_pythons_own_message_leaves_out(project, line, note):
    with pytest.raises((TypeError, NameError)) as caught:
        project.load(f"net = L(Net)()\n{line}\n")
    assert any(part in "\n".join(caught.value.__notes__) for part in (note, "A node describes what is built later"))


def test_a_text_that_is_written_as_a_formatted_literal_is_none(project):
    with pytest.raises(OverrideError, match="is not a string literal"):
        project.load("net = L(Net)()\n", "net.name=f'{x}'")
    assert project.load("net = L(Net)()\n", "net.name=it's").net.name == "it's"


def test_a_near_miss_of_what_the_keywords_are_passed_to_is_a_warning(project):
    (project.folder / "passing.py").write_text(
        "class Open:\n    def __init__(self, momentum=0.1, **more): ...\n"
        "class Passing:\n    def __init__(self, kind=Open, **kwargs): kind(**kwargs)\n"
    )
    with pytest.warns(ConfigWarning, match="Did you mean 'momentum'"):
        project.load("from .passing import Passing\nx = L(Passing)(momentun=1)\ny = L(Passing)(other=1)\n")


def test_names_near_a_dot_too_many_and_a_dot_too_few(project):
    project.write(ground="net = L(Net)()\n")
    (project.folder.parent / "ground.yaml").touch()  # no module
    with pytest.raises(ConfigError, match=r"main\.py:3: no module 'ground'.*Write from \.ground"):
        project.load("from ..ground import *\n")
    with pytest.raises(ModuleNotFoundError) as caught:
        project.load("from ground import *\n")
    assert "from .ground" in "\n".join(caught.value.__notes__)


@pytest.mark.parametrize(("name", "line"), [("near9", ".parts"), ("near8", "..parts"), ("near7", "...parts")])
def test_code_that_looks_above_its_package_is_told_where_imports_begin(name, line, project):
    """The imports of a config are looked up by its folder, those of code by the name that Python gives it."""
    (project.folder.parent / f"{name}.py").write_text(f"from {line} import Net\nclass Near(Net): ...\n")
    with pytest.raises(ImportError, match="attempted relative import") as caught:
        project.load(f"from ..{name} import Near\n")
    said = "\n".join(caught.value.__notes__)
    assert f"{name}.py is no config" in said
    assert str(project.folder.parent) in said
    # Of another size: of the same, written within a second, Python would take the compiled file of before.
    (project.folder.parent / f"{name}.py").write_text("from a.parts import Net  # moved\nclass Near(Net): ...\n")
    assert project.load(f"from ..{name} import Near\nx = L(Near)(width=2)\n").x.width == 2


@pytest.mark.parametrize(
    ("override", "match"),
    [
        ("run.kind=int", r"accepts type or null, as pkg\.mod:Name"),
        ("run.fn=max", r"as pkg\.mod:Name"),
        ("run.hook=Hook", r"accepts Hook or null, as pkg\.mod:Name"),
        ("-run.hook=null", r"write run\.hook=null"),
        ("++run.hook=null", r"write run\.hook=null"),
        ("hook=3", r"Override runner\.run\.hook instead"),
    ],
)
def test_the_hint_says_how_it_is_written(override, match):
    run = LazyCall(Run)()
    with pytest.raises(OverrideError, match=match):
        LazyConfig.apply_overrides(Config({"run": run, "runner": LazyCall(dict)(run=run)}), [override])
