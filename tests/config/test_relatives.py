"""Relatives of the values and mistakes of the other files: other syntax, containers and ways to the same slip."""

import functools
import importlib
import os
import random
import warnings
from collections.abc import Callable
from typing import Any, Protocol, TypedDict

import pytest

from lazyengine.config import (
    Config,
    ConfigError,
    ConfigFileError,
    ConfigWarning,
    LazyCall,
    LazyConfig,
    OverrideError,
    RefError,
    SharingError,
    arguments_of,
    check_config,
    instantiate,
    ref,
    sources_of,
    target_of,
)

BASE = "lr = 0.1\nopt = L(Opt)(lr=lr)\nrunner = L(Run)(opt=opt)\n"  # lines 3 to 5


@pytest.fixture
def strict():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


# ------------------------------------------------------------------------------------- other ways to bind and to read
@pytest.mark.parametrize(
    "change",
    [
        "match 0.5:\n    case lr: ...",
        "def lr(): ...",
        "class lr: ...",
        "x = [(lr := i) for i in (1, 2)]",
        "try:\n    lr = 3\nexcept ValueError: ...",
        "del lr\nlr = 3",
    ],
)
def test_all_that_binds_a_name_has_its_line(project, change):
    with pytest.raises(SharingError, match=r"main\.py:[45]: 'lr' is bound anew.*opt\.lr \(base\.py:4\)"):
        project.load(f"from .base import *\n{change}\n", base=BASE)


@pytest.mark.parametrize("read", ["**d", "**{**d, 'warm': 2}", "**(d | {'warm': 2})"])
def test_what_is_spread_over_the_arguments_of_a_node(project, read):
    base = f"d = {{'lr': 7}}\nopt = L(Opt)({read})\nrunner = L(Run)(opt=opt)\n"
    with pytest.raises(OverrideError, match=r"Python has read d already.*opt\.lr"):
        project.load(base, "d.lr=3")
    with pytest.raises(SharingError, match=r"'d' is bound anew.*opt\.lr"):
        project.load("from .base import *\nd = {'lr': 5}\n", base=base)


def test_what_is_unpacked_is_no_alias(project):
    with pytest.raises(OverrideError, match="Python has read d already"):
        project.load("d = [1, 2]\na, b = d\nopt = L(Opt)(lr=a)\n", "d=[3, 4]")


@pytest.mark.parametrize("check", ["assert lr > 0", "print(lr, end='')"])
def test_a_check_makes_nothing_of_a_value(project, check, strict):
    base = f"lr = 0.1\n{check}\nopt = L(Opt)(lr=ref('lr'))\n"
    assert instantiate(project.load("from .base import *\nlr = 3\n", base=base).opt).lr == 3


def test_a_value_that_a_ref_follows_may_be_bound_anew(project):
    base = "lr = 0.1\nopt = L(Opt)(lr=ref('lr'), warm=lr / 10)\n"
    with pytest.warns(ConfigWarning, match=r"main\.py:4: 'lr' .*opt\.warm \(base\.py:4\) still follow"):
        cfg = project.load("from .base import *\nlr = 3\n", base=base)
    assert instantiate(cfg.opt).lr == 3
    with pytest.warns(ConfigWarning, match=r"opt\.warm \(main\.py:4\) still follow"):
        project.load(base, "lr=3")


def test_a_mixin_that_does_not_import_what_it_binds(project):
    project.write(main=BASE, mixin="lr = 3\n", free="new = 1\n")
    with pytest.raises(SharingError, match=r"mixin\.py:3: 'lr' is bound anew.*opt\.lr \(main\.py:4\)"):
        LazyConfig.load(project.folder / "main.py", project.folder / "mixin.py")
    assert LazyConfig.load(project.folder / "main.py", project.folder / "free.py").new == 1


# ---------------------------------------------------------------------------------- what was made of a node's argument
READS = {
    "argument": ("opt = L(Opt)(lr=1)\nrunner = L(Run)(opt=opt, warm=opt.lr * 2)\n", "opt.lr", r"runner\.warm"),
    "text": ("opt = L(Opt)(lr=1)\nname = f'{opt.lr}'\nrunner = L(Run)(opt=opt, name=name)\n", "opt.lr", r"\.py:4"),
    "inner": (
        "opt = L(Opt)(net=L(Net)(width=3))\nrunner = L(Run)(opt=opt, w=opt.net.width)\n",
        "opt.net.width",
        "runner.w",
    ),
    "item": (
        "hooks = {'a': L(Net)(width=1)}\nrunner = L(Run)(hooks=hooks, w=hooks['a'].width)\n",
        "hooks.a.width",
        "runner.w",
    ),
    "in a list": ("opt = L(Opt)(lr=[1, 2])\nrunner = L(Run)(opt=opt, w=opt.lr[1])\n", "opt.lr[1]", "runner.w"),
}


