"""Several optimizers under names: used one by one, saved together, a GAN resumed in the middle."""

import io

import pytest
import torch
from torch import Tensor, nn

from lazyengine.optim import AmpOptimWrapper, OptimWrapper, OptimWrapperDict, autocast_for


class Gan(nn.Module):
    """A generator and a discriminator over points, without a random number that is not a function of the iteration."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.generator = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 2))
        self.discriminator = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 1))

    def wrappers(self) -> OptimWrapperDict:
        """Return a wrapper for each part; the generator accumulates two micro-batches."""
        return OptimWrapperDict(
            generator=OptimWrapper(
                torch.optim.Adam(self.generator.parameters(), lr=1e-2, betas=(0.5, 0.9)), accumulative_counts=2
            ),
            discriminator=OptimWrapper(
                torch.optim.SGD(self.discriminator.parameters(), lr=1e-2, momentum=0.9), clip_grad={"max_norm": 1.0}
            ),
        )

    def train_step(self, iteration: int, optim_wrapper: OptimWrapperDict) -> dict[str, Tensor]:
        """Update the discriminator, then in two of three iterations the generator."""
        generator = torch.Generator().manual_seed(iteration)
        real = torch.randn(8, 2, generator=generator) + 2
        noise = torch.randn(8, 2, generator=generator)
        wrapper = optim_wrapper["discriminator"]
        with wrapper.optim_context(self):
            fake = self.generator(noise)
            loss_d = nn.functional.softplus(-self.discriminator(real)).mean()
            loss_d = loss_d + nn.functional.softplus(self.discriminator(fake.detach())).mean()
        wrapper.update_params(loss_d)
        if iteration % 3:
            loss_g = nn.functional.softplus(-self.discriminator(self.generator(noise))).mean()
            optim_wrapper["generator"].update_params(loss_g)
            wrapper.zero_grad()
        return {"loss_d": loss_d.detach()}


def weights(model: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


def test_a_gan_resumed_in_the_middle_is_equal_to_the_bit() -> None:
    straight = Gan()
    wrappers = straight.wrappers()
    boundaries = []
    for iteration in range(40):
        straight.train_step(iteration, wrappers)
        boundaries.append(wrappers.at_step_boundary)
    assert not all(boundaries)

    first = Gan()
    wrappers_before = first.wrappers()
    for iteration in range(21):
        first.train_step(iteration, wrappers_before)
    assert wrappers_before.at_step_boundary
    buffer = io.BytesIO()
    torch.save({"model": first.state_dict(), "optimizer": wrappers_before.state_dict()}, buffer)
    buffer.seek(0)
    saved = torch.load(buffer, weights_only=True)

    second = Gan()
    wrappers_after = second.wrappers()
    second.load_state_dict(saved["model"])
    wrappers_after.load_state_dict(saved["optimizer"])
    wrappers_after.initialize_count_status(second, 21, 40)
    for iteration in range(21, 40):
        second.train_step(iteration, wrappers_after)
    assert all(torch.equal(a, b) for a, b in zip(weights(straight), weights(second)))
    assert wrappers_after["generator"].num_optimizer_steps == wrappers["generator"].num_optimizer_steps == 13
    assert wrappers_after["discriminator"].num_optimizer_steps == 40
    assert wrappers_after.num_optimizer_steps == 53


def test_it_is_a_mapping_and_gives_values_under_the_names_of_mmengine() -> None:
    wrappers = Gan().wrappers()
    assert list(wrappers) == list(wrappers.keys()) == ["generator", "discriminator"]
    assert len(wrappers) == 2
    assert "generator" in wrappers
    assert dict(wrappers.items())["generator"] is wrappers["generator"]
    assert wrappers.get_lr() == {"generator.lr": [1e-2], "discriminator.lr": [1e-2]}
    assert wrappers.get_momentum() == {"generator.momentum": [0.5], "discriminator.momentum": [0.9]}
    assert wrappers.param_groups["generator"] is wrappers["generator"].param_groups
    assert set(wrappers.state_dict()) == {"generator", "discriminator"}
    with pytest.raises(KeyError, match="Did you mean 'generator'"):
        wrappers["generater"]


def test_zero_grad_clears_all() -> None:
    gan = Gan()
    wrappers = gan.wrappers()
    gan.discriminator(gan.generator(torch.ones(1, 2))).sum().backward()
    wrappers.zero_grad()
    assert all(parameter.grad is None for parameter in gan.parameters())


def test_wrong_contents_are_refused() -> None:
    gan = Gan()
    optimizer = torch.optim.SGD(gan.generator.parameters(), lr=0.1)
    with pytest.raises(TypeError, match="generator is a SGD"):
        OptimWrapperDict(generator=optimizer)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least one"):
        OptimWrapperDict()
    with pytest.raises(ValueError, match="in both 'a' and 'b'"):
        OptimWrapperDict(a=OptimWrapper(optimizer), b=OptimWrapper(torch.optim.Adam(gan.parameters())))


def test_a_state_of_other_names_is_refused_and_an_error_inside_names_the_optimizer() -> None:
    wrappers = Gan().wrappers()
    state = wrappers.state_dict()
    with pytest.raises(ValueError, match=r"saved optimizers are \['generator'\]"):
        wrappers.load_state_dict({"generator": state["generator"]})
    swapped = {"generator": {"state": {}}, "discriminator": state["discriminator"]}
    with pytest.raises(ValueError, match="no key 'param_groups'") as caught:
        wrappers.load_state_dict(swapped)
    assert caught.value.__notes__ == ["while loading the optimizer 'generator'"]


def test_validation_takes_the_dtype_that_all_have() -> None:
    gan = Gan()
    wrappers = OptimWrapperDict(
        a=AmpOptimWrapper(torch.optim.SGD(gan.generator.parameters(), lr=0.1)),
        b=AmpOptimWrapper(torch.optim.SGD(gan.discriminator.parameters(), lr=0.1), dtype="bfloat16"),
    )
    assert wrappers.precision == {"dtype": "bfloat16", "amp_modules": None}
    with autocast_for(gan, wrappers.precision):
        assert gan.generator(torch.ones(1, 2)).dtype == torch.bfloat16
    assert Gan().wrappers().precision is None
    with autocast_for(gan, None):
        assert gan.generator(torch.ones(1, 2)).dtype == torch.float32


def losses_of(gan: Gan, noise: Tensor, detach: bool = True) -> tuple[Tensor, Tensor]:
    fake = gan.generator(noise)
    return gan.discriminator(fake.detach() if detach else fake).mean(), -gan.discriminator(fake).mean()


@pytest.mark.parametrize("way", ["joined", "not detached", "frozen meanwhile", "cleared", "one wrapper"])
def test_gradients_that_another_loss_left_are_told_of_once(way: str, log_lines: list[str]) -> None:
    gan = Gan()
    each = {name: OptimWrapper(torch.optim.SGD(getattr(gan, name).parameters(), lr=0.1)) for name in ("generator",)}
    if way != "one wrapper":
        each["discriminator"] = OptimWrapper(torch.optim.SGD(gan.discriminator.parameters(), lr=0.1))
    wrappers = OptimWrapperDict(**each)
    for _ in range(4):
        noise = torch.randn(4, 2)
        if way != "one wrapper":
            loss = losses_of(gan, noise, detach=way != "not detached")[0]
            wrappers["discriminator"].update_params(loss)
        gan.discriminator.requires_grad_(way not in ("frozen meanwhile", "not detached"))
        wrappers["generator"].update_params(losses_of(gan, noise)[1])
        gan.discriminator.requires_grad_(True)
        if way == "cleared":
            wrappers["discriminator"].zero_grad()
    told = [line for line in log_lines if "gradients of another loss" in line]
    names = {"joined": ["discriminator"], "not detached": ["generator"]}.get(way, [])
    assert [line.split("'")[1] for line in told] == names
    assert all("4 of its parameters" in line and "requires_grad_(False)" in line for line in told)


@pytest.mark.parametrize("way", ["detached", "no_grad", "frozen"])
def test_a_loss_without_a_gradient_says_where_to_look(way: str) -> None:
    model = nn.Linear(2, 1).requires_grad_(way != "frozen")
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1))
    with torch.set_grad_enabled(way != "no_grad"):
        loss = model(torch.ones(1, 2)).mean()
    with pytest.raises(
        RuntimeError, match=rf"no gradient \({0 if way == 'frozen' else 2} of the optimizer's 2.*detach"
    ):
        wrapper.update_params(loss.detach() if way == "detached" else loss)
