"""Whole runs over data of all kinds: killed and resumed, they end with the same weights to the bit."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader as TorchLoader
from torch.utils.data import IterableDataset

from lazyengine.dataset import DataLoader
from lazyengine.hooks import Hook
from lazyengine.runner import IterBasedTrainLoop, ValLoop

from ..runner.toy import MeanError, StopAt, ToyData, toy_runner


class ToyShards(IterableDataset):
    num_shards = 3

    def __len__(self) -> int:
        return 20

    def __iter__(self) -> Any:
        for shard in range(3):
            yield from self.iter_shard(shard, 0, None)

    def iter_shard(self, shard: int, epoch: int, state: int | None) -> Any:
        for index in range(shard, 20, 3)[state or 0 :]:
            yield ToyData()[index]


class ToyState(IterableDataset):
    position = 0

    def __iter__(self) -> Any:
        info = torch.utils.data.get_worker_info()
        own = range(20) if info is None else range(info.id, 20, info.num_workers)
        while self.position < len(own):
            self.position += 1
            yield ToyData()[own[self.position - 1]]
        self.position = 0

    def state_dict(self) -> dict[str, int]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.position = state["position"]


class NoisyData(ToyData):
    def __init__(self) -> None:
        super().__init__()
        self.rng = np.random.default_rng(0)

    def __getitem__(self, index: int) -> dict[str, Any]:
        sample = super().__getitem__(index)
        return {**sample, "x": sample["x"] + self.rng.normal()}


def build(folder: Any, loader: Any, stop: int | None = None, inexact: bool = False, **hooks: Any):
    """Return a runner of 17 iterations over a loader, which saves every second one."""
    hooks |= {} if stop is None else {"kill": StopAt(stop)}
    runner = toy_runner(str(folder), max_iters=17, hooks=hooks, val_interval=0, resume=True)
    saving: Any = runner.hooks["checkpoint"]
    saving.by_epoch, saving.interval = False, 2
    runner._parts["train_loop"] = IterBasedTrainLoop(loader, 17, val_interval=0, allow_inexact_resume=inexact)
    return runner


def run(folder: Any, make_loader: Any, stops: tuple[int, ...]) -> list[torch.Tensor]:
    """Train, killed after some iterations; `make_loader` is given the number of the start."""
    for number, stop in enumerate(stops):
        with pytest.raises(InterruptedError):
            build(folder, make_loader(number), stop).train()
    runner = build(folder, make_loader(len(stops)))
    runner.train()
    return list(runner.model.state_dict().values())


def ours(dataset: Any, **options: Any) -> Any:
    return lambda number: DataLoader(dataset(), 4, multiprocessing_context="fork", **options)


LOADERS = {
    "shards, workers changing": lambda n: DataLoader(
        ToyShards(), 4, num_workers=(0, 2, 4)[n], multiprocessing_context="fork"
    ),
    "state": ours(ToyState),
    "state in workers": ours(ToyState, num_workers=2),
    "state in workers that stay": ours(ToyState, num_workers=2, persistent_workers=True),
    "own generator": ours(NoisyData, shuffle=True),
    "own generator in workers": ours(NoisyData, shuffle=True, num_workers=2),
    "own generator saved": ours(NoisyData, shuffle=True, own_generators="save"),
}


@pytest.mark.parametrize("name", LOADERS)
def test_a_killed_run_ends_as_one_that_was_not(tmp_path, name):
    whole = run(tmp_path / "whole", LOADERS[name], ())
    killed = run(tmp_path / "killed", LOADERS[name], (3, 12))
    assert all(map(torch.equal, whole, killed))


def fixed(index: int) -> dict[str, Any]:
    return {"x": ToyData().x[index], "y": ToyData().x[index].sum(), "index": index}


class FixedData(ToyData):
    def __getitem__(self, index: int) -> dict[str, Any]:
        return fixed(index)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("kind", ["map", "stream"])
def test_the_stateful_loader_of_torchdata(tmp_path, num_workers, kind):
    stateful = pytest.importorskip("torchdata.stateful_dataloader")

    def make_loader(number: int) -> Any:
        options = {"num_workers": num_workers, "multiprocessing_context": "fork" if num_workers else None}
        torch.manual_seed(1)  # its sampler draws a seed when it is made
        if kind == "map":
            return stateful.StatefulDataLoader(FixedData(), 4, shuffle=True, **options)
        return stateful.StatefulDataLoader(FixedState(), 4, **options)

    whole = run(tmp_path / "whole", make_loader, ())
    killed = run(tmp_path / "killed", make_loader, (3, 12))
    assert all(map(torch.equal, whole, killed))


class FixedState(ToyState):
    def __iter__(self) -> Any:
        for sample in super().__iter__():
            yield fixed(sample["index"])


def test_a_stream_of_hugging_face_in_a_run(tmp_path):
    datasets = pytest.importorskip("datasets")

    def samples(shards: list[int]) -> Any:
        for shard in shards:
            for index in range(shard, 20, 4):
                sample = fixed(index)
                yield {**sample, "x": sample["x"].tolist(), "y": sample["y"].item()}

    def make_loader(number: int) -> Any:
        stream = datasets.IterableDataset.from_generator(samples, gen_kwargs={"shards": list(range(4))})
        stream = stream.shuffle(seed=1, buffer_size=3)
        stream = stream.with_format("torch")
        options = {"num_workers": (0, 2, 4)[number], "multiprocessing_context": "fork"}
        return DataLoader(stream, 4, drop_last=True, **options)

    whole = run(tmp_path / "whole", make_loader, ())
    killed = run(tmp_path / "killed", make_loader, (3, 12))
    assert all(map(torch.equal, whole, killed))


def test_other_workers_are_refused_and_may_be_allowed(tmp_path):
    with pytest.raises(InterruptedError):
        build(tmp_path, ours(ToyState, num_workers=2)(0), 3).train()
    with pytest.raises(RuntimeError, match="num_workers=2"):
        build(tmp_path, ours(ToyState, num_workers=3)(0)).train()
    build(tmp_path, ours(ToyState, num_workers=3)(0), inexact=True).train()


def messages(folder: Any, loader: Any, **kwargs: Any) -> str:
    runner = build(folder, loader, 2, **kwargs)
    with pytest.raises(InterruptedError):
        runner.train()
    (log,) = folder.glob("*/*.log")
    return log.read_text()


def test_the_start_says_what_is_found_and_what_is_not_exact(tmp_path):
    found = messages(tmp_path / "a", ours(NoisyData)(0))
    assert "seeds of their own are replaced: dataset.rng" in found
    assert "not exact" not in found
    left = messages(tmp_path / "b", ours(NoisyData, own_generators="leave")(0))
    assert "a resume in the middle of an epoch is not exact, and is refused: own_generators='leave'" in left
    plain = messages(tmp_path / "c", TorchLoader(NoisyData(), 4))
    assert "not seeded by DataLoader: dataset.rng" in plain


@pytest.mark.parametrize("kind", ["stream", "list"])
def test_validation_over_a_stream_without_length_and_over_a_list(tmp_path, kind):
    class Endless(IterableDataset):
        def __iter__(self) -> Any:
            return (fixed(i) for i in range(20))

    loader: Any = DataLoader(Endless(), 4) if kind == "stream" else list(DataLoader(FixedData(), 4))
    runner = toy_runner(str(tmp_path / kind), max_epochs=1)
    expected = toy_runner(str(tmp_path / "plain"), max_epochs=1)
    values = []
    for each, data in ((runner, loader), (expected, DataLoader(FixedData(), 4))):
        each._parts["val_loop"] = ValLoop(data, [MeanError()])
        each.train()
        values.append(each.val())
    assert values[0] == values[1]


SHARED = {
    "numpy": (lambda: np.random.default_rng(0), lambda rng: float(rng.normal())),
    "numpy, legacy": (lambda: np.random.RandomState(0), lambda rng: float(rng.normal())),
    "python": (lambda: random.Random(0), lambda rng: rng.gauss(0, 1)),
    "torch": (lambda: torch.Generator().manual_seed(0), lambda rng: torch.randn((), generator=rng).item()),
}


class SharedData(ToyData):
    """Draws from a generator from which the model draws too."""

    def __init__(self, rng: Any, draw: Any) -> None:
        super().__init__()
        self.rng, self.draw = rng, draw

    def __getitem__(self, index: int) -> dict[str, Any]:
        sample = super().__getitem__(index)
        return {**sample, "x": sample["x"] + self.draw(self.rng)}


class DrawToo(Hook):
    def __init__(self, rng: Any, draw: Any) -> None:
        self.rng, self.draw = rng, draw

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        data_batch["x"] += self.draw(self.rng)


def shared(folder: Any, kind: str, stop: int | None = None, registers: bool = True) -> Any:
    make, draw = SHARED[kind]
    rng = make()
    loader = DataLoader(SharedData(rng, draw), 4, shuffle=True)
    runner = build(folder, loader, stop, draw=DrawToo(rng, draw))
    if registers:
        runner.register_generator("shared", rng)
    return runner


@pytest.mark.parametrize("kind", SHARED)
def test_a_generator_from_which_a_hook_draws_too_is_saved_where_it_is_registered(tmp_path, kind):
    whole = shared(tmp_path / "whole", kind)
    whole.train()
    for stop in (3, 12):
        with pytest.raises(InterruptedError):
            shared(tmp_path / "killed", kind, stop).train()
    killed = shared(tmp_path / "killed", kind)
    killed.train()
    assert all(map(torch.equal, whole.model.state_dict().values(), killed.model.state_dict().values()))


def test_else_a_resume_in_mid_epoch_is_refused(tmp_path):
    with pytest.raises(InterruptedError):
        shared(tmp_path, "numpy", 3, registers=False).train()
    with pytest.raises(RuntimeError, match=r"dataset\.rng is .*\.rng too, .*call runner\.register_generator"):
        shared(tmp_path, "numpy", registers=False).train()


def test_what_is_no_generator_of_ones_own_is_not_registered(tmp_path):
    runner = build(tmp_path, [])
    for wrong in (random, np.random.rand.__self__, torch.default_generator, 3):  # type: ignore[attr-defined]
        with pytest.raises(TypeError, match=r"accepted are generators of torch and numpy and random\.Random"):
            runner.register_generator("wrong", wrong)
