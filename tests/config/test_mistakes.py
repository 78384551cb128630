r"""Sixty mistakes of a newcomer, in config files, on the command line and in Python; and what each is answered.

Each was written down, with the three marks that a good answer bears, before anybody looked at what is answered: the
**place** of the mistake (a line of the file, the override or the path in the config), what is **accepted** there, and
the **next** step. A mark is a regular expression that the answer must match; a config file or command line must also
end with exit code 2 (or, where ``warns`` is set, be carried out with a warning). The answers stand in `mistakes.md`,
which ``python -m tests.config.test_mistakes`` writes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import re
import sys
import tempfile
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

from lazyengine.cli import train
from lazyengine.config import ConfigWarning

NAMED = mock.patch.object(sys, "argv", ["train_net.py"])
ENGINE = str(Path(__file__).parents[2]) + os.sep
LACKING = 2
TABLE = Path(__file__).parent / "mistakes.md"
PARTS = """
import torch
from torch import nn
from lazyengine.dataset import BaseDataset
from lazyengine.model import BaseModel


class Points(BaseDataset):
    def __init__(self, n: int = 8, file: str | None = None):
        self.n, self.file = n, file
        super().__init__()

    def load_data_list(self):
        return [{"x": [i / 8, 1.0], "label": i % 2} for i in range(self.n)]

    def prepare_data(self, idx):
        return {"x": torch.tensor(self.get_data_info(idx)["x"]), "label": idx % 2}


class Block(nn.Module):
    def __init__(self, channels: int = 4):
        super().__init__()


class Net(BaseModel):
    def __init__(self, width: int = 4, act="relu", body: Block | None = None, dropout: float = 0.0):
        super().__init__()
        self.net = nn.Linear(2, width)

    def forward(self, x, label, mode="tensor"):
        return {"loss": nn.functional.cross_entropy(self.net(x), label)}
"""
BASE = """\
from torch.optim import AdamW

from lazyengine.config import LazyCall as L
from lazyengine.dataset import DataLoader
from lazyengine.evaluator import Accuracy
from lazyengine.hooks import CheckpointHook, LoggerHook
from lazyengine.optim import OptimWrapper, param_groups
from lazyengine.runner import EpochBasedTrainLoop, Runner, ValLoop

from .parts import Net, Points

