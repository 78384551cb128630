"""A value that a config or a command line sets reaches the experiment, or the load says that it does not."""

import warnings

import numpy  # noqa: F401 - here, since the fixture forgets what a config imports
import pytest
import torch  # noqa: F401

from lazyengine.config import ConfigWarning, LazyConfig, OverrideError, RefError, SharingError, instantiate

BASE = "lr = 0.1\nepochs = 3\nopt = L(Opt)(lr=lr)\nrunner = L(Run)(opt=opt, epochs=epochs)\n"  # lines 3 to 6


# ------------------------------------------------------------------------------- a child that rebinds a plain value
@pytest.mark.parametrize(
    "change",
    ["lr = 0.05", "lr = lr / 2", "lr: float = 0.05", "lr = 0.1\nlr *= 3", "for lr in (1, 2): ...", "(lr := 0.7)"],
)
@pytest.mark.parametrize("imports", ["*", "lr, opt, runner", "runner, lr"])
def test_a_rebound_value_that_the_base_has_read_is_an_error(project, change, imports):
    with pytest.raises(SharingError, match=r"main\.py:\d+: 'lr' .*base\.py:5.*opt\.lr"):
        project.load(f"from .base import {imports}\n{change}\n", base=BASE)


def test_a_rebound_value_under_another_name_or_over_two_files_is_an_error(project):
    project.write(base=BASE, middle="from .base import *\n", values="lr = 0.1\n")
    with pytest.raises(SharingError, match=r"main\.py:4: 'rate'"):
        project.load("from .base import runner, lr as rate\nrate = 3\n")
    with pytest.raises(SharingError, match=r"main\.py:4: 'lr' .*base\.py:5"):
        project.load("from .middle import *\nlr = 3\n")
    project.write(base="from .values import lr\nopt = L(Opt)(lr=lr)\n")
    with pytest.raises(SharingError, match=r"main\.py:4: 'lr' .*base\.py:4"):
        project.load("from .base import *\nlr = 3\n")


@pytest.mark.parametrize(
    "child",
    [
        "lr = 0.05\nopt.lr = lr",
        "opt.lr = 0.05\nlr = 0.05",
        "lr = 0.05\nrunner.opt = replace(opt, L(Opt)(lr=lr))",
        "lr = 0.1",  # the same value
        "epochs = 5\nrunner.epochs = epochs",
    ],
)
def test_a_rebound_value_that_the_child_passes_on_is_good_style(project, child):
    project.load(f"from .base import *\n{child}\n", base=BASE)


def test_a_value_that_no_python_has_read_may_be_rebound(project):
    base = "lr = 0.1\nseed = 0\nopt = L(Opt)(lr=ref('lr'))\nrunner = L(Run)(opt=opt)\n"
    cfg = project.load("from .base import *\nlr = 0.05\nseed = 1\n", base=base)
    assert instantiate(cfg.runner).parts["opt"].lr == 0.05


def test_what_still_follows_the_old_value_is_noted(project):
    base = BASE + "runner.half = L(Opt)(lr=lr / 2)\n"
    with pytest.warns(ConfigWarning, match=r"main\.py:4: 'lr' .*runner\.half\.lr \(base\.py:7\)"):
        project.load("from .base import *\nlr = 0.05\nopt.lr = lr\n", base=base)


# -------------------------------------------------------------------------- reads that an override would not reach
READS = {
    "function": "def make():\n    return L(Opt)(lr=lr)\nopt = make()",
    "default": "def make(lr=lr):\n    return L(Opt)(lr=lr)\nopt = make()",
    "lambda": "opt = (lambda: L(Opt)(lr=lr))()",
    "comprehension": "opt = [L(Opt)(lr=lr * i) for i in range(2)]",
    "nested": "opt = [[lr for _ in [1]] for _ in [1]]",
    "class": "class Values:\n    rate = lr\nopt = L(Opt)(lr=Values.rate)",
    "text": "opt = L(Opt)(lr=float(f'{lr}'))",
    "alias": "rate = lr\nopt = L(Opt)(lr=rate)",
    "condition": "opt = L(Opt)(lr=1 if lr else 2)",
    "global": "def make():\n    global lr\n    return L(Opt)(lr=lr)\nopt = make()",
    "match": "match lr:\n    case 0.1:\n        opt = L(Opt)(lr=1)",
}