@pytest.mark.parametrize("read", READS)
def test_an_argument_that_python_has_read(project, read):
    text, path, match = READS[read]
    cfg = project.load(text)
    with pytest.warns(ConfigWarning, match=rf"{path.split('[')[0]}.*{match}.*still follow"):
        LazyConfig.apply_overrides(cfg, [f"{path}=5"])
    item = path.replace(".a.", "['a'].")
    with pytest.warns(ConfigWarning, match=rf"main\.py.* changes .* of base\.py.*{match}.*still follow"):
        project.load(f"from .base import *\n{item} = 5\n", base=text)


@pytest.mark.parametrize(
    "text",
    [
        "opt.lr = opt.lr * 2\n",
        "opt.lr *= 2\n",
        "assert opt.lr < 3\n",
        "other = L(Opt)(warm=opt.warm)\n",
        "def halve(opt):\n    opt.lr = opt.lr / 2\nhalve(opt)\n",
    ],
)
def test_reads_that_an_override_does_not_leave_behind(project, text, strict):
    project.load(f"opt = L(Opt)(lr=1, warm=0)\n{text}runner = L(Run)(opt=opt)\n", "opt.lr=5")


def test_what_is_set_too_is_not_left_behind(project, strict):
    text = READS["argument"][0]
    project.load(text, "opt.lr=5", "runner.warm=3")
    project.load("from .base import *\nopt.lr = 5\nrunner.warm = 10\n", base=text)


def test_nodes_that_code_imports_are_others(project):
    (project.folder / "code.py").write_text("from .base import opt\ndef get():\n    return opt\n")
    with pytest.warns(ConfigWarning, match=r"code\.py is code, .* its 'opt' is another node than that of base\.py"):
        project.load("from .base import *\nfrom .code import get\nrunner.x = get()\n", base=BASE)


@pytest.mark.parametrize(
    "value",
    [
        "functools.partial(Net, inner=L(Net)())",
        "dataclasses.make_dataclass('P', ['x'])(L(Net)())",
        "types.SimpleNamespace(x=[ref('y')])",
        "collections.deque([L(Net)()])",
        "{'a': L(Net)()}.values()",
        "types.MappingProxyType({'a': REQUIRED})",
        "functools.partial(L(Net), width=3)",
    ],
)
def test_nodes_in_objects_that_are_not_built(project, value):
    head = "import collections, dataclasses, functools, types\ny = 1\n"
    with pytest.warns(ConfigWarning, match=r"runner\.p: \w+ is no node, so what it holds is passed on as it is"):
        project.load(f"{head}runner = L(Run)(p={value})\n")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        project.load(f"{head}p = {value}\nrunner = L(Run)(p=functools.partial(Net, width=3))\n")


# --------------------------------------------------------------------------------------------------------------- refs
@pytest.mark.parametrize(
    ("line", "match"),
    [
        ("name = f'{ref(\"y\")}'", r"main\.py:4: ref\('y'\) cannot be part of a text.*ref\(path, function\)"),
        ("if ref('y'): ...", r"main\.py:4: ref\('y'\) has no truth value"),
        ("z = ref('y', 'y', lambda x: x)", r"main\.py:4: the function of a ref does not take one value a path"),
        ("z = ref('net.width')", r"Net does not set it \(its default is 1\): set it"),
        ("z = L(Net)\nw = z.width", r"main\.py:4: .*second call is missing"),
    ],
)
def test_mistakes_with_refs_and_makers(project, line, match):
    with pytest.raises(ConfigError, match=match):
        project.load(f"net = L(Net)()\n{line}\ny = 1\n")


@pytest.mark.parametrize(
    ("line", "note"),
    [
        ("x = ref('y') + 1", r"ref\(path, function\)"),
        ("x = L(Net, width=3)", r"two calls.*L\(Cls\)\(argument=value\)"),
        ("x = {L(Net)(): 1}", "item of a list"),
    ],
)
def test_notes_on_pythons_errors(project, line, note):
    with pytest.raises(TypeError) as caught:
        project.load(f"y = 1\n{line}\n")
    assert any(__import__("re").search(note, each) for each in caught.value.__notes__)


