"""Runs on a simulated CUDA device: they wait for it at log lines alone, and compute what they do on the host."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from lazyengine.dataset import DataLoader
from lazyengine.dist import collect
from lazyengine.evaluator import Accuracy, ConfusionMatrix, Evaluator, MeanIoU, MeanLoss, TorchMetric
from lazyengine.hooks import EMAHook, FingerprintHook, Hook, Priority, default_hooks
from lazyengine.model import Compile, LossAdapter, ModelSetup, Weighted, move_data, train_step
from lazyengine.optim import (
    AmpOptimWrapper,
    LinearLR,
    NonFiniteError,
    OptimWrapper,
    OptimWrapperDict,
    SAMOptimWrapper,
)
from lazyengine.plain import on_host
from lazyengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner, ValLoop

from .simulated import DEVICE, OnDevice, simulated_device

# A build with CUDA asks a driver, and on a machine with a device the tests marked gpu run.
pytestmark = pytest.mark.skipif(torch.version.cuda is not None, reason="simulated on a build of torch without CUDA")

LINE = 4
AdamW, SGD = torch.optim.AdamW, torch.optim.SGD
CLIP: dict[str, Any] = {"clip_grad": {"max_norm": 0.1}}


class Points(torch.utils.data.Dataset):
    def __init__(self, bad: int = -1) -> None:
        self.bad = bad

    def __len__(self) -> int:
        return 48

    def __getitem__(self, index: int) -> Any:
        return torch.full((3,), math.nan if index == self.bad else index / 48), index % 2


class Rows(Points):
    def __getitem__(self, index: int) -> Any:
        return torch.full((5, 3), index / 48), torch.tensor([0, 1, -100, 1, index % 2])


class Swapped(nn.Linear):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(input).transpose(1, 2)


class Losses(nn.Module):
    """Returns its losses in one of several ways; no model of the engine's."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way, self.first, self.second = way, nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> dict[str, Any]:
        hidden = self.first(x)
        output = self.second(hidden)
        loss = F.cross_entropy(output, y, reduction="none")
        ways: dict[str, dict[str, Any]] = {
            "parts": {
                "loss_a": loss,
                "loss_b": [hidden.square(), hidden.abs()],
                "right": (output.argmax(1) == y) * 1.0,
            },
            "count": {"loss": Weighted(loss.sum(), (y >= 0).sum())},
            "number": {"loss_sum": loss.sum(), "num": len(y), "loss_b": hidden.mean()},
            "counts": {"loss_a": Weighted(loss.sum(), (y >= 0).sum()), "loss_b": Weighted(loss[:1].sum(), y[:1].sum())},
        }
        return ways[self.way]


def small() -> nn.Module:
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    return LossAdapter(network, F.cross_entropy, predict_loss=True)


def weighted_tokens() -> nn.Module:
    network = nn.Sequential(nn.Linear(3, 4), Swapped(4, 2))
    return LossAdapter(network, nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0])))


class Trained(NamedTuple):
    runner: Runner
    waits: dict[int, list[str]]
    scalars: dict[str, torch.Tensor]
    weights: list[torch.Tensor]


class Watcher(Hook):
    """Notes when the host waited, by iteration."""

    priority = Priority.LOWEST

    def __init__(self, device: Any) -> None:
        self.device, self.waits = device, {}

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        self.device.waits.clear()

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        self.waits[runner.iter], self.device.waits[:] = list(self.device.waits), []


