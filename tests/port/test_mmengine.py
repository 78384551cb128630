"""Small projects on mmengine, written for these tests, ported by the command and trained."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lazyengine.cli.main import main
from lazyengine.config import LazyConfig, instantiate, target_of
from lazyengine.port import PortError, port_path
from lazyengine.port.prove_configs import StandIns

FIXTURES = Path(__file__).parent / "fixtures"
PROJECT = FIXTURES / "mm_project"
GOLDEN = json.loads(
    (FIXTURES / "mm_project_golden.json").read_text()
)  # what mmengine 0.10.7 trained, on one CPU thread
CONFIGS = list(GOLDEN)
TRAIN = """
import sys
sys.path.insert(0, ".")
from lazyengine.config import LazyConfig
from lazyengine.runner import Runner
cfg = LazyConfig.load(sys.argv[1])
cfg.runner.work_dir = "run"
Runner.from_cfg(cfg).train()
"""


def run(script: str, *args: str, cwd: Path) -> str:
    env = {**os.environ, "BLOBS_RECORD": str(cwd / "record.json"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", script, *args], cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    pytest.importorskip("libcst")
    target = tmp_path_factory.mktemp("whole")
    ported, kinds = port_path(PROJECT, target)
    assert {kind: len(files) for kind, files in kinds.items() if kind != "other"} == {
        "mmengine config": 8,
        "mmengine code": 5,
    }
    assert not ported.failed
    assert not ported.todos
    return target


@pytest.mark.parametrize("name", CONFIGS)
def test_a_ported_project_trains_to_the_numbers_of_mmengine(whole, name):
    run(TRAIN, f"{name.replace('-', '_')}.py", cwd=whole)
    rows = [row[:2] for row in json.loads((whole / "record.json").read_text())]
    assert len(rows) == len(GOLDEN[name])
    closeness = 1e-3 if "adam" in name else 1e-6  # Adam divides rounding, which differs between processors, by itself
    for row, expected in zip(rows, GOLDEN[name]):
        assert row == pytest.approx(expected, rel=closeness)


@pytest.mark.parametrize("flat", [False, True])
def test_ported_configs_say_what_the_old_ones_said(tmp_path, capsys, flat):
    code = main(["port", str(PROJECT / "configs"), "--to", str(tmp_path), "--prove", *(["--flat"] if flat else [])])
    out = capsys.readouterr().out
    assert code == 0, out
    assert out.count(" equal") == 6


def test_a_base_config_stays_a_file_of_its_own(tmp_path):
    port_path(PROJECT / "configs" / "blobs-adam_accumulated.py", tmp_path)
    text = (tmp_path / "blobs_adam_accumulated.py").read_text()
    assert "from .blobs_sgd import *" in text
    assert "train_loop = L(IterBasedTrainLoop)(dataloader=train_dataloader, max_iters=12, val_interval=6)" in text
    assert 'default_hooks["checkpoint"].interval = 6' in text
    assert "model=REQUIRED" in (tmp_path / "_base_" / "schedule.py").read_text()


def test_flat_is_one_file(tmp_path):
    port_path(PROJECT / "configs" / "blobs-adam_accumulated.py", tmp_path, flat=True)
    assert [path.name for path in tmp_path.rglob("*.py")] == ["blobs_adam_accumulated.py"]
    assert "import *" not in (tmp_path / "blobs_adam_accumulated.py").read_text()


def test_a_part_that_changes_another_part_stands_alone(tmp_path):
    """It would change nodes that the leaf later puts into other parts, which configs refuse."""
    source = tmp_path / "old"
    source.mkdir()
    (source / "model.py").write_text('model = dict(type="Sequential", depth=1)\n')
    (source / "larger.py").write_text('_base_ = "./model.py"\nmodel = dict(depth=2)\n')
    (source / "schedule.py").write_text('optim_wrapper = dict(optimizer=dict(type="SGD", lr=0.1))\n')
    (source / "leaf.py").write_text('_base_ = ["./larger.py", "./schedule.py"]\n')
    port_path(source, tmp_path / "new")
    assert "import *" not in (tmp_path / "new" / "larger.py").read_text()
    assert "optimizer.params.model = model" in (tmp_path / "new" / "leaf.py").read_text()


def port_text(tmp_path: Path, text: str, name: str = "old.py") -> tuple[str, list[str]]:
    source = tmp_path / "source"
    source.mkdir(exist_ok=True)
    (source / name).write_text(text)
    ported, _ = port_path(source / name, tmp_path / "new")
    return (tmp_path / "new" / name).read_text(), [todo.reason for todo in ported.todos]


def test_an_unknown_class_is_a_todo_with_its_line_and_exit_code_1(tmp_path, capsys):
    (tmp_path / "old.py").write_text('model = dict(type="Nowhere", depth=3)\n')
    assert main(["port", str(tmp_path / "old.py"), "--to", str(tmp_path / "new")]) == 1
    lines = (tmp_path / "new" / "old.py").read_text().splitlines()
    number = next(i for i, line in enumerate(lines, 1) if line.startswith("# TODO port: model: no class is registered"))
    assert (
        f"{tmp_path / 'new' / 'old.py'}:{number}: model: no class is registered as 'Nowhere'" in capsys.readouterr().out
    )
    assert 'L("unknown:Nowhere")(depth=3)' in lines[number]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('optim_wrapper = dict(type="AmpOptimWrapper", optimizer=dict(type="Adam", lr=0.1))', "L(AmpOptimWrapper)"),
        ("train_cfg = dict(by_epoch=False, max_iters=9)", "L(IterBasedTrainLoop)(dataloader=REQUIRED, max_iters=9)"),
        ("val_cfg = dict(fp16=True)", 'precision="float16"'),
        ('custom_hooks = [dict(type="EMAHook", momentum=0.1)]', "ema=L(EMAHook)(momentum=0.1, strict_load=False)"),
        ('custom_hooks = [dict(type="EarlyStoppingHook", monitor="a")]', 'monitor="a", min_delta=0.1'),
        (
            'custom_hooks = [dict(type="EMAHook", ema_type="StochasticWeightAverage")]',
            "ema_type=StochasticWeightAverage",
        ),
        ('default_hooks = dict(checkpoint=dict(type="CheckpointHook", out_dir="a"))', 'out_dir="a"'),
        ("randomness = dict(seed=5, deterministic=True)\nmodel = dict()", 'deterministic = "warn"'),
        (
            "auto_scale_lr = dict(enable=True, base_batch_size=8)\n"
            'optim_wrapper = dict(accumulative_counts=2, optimizer=dict(type="SGD", lr=1))',
            "auto_scale_lr = 16",
        ),
        (
            'train_dataloader = dict(batch_size=2, dataset=dict(type="ConcatDataset", datasets=[]),'
            'sampler=dict(type="InfiniteSampler"))',
            "collate_fn=pseudo_collate",
        ),
        ("find_unused_parameters = True\nmodel = dict()", "wrapper=L(DDP)(find_unused_parameters=True)"),
        ('optim_wrapper = dict(optimizer=dict(type="SGD", lr=1), constructor="Own")', "# TODO port:"),
        ("work_dir = 'a/{{ fileBasenameNoExtension }}'\nmodel = dict()", 'work_dir = "a/old"'),
    ],
)
def test_each_rule(tmp_path, old, new):
    assert new in port_text(tmp_path, old)[0]


PARTS = """
from somewhere.registry import MODELS, TASKS