@pytest.mark.parametrize("files", [{}, {"base": True}])
def test_refs_to_private_names(project, tmp_path, files):
    text = "_lr = 5\nopt = L(Opt)(lr=ref('_lr'))\n"
    cfg = project.load("from .base import *\n", base=text) if files else project.load(text)
    LazyConfig.save(cfg, tmp_path / "saved.py")
    for each in (cfg, LazyConfig.load(tmp_path / "saved.py")):
        assert instantiate(each.opt).lr == 5


def test_refs_to_fields_and_modules(project):
    cfg = project.load(
        "from collections import namedtuple\nP = namedtuple('P', 'x y')\np = P(1, 2)\nopt = L(Opt)(lr=ref('p.y'))\n"
    )
    assert instantiate(cfg.opt).lr == 2
    with pytest.raises(RefError, match="no 'math'"):
        project.load("import math\nopt = L(Opt)(lr=ref('math.pi'))\n")


def test_a_ref_may_choose_a_node(project):
    cfg = project.load(
        "kind = 'net'\npart = ref('kind', lambda k: L(Net)(width=3) if k == 'net' else L(Opt)())\n"
        "runner = L(Run)(p=part)\n"
    )
    assert instantiate(cfg.runner).parts["p"].width == 3
    LazyConfig.apply_overrides(cfg, ["kind=opt"])
    assert type(instantiate(cfg.runner).parts["p"]).__name__ == "Opt"


def test_the_path_of_what_is_required(project):
    cfg = project.load("first = L(Net)(width=REQUIRED)\nrunner = L(Run)(p=[1, {'a': REQUIRED}])\n")
    with pytest.raises(ConfigError, match=r"^runner\.p\[1\]\.a: REQUIRED"):
        instantiate(cfg.runner)


@pytest.mark.parametrize("text", ["import os\nhome = os.path.expandvars('${HOME}')\n", "def f():\n    '''${a}'''\n"])
def test_an_interpolation_that_reaches_no_value(project, text):
    project.load(text)


def test_an_interpolation_that_no_ref_can_say(project):
    with pytest.raises(ConfigFileError, match=r"main\.py:3: .*os\.environ"):
        project.load("home = '${oc.env:HOME}'\n")


# ------------------------------------------------------------------------------------------------------- command line
class Keys(TypedDict, total=False):
    a: int
    b: list[str]


class Acts(Protocol):
    def act(self) -> None: ...


class Part:
    def __init__(self, x: Any = 0):
        pass

    def act(self) -> None: ...


class Other: ...


class Typed:
    def __init__(
        self,
        keys: Keys = {},  # noqa: B006
        acts: Acts | None = None,
        cls: type[Part] = Part,
        part: Part | None = None,
        many: list[Part] | None = None,
        named: dict[str, Part] | None = None,
        plain=int,
        call=len,
        raw=b"a",
        sizes=(1, 2),
        dotted=None,
    ):
        pass


NAME = __name__


def typed(*overrides):
    cfg = Config({"t": LazyCall(Typed)(), "parts": [LazyCall(Part)()], "cls": Part})
    return LazyConfig.apply_overrides(cfg, list(overrides))


@pytest.mark.parametrize(
    ("override", "match"),
    [
        ("t.keys={a: b}", r"t\.keys\['a'\] accepts int"),
        ("t.keys={c: 1}", r"accepts Keys \(a dict of a, b\)"),
        (f"t.cls={NAME}:Other", r"accepts type\[Part\]"),
        (f"t.part={NAME}:Other", r"accepts Part or null"),
        (f"t.many=[{NAME}.Other]", r"accepts list\[Part\] or null"),
        ("t.plain=float", r"accepts type or null, as pkg\.mod:Name"),
        ("t.call=sum", r"accepts a callable or null, as pkg\.mod:Name"),
        ("cls=Other", r"accepts type or null, as pkg\.mod:Name"),
        ("t.raw=c", r"accepts bytes"),
        ("t.sizes=[1, 3O]", r"t\.sizes\[1\] accepts int or float or null, got '3O'"),
        ("+parts[1]=Part", r"parts\[1\] accepts a node, as the others are \(write pkg\.mod:Cls\)"),
        ("+t.many[0]=x", r"t\.many is not set .* Write t\.many=\.\.\. first"),
        ("t.sizes[5]=1", r"t\.sizes is not set"),
        ("t.raw:1", r"write t\.raw=\.\.\."),
        ("t.dotted='it''s'", r"""write "'it''s'\""""),
        (r't.dotted="\d"', r'write r"\\d"'),
        ("t.dotted=f'{x}'", "is not a string literal"),
        ("t.dotted='a\nb'", r"write r'''a\nb'''"),
    ],
)
def test_overrides_that_are_refused(override, match):
    with pytest.raises(OverrideError, match=match):
        typed(override)