def train(
    folder: Path,
    make_model: Callable[[], nn.Module],
    make_wrapper: Callable[[Any], Any],
    hooks: dict[str, Hook] | None = None,
    data: Any = None,
    by_iters: bool = False,
    on_device: bool = True,
    **kwargs: Any,
) -> Trained:
    """Train 12 iterations, on the device or the host."""
    with simulated_device() if on_device else contextlib.nullcontext(SimpleNamespace(waits=[])) as device:
        torch.manual_seed(0)
        model = make_model().to("cuda:0" if on_device else "cpu")
        wrapper, data = make_wrapper(model), data or Points()
        all_hooks = {**default_hooks(), **(hooks or {}), "watcher": (watcher := Watcher(device))}
        del all_hooks["checkpoint"]
        all_hooks["logger"].interval = LINE  # type: ignore[attr-defined]
        loader = DataLoader(data, 4)
        loop = IterBasedTrainLoop(loader, 12, 6) if by_iters else EpochBasedTrainLoop(loader, 1)
        metrics = [Accuracy(), MeanLoss(), ConfusionMatrix(num_classes=2)]
        val_loop = ValLoop(DataLoader(data, 4), Evaluator(metrics)) if make_model is small else None
        lrs = [LinearLR(wrapper.optimizer, end=9, by_epoch=False)] if hasattr(wrapper, "optimizer") else []
        runner = Runner(
            model, train_loop=loop, val_loop=val_loop, optim_wrapper=wrapper, param_schedulers=lrs, hooks=all_hooks,
            work_dir=str(folder), device="cuda" if on_device else "cpu", **kwargs,
        )  # fmt: skip
        runner.train()
        scalars = {name: torch.from_numpy(each.data[0]) for name, each in runner.message_hub.log_scalars.items()}
        return Trained(runner, watcher.waits, scalars, [each.detach().cpu() for each in model.state_dict().values()])


def joint(model: Any) -> OptimWrapperDict:
    first = OptimWrapper(AdamW(model.first.parameters(), fused=True), **CLIP)
    return OptimWrapperDict(first=first, second=OptimWrapper(SGD(model.second.parameters(), lr=0.1, fused=True)))


def fused(model: Any, **options: Any) -> OptimWrapper:
    return OptimWrapper(AdamW(model.parameters(), lr=0.01, fused=True), **{**CLIP, **options})


def on_lr_tensor(model: Any) -> OptimWrapper:
    optimizer = AdamW(model.parameters(), lr=torch.full((), 0.01, device=DEVICE), capturable=True, foreach=True)
    return OptimWrapper(optimizer, nonfinite="ignore", **CLIP)


WAYS: dict[str, tuple[Any, ...]] = {
    "fused": (small, fused),
    "fused, by iterations": (small, fused, {"by_iters": True}),
    "skip": (small, lambda m: fused(m, nonfinite="skip")),
    "clip by value": (small, lambda m: fused(m, clip_grad={"type": "value", "clip_value": 0.1})),
    "momentum": (small, lambda m: OptimWrapper(SGD(m.parameters(), lr=0.1, momentum=0.9, fused=True))),
    "foreach, ignore": (small, lambda m: OptimWrapper(AdamW(m.parameters(), foreach=True), nonfinite="ignore", **CLIP)),
    "capturable": (small, on_lr_tensor, {"device_only": True}),
    "bfloat16": (
        small,
        lambda m: AmpOptimWrapper(AdamW(m.parameters(), fused=True), "bfloat16"),
        {"device_only": True},
    ),
    "accumulation": (small, lambda m: fused(m, accumulative_counts=3)),
    "sharpness": (small, lambda m: SAMOptimWrapper(SGD(m.parameters(), lr=0.1, fused=True))),
    "average": (small, fused, {"hooks": lambda: {"ema": EMAHook(momentum=0.2, update_bn=True)}}),
    "fingerprints": (small, fused, {"hooks": lambda: {"prints": FingerprintHook(1)}}),
    "several optimizers": (lambda: Losses("parts"), joint),
    "several parts": (lambda: Losses("parts"), fused),
    "by count": (lambda: Losses("count"), fused),
    "by count, accumulation": (lambda: Losses("count"), lambda m: fused(m, accumulative_counts=3)),
    "by number": (lambda: Losses("number"), fused),
    "by several counts": (lambda: Losses("counts"), fused),
    "tokens of classes with weights": (weighted_tokens, fused, {"data": Rows()}),
}