class Mean:
    pass


@MODELS.register_module()
class Head:
    def __init__(self, mean=dict(type="Mean")):
        self.mean = Mean() if mean["type"] == "Mean" else None


class Late:
    pass


for part in [Late]:
    TASKS.register_module()(part)
"""


def test_only_what_a_registry_knows_is_a_node(tmp_path):
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "parts.py").write_text(PARTS)
    text, todos = port_text(
        tmp_path, 'model = dict(type="Head", mean=dict(type="Mean"), part=dict(type="Late"), nowhere=dict(type="Gone"))'
    )
    assert 'mean=dict(type="Mean")' in text  # the head reads this dict by itself
    assert "part=L(Late)()" in text
    assert [todo.partition(" in ")[0] for todo in todos] == ["model.nowhere: no class is registered as 'Gone'"]


def test_what_a_builder_of_mmcv_reads_stays_a_dict_at_any_depth(tmp_path):
    layers = 'transformerlayers=dict(type="Layer", attn_cfgs=[dict(type="Attention", drop=dict(type="Dropout"))])'
    plugins = 'plugins=[dict(cfg=dict(type="Context", init_cfg=dict(type="Normal", layer="Conv2d")), stages=(True,))]'
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "parts.py").write_text(PARTS)
    text, todos = port_text(tmp_path, f'model = dict(type="Head", {layers}, {plugins})')
    assert not todos
    assert 'drop=dict(type="Dropout")' in text
    assert 'cfg=dict(type="Context", init_cfg=L(NormalInit)(layer="Conv2d"))' in text


def test_an_initializer_without_a_type_is_a_part_that_a_child_completes(tmp_path):
    text, todos = port_text(tmp_path, 'model = dict(backbone=dict(init_cfg=dict(checkpoint="a.pth")))')
    assert 'init_cfg=dict(checkpoint="a.pth")' in text
    assert not todos


@pytest.mark.parametrize(
    ("constructor", "is_known"), [("LearningRateDecayOptimWrapperConstructor", True), ("LayerDecayConstructor", False)]
)
def test_only_one_known_rule_of_layers_becomes_layer_decay(tmp_path, constructor, is_known):
    """Those of other libraries count layers differently, and choose weight decays too."""
    text, todos = port_text(
        tmp_path,
        f'optim_wrapper = dict(constructor="{constructor}", paramwise_cfg=dict(layer_decay_rate=0.5, num_layers=3),'
        'optimizer=dict(type="SGD", lr=1))',
    )
    assert ("layer_decay=0.5" in text) is is_known
    assert bool(todos) is not is_known


def test_no_hooks_of_ones_own_are_equal_to_an_empty_list_of_them(tmp_path, capsys):
    (tmp_path / "old.py").write_text("custom_hooks = []\nmodel = dict()\n")
    assert main(["port", str(tmp_path / "old.py"), "--to", str(tmp_path / "new"), "--prove"]) == 0
    assert capsys.readouterr().out.count(" equal") == 1


def test_what_a_class_does_not_accept_is_a_note_and_not_an_error(tmp_path):
    text, todos = port_text(tmp_path, 'optim_wrapper = dict(optimizer=dict(type="SGD", lr=1, foo=2))')
    assert todos == ["optimizer: SGD has no foo=2"]
    assert text.count("foo") == 1


def test_a_folder_without_old_files_is_refused(tmp_path):
    (tmp_path / "a.py").write_text("print(1)\n")
    with pytest.raises(PortError, match="no config and no code"):
        port_path(tmp_path, tmp_path / "new")
    assert main(["port", str(tmp_path / "missing")]) == 2


CODE = """
from mmengine.config import Config
from mmengine.fileio import join_path, load
from mmengine.hooks import Hook
from mmengine.model import BaseModule, is_model_wrapper
from mmengine.runner import EpochBasedTrainLoop
from mmengine.registry import HOOKS, MODELS