def test_overrides_that_name_classes_and_nodes():
    cfg = typed(
        f"t.acts={NAME}:Part",
        f"t.cls={NAME}.Part",
        f"t.many=[{NAME}.Part, {NAME}:Part]",
        f"t.named={{a: {NAME}:Part}}",
        "t.plain=builtins.float",
        "t.call=math.sqrt",
        "t.keys={a: 1, b: [x]}",
        f"+parts[1]={NAME}.Part",
        "parts[1].x=3",
    )
    t = cfg.t
    assert [target_of(node) for node in (t.acts, *t.many, t.named["a"], cfg.parts[1])] == [Part] * 5
    assert (t.cls, t.plain, t.call(4), t.keys) == (Part, float, 2, {"a": 1, "b": ["x"]})
    assert sources_of(cfg.parts[1], "_target_") == [f"cli:#8 +parts[1]={NAME}.Part"]
    assert check_config(cfg) == []
    assert typed("t.call=null").t.call is None


def test_a_key_with_dots_is_shown():
    with pytest.raises(OverrideError, match=r"A key with dots is written keys\['b\.c'\]"):
        LazyConfig.apply_overrides(Config({"keys": {"b.c": 1}}), ["keys.b.c=2"])


def test_an_override_that_a_later_one_takes_back(project):
    with pytest.warns(ConfigWarning, match=r"nothing that runner builds uses opt\.lr"):
        project.load("opt = L(Opt)(lr=1)\nrunner = L(Run)(opt=opt)\n", "opt.lr=3", "~runner.opt")


# -------------------------------------------------------------------------------------------- kwargs that are taken out
class Takes:
    def __init__(self, **options):
        self.extra = options.pop("extra", 1)
        self.part = Part(**options)


def test_kwargs_that_are_taken_out_on_the_way(strict):
    assert check_config(Config({"a": LazyCall(Takes)(extra=3, x=1)})) == []
    assert "Part, to which it passes 'extr'" in check_config(Config({"a": LazyCall(Takes)(extr=3)}))[0]


# -------------------------------------------------------------------------------------------------------------- saving
def test_one_object_in_two_nodes_is_one_object_after_saving(tmp_path):
    rng = random.Random(3)
    cfg = Config({"a": LazyCall(Part)(x=rng), "b": [LazyCall(Part)(x=rng), LazyCall(Part)(x=len)]})
    with pytest.warns(ConfigWarning, match=r"pickled, .*: a\.x\."):
        LazyConfig.save(cfg, tmp_path / "saved.py")
    again = LazyConfig.load(tmp_path / "saved.py")
    assert again.a.x is again.b[0].x


def test_objects_that_nothing_uses_are_left_out_of_what_is_saved(tmp_path, strict):
    file = open(__file__)  # noqa: SIM115
    with file:
        cfg = Config(
            {"environment": os.environ, "file": file, "files": [file], "a": LazyCall(Part)(x=functools.partial(len))}
        )
        LazyConfig.save(cfg, tmp_path / "saved.py")
    assert list(arguments_of(LazyConfig.load(tmp_path / "saved.py"))) == ["a"]


def test_a_config_is_read_by_its_keys_too():
    cfg = Config({"a": LazyCall(Part)(x=1)})
    cfg["a"]["x"] = 3
    assert cfg["a"].x == 3
    with pytest.raises(ConfigError, match="Did you mean 'a'"):
        cfg["aa"]


def test_the_function_of_a_ref_may_be_a_builtin():
    value: Callable[..., Any] = max
    assert ref("a", "b", value).paths == ("a", "b")


def test_a_package_in_a_plain_folder_has_the_name_that_the_config_gives_it(project):
    (project.folder / "pk").mkdir()
    (project.folder / "pk" / "__init__.py").write_text("from ..parts import Net\nclass Block(Net): ...\n")
    cfg = project.load("from .pk import Block\nnet = L(Block)(width=3)\n")
    assert target_of(cfg.net).__module__ == "a.pk"
    assert target_of(cfg.net) is importlib.import_module("a.pk").Block


