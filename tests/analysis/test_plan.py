"""`lazyengine plan`: what it says without values is what a real run then does."""

import copy
import json
from pathlib import Path

import pytest
import torch
from torch import nn

from lazyengine import _torch
from lazyengine.analysis import planning
from lazyengine.analysis.cost import Seconds, cost_of
from lazyengine.analysis.metering import Meter
from lazyengine.analysis.planning import Plan, modules_of, on_ranks
from lazyengine.cli.main import main
from lazyengine.cli.plan import maker_of
from lazyengine.config import LazyCall, LazyConfig
from lazyengine.hooks import CheckpointHook, EMAHook, Hook, Priority, UnfreezeHook
from lazyengine.hooks.devices import find_device
from lazyengine.model import ModelSetup
from lazyengine.optim import param_groups
from lazyengine.runner import IterBasedTrainLoop, Runner

DIGITS = "projects/digits/config.py"
CHANGES = {
    DIGITS: [
        "model.width=64",
        "train_loop.dataloader.batch_size=50",
        "runner.optim_wrapper.accumulative_counts=2",
        "runner.optim_wrapper.clip_grad=None",
        "optimizer.foreach=False",
        "optimizer.amsgrad=True",
    ],
    "projects/digits/long_config.py": ["optimizer.momentum=0.0", "model.width=32", "optimizer.nesterov=True"],
    "projects/gan_digits/config.py": [
        "generator.width=48",
        "model.penalty=0.2",
        "train_loop.dataloader.batch_size=16",
        "generator_optimizer.amsgrad=True",
        "discriminator.width=16",
        "generator.noise_size=8",
    ],
}
LARGER = {
    "projects/finetune/pretrain_config.py": [
        "vit.num_hidden_layers=2",
        "vit.hidden_size=32",
        "train_loop.dataloader.batch_size=8",
        "runner.optim_wrapper.accumulative_counts=4",
        "vit.hidden_dropout_prob=0.1",
        "optimizer.amsgrad=True",
    ],
    "projects/shakespeare/config.py": [
        "model.num_layers=2",
        "model.rotary=True",
        "model.dropout=0.1",
        "dataset.context=32",
        "model.qk_norm=True",
        "train_loop.dataloader.batch_size=4",
    ],
    "projects/fashion_mnist/ema_config.py": [
        "model.widths=(16,32,64)",
        "train_loop.dataloader.batch_size=64",
        "optimizer.foreach=False",
        "default_hooks.ema.update_buffers=False",
        "optim_wrapper.accumulative_counts=2",
        "model.label_smoothing=0.0",
    ],
    "projects/fashion_mnist/bf16_config.py": [
        "model.widths=(16,32,64)",
        "train_loop.dataloader.batch_size=64",
        "optim_wrapper.dtype=float16",
        "optimizer.foreach=False",
        "optim_wrapper.accumulative_counts=2",
        "model.label_smoothing=0.0",
    ],
}


class MeteredHook(Hook):
    """Counts a real run for some iterations, hooks and loader included, and ends it."""

    priority = Priority.LOWEST

    def __init__(self, num_iters):
        self.num_iters = num_iters

    def before_train(self, runner):
        self.meter = Meter(runner.model)
        self.context = self.meter.counting()
        self.context.__enter__()

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.meter.flops.clear()

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter + 1 == self.num_iters:
            self.context.__exit__(None, None, None)
            raise SystemExit


def counted_run(config, overrides, folder):
    """The most bytes alive in a real training of a few iterations, averaged weights left out, and its FLOPs."""
    cfg = LazyConfig.apply_overrides(LazyConfig.load(config), list(overrides))
    runner = Runner.from_cfg(cfg, work_dir=str(folder))
    count = max(wrapper.accumulative_counts for wrapper in runner.optim_wrapper.named().values())
    hook = MeteredHook(2 * count + 1)
    runner.register_hook(hook)
    with pytest.raises(SystemExit):
        runner.train()
    flops = {}
    for (phase, _), number in hook.meter.flops.items():
        flops[phase] = flops.get(phase, 0) + number
    return hook.meter.peak, flops


def check(config, overrides, folder, data=()):
    overrides = [*overrides, *data]
    cost = cost_of(maker_of(config, overrides, str(folder / "nowhere")))
    assert cost.counted_in == "fake tensors"
    assert not (folder / "nowhere").exists()
    peak, flops = counted_run(config, overrides, folder / "run")
    assert {phase: cost.flops_of(phase) for phase in flops} == flops
    planned = cost.peak_bytes - cost.bytes_of("averaged weights")
    assert planned == pytest.approx(peak, rel=0.03)
    return planned / peak


