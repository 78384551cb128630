"""Batches and outputs of all kinds: lists of dicts, fields that nobody computes with, outputs that are no curves."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader as TorchLoader
from torch.utils.data import IterableDataset

from lazyengine.dataset import DataLoader
from lazyengine.evaluator import BaseMetric
from lazyengine.model import BaseModel, LossAdapter, parse_losses
from lazyengine.optim import OptimWrapper
from lazyengine.runner import EpochBasedTrainLoop, Runner, ValLoop


class Seen(BaseMetric):
    """The mean of the predictions, and how many there are."""

    def process(self, data_batch, data_samples):
        self.results += [each["scores"] for each in data_samples] if isinstance(data_samples, list) else list(
            data_samples["scores"]
        )  # fmt: skip

    def compute_metrics(self, results):
        return {"num": len(results), "mean": torch.stack(results).mean()}


class Line(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.line = nn.Linear(4, 1)


class Plain(Line):
    def forward(self, x, y):
        out = self.line(x).squeeze(1)
        return {"loss": (out - y).square().mean(), "logits": out, "seen": len(x)} if self.training else {"scores": out}


class Own(BaseModel):
    def __init__(self) -> None:
        super().__init__()
        self.line = Line().line

    def forward(self, x, y, mode):
        out = self.line(x).squeeze(1)
        return {"loss": (out - y).square().mean()} if mode == "loss" else {"scores": out}


class Bare(Line):
    def forward(self, x):
        return self.line(x).squeeze(1)


class OfSamples(Line):
    """Takes samples of several sizes, each a dict."""

    def forward(self, samples):
        outs = [self.line(each["points"]).mean() for each in samples]
        if not self.training:
            return [{"scores": out} for out in outs]
        return {"loss": torch.stack([(o - s["y"]).square() for o, s in zip(outs, samples)]).mean()}


class Stream(IterableDataset):
    def __iter__(self) -> Any:
        for index in range(7):
            yield {"x": torch.full((4,), float(index)), "y": torch.tensor(1.0)}


def run(model: nn.Module, train: Any, val: Any, folder: Any) -> tuple[Runner, dict[str, Any]]:
    runner = Runner(
        model,
        train_loop=EpochBasedTrainLoop(train, 2),
        val_loop=ValLoop(val, Seen()),
        optim_wrapper=OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1)),
        work_dir=str(folder),
    )
    runner.train()
    return runner, runner.val()


def batches(*, asides: bool = False) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(1)
    made = []
    for start in (0, 2, 4):
        batch = {"x": torch.rand(2, 4, generator=generator), "y": torch.rand(2, generator=generator)}
        asides_of = {"sample_idx": torch.tensor([start, start + 1]), "image_id": [1, 2], "text": ["a", "b"]}
        made.append({**batch, **(asides_of if asides else {})})
    return made


@pytest.mark.parametrize("make", [Plain, Own, lambda: LossAdapter(Bare(), nn.MSELoss(), target="y")])
def test_ids_and_texts_in_a_batch_change_nothing(tmp_path, make):
    plain, metrics = run(make(), batches(), batches(), tmp_path / "plain")
    aside, same = run(make(), batches(asides=True), batches(asides=True), tmp_path / "aside")
    assert metrics == same
    assert all(map(torch.equal, plain.model.parameters(), aside.model.parameters()))


@pytest.mark.parametrize("make", [Plain, Own])
def test_a_field_that_is_mistyped_is_an_error(tmp_path, make):
    wrong = [{**batch, "yy": batch["y"]} for batch in batches()]
    with pytest.raises(TypeError, match=r"forward does not accept the batch's 'yy'.*ignore_fields"):
        run(make(), wrong, batches(), tmp_path)
    model = make()
    model.ignore_fields = ("yy",)
    assert run(model, wrong, wrong, tmp_path)[1] == run(make(), batches(), batches(), tmp_path / "plain")[1]


def test_a_batch_is_a_list_of_dicts(tmp_path):
    data = [{"points": torch.full((n + 1, 4), n / 6), "y": torch.tensor(0.5), "image_id": n} for n in range(6)]
    loader = DataLoader(data, 2, collate_fn=list)
    runner, metrics = run(OfSamples(), loader, loader, tmp_path)
    by_hand = OfSamples()
    optimizer = torch.optim.SGD(by_hand.parameters(), lr=0.1)
    for _ in range(2):
        for start in (0, 2, 4):
            loss = by_hand(data[start : start + 2])["loss"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert all(map(torch.equal, by_hand.parameters(), runner.model.parameters()))
    assert metrics["num"] == 6


@pytest.mark.parametrize("loader", [lambda: DataLoader(Stream(), 3), lambda: TorchLoader(Stream(), 3)])
def test_a_validation_reads_a_stream_to_its_end(tmp_path, loader):
    whole = list(TorchLoader(list(Stream()), 3))  # type: ignore[arg-type]
    _, expected = run(Plain(), batches(), whole, tmp_path / "list")
    assert expected["num"] == 7
    assert run(Plain(), batches(), loader(), tmp_path / "stream")[1] == expected


def test_what_is_no_curve_is_left_out_and_named(tmp_path, caplog):
    with caplog.at_level(logging.INFO, "lazyengine.model.step"):
        runner, _ = run(Plain(), batches(), batches(), tmp_path)
    assert {"train/loss", "train/seen"} <= runner.message_hub.log_scalars.keys()
    assert "train/logits" not in runner.message_hub.log_scalars
    loss = torch.tensor(2.0, requires_grad=True)
    beside = {
        "acc": torch.tensor([0.0, 1.0]), "num_pos": torch.tensor(3), "lr_scale": 0.5, "parts": [torch.tensor(1.0)] * 2,
        "ids": torch.tensor([1, 2]), "boxes": [1, 2, 3], "map": torch.rand(2, 2), "name": "x", "nothing": None,
    }  # fmt: skip
    total, logged = parse_losses({"loss": loss, **beside})
    assert total.item() == 2
    assert {name: float(value) for name, value in logged.items()} == {
        "loss": 2, "acc": 0.5, "num_pos": 3, "lr_scale": 0.5, "parts": 2,
    }  # fmt: skip