@HOOKS.register_module()
class Mine(Hook):
    def before_train(self, runner):
        if is_model_wrapper(runner.model):
            model = runner.model.module
        else:
            model = runner.model
        self.rank, self.cfg = runner.rank, runner.cfg


@MODELS.register_module()
class Net(BaseModule):
    def __init__(self, part=dict(type="Net"), other=None, third=None):
        super().__init__(init_cfg=[dict(type="Kaiming", layer="Conv2d"), dict(type="Pretrained", checkpoint="a.pth")])
        self.part = MODELS.build(part)
        if isinstance(other, dict):
            other = MODELS.build(other)
        third.setdefault("width", 3)
        self.third = MODELS.build(third)


class Loop(EpochBasedTrainLoop):
    def __init__(self, runner, dataloader, max_epochs, extra=1):
        super().__init__(runner, dataloader, max_epochs)
        self.extra = extra

    def run_iter(self, idx, data_batch):
        self.runner.call_hook("before_train_iter", batch_idx=idx)


cfg = Config.fromfile("a.py", lazy_import=False)
"""


def test_code(tmp_path):
    pytest.importorskip("libcst")
    text, todos = port_text(tmp_path, CODE)
    assert "register_module" not in text
    assert "MODELS" not in text
    assert "from lazyengine.fileio import join as join_path" in text
    assert "model = runner.model\n" in text
    assert "is_model_wrapper" not in text
    assert "part = part if part is not None else Net()" in text
    assert 'init_cfg=[KaimingInit(layer="Conv2d"), PretrainedInit(checkpoint="a.pth")]' in text
    assert "isinstance(other, dict)" not in text
    assert "def __init__(self, dataloader, max_epochs, extra=1)" in text
    assert "super().__init__(dataloader, max_epochs)" in text
    assert "def run_iter(self, runner, idx, data_batch)" in text
    assert 'cfg = LazyConfig.load("a.py")' in text
    assert [todo.partition(":")[0] for todo in todos] == [
        "mmengine's load",
        "runner.cfg",
        "the dict third is read or changed before it is built; what comes in is the object now",
    ]


RULES = """
from mmengine.optim import DefaultOptimWrapperConstructor
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class ByDimensions(DefaultOptimWrapperConstructor):
    def add_params(self, params, module, **kwargs):
        for parameter in module.parameters():
            factor = self.paramwise_cfg["factors"][parameter.ndim]
            params.append({"params": [parameter], "lr": self.base_lr * factor, "lr_scale": factor})
            if parameter.ndim == 1:
                params[-1]["weight_decay"] = self.base_wd * 0.5


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class Old(ByDimensions):
    def __init__(self, optim_wrapper_cfg, paramwise_cfg):
        paramwise_cfg["factors"] = paramwise_cfg.pop("multiples")
        super().__init__(optim_wrapper_cfg, paramwise_cfg)


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class Extended(DefaultOptimWrapperConstructor):
    def add_params(self, params, module, **kwargs):
        super().add_params(params, module, **kwargs)