@pytest.mark.parametrize(("config", "change"), [(c, each) for c, changes in CHANGES.items() for each in changes])
def test_flops_are_exact_and_the_peak_is_within_3_percent_of_a_real_run(config, change, tmp_path):
    check(config, [change], tmp_path)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Overrides that name data of the right form for each project whose own is not in the repository."""
    folder = tmp_path_factory.mktemp("data")
    Path(folder, "text.txt").write_text("".join(map(chr, range(58, 123))) * 2000)
    for name, number in (("train", 2048), ("t10k", 256)):
        images, labels = torch.zeros(number * 784, dtype=torch.uint8), torch.zeros(number, dtype=torch.uint8)
        sizes = b"".join(size.to_bytes(4, "big") for size in (number, 28, 28))
        head, short = b"\0\0\x08\x03", b"\0\0\x08\x01" + number.to_bytes(4, "big")
        Path(folder, f"{name}-images-idx3-ubyte").write_bytes(head + sizes + images.numpy().tobytes())
        Path(folder, f"{name}-labels-idx1-ubyte").write_bytes(short + labels.numpy().tobytes())
    return {"shakespeare": [f"dataset.file={folder}/text.txt"], "fashion_mnist": [f"train_dataset.root={folder}"]}


@pytest.mark.suite
@pytest.mark.parametrize(("config", "change"), [(c, each) for c, changes in LARGER.items() for each in changes])
def test_the_same_of_the_larger_projects(config, change, tmp_path, data):
    if "finetune" in config:
        pytest.importorskip("transformers")
    check(config, [change], tmp_path, data.get(config.split("/")[1], ()))


def test_a_linear_layer_costs_what_it_must():
    net = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 2))
    meter = Meter(net)
    with meter.counting():
        net(torch.ones(5, 6)).sum().backward()
    first, second = 2 * 5 * 6 * 4, 2 * 5 * 4 * 2
    assert meter.flops == {
        ("forward", "0"): first,
        ("forward", "1"): second,
        ("backward", "1"): 2 * second,  # of the input and of the weight
        ("backward", "0"): first,  # the first input needs no gradient
    }
    assert sum(n for (kind, _), n in meter.at_peak.items() if kind == "weights") == 4 * (6 * 4 + 4 + 4 * 2 + 2)


def test_kinds_and_modules_add_up_to_the_whole(tmp_path):
    cost = cost_of(maker_of(DIGITS, (), str(tmp_path)))
    assert sum(cost.at_peak.values()) == cost.peak_bytes
    whole = modules_of(cost)[""]
    assert whole["state"] + whole["activations"] == cost.peak_bytes
    assert (whole["forward"], whole["backward"]) == (cost.flops_of("forward"), cost.flops_of("backward"))
    assert whole["parameters"] == cost.parameters == 57_562
    assert cost.bytes_of("optimizer") >= 2 * 4 * cost.parameters


class AsksForAValue(nn.Module):
    """A model whose number of operations depends on its data."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(64, 10)

    def forward(self, image, label):
        chosen = image.flatten(1)[label > 4]
        return {"loss": self.net(chosen).square().mean()}


def test_a_model_that_asks_for_values_is_counted_in_real_steps(tmp_path):
    cfg = LazyConfig.load(DIGITS)
    cfg.runner.val_loop = None

    def make():
        runner = Runner.from_cfg(cfg, work_dir=str(tmp_path))
        net = AsksForAValue()
        runner.__dict__["model"] = net
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        runner.__dict__["optim_wrapper"] = type(runner.optim_wrapper)(optimizer)
        return runner

    cost = cost_of(make)
    assert cost.counted_in.startswith("real steps, since with fake tensors: DynamicOutputShapeException")
    assert cost.flops_of("forward") > 0


class Teaching(nn.Module):
    """A model that copies its parts in its constructor; the values of two are known although all are without memory."""

    num_begun = 0

    def __init__(self):
        super().__init__()
        Teaching.num_begun += 1
        norm = nn.BatchNorm1d(8)
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), norm)
        self.net.register_parameter("scale", nn.Parameter(torch.tensor(2.0)))
        self.net.register_buffer("steps", norm.num_batches_tracked)
        self.teacher = copy.deepcopy(self.net).requires_grad_(False)
        assert self.teacher.steps is dict(self.teacher.named_buffers(remove_duplicate=False))["2.num_batches_tracked"]
        assert isinstance(self.teacher.scale, nn.Parameter)

    def forward(self, image, label):
        return {"loss": (self.net(image) * self.net.get_parameter("scale") - self.teacher(image)).square().mean()}