@pytest.mark.parametrize("read", READS)
@pytest.mark.parametrize("place", ["here", "star", "name", "other name", "module", "module by another name"])
def test_one_rule_for_reads(project, read, place):
    text = f"{READS[read]}\nrunner = L(Run)(opt=opt)\n"
    lines = {"here": f"lr = 0.1\n{text}", "star": "from .base import *\n", "name": "from .base import lr, runner\n"}
    lines["other name"] = "from .base import runner, lr as rate\n"
    lines["module"] = "from . import base\nlr = base.lr\nrunner = base.runner\n"
    lines["module by another name"] = "import a.base as b\nlr, runner = b.lr, b.runner\n"
    project.write(base=f"lr = 0.1\n{text}")
    cfg = project.load(lines[place])
    name = "rate" if place == "other name" else "lr"
    with pytest.raises(OverrideError, match=r"Python has read .* already"):
        LazyConfig.apply_overrides(cfg, [f"{name}=3"])


def test_names_of_inner_scopes_are_others(project):
    cfg = project.load(
        "lr = 0.1\nopt = [L(Opt)(lr=lr) for lr in (1, 2)]\n"
        "def make(lr):\n    return L(Opt)(lr=lr)\nrunner = L(Run)(opt=[opt, make(3)], lr=ref('lr'))\n"
    )
    cfg = LazyConfig.apply_overrides(cfg, ["lr=5"])
    assert instantiate(cfg.runner).parts["lr"] == 5


def test_what_was_read_before_the_last_assignment_is_another_value(project):
    cfg = project.load("n = 5\nm = n * 2\nn = 6\n")
    LazyConfig.apply_overrides(cfg, ["n=7"])


@pytest.mark.parametrize(
    "imports", ["from .consts import LR", "import a.consts as c\nLR = c.LR", "from .consts import *"]
)
@pytest.mark.parametrize("read", ["L(Opt)(lr=LR)", "make()"])
def test_constants_of_real_modules(project, imports, read):
    consts = "LR = 0.1\ndef make():\n    return L(Opt)(lr=LR)\n"
    more = "" if "*" in imports else "\nfrom .consts import make"
    cfg = project.load(f"{imports}{more}\nopt = {read}\nrunner = L(Run)(opt=opt)\n", consts=consts)
    with pytest.raises(OverrideError, match="Python has read"):
        LazyConfig.apply_overrides(cfg, ["LR=0.2"])


@pytest.mark.parametrize(
    "read",
    ["d['lr']", "d.get('lr')", "[*d.values()][0]", "dict(d)['lr']", "sum(v for v in d.values())", "take(d)"],
)
def test_items_of_plain_containers(project, read):
    head = "d = {'lr': 0.1, 'x': 1}\ndef take(d):\n    return d['lr']\n"
    cfg = project.load(f"{head}opt = L(Opt)(lr={read})\nrunner = L(Run)(opt=opt)\n")
    for override in ("d.lr=0.2", "d={lr: 3}", "~d.lr"):
        with pytest.raises(OverrideError, match="Python has read"):
            LazyConfig.apply_overrides(cfg, [override])


def test_containers_that_nodes_hold_are_changed_there(project):
    cfg = project.load("d = {'lr': 0.1}\nd['x'] = 2\nd.update(y=3)\nrunner = L(Run)(d=d, e=[d])\n", "d.lr=0.2", "d.x=5")
    assert cfg.runner.e[0] is cfg.runner.d
    assert cfg.runner.d == {"lr": 0.2, "x": 5, "y": 3}


SPREADS = ["[*d.values()]", "[L(Opt)(), *d.values()]", "list(d.values())", "(*d.values(), *(L(Opt)(),))"]


@pytest.mark.parametrize("read", SPREADS)
def test_nodes_of_a_dict_that_become_items_of_a_list_are_changed_there(project, read):
    text = f"d = {{'a': L(Opt)(lr=1.0), 'b': L(Opt)()}}\nopts = {read}\nrunner = L(Run)(opts=opts, more={read})\n"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cfg = project.load(text, "d.a.lr=3.0", "+d.b.warm=2.0")
    for opts in instantiate(cfg.runner).parts.values():
        assert {(3.0, 0.0), (0.1, 2.0)} <= {(opt.lr, opt.warm) for opt in opts}
    with pytest.raises(OverrideError, match="Python has read d already"):
        LazyConfig.apply_overrides(cfg, ["+d.c=a.parts:Opt"])


