"""Loaders, metrics, layers and files of others: what is trained, evaluated, saved and loaded is what they meant."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import BatchSampler, ChainDataset, IterableDataset, RandomSampler, WeightedRandomSampler
from torch.utils.data import DataLoader as TorchLoader

from lazyengine.checkpoint import load_checkpoint
from lazyengine.dataset import DataLoader, seed_order
from lazyengine.evaluator import BaseMetric
from lazyengine.hooks import EMAHook, Hook
from lazyengine.model import BaseModel
from lazyengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner

from ..runner.toy import StopAt, toy_runner
from .test_resuming_data import FixedData, ToyState, fixed, run


def epochs(folder: Any, make_loader: Any, stops: tuple[int, ...] = (), **options: Any) -> list[torch.Tensor]:
    """Train for three epochs, saving at each iteration, killed after some of them; return the weights."""
    for stop in (*stops, None):
        hooks: Any = {} if stop is None else {"kill": StopAt(stop)}
        runner = toy_runner(str(folder), hooks=hooks, resume=True)
        saving: Any = runner.hooks["checkpoint"]
        saving.by_epoch, saving.interval = False, 1
        runner._parts["train_loop"] = EpochBasedTrainLoop(make_loader(), 3, val_interval=0, **options)
        if stop is None:
            runner.train()
            return list(runner.model.state_dict().values())
        with pytest.raises(InterruptedError):
            runner.train()
    raise AssertionError


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(5)


ORDERS = {
    "shuffle": lambda: TorchLoader(FixedData(), 4, shuffle=True, generator=generator()),
    "sampler": lambda: TorchLoader(FixedData(), 4, sampler=RandomSampler(range(20), True, 20, generator())),
    "batch sampler": lambda: TorchLoader(
        FixedData(), batch_sampler=BatchSampler(WeightedRandomSampler([1.0] * 20, 20, generator=generator()), 4, False)
    ),
}


@pytest.mark.parametrize("name", ORDERS)
def test_torchs_loader_with_a_generator_goes_on_after_an_epoch(tmp_path, name):
    whole = epochs(tmp_path / "whole", ORDERS[name])
    killed = epochs(tmp_path / "killed", ORDERS[name], (5, 10))
    assert all(map(torch.equal, whole, killed))


@pytest.mark.parametrize("name", ["global", *ORDERS])
def test_overfitting_on_torchs_loader_repeats_the_same_batches(tmp_path, name):
    make = ORDERS.get(name, lambda: TorchLoader(FixedData(), 4, shuffle=True))
    seen: list[Any] = []

    class Watch(Hook):
        def before_train_iter(self, runner, batch_idx, data_batch=None):
            seen.append((batch_idx, copy.deepcopy(data_batch)))

    runner = toy_runner(str(tmp_path / "run"), hooks={"watch": Watch()})
    runner._parts["train_loop"] = EpochBasedTrainLoop(make(), 3, val_interval=0, overfit=2)
    runner.train()
    first = {index: str(batch) for index, batch in seen[:2]}
    assert all(str(batch) == first[index % 2] for index, batch in seen)
    whole = epochs(tmp_path / "whole", make, overfit=2)
    assert all(map(torch.equal, whole, epochs(tmp_path / "killed", make, (3, 8), overfit=2)))


def test_the_order_is_a_function_of_the_epoch_and_what_is_registered_stays():
    loader: Any = ORDERS["shuffle"]()

    def order(epoch: int) -> list[int]:
        seed_order(loader, 3, epoch, ())
        return torch.cat([batch["index"] for batch in loader]).tolist()

    assert order(0) == order(0) != order(1)
    before = loader.generator.get_state()
    seed_order(loader, 3, 0, [loader.generator])
    assert torch.equal(loader.generator.get_state(), before)


class Positioned:
    """A loader that goes on from a state and has no other way, as torchdata's."""

    batch_size = 4

    def __init__(self) -> None:
        self.begin = self.position = 0

    def __len__(self) -> int:
        return 5

    def __iter__(self) -> Any:
        begin, self.begin = self.begin, 0
        return self._batches(begin)

    def _batches(self, begin: int) -> Any:
        for number in range(begin, 5):
            self.position = number + 1
            yield torch.utils.data.default_collate([fixed(4 * number + i) for i in range(4)])
        self.position = 0

    def state_dict(self) -> dict[str, int]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.begin = self.position = state["position"]


@pytest.mark.parametrize("limit", [None, 3])
@pytest.mark.parametrize("stop", [2, 3, 5, 6])
def test_a_loader_with_a_state_is_resumed_at_every_batch(tmp_path, stop, limit):
    whole = epochs(tmp_path / "whole", Positioned, limit=limit)
    killed = epochs(tmp_path / "killed", Positioned, (stop,), limit=limit)
    assert all(map(torch.equal, whole, killed))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("limit", [None, 3])
def test_torchdatas_too(tmp_path, limit):
    stateful = pytest.importorskip("torchdata.stateful_dataloader")
    make = lambda: stateful.StatefulDataLoader(FixedData(), 4, shuffle=True, generator=generator())  # noqa: E731
    whole = epochs(tmp_path / "whole", make, limit=limit)
    killed = epochs(tmp_path / "killed", make, (2, 3, 5, 7), limit=limit)
    assert all(map(torch.equal, whole, killed))


class GuessedLength(ToyState):
    def __len__(self) -> int:
        return 20