@pytest.mark.parametrize("copied_by", ["constructor", "hook", "both"])
def test_copies_of_what_has_no_memory_have_none(copied_by, tmp_path, monkeypatch):
    monkeypatch.setattr(Teaching, "num_begun", 0)
    cfg = LazyConfig.load(DIGITS)
    cfg.runner.val_loop = None
    if copied_by != "hook":
        cfg.runner.model = cfg.optimizer.params.model = LazyCall(Teaching)()
    if copied_by != "constructor":
        cfg.runner.hooks = {**cfg.runner.hooks, "average": LazyCall(EMAHook)()}
    cost = cost_of(lambda: Runner.from_cfg(cfg, work_dir=str(tmp_path)))
    assert cost.counted_in == "fake tensors"
    assert Teaching.num_begun == (copied_by != "hook")  # and not once more, with memory
    if copied_by != "constructor":
        average = next(hook for hook in cost.runner.hooks if isinstance(hook, EMAHook)).ema_model
        assert average is not None
        assert type(average.module) is type(cost.runner.model)  # and not parts alone, as of a model that refuses
        assert cost.bytes_of("averaged weights") == cost.bytes_of("weights")


def test_the_file_of_a_checkpoint_has_the_size_that_was_planned(tmp_path):
    overrides = ["train_loop.max_epochs=1", "train_loop.val_interval=0", "default_hooks.checkpoint.save_best=None"]
    plan = Plan(maker_of(DIGITS, overrides, str(tmp_path / "none")), steps=0)
    runner = Runner.from_cfg(LazyConfig.apply_overrides(LazyConfig.load(DIGITS), overrides), work_dir=str(tmp_path))
    runner.train()
    found = plan.checkpoints()
    assert found["saved"] == found["kept"] == 1
    assert found["bytes"] == pytest.approx((tmp_path / "epoch_1.pth").stat().st_size, rel=0.03)


@pytest.mark.parametrize(
    ("overrides", "saved", "kept"),
    [
        ([], 15, 3),
        (["default_hooks.checkpoint.interval=4"], 4, 3),
        (["default_hooks.checkpoint.interval=4", "default_hooks.checkpoint.save_last=False"], 3, 3),
        (["default_hooks.checkpoint.interval=-1", "default_hooks.checkpoint.max_keep_ckpts=-1"], 1, 1),
        (["default_hooks.checkpoint.interval=5", "default_hooks.checkpoint.save_begin=7"], 3, 3),
    ],
)
def test_checkpoints_are_counted_as_they_are_saved(overrides, saved, kept, tmp_path):
    found = Plan(maker_of(DIGITS, overrides, str(tmp_path)), steps=0).checkpoints()
    assert (found["saved"], found["kept"], found["best"]) == (saved, kept, 1)


class Looks(nn.Module):
    """A model that asks for a value of its own, and whose operations depend on it, or not."""

    def __init__(self, way="ignored"):
        super().__init__()
        self.inner, self.head, self.way = nn.Linear(64, 64), nn.Linear(64, 10), way

    def forward(self, image, label):
        x = self.inner(image.flatten(1))
        if self.way == "number":
            for _ in range(int(label.max().item())):
                x = self.inner(x)
        elif self.way == "branch":
            if x.sum() > 1e9:
                x = self.inner(x)
        elif self.way == "loop":
            while not (x.square().mean() < 1e9).item():
                x = self.inner(x)
        elif self.way == "exit":
            if x.square().mean().item() < 1e9:
                x = self.inner(x)
        else:
            x.mean().item()
        return {"loss": nn.functional.cross_entropy(self.head(x), label)}


class Bags(nn.Module):
    def __init__(self):
        super().__init__()
        self.bag, self.head = nn.EmbeddingBag(2000, 64, sparse=True, mode="sum"), nn.Linear(64, 10)

    def forward(self, image, label):
        return {"loss": nn.functional.cross_entropy(self.head(self.bag(image.flatten(1).long())), label)}


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.net, self.head = nn.LSTM(8, 32, batch_first=True), nn.Linear(32, 10)

    def forward(self, image, label):
        return {"loss": nn.functional.cross_entropy(self.head(self.net(image.squeeze(1))[0][:, -1]), label)}