@pytest.mark.parametrize("read", ["[*d.values()][0].lr", "[v.lr for v in d.values()]", "len([*d.values()])"])
def test_what_is_taken_out_of_the_nodes_of_a_dict_is_told(project, read):
    with pytest.warns(ConfigWarning, match=r"Python has read the old value already: runner\.x \(main\.py:4\)"):
        project.load(f"d = {{'a': L(Opt)(lr=1.0)}}\nrunner = L(Run)(x={read}, d=d)\n", "d.a.lr=3.0")


def test_a_path_that_a_ref_follows_may_be_changed(project):
    text = "d = {'lr': 0.1, 'x': 1}\nhalf = d['lr'] / 2\nrunner = L(Run)(lr=ref('d.lr'))\n"
    assert instantiate(project.load(text, "d.lr=0.2").runner).parts["lr"] == 0.2
    with pytest.raises(OverrideError, match="Python has read"):
        project.load(text, "d.x=0.2")


# --------------------------------------------------------------------------------- overrides of what nothing uses
@pytest.mark.parametrize(
    ("text", "override", "match"),
    [
        ("opt = L(Opt)(lr=1)\nrunner = L(Run)(opt=clone(opt))\n", "opt.lr=2", r"opt\.lr.*runner\.opt\.lr"),
        ("opt = L(Opt)(net=L(Net)())\nrunner = L(Run)(net=clone(opt.net))\n", "opt.net.width=2", r"runner\.net\.width"),
        ("runner = L(Run)()\n", "+max_iters=3", r"max_iters"),
        ("seed = 1\nrunner = L(Run)(seed=2)\n", "seed=3", r"runner\.seed"),
        ("hooks = [1]\nrunner = L(Run)(hooks=list(range(3)))\n", "+hooks[1]=3", r"hooks"),
        ("net = L(Net)()\nrunner = L(Run)(width=ref('net.width'))\nnet.width = 3\n", "net.rate=3", r"net\.rate"),
        ("opt = L(Opt)(lr=ref('lr'))\nlr = 1\nrunner = L(Run)()\n", "lr=3", r"lr"),
        ("opt = L(Opt)(lr=1)\nrunner = L(Run)()\n", "opt=null", r"opt"),
        ("opt = L(Opt)(lr=1)\nrunner = L(Run)()\n", "~opt.lr", r"opt\.lr"),
    ],
)
def test_an_override_that_nothing_uses_is_said(project, text, override, match):
    cfg = project.load(text)
    with pytest.warns(ConfigWarning, match=match):
        LazyConfig.apply_overrides(cfg, [override])


@pytest.mark.parametrize(
    ("text", "override"),
    [
        ("opt = L(Opt)(lr=1)\nrunner = L(Run)(opt=[opt])\n", "opt.lr=2"),
        ("opt = L(Opt)(lr=1)\nrunner = L(Run)(opt={1: opt})\n", "opt=null"),
        ("opt = L(Opt)(lr=1)\nrunner = L(Run)(lr=ref('opt.lr'))\n", "opt.lr=2"),
        ("opt = L(Opt)(lr=1)\nrunner = L(Run)(opt=ref('opt'))\n", "opt.lr=2"),
        ("d = {'a': {'b': 1}}\nrunner = L(Run)(lr=ref('d.a'))\n", "d.a.b=2"),
        ("x = 1\ny = ref('x')\nrunner = L(Run)(lr=ref('y'))\n", "x=2"),
        ("hooks = [1]\nrunner = L(Run)(hooks=hooks)\n", "+hooks[1]=3"),
        ("hooks = [1]\nrunner = L(Run)(hooks=hooks)\n", "~hooks[0]"),
        ("runner = L(Run)(x=1)\n", "+runner.y=3"),
        ("seed = 1\nopt = L(Opt)()\n", "seed=3"),  # no runner: what loads it decides what it uses
        ("seed = 1\nopt = L(Opt)()\n", "+more=3"),
    ],
)
def test_an_override_that_is_used_is_not_warned_about(project, text, override):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        project.load(text, override)


THROUGH = ["base.lr = 3", "setattr(base, 'lr', 3)", "vars(base)['lr'] = 3", "vars(base).update(lr=3)"]
THROUGH += [
    "base.__dict__['lr'] = 3",
    "exec('lr = 3', vars(base))",
    "exec('base.lr = 3')",
    "eval('vars(base)')['lr'] = 3",
]


