"""DDP and FSDP2 in two ranks on gloo, against one process with the whole batch."""

import copy
from collections import OrderedDict
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from torch import distributed, nn
from torch.multiprocessing.spawn import spawn

from lazyengine.checkpoint import get_state_dict
from lazyengine.hooks import EMAHook
from lazyengine.model import (
    DDP,
    FSDP2,
    BaseModel,
    ConstantInit,
    ExponentialMovingAverage,
    ModelSetup,
    evaluating,
    set_training,
    train_step,
    unwrap,
    val_step,
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


def check_steps_without_forward(rank):
    """A step as mmengine has it, which calls the model itself, goes through the wrapper all the same."""

    class Calls(Net):
        def train_step(self, data, optim_wrapper):
            losses = self(**data, mode="loss")
            optim_wrapper.update_params(losses["loss"])
            return losses

    class Runs(Net):
        def train_step(self, data, optim_wrapper):
            losses = self._run_forward(data, mode="loss")
            optim_wrapper.update_params(losses["loss"])
            return losses

    for kind in (Calls, Runs):
        torch.manual_seed(0)
        model = kind()
        forward = ModelSetup(freeze=["backbone.0", "norm"]).apply(model, "cpu")
        model.train()
        wrapper = Sgd(model)
        wrapper.num_optimizer_steps = 0
        for _ in range(3):
            train_step(model, {"x": X[rank::2], "y": Y[rank::2]}, wrapper, forward)
        assert "forward" not in vars(model)
        for key, value in trained_alone().items():
            torch.testing.assert_close(model.state_dict()[key], value, rtol=1e-5, atol=1e-7)


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

    own = Alone()
    wrapped = ModelSetup().apply(own, "cpu")
    wrapper = Sgd(own)
    wrapper.num_optimizer_steps = 0
    match = r"Alone.train_step has stepped the optimizer without calling `forward`.*2 ranks drift"
    with pytest.raises(RuntimeError, match=match):
        train_step(own, {"x": X, "y": Y}, wrapper, wrapped)
    check_steps_without_forward(rank)

    unused = nn.ModuleDict({"used": nn.Linear(4, 1), "unused": nn.Linear(4, 1)})
    unused.forward = lambda x: {"loss": unused["used"](x).sum()}
    wrapped = ModelSetup(wrapper=DDP(find_unused_parameters=True)).apply(unused, "cpu")
    for _ in range(2):
        train_step(unused, [X], Sgd(unused), wrapped)

    partly = net()
    partly.norm.eval()
    wrapped = ModelSetup(eval="backbone.0").apply(partly, "cpu")
    set_training(wrapped, ModelSetup())
    assert [name for name, part in partly.named_modules() if not part.training] == ["backbone.0", "norm"]
    with evaluating(wrapped):
        assert not any(part.training for part in wrapped.modules())
    assert wrapped.training
    assert [name for name, part in partly.named_modules() if not part.training] == ["backbone.0", "norm"]
    check_statistics(rank)

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


def check_statistics(rank):
    """The statistics of averaged weights are the mean over the ranks."""
    model = net()
    runner = SimpleNamespace(
        model=model,
        train_dataloader=[{"x": X[rank::2][:2], "y": Y}, {"x": X[rank::2][2:], "y": Y}],
        train_loop=SimpleNamespace(epoch_length=2),
        optim_wrapper=SimpleNamespace(stepped=True, precision=None),
        model_stream=SimpleNamespace(kept=nullcontext),
        iter=0,
        epoch=0,
        max_epochs=1,
        max_iters=2,
    )
    hook = EMAHook(update_bn=True)
    hook.before_train(runner)
    hook.after_train_iter(runner, 0)
    hook.after_train_epoch(runner)
    assert torch.equal(model.norm.running_mean, torch.zeros(4))
    hidden = torch.tanh(model.backbone[1](torch.tanh(model.backbone[0](X))))
    saved = {"state_dict": get_state_dict(model)}
    hook.before_save_checkpoint(runner, saved)
    torch.testing.assert_close(saved["state_dict"]["norm.running_mean"], hidden.mean(0))


def check_narrow_parts():
    """Parts of narrow weights are averaged in float32 too."""
    model = net().bfloat16()
    ModelSetup(wrapper=FSDP2("backbone")).apply(model, "cpu")
    average = ExponentialMovingAverage(model, momentum=0.001)
    average.update_parameters(model)
    first = full(model.head.weight).detach().float().clone()
    for _ in range(3):
        with torch.no_grad():
            model.head.weight.fill_(1)
        average.update_parameters(model)
    expected = first
    for _ in range(3):
        expected = expected.lerp(torch.ones(()), 0.001)
    torch.testing.assert_close(full(average.state_dict()["wide.head.weight"]), expected)
    average.swap(model)
    assert torch.equal(full(model.head.weight), expected.bfloat16())
    average.swap(model)
    assert (full(model.head.weight) == 1).all()
    set_training(model.eval(), ModelSetup())
    with evaluating(model):
        assert not model.head.training
    assert all(part.training for part in model.modules())


class Generates(BaseModel):
    """Predicts by calling a part of it in turns, as `generate` of a transformers model does."""

    def __init__(self):
        super().__init__()
        self.lm = nn.Linear(4, 4)

    def generate(self, x):
        return self.lm(self.lm(x)).detach()

    def forward(self, x, mode="tensor"):
        return self.generate(x)


class GeneratesInStep(Generates):
    def val_step(self, data):
        return self.generate(*data)


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
    check_narrow_parts()

    with torch.device("meta"):
        meta = Net(ConstantInit(0.5, layer="Linear"))
    ModelSetup(wrapper=FSDP2(param_dtype="bfloat16", reduce_dtype="float32", output_dtype="float32")).apply(meta, "cpu")
    assert (full(meta.head.weight) == 0.5).all()
    assert meta.init_info["head.weight"].startswith("ConstantInit")
    assert meta(X).dtype == torch.float32
    meta.train_step({"x": X, "y": Y}, Sgd(meta))
    assert not (full(meta.head.weight) == 0.5).all()

    for kind in (Generates, GeneratesInStep):
        model = kind()
        expected = model.generate(X)
        ModelSetup(wrapper=FSDP2()).apply(model, "cpu")
        with evaluating(model), torch.no_grad():
            if kind is Generates:
                assert torch.equal(val_step(model, [X]), expected)
            else:
                with pytest.raises(RuntimeError, match=r"Step.val_step computed with a part of .*mode='predict'"):
                    val_step(model, [X])

    for units in ("embed", ["embed", "head"], "*"):
        tied = nn.Sequential(OrderedDict(embed=nn.Linear(4, 4), head=nn.Linear(4, 4)))
        tied.head.weight = tied.embed.weight
        with pytest.raises(ValueError, match=r"embed.weight and head.weight are one tied parameter.*take 'embed'"):
            ModelSetup(wrapper=FSDP2(units)).apply(tied, "cpu")
    ModelSetup(wrapper=FSDP2()).apply(tied, "cpu")
    assert tied.head.weight is tied.embed.weight


def run_rank(rank, check, file):
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    try:
        check(rank)
    finally:
        distributed.destroy_process_group()


class Branches(nn.Module):
    """Has a head that is used in some iterations, one that never is, and a tied weight."""

    def __init__(self):
        super().__init__()
        self.body, self.head, self.other = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 1)
        self.never = nn.Linear(4, 1)
        self.head.weight = self.body.weight
        self.uses_other = True

    def forward(self, x):
        hidden = self.head(self.body(x))
        losses = {"loss": hidden.square().mean()}
        if self.uses_other:
            losses["loss_other"] = self.other(hidden).square().mean()
        return losses


