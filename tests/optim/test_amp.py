"""Mixed precision: which modules compute in which dtype, loss scaling, and its state."""

import copy
import io
import math

import pytest
import torch
from torch import nn

from lazyengine.logging import MessageHub
from lazyengine.optim import AmpOptimWrapper, NonFiniteError, OptimWrapper, autocast_for, autocast_modules


class Network(nn.Module):
    """A backbone with several outputs and a head; notes the dtypes that it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Backbone()
        self.head = nn.Linear(8, 2)
        self.seen: dict[str, torch.dtype] = {}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        outputs = self.backbone(x)
        self.seen["features"] = outputs["features"][0].dtype
        y = self.head(outputs["features"][0])
        self.seen["head"] = y.dtype
        return y.float().square().mean()


class Backbone(nn.Module):
    """Returns a dict with a tuple and an integer tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 8)
        self.inner: torch.dtype | None = None

    def forward(self, x: torch.Tensor) -> dict:
        y = self.fc(x)
        self.inner = y.dtype
        return {"features": (y, y * 2), "count": torch.tensor(3)}


def build(**options: object) -> tuple[Network, AmpOptimWrapper]:
    torch.manual_seed(0)
    network = Network()
    return network, AmpOptimWrapper(torch.optim.SGD(network.parameters(), lr=0.1), **options)  # type: ignore[arg-type]


def step(network: Network, wrapper: OptimWrapper) -> torch.Tensor:
    with wrapper.optim_context(network):
        loss = network(torch.linspace(-1, 1, 12).reshape(3, 4))
    wrapper.update_params(loss)
    return loss


def test_bfloat16_on_the_backbone_alone_leaves_the_head_in_float32() -> None:
    network, wrapper = build(dtype="bfloat16", amp_modules=["backbone"])
    step(network, wrapper)
    assert network.backbone.inner == torch.bfloat16
    assert network.seen == {"features": torch.float32, "head": torch.float32}
    assert network.backbone.fc.weight.dtype == torch.float32


def test_the_whole_step_runs_in_bfloat16_by_default_on_the_host() -> None:
    network, wrapper = build()
    assert wrapper.dtype == torch.bfloat16
    assert wrapper.loss_scaler is None
    step(network, wrapper)
    assert network.seen == {"features": torch.bfloat16, "head": torch.bfloat16}


@pytest.mark.parametrize("options", [{}, {"amp_modules": ["backbone"]}])
def test_validation_computes_as_training_does(options: dict) -> None:
    network, wrapper = build(**options)
    with torch.no_grad(), autocast_for(network, wrapper.precision):
        network(torch.ones(1, 4))
    before = dict(network.seen), network.backbone.inner
    step(network, wrapper)
    assert (network.seen, network.backbone.inner) == before


def test_a_wrapper_in_float32_has_a_validation_context_too() -> None:
    network = Network()
    with autocast_for(network, OptimWrapper(torch.optim.SGD(network.parameters(), lr=0.1)).precision):
        network(torch.ones(1, 4))
    assert network.seen["head"] == torch.float32


def test_prepared_modules_keep_their_class_name_keys_and_copies() -> None:
    network, _ = build()
    keys = list(network.state_dict())
    autocast_modules(network, ["backbone"], "bfloat16")
    autocast_modules(network, ["backbone"], torch.bfloat16)
    assert list(network.state_dict()) == keys
    assert isinstance(network.backbone, Backbone)
    assert type(network.backbone).__mro__[1] is Backbone
    twin = copy.deepcopy(network)
    twin.load_state_dict({key: value * 0 for key, value in network.state_dict().items()})
    twin(torch.ones(1, 4))
    assert twin.backbone.inner == torch.bfloat16
    assert network.backbone.inner is None  # the copy does not call the original
    with pytest.raises(ValueError, match=r"'backbone' computes in torch\.bfloat16 already"):
        autocast_modules(network, ["backbone"], "float16")


def test_contexts_of_accumulation_and_autocast_go_together() -> None:
    class Synced(Network):
        entered = 0

        def no_sync(self) -> torch.autograd.profiler.record_function:
            self.entered += 1
            return torch.autograd.profiler.record_function("no_sync")

    network = Synced()
    wrapper = AmpOptimWrapper(torch.optim.SGD(network.parameters(), lr=0.1), accumulative_counts=2)
    for _ in range(4):
        step(network, wrapper)
        assert network.seen["head"] == torch.bfloat16
    assert network.entered == 2