@pytest.mark.parametrize("way", WAYS)
def test_the_host_waits_at_log_lines_alone(way: str, tmp_path: Path) -> None:
    make_model, make_wrapper, *rest = WAYS[way]
    options = dict(rest[0]) if rest else {}
    make_hooks, device_only = options.pop("hooks", dict), options.pop("device_only", False)
    there = train(tmp_path / "device", make_model, make_wrapper, make_hooks(), **options)
    assert sorted(there.waits) == list(range(12))
    for iteration in range(LINE, 12):  # what is made once has been made
        is_line = (iteration + 1) % LINE == 0
        waits = [wait for wait in there.waits[iteration] if "queued.py" not in wait]  # a file, once a second
        assert all("message_hub" in wait for wait in waits)
        assert bool(waits) == is_line
        assert len(waits) <= 3  # a copy for each type
    if device_only:
        return
    here = train(tmp_path / "host", make_model, make_wrapper, make_hooks(), on_device=False, **options)
    torch.testing.assert_close(there.weights, here.weights)
    names = [name for name in here.scalars if "time" not in name]
    assert {"train/lr", "train/loss"} <= {name.replace("first.", "") for name in names}
    for name in names:
        torch.testing.assert_close(there.scalars[name].double(), here.scalars[name].double(), rtol=1e-5, atol=1e-6)
    if way == "fingerprints":
        files = [next(Path(each.runner.log_dir).glob("fingerprints*")) for each in (there, here)]
        lines = [json.loads(file.read_text().splitlines()[0]) for file in files]
        assert lines[0]["weights"] == lines[1]["weights"]


@pytest.mark.parametrize("kind", [OptimWrapper, AmpOptimWrapper])
def test_the_check_of_another_optimizer_waits_once(kind: Any, tmp_path: Path) -> None:
    options: dict[str, Any] = {"dtype": "bfloat16"} if kind is AmpOptimWrapper else {}
    make = lambda model: kind(AdamW(model.parameters(), foreach=True), **options)  # noqa: E731
    waits = train(tmp_path, small, make).waits
    assert [len(waits[i]) for i in (1, 2, 4, 5)] == [1, 1, 1, 1]


def test_float16_reads_the_overflow_and_then_the_norm(tmp_path: Path) -> None:
    waits = train(tmp_path, small, lambda m: AmpOptimWrapper(AdamW(m.parameters(), fused=True), dtype="float16")).waits
    assert [len(waits[i]) for i in (1, 2, 4, 5)] == [2, 2, 2, 2]


@pytest.mark.parametrize("counts", [1, 2])
def test_a_batch_that_is_not_finite_is_skipped_on_the_device(counts: int, tmp_path: Path) -> None:
    """What the check says is only there when the host has waited for it: before, it is NaN in this device."""
    make = lambda model: fused(model, nonfinite="skip", accumulative_counts=counts)  # noqa: E731
    trained = train(tmp_path, lambda: Losses("parts"), make, data=Points(bad=21))
    assert trained.runner.optim_wrapper.num_optimizer_steps == 12 // counts - 1
    assert all(value.isfinite().all() for value in trained.weights)


def test_a_batch_that_is_not_finite_is_named_one_update_later(tmp_path: Path) -> None:
    with pytest.raises(NonFiniteError, match="the loss is nan and the gradient norm is nan at iteration 5"):
        train(tmp_path, small, fused, data=Points(bad=21))


def test_outputs_in_memory_of_cuda_graphs_are_logged_as_they_were(tmp_path: Path) -> None:
    class Graphs(Compile):
        def __call__(self, model: nn.Module) -> None:
            pass

    class Reusing(nn.Module):
        former: Any = None

        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, x: torch.Tensor, y: torch.Tensor) -> dict[str, Any]:
            if self.former is not None:
                self.former.held.detach().fill_(-1.0)
            loss = F.cross_entropy(self.layer(x), y)
            self.former = loss.detach()
            return {"loss": loss}

    setup = ModelSetup(compile=Graphs(mode="reduce-overhead"))
    trained = train(tmp_path, Reusing, fused, model_setup=setup)
    assert (trained.scalars["train/loss"] > 0).all()
    assert trained.waits[5] == []
    assert not Compile().reuses_memory
    assert Compile(options={"triton.cudagraphs": True}).reuses_memory


