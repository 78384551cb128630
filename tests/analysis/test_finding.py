"""`lazyengine lr-find` and `batch-find`: nothing of what is looked at changes."""

import hashlib
import json

import pytest
import torch
from torch import nn
from torch.optim import SGD

from lazyengine.analysis.cost import cost_of
from lazyengine.analysis.finding import find_lr, largest_batch
from lazyengine.checkpoint import read_checkpoint
from lazyengine.cli.main import main
from lazyengine.cli.plan import maker_of
from lazyengine.config import LazyConfig
from lazyengine.dataset import DataLoader
from lazyengine.errors import UsageValueError
from lazyengine.model import BaseModel, ModelSetup
from lazyengine.optim import OptimWrapper
from lazyengine.runner import EpochBasedTrainLoop, Runner

DIGITS = "projects/digits/config.py"


def test_the_loss_falls_and_then_rises(tmp_path):
    found = find_lr(maker_of(DIGITS, (), str(tmp_path / "none")), low=1e-5, high=30.0, steps=60)
    assert found.rates == sorted(found.rates)
    assert found.rates[0] == 1e-5
    assert found.steepest is not None
    assert 1e-5 < found.steepest < found.lowest < 30
    assert min(found.smoothed) < 0.8 * found.smoothed[0]
    assert "falls fastest at lr = " in found.as_text()
    assert not (tmp_path / "none").exists()
    again = find_lr(maker_of(DIGITS, (), str(tmp_path)), low=1e-5, high=30.0, steps=60)
    assert again == found


class Losses(BaseModel):
    """Its losses are its batches."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, batch, mode="loss"):
        return {"loss": batch.mean() + 0.0 * self.weight}


@pytest.mark.parametrize("noise", [(0.0,), (0.3, -0.3), (0.4, 0.0, -0.2)])
def test_what_two_batches_differ_by_is_no_fall(tmp_path, noise):
    losses = [2.0 - 1.5 * min(max((step - 50) / 30, 0), 1) + noise[step % len(noise)] for step in range(100)]
    model = Losses()
    wrapper = OptimWrapper(SGD(model.parameters(), lr=0.1))
    loop = EpochBasedTrainLoop(
        DataLoader([{"batch": torch.tensor(loss)} for loss in losses], batch_size=1), max_epochs=1
    )
    found = find_lr(
        lambda: Runner(model, train_loop=loop, optim_wrapper=wrapper, work_dir=str(tmp_path)), low=1e-6, high=1.0
    )
    assert len(found.rates) == 100
    assert found.steepest is not None
    assert found.rates[50] < found.steepest < found.rates[90]


def test_groups_keep_their_shares_of_the_rate(tmp_path):
    made = []

    def make():
        made.append(maker_of(DIGITS, ["optimizer.params.bias_lr_mult=2.0"], str(tmp_path))())
        return made[-1]

    groups = [group["lr"] for group in make().optim_wrapper.param_groups]
    assert len(set(groups)) == 2
    find_lr(make, low=1e-4, high=1e-2, steps=5)
    raised = [group["lr"] for group in made[-1].optim_wrapper.param_groups]
    assert [each / raised[0] for each in raised] == pytest.approx([each / groups[0] for each in groups])
    assert raised[0] == pytest.approx(1e-2)


class Constant(BaseModel):
    """Its loss is its weight: of the constructor 3, of `init_weights` 2; besides a part that does not learn."""

    def __init__(self):
        super().__init__()
        self.weight, self.fixed = nn.Parameter(torch.tensor(3.0)), nn.Linear(1, 1)

    def init_weights(self):
        self.is_init = True
        nn.init.constant_(self.weight, 2.0)
        nn.init.constant_(self.fixed.weight, 0.5)
        nn.init.zeros_(self.fixed.bias)

    def forward(self, batch, mode="loss"):
        return {"loss": self.weight + 0.0 * self.fixed(batch[:, None]).sum() + 1000 * (self.fixed.weight.sum() - 0.5)}


@pytest.mark.parametrize("begins", ["by init_weights", "with load_from", "with a run that left out what is frozen"])
def test_it_begins_with_the_weights_of_a_training(tmp_path, begins):
    def make(folder="other", **options):
        model = Constant()
        loop = EpochBasedTrainLoop(DataLoader([{"batch": torch.zeros(())}] * 4, batch_size=1), max_epochs=1)
        wrapper = OptimWrapper(SGD(model.parameters(), lr=0.25))
        return Runner(model, train_loop=loop, optim_wrapper=wrapper, work_dir=str(tmp_path / folder), **options)

    options, resume, loss = {}, None, 2.0
    if begins == "with load_from":
        given = Constant()
        torch.save({**given.state_dict(), "weight": torch.tensor(5.0), "fixed.weight": torch.full((1, 1), 0.5)},
                   path := str(tmp_path / "given.pth"))  # fmt: skip
        options, loss = {"load_from": path}, 5.0
    elif begins != "by init_weights":
        options = {"save": "trained", "model_setup": ModelSetup(freeze=["fixed"])}
        trained = make("run", **options)
        trained.train()
        resume, loss = trained.save_checkpoint("last.pth"), 1.0
        assert "fixed.weight" not in read_checkpoint(resume)["state_dict"]
    found = find_lr(lambda: make(**options), low=1e-9, high=1e-8, steps=5, resume=resume)
    assert found.losses[0] == pytest.approx(loss)


def hashes(folder):
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_a_run_is_left_as_it_is(tmp_path, capsys):
    cfg = LazyConfig.apply_overrides(LazyConfig.load(DIGITS), ["train_loop.max_epochs=1"])
    Runner.from_cfg(cfg, work_dir=str(tmp_path / "run")).train()
    before = hashes(tmp_path / "run")
    capsys.readouterr()
    assert main(["lr-find", str(tmp_path / "run"), "--steps", "12", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["losses"][0] < 1.0  # of trained weights
    assert hashes(tmp_path / "run") == before


def test_the_largest_batch_is_the_last_that_fits(tmp_path):
    def cost(size):
        return cost_of(maker_of(DIGITS, [f"train_loop.dataloader.batch_size={size}"], str(tmp_path)))

    limit = cost(100).peak_bytes
    found = {each.samples: each.peak_bytes for each in largest_batch(cost, limit, start=64)}
    largest = max(size for size, peak in found.items() if peak <= limit)
    assert 96 <= largest <= 100
    assert min(size for size, peak in found.items() if peak > limit) <= largest + largest // 16 + 1
    with pytest.raises(UsageValueError, match="a batch of 64 needs"):
        largest_batch(cost, 1000.0, start=64)


def test_mistakes(capsys):
    assert main(["lr-find", DIGITS, "--low", "1", "--high", "0.1"]) == 2
    assert "expected 0 < low < high" in capsys.readouterr().err
    assert main(["batch-find", DIGITS, "--gpu", "nothing"]) == 2
    assert "not known" in capsys.readouterr().err