@pytest.mark.parametrize("loss_scale", ["dynamic", 128.0, {"init_scale": 64.0, "growth_interval": 2}])
@pytest.mark.parametrize("nonfinite", ["raise", "ignore"])
@pytest.mark.parametrize("clip_grad", [None, {"max_norm": 0.01}])
def test_scaled_float16_follows_the_loop_that_torch_documents(
    loss_scale: str | float | dict, nonfinite: str, clip_grad: dict | None
) -> None:
    network, wrapper = build(dtype="float16", loss_scale=loss_scale, nonfinite=nonfinite, clip_grad=clip_grad)
    reference, _ = build()
    optimizer = torch.optim.SGD(reference.parameters(), lr=0.1)
    options = {} if loss_scale == "dynamic" else loss_scale if isinstance(loss_scale, dict) else {"init_scale": 128.0}
    scaler = torch.amp.GradScaler("cpu", **options)
    for _ in range(5):
        step(network, wrapper)
        with torch.autocast("cpu", torch.float16):
            loss = reference(torch.linspace(-1, 1, 12).reshape(3, 4))
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        if clip_grad:
            torch.nn.utils.clip_grad_norm_(reference.parameters(), 0.01)
        scaler.step(optimizer)
        scaler.update(128.0 if isinstance(loss_scale, float) else None)
        optimizer.zero_grad()
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), reference.parameters()))
    assert wrapper.loss_scaler is not None
    assert wrapper.loss_scaler.state_dict() == scaler.state_dict()
    assert wrapper.num_optimizer_steps == 5


def test_an_overflow_skips_the_update_and_lowers_the_scale() -> None:
    network, wrapper = build(dtype="float16", loss_scale={"init_scale": 1024.0})
    before = [p.detach().clone() for p in network.parameters()]
    network.head.weight.register_hook(lambda grad: grad * math.inf)
    step(network, wrapper)
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), before))
    assert wrapper.loss_scaler is not None
    assert wrapper.loss_scaler.get_scale() == 512.0
    assert (wrapper.num_optimizer_steps, wrapper.at_step_boundary) == (0, True)


def test_gradients_that_overflow_at_every_scale_are_an_error() -> None:
    network, wrapper = build(dtype="float16")
    network.head.weight.register_hook(lambda grad: grad * math.inf)
    for _ in range(50):
        step(network, wrapper)
    with pytest.raises(FloatingPointError, match="in 51 updates in a row"):
        step(network, wrapper)


def test_a_nan_loss_in_float16_follows_the_policy_and_not_the_scaler(hub: MessageHub) -> None:
    network, wrapper = build(dtype="float16")
    with pytest.raises(NonFiniteError, match="the loss is nan"):
        wrapper.update_params(network(torch.full((1, 4), math.nan)))
    step(network, wrapper)
    assert wrapper.num_optimizer_steps == 1


def test_the_scaler_is_saved_and_resumed_and_bfloat16_has_none() -> None:
    network, wrapper = build(dtype="float16", loss_scale={"init_scale": 32.0, "growth_interval": 3})
    for _ in range(4):
        step(network, wrapper)
    buffer = io.BytesIO()
    torch.save(wrapper.state_dict(), buffer)
    buffer.seek(0)
    saved = torch.load(buffer, weights_only=True)
    _, other = build(dtype="float16", loss_scale={"growth_interval": 3})
    other.load_state_dict(saved)
    assert other.loss_scaler is not None
    assert wrapper.loss_scaler is not None
    assert other.loss_scaler.state_dict() == wrapper.loss_scaler.state_dict()
    assert "loss_scaler" in saved
    _, bfloat16 = build(dtype="bfloat16")
    assert "loss_scaler" not in bfloat16.state_dict()
    bfloat16.load_state_dict(saved)
    assert bfloat16.num_optimizer_steps == 4


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"dtype": "float32"}, ValueError, "'float16' or 'bfloat16'; got 'float32'"),
        ({"dtype": 16}, TypeError, "got 16"),
        ({"loss_scale": "static"}, TypeError, "got 'static'"),
        ({"loss_scale": -1.0}, ValueError, r"greater than 0; got -1\.0"),
        ({"amp_modules": "backbone"}, TypeError, r"say \['backbone'\]"),
        ({"dtype": "float16", "accumulative_counts": 0}, ValueError, "at least 1"),
    ],
)
def test_wrong_arguments_are_refused_at_construction(options: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        build(**options)


@pytest.mark.parametrize("option", ["growth_interval", "growth_factor", "backoff_factor"])
def test_a_changed_option_of_the_scaler_is_in_force_on_a_resume(option: str) -> None:
    """The saved one stayed in silence; where the scale stands is what is resumed."""
    options = {"init_scale": 8.0, "growth_interval": 2, "growth_factor": 4.0, "backoff_factor": 0.25}
    network, wrapper = build(dtype="float16", loss_scale=options)
    for _ in range(3):
        step(network, wrapper)
    changed = {
        **options,
        "init_scale": 2.0,
        option: {"growth_interval": 5}.get(option, 1.5 if "grow" in option else 0.5),
    }
    _, resumed = build(dtype="float16", loss_scale=changed)
    resumed.load_state_dict(wrapper.state_dict())
    assert wrapper.loss_scaler is not None
    assert resumed.loss_scaler is not None
    saved, state = wrapper.loss_scaler.state_dict(), resumed.loss_scaler.state_dict()
    assert (state["scale"], state["_growth_tracker"]) == (saved["scale"], saved["_growth_tracker"]) == (32.0, 1)
    assert state[option] == changed[option] != saved[option]


def test_a_module_that_the_model_lacks_is_named_with_near_matches() -> None:
    network, wrapper = build(amp_modules=["backbon"])
    with pytest.raises(ValueError, match=r"no submodule 'backbon'; close is 'backbone'"):
        wrapper.initialize_count_status(network, 0, 10)