@pytest.mark.parametrize("change", [*THROUGH, "base.opt = L(Opt)(lr=3)", "vars(base)['opt'] = L(Opt)(lr=3)"])
@pytest.mark.parametrize("after", ["from .base import *", "runner = base.runner"])
def test_a_name_of_a_base_that_is_bound_anew_through_its_module(project, change, after):
    project.write(base="lr = 1\nfree = 2\nopt = L(Opt)(lr=lr)\nrunner = L(Run)(opt=opt, free=ref('free'))\n")
    with pytest.raises(SharingError, match=r"main\.py:4: '(lr|opt)' is bound anew.*base\.py:[56]"):
        project.load(f"from . import base\n{change}\n{after}\n")
    with pytest.raises(SharingError, match=r"main\.py:4: '(lr|opt)' is bound anew.*base\.py:[56]"):
        project.load(f"import a.base as b\n{change.replace('base', 'b')}\n{after.replace('= base', '= b')}\n")
    cfg = project.load("from . import base\nvars(base)['free'] = 5\nbase.new = 1\nfrom .base import *\n")
    assert instantiate(cfg.runner).parts["free"] == 5


@pytest.mark.parametrize(
    "change", ["globals()['lr'] = 3", "vars().update(lr=3)", "exec('lr = 3')", "eval('globals()')['lr'] = 3"]
)
def test_an_imported_name_that_is_bound_anew_without_a_statement(project, change):
    project.write(base=BASE, middle="from .base import *\n", changed=f"from .base import *\n{change}\n")
    for main in ("from .base import *", "from .middle import *"):
        with pytest.raises(SharingError, match=r"main\.py:4: 'lr' .*opt\.lr \(base\.py:5\)"):
            project.load(f"{main}\n{change}\n")
    with pytest.raises(SharingError, match=r"changed\.py:4: 'lr'"):
        project.load("from .changed import *\n")


def test_a_mixin_that_changes_a_name_through_the_module_of_the_base(project):
    project.write(base=BASE, main="from .base import *\n", mixin="from . import base\nvars(base)['lr'] = 3\n")
    with pytest.raises(SharingError, match=r"mixin\.py:4: 'lr' .*opt\.lr"):
        LazyConfig.load(project.folder / "main.py", project.folder / "mixin.py")


def test_a_function_of_the_base_that_binds_its_names(project):
    base = BASE + "_count = 0\ndef count():\n    global _count\n    _count += 1\n    return _count\n"
    base += "def set_lr(value):\n    global lr\n    lr = value\ndef make():\n    return L(Opt)(lr=lr)\n"
    project.write(base=base)
    assert project.load("from .base import *\nrunner.a, runner.b = count(), count()\n").runner.b == 2
    with pytest.raises(SharingError, match=r"main\.py: 'lr' .*0\.1, already: opt\.lr \(base\.py:5\)"):
        project.load("from .base import *\nset_lr(3)\n")
    cfg = project.load("from . import base\nbase.lr = 3\nrunner = L(Run)(opt=base.make())\n")
    assert cfg.runner.opt.lr == 3  # made after the change


@pytest.mark.parametrize("change", ["base.lr = 3\nbase.opt.lr = base.lr", "vars(base)['lr'] = 3\nbase.opt.lr = 3"])
def test_a_name_bound_through_a_module_that_the_child_passes_on_is_good_style(project, change):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert project.load(f"from . import base\n{change}\nrunner = base.runner\n", base=BASE).runner.opt.lr == 3


@pytest.mark.parametrize("change", ["d['lr'] = 3", "d.update(lr=3)", "del d['lr']"])
def test_an_item_that_was_read_before_another_file_changed_it(project, change):
    project.write(base="d = {'lr': 1, 'more': 2}\nopt = L(Opt)(lr=d['lr'])\nrunner = L(Run)(opt=opt)\n")
    with pytest.warns(ConfigWarning, match=r"main\.py changes 'd' of base\.py.*opt\.lr \(base\.py:4\) still follow"):
        project.load(f"from .base import *\n{change}\n")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        project.load(f"from .base import *\n{change}\nopt.lr = 3\n")
        project.load("from .base import *\nd['more'] = 3\nd['new'] = 1\n")