def digits_with(folder, model, *overrides, optimizer=torch.optim.SGD):
    """What makes a runner of the digits with another model and no validation."""
    cfg = LazyConfig.load(DIGITS)
    cfg.runner.val_loop = None
    cfg.runner.hooks["checkpoint"].save_best = None
    cfg.runner.param_schedulers = None
    cfg.runner.model = model
    cfg.runner.optim_wrapper.optimizer = LazyCall(optimizer)(params=LazyCall(param_groups)(model=model), lr=0.01)
    cfg.runner.optim_wrapper.clip_grad = None
    cfg = LazyConfig.apply_overrides(cfg, overrides)
    return lambda: Runner.from_cfg(cfg, work_dir=str(folder))


def peak_and_flops(make, num_iters=3):
    runner, hook = make(), MeteredHook(num_iters)
    runner.register_hook(hook)
    with pytest.raises(SystemExit):
        runner.train()
    return hook.meter.peak, hook.meter.flops.total()


@pytest.mark.parametrize("way", ["number", "branch", "loop", "exit"])
def test_what_depends_on_a_value_is_counted_with_it(way, tmp_path):
    make = digits_with(tmp_path, LazyCall(Looks)(way=way))
    cost = cost_of(make)
    if way != "exit":  # of which the first guess is right, and the other one gives the same
        assert "real steps" in cost.counted_in
        assert "test_plan.py:" in cost.counted_in
    assert (cost.peak_bytes, cost.total_flops) == (
        pytest.approx(peak_and_flops(make)[0], rel=0.03),
        peak_and_flops(make)[1],
    )


def test_a_value_that_makes_no_difference_is_guessed_and_that_is_said(tmp_path):
    make = digits_with(tmp_path, LazyCall(Looks)())
    cost = cost_of(make)
    assert cost.counted_in.startswith("fake tensors; values that test_plan.py:")
    assert (cost.peak_bytes, cost.total_flops) == (
        pytest.approx(peak_and_flops(make)[0], rel=0.03),
        peak_and_flops(make)[1],
    )


@pytest.mark.parametrize("model", [Bags, Recurrent])
def test_memory_that_only_values_or_a_kernel_know_is_counted_in_real_steps(model, tmp_path):
    make = digits_with(tmp_path, LazyCall(model)())
    cost = cost_of(make)
    assert "NeedsValuesError" in cost.counted_in
    assert cost.peak_bytes == pytest.approx(peak_and_flops(make)[0], rel=0.03)


def test_an_lstm_has_the_flops_of_its_products():
    counted = []
    for dtype in (torch.float32, torch.float64):  # of which only the first has an operator of its own
        net, x = nn.LSTM(8, 32, batch_first=True, dtype=dtype), torch.ones(4, 5, 8, dtype=dtype, requires_grad=True)
        meter = Meter(net)
        with meter.counting():
            states = (torch.zeros(1, 4, 32, dtype=dtype, requires_grad=True) for _ in range(2))
            net(x, tuple(states))[0].sum().backward()
        counted.append(
            {what: sum(n for (p, _), n in meter.flops.items() if p == what) for what in ("forward", "backward")}
        )
        assert not meter.uncounted
    assert counted[0] == counted[1] == {"forward": 2 * 20 * 128 * (8 + 32), "backward": 4 * 20 * 128 * (8 + 32)}


