"""A model split over ranks by `parallelize_module`: its wrapper says over which ranks the data is shared out."""

from __future__ import annotations

import pytest
import torch
from torch import distributed, nn
from torch.multiprocessing.spawn import spawn

from lazyengine import dist
from lazyengine.config import LazyCall, instantiate
from lazyengine.dataset import DataLoader, DefaultSampler
from lazyengine.evaluator import BaseMetric
from lazyengine.hooks import Hook, default_hooks
from lazyengine.model import BaseModel, ModelSetup, train_step
from lazyengine.optim import OptimWrapper, param_groups
from lazyengine.runner import EpochBasedTrainLoop, Runner, ValLoop

from ..runner.toy import MeanError, ToyData

pytestmark = pytest.mark.slow


class Net(BaseModel):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.up, self.drop, self.down = nn.Linear(4, 8), nn.Dropout(0.2), nn.Linear(8, 1)

    def forward(self, x, y, index, mode="tensor"):
        out = self.down(self.up(self.drop(x)).relu()).squeeze(1)
        return {"loss": (out - y).square().mean()} if mode == "loss" else {"error": (out - y).abs()}


class TensorParallel:
    """All ranks hold a part of each layer."""

    @property
    def mesh(self):
        if not hasattr(self, "_mesh"):
            size = torch.distributed.get_world_size()
            self._mesh = distributed.init_device_mesh("cpu", (1, size), mesh_dim_names=("data", "tensor"))
        return self._mesh

    def data_parallel_mesh(self):
        return self.mesh["data"]

    def __call__(self, model, device):
        from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

        return parallelize_module(model, self.mesh["tensor"], {"up": ColwiseParallel(), "down": RowwiseParallel()})


class Seen(Hook):
    def __init__(self):
        self.losses, self.batches = [], []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.losses.append(outputs["loss"].item())
        self.batches.append(data_batch["index"].tolist())


def trained(folder, wrapper, resume=False, epochs=2):
    model, data, seen = LazyCall(Net)(), ToyData(), Seen()
    loader = LazyCall(DataLoader)(data, 4, sampler=LazyCall(DefaultSampler)(data))
    runner = instantiate(
        LazyCall(Runner)(
            model=model,
            train_loop=LazyCall(EpochBasedTrainLoop)(loader, epochs),
            val_loop=LazyCall(ValLoop)(LazyCall(DataLoader)(data, 4), MeanError()),
            optim_wrapper=LazyCall(OptimWrapper)(
                optimizer=LazyCall(torch.optim.AdamW)(params=LazyCall(param_groups)(model=model), lr=0.01)
            ),
            hooks={**default_hooks(), "seen": seen},
            model_setup=ModelSetup(wrapper=wrapper),
            work_dir=folder,
            launcher="none",
            resume=resume,
        )
    )
    net = runner.train()
    whole = {name: getattr(value, "full_tensor", lambda v=value: v)() for name, value in net.state_dict().items()}
    return {"losses": seen.losses, "batches": seen.batches, "metrics": runner.val(), "state": whole}


def run_rank(rank, folder):
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    try:
        alone = torch.load(f"{folder}/alone.pt")
        split = trained(f"{folder}/split", TensorParallel())
        assert split["batches"] == alone["batches"]
        torch.testing.assert_close(split["losses"], alone["losses"], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(split["metrics"], alone["metrics"], rtol=1e-5, atol=1e-6)
        trained(f"{folder}/again", TensorParallel(), epochs=1)
        again = trained(f"{folder}/again", TensorParallel(), resume=True)
        assert again["batches"] == alone["batches"][5:]
        assert all(torch.equal(value, split["state"][name]) for name, value in again["state"].items())
        assert dist.get_data_world_size() == 1
        with pytest.raises(ValueError, match=r"data_parallel_mesh is .* accepted is one dimension"):
            dist.share_data_over(TensorParallel().mesh)
    finally:
        dist.share_data_over(None)
        distributed.destroy_process_group()


class Indices(BaseMetric):
    def process(self, data_batch, data_samples):
        self.results += data_batch["index"].tolist()

    def compute_metrics(self, results):
        return {"number": len(results), "in order": results == list(range(21))}


class TwoByTwo:
    def data_parallel_mesh(self):
        return distributed.init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "tensor"))["data"]

    def __call__(self, model, device):
        return model


def run_rank_of_four(rank, folder):
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=4)
    try:
        loader = LazyCall(DataLoader)(ToyData(21), 4)
        setup = ModelSetup(wrapper=TwoByTwo())
        val_loop = LazyCall(ValLoop)(loader, Indices())
        recipe = LazyCall(Runner)(
            LazyCall(Net)(), val_loop=val_loop, model_setup=setup, work_dir=folder, launcher="none"
        )
        runner = instantiate(recipe)
        assert runner.val() == {"number": 21, "in order": True}
        own = [index for batch in runner.val_loop.dataloader for index in batch["index"].tolist()]
        assert own == [*range(rank // 2, 21, 2), *[0] * (rank // 2)]
        assert (dist.get_data_rank(), dist.get_data_world_size(), dist.per_rank(6)) == (rank // 2, 2, 3)
        assert dist.is_first_of_data_rank() == (rank % 2 == 0)
        with pytest.raises(RuntimeError, match="trained in 2 ranks without synchronizing gradients"):
            train_step(runner.model, {}, None)
    finally:
        dist.share_data_over(None)
        distributed.destroy_process_group()


def test_a_share_of_the_data_counts_once(tmp_path):
    spawn(run_rank_of_four, (str(tmp_path),), nprocs=4)


def test_both_ranks_see_the_batches_of_one_process(tmp_path):
    torch.save(trained(str(tmp_path / "one"), None), tmp_path / "alone.pt")
    spawn(run_rank, (str(tmp_path),), nprocs=2)