"""
RULED = """
model = dict(type="Linear", in_features=2, out_features=3)
optim_wrapper = dict(
    optimizer=dict(type="SGD", lr=0.5, weight_decay=0.25), constructor="Old", paramwise_cfg=dict(multiples=[0, 3, 7]))
"""


def test_a_rule_for_parameter_groups_stays_one(tmp_path):
    pytest.importorskip("libcst")
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "rules.py").write_text(RULES)
    for constructor in ("Old", "ByDimensions", "Extended"):
        (tmp_path / "source" / f"{constructor.lower()}.py").write_text(RULED.replace('"Old"', f'"{constructor}"'))
    ported, _ = port_path(tmp_path / "source", tmp_path / "new")
    assert [Path(todo.file).stem for todo in ported.todos] == ["extended", "rules"]
    script = (
        "from lazyengine.config import LazyConfig, instantiate\ncfg = LazyConfig.load('old.py')\n"
        "groups = instantiate(cfg)['optimizer'].param_groups\n"
        "print([(group['lr'], group['weight_decay'], len(group['params'])) for group in groups])"
    )
    assert run(script, cwd=tmp_path / "new").strip() == "[(3.5, 0.25, 1), (1.5, 0.125, 1)]"


SCRIPT = """
import torch
from mmengine.config import Config
from mmengine.dataset import DefaultSampler
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement, PixelData
from torch.optim import SGD


class Sample(BaseDataElement):
    @property
    def scores(self) -> torch.Tensor:
        return self._scores

    @scores.setter
    def scores(self, value: torch.Tensor):
        self.set_field(value, "_scores", dtype=torch.Tensor)

    @scores.deleter
    def scores(self):
        del self._scores

    def best(self):
        return self.scores.max()


class Net(BaseModel):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def forward(self, x, mode="tensor"):
        if mode == "loss":
            return {"loss": self.layer(x).square().mean()}
        sample = Sample()
        sample.scores = self.layer(x)
        sample.set_metainfo(dict(size=len(x)))
        return [sample]


class Best(BaseMetric):
    def process(self, data_batch, data_samples):
        self.results += [(sample.best().item(), sample.metainfo["size"]) for sample in data_samples]

    def compute_metrics(self, results):
        return {"best": max(score for score, size in results)}