def test_counting_flops_ends_with_an_iteration_that_fails(tmp_path: Path) -> None:
    class Failing(Losses):
        def forward(self, x: torch.Tensor, y: torch.Tensor) -> dict[str, Any]:
            raise KeyError("nothing")

    with pytest.raises(KeyError):
        train(tmp_path, lambda: Failing("parts"), fused)
    assert _get_current_dispatch_mode_stack() == []


# ------------------------------------------------------------------------------------------------ pieces
def test_batches_are_copied_without_waiting_and_to_the_host_with() -> None:
    with simulated_device() as device:
        batch = {"x": torch.arange(3.0), "names": ["a"]}
        there = move_data(batch, DEVICE)
        assert isinstance(there["x"], OnDevice)
        assert device.waits == []
        assert move_data(there, torch.device("cpu"))["x"].tolist() == [0.0, 1.0, 2.0]
        assert len(device.waits) == 1
        model = Losses("parts").to(DEVICE)
        device.waits.clear()
        train_step(model, [torch.ones(4, 3), torch.tensor([0, 1, 1, 0])], fused(model))
        assert not any("data_preprocessor" in wait for wait in device.waits)


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        (lambda: Accuracy(), {"accuracy/top1": 0.5}),
        (lambda: ConfusionMatrix(num_classes=2), {"confusion_matrix/mean_recall": 0.5}),
        (lambda: MeanIoU(num_classes=2), {"segmentation/pixel_accuracy": 0.5}),
        (lambda: MeanLoss(weight_key="label"), {"loss": 3.0}),
        (lambda: TorchMetric(Summing()), {"summing": 3.0}),
    ],
    ids=["accuracy", "confusion", "maps", "loss", "torchmetrics"],
)
def test_predictions_on_the_host_and_labels_on_the_device(metric: Any, expected: dict[str, float]) -> None:
    with simulated_device():
        labels = torch.tensor([0, 1, 0, 1, 1, 0]).to(DEVICE)
        scores = torch.tensor([[2.0, 1], [1, 2], [2, 1], [2, 1], [2, 1], [1, 2]])
        made = metric()
        if isinstance(made, MeanIoU):
            labels, scores = labels.reshape(1, 2, 3), scores.T.reshape(1, 2, 2, 3).contiguous()
        loss = torch.tensor([0.0, 1, 0, 3, 5, 0])
        evaluator = Evaluator([made])
        evaluator.process(data_samples={"scores": scores, "label": labels, "loss": loss}, data_batch=None)
        found = evaluator.evaluate(6)
    if isinstance(made, Accuracy | ConfusionMatrix | MeanIoU):
        right = (scores.argmax(1).reshape(-1) == torch.tensor([0, 1, 0, 1, 1, 0])).float().mean().item()
        assert right == 0.5
    assert {name: pytest.approx(value) for name, value in expected.items()}.items() <= found.items()


