"""DDP and FSDP2 in two ranks on gloo, against one process with the whole batch."""

import copy
from contextlib import nullcontext

import pytest
import torch
from torch import distributed, nn
from torch.multiprocessing.spawn import spawn

from lazyengine.checkpoint import get_state_dict
from lazyengine.model import (
    DDP,
    FSDP2,
    BaseModel,
    ConstantInit,
    ExponentialMovingAverage,
    ModelSetup,
    train_step,
    unwrap,
)

pytestmark = pytest.mark.slow
X = torch.randn(8, 4, generator=torch.Generator().manual_seed(1))
Y = torch.randn(8, 2, generator=torch.Generator().manual_seed(2))


class Net(BaseModel):
    def __init__(self, init_cfg=None):
        super().__init__(init_cfg=init_cfg)
        self.backbone = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
        self.norm = nn.BatchNorm1d(4)
        self.head = nn.Linear(4, 2)

    def forward(self, x, y=None, mode="tensor"):
        for layer in self.backbone:
            x = torch.tanh(layer(x))
        output = self.head(self.norm(x))
        return {"loss": (output - y).square().mean()} if mode == "loss" else output


class Sgd:
    """The smallest optimizer wrapper."""

    def __init__(self, model):
        self.optimizer = torch.optim.SGD((p for p in model.parameters() if p.requires_grad), lr=0.1)

    def optim_context(self, model):
        return nullcontext()

    def update_params(self, loss):
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


def net():
    torch.manual_seed(0)
    return Net()


def trained_alone():
    """Train on the whole batch in one process; the norm layer is frozen, so that ranks need not share statistics."""
    model = net()
    ModelSetup(freeze=["backbone.0", "norm"], wrapper=lambda model, device: model).apply(model, "cpu")
    model.train()
    wrapper = Sgd(model)
    for _ in range(3):
        loss = model(X, Y, mode="loss")["loss"]
        wrapper.update_params(loss)
    return model.state_dict()


def full(value):
    return value.full_tensor() if hasattr(value, "full_tensor") else value


def check_trained(model, forward, rank):
    wrapper = Sgd(model)
    model.train()
    batch = {"x": X[rank::2], "y": Y[rank::2]}
    for _ in range(3):
        model.train_step(batch, wrapper, forward=forward)
    state = {key: full(value) for key, value in model.state_dict().items()}
    expected = trained_alone()
    assert list(state) == list(expected)
    for key, value in expected.items():
        torch.testing.assert_close(state[key], value, rtol=1e-5, atol=1e-7)


def ddp(rank):
    plain = net()
    with pytest.raises(RuntimeError, match="trained in 2 ranks without synchronizing gradients"):
        plain.train_step({"x": X, "y": Y}, Sgd(plain))
    with pytest.raises(RuntimeError, match="trained in 2 ranks without synchronizing gradients"):
        train_step(nn.Linear(4, 2), [X], Sgd(plain))

    model = net()
    forward = ModelSetup(freeze=["backbone.0", "norm"], activation_checkpointing="backbone").apply(model, "cpu")
    assert isinstance(forward, nn.parallel.DistributedDataParallel)  # by itself
    assert unwrap(forward) is model
    check_trained(model, forward, rank)
    ExponentialMovingAverage(forward).update_parameters(forward)

    frozen = net()
    assert ModelSetup(freeze="*").apply(frozen, "cpu") is frozen  # nothing to synchronize

    class Alone(Net):
        def train_step(self, data, optim_wrapper, forward=None):
            optim_wrapper.update_params(self(**data, mode="loss")["loss"])
            optim_wrapper.num_optimizer_steps = 1
            return {}

    class Short(Net):
        def train_step(self, data, optim_wrapper):
            return {}

    for own, error, match in (
        (Alone(), RuntimeError, r"Alone.train_step has stepped the optimizer without calling `forward`.*2 ranks drift"),
        (Short(), TypeError, r"Short.train_step takes no `forward` · .*add the argument, and call forward"),
    ):
        wrapped = ModelSetup().apply(own, "cpu")
        wrapper = Sgd(own)
        wrapper.num_optimizer_steps = 0
        with pytest.raises(error, match=match):
            train_step(own, {"x": X, "y": Y}, wrapper, wrapped)

    unused = nn.ModuleDict({"used": nn.Linear(4, 1), "unused": nn.Linear(4, 1)})
    unused.forward = lambda x: {"loss": unused["used"](x).sum()}
    wrapped = ModelSetup(wrapper=DDP(find_unused_parameters=True)).apply(unused, "cpu")
    for _ in range(2):
        train_step(unused, [X], Sgd(unused), wrapped)

    with pytest.raises(ValueError, match="SyncBatchNorm does not run on CPUs"):
        ModelSetup(sync_bn=True).apply(net(), "cpu")