def main(folder, rate):
    data = [{"x": torch.full((1,), float(i))} for i in range(4)]
    runner = Runner(
        model=Net(),
        work_dir=folder,
        train_dataloader=dict(
            batch_size=2,
            dataset=data,
            sampler=dict(type=DefaultSampler, shuffle=False),
            collate_fn=dict(type="default_collate"),
        ),
        train_cfg=dict(by_epoch=True, max_epochs=2),
        optim_wrapper=dict(optimizer=dict(type=SGD, lr=rate)),
        param_scheduler=dict(type="MultiStepLR", milestones=[1]),
        val_dataloader=dict(
            batch_size=4,
            dataset=data,
            sampler=dict(type="DefaultSampler", shuffle=False),
            collate_fn=dict(type="default_collate"),
        ),
        val_cfg=dict(),
        val_evaluator=dict(type=Best),
    )
    runner.train()
    print(sorted(runner.val()), runner.optim_wrapper.get_lr()["lr"])


def other(path):
    cfg = Config.fromfile(path)
    cfg.work_dir = "here"
    cfg.merge_from_dict({"a": 1})
    return Runner.from_cfg(cfg)
"""


def test_a_script_that_makes_a_runner(tmp_path):
    pytest.importorskip("libcst")
    text, todos = port_text(tmp_path, SCRIPT, "script.py")
    assert "cfg.runner.work_dir" in text
    assert "@dataclass\nclass Sample:" in text
    assert "    scores: torch.Tensor | None = None" in text
    assert [todo.partition(":")[0] for todo in todos] == ["mmengine's PixelData", "cfg.merge_from_dict"]
    runnable = text.replace("from mmengine.structures import PixelData\n", "")
    (tmp_path / "new" / "script.py").write_text(runnable)
    out = run("from script import main; main('run', 0.1)", cwd=tmp_path / "new")
    assert out.splitlines()[-1] == "['best'] [0.010000000000000002]"


def write_class(tmp_path: Path, name: str, body: str = "class {}:\n    pass\n") -> None:
    (tmp_path / "source").mkdir(exist_ok=True)
    text = "import torch\nfrom torch.nn import Module\n\n\n@MODELS.register_module()\n" + body.format(name)
    (tmp_path / "source" / f"{name.lower()}9.py").write_text(text)


SCOPES = {  # three ways to say that a class is another package's
    "by the type": 'model = dict(type="dots9.Net", head=dict(type="dots9.Head"))\n',
    "by a scope, for all within": 'model = dict(type="Net", _scope_="dots9", head=dict(type="Head"))\n',
    "by a base config": '_base_ = ["dots9::net.py"]\nnet = _base_.model\nnet.width = 8\nmodel = net\n',
}


@pytest.mark.parametrize("said", SCOPES)
def test_classes_of_an_installed_package_are_found(tmp_path, monkeypatch, said):
    """The project has a class of the same name, which its own scope has."""
    registered = "from mmengine.registry import MODELS\n\n\n@MODELS.register_module()\nclass {}:\n    pass\n\n\n"
    files = {
        "site/dots9/__init__.py": "",
        "site/dots9/nets.py": registered.format("Net") + registered.format("Head"),
        "site/dots9/.mim/configs/net.py": 'model = dict(type="Net", head=dict(type="Head"))\n',
        "mine/setup.py": "",
        "mine/own/__init__.py": "",
        "mine/own/nets.py": registered.format("Head"),
        "mine/configs/a.py": f'{SCOPES[said]}default_scope = "own"\n',
        "mine/configs/b.py": 'default_scope = "own"\nmodel = dict(type="Head")\n',
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    ported, _ = port_path(tmp_path / "mine" / "configs", tmp_path / "new")
    assert not ported.todos
    texts = {old.name: new.read_text() for old, new in ported.written.items()}
    assert "from own.nets import Head" in texts["b.py"]
    assert "own.nets" not in texts["a.py"]
    assert not ported.failed
    with StandIns(["dots9", "own"]):
        model = LazyConfig.load(ported.written[tmp_path / "mine" / "configs" / "a.py"]).model
        assert (target_of(model).__module__, target_of(model.head).__module__) == ("dots9.nets", "dots9.nets")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('vis_kwargs = dict(type="GAN", name="x")', 'vis_kwargs=dict(type="GAN", name="x")'),
        ('init_cfg = dict(type="N02")', 'init_cfg=dict(type="N02")'),
        ('dcn_config = dict(type="DCN", groups=4)', 'dcn_config=dict(type="DCN", groups=4)'),
    ],
)
def test_settings_that_the_code_reads_by_itself_stay_dicts(tmp_path, old, new):
    write_class(tmp_path, "Own")
    text, todos = port_text(tmp_path, f'model = dict(type="Own", {old})')
    assert new in text
    assert not todos


@pytest.mark.parametrize("parts", [("a", "b"), ("a", "within"), ("within",)])
def test_each_of_several_optimizers_gets_its_part_of_the_model(tmp_path, parts):
    """A part that is no argument of the model is looked up in the built one."""
    wrappers = ", ".join(f'{part}=dict(optimizer=dict(type="SGD", lr=0.{i}))' for i, part in enumerate(parts, 1))
    body = "class {}(Module):\n    def __init__(self, a, b):\n        super().__init__()\n"
    write_class(tmp_path, "Pair", body + "        self.a, self.b, self.within = a, b, torch.nn.Linear(5, 5)\n")
    text, todos = port_text(
        tmp_path,
        f'model = dict(type="Pair", a=dict(type="Linear", in_features=1, out_features=1), '
        f'b=dict(type="Linear", in_features=2, out_features=2))\noptim_wrapper = dict(constructor="Own", {wrappers})\n',
    )
    assert not todos
    module = (tmp_path / "source" / "pair9.py").read_text().replace("@MODELS.register_module()", "")
    (tmp_path / "new" / "pair9.py").write_text(module)
    (tmp_path / "new" / "old.py").write_text(text.replace("from pair9", "from .pair9"))
    built = instantiate(LazyConfig.load(tmp_path / "new" / "old.py"))
    for i, part in enumerate(parts, 1):
        group = built["optim_wrapper"][part].param_groups[0]
        assert group["lr"] == i / 10
        assert group["params"][0] is getattr(built["model"], part).weight


def test_what_else_a_constructor_of_several_optimizers_read_is_a_note(tmp_path):
    wrapper = (
        'dict(constructor="Own", a=dict(optimizer=dict(type="SGD", lr=1)), b=dict(optimizer=dict(type="SGD", lr=1)), '
    )
    for more in ("by_scale={8: 0.1})", "modules=['a', 'b'])"):
        assert any("several optimizers" in todo for todo in port_text(tmp_path, f"optim_wrapper = {wrapper}{more}")[1])


@pytest.mark.parametrize(("loop", "is_noted"), [("Multi", False), ("ValLoop", True), (None, True)])
def test_several_loaders_are_a_list_for_a_loop_of_the_project(tmp_path, loop, is_noted):
    write_class(tmp_path, "Multi")
    loaders = (
        '[dict(batch_size=1, dataset=dict(type="ConcatDataset", datasets=[]), sampler=dict(type="DefaultSampler"))]'
    )
    cfg = f'dict(type="{loop}")' if loop else "dict()"
    text, todos = port_text(tmp_path, f"val_dataloader = {loaders}\nval_cfg = {cfg}\n")
    assert any("several loaders" in todo for todo in todos) == is_noted
    assert "L(DataLoader)(" in text
    assert "sampler=L(DefaultSampler)(dataset=L(ConcatDataset)" in text


@pytest.mark.parametrize(("counts", "is_said"), [(4, True), (1, False), (None, False)])
def test_an_average_counts_iterations_where_gradients_are_accumulated(tmp_path, counts, is_said):
    wrapper = "" if counts is None else f"optim_wrapper = dict(accumulative_counts={counts})\n"
    text, _ = port_text(tmp_path, f'{wrapper}custom_hooks = [dict(type="EMAHook", momentum=0.1)]\n')
    assert ("count_iters=True" in text) == is_said


@pytest.mark.parametrize("kind", ['"MMSeparateDistributedDataParallel"', '"MMDistributedDataParallel"'])
def test_the_wrapper_of_each_part_is_one_around_the_model(tmp_path, kind):
    text, todos = port_text(tmp_path, f"model_wrapper_cfg = dict(type={kind}, find_unused_parameters=True)")
    assert "wrapper=L(DDP)(find_unused_parameters=True)" in text
    assert not todos


def test_what_was_changed_by_hand_is_kept_when_asked(tmp_path, capsys):
    (tmp_path / "old.py").write_text('model = dict(type="Nowhere", depth=3)\n')
    command = ["port", str(tmp_path / "old.py"), "--to", str(tmp_path / "new")]
    assert main(command) == 1
    done = "import collections\nfrom lazyengine.config import LazyCall as L\nmodel = L(collections.Counter)(depth=3)\n"
    (tmp_path / "new" / "old.py").write_text(done)
    assert main([*command, "--keep"]) == 0
    assert (tmp_path / "new" / "old.py").read_text() == done
    capsys.readouterr()
    assert main([*command, "--keep", "--prove"]) == 1
    assert "model.type: 'Nowhere' -> 'Counter'" in capsys.readouterr().out
    assert main(command) == 1
    assert "Nowhere" in (tmp_path / "new" / "old.py").read_text()


MEASURED = """
from lazyengine.config import LazyCall as L
from lazyengine.dataset import DataLoader
from lazyengine.optim import OptimWrapper, param_groups
from lazyengine.runner import EpochBasedTrainLoop, Runner
from torch.optim import SGD
from .net import Net, Rows
model = L(Net)(std=0.5)
groups = L(param_groups)(model=model, custom_keys={"head": dict(decay_mult=2.0)})
optimizer = L(SGD)(params=groups, lr=0.1, weight_decay=0.5)
train_loop = L(EpochBasedTrainLoop)(dataloader=L(DataLoader)(dataset=L(Rows)(), batch_size=2), max_epochs=1)
runner = L(Runner)(model=model, optim_wrapper=L(OptimWrapper)(optimizer=optimizer), train_loop=train_loop)
"""
NET = """
import torch
from lazyengine.model import BaseModel, BaseDataPreprocessor


