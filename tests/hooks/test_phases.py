"""Where the time of a training goes, and how fast it is: measured on some iterations, without touching the others."""

import json
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from lazyengine.analysis.profiling import profile
from lazyengine.cli.main import main
from lazyengine.cli.plan import maker_of
from lazyengine.config import LazyCall, LazyConfig
from lazyengine.dataset import CombinedLoader
from lazyengine.dataset.counting import count_batch
from lazyengine.hooks import Hook, IterTimerHook, Priority
from lazyengine.hooks.devices import find_device
from lazyengine.hooks.phases import EVERY, SELDOM, PhaseTimer
from lazyengine.runner import Runner
from lazyengine.runner.loops import Position
from lazyengine.runs.verifying import MEASURED, find_difference

DIGITS = "projects/digits/config.py"
PHASES = ["data", "forward", "backward", "step", "hooks", "logging", "saving"]


def trained(folder, *overrides, config=DIGITS, hook=None):
    runner = Runner.from_cfg(LazyConfig.apply_overrides(LazyConfig.load(config), overrides), work_dir=str(folder))
    if hook is not None:
        runner.register_hook(hook)
    runner.train()
    (metrics,) = folder.glob("*/metrics.jsonl")
    (log,) = folder.glob("*/*.log")
    return runner, list(map(json.loads, metrics.read_text().splitlines())), log.read_text()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("phases"), "train_loop.max_epochs=1")


def test_the_phases_add_up_to_the_training(run):
    runner, records, log = run
    (record,) = (each for each in records if "phase/data_s" in each)
    seconds = {name: record[f"phase/{name}_s"] for name in PHASES}
    assert all(value >= 0 for value in seconds.values())
    assert min(seconds[name] for name in ("data", "forward", "backward", "step", "logging", "saving")) > 0
    times = [each["time"] for each in records if each["mode"] == "train" and "time" in each]
    assert sum(seconds.values()) > 0.5 * min(times) * runner.iter
    assert "time by phase" in log
    assert "samples/s" in log


def test_each_line_has_samples_a_second(run):
    lines = [each for each in run[1] if each["mode"] == "train" and "loss" in each]
    assert lines
    assert all(each["samples_per_s"] == pytest.approx(32 / each["time"]) for each in lines)
    assert "tokens_per_s" not in lines[0]


class Pretends(Hook):
    """Says that it has spent an hour at a point, in no iteration's time."""

    def __init__(self, point):
        self.spent_s = {"saving": 0.0}
        setattr(self, point, self.spend)

    def before_train(self, runner):
        self.spent_s = {"saving": 0.0}

    def spend(self, runner, metrics=None):
        self.spent_s["saving"] += 3600.0

    def after_train_epoch(self, runner): ...

    def after_val_epoch(self, runner, metrics=None): ...


@pytest.mark.parametrize("config", [DIGITS, "projects/digits/iter_config.py"])
@pytest.mark.parametrize("point", ["after_train_epoch", "after_val_epoch"])
def test_what_is_spent_between_iterations_is_not_taken_from_them(point, config, tmp_path):
    by_iter = ["train_loop.max_iters=80", "train_loop.val_interval=40"]
    ends = ["train_loop.max_epochs=2"] if config == DIGITS else by_iter
    _, records, _ = trained(tmp_path, *ends, config=config, hook=Pretends(point))
    (record,) = (each for each in records if "phase/data_s" in each)
    assert record["phase/saving_s"] >= 3600
    assert min(record[f"phase/{name}_s"] for name in ("data", "forward", "backward", "step")) > 0
    assert record["phase/forward_s"] < 600


class PretendsAtTheEnd(Pretends):
    """Says so in the last iteration of an epoch."""

    priority = Priority.LOWEST

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if batch_idx + 1 == runner.train_loop.epoch_length:
            self.spend(runner)


def test_a_save_in_the_last_iteration_of_an_epoch_is_not_taken_from_the_others(tmp_path):
    hook = PretendsAtTheEnd("after_run")
    _, records, _ = trained(tmp_path, "train_loop.max_epochs=2", hook=hook)
    (record,) = (each for each in records if "phase/data_s" in each)
    assert record["phase/saving_s"] >= 2 * 3600
    assert 0 < record["phase/forward_s"] < 600


def test_samples_a_second_are_those_of_the_batches_that_there_are():
    phases = PhaseTimer()
    runner = SimpleNamespace(
        train_dataloader=None, device=torch.device("cpu"), hooks=[], train_loop=SimpleNamespace(position=Position()),
        optim_wrapper=SimpleNamespace(named=dict, begin_iteration=id),
    )  # fmt: skip
    for number, size in enumerate((8, 4, 6)):
        phases.begin(runner, {"ids": torch.zeros(size, 10, dtype=torch.int64)}, not number, 0.0)
    phases.restore()
    assert (phases.samples, phases.tokens) == (6, 60)