# ------------------------------------------------------------------------- what is changed in place after it was read
@pytest.mark.parametrize("read", ["tuple(items)", "list(items)", "[*items]", "items + [9]", "sorted(items)"])
def test_a_list_that_was_copied_before_a_child_changes_it_is_noted(project, read):
    base = f"items = [1, 2]\nrunner = L(Run)(extra={read})\n"
    with pytest.warns(ConfigWarning, match=r"main\.py changes 'items' of base\.py.*runner\.extra \(base\.py:4\)"):
        project.load("from .base import *\nitems.append(3)\n", base=base)


def test_a_list_that_was_passed_on_as_it_is_may_be_changed(project):
    base = "items = [1, 2]\nrunner = L(Run)(extra=items, all=[items])\n"
    assert project.load("from .base import *\nitems.append(3)\n", base=base).runner.all == [[1, 2, 3]]


def test_an_override_of_a_list_that_is_held_and_was_computed_with_is_refused(project):
    with pytest.raises(OverrideError, match=r"runner\.total=\.\.\."):
        project.load("items = [1, 2]\nrunner = L(Run)(items=items, total=sum(items))\n", "items[0]=7")


@pytest.mark.parametrize("made", ["types.SimpleNamespace(width=3)", "Values()", "argparse.Namespace(width=3)"])
def test_an_object_that_was_read_before_a_child_changes_it_is_noted(project, made):
    base = f"import argparse, types\nclass Values:\n    width = 3\nvalues = {made}\nnet = L(Net)(width=values.width)\n"
    base = base.replace("    width = 3", "    def __init__(self): self.width = 3")
    with pytest.warns(ConfigWarning, match=r"main\.py changes 'values' of base\.py.*net\.width \(base\.py:7\)"):
        project.load("from .base import *\nvalues.width = 9\n", base=base)


@pytest.mark.parametrize("change", ["items.insert(0, 9)", "del items[0]", "items.reverse()", "items.pop(0)"])
def test_a_child_that_moves_the_items_that_a_ref_counts_is_an_error(project, change):
    base = "items = [10, 20, 30]\nrunner = L(Run)(epochs=ref('items[2]'), first=ref('items[0]'))\n"
    with pytest.raises(RefError, match=r"ref\('items.*base\.py:4|base\.py:4: ref\('items"):
        project.load(f"from .base import *\n{change}\n", base=base)


def test_a_child_may_set_an_item_that_a_ref_counts_or_append(project):
    base = "items = [10, 20]\nrunner = L(Run)(epochs=ref('items[1]'))\n"
    cfg = project.load("from .base import *\nitems[1] = 7\nitems.append(8)\n", base=base)
    assert instantiate(cfg.runner).parts["epochs"] == 7


def test_a_star_import_of_a_package_takes_the_submodules_that_it_names(project):
    project.write(pack__values="epochs = 2\nother = L(dict)()\n")
    (project.folder / "pack" / "values.py").write_text("epochs = 2\n")
    (project.folder / "pack" / "__init__.py").write_text("__all__ = ['values']\n")
    assert project.load("from .pack import *\nrunner = L(Run)(epochs=values.epochs)\n").runner.epochs == 2
    with pytest.raises(OverrideError, match="values"):
        project.load("from .pack import *\nrunner = L(Run)(epochs=values.epochs)\n", "values.epochs=3")


def test_what_a_notebook_sets_is_noted_where_python_has_read_it(project):
    cfg = project.load(BASE + "half = opt.lr / 2\nrunner.warm = L(Opt)(lr=opt.lr * 2)\n")
    with pytest.warns(ConfigWarning, match=r"lr is set anew, but opt\.lr \(main\.py:5\) still"):
        cfg.lr = 5
    with pytest.warns(ConfigWarning, match=r"opt\.lr is set .* runner\.warm\.lr \(main\.py:8\), main\.py:7 still"):
        cfg.opt.lr = 5
    cfg.runner.epochs = 4  # nothing has read it


@pytest.mark.parametrize("imports", ["*", "opt, lr"])
def test_a_value_that_a_later_star_import_replaces_is_noted(project, imports):
    child = f"lr = 0.7\nused = 5\nepochs = 8\nprinted = str(epochs)\nfrom .base import {imports}\n"
    project.write(base=BASE + "used = 5\n")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        project.load(child)
    texts = [str(each.message) for each in caught]
    assert texts == (
        ["main.py:3: 'lr' is bound anew by the import of base.py in line 7: write it after the import."]
        * (imports == "*")
    )


