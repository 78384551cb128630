"""Classes that nobody here wrote: described, overridden, saved as Python and read back equal, built."""

import inspect
import pickle
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler

from lazyengine.cli.keys import format_keys
from lazyengine.config import (
    Config,
    LazyConfig,
    LazyPartial,
    check_config,
    diff,
    format_tree,
    instantiate,
    ref,
)
from lazyengine.config import LazyCall as L

OPTIMIZERS = [
    cls
    for name, cls in sorted(vars(torch.optim).items())
    if inspect.isclass(cls) and issubclass(cls, torch.optim.Optimizer) and cls is not torch.optim.Optimizer
    if name not in ("SparseAdam", "LBFGS", "Muon")  # sparse gradients; a closure; matrices only
]
SCHEDULERS: dict[str, dict[str, Any]] = {
    "StepLR": {"step_size": 2},
    "MultiStepLR": {"milestones": [2, 4]},
    "ConstantLR": {"factor": 0.5},
    "LinearLR": {"total_iters": 4},
    "ExponentialLR": {"gamma": 0.9},
    "PolynomialLR": {"total_iters": 4, "power": 2.0},
    "CosineAnnealingLR": {"T_max": 10},
    "CosineAnnealingWarmRestarts": {"T_0": 3},
    "CyclicLR": {"base_lr": 0.01, "max_lr": 0.1, "cycle_momentum": False},
    "OneCycleLR": {"max_lr": 0.1, "total_steps": 10, "cycle_momentum": False},
    "ReduceLROnPlateau": {"patience": 1},
}


def everywhere(cfg: Any, tmp_path) -> list[Any]:
    """The config itself, and what comes back from the file."""
    path = tmp_path / "config.py"
    assert LazyConfig.save(cfg, path) == []
    again = LazyConfig.load(path)
    assert diff(cfg, again) == []
    assert again == cfg
    assert LazyConfig.save(cfg, tmp_path / "config.json") == []
    assert pickle.loads(pickle.dumps(cfg)) == cfg
    assert format_tree(cfg)
    assert format_keys(cfg)
    return [cfg, again]


@pytest.mark.parametrize("cls", OPTIMIZERS, ids=lambda cls: cls.__name__)
def test_torch_optimizers(cls, tmp_path):
    model = L(torch.nn.Linear)(in_features=3, out_features=2)
    optimizer = L(cls)(params=L(torch.nn.Module.parameters)(model), lr=0.5)
    cfg = Config({"model": model, "optimizer": optimizer})
    LazyConfig.apply_overrides(cfg, ["optimizer.lr=1", "model.bias=false"])
    assert type(cfg.optimizer.lr) is float
    assert check_config(cfg) == []
    for each in everywhere(cfg, tmp_path):
        built = instantiate(each)
        assert type(built["optimizer"]) is cls
        assert built["optimizer"].param_groups[0]["params"][0] is built["model"].weight
        assert built["optimizer"].param_groups[0]["lr"] == 1.0
        assert built["model"].bias is None


@pytest.mark.parametrize("name", SCHEDULERS)
def test_torch_schedulers(name, tmp_path):
    model = L(torch.nn.Linear)(2, 2)
    optimizer = L(torch.optim.SGD)(params=L(torch.nn.Module.parameters)(model), lr=0.1)
    scheduler = L(getattr(lr_scheduler, name))(optimizer=optimizer, **SCHEDULERS[name])
    cfg = Config({"optimizer": optimizer, "scheduler": scheduler})
    assert check_config(cfg) == []
    curves = []
    for each in everywhere(cfg, tmp_path):
        built = instantiate(each)
        curve = []
        for _ in range(6):
            built["optimizer"].step()
            built["scheduler"].step(*([1.0] if name == "ReduceLROnPlateau" else []))
            curve.append(built["optimizer"].param_groups[0]["lr"])
        curves.append(curve)
        assert built["scheduler"].optimizer is built["optimizer"]
    assert curves[0] == curves[1]