class Summing:
    """Has the methods of a torchmetrics metric."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.total = 0

    def update(self, scores: torch.Tensor, labels: torch.Tensor) -> None:
        assert labels.device == scores.device
        self.total = self.total + labels.sum()

    def compute(self) -> Any:
        return self.total


@pytest.mark.parametrize("way", ["count", "counts", "number"])
def test_counts_of_several_ranks_stay_on_the_device(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two ranks with the same batch, so that nothing changes but what is sent; the first update may wait."""
    sent: list[torch.Tensor] = []

    def all_reduce(tensor: torch.Tensor, op: Any = None, async_op: bool = False) -> Any:
        sent.append(tensor)
        if op is None:
            tensor.mul_(2)
        return SimpleNamespace(wait=lambda: None)

    losses = []
    for world_size in (1, 2):
        with simulated_device() as device, monkeypatch.context() as patch:
            torch.manual_seed(0)
            model = Losses(way).to(DEVICE)
            wrapper = OptimWrapper(SGD(model.parameters(), lr=0.1, fused=True))
            if world_size == 2:
                patch.setattr("lazyengine.dist.get_world_size", lambda *_: 2)
                patch.setattr("lazyengine.optim.optim_wrapper.get_world_size", lambda: 2)
                patch.setattr("lazyengine.dist.is_distributed", lambda: True)
                patch.setattr("lazyengine.optim._counts.can_send_from", lambda *_: True)
                patch.setattr("torch.distributed.all_reduce", all_reduce)
                patch.setattr("lazyengine.optim.gradients.NonFiniteGuard.judge", lambda *_: None)
            for _ in range(4):
                x, y = torch.ones(4, 3).to(DEVICE), torch.tensor([1, 1, 1, 0]).to(DEVICE)
                device.waits.clear()
                outputs = model(x, y)
                loss: Any = outputs.get("loss") or list(outputs.values())
                if way == "number":
                    loss = Weighted(outputs["loss_sum"], outputs["num"])
                wrapper.update_params(loss)
            assert device.waits == []
            losses.append([value.cpu().tolist() for value in model.parameters()])
    assert losses[0] == losses[1]
    assert sent
    assert all(isinstance(tensor, OnDevice) for tensor in sent)


def test_parameters_that_train_later_have_their_first_step_checked_at_once() -> None:
    """Fused SGD leaves momentum uninitialized where its first step is stopped."""
    first, second = nn.Linear(2, 2), nn.Linear(2, 1)
    wrapper = OptimWrapper(
        SGD([{"params": each.parameters()} for each in (first, second)], lr=0.1, momentum=0.9, fused=True)
    )
    wrapper._is_as_on_accelerator = True
    for _ in range(3):
        wrapper.update_params(first(torch.ones(1, 2)).sum())
    with pytest.raises(NonFiniteError) as caught:
        wrapper.update_params(second(first(torch.ones(1, 2))).sum() * math.nan)
    assert not getattr(caught.value, "__notes__", None)  # that it is an update late
    wrapper.update_params(second(first(torch.ones(1, 2))).sum())
    wrapper.update_params(second(first(torch.ones(1, 2))).sum() * math.nan)  # from here on it is
    with pytest.raises(NonFiniteError):
        wrapper.flush()


@pytest.mark.parametrize("indices", [(0,), (1,), (0, 1)])
def test_a_save_waits_for_every_device_that_it_copies_from(indices: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class OnCard(torch.Tensor):
        """In host memory, and says that it is on a card."""

        card = 0
        is_cuda = property(lambda self: True)  # type: ignore[assignment]
        device = property(lambda self: torch.device("cuda", self.card))  # type: ignore[assignment]

    waited: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    tensors = {str(index): torch.full((2,), float(index)).as_subclass(OnCard) for index in indices}
    for index in indices:
        tensors[str(index)].card = index
    copies = on_host(tensors, [])
    assert [copies[str(index)].tolist() for index in indices] == [[float(index)] * 2 for index in indices]
    assert sorted(device.index for device in waited) == list(indices)


@pytest.mark.parametrize("way", ["gpu", "cpu"])
def test_tensors_of_a_device_within_results_are_sent_from_the_host(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Any] = []
    monkeypatch.setattr(collect, "get_dist_info", lambda: (1, 2))
    monkeypatch.setattr(collect, "get_rank", lambda: 1)
    monkeypatch.setattr(collect, "all_gather_object", lambda each: [each, each])
    monkeypatch.setattr(collect, "gather_object", sent.append)
    monkeypatch.setattr(collect, "_exchange_files", lambda part, folder: sent.append(part))
    with simulated_device():
        results = [{"boxes": torch.ones(2, 4).to(DEVICE), "name": "a"}, {"boxes": torch.ones(1, 4), "name": "b"}]
        assert collect.collect_results(results, 4, way) is None
    assert [each["boxes"].tolist() for each in sent[0]] == [[[1.0] * 4] * 2, [[1.0] * 4]]
    assert [each["boxes"].is_cpu for each in sent[0]] == [True, True]