ARRAYS = [
    "numpy.array([1.0, 2.0])",
    "torch.tensor([1.0, 2.0])",
    "array.array('d', [1, 2])",
    "collections.deque([1, 2])",
]
HEAD = "import array, collections, numpy, torch, types\n"


@pytest.mark.parametrize("made", [*ARRAYS, "bytearray(b'ab')", "[1, 2]"])
@pytest.mark.parametrize("read", ["float(v[0])", "v[-2] * 2", "sum(v)"])
@pytest.mark.parametrize(
    "main", ["from .base import *", "from .middle import *", "import a.base as b\nv, runner = b.v, b.runner"]
)
def test_an_array_that_was_read_before_a_child_changes_it_is_noted(project, made, read, main):
    project.write(base=f"{HEAD}v = {made}\nrunner = L(Run)(extra={read}, v=v)\n", middle="from .base import *\n")
    with pytest.warns(ConfigWarning, match=r"main\.py changes 'v' of base\.py.*runner\.extra \(base\.py:5\)"):
        project.load(f"{main}\nv[0] = 3\n")


@pytest.mark.parametrize("made", ARRAYS[:2])
@pytest.mark.parametrize("change", ["v += 1", "v[:] = 0", "v[0] = 3"])
def test_what_follows_an_array_is_not_noted(project, made, change):
    read = "runner = L(Run)(whole=v, view=v[:1], shape=v.shape[0], same=v.dtype, items=[v])\n"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        project.load(f"from .base import *\n{change}\n", base=f"{HEAD}v = {made}\n{read}")
        project.load(
            f"from .base import *\n{change}\nopt.lr = 1\n", base=f"{HEAD}v = {made}\nopt = L(Opt)(lr=v.sum())\n"
        )
        project.load("from .base import *\nv[1] = 3\n", base=f"{HEAD}v = {made}\nopt = L(Opt)(lr=float(v[0]))\n")
    with pytest.warns(ConfigWarning, match=r"main\.py changes 'v' of base\.py.*opt\.lr"):
        project.load(f"from .base import *\n{change}\n", base=f"{HEAD}v = {made}\nopt = L(Opt)(lr=v.sum())\n")


@pytest.mark.parametrize(
    ("made", "read", "change"),
    [
        ("{1}", "sorted(v)", "v.add(3)"),
        ("{'a': 1}", "[x for x in v.values()]", "v['a'] = 3"),
        ("{'a': {'b': 1}}", "v.get('a').get('b')", "v['a']['b'] = 3"),
        ("type('C', (), {'width': 3, '__module__': __name__})", "v.width", "v.width = 9"),
        ("types.SimpleNamespace(a=[1, 2])", "v.a[0]", "v.a[0] = 5"),
        ("types.SimpleNamespace(a={'b': [1]})", "v.a['b'][0]", "v.a['b'][0] = 5"),
        ("type('C', (), {'a': [1, 2], '__module__': __name__})", "sum(v.a)", "v.a.append(3)"),
        ("type('C', (), {'total': lambda self: self.w})(); v.w = 1", "v.total()", "v.w = 4"),
        ("{'a': 1}; k = 'a'", "v[k]", "v['a'] = 4"),
        ("{'a': [1]}; k = 'a'", "v[k][0]", "v['a'][0] = 4"),
        ("collections.UserDict(a=1)", "v['a']", "v['a'] = 4"),
        ("collections.UserDict(a=1)", "[x for x in v.values()]", "v['a'] = 4"),
        ("collections.UserDict(a=1)", "v.get('a')", "v.update(a=4)"),
    ],
)
def test_whatever_python_has_taken_out_of_a_value_does_not_follow(project, made, read, change):
    base = f"{HEAD}v = {made}\nrunner = L(Run)(extra={read})\n"
    with pytest.warns(ConfigWarning, match=r"main\.py changes 'v.*' of base\.py.*runner\.extra \(base\.py:5\)"):
        project.load(f"from .base import *\n{change}\n", base=base)