class Rows(torch.utils.data.Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        return {"x": torch.full((30,), float(index))}


class Net(BaseModel):
    def __init__(self, std):
        super().__init__(data_preprocessor=BaseDataPreprocessor())
        self.body, self.head = torch.nn.Linear(30, 30), torch.nn.Linear(30, 1)
        self.std = std

    def init_weights(self):
        torch.nn.init.normal_(self.body.weight, std=self.std)
        torch.nn.init.constant_(self.head.weight, self.std)

    def forward(self, x, mode="tensor", **more):
        return {"loss": self.head(self.body(x)).sum()}
"""


@pytest.mark.parametrize(
    ("planted", "column", "part"),
    [
        (("std=0.5", "std=0.5"), None, None),
        (("decay_mult=2.0", "decay_mult=1.0"), "rates", "head.weight"),
        (("weight_decay=0.5", "weight_decay=0.4"), "rates", "body.weight"),
        (("std=0.5", "std=2.0"), "init", "body.weight"),
        (("L(Net)", "L(Other)"), "init", "head.weight"),
    ],
)
def test_an_experiment_is_measured_so_that_a_planted_difference_shows(tmp_path, planted, column, part):
    """The two sides of a proof are compared, with lazyengine's measure for both."""
    from lazyengine.port.measure import measure_new
    from lazyengine.port.prove import MEASURES

    other = (
        "\n\nclass Other(Net):\n    def init_weights(self):\n        torch.nn.init.normal_(self.body.weight, std=0.5)\n"
    )
    found = []
    for name, (old, new) in {"one": ("", ""), "two": planted}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "net.py").write_text(NET + other)
        text = MEASURED.replace("import Net,", "import Net, Other,").replace(old, new) if old else MEASURED
        (tmp_path / name / "config.py").write_text(text)
        weights = instantiate(LazyConfig.load(tmp_path / name / "config.py").model).state_dict()
        torch.save({key: torch.ones_like(value) for key, value in weights.items()}, tmp_path / "weights.pth")
        found.append(measure_new(str(tmp_path / name / "config.py"), str(tmp_path / "weights.pth")))
    results = {name: compare(found[0][name], found[1][name]) for name, compare in MEASURES.items()}
    odd = {name: result for name, result in results.items() if not result.startswith("equal")}
    assert list(odd) == ([column] if column else [])
    assert part is None or part in odd[column]
