"""Two ranks do what one process does with the same global batches, and continue what the other began."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from .experiment import SEVERAL_THINGS, assert_close, averaging, curve, experiment, several_hooks, weights
from .launching import torchrun

# What the ranks wait for has deadlines of its own, which name it; those of all of them together are longer.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
DRIVER = Path(__file__).with_name("driver.py")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all runs: of one process, of one that is killed, and of two ranks."""
    folder = tmp_path_factory.mktemp("runs")
    runner = experiment(folder / "alone")
    runner.train()
    alone = {"curve": curve(runner), "weights": weights(runner), "val": curve(runner, "val/error")}
    alone["batches"] = runner.model.batches
    lines = [json.loads(line) for line in Path(runner.log_dir, "metrics.jsonl").read_text().splitlines()]
    alone["logged"] = [line["loss"] for line in lines if "loss" in line]
    hooks = several_hooks()
    several = experiment(folder / "alone_several", global_batch=4, max_epochs=6, hooks=hooks, **SEVERAL_THINGS)
    several.train()
    alone["several"] = {
        "curve": curve(several),
        "val": curve(several, "val/error"),
        "ema": dict(hooks["ema"].ema_model.module.state_dict()),
        "stopped": (several.epoch, several.optim_wrapper.num_optimizer_steps),
    }
    hooks = averaging()
    averaged = experiment(folder / "alone_averaged", hooks=hooks)
    averaged.train()
    alone["averaged"] = {
        "curve": curve(averaged),
        "val": curve(averaged, "val/error"),
        "ema": dict(hooks["ema"].ema_model.module.state_dict()),
        "weights": weights(averaged),
    }
    iters = experiment(folder / "alone_iters", max_iters=14)
    iters.train()
    alone["iters"] = {"curve": curve(iters), "batches": iters.model.batches}
    torch.save(alone, folder / "alone.pt")
    killed = torchrun(str(DRIVER), "kill", str(folder))
    assert killed.returncode == 1, killed.stderr[-3000:]
    assert "SIGKILL" in killed.stderr
    assert (folder / "killed" / "last_checkpoint").read_text().strip().endswith("iter_8.pth")
    done = torchrun(str(DRIVER), "checks", str(folder), num_steps=16)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return folder


def test_every_check_of_the_two_ranks(folder):
    for rank in range(2):
        results = json.loads((folder / f"results{rank}.json").read_text())
        failed = {name: text for name, text in results.items() if text != "ok"}
        assert not failed, f"rank {rank}: " + "\n".join(f"{name}: {text}" for name, text in failed.items())
        assert len(results) == 16


@pytest.mark.parametrize(("begun_by", "name", "done"), [("ddp", "epoch_1.pth", 6), ("fsdp2", "iter_8.pth", 8)])
def test_one_process_continues_what_two_ranks_began(folder, tmp_path, begun_by, name, done):
    alone = torch.load(folder / "alone.pt", weights_only=True)
    runner = experiment(tmp_path, resume=str(folder / begun_by / name))
    runner.train()
    assert runner.model.batches == alone["batches"][done:]
    assert_close(curve(runner), alone["curve"], rtol=1e-5)
    for key, value in alone["weights"].items():
        torch.testing.assert_close(weights(runner)[key], value, rtol=1e-4, atol=1e-6)


def test_one_process_continues_averaging_what_two_ranks_split(folder, tmp_path):
    expected = torch.load(folder / "alone.pt", weights_only=True)["averaged"]
    hooks = averaging()
    runner = experiment(tmp_path, hooks=hooks, resume=str(folder / "fsdp2_ema" / "iter_8.pth"))
    runner.train()
    assert_close(curve(runner, "val/error"), expected["val"], rtol=1e-5)
    for key, value in hooks["ema"].ema_model.module.state_dict().items():
        torch.testing.assert_close(value, expected["ema"][key], rtol=1e-4, atol=1e-6)


def test_one_process_continues_iterations_without_epochs(folder, tmp_path):
    alone = torch.load(folder / "alone.pt", weights_only=True)["iters"]
    runner = experiment(tmp_path, max_iters=14, resume=str(folder / "iters" / "iter_8.pth"))
    runner.train()
    assert runner.model.batches == alone["batches"][8:]
    assert_close(curve(runner), alone["curve"], rtol=1e-5)


def test_one_process_with_half_of_the_global_batch_is_refused(folder, tmp_path):
    runner = experiment(tmp_path, global_batch=4, resume=str(folder / "ddp" / "epoch_1.pth"))
    message = r"global batches of 8 samples.*now 4 \(1 x batch_size=4\).*set the batch_size of the train loader to 8"
    with pytest.raises(RuntimeError, match=message):
        runner.train()


def test_what_belongs_to_each_rank_cannot_be_shared_out_anew(folder, tmp_path):
    runner = experiment(tmp_path, resume=str(folder / "generators" / "epoch_1.pth"))
    with pytest.raises(RuntimeError, match=r"holds the generators of each of 2 ranks.*resume with 2 ranks"):
        runner.train()
