"""A resume says what is another than in the checkpoint, what becomes of it, and keeps that in the record."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from lazyengine.checkpoint import read_checkpoint, save_checkpoint
from lazyengine.cli.main import main
from lazyengine.config import LazyConfig
from lazyengine.errors import UsageValueError
from lazyengine.hooks import CheckpointHook
from lazyengine.optim import OptimWrapper
from lazyengine.runner import Runner
from lazyengine.runs import differences, read_run

from ..runs.toy import make_project
from ..runs.training import start
from .toy import StopAt, ToyData, toy_runner


def changes_of(folder):
    return {change["path"]: change for change in json.loads((folder / "run.json").read_text())["starts"][-1]["changes"]}


def begun(folder):
    with pytest.raises(InterruptedError):
        toy_runner(str(folder), hooks={"stop": StopAt(7)}).train()


def test_the_same_experiment_has_no_changes(tmp_path):
    begun(tmp_path)
    toy_runner(str(tmp_path), resume=True).train()
    assert changes_of(tmp_path) == {}


def test_a_run_built_by_hand_says_what_changed(tmp_path):
    begun(tmp_path)
    runner = toy_runner(str(tmp_path), resume=True)
    runner._parts["param_schedulers"][1].T_max = 9
    for group in runner.optim_wrapper.optimizer.param_groups:
        group["weight_decay"] = 0.5
    runner.train_loop.dataloader.dataset.x[3] = 1.0
    runner.train()
    found = changes_of(tmp_path)
    assert found["optimizer.param_groups[0].weight_decay"]["is"] == 0.5
    assert found["param_schedulers[1].T_max"] == {
        "path": "param_schedulers[1].T_max",
        "was": "8",
        "is": "9",
        "effect": "in force",
        "why": "",
        "from_iter": 5,
    }
    data = [change["path"].partition(" (")[0] for change in found.values() if change["why"] == "data"]
    assert data == ["train: the data are other ones", "val: the data are other ones"]  # the same dataset for both
    assert len(found) == 4


def test_where_nothing_is_left_to_train_a_change_has_no_effect(tmp_path):
    toy_runner(str(tmp_path)).train()
    runner = toy_runner(str(tmp_path), resume=True)
    for group in runner.optim_wrapper.optimizer.param_groups:
        group["weight_decay"] = 0.5
    runner.train()
    change = changes_of(tmp_path)["optimizer.param_groups[0].weight_decay"]
    assert (change["effect"], change["why"]) == ("without effect", "nothing is left to train")


def test_another_dataset_is_named_by_its_length(tmp_path):
    begun(tmp_path)
    runner = toy_runner(str(tmp_path), resume=True)
    runner.train_loop.allow_inexact_resume = True
    data = ToyData(24)
    data.x = data.x[:20]
    runner.train_loop.dataloader.dataset.x = data.x
    runner.train()
    assert [change["why"] for change in changes_of(tmp_path).values()] == ["data", "data"]


def test_every_value_of_a_config_is_compared_and_compare_shows_it(tmp_path, monkeypatch):
    config = make_project(tmp_path, "toy_changes")
    monkeypatch.syspath_prepend(str(tmp_path))

    def train(*overrides, resume=False):
        cfg = LazyConfig.load(str(config))
        LazyConfig.apply_overrides(cfg, ["runner.work_dir=" + str(tmp_path / "run"), *overrides])
        Runner.from_cfg(cfg, resume=resume).train()

    train("train_loop.max_epochs=1")
    train(
        *("train_loop.max_epochs=2", "optimizer.weight_decay=0.5", "+runner.load_from=/nowhere.pth"),
        "runner.hooks.logger.interval=2",
        resume=True,
    )
    found = {path: (c["was"], c["is"], c["effect"], c["from_iter"]) for path, c in changes_of(tmp_path / "run").items()}
    assert found == {
        "train_loop.max_epochs": ("1", "2", "in force", 5),
        "optimizer.weight_decay": (None, "0.5", "in force", 5),
        "runner.load_from": (None, '"/nowhere.pth"', "without effect", 5),
        "runner.hooks.logger.interval": ("1", "2", "in force", 5),
    }
    run = read_run(tmp_path / "run")
    assert differences([run])["train_loop.max_epochs"] == ["1 -> 2 @ 5"]
    assert "changed since the checkpoint: train_loop.max_epochs: 1 -> 2: in force from iteration 5" in "".join(
        path.read_text() for path in (tmp_path / "run").glob("*/*.log")
    )


def test_a_fork_compares_its_code_with_what_its_parent_kept(tmp_path):
    config = make_project(tmp_path, "toy_fork")
    start(config, tmp_path / "parent", "train_loop.max_epochs=1", cwd=tmp_path)
    net = config.parent / "net.py"
    net.write_text(net.read_text().replace("(out - y).square()", "2 * (out - y).square()"))
    checkpoint = tmp_path / "parent" / "epoch_1.pth"
    start(config, tmp_path / "fork", "train_loop.max_epochs=2", f"--resume={checkpoint}", cwd=tmp_path)
    found = changes_of(tmp_path / "fork")
    assert [path for path, change in found.items() if change["why"] == "code"] == ["toy_fork/net.py: Net.forward"]
    assert found["train_loop.max_epochs"]["effect"] == "in force"


GOLDEN = Path(__file__).resolve().parents[1] / "golden_runs" / "v0.1.0" / "epochs" / "run"


@pytest.mark.parametrize("has_json", [True, False])
def test_the_config_of_a_run_of_version_0_1_is_compared_too(tmp_path, has_json):
    run = Path(shutil.copytree(GOLDEN, tmp_path / "run"))
    if not has_json:
        for path in (run / "config.json", *run.glob("*/config.json")):
            path.unlink()
    cfg = LazyConfig.load(str(run / "config.py"))
    LazyConfig.apply_overrides(cfg, ["optimizer.weight_decay=0.5", "runner.train_loop.max_epochs=3"])
    runner = Runner.from_cfg(cfg, resume=True)
    runner.train()
    found = {path: (c["was"], c["is"], c["effect"], c["from_iter"]) for path, c in changes_of(run).items()}
    log = next(Path(runner.log_dir).glob("*.log")).read_text()
    if has_json:
        assert found == {
            "optimizer.weight_decay": ("0.05", "0.5", "in force", 18),
            "runner.train_loop.max_epochs": ("4", "3", "in force", 18),
        }
        assert runner.optim_wrapper.param_groups[0]["weight_decay"] == 0.5
    else:
        assert runner.optim_wrapper.param_groups[0]["weight_decay"] == 0.05
        assert found == {}
        assert "what was changed in the config since the checkpoint is not known: it was saved by version 0.1" in log


def test_options_of_version_0_1_follow_the_config_and_what_it_does_not_change_is_as_saved(tmp_path):
    """Of two optimizers one has another rate, which its schedule begins from; the other keeps what a hook had set."""
    run = Path(shutil.copytree(GOLDEN.parents[1] / "gan" / "run", tmp_path / "run"))
    saved = torch.load(run / "iter_12.pth", weights_only=True)
    saved["optimizer"]["discriminator"]["param_groups"][0]["weight_decay"] = 0.25
    torch.save(saved, run / "iter_12.pth")
    cfg = LazyConfig.load(str(run / "config.py"))
    LazyConfig.apply_overrides(cfg, ["generator_optimizer.lr=0.1"])
    runner = Runner.from_cfg(cfg, resume=True)
    seen = {}

    def note(self, *args, **kwargs):
        for name, wrapper in runner.optim_wrapper.named().items():
            seen.setdefault(name, dict(wrapper.param_groups[0]))

    runner.call_hook = lambda point, call=runner.call_hook, **kwargs: (
        note(runner) if point == "before_train_iter" else None,
        call(point, **kwargs),
    )
    runner.train()
    former = saved["optimizer"]
    assert seen["generator"]["initial_lr"] == 0.1
    assert seen["generator"]["lr"] == pytest.approx(10 * former["generator"]["param_groups"][0]["lr"])
    assert seen["discriminator"]["lr"] == former["discriminator"]["param_groups"][0]["lr"]
    assert seen["discriminator"]["weight_decay"] == 0.25
    assert [change["effect"] for change in changes_of(run).values()] == ["in force"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("width=8", ["do not match exactly", "model.width: 48 -> 8"]),
        ("num_classes=12", ["do not match exactly", "model.num_classes: 10 -> 12"]),
        (None, ["can be resumed", "exp_avg is shape (5,)"]),  # checkpoints that somebody changed
    ],
)
def test_what_cannot_be_resumed_is_said_once_and_with_what_was_changed(tmp_path, capsys, change, said):
    words = ["train", "projects/digits/config.py", "--limit", "train=2", "val=1", "--work-dir", str(tmp_path)]
    assert main([*words, "train_loop.max_epochs=2"]) == 0
    files = [*tmp_path.glob("*.pth")]
    assert len(files) == 3
    for path in files if change is None else ():
        content = read_checkpoint(path)
        content["optimizer"]["state"][0]["exp_avg"] = torch.zeros(5)
        save_checkpoint(content, str(path))
    capsys.readouterr()
    assert main([*words, "train_loop.max_epochs=3", "--resume", *([f"model.{change}"] if change else [])]) == 2
    found = capsys.readouterr()
    assert all(text in found.err for text in said)
    assert found.out.count("not resuming from") == (3 if change is None else 0)
    assert "damaged" not in found.err or change is None


@pytest.mark.filterwarnings("ignore:config.py. pickled")
def test_objects_in_a_config_may_change_while_they_train(tmp_path, monkeypatch):
    """Hooks built in the config hold what has no text once they work; the config is what it was at the start."""
    config = make_project(tmp_path, "toy_objects")
    monkeypatch.syspath_prepend(str(tmp_path))
    config.write_text(
        config.read_text() + "\nfrom lazyengine.hooks import default_hooks\nrunner.hooks = default_hooks()\n"
    )
    cfg = LazyConfig.load(str(config))
    LazyConfig.apply_overrides(cfg, ["runner.work_dir=" + str(tmp_path / "run"), "train_loop.max_epochs=1"])
    Runner.from_cfg(cfg).train()
    saved = torch.load(tmp_path / "run" / "epoch_1.pth", weights_only=True)
    assert "RuntimeInfoHook" in saved["meta"]["cfg"] or "pickle" in saved["meta"]["cfg"]


@pytest.mark.parametrize("loop", [{"max_epochs": 3}, {"max_iters": 15, "val_interval": 5}])
def test_without_the_schedules_the_rate_is_the_configured_one(tmp_path, loop):
    """It stayed where the removed schedules had left it."""
    with pytest.raises(InterruptedError):
        toy_runner(str(tmp_path), hooks={"stop": StopAt(10), "checkpoint": CheckpointHook(interval=1)}, **loop).train()
    runner = toy_runner(str(tmp_path), resume=True, **loop)
    runner._parts["param_schedulers"] = None
    runner.train()
    assert runner.optim_wrapper.param_groups[0]["lr"] == 0.01
    assert runner.message_hub.get_scalar("train/lr").data[0][10:].tolist() == [0.01] * 5


@pytest.mark.parametrize("by", ["auto", "path"])
@pytest.mark.parametrize("halves", [False, True])
def test_other_parameter_groups_are_no_damage(tmp_path, by, halves):
    """Each checkpoint was said to be damaged, or not to be one."""
    begun(tmp_path)
    (checkpoint,) = tmp_path.glob("epoch_*.pth")
    runner = toy_runner(str(tmp_path), resume=True if by == "auto" else str(checkpoint))
    parameters = list(runner.model.parameters())
    groups = [{"params": parameters[::2]}, {"params": parameters[1::2]}] if halves else [{"params": parameters[1:]}]
    runner._parts |= {"optim_wrapper": OptimWrapper(torch.optim.AdamW(groups, lr=0.01)), "param_schedulers": None}
    with pytest.raises(UsageValueError, match=r"the saved optimizer has 1 parameter groups of sizes \[6\], this one"):
        runner.train()