@pytest.mark.filterwarnings("ignore:Length of IterableDataset")
@pytest.mark.parametrize("num_workers", [0, 2, 3])
def test_a_streams_length_is_a_guess_where_it_has_workers(tmp_path, num_workers):
    make = lambda _: DataLoader(GuessedLength(), 4, num_workers=num_workers, multiprocessing_context="fork")  # noqa: E731
    whole = run(tmp_path / "whole", make, ())
    killed = run(tmp_path / "killed", make, (6, 12))
    assert all(map(torch.equal, whole, killed))


class Part(IterableDataset):
    def __iter__(self) -> Any:
        yield from map(fixed, range(10))


def test_a_chain_of_streams_has_a_length_that_raises(tmp_path):
    runner = toy_runner(str(tmp_path), max_iters=7, val_interval=0)
    runner._parts["train_loop"] = IterBasedTrainLoop(DataLoader(ChainDataset([Part(), Part()]), 4), 7, val_interval=0)
    runner.train()
    model: Any = runner.model
    assert list(itertools.chain(*model.batches))[:20] == [*range(10), *range(10)]


class Counted(BaseModel):
    """Counts its training steps in a state that is no tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.seen = nn.Linear(4, 1), {"steps": 0}

    def get_extra_state(self) -> Any:
        return self.seen

    def set_extra_state(self, state: Any) -> None:
        self.seen = state

    def forward(self, x, y, index, mode="tensor"):
        self.seen = {"steps": self.seen["steps"] + self.training}
        out = self.net(x).squeeze(1)
        return {"loss": (out - y).square().mean()} if mode == "loss" else {"error": (out - y).abs()}


def test_averaged_weights_have_the_extra_state_of_the_model(tmp_path):
    runner = toy_runner(str(tmp_path), max_epochs=2, hooks={"ema": EMAHook(momentum=0.1)})
    model = runner._parts["model"] = Counted()
    runner._parts["optim_wrapper"].optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    runner._parts["param_schedulers"] = None
    runner.train()
    saved = torch.load(next(tmp_path.glob("epoch_2*.pth")), weights_only=True)
    assert saved["state_dict"]["_extra_state"] == {"steps": 10}
    assert "ema_state_dict" in saved


class Held(BaseMetric):
    """Keeps what it has seen in a metric of torchmetrics alone."""

    def __init__(self, holds: str) -> None:
        super().__init__()
        metric = pytest.importorskip("torchmetrics").MeanMetric()
        self.held: Any = {"plain": metric, "dict": {"mean": metric}, "module": nn.ModuleDict({"mean": metric})}[holds]
        self.metric = lambda: metric

    def process(self, data_batch, data_samples):
        self.metric().update(data_batch)
        self.results.append(0)

    def compute_metrics(self, results):
        return {"mean": self.metric().compute()}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("holds", ["plain", "dict", "module"])
def test_a_metric_forgets_what_a_metric_inside_it_has_seen(holds):
    metric = Held(holds)
    for value in (1.0, 5.0):
        metric.process(torch.tensor([value]), None)
        assert metric.evaluate(1) == {"mean": value}


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head, self.other = nn.Embedding(5, 4), nn.Linear(4, 5, bias=False), nn.Linear(4, 4)
        self.head.weight = self.embed.weight


@pytest.mark.parametrize("left_out", [["head.weight"], ["embed.weight"]])
def test_a_tied_weight_has_one_name_in_some_files(tmp_path, left_out):
    first, second = Tied(), Tied()
    torch.save({k: v for k, v in first.state_dict().items() if k not in left_out}, tmp_path / "a.pth")
    load_checkpoint(second, str(tmp_path / "a.pth"), strict=True)
    assert torch.equal(second.head.weight, first.head.weight)


def test_a_tied_weight_that_is_not_there_is_missing(tmp_path):
    torch.save(Tied().other.state_dict(prefix="other."), tmp_path / "a.pth")
    with pytest.raises(RuntimeError, match=r"2 missing in the checkpoint:\s+embed.weight\s+head.weight"):
        load_checkpoint(Tied(), str(tmp_path / "a.pth"), strict=True)


def test_a_file_of_several_models_and_one_of_a_whole_model(tmp_path):
    file, student = str(tmp_path / "a.pth"), Tied()
    torch.save({"student": student.state_dict(), "teacher": Tied().state_dict()}, file)
    model = Tied()
    load_checkpoint(model, file, prefix="student", strict=True)
    assert torch.equal(model.other.weight, student.other.weight)
    with pytest.raises(RuntimeError, match=r"'student\.embed\.weight' is near the model's 'embed\.weight'"):
        load_checkpoint(model, file)
    torch.save(student, file)
    with pytest.raises(RuntimeError, match=r"such as a whole model; save its state_dict\(\) instead"):
        load_checkpoint(model, file)


def test_layers_without_shapes_are_refused_by_name(tmp_path):
    model = nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.Linear(8, 1))
    with pytest.raises(TypeError, match=r"the shapes of 0\.weight, 0\.bias are known after the first batch alone"):
        Runner(model, work_dir=str(tmp_path)).setup()


@pytest.mark.parametrize("batch", [[torch.ones(1, 4)] * 4, (torch.ones(1, 4), torch.ones(1), torch.ones(1), 1, 2)])
def test_a_batch_that_is_passed_by_position_says_so(batch):
    with pytest.raises(TypeError) as caught:
        Counted().val_step(batch)
    assert f"is passed by position, here as {len(batch)} arguments" in caught.value.__notes__[0]