def test_torch_layers_losses_and_functions(tmp_path):
    model = L(torch.nn.Sequential)(
        L(torch.nn.Conv2d)(3, 8, kernel_size=(3, 3), padding="same", dtype=torch.float64),
        L(torch.nn.BatchNorm2d)(8, eps=1e-4, dtype=torch.float64),
        L(torch.nn.ReLU)(),
    )
    cfg = Config(
        {
            "model": model,
            "loss": L(torch.nn.CrossEntropyLoss)(label_smoothing=0.1),
            "act": LazyPartial(torch.nn.functional.gelu)(approximate="tanh"),
            "layers": L(torch.nn.ModuleList)(modules=[L(torch.nn.Linear)(2, 2), L(torch.nn.Linear)(2, 2)]),
            "eps": ref("loss.label_smoothing"),
        }
    )
    LazyConfig.apply_overrides(cfg, ["model[1].eps=1e-3", "loss.label_smoothing=0", "act.approximate=none"])
    assert check_config(cfg) == []
    for each in everywhere(cfg, tmp_path):
        built = instantiate(each)
        assert [type(m).__name__ for m in built["model"]] == ["Conv2d", "BatchNorm2d", "ReLU"]
        assert built["model"][0].weight.dtype is torch.float64
        assert built["model"][1].eps == 1e-3
        assert built["eps"] == built["loss"].label_smoothing == 0.0
        assert built["act"](torch.tensor(1.0)) == torch.nn.functional.gelu(torch.tensor(1.0))
        assert len(built["layers"]) == 2


def test_torch_dataloader(tmp_path):
    dataset = L(torch.utils.data.TensorDataset)(L(torch.arange)(10))
    loader = L(torch.utils.data.DataLoader)(
        dataset=dataset, sampler=L(torch.utils.data.SequentialSampler)(data_source=dataset), batch_size=2
    )
    cfg = Config({"loader": loader})
    LazyConfig.apply_overrides(cfg, ["loader.batch_size=5", "loader.drop_last=true", "loader.pin_memory_device=cpu"])
    assert check_config(cfg) == []
    LazyConfig.apply_overrides(cfg, ["~loader.pin_memory_device"])
    for each in everywhere(cfg, tmp_path):
        built = instantiate(each.loader)
        assert built.sampler.data_source is built.dataset
        assert [batch[0].tolist() for batch in built] == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]


def test_torchmetrics(tmp_path):
    import torchmetrics

    metrics = L(torchmetrics.MetricCollection)(
        metrics={
            "acc": L(torchmetrics.Accuracy)(task="multiclass", num_classes=3, top_k=1),
            "f1": L(torchmetrics.classification.MulticlassF1Score)(num_classes=3, average="macro"),
            "mean": L(torchmetrics.MeanMetric)(),
        }
    )
    cfg = Config({"metrics": metrics})
    LazyConfig.apply_overrides(cfg, ["metrics.metrics.f1.average=micro", "~metrics.metrics.mean"])
    results = []
    for each in everywhere(cfg, tmp_path):
        built = instantiate(each.metrics)
        results.append({k: float(v) for k, v in built(torch.tensor([0, 1, 2]), torch.tensor([0, 1, 1])).items()})
    assert results[0] == results[1]
    assert results[0]["f1"] == pytest.approx(2 / 3)


def test_transformers_model_from_its_config_class(tmp_path):
    import transformers

    model = L(transformers.BertForSequenceClassification)(
        config=L(transformers.BertConfig)(
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=8,
            vocab_size=30,
            num_labels=3,  # taken by a decorator of the class, which its signature does not show
        )
    )
    cfg = Config({"model": model})
    LazyConfig.apply_overrides(cfg, ["model.config.hidden_size=32", "model.config.hidden_dropout_prob=0"])
    for each in everywhere(cfg, tmp_path):
        built = instantiate(each.model)
        assert built.classifier.weight.shape == (3, 32)
        assert built.config.hidden_dropout_prob == 0.0
