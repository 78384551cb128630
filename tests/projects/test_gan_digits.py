"""The GAN on the digits at small size: two optimizers, pictures, resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lazyengine.config import LazyConfig
from lazyengine.runner import Runner
from projects.gan_digits.gan import DrawnNeighbors

CONFIG = Path(__file__).resolve().parents[2] / "projects" / "gan_digits" / "config.py"
SMALL = (
    *("generator.width=2", "discriminator.width=2", "generator.noise_size=4", "train_loop.dataloader.batch_size=160"),
    *("train_loop.max_epochs=2", "train_loop.val_interval=1", "default_hooks.draw_images.interval=1"),
    *("runner.param_schedulers.generator[0].end=4", "runner.param_schedulers.generator[1].begin=4"),
    *("default_hooks.checkpoint.by_epoch=false", "default_hooks.checkpoint.interval=6"),
)


def run(work_dir: Path, **kwargs: Any) -> Runner:
    """Train the config at small size: 2 epochs of 9 iterations."""
    cfg = LazyConfig.load(CONFIG)
    LazyConfig.apply_overrides(cfg, SMALL)
    runner = Runner.from_cfg(cfg, work_dir=str(work_dir), **kwargs)
    runner.train()
    return runner


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Runner:
    """A finished run."""
    return run(tmp_path_factory.mktemp("gan"))


def test_each_optimizer_steps_once_an_iteration_by_its_own_schedule(whole):
    assert {name: wrapper.num_optimizer_steps for name, wrapper in whole.optim_wrapper.items()} == {
        "generator": 18,
        "discriminator": 18,
    }
    history = {
        name: whole.message_hub.get_scalar(f"train/{name}.lr").data[0] for name in ("generator", "discriminator")
    }
    assert history["generator"][0] == pytest.approx(1e-4)
    assert max(history["generator"]) == pytest.approx(1e-3)
    assert list(history["discriminator"]) == sorted(history["discriminator"], reverse=True)
    assert history["discriminator"][0] == pytest.approx(1e-3)


def test_losses_scores_and_the_metric_are_logged(whole):
    for name in ("loss_generator", "loss_discriminator", "loss_penalty", "score_real", "score_drawn"):
        assert len(whole.message_hub.get_scalar(f"train/{name}").data[0]) == 18, name
    assert 0 <= whole.message_hub.get_scalar("val/neighbors").current() <= 1


def test_pictures_are_written(whole):
    names = {path.name for path in (Path(whole.log_dir) / "images").iterdir()}
    assert len(names) == 2
    picture = whole.hooks["draw_images"].picture(whole.model)
    assert picture.shape == (6 * 10 * 4, 10 * 10 * 4)
    assert picture.dtype == torch.uint8
    assert torch.equal(picture, whole.hooks["draw_images"].picture(whole.model))


def test_a_run_resumed_in_mid_epoch_ends_with_the_same_weights_and_optimizers(whole, tmp_path):
    checkpoint = Path(whole.work_dir) / "iter_12.pth"
    resumed = run(tmp_path, resume=str(checkpoint))
    for key, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[key]), key
    last = [torch.load(Path(r.work_dir) / "iter_18.pth", weights_only=True) for r in (whole, resumed)]
    for name in ("generator", "discriminator"):
        states = [checkpoint["optimizer"][name]["state"] for checkpoint in last]
        assert states[0].keys() == states[1].keys()
        for index in states[0]:
            assert all(torch.equal(states[0][index][k], states[1][index][k]) for k in states[0][index])
    assert last[0]["param_schedulers"] == last[1]["param_schedulers"]


def test_neighbors_of_perfect_and_of_constant_images():
    image, label = torch.eye(6).view(6, 1, 2, 3), torch.arange(6) % 3
    for drawn, expected in ((image, 1.0), (torch.zeros_like(image), 2 / 6)):
        metric = DrawnNeighbors()
        metric.process(None, {"image": image, "drawn": drawn, "label": label[:, None]})
        assert metric.evaluate(6) == {"neighbors": pytest.approx(expected)}