def test_a_package_that_hands_names_on(project):
    project.write(pk__one="w = 3\nnet = L(dict)(width=w)\n")
    one = project.folder / "pk" / "one.py"
    one.write_text(one.read_text().replace("from .parts", "from ..parts"))
    (project.folder / "pk" / "__init__.py").write_text("from .one import *\n")
    with pytest.raises(SharingError, match=r"main\.py:4: 'w' is bound anew.*net\.width \(pk/one\.py:4\)"):
        project.load("from .pk import *\nw = 7\n")


# ------------------------------------------------------------------------------------------------------------ notebooks
@pytest.mark.parametrize(
    ("change", "match"),
    [
        ("cfg.opt = LazyCall(dict)()", r"runner\.opt still follow.*replace\(cfg\.opt"),
        ("cfg.lr = 3", r"opt\.lr \(main\.py:5\) still follow"),
        ("cfg.items = [3]", r"runner\.items still follow"),
    ],
)
def test_a_name_that_is_set_after_loading(project, change, match):
    cfg = project.load("lr = 0.1\nitems = [1]\nopt = L(Opt)(lr=lr)\nrunner = L(Run)(opt=opt, items=items)\n")
    with pytest.warns(ConfigWarning, match=match):
        exec(change, {"cfg": cfg, "LazyCall": LazyCall})


def test_a_name_that_is_set_after_loading_and_followed(project, strict):
    cfg = project.load("free = 2\nopt = L(Opt)(lr=ref('free'))\nrunner = L(Run)(opt=ref('opt'))\n")
    cfg.free = 3
    cfg.opt = LazyCall(dict)(lr=ref("free"))
    assert instantiate(cfg.runner).parts["opt"] == {"lr": 3}


@pytest.mark.parametrize(
    ("config", "overrides"),
    [("cfg", {"a": 1}), ("cfg", [("a", 1)]), ("cfg.a", ["x=1"]), ("{'a': 1}", ["a=2"]), ("None", ["a=1"])],
)
def test_overrides_of_something_else(config, overrides):
    cfg = Config({"a": LazyCall(Part)(x=1)})
    with pytest.raises(OverrideError, match=r"a list of texts such as 'optimizer\.lr=1' for a whole config"):
        LazyConfig.apply_overrides(eval(config, {"cfg": cfg}), overrides)


def test_saving_into_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match=r"there is no such folder\. Make it before"):
        LazyConfig.save(Config({"a": 1}), tmp_path / "gone" / "saved.py")


# -------------------------------------------------------------------------------------- what refs lead to, or no more
@pytest.mark.parametrize(
    "override", ["d={a: 1}", "~d.in", "d=null", "opt._target_=a.parts.Net", "net=a.parts:Opt", "~net"]
)
def test_an_override_that_leaves_a_ref_without_its_value(project, override):
    text = "d = {'in': {'z': 1}}\nnet = L(Net)(width=4)\nopt = L(Opt)(lr=ref('d.in.z'), warm=ref('net.width'))\n"
    text += "runner = L(Run)(opt=opt, lr=ref('opt.lr'))\n"
    with pytest.raises(OverrideError, match=r"#1 .*main\.py:[56]: ref\(.*there is no|does not accept") as caught:
        project.load(text, override)
    assert "Nothing was changed" in str(caught.value)
    with pytest.raises(OverrideError, match=r"#2 .* there is no|#2 .*does not accept"):  # and not a later one
        project.load(text, "net.rate=0.1", override, "+runner.more=[1]", "runner.more[0]=2")
    cfg = project.load(text, "d={in: {z: 5}}", "net.width=6")
    assert instantiate(cfg.runner).parts["lr"] == 5


def test_a_replacement_that_another_override_completes(project):
    text = "net = L(Net)(width=4)\nrunner = L(Run)(net=net, width=ref('net.width'))\n"
    cfg = project.load(text, "net=a.parts:Net", "+net.width=7")
    assert instantiate(cfg.runner).parts["width"] == 7


@pytest.mark.parametrize("value", ["ref('n')", "ref('n', lambda n: 2 * n)", "ref('alias')"])
def test_a_ref_to_what_the_command_line_must_set(project, value):
    text = f"n = REQUIRED\nalias = ref('n')\nrunner = L(Run)(n={value})\n"
    assert instantiate(project.load(text, "n=3").runner).parts["n"] in (3, 6)
    cfg = project.load(text)
    assert "is REQUIRED and was not set" in "\n".join(check_config(cfg))
    with pytest.raises(RefError, match="is REQUIRED and was not set"):
        instantiate(cfg.runner)
