"""Pretraining and fine-tuning a model of transformers at small size."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lazyengine.config import LazyConfig
from lazyengine.runner import Runner

PROJECT = Path(__file__).resolve().parents[2] / "projects" / "finetune"
SMALL = (
    *("vit.hidden_size=8", "vit.intermediate_size=8", "vit.num_hidden_layers=2", "vit.num_attention_heads=2"),
    *("train_loop.max_epochs=2", "runner.param_schedulers[0].end=2", "runner.param_schedulers[1].begin=2"),
)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a short pretraining."""
    cfg = LazyConfig.load(PROJECT / "pretrain_config.py")
    LazyConfig.apply_overrides(cfg, [*SMALL, "train_loop.dataloader.batch_size=240"])
    folder = tmp_path_factory.mktemp("pretrain")
    Runner.from_cfg(cfg, work_dir=str(folder)).train()
    return folder / "epoch_2.pth"


@pytest.fixture(scope="module")
def runner(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Runner:
    """A short fine-tuning of that checkpoint."""
    cfg = LazyConfig.load(PROJECT / "config.py")
    LazyConfig.apply_overrides(cfg, [*SMALL, f"runner.load_from.path={checkpoint}"])
    runner = Runner.from_cfg(cfg, work_dir=str(tmp_path_factory.mktemp("finetune")))
    runner.train()
    return runner


def test_the_frozen_part_of_the_backbone_is_that_of_the_checkpoint_and_the_rest_has_moved(checkpoint, runner):
    pretrained = torch.load(checkpoint, weights_only=True)["state_dict"]
    trained = runner.model.state_dict()
    frozen = [name for name, parameter in runner.model.named_parameters() if not parameter.requires_grad]
    assert {name.split(".")[1] for name in frozen} == {"embeddings", "layers"}
    assert all(".0." in name for name in frozen if ".layers." in name)
    for name in trained:
        if name.startswith("backbone."):
            before = pretrained[name.replace("backbone.", "network.vit.", 1)]
            assert torch.equal(trained[name], before) == (name in frozen), name


def test_the_log_says_what_found_no_place(runner):
    (log,) = Path(runner.log_dir).glob("*.log")
    text = log.read_text()
    assert "head.weight" in text
    assert "network.classifier.weight" in text


def test_the_learning_rate_falls_from_the_head_to_the_stem(runner):
    base = max(group["initial_lr"] for group in runner.optim_wrapper.param_groups)
    rates = {}
    for group in runner.optim_wrapper.param_groups:
        for name in group["param_names"]:
            rates[name] = group["initial_lr"] / base
            assert (group["weight_decay"] == 0) == (name.endswith("bias") or "norm" in name), name
    assert rates["head.weight"] == 1
    assert {rate for name, rate in rates.items() if ".layers.1." in name} == {0.75}


def test_the_backbone_computes_in_bfloat16_and_the_head_in_float32(runner):
    seen = {}
    handles = [
        module.register_forward_hook(lambda module, args, output, name=name: seen.__setitem__(name, output.dtype))
        for name, module in runner.model.named_modules()
        if name in ("backbone.layers.1.mlp.fc1", "head")
    ]
    with torch.no_grad():
        runner.model(torch.rand(2, 1, 8, 8), torch.tensor([0, 1]))
    for handle in handles:
        handle.remove()
    assert seen == {"backbone.layers.1.mlp.fc1": torch.bfloat16, "head": torch.float32}
