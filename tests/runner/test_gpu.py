"""What only a CUDA device shows of a whole run: nothing waits for it between two log lines."""

import pytest
import torch

from lazyengine.analysis.cost import cost_of
from lazyengine.cli.plan import maker_of
from lazyengine.config import LazyConfig
from lazyengine.hooks import Hook, Priority
from lazyengine.runner import Runner

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
DIGITS = "projects/digits/config.py"
LINE = 10


class NoWaiting(Hook):
    """Makes each wait for the device an error, from behind one log line to the end of the iteration before the next."""

    priority = Priority.HIGHEST

    def __init__(self):
        self.num_watched = 0

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        is_watched = runner.iter >= LINE and (batch_idx + 1) % LINE != 0
        self.num_watched += is_watched
        torch.cuda.set_sync_debug_mode("error" if is_watched else "default")

    def after_train_epoch(self, runner):
        torch.cuda.set_sync_debug_mode("default")

    def close(self):
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("change", ["optimizer.fused=True", "optimizer.foreach=True"])
@pytest.mark.parametrize("nonfinite", ["raise", "ignore"])
def test_nothing_waits_for_the_device_between_lines(change, nonfinite, tmp_path):
    if nonfinite == "raise" and "fused" not in change:
        pytest.skip("an optimizer that no flag can stop has to wait for the check of its gradients")
    overrides = [change, f"runner.optim_wrapper.nonfinite={nonfinite}", "train_loop.max_epochs=1"]
    overrides += ["train_loop.dataloader.pin_memory=True", "runner.device=cuda"]
    runner = Runner.from_cfg(LazyConfig.apply_overrides(LazyConfig.load(DIGITS), overrides), work_dir=str(tmp_path))
    watcher = NoWaiting()
    runner.register_hook(watcher)
    runner.train()
    assert watcher.num_watched > 20


def test_the_planned_peak_is_that_of_the_device(tmp_path):
    changes = ["model.width=256", "train_loop.dataloader.batch_size=512", "train_loop.max_epochs=2"]
    cost = cost_of(maker_of(DIGITS, changes, str(tmp_path / "none")))
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    cfg = LazyConfig.apply_overrides(LazyConfig.load(DIGITS), [*changes, "runner.device=cuda"])
    Runner.from_cfg(cfg, work_dir=str(tmp_path / "run")).train()
    peak = torch.cuda.max_memory_allocated() - before
    planned = max(cost.peak_bytes, cost.val_peak_bytes)
    assert planned == pytest.approx(peak, rel=0.1)  # kernels of convolutions need memory of their own


def test_a_run_says_how_much_of_the_device_it_used(tmp_path):
    overrides = ["train_loop.max_epochs=2", "runner.device=cuda"]
    runner = Runner.from_cfg(LazyConfig.apply_overrides(LazyConfig.load(DIGITS), overrides), work_dir=str(tmp_path))
    runner.train()
    names = [name for name, _ in runner.hooks["timer"].summary()]
    assert names == ["speed", "time by phase", ""]