def unused(rank):
    model = Branches()
    forward = ModelSetup(wrapper=DDP()).apply(model, "cpu")
    train_step(model, [X], Sgd(model), forward)
    expected = r"the iteration before: never.weight, never.bias\..*freeze=.*DDP\(find_unused_parameters=True\)"
    with pytest.raises(RuntimeError, match=expected):
        train_step(model, [X], Sgd(model), forward)

    frozen = Branches()  # the numbers are those of what is trained
    forward = ModelSetup(freeze=["body", "never"]).apply(frozen, "cpu")
    train_step(frozen, [X], Sgd(frozen), forward)
    frozen.uses_other = False
    train_step(frozen, [X], Sgd(frozen), forward)
    with pytest.raises(RuntimeError, match=r"2 .* before: other.weight, other.bias\."):
        train_step(frozen, [X], Sgd(frozen), forward)

    found = Branches()
    forward = ModelSetup(wrapper=DDP(find_unused_parameters=True)).apply(found, "cpu")
    for uses in (True, False, True):
        found.uses_other = uses
        train_step(found, [X[rank::2]], Sgd(found), forward)


@pytest.mark.parametrize("check", [ddp, fsdp2, unused])
def test_two_ranks_train_as_one_process_with_the_whole_batch(check, tmp_path):
    spawn(run_rank, (check, tmp_path / "store"), nprocs=2)