def test_layers_without_shapes_are_refused_as_training_refuses_them(tmp_path):
    class Late(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.LazyLinear(10)

    with pytest.raises(TypeError, match=r"shapes of net.weight, net.bias are known after the first batch"):
        cost_of(digits_with(tmp_path, LazyCall(Late)()))


@pytest.mark.parametrize(
    ("overrides", "hooks"),
    [
        (["runner.optim_wrapper.accumulative_counts=4"], {"interval": 3, "by_epoch": False}),
        (["runner.optim_wrapper.accumulative_counts=7"], {"interval": 1}),
        ([], {"interval": 1, "save_optimizer": False}),
        (["runner.save=trained"], {"interval": 1}),
        ([], {"interval": 1, "published_keys": "state_dict", "max_keep_ckpts": 1}),
        ([], {"interval": 1, "save_best": "auto"}),  # and nothing validates
        (["iters"], {"interval": 1, "by_epoch": True}),
        (["iters"], {"interval": 1, "by_epoch": True, "max_keep_ckpts": 2}),
        (["ema", "runner.save=trained"], {"interval": 1}),
    ],
)
def test_files_are_as_many_and_as_large_as_planned(overrides, hooks, tmp_path, monkeypatch):
    cfg = LazyConfig.load(DIGITS)
    cfg.runner.val_loop = None
    cfg.runner.model_setup = ModelSetup(freeze=["backbone"])
    cfg.train_loop.max_epochs, cfg.train_loop.limit = 3, 5
    if "iters" in overrides:
        cfg.runner.train_loop = LazyCall(IterBasedTrainLoop)(
            dataloader=cfg.train_loop.dataloader, max_iters=13, limit=5
        )
    if "ema" in overrides:
        cfg.runner.hooks = {**cfg.runner.hooks, "ema": LazyCall(EMAHook)()}
    cfg.runner.hooks = {**cfg.runner.hooks, "checkpoint": LazyCall(CheckpointHook)(**hooks)}
    cfg = LazyConfig.apply_overrides(cfg, [each for each in overrides if "=" in each])
    found = Plan(lambda: Runner.from_cfg(cfg, work_dir=str(tmp_path / "none")), steps=0).checkpoints()
    runner, saved = Runner.from_cfg(cfg, work_dir=str(tmp_path)), []
    save = runner.save_checkpoint
    monkeypatch.setattr(
        runner, "save_checkpoint", lambda name, **options: (saved.append(name), save(name, **options))[1]
    )
    runner.train()
    sizes = [path.stat().st_size for path in tmp_path.glob("*.pth")]
    assert found["saved"] == len(saved)
    assert found["kept"] + found["best"] + found["published"] == len(sizes)
    assert max(sizes) == pytest.approx(found["bytes"], abs=16_000)
    assert sum(sizes) <= found["disk_bytes"]


def test_saves_by_time_are_named(tmp_path):
    for by_epoch, keep, is_unlimited in ((False, -1, True), (False, 2, False), (True, -1, False)):
        cfg = LazyConfig.load(DIGITS)
        cfg.runner.hooks["checkpoint"].every_s, cfg.runner.hooks["checkpoint"].by_epoch = 60, by_epoch
        cfg.runner.hooks["checkpoint"].max_keep_ckpts, cfg.runner.hooks["checkpoint"].interval = keep, -1
        cfg.runner.hooks["checkpoint"].save_last = False
        plan = Plan(lambda cfg=cfg: Runner.from_cfg(cfg, work_dir=str(tmp_path)), steps=0)
        found, text = plan.checkpoints(), plan.as_text()
        assert (found["saved"], found["by_time"], found["is_unlimited"]) == (0, True, is_unlimited)
        assert "every_s saves more" in text
        assert ("all that every_s saves" in text) == is_unlimited


def test_what_is_unfrozen_later_is_said(tmp_path):
    cfg = LazyConfig.load(DIGITS)
    cfg.runner.model_setup = ModelSetup(freeze=["backbone"])
    cfg.runner.hooks = {**cfg.runner.hooks, "late": LazyCall(UnfreezeHook)(at=2, patterns="backbone")}
    text = Plan(lambda: Runner.from_cfg(cfg, work_dir=str(tmp_path)), steps=0).as_text()
    assert "UnfreezeHook trains backbone after 2 epochs" in " ".join(text.split())


def test_ranks_share_the_batches_of_an_epoch_and_workers_read_beside(tmp_path):
    plan = Plan(maker_of(DIGITS, ["train_loop.dataloader.num_workers=2"], str(tmp_path)), steps=0)
    text = " ".join(part for row in on_ranks(plan, 8, "H100") for part in row)
    assert "256 samples an iteration of all ranks, 90 iterations" in text
    assert "for all 90 iterations" in text
    plan.seconds = Seconds(step=1.0, read=3.0, val=None, source="")
    assert plan.iteration_s() == 1.5
    several = Plan(maker_of("projects/digits/iter_config.py", [], str(tmp_path)), steps=0)
    iters = several.cost.runner.train_loop.max_iters
    assert f"{iters:,} iterations" in " ".join(part for row in on_ranks(several, 8) for part in row)


# ---------------------------------------------------------------------------------------------------- the commands
def run(capsys, *arguments):
    code = main(arguments)
    return code, capsys.readouterr().out


def test_the_text_has_all_of_it_within_100_columns(capsys):
    code, text = run(capsys, "plan", DIGITS, "model.width=64", "--ranks", "8", "--gpu", "H100", "--depth", "1")
    assert code == 0
    for part in (
        "95,178 parameters",
        "FLOP forward",
        "at the peak",
        "675 iterations",
        "samples/s",
        "disk",
        "all-reduce",
    ):
        assert part in text
    assert max(map(len, text.splitlines())) <= 100
    assert "in validation fits into 80 GiB" in text  # whose batches are four times as large


@pytest.mark.parametrize(("val_batch", "ranks", "fits"), [(64, 1, True), (128, 1, False), (128, 4, False)])
def test_a_device_that_is_too_small_for_the_validation_does_not_fit(val_batch, ranks, fits, tmp_path, monkeypatch):
    overrides = [f"val_loop.dataloader.batch_size={val_batch}", "runner.model_setup=None"]
    plan = Plan(maker_of(DIGITS, overrides, str(tmp_path)), steps=0)
    between = (plan.cost.peak_bytes + 2**20) / 2**30  # more than training takes, buckets included
    assert plan.cost.peak_bytes + plan.cost.gradient_bytes < 0.9 * between * 2**30
    h100 = find_device("H100")
    assert h100 is not None
    monkeypatch.setattr(planning, "find_device", lambda name: h100._replace(memory_gib=between))
    ((_, text),) = [row for row in on_ranks(plan, ranks, "H100") if row[0].startswith("H100")]
    assert ("does NOT fit" not in text) == fits


def test_against_another_config(capsys):
    found = {}
    for change in ("model.width=64", "optimizer.lr=0.01", "train_loop.dataloader.batch_size=16", ""):
        code, text = run(capsys, "plan", DIGITS, *filter(None, [change]), "--steps", "0", "--json", "--against", DIGITS)
        assert code == 0
        found[change] = json.loads(text)["against"]
    assert found["model.width=64"]["weights"]["fit"] == 3
    assert "weights have another shape" in found["model.width=64"]["why"][0]
    assert found["optimizer.lr=0.01"]["changes"] == ["optimizer.lr: 0.003 -> 0.01 (in force on a resume)"]
    assert found["optimizer.lr=0.01"]["resume"] == "goes on, as another run from there on"
    assert "global batches of 32 samples" in found["train_loop.dataloader.batch_size=16"]["why"][0]
    assert (found[""]["resume"], found[""]["changes"]) == ("exact", [])
    _, text = run(capsys, "plan", "projects/digits/long_config.py", "model.width=48", "--steps=0", "--against", DIGITS)
    assert "that of AdamW, and this optimizer is SGD" in " ".join(text.split())


def test_against_a_run_takes_its_speed(capsys, tmp_path):
    runner = Runner.from_cfg(
        LazyConfig.apply_overrides(LazyConfig.load(DIGITS), ["train_loop.max_epochs=1"]), work_dir=str(tmp_path)
    )
    runner.train()
    capsys.readouterr()
    code, text = run(capsys, "plan", DIGITS, "--json", "--against", str(tmp_path))
    found = json.loads(text)
    assert code == 0
    assert "s an iteration in" in found["seconds"]["source"]
    assert found["against"]["weights"]["fit"] == 14


def test_ranks_under_ddp(capsys):
    arguments = ("plan", DIGITS, "--steps", "0", "--ranks", "4")
    code, text = run(capsys, *arguments, "runner.model_setup=None")
    assert code == 0
    assert "DDP: each holds all" in text


def test_summary_is_the_same_function(capsys, tmp_path):
    code, text = run(capsys, "summary", DIGITS, "--json")
    assert code == 0
    assert json.loads(text) == modules_of(cost_of(maker_of(DIGITS, (), str(tmp_path))))
    code, text = run(capsys, "summary", DIGITS)
    assert "backbone" in text


def test_mistakes_end_with_2(capsys, tmp_path):
    assert main(["plan", DIGITS, "--gpu", "H1000"]) == 2
    assert "Did you mean 'H100'" in capsys.readouterr().err
    assert main(["plan", DIGITS, "model.widht=3"]) == 2
    for option in ("--depth", "--steps", "--ranks"):
        assert main(["plan", DIGITS, option, "-1"]) == 2
        assert f"{option} -1" in capsys.readouterr().err
    Path(tmp_path, "plain.py").write_text("a = 1\n")
    assert main(["plan", str(tmp_path / "plain.py")]) == 2
    assert "has no `runner`" in capsys.readouterr().err


def test_without_private_parts_it_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(_torch, "PRIVATE", False)
    with pytest.raises(NotImplementedError, match="no dispatch mode"):
        cost_of(maker_of(DIGITS, (), str(tmp_path)))