def check_averaged(model, forward):
    """The parts of each rank are averaged, exchanged and saved as whole weights are."""
    averaged = ExponentialMovingAverage(model, momentum=0.25)
    averaged.update_parameters(model)
    assert get_state_dict(averaged.module).keys() == get_state_dict(model).keys()
    first = {key: full(value).clone() for key, value in get_state_dict(model).items()}
    model.train_step({"x": X, "y": Y}, Sgd(model), forward=forward)
    second = {key: full(value).clone() for key, value in get_state_dict(model).items()}
    averaged.update_parameters(model)
    for key, value in get_state_dict(averaged.module).items():
        is_buffer = key in dict(model.named_buffers())
        assert torch.equal(full(value), second[key] if is_buffer else first[key].lerp(second[key], 0.25)), key
    assert not torch.equal(first["head.weight"], second["head.weight"])
    averaged.swap(model)
    assert torch.equal(full(model.head.weight), first["head.weight"].lerp(second["head.weight"], 0.25))
    with torch.no_grad():
        model(X)
    averaged.swap(model)
    assert torch.equal(full(model.head.weight), second["head.weight"])
    with pytest.raises(TypeError, match=r"cannot be called · exchange it into the model with swap\(model\)"):
        averaged(X)
    with pytest.raises(ValueError, match="keeps the average of a model sharded by FSDP2 where its parts are, got dev"):
        ExponentialMovingAverage(model, device="cpu")


def fsdp2(rank):
    from torch.distributed.tensor import DTensor

    model = net()
    average = copy.deepcopy(model)
    setup = ModelSetup(
        freeze=["backbone.0", "norm"], activation_checkpointing="backbone", wrapper=FSDP2("backbone", param_dtype=None)
    )
    forward = setup.apply(model, "cpu")
    assert forward is model
    assert all(isinstance(parameter, DTensor) for parameter in model.parameters())
    assert average.head.weight.numel() == 2 * model.head.weight.to_local().numel()
    check_trained(model, forward, rank)
    check_averaged(model, forward)

    with torch.device("meta"):
        meta = Net(ConstantInit(0.5, layer="Linear"))
    ModelSetup(wrapper=FSDP2(param_dtype="bfloat16", reduce_dtype="float32", output_dtype="float32")).apply(meta, "cpu")
    assert (full(meta.head.weight) == 0.5).all()
    assert meta.init_info["head.weight"].startswith("ConstantInit")
    assert meta(X).dtype == torch.float32
    meta.train_step({"x": X, "y": Y}, Sgd(meta))
    assert not (full(meta.head.weight) == 0.5).all()


def run_rank(rank, check, file):
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    try:
        check(rank)
    finally:
        distributed.destroy_process_group()


@pytest.mark.parametrize("check", [ddp, fsdp2])
def test_two_ranks_train_as_one_process_with_the_whole_batch(check, tmp_path):
    spawn(run_rank, (check, tmp_path / "store"), nprocs=2)