class Penalized(nn.Module):
    """Takes gradients of its input, a leaf."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(64, 10)

    def forward(self, image, label):
        image = image.flatten(1).requires_grad_()
        (grad,) = torch.autograd.grad(self.net(image).sum(), image, create_graph=True)
        return {"loss": nn.functional.cross_entropy(self.net(image), label) + grad.square().sum()}


def test_counting_for_the_mfu_lets_a_gradient_of_a_leaf_be_taken(tmp_path, monkeypatch):
    cfg = LazyConfig.load(DIGITS)
    cfg.runner.val_loop = cfg.runner.hooks["checkpoint"].save_best = None
    cfg.runner.model = cfg.optimizer.params.model = LazyCall(Penalized)()
    cfg = LazyConfig.apply_overrides(cfg, ["train_loop.max_epochs=1", "train_loop.limit=2"])
    runner = Runner.from_cfg(cfg, work_dir=str(tmp_path))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100 80GB HBM3")
    begin = PhaseTimer.begin

    def on_a_gpu(self, runner, batch, is_first, now):
        device, runner.device = runner.device, torch.device("cuda") if is_first else runner.device
        begin(self, runner, batch, is_first, now)
        runner.device = device

    monkeypatch.setattr(PhaseTimer, "begin", on_a_gpu)
    runner.train()
    (timer,) = (hook for hook in runner.hooks if isinstance(hook, IterTimerHook))
    product = 2 * 32 * 64 * 10
    h100 = find_device("H100")
    assert h100 is not None
    assert timer.throughput(1.0)["mfu"] * h100.peak("float32") == pytest.approx(product * 6)


def test_a_profile_divides_by_the_iterations_that_it_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(IterTimerHook, "seconds_by_phase", lambda self, runner: {"data": float(self._num_train_iters)})
    found = profile(maker_of(DIGITS, (), str(tmp_path)), steps=3, out_dir=str(tmp_path / "out"))
    assert found.phases == {"data": 1.0}


class Watcher(Hook):
    """Notes in which iterations methods of the optimizer wrapper are stood in for."""

    def __init__(self):
        self.found = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        wrappers = [runner.optim_wrapper, *runner.optim_wrapper.named().values()]
        names = ("backward", "step", "zero_grad", "begin_iteration")
        self.found.append(any(name in wrapper.__dict__ for wrapper in wrappers for name in names))


@pytest.mark.parametrize("config", [DIGITS, "projects/gan_digits/config.py"])
def test_one_iteration_of_so_many_is_measured_and_nothing_is_left_behind(config, tmp_path):
    watcher = Watcher()
    overrides = ["train_loop.max_epochs=1", "train_loop.val_interval=1"]
    _, records, _ = trained(tmp_path, *overrides, config=config, hook=watcher)
    measured = [i for i, is_measured in enumerate(watcher.found) if is_measured]
    assert measured == list(range(EVERY, len(watcher.found), EVERY))
    assert any("phase/forward_s" in each for each in records)


def test_a_run_that_measured_no_phase_is_the_same_run():
    record = {"step": 3, "mode": "train", "epoch": None, "iter": 3, "phase/data_s": 1.0, "phase/saving_s": 2.0}
    old = [{"step": 3, "mode": "train", "iter": 3, "loss": 1.0, "time": 0.1}]
    new = [{"step": 3, "mode": "train", "iter": 3, "loss": 1.0, "time": 0.2, "samples_per_s": 160.0}, record]
    assert find_difference(old, new) is None
    assert {f"{name}_s" for name in PHASES} <= set(MEASURED)


def test_batches_are_counted_by_their_shapes():
    ids = torch.zeros(4, 7, dtype=torch.int64)
    assert count_batch({"input_ids": ids, "labels": ids}) == (4, 28)
    assert count_batch((torch.zeros(5, 3, 8, 8), torch.zeros(5, dtype=torch.int64))) == (5, None)
    assert count_batch([{"image": torch.zeros(3, 8, 8)}, {"image": torch.zeros(3, 8, 9)}]) == (2, None)
    assert count_batch("text") == (None, None)
    loaders = CombinedLoader({"a": [1], "b": [1], "c": [1]})
    batch = {"a": {"x": torch.zeros(5, 3)}, "b": {"ids": ids}, "c": "text"}
    assert count_batch(batch, loaders) == (9, 28)


def test_devices_are_found_by_the_names_of_their_drivers():
    names = {"NVIDIA H100 80GB HBM3": "H100", "NVIDIA A100-SXM4-80GB": "A100", "Tesla T4": "T4", "h200": "H200"}
    for name, kind in {**names, "NVIDIA GeForce RTX 4090": "RTX 4090", "NVIDIA A10": "A10"}.items():
        device = find_device(name)
        assert device is not None
        assert device.name == kind
    assert find_device("NVIDIA GeForce GTX 1060") is None


def test_profile_names_the_largest_items_and_what_the_engine_takes(tmp_path):
    found = profile(maker_of(DIGITS, (), str(tmp_path / "run")), steps=4, out_dir=str(tmp_path / "trace"))
    assert set(found.phases) >= {"data", "forward", "backward", "step", "hooks"}
    assert 0 < found.engine_s < sum(found.phases.values())
    assert len(found.items) == 10
    assert [item[2] for item in found.items] == sorted((item[2] for item in found.items), reverse=True)
    with open(found.trace) as file:
        assert json.load(file)["traceEvents"]


def test_profile_of_too_short_a_training_says_so(tmp_path, capsys):
    arguments = ["train_loop.max_epochs=1", "--steps", "30", "--output", str(tmp_path)]
    assert main(["profile", DIGITS, *arguments]) == 2
    assert "fewer than 66 iterations; lower --steps 30" in capsys.readouterr().err


@pytest.mark.parametrize("counts", [2, 4, 8])
@pytest.mark.parametrize("interval", [EVERY, SELDOM])
def test_every_place_of_an_accumulation_is_measured(interval, counts):
    """Where each measured iteration was one without a step, the table said that steps take no time."""
    assert {i * interval % counts for i in range(counts)} == set(range(counts))