def test_an_item_that_a_mixin_changes_in_the_config_itself(project):
    main = "d = {'lr': 1}\nopt = L(Opt)(lr=d['lr'])\nrunner = L(Run)(opt=opt)\n"
    project.write(main=main, mixin="from .main import *\nd['lr'] = 3\n")
    with pytest.warns(ConfigWarning, match=r"mixin\.py changes 'd' of main\.py.*opt\.lr \(main\.py:4\)"):
        LazyConfig.load(project.folder / "main.py", project.folder / "mixin.py")


# ----------------------------------------------------------------------------------------- a new name beside a near one
NAMED = "max_epochs = 3\ntag = 'a'\nrunner = L(Run)(epochs=max_epochs)\n"


@pytest.mark.parametrize(
    "written", ["max_epoch = 5", "max_epoch: int = 5", "max_epohcs = 5  # fewer", "max_epoch = [5]"]
)
@pytest.mark.parametrize(
    "imports",
    [
        "from .base import *",
        "from .middle import *",
        "from .base import runner",
        "import a.base as b\nrunner = b.runner",
    ],
)
def test_a_misspelt_name_that_nothing_reads_is_noted(project, written, imports):
    project.write(base=NAMED, middle="from .base import *\n")
    with pytest.warns(ConfigWarning, match=r"main\.py:[45]: nothing reads 'max_ep.*Did you mean 'max_epochs'"):
        project.load(f"{imports}\n{written}\n")


def test_a_misspelt_name_of_a_mixin_is_noted(project):
    project.write(main=NAMED, mixin="max_epoch = 5\n")
    with pytest.warns(ConfigWarning, match=r"mixin\.py:3: nothing reads 'max_epoch'"):
        LazyConfig.load(project.folder / "main.py", project.folder / "mixin.py")


@pytest.mark.parametrize(
    "child",
    [
        "max_epoch = 5\nrunner.more = max_epoch * 2",
        "max_epoch = 5\nrunner.more = ref('max_epoch')",
        "max_epoch = 5\nrunner.more = [max_epoch for _ in [1]]",
        "max_epoch = 5\nrunner.more = globals()['max_epoch']",
        "max_epoch = 5\ndef f():\n    return max_epoch",
        "max_epoch = 5\nclass C:\n    epochs = max_epoch",
        "max_epoch = 5\nf = lambda: max_epoch",
        "max_epoch = 5\nassert max_epoch < 9",
        "max_epoch = 5\nif __name__ == '__main__':\n    print(max_epoch)",
        "_max_epochs = 5",
        "for max_epoch in (1, 2): ...",
        "def max_epoch(): ...",
        "max_epoch = L(Opt)()",
        "tags = ['a']",  # nothing reads the near one either
        "note = 'a'\nspace, grid = {}, {}\nobjective = 'loss'\ndirection = 'min'",
        "from .other import max_epoch",
        "from .other import work\nrate = 5",
    ],
)
def test_a_new_name_that_is_read_or_near_to_none_is_not_noted(project, child):
    project.write(
        base=NAMED + "rates = 3\nrunner.rates = rates\n", other="max_epoch = 4\ndef work(cfg):\n    return cfg.rate\n"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        project.load(f"from .base import *\n{child}\n")
        project.load("from .middle import *\nrunner.more = max_epoch\n", middle="from .base import *\nmax_epoch = 5\n")
        project.load("from .base import *\nmax_epoch = 5\n", base=NAMED.replace("runner", "other"))  # read by others


def test_what_is_read_by_another_key_may_be_changed(project):
    base = "values = {'a': 1, 'b': 2}\nrunner = L(Run)(extra=values.get('a'), other=values['a'])\n"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        project.load("from .base import *\nvalues['b'] = 3\nvalues['c'] = 4\n", base=base)


@pytest.mark.parametrize("text", ["'%s' % later", "str(later)", "'{}'.format(later)", "f'{later}'"])
def test_a_value_that_is_not_known_yet_is_no_text(project, text):
    with pytest.raises(RefError, match=r"main\.py:5: ref\('width'\) cannot be part of a text"):
        project.load(f"width = 3\nlater = ref('width')\nnet = L(Net)(name={text})\n")


def test_real_code_may_try_imports_that_fail(project):
    (project.folder.parent / "helper.py").write_text(
        "def double(x):\n    return 2 * x\ntry:\n    from .parts import Net\nexcept ImportError:\n    Net = None\n"
    )
    assert (
        project.load("from helper import double\nrunner = L(Run)(epochs=double(2))\n", "runner.epochs=3").runner.epochs
        == 3
    )
