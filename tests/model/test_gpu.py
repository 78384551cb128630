"""What only a CUDA device shows: where tensors go, and that nothing waits for the device."""

from contextlib import nullcontext

import pytest
import torch
from torch import nn

from lazyengine.model import (
    BaseModel,
    Compile,
    ExponentialMovingAverage,
    ImgDataPreprocessor,
    ModelSetup,
    MomentumAnnealingEMA,
    train_step,
)

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


class Net(BaseModel):
    def __init__(self):
        super().__init__(ImgDataPreprocessor(mean=[127.5], std=[64.0], pad_size_divisor=4, non_blocking=True))
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, inputs, label=None, mode="tensor"):
        output = self.norm(self.conv(inputs)).mean((2, 3))
        if mode == "loss":
            return {"loss": nn.functional.cross_entropy(output, label), "loss_norm": [output.square(), output.abs()]}
        return {"scores": output}


class Sgd:
    def __init__(self, model):
        self.optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def optim_context(self, model):
        return nullcontext()

    def update_params(self, loss):
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


def batch():
    images = torch.randint(0, 256, (2, 3, 9, 9), dtype=torch.uint8).pin_memory()
    return {"inputs": images, "label": torch.zeros(2, dtype=torch.long).pin_memory()}


@pytest.mark.parametrize("kind", [ExponentialMovingAverage, MomentumAnnealingEMA])
def test_a_step_and_its_average_wait_for_nothing(kind):
    model = Net()
    ModelSetup(freeze="conv.bias").apply(model, "cuda")
    wrapper, average = Sgd(model), kind(model)
    data = batch()
    model.train_step(data, wrapper)  # the first step makes constants and workspaces
    average.update_parameters(model)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            log_vars = model.train_step(data, wrapper)
            average.update_parameters(model)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert log_vars["loss"].device.type == "cuda"
    assert log_vars["loss"] == log_vars["loss_part"] + log_vars["loss_norm"]


def test_a_bare_module_gets_its_data_on_the_device():
    class Bare(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(3, 1)

        def forward(self, x):
            return {"loss": self.fc(x).square()}

    model = Bare().cuda()
    assert train_step(model, [torch.ones(2, 3)], Sgd(model))["loss"].is_cuda


@pytest.mark.slow
def test_a_compiled_model_computes_what_the_plain_one_does():
    torch.manual_seed(0)
    model = Net()
    ModelSetup().apply(model, "cuda").eval()
    expected = model.val_step(batch() | {"inputs": torch.full((2, 3, 9, 9), 100, dtype=torch.uint8)})["scores"]
    ModelSetup(compile=Compile(dynamic=False)).apply(model, "cuda", train=False)
    compiled = model.val_step(batch() | {"inputs": torch.full((2, 3, 9, 9), 100, dtype=torch.uint8)})["scores"]
    torch.testing.assert_close(compiled, expected, rtol=1e-3, atol=1e-4)