width = 4
model = L(Net)(width=width, act="relu")
optimizer = L(AdamW)(params=L(param_groups)(model=model), lr=0.1, betas=(0.9, 0.99))
dataset = L(Points)(n=8)
train_loop = L(EpochBasedTrainLoop)(dataloader=L(DataLoader)(dataset=dataset, batch_size=4), max_epochs=1)
val_loop = L(ValLoop)(dataloader=L(DataLoader)(dataset=dataset, batch_size=4), evaluator=L(Accuracy)())
hooks = {"logger": L(LoggerHook)(interval=1), "checkpoint": L(CheckpointHook)(interval=1)}
clip = dict(max_norm=1.0)
runner = L(Runner)(
    model=model, train_loop=train_loop, val_loop=val_loop,
    optim_wrapper=L(OptimWrapper)(optimizer=optimizer, clip_grad=clip), hooks=hooks, device="cpu", work_dir="run",
)
"""
HEAD = "from lazyengine.config import REQUIRED, LazyCall as L, LazyPartial, clone, ref, replace\n"
CHILD = HEAD + "from .base import *\n"


@dataclasses.dataclass
class Mistake:
    """One mistake, and the marks of a good answer as regular expressions."""

    name: str
    place: str
    accepted: str
    next: str
    shown: str  # how the table shows the mistake
    argv: list[str] = dataclasses.field(default_factory=list)
    files: dict[str, str] = dataclasses.field(default_factory=dict)
    code: str | None = None
    warns: bool = False


def config(
    name: str, text: str, place: str, accepted: str, next: str, *, whole=False, warns=False, **more: str
) -> Mistake:
    """Return a mistake in the lines ``text`` of `main.py`, which begin at its line 3 unless they are the whole file."""
    files = {"main.py": text if whole else CHILD + text, **{f"{key}.py": value for key, value in more.items()}}
    return Mistake(name, place, accepted, next, text, ["--config", "main.py"], files, warns=warns)


def line(name: str, argv: list[str], place: str, accepted: str, next: str, **settings) -> Mistake:
    """Return a mistake on the command line, of the config `base.py` unless ``argv`` names another."""
    before = [] if "--config" in argv else ["--config", "base.py"]
    return Mistake(name, place, accepted, next, " ".join(argv), [*before, *argv], **settings)


def python(name: str, code: str, place: str, accepted: str, next: str) -> Mistake:
    """Return a mistake in Python code that uses the config ``cfg`` of `base.py`."""
    return Mistake(name, place, accepted, next, code, code=code)


def at(number: int, file: str = "main") -> str:
    """Return the pattern of a place in a config file: as an error or as a frame of a traceback names it."""
    return rf'\b{file}\.py(:|", line ){number}\b'


MISTAKES = [
    # ------------------------------------------------------------------------------------------ nodes in a config file
    config("a misspelt argument", "extra = L(Net)(widht=8)", at(3), r"accepts: width, act", r"Did you mean 'width'"),
    config("a misspelt attribute", "optimizer.lrr = 1", at(3), r"accepts: params, lr", r"Did you mean 'lr'"),
    config(
        "no second call, as an argument",
        "from .parts import Block\nmodel.body = L(Block)",
        at(4),
        r"L(azyCall)?\(Block\)\(",
        r"second call|write|call it",
    ),
    config(
        "no second call, at top level", "extra = L(Net)", at(3), r"L(azyCall)?\(Net\)\(", r"second call|write|call it"
    ),
    config(
        "no second call, in a list",
        "runner.param_schedulers = [L(Net)]",
        at(3),
        r"L(azyCall)?\(Net\)\(",
        r"second call|write|call it",
    ),
    config(
        "an object instead of a node",
        "from torch.optim import SGD\nother = SGD(model, lr=0.1)",
        at(4),
        r"L(azyCall)?\(SGD\)\(",
        r"[Ww]rite|[Uu]se|describe",
    ),
    config(
        "LazyCall of an object",
        "from .parts import Net\nextra = L(Net())(width=3)",
        at(4),
        r"class|function|callable",
        r"L(azyCall)?\(Net\)\(",
    ),
    config(
        "a name without a module",
        'extra = L("Net")(width=4)',
        at(3),
        r"module:|pkg\.mod|\w\.\w+:|dotted",
        r"'\w+(\.\w+)*[:.]\w+'|[Ww]rite|[Uu]se",
    ),
    config(
        "a misspelt class in text",
        'runner.model = L("lazyengine.model:BaseModell")()',
        at(3),
        r"BaseModel\b",
        r"Did you mean 'BaseModel'",
    ),
    config(
        "REQUIRED is left",
        "model.width = REQUIRED",
        r"model\.width|" + at(3),
        r"\bint\b",
        r"model\.width=|[Ss]et |override",
    ),
    config(
        "an argument is missing",
        "runner.train_loop = L(EpochBasedTrainLoop)(max_epochs=3)",
        at(3),
        r"dataloader",
        r"[Ss]et|[Aa]dd|[Gg]ive|dataloader=",
    ),
    config(
        "too many positional arguments",
        "extra = L(Net)(1, 'relu', None, 0.1, 2)",
        at(3),
        r"width, act, body, dropout",
        r"at most 4|takes 4|too many|4 positional|name",
    ),
    config("an argument twice", "extra = L(Net)(4, width=5)", at(3), r"width", r"twice|multiple values|both|once"),
    config(
        "Net(...) of the type where another type is annotated",
        "model.body = L(Points)()",
        r"model\.body|" + at(3),
        r"Block",
        r"expected|accepts|[Uu]se|[Gg]ive",
    ),
    config(
        "text where a number is needed",
        'train_loop.max_epochs = "5 epochs"',
        r"train_loop\.max_epochs|" + at(3),
        r"\bint\b",
        r"expected|accepts|[Uu]se|[Ww]rite",
    ),
    config(
        "mmengine: a dict with type",
        'runner.model = dict(type="Net", width=3)',
        r"runner\.model|" + at(3),
        r"L(azyCall)?\(Net\)\(|\bLazyCall\(|\bL\(",
        r"[Ww]rite|[Uu]se|instead",
    ),
    config(
        "Hydra: a dict with _target_",
        'runner.model = {"_target_": "parts.Net"}',
        r"runner\.model|" + at(3),
        r"L(azyCall)?\(Net\)\(|\bLazyCall\(|\bL\(",
        r"[Ww]rite|[Uu]se|instead",
    ),
    config("OmegaConf: an interpolation", 'model.width = "${width}"', at(3), r"ref\(", r"ref\(.width.\)"),
    config(
        "a ref to nothing",
        'optimizer.lr = ref("optimzer.weight_decay")',
        at(3),
        r"optimizer\b",
        r"Did you mean 'optimizer",
    ),
    config(
        "a ref to itself",
        'optimizer.lr = ref("optimizer.lr")',
        at(3) + "|optimizer\\.lr",
        r"itself|circle|cycle",
        r"[Ss]et|[Ww]rite|[Gg]ive|value",
    ),
    config("a ref of a node", "model.width = ref(optimizer)", at(3), r"text|path|str|\"", r"ref\(."),
    config("a dict edited by attribute", "clip.max_norm = 2.0", at(3), r"clip\[.max_norm.\]", r"L(azyCall)?\(dict\)\("),
    config("reading an argument that is not set", "print(optimizer.weight_decay)", at(3), r"default", r"[Ss]et"),
    config(
        "update() of a node",
        "optimizer.update(lr=0.2)",
        at(3),
        r"lr",
        r"optimizer\.lr = |\.lr = |attribute|assign|[Ss]et",
    ),
    config("a misspelt key of a node", 'optimizer["lrr"] = 0.2', at(3), r"params, lr", r"Did you mean '?lr"),
    config(
        "deleting what is not set",
        "del optimizer.weight_decay",
        at(3),
        r"params, lr, betas|lr, betas",
        r"not set|has no|set",
    ),
    config(
        "the truth value of REQUIRED",
        "model.width = REQUIRED\nif model.width:\n    pass",
        at(4),
        r"is REQUIRED",
        r"is REQUIRED|[Ss]et",
    ),
    config("hooks are a dict, not a list", "hooks.append(L(LoggerHook)())", at(3), r"dict", r"hooks\[|key"),
    config(
        "mmengine: a registry's build",
        "built = Runner.from_cfg(model)",
        at(3),
        r"Runner",
        r"L(azyCall)?\(|Did you mean|no 'from_cfg'|no attribute",
    ),
    # -------------------------------------------------------------------------------------------- imports and Python
    config(
        "a node bound anew",
        "optimizer = L(AdamW)(params=L(param_groups)(model=model), lr=0.5)",
        at(3),
        r"replace\(",
        r"replace\(optimizer",
    ),
    config("a plain value bound anew", "width = 64", at(3), r"model\.width", r"model\.width = |ref\(.width.\)"),
    config(
        "a base that does not exist",
        HEAD + "from .bse import *",
        at(2),
        r"\bbase\b",
        r"Did you mean '\.?base",
        whole=True,
    ),
    config(
        "a name that the base has not",
        HEAD + "from .base import optimzer, runner",
        at(2),
        r"optimizer",
        r"Did you mean 'optimizer'",
        whole=True,
    ),
    config(
        "a dot too many",
        HEAD + "from ..base import *",
        at(2),
        r"\.base",
        r"from \.base|Did you mean|one dot",
        whole=True,
    ),
    line(
        "no dot",
        ["--config", "conf/main.py"],
        at(1, "conf/main"),
        r"\.shared",
        r"from \.shared",
        files={"conf/main.py": "from shared import *\n", "conf/shared.py": BASE.replace(".parts", "parts")},
    ),
    config(
        "a misspelt module",
        HEAD + "from .base import *\nfrom .prats import Net",
        at(3),
        r"parts",
        r"Did you mean '\.?parts",
        whole=True,
    ),
    config(
        "a misspelt class",
        HEAD + "from .base import *\nfrom .parts import Nett",
        at(3),
        r"\bNet\b",
        r"Did you mean.* '?Net\b",
        whole=True,
    ),
    config(
        "a misspelt name of the engine",
        "from lazyengine.hooks import EMAHok",
        at(3),
        r"EMAHook",
        r"Did you mean.* '?EMAHook\b",
    ),
    config(
        "configs that import each other",
        HEAD + "from .other import *",
        r"main\.py.*other\.py|other\.py.*main\.py",
        r"circ|each other",
        r"third file|move|[Pp]ut|common",
        whole=True,
        other="from .main import *\n",
    ),
    config(
        "mmengine: _base_",
        '_base_ = ["./base.py"]',
        at(1),
        r"from \.base import|import",
        r"from \.base import \*",
        whole=True,
    ),
    config(
        "no runner",
        CHILD + "del runner\ntrainer = L(Runner)(model=model)",
        r"main\.py",
        r"runner",
        r"trainer|[Nn]ame|[Dd]efine|[Cc]all it",
        whole=True,
    ),
    config("a forgotten comma", "extra = L(Net)(width=3 act='relu')", at(3), r"comma", r"Perhaps you forgot a comma"),
    config("a name that is not defined", "optimzer.lr = 0.2", at(3), r"optimizer", r"Did you mean:? '?optimizer"),
    config(
        "a data file that is not there",
        'classes = open("classes.txt").read()',
        at(3),
        r"classes\.txt",
        r"No such file.*classes\.txt",
    ),
    # ---------------------------------------------------------------------------------------------- the command line
    line(
        "a misspelt argument",
        ["optimizer.lrr=1"],
        r"#1 'optimizer\.lrr=1'",
        r"It has: params, lr",
        r"Did you mean 'lr'",
    ),
    line("a misspelt name", ["optimzer.lr=1"], r"#1 'optimzer\.lr=1'", r"optimizer", r"Did you mean 'optimizer'"),
    line(
        "text for a number",
        ["optimizer.lr=fast"],
        r"#1 'optimizer\.lr=fast'",
        r"accepts .*float",
        r"now 0\.1|such as|write",
    ),
    line("a sweep", ["model.width=4,8"], r"#1 'model\.width=4,8'", r"\bint\b", r"now 4|such as|one value"),
    line(
        "an override as an option",
        ["--optimizer.lr=0.1"],
        r"--optimizer\.lr=0\.1",
        r"optimizer\.lr=0\.1",
        r"write 'optimizer\.lr=0\.1'|[Ww]rite optimizer\.lr=0\.1",
    ),
    line(
        "a space for the equals sign",
        ["optimizer.lr", "0.1"],
        r"#1 'optimizer\.lr'",
        r"path=value",
        r"optimizer\.lr=0\.1|optimizer\.lr=\.\.\.|optimizer\.lr=VALUE|[Ww]rite",
    ),
    line("Hydra: a group's choice", ["optimizer=sgd"], r"#1 'optimizer=sgd'", r"_target_", r"optimizer\._target_="),
    line(
        "Hydra: ++",
        ["++optimizer.lr=0.2"],
        r"#1 '\+\+optimizer\.lr=0\.2'",
        r"\+optimizer\.lr|optimizer\.lr=0\.2",
        r"optimizer\.lr=0\.2",
    ),
    line(
        "adding what is there",
        ["+hooks.logger=lazyengine.hooks:LoggerHook"],
        r"#1 '\+hooks\.logger",
        r"hooks\.logger",
        r"without (the )?'?\+|hooks\.logger=",
    ),
    line(
        "a new key without +",
        ["hooks.ema=lazyengine.hooks:EMAHook"],
        r"#1 'hooks\.ema",
        r"logger, checkpoint",
        r"\+hooks\.ema",
    ),
    line(
        "a class without its module",
        ["+hooks.ema=EMAHook"],
        r"hooks\.ema",
        r"lazyengine\.hooks:EMAHook|pkg\.mod:Cls|module:",
        r"hooks\.ema=\w+(\.\w+)*:\w+|[Ww]rite|[Uu]se",
    ),
    line(
        "a misspelt target",
        ["optimizer._target_=torch.optim.SDG"],
        r"#1 'optimizer\._target_=torch\.optim\.SDG'",
        r"SGD",
        r"Did you mean 'SGD'",
    ),
    line(
        "a target that takes less",
        ["optimizer._target_=torch.optim.SGD"],
        r"#1 'optimizer\._target_=torch\.optim\.SGD'",
        r"SGD",
        r"~optimizer\.betas",
    ),
    line(
        "a top-level name of another engine",
        ["max_epochs=5"],
        r"#1 'max_epochs=5'",
        r"train_loop",
        r"train_loop\.max_epochs",
    ),
    line("a value that Python has read", ["width=64"], r"#1 'width=64'", r"model\.width", r"model\.width|ref\("),
    line(
        "deleting what is not set",
        ["~optimizer.weight_decay"],
        r"#1 '~optimizer\.weight_decay'",
        r"params, lr, betas|lr, betas",
        r"not set|nothing to delete|default",
    ),
    line(
        "an index beyond the end",
        ["optimizer.betas[2]=0.9"],
        r"#1 'optimizer\.betas\[2\]=0\.9'",
        r"2 (items|elements|entries)|0 to 1|0\.\.1|length 2",
        r"\+|0 to 1|last|use",
    ),
    line(
        "an open bracket",
        ["optimizer.betas=(0.9,0.99"],
        r"#1 'optimizer\.betas=\(0\.9,0\.99'",
        r"\)|close|quote",
        r"closed|[Cc]lose|bracket",
    ),
    line(
        "a Windows path in quotes",
        ['dataset.file="C:\\Users\\me"'],
        r"#1 'dataset\.file",
        r'r"|no quotes|without quotes',
        r'r"C:|without',
    ),
    line("OmegaConf: an interpolation", ["model.width=${width}"], r"#1 'model\.width", r"ref\(|\bint\b", r"ref\("),
    line("a config that is not there", ["--config", "bsae.py"], r"bsae\.py", r"base\.py", r"Did you mean 'base\.py'"),
    line(
        "Hydra: a YAML file",
        ["--config", "conf.yaml"],
        r"conf\.yaml",
        r"\.py\b|Python",
        r"lazyengine port|\bport\b|Python file",
        files={"conf.yaml": "lr: 1\n"},
    ),
    line(
        "a folder",
        ["--config", "."],
        r"'\.'|\. is a|folder",
        r"\.py\b|config\.py|file",
        r"base\.py|[Dd]id you mean|[Gg]ive|[Nn]ame",
    ),
    line("a misspelt option", ["--dryrun"], r"--dryrun", r"--dry-run", r"[Dd]id you mean '?--dry-run|--dry-run"),
    line(
        "a name that nobody reads",
        ["+max_iters=3"],
        r"\+?max_iters",
        r"train_loop|runner",
        r"nothing|no node|used",
        warns=True,
    ),
    # -------------------------------------------------------------------------------------------------------- Python
    python("a misspelt name of the config", "cfg.optimzer", r"base\.py", r"optimizer", r"Did you mean 'optimizer'"),
    python(
        "one text of overrides",
        'LazyConfig.apply_overrides(cfg, "optimizer.lr=1")',
        r"optimizer\.lr=1",
        r"list",
        r"\[.optimizer\.lr=1.\]",
    ),
    python(
        "no second call",
        "instantiate(LazyCall(dict))",
        r"LazyCall\(dict\)",
        r"LazyCall\(dict\)\(",
        r"second call|call|write|\(\.\.\.\)",
    ),
    python(
        "mmengine: fromfile",
        'LazyConfig.fromfile("base.py")',
        r"LazyConfig",
        r"load",
        r"LazyConfig\.load|Did you mean.* '?load",
    ),
    python(
        "mmengine: merge_from_dict",
        'cfg.merge_from_dict({"optimizer.lr": 1})',
        r"merge_from_dict",
        r"apply_overrides|has:|names",
        r"apply_overrides",
    ),
    python(
        "saving as YAML",
        'LazyConfig.save(cfg, "saved.yaml")',
        r"saved\.yaml",
        r"\.py.*\.json|\.json.*\.py",
        r"saved\.py|[Uu]se|[Ww]rite|[Gg]ive|[Ee]nd",
    ),
    # ------------------------------------------------------------------ habits of YAML, JSON, a shell and other systems
    config("YAML", "model.width: 8", at(3), r"sets nothing", r"Write model\.width = 8"),
    config("a comparison", "model.width == 8", at(3), r"sets nothing", r"Write model\.width = 8"),
    config("JSON: true", "model.dropout = true", at(3), r"name 'true'", r"Did you mean 'True'"),
    config("JSON: null", "model.body = null", at(3), r"name 'null'", r"Did you mean 'None'"),
    config("yacs: cfg", "cfg.model.width = 8", at(3), r"own names", r"model\.width"),
    config("a class instead of a node", "runner.model = Net", at(3), r"accepts Module", r"LazyCall\(Net\)\(\.\.\.\)"),
    config(
        "functools.partial instead of a node",
        "import functools\nrunner.model = functools.partial(Net, width=3)",
        at(4),
        r"accepts Module",
        r"LazyCall\(Net\)\(\.\.\.\)",
    ),
    config(
        "a LazyPartial where an object is meant",
        "runner.optim_wrapper.optimizer = LazyPartial(AdamW)(lr=0.1)",
        at(3),
        r"accepts Optimizer",
        r"partial of AdamW",
    ),
    config("a class in a text", "runner.model = 'parts.Net'", at(3), r"accepts Module", r"LazyCall\(Cls\)\(\.\.\.\)"),
    config(
        "LazyCall of an object alone", "runner.model = L(Net(3))", at(3), r"LazyCall\(Net\) alone", r"LazyCall\(Net\)\("
    ),
    config("a class and arguments in one call", "model = L(Net, width=3)", at(3), r"two calls", r"L\(Cls\)\(argument="),
    config("a ref with arithmetic", "optimizer.lr = ref('optimizer.eps') * 2", at(3), r"no value yet", r"ref\(path, f"),
    config("the ending of a file", HEAD + "from .base.py import *", at(2), r"is a file", r"from \.base,", whole=True),
    config("a misspelt file", HEAD + "from . import bas", at(2), r"'base'", r"Did you mean 'base'", whole=True),
    config(
        "mmengine: a loop's length at top level",
        "max_epochs = 3",
        at(3),
        r"nothing reads",
        r"Write runner\.train_loop\.max_epochs = max_epochs",
        warns=True,
    ),
    config(
        "a runner that is no node",
        "runner = dict(model=model)",
        r"main\.py",
        r"dict as `runner`",
        r"LazyCall\(Runner\)",
    ),
    config(
        "a runner that is built",
        "runner = Runner(model=Net(), work_dir='run')",
        r"main\.py",
        r"Runner as `runner`",
        r"LazyCall\(Runner\)",
    ),
    line(
        "spaces around =",
        ["model.width", "=", "3"],
        r"#1 'model\.width'",
        r"path=value",
        r"model\.width=.*without spaces",
    ),
    line("a space after =", ["model.act=", "relu"], r"#2 'relu'", r"path=value", r"one word of the shell"),
    line("a space in a list", ["optimizer.betas=[0.9,", "0.99]"], r"#2 '0\.99\]'", r"path=value", r"in quotes"),
    line(
        "the prefix cfg",
        ["cfg.model.width=3"],
        r"#1 'cfg\.model",
        r"It has: width, model",
        r"a name of the config itself",
    ),
    line("Hydra: a slash", ["model/width=3"], r"#1 'model/width", r"It has: width, model", r"has dots: model\.width"),
    line("a dash of print", ["\u2013\u2013dry-run"], r"#1 '\u2013", r"type -", r"type -"),
    line("quotes of print", ["model.act=\u201crelu\u201d"], r"#1 'model\.act", r"straight quote", r"type"),
]


@contextlib.contextmanager
def project() -> Iterator[str]:
    """Enter a fresh project that holds `parts.py` and `base.py`; forget its modules afterwards."""
    before, modules, path = os.getcwd(), set(sys.modules), list(sys.path)
    with tempfile.TemporaryDirectory() as folder:
        root = os.path.join(os.path.realpath(folder), "project")  # nobody else's files lie in the folder above
        os.mkdir(root)
        os.chdir(root)
        for name, text in (("pyproject.toml", ""), ("parts.py", PARTS), ("base.py", BASE)):
            Path(name).write_text(text)
        try:
            yield root
        finally:
            os.chdir(before)
            sys.path[:] = path
            for name in set(sys.modules) - modules:
                if str(getattr(sys.modules[name], "__file__", None) or "").startswith(root):
                    del sys.modules[name]


# What one version of Python says beside what the engine does, and another one does not.
OF_PYTHON = re.compile(r"(?m)^ *[~^]+\n|\. Did you mean: '\w+'\?| and no __dict__ for setting new attributes")


def run(mistake: Mistake) -> int:
    """Make the mistake; print to stderr what is said, and return the exit code (2 for an exception of Python code)."""
    try:
        if mistake.code is None:
            return train.main([*mistake.argv, "--dry-run"])
        names: dict[str, object] = {}
        head = "from lazyengine.config import LazyCall, LazyConfig, instantiate\ncfg = LazyConfig.load('base.py')\n"
        exec(compile(head + mistake.code, "example.py", "exec"), names)
        return 0
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    except Exception as error:
        print(*traceback.format_exception_only(error), sep="", file=sys.stderr)
        return 1 if mistake.code is None else 2


def answer(mistake: Mistake) -> tuple[int, str]:
    """Return the exit code and what is said, warnings first, without what is of this machine, Python or torch alone."""
    said = io.StringIO()
    terminal = mock.patch.dict(os.environ, COLUMNS="120")
    with project() as root, terminal, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for name, text in mistake.files.items():
            Path(name).parent.mkdir(exist_ok=True)
            Path(name).write_text(text)
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()), NAMED:
            code = run(mistake)
    warned = [w.message for w in caught if isinstance(w.message, ConfigWarning)]
    text = "".join(f"ConfigWarning: {message}\n" for message in warned) + said.getvalue()
    text = text.replace(root + os.sep, "").replace(root, ".")
    text = text.replace(os.path.dirname(root), "..")
    text = re.sub(re.escape(tempfile.gettempdir()) + r"/tmp\w+", "TEMPORARY", text)
    text = re.sub(r'"[^"]*/site-packages/([^"]*)", line \d+', r'"\1"', text.replace(ENGINE, ""))
    return code, OF_PYTHON.sub("", text).strip()


def marks(mistake: Mistake) -> tuple[str, list[bool]]:
    """Return what is said and which of the three marks it bears."""
    code, text = answer(mistake)
    wanted = [mistake.place, mistake.accepted, mistake.next]
    return text, [code == (0 if mistake.warns else 2) and bool(re.search(mark, text, re.DOTALL)) for mark in wanted]


def table() -> tuple[str, list[str]]:
    """Return the text of `mistakes.md` and the names of the mistakes whose answer lacks a mark."""
    rows, lacking = [], []
    for mistake in MISTAKES:
        said, found = marks(mistake)
        if not all(found):
            lacking.append(f"{mistake.name}: {mistake.shown}")
        cells = [mistake.name, f"<code>{cell(mistake.shown)}</code>", cell(said)]
        rows.append("| " + " | ".join([*cells, *("yes" if mark else "no" for mark in found)]) + " |")
    head = [
        "# Mistakes and their answers",
        "",
        "Written by `python -m tests.config.test_mistakes`. A child config begins with two lines of imports, so its"
        " first line shown is line 3.",
        "",
        f"{len(MISTAKES) - len(lacking)} of {len(MISTAKES)} answers name the place, what is accepted and the next"
        " step.",
        "",
        "| mistake | written | answer | place | accepted | next step |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    return "\n".join([*head, *rows, ""]), lacking


def cell(text: str) -> str:
    """Return a text as it is written in a cell of a table in Markdown."""
    for plain, escaped in (("&", "&amp;"), ("<", "&lt;"), ("|", "\\|"), ("\n", "<br>")):
        text = text.replace(plain, escaped)
    return text


def test_sixty_mistakes_and_their_answers_as_committed():
    text, lacking = table()
    assert len(MISTAKES) >= 60
    assert len(lacking) <= LACKING, "\n".join(lacking)
    assert text == TABLE.read_text(), "write it again: python -m tests.config.test_mistakes"


def test_the_project_of_the_mistakes_is_none(capsys):
    with project():
        assert train.main(["--config", "base.py", "--dry-run"]) == 0


if __name__ == "__main__":
    text, lacking = table()
    TABLE.write_text(text)
    print(*lacking, f"{len(MISTAKES) - len(lacking)} of {len(MISTAKES)} are complete", sep="\n")
